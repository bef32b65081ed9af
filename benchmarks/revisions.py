"""Whether two checkouts measure the same, and how their speeds compare.

    git worktree add ../before COMMIT
    python benchmarks/revisions.py ../before

Ten evaluations of bundled models, which together run every attack of robench, are made with both checkouts. Outcomes,
claims and the numbers of forward and backward passes must be equal; the command ends with exit code 1 where they are
not. Then one evaluation is timed in alternated pairs: CPU seconds of one thread, start of the process included.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from measuring import keep

from robench import renames

ROOT = Path(__file__).parents[1]

EVALUATIONS = {
    "standard protocol": "digits-nat --protocol standard-digits --examples 8",
    "quick protocol": "digits-adv-linf --protocol quick --examples 30",
    "minimum norm, l2": "digits-adv-l2 --threat l2:0.5 --attack cw(steps=20) --attack ddn(steps=20)"
    " --attack fmn(steps=20) --attack fab(steps=20) --examples 40",
    "sparse, l1": "digits-adv-l1 --threat l1:2 --attack pgd --attack slide --attack apgd(steps=20) --attack ead(steps=20)"
    " --attack pointwise(steps=20) --attack salt-and-pepper(steps=20) --attack frank-wolfe(steps=20) --examples 20",
    "labels and scores": "digits-adv-linf --threat linf:0.08 --threat l2:0.5 --attack square(steps=100)"
    " --attack hop-skip-jump(steps=3) --examples 10",
    "boundary": "digits-adv-l2 --threat l2:0.5 --attack boundary(steps=50)"
    " --attack brendel-bethge(steps=20) --examples 10",
    "spatial": "digits-adv-rt --threat rt:2px,20deg --attack grid(steps=5)"
    " --attack random-poses(poses=5) --examples 30",
    "affine": "digits-sat --threat affine:linf:0.02+l1:0.2 --attack affine-lp(steps=10) --examples 60",
    "affine, spatial": "digits-sat --threat affine:linf:0.01+rt:1px,10deg --attack affine-rt(steps=10) --examples 60",
    "every attack, masking": "digits-adaptive --protocol quick --examples 10 --every-attack --masking on",
}
TIMED = (
    "digits-adv-linf --threat linf:0.06 --threat l2:0.3 --attack pgd(steps=40,restarts=4) --attack apgd --examples 200"
)


def evaluated(checkout: Path, question: str, folder: str) -> dict[str, Any]:
    """The summary that this checkout prints."""
    command = [sys.executable, "-m", "robench", "evaluate", *question.split(), "--precision", "float32", "--quiet"]
    command += ["--run", str(Path(folder) / f"{len(os.listdir(folder))}.robench"), "--json", "-"]
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    if done.returncode:
        sys.exit(f"{checkout}: {question}: exit code {done.returncode}: {done.stderr}")
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def measured(summary: dict[str, Any]) -> list[object]:
    """What must be equal: outcomes, and by attack its name, claims and passes. Seconds and versions are left out."""
    found: list[object] = [summary["clean"], summary["union"]["outcomes"]]
    for threat in summary["threats"]:
        found += [threat["threat"], threat["outcomes"], threat["curve"], threat["rejected"]]
        for attack in threat["attacks"]:
            counts = [
                attack[key] for key in ("tried", "broken", "standing", "forwards", "backwards", "items", "outcomes")
            ]
            found += [renames.spec(attack["spec"]), *counts]
    return [*found, summary["cost"]["forwards"], summary["cost"]["backwards"]]


def cpu_seconds(checkout: Path) -> float:
    """Of one evaluation."""
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        evaluated(checkout, TIMED, folder)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="another checkout")
    parser.add_argument("--pairs", type=int, default=15, help="timed pairs; 0 leaves the timing out")
    options = parser.parse_args()
    before = options.before.resolve()
    rows: list[dict[str, object]] = []
    differences = 0
    for name, question in EVALUATIONS.items():
        with tempfile.TemporaryDirectory() as old, tempfile.TemporaryDirectory() as new:
            was, now = evaluated(before, question, old), evaluated(ROOT, question, new)
        same = measured(was) == measured(now)
        differences += not same
        rows.append(
            {
                "evaluation": name,
                "outcomes and counts": "equal" if same else "DIFFERENT",
                "forwards": now["cost"]["forwards"],
                "backwards": now["cost"]["backwards"],
            }
        )
        print(rows[-1], file=sys.stderr, flush=True)
    notes = [f"{len(rows) - differences} of {len(rows)} evaluations are equal."]
    ratios = []
    for number in range(options.pairs):
        order = (before, ROOT) if number % 2 else (ROOT, before)
        seconds = {checkout: cpu_seconds(checkout) for checkout in order}
        ratios.append(seconds[ROOT] / seconds[before])
    if ratios:
        low, *_, high = sorted(ratios)
        notes.append(
            f"CPU seconds, this checkout over the other: median {statistics.median(ratios):.3f} of {len(ratios)}"
            f" alternated pairs ({low:.3f} to {high:.3f})."
        )
    keep("revisions", "Two checkouts, the same evaluations", rows, notes, torch.device("cpu"))
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()
