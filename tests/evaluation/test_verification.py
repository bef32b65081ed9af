"""A run file is held to its images, data, model and protocol. Honest ones hold, forged ones do not.

The model is linear, so what is refutable is known by another road: numpy on the image itself.
"""

import functools
import random
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from robench import protocols
from robench.evaluation.planning import as_planned
from robench.evaluation.prepared import PreparedEvaluation
from robench.evaluation.request import EvalRequest
from robench.evaluation.verification import _as_expected, min_passes, verify
from robench.evidence.records import Claim, Evidence, Exhausted, Plan, PlannedAttack, PlannedThreat, Verdict
from robench.evidence.referee import Referee
from robench.evidence.refutation import NOISE, Facts
from robench.evidence.store import RunFile
from robench.problem import datasets, threats
from robench.problem.classifier import Classifier
from robench.results.merging import joint_plan, merge
from robench.results.outcomes import outcomes
from robench.search.attacks import build

EXAMPLES = 16
FORGERIES = 600  # in a usual run of the tests; with -m slow 2,000
SHAPE = (1, 28, 28)


def weights():
    """A linear network that answers the class whose mean image is nearest."""
    train = datasets.load("digits", "train")
    means = torch.stack([train.x[train.y == k].mean(0).flatten() for k in range(10)])
    return means, -means.square().sum(1) / 2


@pytest.fixture(autouse=True)
def read_once(monkeypatch):
    """Protocol files: thousands of forgeries name the same few."""
    monkeypatch.setattr(protocols, "load", functools.cache(protocols.load))


def classifier(name="means"):
    module = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    with torch.no_grad():
        for parameter, value in zip(module[1].parameters(), weights(), strict=True):
            parameter.copy_(value)
    return Classifier(module, name=name, architecture="linear", shape=SHAPE, classes=10)


@dataclass(frozen=True)
class Run:
    """What a run file holds."""

    plan: Plan
    evidence: Evidence
    images: dict[int, np.ndarray] = field(default_factory=dict)

    def but(self, **changes):
        """With other records of some kind."""
        return replace(self, evidence=msgspec.structs.replace(self.evidence, **changes))

    def asking(self, **changes):
        return replace(self, plan=msgspec.structs.replace(self.plan, **changes))

    def faults(self):
        return verify(self.plan, self.evidence, self.images.items(), FACTS).faults


def facts(**changes):
    known = {"model": "means", "data": "digits:test", "min_passes": min_passes}
    return Facts(datasets.load("digits"), classifier(), **{**known, **changes})


FACTS = facts()


def answered(run, examples=range(EXAMPLES), seed=0, asked=None):
    """The records of an evaluation of the first digits under `quick`."""
    split = FACTS.whole.take(examples)
    protocol = asked or protocols.load("quick", "digits")
    request = EvalRequest(precision="float32", seed=seed)
    prepared = PreparedEvaluation.of(request, split, protocol, classifier(), Referee(classifier()))
    evaluation = prepared.evaluation(run)
    evaluation.answer()
    return Run(evaluation.plan, run.evidence(), dict(run.images(SHAPE)))


@functools.cache
def honest():
    """A finished run that also holds a claim that was turned down."""
    with RunFile.in_memory() as run:
        answered(run)
        example, x = 0, FACTS.whole.x[:1]
        (decision,) = Referee(classifier()).judge(threats.parse("l2:2"), x, FACTS.whole.y[:1], x)
        number = run.next_claim()
        claim = Claim(number, example, "l2:2", "pgd(steps=1)", 0, -1, 2, 2)
        verdict = Verdict(
            number, decision.accepted, decision.rejection, decision.reason, decision.size, decision.margin
        )
        assert verdict.rejection == "does not fool"
        with run.writing():
            run.put_judged(claim, verdict, x[0].numpy())
        return answered(run)


def test_an_honest_run_holds():
    found = verify(honest().plan, honest().evidence, honest().images.items(), FACTS)
    assert found.faults == ()
    assert (found.clean, found.images) == (EXAMPLES, len(honest().images))
    kinds = {letter for t in honest().plan.threats for letter in outcomes(honest().plan, honest().evidence, t.threat)}
    assert kinds == set("WBS"), "something of each kind is there to be forged"
    assert len(honest().evidence.claims) > len(honest().images) + 1, "some finds are kept without their image"


# What numpy says of a record


