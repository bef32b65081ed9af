"""Whether gradient masking flatters a number: from what broke which example, and from probes. Never a clearance.

`masked` rests on images alone: of the examples that first-order attacks leave, significantly more than one in a
hundred fall to evidence of another kind. Probes alone make a threat `suspect`. docs/masking.md has the rule.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Literal

import msgspec
from scipy.special import betainc

from ...evidence.records import Evidence, Plan
from ..outcomes import answers, breaks, planned_threat
from ..stats.intervals import clopper_pearson

MaskingVerdict = Literal["masked", "suspect", "none-found", "untested"]
WORST_FIRST: Sequence[MaskingVerdict] = ("masked", "suspect", "untested", "none-found")
Kind = Literal["first-order", "scores", "labels", "outside", "remedy", "other"]

FIRST_ORDER = frozenset({"pgd", "apgd", "slide", "frank-wolfe", "fab", "cw", "ead", "ddn", "fmn"})
"""Attacks that follow the model's own gradient from the image or near it."""

OTHER_KINDS: Mapping[str, Kind] = {
    "square": "scores",
    "pointwise": "labels",
    "salt-and-pepper": "labels",
    "boundary": "labels",
    "hop-skip-jump": "labels",
    "brendel-bethge": "outside",
}
"""Attacks that read no gradient, or only that on the far side of the boundary, where they start."""

BY = " by "  # between an attack and the remedy whose gradient it was told
SHARE = 0.01  # of what first-order attacks leave: more than this must fall to evidence of another kind
LEVEL = 0.01  # of the test, over all threats of a run (Holm)
FEWEST = 2  # images; one of one is exactly at SHARE and LEVEL, and accuses nobody
CONTROL = 500  # gradients, of losses that scale does not saturate, that must have failed on an example before it counts
BLIND, GAIN, ZERO = "blind pixels", "gain along the gradient", "gradient exactly 0"  # indicators that choose remedies
BEGUN = "begun"  # a probe of every threat that is to be looked at, written before the first is
SAMPLED, DEPTH = "sampled", "depth"  # probes that say what was looked at
SHOWN = "shown "  # and, before the key of an attack of another kind, that the sample is to be shown to it

ON, DEEP = 1.0, 2.0  # values of BEGUN and DEPTH


class Indicator(msgspec.Struct, frozen=True):
    """One measurement as the panel shows it; suspicious where honest models do not have it."""

    name: str
    value: str
    meaning: str
    suspicious: bool
    next: str = ""  # what to do about it
    whole: bool = False  # of the model, whatever the threat


class Finding(msgspec.Struct, frozen=True):
    """What is known about masking under one threat."""

    verdict: MaskingVerdict
    evidence: tuple[str, ...] = ()
    next: str = ""
    indicators: tuple[Indicator, ...] = ()


@dataclass(frozen=True)
class Contest:
    """The sampled examples that first-order attacks leave, and what became of them under one threat."""

    left: int  # by first-order attacks, of those sampled
    broken: Counter[str]  # to evidence of another kind, by what broke them first, with first-order control
    unsettled: int = 0  # broken by another kind, but first-order attacks have not been tried hard enough
    untried: int = 0  # not yet searched by all that they are to be shown to
    survived: int = 0  # sampled examples that no planned attack has broken
    broken_later: int = 0  # of these, how many anything else has

    @property
    def p(self) -> float:
        """How probably so many fall where no more than SHARE of all do: the exact binomial tail."""
        return _tail(self.broken.total(), self.left, SHARE)

    @property
    def too_weak(self) -> bool:
        """Whether significantly more than SHARE of what the planned attacks spare falls to anything at all."""
        return self.broken_later >= FEWEST and _tail(self.broken_later, self.survived, SHARE) <= LEVEL

    @property
    def convincing(self) -> bool:
        """Whether significantly more than SHARE of what first-order attacks leave falls, were this the only threat."""
        return self.broken.total() >= FEWEST and self.p <= LEVEL

    @property
    def least(self) -> float:
        """The share of what first-order attacks leave that falls at least: the exact one-sided 99 % bound."""
        return clopper_pearson(self.broken.total(), self.left, 0.98)[0]


