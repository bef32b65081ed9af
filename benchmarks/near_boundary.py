"""Which standing examples fall later, and to what: the basis of `near` in the standard protocols.

    python benchmarks/near_boundary.py [--part shares] [--model NAME ...]
    python benchmarks/near_boundary.py --part attacks [--pair MODEL,THREAT ...]

The first attacks of the standard search every example, and leave some share of the clean margin of each that stands.

`shares` compares these shares, with none, one and three targets, with what anything known here breaks: the protocols
with every seed (benchmarks/results/time-to-truth-rows.json), and AutoAttack and Foolbox in their authors' code
(benchmarks/references). A bound on the share is safe where it is above those of all examples that fall later; it saves
the searches of all examples above it.

`attacks` lets each candidate for the second round search the examples with at most a quarter of their margin left.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import torch
from measuring import write_results
from time_to_truth import EXAMPLES, MODELS, RADII, data_of, known_outcomes, norm_of
from truth_rows import together

import robench
from robench.evidence.store import RunFile

CPU = torch.device("cpu")
FIRST = {  # of the standard protocols
    "linf": '{ attack = "pgd", steps = 40, random_start = false }',
    "l2": '{ attack = "ddn", steps = 100 }',
    "l1": '{ attack = "apgd", label = "first", loss = "probability-margin" }',
}
TARGETED = '{{ attack = "apgd", label = "targeted", loss = "margin", targets = {}, target_order = "first-order" }}'
NONE = '{ attack = "square", steps = 1, near = 0.0001 }'  # shares are noted where an attack of near examples follows
STAGES = {"first attack": (), "and 1 target": (1,), "and 3 targets": (3,)}
BOUNDS = (0.1, 0.2, 0.4)

NEAR = 0.25
SECOND = {
    "APGD, cross-entropy, 5 restarts": 'attack = "apgd", restarts = 5',
    "APGD, probability margin, 5 restarts": 'attack = "apgd", loss = "probability-margin", steps = 101, restarts = 5',
    "APGD, margin, 5 restarts": 'attack = "apgd", loss = "margin", restarts = 5',
    "APGD, margin, 1 target, 300 steps, 3 restarts": (
        'attack = "apgd", loss = "margin", steps = 300, targets = 1, target_order = "first-order", restarts = 3'
    ),
    "APGD, DLR, 9 targets": 'attack = "apgd", loss = "dlr", targets = 9, target_order = "first-order"',
    "APGD, DLR, 3 targets": 'attack = "apgd", loss = "dlr", targets = 3, target_order = "first-order"',
    "FAB, 3 targets": 'attack = "fab", targets = 3, target_order = "first-order"',
    "FAB, 1 target": 'attack = "fab", targets = 1, target_order = "first-order"',
    "Brendel-Bethge": 'attack = "brendel-bethge"',
}
PAIRS = (
    "mnist-eat-l1r14,linf:0.3",
    *(f"digits-{name},linf:0.2" for name in ("eat", "adaptive", "sat")),
    *("mnist-adv-max,l2:2", "mnist-adv-max,l1:10", "mnist-eat-l1r14,l1:10"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("shares", "attacks"), default="shares")
    parser.add_argument("--model", action="append", choices=MODELS, help="of shares; default: all")
    parser.add_argument(
        "--pair", action="append", metavar="MODEL,THREAT", help=f"of attacks; default: {' '.join(PAIRS)}"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    given = "".join(f" --model {model}" for model in args.model or ()) if args.part == "shares" else ""
    given += "".join(f" --pair {pair}" for pair in args.pair or ()) if args.part == "attacks" else ""
    note = f"float32, seed 0. Command: python benchmarks/near_boundary.py --part {args.part}{given}"
    norms: set[str] = set()  # of the attacks: a table about one only has its name
    if args.part == "shares":
        pairs = [(model, threat) for model in args.model or MODELS for threat in RADII[data_of(model)]]
        rows = [shares_row(*pair, stage) for pair in pairs for stage in STAGES]
        title, note = "Shares of the clean margin left, and what falls later", f"The first {EXAMPLES} images, {note}"
    else:
        pairs = [tuple(pair.split(",")) for pair in args.pair or PAIRS]
        norms = {norm_of(threat) for _, threat in pairs}
        rows = [row for pair in pairs for row in attack_rows(*pair)]
        title = "What attacks break of the examples near to the boundary"
        note = f"The first {EXAMPLES} images, of mnist-small the first 1,000; {note}"
    suffix = f"-{norms.pop()}" if len(norms) == 1 else ""
    write_results(f"near-boundary-{args.part}{suffix}", title, rows, [note], CPU)


def shares_row(model: str, threat: str, stage: str) -> dict[str, object]:
    """What stands after a stage, how near it came, and what of it falls to anything known."""
    targeted = [TARGETED.format(count) for count in STAGES[stage]]
    with tempfile.TemporaryDirectory() as folder:
        outcomes, left, _ = searched(model, threat, targeted, NONE, Path(folder) / "run.robench")
    standing = {example for example, letter in enumerate(outcomes) if letter == "S"}
    later = sorted((left[example] for example in standing & breakable(model, threat)), reverse=True)
    return {
        "model": model,
        "threat": threat,
        "after the": stage,
        "standing": len(standing),
        **{f"share at most {bound}": sum(left[example] <= bound for example in standing) for bound in BOUNDS},
        "fall later": len(later),
        "with the largest shares": " ".join(f"{share:.2f}" for share in later[:4]),
    }


def attack_rows(model: str, threat: str) -> list[dict[str, object]]:
    """What each candidate breaks after the first attacks, in how many gradients, and the shares of what it breaks."""
    targeted = [TARGETED.format(3)]
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        first, again = Path(folder) / "first.robench", Path(folder) / "again.robench"
        outcomes, left, gradients = searched(model, threat, targeted, NONE, first)
        standing = {example for example, letter in enumerate(outcomes) if letter == "S"}
        near = sum(left[example] <= NEAR for example in standing)
        for name, words in SECOND.items():
            if name.startswith("FAB") and norm_of(threat) == "l1":
                continue
            shutil.copy(first, again)
            after, _, total = searched(model, threat, targeted, f"{{ {words}, near = {NEAR} }}", again)
            broken = sorted((left[example] for example in standing if after[example] == "B"), reverse=True)
            rows.append(
                {
                    "model": model,
                    "threat": threat,
                    "standing": len(standing),
                    "near": near,
                    "attack": name,
                    "breaks": len(broken),
                    "gradients": total - gradients,
                    "of which shares": " ".join(f"{share:.2f}" for share in broken),
                }
            )
    return rows


def searched(model: str, threat: str, second: list[str], last: str, path: Path) -> tuple[str, dict[int, float], int]:
    """The outcomes of the first attack and others, the shares left before the last one, and the gradients of all.

    What the run file at this path holds already is not searched again.
    """
    attacks = ", ".join([FIRST[norm_of(threat)], *second, last])
    examples = 1000 if "small" in model else EXAMPLES
    protocol = path.with_suffix(".toml")
    protocol.write_text(
        f'name = "stage"\ndata = "{data_of(model)}"\nexamples = {examples}\n'
        f'[[threat]]\nthreat = "{threat}"\nattacks = [{attacks}]\n'
    )
    found = robench.evaluate(model, protocol=protocol, run=path, precision="float32", masking="off")
    with RunFile.read(path) as run:
        left = {record.example: record.left for record in run.evidence().nearest}
    return found.union.outcomes, left, found.cost.backwards


def breakable(model: str, threat: str) -> set[int]:
    """The examples that a protocol of this project or a reference breaks with some seed."""
    return {example for example, letter in enumerate(together(known_outcomes(model, threat))) if letter == "B"}


if __name__ == "__main__":
    main()
