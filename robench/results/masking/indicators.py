"""Indicators of gradient masking: what each one measures, when it is suspicious, what it means, and what to do then."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, median

import msgspec
from scipy.special import betainc

from ...evidence.records import WHOLE, Evidence, Plan
from ..stats.intervals import clopper_pearson

LEVEL = 0.01  # of every test
FEW = 10  # examples: with fewer, no indicator is conclusive
GAIN_FACTOR = 2.0  # the gain along a right gradient is what it promises up to this factor
MIN_COSINE = 0.7  # the least cosine of gains in random directions with those that a right gradient promises
JUMP = 0.2  # of the gap at the image: scores that leave so much where the class changes say nothing about the way there

Values = Sequence[float]
"""One value for each example; a single one if the measurement concerns the whole model."""


class IndicatorEntry(msgspec.Struct, frozen=True):
    """The reading of one indicator, as the panel shows it."""

    name: str
    value: str
    meaning: str
    suspicious: bool  # honest models do not have it
    next: str = ""  # what to do about it
    whole: bool = False  # about the model, whatever the threat
    conclusive: bool = False  # gradients or scores are absent or of no use: it needs no further evidence


def _never(_: object) -> bool:
    return False


@dataclass(frozen=True)
class Indicator:
    """A diagnostic, from its measurement to the next step."""

    measure: str  # the name of the probe, from masking.diagnostics
    name: str  # in the panel
    value: Callable[[Values], str]
    suspicious: Callable[[Values], bool]  # whether the threshold is exceeded
    meaning: str | Callable[[Values], str]  # of a value that is not suspicious
    alarm: str = ""  # the meaning of a suspicious value
    next: str = ""  # the step after a suspicious value
    source: str = ""  # docs/concepts/masking.md gives the references in full
    whole: bool = False
    conclusive: Callable[[Values], bool] = _never  # whether the value alone shows that gradients mislead

    def read(self, values: Values) -> IndicatorEntry:
        """The reading of at least one value."""
        suspicious = self.suspicious(values)
        usual = self.meaning if isinstance(self.meaning, str) else self.meaning(values)
        meaning = self.alarm if suspicious else usual
        return IndicatorEntry(
            *(self.name, self.value(values), meaning, suspicious, self.next if suspicious else ""),
            whole=self.whole,
            conclusive=suspicious and self.conclusive(values),
        )


@dataclass(frozen=True)
class Share:
    """A threshold: significantly more than `usual`, a share of all examples, are `odd`."""

    odd: Callable[[float], bool]
    usual: float

    def hits(self, values: Values) -> int:
        """The number of odd examples."""
        return sum(map(self.odd, values))

    def __call__(self, values: Values) -> bool:
        return tail(self.hits(values), len(values), self.usual) <= LEVEL

    def count(self, what: str) -> Callable[[Values], str]:
        """The value as text: `what` and on how many examples."""
        return lambda values: f"{what} on {self.hits(values)} of {len(values)}"


@dataclass(frozen=True)
class Majority:
    """A threshold: significantly more than half of all examples are `odd`."""

    odd: Callable[[float], bool]

    def __call__(self, values: Values) -> bool:
        return clopper_pearson(sum(map(self.odd, values)), len(values), 0.98)[0] > 0.5


def tail(hits: int, n: int, share: float) -> float:
    """The probability of `hits` or more among n: the binomial tail, by the incomplete beta function."""
    return float(betainc(hits, n - hits + 1, share)) if hits else 1.0


def read(plan: Plan, evidence: Evidence, threat: str) -> list[IndicatorEntry]:
    """The reading of every measured indicator under one threat; those of the whole model come last."""
    planned = frozenset(plan.examples)
    values: dict[str, list[float]] = {}
    whole: dict[str, list[float]] = {}
    for p in sorted(evidence.probes, key=msgspec.structs.astuple):
        if p.threat == threat and p.example in planned:
            values.setdefault(p.name, []).append(p.value)
        elif not p.threat and p.example == WHOLE:
            whole[p.name] = [p.value]
    measured = ((i, (whole if i.whole else values).get(i.measure)) for i in INDICATORS)
    entries = [indicator.read(found) for indicator, found in measured if found]
    if _misleads(values.get(GAIN.measure, ()), values.get(LEADS, ())):
        entries = [msgspec.structs.replace(e, conclusive=True) if e.name == GAIN.name else e for e in entries]
    return entries


def _misleads(gains: Values, leads: Values) -> bool:
    """Whether differences contradict most gradients, and steps along them are not clearly better than chance either.

    Straight-through layers fail the first test and pass the second.
    """
    if len(gains) < FEW or not leads or not _MOSTLY_CONTRADICTED(gains):
        return False
    return clopper_pearson(int(sum(leads)), len(leads), 0.98)[0] <= 0.5


def _whole(
    measure: str,
    name: str,
    odd: Callable[[float], bool],
    meaning: str,
    alarm: str = "",
    step: str = "",
    source: str = "",
    conclusive: bool = False,
) -> Indicator:
    """An indicator of the whole model, suspicious if its value is odd."""
    return Indicator(
        measure,
        name,
        value=lambda values: f"{values[0]:.3g}",
        suspicious=lambda values: odd(values[0]),
        meaning=meaning,
        alarm=alarm,
        next=step,
        source=source,
        whole=True,
        conclusive=lambda values: conclusive and odd(values[0]),
    )


_ANYWHERE = Share(lambda v: v > 0, 0.05)
_OFTEN = Share(lambda v: v > 0, 0.25)
_TURNED = Share(lambda v: v < 0.9, 0.05)
_JUMPS = Share(lambda v: v > 0.05, 0.25)
_CONTRADICTED = Share(lambda v: not 1 / GAIN_FACTOR <= v <= GAIN_FACTOR, 0.25)
_ASTRAY = Share(lambda v: v < MIN_COSINE, 0.25)
_MOSTLY_CONTRADICTED = Majority(_CONTRADICTED.odd)
LEADS = "leads"  # the measure of how often a step along the gradient beats shuffled ones
_WITHOUT_GRADIENT = Share(lambda v: v > 0.25, 0.25)


def _sufficient(values: Values) -> bool:
    return len(values) >= FEW


def _on_dead_pixels(values: Values) -> str:
    if mean(values) <= 0.25:
        return "few pixels without gradient"
    return "nothing to compare with where no pixel has one" if max(values) == 1 else "too few images to be sure"


def _guides(values: Values) -> str:
    often = clopper_pearson(int(sum(values)), len(values), 0.98)[0] > 0.5
    return "the gradient shows the way" if often else "it shows the way on some"


ZERO = Indicator(
    measure="zero",
    name="gradient exactly 0",
    value=_ANYWHERE.count("somewhere"),
    suspicious=_ANYWHERE,
    meaning="it is there",
    alarm="there is nothing to follow",
    next="find what stops it: rounding, detach, a cut or a dead unit",
    source="Carlini et al. 2019; AutoAttack",
    conclusive=_sufficient,
)
GAIN = Indicator(
    measure="slope",
    name="gain along the gradient",
    value=lambda values: (
        f"median {median(values):.3g} of what it promises, beyond a factor of 2 on"
        f" {_CONTRADICTED.hits(values)} of {len(values)}"
    ),
    suspicious=_CONTRADICTED,
    meaning="differences agree with the gradient",
    alarm="differences of the loss contradict its gradient",
    next="do not trust the backward pass: search it for detach, hooks and autograd functions",
    source="finite differences against autograd",
)
ASIDE = Indicator(
    measure="aside",
    name="gain in random directions",
    value=lambda values: (
        f"median cosine {median(values):.2g} with the gradient, below 0.7 on {_ASTRAY.hits(values)} of {len(values)}"
    ),
    suspicious=_ASTRAY,
    meaning="differences agree with the gradient",
    alarm="the gradient leaves out what moves the model in other directions",
    next="do not trust the backward pass: search it for detach, rounding and parts without a gradient",
    source="finite differences against autograd",
)
MISLED = _whole(
    "misled",
    "gradients mislead over steps of 0.03",
    lambda v: v > 0,
    "no",
    "differences contradict them a little way off, at most images",
    "attack without gradients: --attack square, --attack hop-skip-jump",
    "finite differences against autograd",
)
DEAD_PIXELS = Indicator(
    measure="blind",
    name="pixels without gradient",
    value=lambda values: f"{100 * mean(values):.0f} % on average",
    suspicious=lambda values: _WITHOUT_GRADIENT(values) and max(values) < 1,
    meaning=_on_dead_pixels,
    alarm="pixels without gradient where attacks could move them",
    next="attack such pixels without gradients: --attack pointwise under l1",
    source="Tramèr and Boneh 2019, section 4",
)

INDICATORS: Sequence[Indicator] = (
    ZERO,
    Indicator(
        measure="not finite",
        name="gradient not a number",
        value=_ANYWHERE.count("somewhere"),
        suspicious=_ANYWHERE,
        meaning="it is finite",
        alarm="attacks lose their way",
        next="check for a root, a logarithm or a division at 0",
        source="Adversarial Robustness Toolbox",
        conclusive=_sufficient,
    ),
    Indicator(
        measure="loss zero",
        name="cross-entropy saturated",
        value=_ANYWHERE.count("gradient 0"),
        suspicious=_ANYWHERE,
        meaning="its gradient can be followed",
        alarm="attacks on the cross-entropy stand still",
        next="attack the margin: --attack pgd",
        source="Carlini and Wagner 2017",
        conclusive=_sufficient,
    ),
    Indicator(
        measure=LEADS,
        name="gradient beats shuffles",
        value=lambda values: f"{int(sum(values))} of {len(values)}",
        suspicious=lambda values: clopper_pearson(int(sum(values)), len(values), 0.98)[1] < 0.5,
        meaning=_guides,
        alarm="a step along the gradient gains no more than chance",
        next="attack without gradients: --attack square, --attack hop-skip-jump",
        source="a permutation test of robench",
        conclusive=_sufficient,
    ),
    GAIN,
    ASIDE,
    Indicator(
        measure="agrees",
        name="gradient differs between calls",
        value=_TURNED.count("cosine below 0.9"),
        suspicious=_TURNED,
        meaning="it repeats",
        alarm="each call gives another gradient",
        next="average it: a protocol with eot = 20 or more",
        source="Athalye et al. 2018",
        conclusive=Majority(lambda v: v < 0.9),
    ),
    Indicator(
        measure="same",
        name="steps change no logit",
        value=_OFTEN.count("a small random step"),
        suspicious=_OFTEN,
        meaning="the model feels them",
        alarm="the answer lies on a staircase",
        next="attack by labels: --attack hop-skip-jump",
        source="Athalye et al. 2018",
    ),
    DEAD_PIXELS,
    Indicator(
        measure="jump",
        name="gap where the class changes",
        value=lambda values: f"median {median(values):.2g} of that at the image",
        suspicious=_JUMPS,
        meaning="the two best scores meet there",
        alarm="scores do not show where another class begins",
        next="attack by labels: --attack hop-skip-jump",
        source="a test of robench",
        conclusive=Majority(lambda v: v > JUMP),
    ),
    Indicator(
        measure="norm",
        name="gradient norm",
        value=lambda values: f"median {median(values):.3g}",
        suspicious=_never,
        meaning="Euclidean, of the margin",
    ),
    _whole(
        "no gradient",
        "computing a gradient raises",
        lambda v: v > 0,
        "no",
        "no gradient attack can run",
        "remove no_grad and detach from the forward pass",
        "Pintor et al. 2022",
        conclusive=True,
    ),
    MISLED,
    _whole(
        "repeatable",
        "same images, same logits",
        lambda v: v < 1,
        "yes",
        "the model answers at random",
        "average over more passes: a protocol with eot = 20 or more",
        "AutoAttack",
    ),
    _whole(
        "alone",
        "change of a logit, alone in its batch",
        lambda v: v > 0.1,
        "none that matters",
        "answers depend on the rest of the batch",
        "put normalisation layers in eval mode",
    ),
    _whole(
        "training layers",
        "layers in training mode",
        lambda v: v > 0,
        "none",
        "they compute from the batch, or at random",
        "make eval() reach them",
    ),
    _whole(
        "inner gradients",
        "gradients taken in a forward pass",
        lambda v: v > 0,
        "none",
        "the model optimises before it answers",
        "attack the model without that step",
        "Croce et al. 2022; AutoAttack",
    ),
    _whole(
        "probabilities",
        "outputs are probabilities",
        lambda v: v > 0,
        "no",
        "a softmax inside: differences vanish where the model is sure",
        "give logits instead",
        "AutoAttack",
    ),
    _whole(
        "one-hot",
        "outputs are classes alone",
        lambda v: v > 0,
        "no",
        "there are no scores to increase",
        "give logits instead",
        conclusive=True,
    ),
    _whole("log-probabilities", "outputs are log-probabilities", _never, "harmless"),
    _whole(
        "spread",
        "spread of the logits",
        lambda v: not 1e-6 < v < 1e3,
        "of a common size",
        "so large or small that losses saturate or underflow",
        "divide the logits by their spread",
        "Gupta and Ajanthan 2022",
    ),
    _whole(
        "compiled", "compiled or exported", _never, "if 1, surrogates cannot change its layers unless they can be read"
    ),
    _whole("constant", "same logits for everything", _never, "if 1, nothing can change the answer"),
)
"""All indicators, in the order of the panel."""
