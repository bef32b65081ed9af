"""How many standing examples of honest runs another search breaks: the basis of `evaluation.acceptance.HONEST`.

    python benchmarks/standing.py 60 reports/runs/digits-*.robench

For each run N of its standing examples are searched again by its own attacks with another seed, as
`robench leaderboard --submissions` does with submitted models. The models are those of the zoo.
"""

import argparse
from pathlib import Path

import torch
from measuring import write_results

from robench.evaluation.acceptance import HONEST, acceptable
from robench.evaluation.model_source import CheckpointSource
from robench.evaluation.progress import Silence
from robench.evaluation.recorded import planned_examples, recorded_plan
from robench.evaluation.spot_check import SpotCheck, spot_check
from robench.evidence.referee import Referee
from robench.evidence.store import RunFile
from robench.problem import datasets
from robench.results.stats.intervals import clopper_pearson


def searched(path: Path, n: int, seed: int) -> tuple[str, str, SpotCheck]:
    """Model, protocol, and what the search found."""
    with RunFile.read(path) as run:
        plan, evidence = recorded_plan(run), run.evidence()
    whole = datasets.load(plan.data)
    split = planned_examples(path, plan, whole)
    source = CheckpointSource(plan.model.name)
    classifier, referee = source.load(split).classifier, Referee(source.load(split).classifier, plan.passes)
    found = spot_check(plan, evidence, whole, classifier, referee, n=n, seed=seed, progress=Silence())
    return plan.model.name, plan.protocol, found


def main() -> None:
    """Prints a row for each run, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("n", type=int)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--seed", type=int, default=12345)
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    total = broken = 0
    for path in options.runs:
        model, protocol, found = searched(path, options.n, options.seed)
        row = {"model": model, "protocol": protocol, "standing": found.standing}
        rows.append({**row, "searched again": found.searched, "broken": found.examples_broken})
        total, broken = total + found.searched, broken + found.examples_broken
    low, high = (100 * end for end in clopper_pearson(broken, total))
    notes = [
        f"In all {broken} of {total}, {100 * broken / total:.2f} % (95 %: {low:.2f} to {high:.2f} %). Of an honest run"
        f" {100 * HONEST:g} % are assumed, so at most {acceptable(20)} of 20 or {acceptable(50)} of 50 may be broken."
    ]
    data = "mnist" if "mnist" in options.runs[0].name else "digits"
    title = "How many standing examples of honest runs another search breaks"
    write_results(f"standing-{data}", title, rows, notes, torch.device("cpu"))


if __name__ == "__main__":
    main()
