"""The outcomes of the same evaluations on two devices, image by image.

    robench evaluate MODEL --protocol standard --examples 200 --precision float32 --device cpu --run cpu/MODEL.robench
    robench evaluate MODEL --protocol standard --examples 200 --precision float32 --device cuda --run gpu/MODEL.robench
    python benchmarks/devices.py cpu gpu [--name NAME]

The folders hold run files of equal names. Searches follow other paths on another device, because sums are rounded in
another order. So outcomes may differ where few searches succeed, but not more often one way than the other: the last
column has the p-value of an exact sign test over all pairs.
"""

import argparse
import sys
from pathlib import Path

import torch
from measuring import write_results
from scipy.stats import binomtest

import robench
from robench.results.summary import Summary

Row = dict[str, object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs=2, type=Path)
    parser.add_argument("--name", default="devices", help="of the result")
    args = parser.parse_args()
    one, other = args.folders
    names = sorted(path.name for path in one.glob("*.robench") if (other / path.name).exists())
    if not names:
        sys.exit(f"{one} and {other} hold no run files of equal names")
    pairs = [(robench.load_run(one / name), robench.load_run(other / name)) for name in names]
    rows = [row for pair in pairs for row in compared(*pair)]
    rows.append(summed(rows))
    notes = [
        f"Outcomes on {pairs[0][0].environment['device']} (first) and {pairs[0][1].environment['device']} (second),"
        f" with torch {pairs[0][0].environment['torch']} and {pairs[0][1].environment['torch']}.",
        "Commands: in benchmarks/devices.py.",
    ]
    write_results(args.name, "The same evaluations on two devices", rows, notes, torch.device("cpu"))


def compared(one: Summary, other: Summary) -> list[Row]:
    """A row for each threat of two runs of one model."""
    if (one.model.weights_sha256, one.data) != (other.model.weights_sha256, other.data):
        sys.exit(f"{one.model.name} and {other.model.name} are not the same model on the same data")
    return [
        row_of(one.model.name, first.threat, first.outcomes, second.outcomes)
        for first, second in zip(one.threats, other.threats, strict=True)
    ]


def row_of(model: str, threat: str, first: str, second: str) -> Row:
    """The counts of one threat, and the examples on which the outcomes differ."""
    by_first = [i for i, pair in enumerate(zip(first, second, strict=True)) if pair == ("B", "S")]
    by_second = [i for i, pair in enumerate(zip(first, second, strict=True)) if pair == ("S", "B")]
    return {
        "model": model,
        "threat": threat,
        "first leaves": first.count("S"),
        "second leaves": second.count("S"),
        "only the first breaks": listed(by_first),
        "only the second breaks": listed(by_second),
        "open": first.count("O") + second.count("O"),
    }


def listed(examples: list[int]) -> str:
    """Example numbers, or a dash."""
    return " ".join(map(str, examples)) or "-"


def summed(rows: list[Row]) -> Row:
    """Sums of the counts, and the sign test."""
    total: Row = {"model": "sum"}
    for key in ("first leaves", "second leaves", "open"):
        total[key] = sum(int(str(row[key])) for row in rows)
    for key in ("only the first breaks", "only the second breaks"):
        total[key] = sum(0 if row[key] == "-" else len(str(row[key]).split()) for row in rows)
    ones, others = int(str(total["only the first breaks"])), int(str(total["only the second breaks"]))
    total["p"] = binomtest(ones, ones + others).pvalue if ones + others else 1.0
    return total


if __name__ == "__main__":
    main()
