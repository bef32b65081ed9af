"""A run file is held to its images, data, model and protocol. Honest ones hold, forged ones do not.

The model is linear, so what is refutable is known by another road: numpy on the image itself.
"""

import functools
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from robench import protocols
from robench.evaluation.prepared import PreparedEvaluation
from robench.evaluation.request import EvalRequest
from robench.evaluation.verification import min_passes, verify
from robench.evidence.records import Claim, Evidence, Plan, Verdict
from robench.evidence.referee import Referee
from robench.evidence.refutation import NOISE, Facts
from robench.evidence.store import RunFile
from robench.problem import datasets, threats
from robench.problem.classifier import Classifier
from robench.results.outcomes import outcomes

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