def margin(image, example):
    means, bias = (t.double().numpy() for t in weights())
    logits = means @ image.astype(np.float64).ravel() + bias
    label = int(FACTS.whole.y[example])
    return float(np.delete(logits, label).max() - logits[label])


def size(image, example, threat):
    delta = image.astype(np.float64) - FACTS.whole.x[example].double().numpy()
    norm = {"linf": np.inf, "l2": 2, "l1": 1}[threat.partition(":")[0]]
    return float(np.linalg.norm(delta.ravel(), norm))


def radius(threat):
    """With the rounding of pixels."""
    return float(threat.partition(":")[2]) * (1 + 1e-6)


@functools.cache
def far():
    """A difference of margins that no machine makes."""
    means, bias = weights()
    logits = FACTS.whole.x[:EXAMPLES].flatten(1) @ means.T + bias
    return 3 * NOISE * float(logits.abs().max())


# Forgeries. Each changes something and says whether a recomputation could notice.


def pick(noise, records):
    at = noise.randrange(len(records))
    return at, records[at]


def put(records, at, **changes):
    return (*records[:at], msgspec.structs.replace(records[at], **changes), *records[at + 1 :])


def forged_plan(noise, run):
    plan = run.plan
    at, threat = pick(noise, plan.threats)
    place, attack = pick(noise, threat.attacks)

    def attacks(**changes):
        changed = msgspec.structs.replace(threat, attacks=put(threat.attacks, place, **changes))
        return {"threats": (*plan.threats[:at], changed, *plan.threats[at + 1 :])}

    def model(**changes):
        return {"model": msgspec.structs.replace(plan.model, **changes)}

    bent = list(plan.model.fingerprint)
    bent[noise.randrange(len(bent))] += noise.choice([-1, 1]) * noise.uniform(0.2, 5)
    shuffled = list(plan.examples)
    first = noise.randrange(EXAMPLES - 1)
    shuffled[first : first + 2] = shuffled[first : first + 2][::-1]
    changes = noise.choice(
        [
            model(name=noise.choice(["digits-adv-linf", "mine", "means "])),
            model(weights_sha256=f"{noise.getrandbits(256):064x}"),
            model(architecture="digits-cnn"),
            model(normalisation="0.5/0.5"),
            model(fingerprint=tuple(bent)),
            model(fingerprint=plan.model.fingerprint[:-1]),
            {"data": noise.choice(["mnist:test", "digits:train", "digits"])},
            {"data_sha256": f"{noise.getrandbits(256):064x}"},
            {"examples": tuple(shuffled)},
            {"examples": plan.examples[: noise.randrange(1, EXAMPLES)]},
            {"examples": (*plan.examples, noise.choice([EXAMPLES, 10**6]))},
            {"examples": (plan.examples[0],) * EXAMPLES},
            {
                "protocol": noise.choice(
                    ["standard-mnist", "standard", "quick-mnist", "quick, own threats, own attacks "]
                )
            },
            {"threats": plan.threats[:at] + plan.threats[at + 1 :]},
            {
                "threats": put(
                    plan.threats, at, threat=f"{threat.threat.partition(':')[0]}:{noise.uniform(0.01, 9):.4f}"
                )
            },
            attacks(items=noise.choice([i for i in range(1, 40) if i != attack.items])),
            attacks(label="fab"),
            attacks(spec=attack.spec.replace("steps=", "steps=1")),
            {"passes": noise.choice([2, 100])},
            {"eot": 20},
        ]
    )
    return run.asking(**changes), "own" not in changes.get("protocol", "")


def forged_clean(noise, run):
    at, clean = pick(noise, run.evidence.clean)
    wrong = "f" * 16
    shift = noise.choice([-1, 1]) * noise.uniform(far(), 5)
    changes = noise.choice(
        [
            {"correct": not clean.correct},
            {"tied": not clean.tied},
            {"digest": wrong},
            {"margin": clean.margin + shift},
            {"margin": float("nan")},
            {"margin": float("-inf")},
            None,
        ]
    )
    records = run.evidence.clean
    return run.but(clean=put(records, at, **changes) if changes else records[:at] + records[at + 1 :]), True


def kept_sizes(run):
    """The size of the image that is kept, by example and threat."""
    return {(c.example, c.threat): v.size for c, v in run.evidence.judged() if c.id in run.images}