def kind_of(spec: str) -> Kind:
    """What an attack's finds rest on, by the text that keys its evidence."""
    name, _, rest = spec.partition("(")
    if BY in rest.rpartition(")")[2]:
        return "remedy"
    return "first-order" if name in FIRST_ORDER else OTHER_KINDS.get(name, "other")


def findings(plan: Plan, evidence: Evidence) -> dict[str, Finding]:
    """The verdict on every planned threat. One that nobody has looked at, or not yet, is untested."""
    looked = [t.threat for t in plan.threats if _most(evidence, t.threat, DEPTH)]
    contests = {threat: contest(plan, evidence, threat) for threat in looked}
    significant = {threat for threat in _holm({t: c.p for t, c in contests.items()}) if contests[threat].convincing}
    return {
        t.threat: _finding(plan, evidence, t.threat, contests[t.threat], t.threat in significant)
        if t.threat in contests
        else _unseen(evidence, t.threat)
        for t in plan.threats
    }


def _unseen(evidence: Evidence, threat: str) -> Finding:
    """On a threat that was not looked at, or whose turn had not come when the run was stopped."""
    if not _most(evidence, threat, BEGUN):
        return Finding("untested")
    return Finding("untested", ("the run was stopped before it looked here",), _next("untested", evidence, threat, ()))


def joint(of_threats: Mapping[str, Finding]) -> tuple[MaskingVerdict, tuple[str, ...]]:
    """The worst verdict of all threats, and what is said under them."""
    verdicts = {finding.verdict for finding in of_threats.values()}
    told = tuple(f"{threat}: {sentence}" for threat, f in of_threats.items() for sentence in f.evidence)
    return next((verdict for verdict in WORST_FIRST if verdict in verdicts), "untested"), told


def left_by_gradients(plan: Plan, evidence: Evidence, threat: str) -> list[int]:
    """The planned examples that are right before any attack and that no first-order attack broke, in plan order."""
    correct = answers(evidence)
    broken = {claim.example for claim, _ in breaks(evidence, threat) if kind_of(claim.attack) == "first-order"}
    return [example for example in plan.examples if correct.get(example, False) and example not in broken]


def unsettled(plan: Plan, evidence: Evidence, threat: str) -> list[int]:
    """Those of them that fell to another kind of evidence before first-order attacks were tried hard enough."""
    broken = _broken(evidence, threat)
    controlled = _controlled(evidence, threat)
    return [e for e in left_by_gradients(plan, evidence, threat) if e in broken and e not in controlled]


def contest(plan: Plan, evidence: Evidence, threat: str) -> Contest:
    """Gradient attacks against all others, on the examples that were sampled for it."""
    sampled = {p.example for p in evidence.probes if (p.threat, p.name) == (threat, SAMPLED)}
    broken, controlled = _broken(evidence, threat), _controlled(evidence, threat)
    foreign = {c.example for c, _ in breaks(evidence, threat)} - broken.keys()
    left = [e for e in left_by_gradients(plan, evidence, threat) if e in sampled and e not in foreign]
    tried = _tried(evidence, threat)
    specs = {a.spec for a in planned_threat(plan, threat).attacks}
    by_plan = {c.example for c, _ in breaks(evidence, threat) if c.threat == threat and c.attack in specs}
    survived = sampled & frozenset(plan.examples) - by_plan
    settled = Counter(_name(broken[e]) for e in left if e in broken and e in controlled)
    return Contest(
        left=len(left),
        broken=settled,
        unsettled=sum(e in broken for e in left) - settled.total(),
        untried=sum(e not in broken and e not in tried for e in left),
        survived=len(survived),
        broken_later=len(survived & {c.example for c, _ in breaks(evidence, threat)}),
    )


def _is_another(spec: str) -> bool:
    """Whether it is evidence of another kind than a first-order attack's."""
    return kind_of(spec) in ("scores", "labels", "outside", "remedy")


def _broken(evidence: Evidence, threat: str) -> dict[int, str]:
    """By example, what first broke it of those that are no first-order attacks."""
    first: dict[int, str] = {}
    for claim, _ in breaks(evidence, threat):
        if _is_another(claim.attack):
            first.setdefault(claim.example, claim.attack)
    return first


