"""What each idea of the standard protocols is worth: alone, and left out.

    python benchmarks/ablation.py [--model NAME] [--threat NAME:RADIUS ...] [--examples N] [--runs FOLDER]

Every attack runs on every correct example, which tells for each what it breaks and in how many gradients. A search is
the same whatever ran before it, so any order of attacks can be computed from that: each example pays for the attacks up
to the one that breaks it. Run files are kept in --runs, and continued there.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from measuring import write_results
from time_to_truth import RADII, data_of

import robench
from robench.evidence.records import Evidence, Plan
from robench.evidence.store import RunFile
from robench.results.outcomes import answers

CPU = torch.device("cpu")
FIRST_ORDER = "target_order='first-order'"
ATTACKS = {
    "PGD, margin, 40 steps from the image": "pgd(steps=40, random_start=False)",
    "PGD, probability margin, cosine": "pgd(loss='probability-margin', schedule='cosine', steps=100)",
    "APGD, cross-entropy": "apgd()",
    "APGD, probability margin": "apgd(loss='probability-margin')",
    "APGD, margin, 3 targets, first-order": f"apgd(loss='margin', targets=3, {FIRST_ORDER})",
    "APGD, margin, 3 targets, by logits": "apgd(loss='margin', targets=3)",
    "APGD, DLR, 3 targets, first-order": f"apgd(loss='dlr', targets=3, {FIRST_ORDER})",
    "APGD, DLR, 9 targets, by logits": "apgd(loss='dlr', targets=9)",
    "DDN, 100 steps": "ddn(steps=100)",
    "FAB, 3 targets, first-order": f"fab(targets=3, {FIRST_ORDER})",
    "Brendel-Bethge": "brendel-bethge()",
}
COSINE, ASCENT, DDN = "PGD, probability margin, cosine", "APGD, probability margin", "DDN, 100 steps"
NEAREST, LIKELIEST = "APGD, margin, 3 targets, first-order", "APGD, margin, 3 targets, by logits"
DLR, OUTSIDE, FAB = "APGD, DLR, 3 targets, first-order", "Brendel-Bethge", "FAB, 3 targets, first-order"
CROSS_ENTROPY, FORMER = "APGD, cross-entropy", "APGD, DLR, 9 targets, by logits"
PLAIN = "PGD, margin, 40 steps from the image"
FIRST_ROUND = {"linf": (PLAIN, NEAREST), "l2": (DDN, NEAREST), "l1": (ASCENT, NEAREST)}


@dataclass(frozen=True)
class Search:
    """All searches of one attack on one example."""

    breaks: bool
    gradients: int


Outcomes = Mapping[str, Mapping[int, Search]]
"""By attack and example."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="digits-eat")
    parser.add_argument("--threat", action="append")
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--runs", type=Path, help="default: a temporary folder")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    with TemporaryDirectory() as folder:
        for threat in args.threat or RADII[data_of(args.model)]:
            correct, outcomes = measured(args.model, threat, args.examples, args.runs or Path(folder))
            rows += alone(threat, correct, outcomes) + in_order(threat, correct, outcomes)
    threats = "".join(f" --threat {threat}" for threat in args.threat or ())
    command = f"python benchmarks/ablation.py --model {args.model}{threats} --examples {args.examples}"
    note = (
        f"{args.model}, the first {args.examples} images, float32, seed 0. Gradients are of all correct examples; an"
        f" attack on an example ends when it breaks it. Command: {command}"
    )
    write_results(f"ablation-{args.model}", "What each idea of the standard protocols is worth", rows, [note], CPU)


def measured(model: str, threat: str, examples: int, folder: Path) -> tuple[set[int], Outcomes]:
    """The correct examples, and what every attack does on each."""
    norm = threat.partition(":")[0]
    attacks = {name: spec for name, spec in ATTACKS.items() if norm == "l2" or name != DDN}
    path = folder / f"{model}-{norm}.robench"
    robench.evaluate(
        model,
        threats=[threat],
        attacks=list(attacks.values()),
        examples=examples,
        every_attack=True,
        run=path,
        precision="float32",
    )
    with RunFile.read(path) as run:
        plan, evidence = run.plan(), run.evidence()
    assert plan is not None, "a finished run has a plan"
    correct = {example for example, right in answers(evidence).items() if right}
    return correct, outcomes_of(plan, evidence, list(attacks))


def outcomes_of(plan: Plan, evidence: Evidence, names: Sequence[str]) -> Outcomes:
    """What every planned attack did, under the given names in the order of the plan."""
    broken = {claim.id for claim, verdict in evidence.judged() if verdict.accepted}
    found: dict[str, dict[int, Search]] = {}
    for name, attack in zip(names, plan.threats[0].attacks, strict=True):
        gradients: dict[int, int] = {}
        for record in (*evidence.claims, *evidence.exhausted):
            if record.attack == attack.spec:
                gradients[record.example] = gradients.get(record.example, 0) + record.backwards
        breaks = {claim.example for claim in evidence.claims if claim.attack == attack.spec and claim.id in broken}
        found[name] = {example: Search(example in breaks, cost) for example, cost in gradients.items()}
    return found


def alone(threat: str, correct: set[int], outcomes: Outcomes) -> list[dict[str, object]]:
    """A row for each attack by itself."""
    return [row(threat, f"alone: {name}", correct, outcomes, [name]) for name in outcomes]


def in_order(threat: str, correct: set[int], outcomes: Outcomes) -> list[dict[str, object]]:
    """Rows for the first round of the standard, with parts of it left out or replaced."""
    first = FIRST_ROUND[threat.partition(":")[0]]
    orders = {"first round: " + "; ".join(first): list(first)}
    orders |= {f"without {name}": [other for other in first if other != name] for name in first}
    for old, new in ((first[0], CROSS_ENTROPY), (first[0], COSINE), (NEAREST, LIKELIEST), (NEAREST, DLR)):
        if old != new:
            orders[f"{new} for {old}"] = [new if name == old else name for name in first]
    at = first.index(NEAREST)
    orders["targets first"] = [NEAREST, *first[:at], *first[at + 1 :]]
    for more in (OUTSIDE, FAB, COSINE):
        if more not in first:
            orders[f"{more} on all, after it"] = [*first, more]
            orders[f"{more} on all, before the targets"] = [*first[:at], more, *first[at:]]
    orders["former: PGD from the image, APGD on cross-entropy, 9 targets"] = [PLAIN, CROSS_ENTROPY, FORMER]
    return [row(threat, name, correct, outcomes, order) for name, order in orders.items()]


def row(threat: str, name: str, correct: set[int], outcomes: Outcomes, order: Sequence[str]) -> dict[str, object]:
    """What some attacks leave in this order, and what they cost."""
    left, gradients = set(correct), 0
    for attack in order:
        searches = {example: outcomes[attack][example] for example in left}
        gradients += sum(search.gradients for search in searches.values())
        left -= {example for example, search in searches.items() if search.breaks}
    on_standing = sum(outcomes[attack][example].gradients for attack in order for example in left)
    broken = len(correct) - len(left)
    return {
        "threat": threat,
        "attacks": name,
        "left": len(left),
        "gradients": gradients,
        "per broken example": round(gradients / broken) if broken else "",
        "on each standing": round(on_standing / len(left)) if left else "",
        "on each broken": round((gradients - on_standing) / broken) if broken else "",
    }


if __name__ == "__main__":
    main()