def forged_verdict(noise, run):
    at, verdict = pick(noise, run.evidence.verdicts)
    claim = next(c for c in run.evidence.claims if c.id == verdict.claim)
    shown = verdict.claim in run.images
    records = run.evidence.verdicts
    kind = noise.choice(["accepted", "turned down", "rejection", "reason", "size", "margin", "passes", "claim", "gone"])
    if kind == "accepted":
        return run.but(verdicts=put(records, at, accepted=not verdict.accepted)), True
    if kind == "turned down":  # with a rejection that fits its numbers, or numbers that fit the rejection
        if not verdict.accepted:
            beyond = radius(claim.threat) * 2
            why = f"lies at {beyond:.6g}, outside {claim.threat}"
            return run.but(verdicts=put(records, at, rejection="outside", reason=why, size=beyond)), False
        gap = noise.choice([verdict.margin, -abs(verdict.margin) - far()])
        forged = {
            "accepted": False,
            "rejection": "does not fool",
            "reason": f"does not fool the model: margin {gap:.3g}",
        }
        # Without an image, whether the numbers contradict each other is all that can be seen.
        return run.but(verdicts=put(records, at, margin=gap, **forged)), shown or gap > 0
    if kind == "rejection":
        other = [r for r in ("", "outside", "outside the box", "does not fool", "not finite") if r != verdict.rejection]
        return run.but(verdicts=put(records, at, rejection=noise.choice(other))), True
    if kind == "reason":
        return run.but(verdicts=put(records, at, reason="because" if not verdict.reason else "")), True
    if kind == "size":
        new = noise.choice([verdict.size * noise.uniform(0, 0.999), verdict.size * noise.uniform(1.001, 9), 1e9, 0.0])
        if not verdict.accepted:
            return run.but(verdicts=put(records, at, size=new)), new > radius(claim.threat) * 1.001
        smaller = new < kept_sizes(run)[claim.example, claim.threat]
        return run.but(verdicts=put(records, at, size=new)), shown or smaller or new > radius(claim.threat) * 1.001
    if kind == "margin":
        new = verdict.margin + noise.choice([-1, 1]) * noise.uniform(far(), 9)
        changed = run.but(verdicts=put(records, at, margin=new))
        if not verdict.accepted:  # its reason quotes the margin in three digits
            return changed, f"{new:.3g}" != f"{verdict.margin:.3g}"
        return changed, shown or new < 0
    if kind == "passes":
        return run.but(verdicts=put(records, at, passes=100)), True
    if kind == "claim":
        return run.but(verdicts=put(records, at, claim=10**6)), True
    return run.but(verdicts=records[:at] + records[at + 1 :]), True


def forged_claim(noise, run):
    at, claim = pick(noise, run.evidence.claims)
    records, shown = run.evidence.claims, claim.id in run.images
    verdict = next(v for v in run.evidence.verdicts if v.claim == claim.id)
    kind = noise.choice(["example", "threat", "target", "label", "forwards", "id", "gone"])
    if kind == "gone":
        return run.but(claims=records[:at] + records[at + 1 :]), True
    if kind == "id":
        return run.but(claims=put(records, at, id=10**6)), True
    if kind == "forwards":
        return run.but(claims=put(records, at, forwards=0)), " under " not in claim.attack and bool(claim.forwards)
    if kind in ("target", "label"):
        target = int(FACTS.whole.y[claim.example]) if kind == "label" else noise.choice([10, 1000])
        return run.but(claims=put(records, at, target=target)), True
    sizes = kept_sizes(run)
    if kind == "example":
        example = noise.choice([e for e in range(EXAMPLES + 3) if e != claim.example])
        threat = claim.threat
    else:
        example = claim.example
        threat = noise.choice([t for t in ("linf:0.2", "l2:2", "l1:10", "linf:0.01", "l2:0.3") if t != claim.threat])
    changed = run.but(claims=put(records, at, example=example, threat=threat))
    if example >= EXAMPLES:
        return changed, True  # nothing else is known of it
    if shown:
        image = run.images[claim.id]
        there = size(image, example, threat)
        is_break = margin(image, example) > 0 and there <= radius(threat)
        differs = abs(there - verdict.size) > 1e-6 * there or abs(margin(image, example) - verdict.margin) > far()
        return changed, not is_break or differs
    if verdict.accepted:
        held = sizes.get((example, threat))
        return changed, held is None or verdict.size < held or verdict.size > radius(threat) * 1.001
    return changed, False