def _tried(evidence: Evidence, threat: str) -> set[int]:
    """The examples that every attack of another kind has searched or failed on, of those at the greatest depth.

    Runs that do not name them are content with any one.
    """
    over = [(s.example, s.threat, s.attack) for s in evidence.exhausted if s.done]
    over += [(f.example, f.threat, f.attack) for f in evidence.failures]
    tried: dict[int, set[str]] = {}
    for example, under, attack in over:
        if under == threat and _is_another(attack):
            tried.setdefault(example, set()).add(attack)
    shown = {p.name: p.value for p in evidence.probes if p.threat == threat and p.name.startswith(SHOWN)}
    wanted = {name.removeprefix(SHOWN) for name, depth in shown.items() if depth == max(shown.values())}
    return {example for example, attacks in tried.items() if wanted <= attacks}


def _controlled(evidence: Evidence, threat: str) -> set[int]:
    """Examples on which first-order attacks have failed often enough, or could not run at all."""
    exhausted: Counter[int] = Counter()
    for s in evidence.exhausted:
        if s.threat == threat and s.done and kind_of(s.attack) == "first-order" and _is_scale_free(s.attack):
            exhausted[s.example] += s.backwards
    failed = {f.example for f in evidence.failures if f.threat == threat and kind_of(f.attack) == "first-order"}
    return {e for e, gradients in exhausted.items() if gradients >= CONTROL} | {e for e in failed if not exhausted[e]}


def _is_scale_free(spec: str) -> bool:
    """Whether large logits leave it a gradient: it climbs a difference of logits."""
    name = spec.partition("(")[0]
    return name in ("fab", "cw", "ead", "fmn") or "loss='margin'" in spec or "loss='dlr'" in spec


def _name(spec: str) -> str:
    """`square(steps=300)` as square, with the remedy if there was one."""
    name, _, rest = spec.partition("(")
    tail = re.sub(r" (under|over) .*", "", rest.rpartition(")")[2])
    return name + tail


def _most(evidence: Evidence, threat: str, name: str) -> float:
    """The largest value of a probe; 0 where there is none."""
    return max((p.value for p in evidence.probes if (p.threat, p.name) == (threat, name)), default=0.0)


def _holm(p: Mapping[str, float]) -> set[str]:
    """The threats whose hypothesis is rejected. Holm 1979."""
    rejected: set[str] = set()
    for rank, (threat, value) in enumerate(sorted(p.items(), key=lambda pair: pair[1])):
        if value > LEVEL / (len(p) - rank):
            break
        rejected.add(threat)
    return rejected


def _finding(plan: Plan, evidence: Evidence, threat: str, contest: Contest, significant: bool) -> Finding:
    shown = indicators(plan, evidence, threat)
    suspicious = [i for i in shown if i.suspicious]
    told = [_told(contest)]
    if contest.too_weak:
        told.append(
            f"the planned attacks spared {_images(contest.survived)} of which {contest.broken_later} fell later"
        )
    if contest.unsettled:
        told.append(f"{_images(contest.unsettled)} more fell, on which first-order attacks have not been tried enough")
    if contest.untried:
        missing = "not yet searched by every attack of another kind: the same command again goes on"
        told.append(f"{_images(contest.untried)} {missing}")
    told += [f"{i.name}: {i.value}, {i.meaning}" for i in suspicious]
    verdict: MaskingVerdict = "none-found"
    if significant:
        verdict = "masked"
    elif suspicious or contest.too_weak:
        verdict = "suspect"
    elif contest.untried or contest.unsettled:
        verdict = "untested"
    hidden = contest.left or suspicious or contest.too_weak
    advice = _next(verdict, evidence, threat, suspicious) if hidden else ""
    return Finding(verdict, tuple(told), advice, tuple(shown))


