"""Gradient masking: what `--masking` says of models that mask and of honest ones, and how far remedies bring them down.

    python benchmarks/masking.py [--examples N] [--deep] [--only NAME ...]

Every mask of `robench.testing.masked` round `digits-adv-linf`, and honest models, under the threats they were trained
for. A wrapper that keeps every prediction is exactly as robust as the model inside; how robust the others are nobody
knows. `off`, `on` and `deep` are asked in turn of one run, so each begins with what the one before has found.
"""

import argparse
import copy
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from measuring import keep
from torch import Tensor, nn

import robench
from robench import scrutiny
from robench.problem import checkpoints, datasets
from robench.results.summary import Summary
from robench.testing.masked import MASKED, masked

BASE, THREAT = "digits-adv-linf", "linf:0.2"
HONEST = {
    "digits-nat": ("linf:0.02", "l2:0.5"),
    "digits-adv-linf": (THREAT,),
    "digits-adv-l2": ("l2:2",),
    "digits-adv-l1": ("l1:10",),
    "digits-sat": (THREAT, "l2:2", "l1:10"),
}
Row = dict[str, object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=50)
    parser.add_argument(
        "--deep", action="store_true", help="look deep as well, at masks that answer the same each time"
    )
    parser.add_argument("--only", nargs="*", default=[], help="these models")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    scrutiny.LEAST = float("inf")  # what is found must not depend on how busy the machine is; what it took, is told
    rows: list[Row] = []
    for name, kind, module, threats in _models():
        if not asked.only or name in asked.only:
            for row in _asked(name, kind, module, threats, asked.examples, asked.deep):
                rows.append(row)
                print(row, flush=True)
    deep = " --deep" if asked.deep else ""
    only = f" --only {' '.join(asked.only)}" if asked.only else ""
    notes = [
        *_confusion(rows),
        "",
        "Accuracy in percent of the examples, under the protocol quick with that threat. Held out: masks chosen by a"
        " hash of the name, and not looked at while thresholds were set. Seconds are what looking took, beside the"
        " attacks, without the limit in time that `on` has.",
        f"Command: python benchmarks/masking.py --examples {asked.examples}{deep}{only}",
    ]
    keep("masking-digits", "Gradient masking: a zoo and honest models", rows, notes, torch.device("cpu"))


def _models() -> Iterator[tuple[str, str, nn.Module, tuple[str, ...]]]:
    for name, threats in HONEST.items():
        yield name, "honest", loaded(name), threats
    yield "linear", "honest", _linear(0.0), ("linf:0.05", "l2:0.5")
    yield "linear, small weights", "honest", _linear(0.05), (THREAT, "l2:2")
    for name, mask in MASKED.items():
        kind = f"{'keeps' if mask.keeps else 'changes'} predictions{', held out' if mask.held_out else ''}"
        yield name, kind, masked(name, loaded(BASE)), (THREAT,)


def loaded(name: str) -> nn.Module:
    """A bundled model."""
    return copy.deepcopy(checkpoints.load(name).classifier.module)


def _linear(decay: float) -> nn.Module:
    """Multinomial regression; weight decay makes its Lipschitz constant small."""
    torch.manual_seed(0)
    split = datasets.load("digits:train")
    net = nn.Sequential(nn.Flatten(), nn.Linear(split.x[0].numel(), split.classes))
    sgd = torch.optim.Adam(net.parameters(), lr=1e-2, weight_decay=decay)
    for _ in range(300):
        loss: Tensor = F.cross_entropy(net(split.x), split.y)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    return net


def _asked(
    name: str, kind: str, module: nn.Module, threats: tuple[str, ...], examples: int, deep: bool
) -> Iterator[Row]:
    told: dict[str, tuple[Summary, float]] = {}
    if name in ("noise", "dropped", "shifted"):  # every answer takes 20 passes, every claim 100
        deep, examples = False, max(1, examples // 5)
    deep = deep and kind != "honest"
    with tempfile.TemporaryDirectory() as folder:
        for level in ("off", "on", *(["deep"] if deep else [])):
            begun = time.process_time()
            about = {"threats": threats, "examples": examples, "run": Path(folder) / "run.robench"}
            summary = robench.evaluate(module, "digits", "quick", masking=level, **about)
            told[level] = summary, time.process_time() - begun
    for place, threat in enumerate(threats):
        row: Row = {"model": name, "kind": kind, "threat": threat, "of": examples, "verdict": ""}
        for level, (summary, seconds) in told.items():
            entry = summary.threats[place]
            row[level] = f"{'≤ ' if entry.open else ''}{100 * entry.accuracy:.1f}"
            row["verdict"] = entry.masking.verdict if level == "on" else row["verdict"]
            if level != "off":
                row[f"seconds, {level}"] = round(seconds, 1)
        yield row


def _confusion(rows: list[Row]) -> Iterator[str]:
    yield "| | masked | suspect | none-found | untested |"
    yield "|:--|--:|--:|--:|--:|"
    for kind in dict.fromkeys(str(row["kind"]) for row in rows):
        verdicts = [row["verdict"] for row in rows if row["kind"] == kind]
        counts = [str(verdicts.count(v)) for v in ("masked", "suspect", "none-found", "untested")]
        yield f"| {kind} | {' | '.join(counts)} |"


if __name__ == "__main__":
    main()