def forged_image(noise, run):
    """Some pixels changed, and the numbers of the verdict as they were."""
    number = noise.choice(list(run.images))
    claim = next(c for c in run.evidence.claims if c.id == number)
    verdict = next(v for v in run.evidence.verdicts if v.claim == number)
    image = run.images[number].copy()
    kind = noise.choice(["pixel", "clean", "outside", "nan", "another", "gone"])
    if kind == "gone":
        return replace(run, images={n: i for n, i in run.images.items() if n != number}), True
    if kind == "pixel":
        i, j = noise.randrange(28), noise.randrange(28)
        image[0, i, j] = 1 - image[0, i, j]
    elif kind == "clean":
        image = FACTS.whole.x[claim.example].numpy()
    elif kind == "outside":
        image[0, 14, 14] = noise.choice([-0.01, 1.01])
    elif kind == "nan":
        image[0, 3, 3] = np.nan
    else:
        image = run.images[noise.choice(list(run.images))]
    there, gap = size(image, claim.example, claim.threat), margin(image, claim.example)
    same = abs(there - verdict.size) <= 1e-6 * there and abs(gap - verdict.margin) <= far()
    holds = image.min() >= 0 and image.max() <= 1 and there <= radius(claim.threat) and gap > 0
    return replace(run, images={**run.images, number: image}), not (same and holds)


def forged_search(noise, run):
    exhausted = [s for s in run.evidence.exhausted if s.done]
    at = run.evidence.exhausted.index(noise.choice(exhausted))
    records = run.evidence.exhausted
    changes = noise.choice([{"forwards": 0}, {"forwards": 1}, {"example": 1000}])
    return run.but(exhausted=put(records, at, **changes)), True


KINDS = (forged_plan, forged_clean, forged_verdict, forged_claim, forged_image, forged_search)