def _told(contest: Contest) -> str:
    """The contest as a sentence."""
    fell = contest.broken.total()
    if not contest.left:
        return "first-order attacks leave nothing that masking could hide"
    sentence = f"of {_images(contest.left)} sampled that first-order attacks leave, {fell} fell to other evidence"
    if fell:
        sentence += f" ({', '.join(f'{name} {n}' for name, n in contest.broken.most_common())})"
    if contest.convincing:
        low = math.floor(100 * contest.least)
        return f"{sentence}: p = {contest.p:.1g} that no more than 1 % do; at least {low} % do (99 %)"
    searched = contest.left - contest.untried
    most = math.ceil(100 * clopper_pearson(fell, searched, 0.9)[1])  # one-sided 95 %
    return f"{sentence}; " + (f"a share above {most} % would have shown (95 %)" if most < 100 else "too few to tell")


def _next(verdict: MaskingVerdict, evidence: Evidence, threat: str, suspicious: Sequence[Indicator]) -> str:
    """What to type to learn more. The command is named, not repeated: it says more than a run file keeps."""
    command = "the same robench evaluate command with"
    depth = _most(evidence, threat, DEPTH)
    if verdict == "untested":
        level = "deep" if max(depth, _most(evidence, threat, BEGUN)) >= DEEP else "on"
        return f"{command} --masking {level}, to go on"
    if depth < DEEP:
        return f"{command} --masking deep"
    told = [i.next for i in suspicious if i.next]
    return told[0] if verdict != "none-found" and told else f"{command} --attack 'square(steps=20000)'"


def _images(n: int) -> str:
    return f"{n} image{'' if n == 1 else 's'}"


# The panel


def indicators(plan: Plan, evidence: Evidence, threat: str) -> list[Indicator]:
    """Every measurement under one threat, with what it means; those of the whole model after them."""
    planned = frozenset(plan.examples)
    values: dict[str, list[float]] = {}
    for p in sorted(evidence.probes, key=msgspec.structs.astuple):
        if p.threat == threat and p.example in planned:
            values.setdefault(p.name, []).append(p.value)
    whole = {p.name: p.value for p in evidence.probes if p.threat == "" and p.example < 0}
    per_example = (make(values[name]) for name, make in _PER_EXAMPLE if values.get(name))
    return [*per_example, *(make(whole[name]) for name, make in _WHOLE if name in whole)]


def _more_than(hits: int, n: int, share: float) -> bool:
    """Whether significantly more than a share of all have it: the exact binomial test at LEVEL."""
    return _tail(hits, n, share) <= LEVEL


def _tail(hits: int, n: int, share: float) -> float:
    """The probability of so many hits or more among n: the binomial tail, by the incomplete beta function."""
    return float(betainc(hits, n - hits + 1, share)) if hits else 1.0


def _counted(
    name: str, odd: Callable[[float], bool], usual: float, what: str, sound: str, bad: str, advice: str
) -> Callable[[Sequence[float]], Indicator]:
    """An indicator that is suspicious where significantly more than `usual` of all examples are odd."""

    def make(values: Sequence[float]) -> Indicator:
        hits = sum(map(odd, values))
        suspicious = _more_than(hits, len(values), usual)
        value = f"{what} on {hits} of {len(values)}"
        return Indicator(name, value, bad if suspicious else sound, suspicious, advice if suspicious else "")

    return make


def _leads(values: Sequence[float]) -> Indicator:
    hits = int(sum(values))
    suspicious = clopper_pearson(hits, len(values), 0.98)[1] < 0.5
    often = clopper_pearson(hits, len(values), 0.98)[0] > 0.5
    meaning = "the gradient shows the way" if often else "it shows the way on some"
    meaning = "a step along the gradient gains no more than chance" if suspicious else meaning
    advice = "attack without gradients: --attack square, --attack hop-skip-jump" if suspicious else ""
    return Indicator("gradient beats shuffles", f"{hits} of {len(values)}", meaning, suspicious, advice)


def _slope(values: Sequence[float]) -> Indicator:
    odd = sum(not 0.5 <= value <= 2 for value in values)
    suspicious = _more_than(odd, len(values), 0.25)
    meaning = "differences of the loss contradict its gradient" if suspicious else "differences agree with the gradient"
    advice = "do not trust the backward pass: look for detach, hooks and autograd functions" if suspicious else ""
    value = f"median {median(values):.3g} of what it promises, beyond a factor of 2 on {odd} of {len(values)}"
    return Indicator(GAIN, value, meaning, suspicious, advice)


