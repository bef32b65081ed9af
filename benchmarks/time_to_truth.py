"""What protocols leave of the bundled models, and in which time, beside AutoAttack in its authors' code.

    python benchmarks/time_to_truth.py --references
    python benchmarks/time_to_truth.py [--protocol NAME ...] [--model NAME ...] [--seeds N] [--timed N] [--pairs N]

`--references` runs AutoAttack once for every model and norm, and keeps slim run files in benchmarks/references; what is
there is not run again. The second command compares outcomes on the same images, ours with several seeds, and the CPU
seconds of one thread that both take for the first images, in alternated pairs.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
from measuring import seconds, write_results

import robench

REFERENCES = Path(__file__).parent / "references"
REFERENCE = "autoattack-reference"
EXAMPLES = 200
RADII = {"digits": ("linf:0.2", "l2:2", "l1:10"), "mnist": ("linf:0.3", "l2:2", "l1:10")}
MODELS = (
    *(f"digits-{name}" for name in ("eat", "adaptive", "sat", "adv-linf", "adv-l2", "adv-l1", "adv-rt", "nat")),
    *(f"mnist-{name}" for name in ("adv-linf", "adv-max", "eat-l1r14")),
)
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--references", action="store_true", help="make the missing runs of AutoAttack")
    parser.add_argument("--model", action="append", choices=MODELS, help="default: all")
    parser.add_argument("--protocol", action="append", help="default: standard")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--timed", type=int, default=50, help="images that are timed; 0 for none")
    parser.add_argument("--pairs", type=int, default=1, help="timings of each pair")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pairs = [(model, threat) for model in args.model or MODELS for threat in RADII[model.partition("-")[0]]]
    if args.references:
        for model, threat in pairs:
            make_reference(model, threat)
        return
    present = [pair for pair in pairs if reference_file(*pair).exists()]
    if not present:
        sys.exit("there is no reference of these models; make it with --references")
    for protocol in args.protocol or ["standard"]:
        rows = [compared(model, threat, protocol, args) for model, threat in present]
        rows.append(summed(rows))
        notes = [
            f"The first {EXAMPLES} test images, float32; {args.seeds} seeds of {protocol}, one of AutoAttack. Seconds"
            f" and gradients are of the first {args.timed} images, medians of {args.pairs} alternated pairs."
            f" Command: {command(args, protocol)}"
        ]
        if missing := len(pairs) - len(present):
            notes.append(f"{missing} of {len(pairs)} pairs have no reference yet.")
        write_results(f"time-to-truth-{protocol}", f"{protocol} and AutoAttack", rows, notes, CPU)


def command(args: argparse.Namespace, protocol: str) -> str:
    """The command that makes one table."""
    models = "".join(f" --model {model}" for model in args.model or ())
    numbers = f" --seeds {args.seeds} --timed {args.timed} --pairs {args.pairs}"
    return f"python benchmarks/time_to_truth.py --protocol {protocol}{models}{numbers}"


def reference_file(model: str, threat: str) -> Path:
    """The committed run of AutoAttack."""
    return REFERENCES / f"{model}-{threat.partition(':')[0]}.robench"


def make_reference(model: str, threat: str) -> None:
    """Runs AutoAttack to the end and keeps its run file, without images, where there is none yet."""
    target = reference_file(model, threat)
    if target.exists():
        return
    REFERENCES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        run, slim = Path(folder) / "run.robench", Path(folder) / "slim.robench"
        summary = evaluated(model, threat, attacks=[REFERENCE], run=run)
        if summary.union.open:
            sys.exit(f"AutoAttack did not end on {model} under {threat}")
        words = [sys.executable, "-m", "robench", "merge", str(run), "--slim", "--out", str(slim)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        shutil.move(slim, target)
    print(f"{target.name}: {summary.union.standing} of {EXAMPLES} stand", file=sys.stderr, flush=True)


def evaluated(
    model: str,
    threat: str,
    *,
    examples: int = EXAMPLES,
    seed: int = 0,
    run: Path | None = None,
    protocol: str | None = None,
    attacks: Sequence[str] = (),
) -> robench.Summary:
    """A new evaluation in float32."""
    return robench.evaluate(
        model,
        threats=[threat],
        protocol=protocol,
        attacks=attacks,
        examples=examples,
        seed=seed,
        run=run,
        precision="float32",
    )


def compared(model: str, threat: str, protocol: str, args: argparse.Namespace) -> dict[str, object]:
    """One pair: what both leave, image by image, and what both take."""
    reference = robench.load_run(reference_file(model, threat))
    ours = [evaluated(model, threat, protocol=protocol, seed=seed) for seed in range(args.seeds)]
    for summary in ours:
        assert summary.data.sha256 == reference.data.sha256, "both are about the same images"
    missed = [one_sided(summary, reference) for summary in ours]
    more = [one_sided(reference, summary) for summary in ours]
    row: dict[str, object] = {
        "model": model,
        "threat": threat,
        "AutoAttack leaves": reference.union.standing,
        f"{protocol} leaves": " ".join(str(summary.union.standing) for summary in ours),
        "only AutoAttack breaks": " ".join(map(str, missed)),
        f"only {protocol} breaks": " ".join(map(str, more)),
    }
    if args.timed:
        row |= timed(model, threat, protocol, args)
    print(row, file=sys.stderr, flush=True)
    return row


def one_sided(standing: robench.Summary, broken: robench.Summary) -> int:
    """The number of examples that stand in the first and are broken in the second."""
    return sum(a == "S" and b == "B" for a, b in zip(standing.union.outcomes, broken.union.outcomes, strict=True))


def timed(model: str, threat: str, protocol: str, args: argparse.Namespace) -> dict[str, object]:
    """CPU seconds and gradients of both on the first images."""
    found: list[robench.Summary] = []
    taken: dict[str, list[float]] = {"ours": [], "reference": []}
    for _ in range(args.pairs):
        ours = seconds(lambda: found.append(evaluated(model, threat, protocol=protocol, examples=args.timed)), CPU)
        theirs = seconds(lambda: found.append(evaluated(model, threat, attacks=[REFERENCE], examples=args.timed)), CPU)
        taken["ours"].append(ours)
        taken["reference"].append(theirs)
    mine, other = median(taken["ours"]), median(taken["reference"])
    return {
        "gradients": found[-2].cost.backwards,
        "AutoAttack's": found[-1].cost.backwards,
        "seconds": mine,
        "AutoAttack's s": other,
        "times faster": other / mine,
    }


def summed(rows: Sequence[dict[str, object]]) -> dict[str, object]:
    """The last line: sums over all pairs, and the ratio of the sums of seconds."""
    total: dict[str, object] = {"model": "sum"}
    for key in rows[0]:
        if key in ("model", "threat", "times faster"):
            continue
        columns = [[float(part) for part in str(row[key]).split()] for row in rows]
        values = [sum(column) for column in zip(*columns, strict=True)]
        total[key] = " ".join(f"{value:g}" for value in values) if len(values) > 1 else values[0]
    if "seconds" in total:
        total["times faster"] = float(str(total["AutoAttack's s"])) / float(str(total["seconds"]))
    return total


if __name__ == "__main__":
    main()