@pytest.mark.costly
@pytest.mark.parametrize("forgeries", [FORGERIES, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_forgery_that_a_recomputation_can_refute_is_refuted(kind, forgeries):
    """So many forgeries over all kinds, each of one record."""
    noise, refutable, missed = random.Random(kind.__name__), 0, []
    for number in range(forgeries // len(KINDS) + 1):
        run, could = kind(noise, honest())
        refutable += could
        if could and not run.faults():
            missed.append(number)
    assert missed == []
    assert refutable > 0.6 * forgeries / len(KINDS), "else this says little"


# Forgeries of several records at once


def test_flipped_verdicts_are_refuted_even_with_matching_forged_searches():
    run = honest()
    gone = [Verdict(v.claim, False, "does not fool", "x", v.size, v.margin) for v in run.evidence.verdicts]
    exhausted = [
        Exhausted(example, t.threat, a.spec, (1 << a.items) - 1, 10**6, 10**6)
        for t in run.plan.threats
        for a in t.attacks
        for example in run.plan.examples
    ]
    faults = run.but(verdicts=tuple(gone), exhausted=tuple(exhausted)).faults()
    assert sum("its image breaks it" in fault for fault in faults) == len(run.images)


def test_a_forged_size_does_not_make_an_image_count_for_a_smaller_radius():
    run = honest()
    small = msgspec.structs.replace(run.plan.threats[1], threat="l2:0.01")
    asked = run.asking(threats=(*run.plan.threats, small), protocol="mine")
    under = {c.id: c.threat for c in run.evidence.claims}
    at = next(i for i, v in enumerate(run.evidence.verdicts) if v.claim in run.images and under[v.claim] == "l2:2")
    forged = asked.but(verdicts=put(run.evidence.verdicts, at, size=0.009))
    assert outcomes(forged.plan, forged.evidence, "l2:0.01").count("B") == 1, "the table believes it"
    (fault,) = forged.faults()
    assert "its image is recorded at 0.009, and lies at" in fault


def test_deleted_clean_predictions_are_missed():
    faults = honest().but(clean=()).faults()
    answers = [f for f in faults if f.endswith("the model's answer before any attack is not on record")]
    assert len(answers) == EXAMPLES


def test_clean_predictions_beyond_the_plan_are_verified_too():
    run = honest().asking(examples=honest().plan.examples[:3], data_sha256=FACTS.whole.take(range(3)).sha256)
    assert run.faults() == ()
    (fault,) = run.but(clean=put(run.evidence.clean, 9, correct=not run.evidence.clean[9].correct)).faults()
    assert fault.startswith("example 9: recorded as ")


# What may differ


def test_unknown_names_are_not_compared():
    run = honest()
    other = run.asking(data="theirs.npz", model=msgspec.structs.replace(run.plan.model, name="theirs"))
    assert len(other.faults()) == 2
    unknown = facts(model=None, data=None)
    assert verify(other.plan, other.evidence, other.images.items(), unknown).faults == ()


def test_logits_may_differ_as_much_as_between_machines():
    run, little = honest(), far() / 10
    clean = [msgspec.structs.replace(c, margin=c.margin + little) for c in run.evidence.clean]
    judged = [msgspec.structs.replace(v, margin=v.margin + little * v.accepted) for v in run.evidence.verdicts]
    assert run.but(clean=tuple(clean), verdicts=tuple(judged)).faults() == ()


@pytest.mark.costly
def test_merged_runs_hold_and_forgeries_in_them_are_found():
    """With other noise, so that finds of equal size meet: many images lie on the surface of an l_inf ball."""
    with RunFile.in_memory() as one, RunFile.in_memory() as other, RunFile.in_memory() as result:
        parts = answered(one, range(10)), answered(other, range(4, 14), seed=1)
        merged = merge([part.evidence for part in parts])
        with result.writing():
            result.adopt(merged.evidence, merged.sources, (one, other))
        plan = joint_plan([part.plan for part in parts], merged.evidence)
        both = Run(plan, result.evidence(), dict(result.images(SHAPE)))
    assert both.plan.protocol == "quick"
    assert both.faults() == ()
    noise = random.Random(0)
    for _ in range(50):
        run, could = forged_verdict(noise, both)
        assert run.faults() or not could


@pytest.mark.parametrize(
    ("threats_named", "attacks_named", "name"),
    [
        (["linf:0.1", "rt:3px,30deg"], [], "quick, own threats"),
        ([], ["pgd(steps=2)"], "quick, own attacks"),
        (["l2:1"], ["pgd(steps=2, restarts=2)"], "quick, own threats, own attacks"),
    ],
)
def test_a_protocol_whose_threats_or_attacks_were_replaced_is_compared_as_far_as_it_is_known(
    threats_named, attacks_named, name
):
    asked = protocols.load("quick", "digits")
    asked = asked.with_threats(threats_named, bare=bool(attacks_named)) if threats_named else asked
    asked = asked.with_attacks(attacks_named) if attacks_named else asked
    with RunFile.in_memory() as file:
        run = answered(file, range(3), asked=asked)
    assert run.plan.protocol == name
    assert run.faults() == ()
    if not attacks_named:
        short = msgspec.structs.replace(run.plan.threats[0], attacks=run.plan.threats[0].attacks[:1])
        faults = run.asking(threats=(short, *run.plan.threats[1:])).faults()
        assert "are not those of this robench's protocol quick, own threats" in faults[0]
    if not threats_named:
        assert run.asking(threats=run.plan.threats[:1]).faults()


def test_a_users_own_protocol_is_not_compared():
    run = honest()
    other = run.asking(threats=run.plan.threats[:1], protocol="mine")
    assert other.faults() == ()


@pytest.mark.parametrize(
    ("protocol", "threats_left", "holds"),
    [
        ("quick + quick, own threats", 3, True),
        ("quick + mine", 3, True),
        ("quick + mine", 2, False),  # the plan lacks what quick asks
        ("quick + standard-mnist", 3, False),
    ],
)
def test_a_merged_plan_holds_every_protocol_that_it_names(protocol, threats_left, holds):
    run = honest()
    other = run.asking(protocol=protocol, threats=run.plan.threats[:threats_left])
    assert (other.faults() == ()) is holds


@pytest.mark.parametrize("protocol", ["quick", "quick + quick"])
def test_a_plan_with_more_than_its_protocol_is_refuted(protocol):
    run = honest()
    more = msgspec.structs.replace(run.plan.threats[0], threat="linf:0.1")
    assert run.asking(protocol=protocol, threats=run.plan.threats).faults() == ()
    assert run.asking(protocol=protocol, threats=(*run.plan.threats, more)).faults()
    first, *others = run.plan.threats[0].attacks
    longer = msgspec.structs.replace(run.plan.threats[0], attacks=(put((first,), 0, items=50)[0], *others))
    assert run.asking(protocol=protocol, threats=(longer, *run.plan.threats[1:])).faults()


@pytest.mark.parametrize("text", ["linf:1/5", "linf:0.20", "theirs:3", "linf:1e999999999"])
def test_a_planned_threat_in_another_spelling_is_refuted(text):
    run = honest()
    other = run.asking(threats=put(run.plan.threats, 0, threat=text), protocol="mine")
    (fault,) = other.faults()
    assert fault == f"the plan: {text} is no threat model of this robench"


def test_an_impossible_number_of_searches_is_refuted():
    run = honest()
    targeted = PlannedAttack("apgd-t", build("apgd", {"loss": "dlr", "targets": 9}).spec, 18)
    threat = msgspec.structs.replace(run.plan.threats[0], attacks=(targeted,))
    asked = run.asking(threats=(threat,), protocol="mine")
    assert asked.faults() == ()
    few = msgspec.structs.replace(threat, attacks=put((targeted,), 0, items=5))
    (fault,) = asked.asking(threats=(few,)).faults()
    assert fault == "the plan: apgd-t under linf:0.2 makes 5 searches, which is no multiple of 9"


class Noisy(nn.Module):
    """Answers at random."""

    def __init__(self):
        super().__init__()
        self.inner = classifier().module

    def forward(self, x):
        return self.inner(x) + 0.1 * torch.randn(len(x), 10)


def test_a_single_pass_over_a_stochastic_model_is_refuted():
    noisy = Classifier(Noisy(), name="means", architecture="linear", shape=SHAPE, classes=10)
    run = honest()
    identity = noisy.identity()
    model = msgspec.structs.replace(
        run.plan.model, weights_sha256=identity.weights_sha256, fingerprint=identity.fingerprint
    )
    found = verify(run.asking(model=model).plan, run.evidence, run.images.items(), Facts(FACTS.whole, noisy))
    assert any("answers at random" in fault for fault in found.faults)


@pytest.mark.parametrize(
    ("attacks", "true"),
    [
        (["pointwise"], True),
        (["sigma-zero(steps=100)", "sigma-zero(steps=1000)", "pointwise"], True),
        (["sigma-zero"], False),
        (["pointwise(steps=3)"], False),
    ],
)
def test_under_l0_the_former_and_the_present_attacks_are_those_of_a_protocol_without_its_own(attacks, true):
    chosen = protocols.load("quick", "").with_threats(["l0:3"])
    (choice,) = chosen.threats
    others = chosen.with_attacks(attacks).threats[0]
    planned = as_planned(others, 10)
    assert (_as_expected(choice, {"l0:3": planned}, 10, eot=1) == planned) is true


CHANGED = sorted({path.name.split(".")[0] for path in (protocols.HERE / "former").glob("*.toml")})


@pytest.mark.costly
@pytest.mark.parametrize("name", CHANGED)
def test_a_plan_of_a_protocol_before_it_was_changed_is_true(name):
    run = honest()
    versions = [*protocols.former(name), protocols.load(name, "")]
    other = "standard-cifar10" if name == "quick-mnist" else "quick-mnist"
    assert {version.name for version in versions} == {name}
    plans = [tuple(as_planned(choice, 10) for choice in version.threats) for version in versions]
    assert len(set(plans)) == len(plans) > 1
    for planned in plans:
        assert run.asking(protocol=name, threats=planned).faults() == ()
        assert run.asking(protocol=f"{name} + {other}", threats=planned).faults()


@pytest.mark.parametrize("name", ["standard-digits", "standard-mnist", "standard-cifar10"])
def test_a_plan_that_mixes_versions_of_a_protocol_is_false(name):
    run = honest()
    versions = [*protocols.former(name), protocols.load(name, "")]
    plans = [tuple(as_planned(choice, 10) for choice in version.threats) for version in versions]
    unlike = {plan[0]: plan for plan in plans}  # a version that changed only later threats is no other in the first
    first, *_, last, present = unlike.values()
    assert present == plans[-1]
    for mixed in ((first[0], *present[1:]), (first[0], *last[1:]), (last[0], *present[1:])):
        assert run.asking(protocol=name, threats=mixed).faults()


def test_an_image_counts_in_a_larger_set_of_its_kind_and_in_no_other():
    whole = f"patch:{SHAPE[1]}px"  # which contains every image
    for text, reported in (("linf:0.9", False), (whole, True)):
        planned = PlannedThreat(text, honest().plan.threats[0].attacks)
        faults = honest().asking(threats=(*honest().plan.threats, planned)).faults()
        uncounted = [fault for fault in faults if f"lies in {text} too, where it is not counted" in fault]
        assert any("its image under linf:" in fault for fault in uncounted) is reported