def _blind(values: Sequence[float]) -> Indicator:
    share = mean(values)
    suspicious = _more_than(sum(value > 0.25 for value in values), len(values), 0.25) and max(values) < 1
    meaning = "few pixels without gradient"
    if suspicious:
        meaning = "pixels without gradient where attacks could move them"
    elif share > 0.25:
        meaning = "nothing to compare with where no pixel has one" if max(values) == 1 else "too few images to tell"
    advice = "attack such pixels without gradients: --attack pointwise under l1" if suspicious else ""
    return Indicator(BLIND, f"{100 * share:.0f} % on average", meaning, suspicious, advice)


def _norm(values: Sequence[float]) -> Indicator:
    return Indicator("gradient norm", f"median {median(values):.3g}", "Euclidean, of the margin", False)


def _flag(name: str, odd: Callable[[float], bool], sound: str, bad: str, advice: str) -> Callable[[float], Indicator]:
    def make(value: float) -> Indicator:
        suspicious = odd(value)
        meaning = bad if suspicious else sound
        return Indicator(name, f"{value:.3g}", meaning, suspicious, advice if suspicious else "", whole=True)

    return make


_PER_EXAMPLE: Sequence[tuple[str, Callable[[Sequence[float]], Indicator]]] = (
    ("zero", _counted(ZERO, lambda v: v > 0, 0.05, "somewhere", "it is there",
                      "there is nothing to climb", "find what stops it: rounding, detach, a cut or a dead unit")),
    ("not finite", _counted("gradient not a number", lambda v: v > 0, 0.05, "somewhere", "it is finite",
                            "attacks lose their way", "look for a root, a logarithm or a division at 0")),
    ("loss zero", _counted("cross-entropy saturated", lambda v: v > 0, 0.05, "gradient 0", "it can be climbed",
                           "attacks on the cross-entropy stand still", "climb the margin: --attack pgd")),
    ("leads", _leads),
    ("slope", _slope),
    ("agrees", _counted("gradient differs between calls", lambda v: v < 0.9, 0.05, "cosine below 0.9", "it repeats",
                        "each call gives another gradient", "average it: a protocol with eot = 20 or more")),
    ("same", _counted("steps change no logit", lambda v: v > 0, 0.25, "a small random step", "the model feels them",
                      "the answer lies on a staircase", "attack by labels: --attack hop-skip-jump")),
    ("blind", _blind),
    ("norm", _norm),
)  # fmt: skip
_WHOLE: Sequence[tuple[str, Callable[[float], Indicator]]] = (
    ("no gradient", _flag("asking for a gradient raises", lambda v: v > 0, "no", "no gradient attack can run",
                          "remove no_grad and detach from the forward pass")),
    ("repeatable", _flag("same images, same logits", lambda v: v < 1, "yes", "the model answers at random",
                         "average over more passes: a protocol with eot = 20 or more")),
    ("alone", _flag("change of a logit, asked alone", lambda v: v > 0.1, "none that matters",
                    "answers depend on the rest of the batch", "put normalisation layers in eval mode")),
    ("training layers", _flag("layers in training mode", lambda v: v > 0, "none",
                              "they compute from the batch, or at random", "make eval() reach them")),
    ("inner gradients", _flag("gradients taken in a forward pass", lambda v: v > 0, "none",
                              "the model optimises before it answers", "attack the model without that step")),
    ("probabilities", _flag("outputs are probabilities", lambda v: v > 0, "no",
                            "a softmax inside: differences vanish where the model is sure", "give logits instead")),
    ("one-hot", _flag("outputs are classes alone", lambda v: v > 0, "no", "there are no scores to climb",
                      "give logits instead")),
    ("log-probabilities", _flag("outputs are log-probabilities", lambda v: False, "harmless", "", "")),
    ("spread", _flag("spread of the logits", lambda v: not 1e-6 < v < 1e3, "of a common size",
                     "so large or small that losses saturate or underflow", "divide the logits by their spread")),
    ("compiled", _flag("compiled or exported", lambda v: False, "if 1, remedies cannot look inside", "", "")),
)  # fmt: skip
