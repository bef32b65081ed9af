"""Whether searching in low precision changes an outcome.

    python benchmarks/precision.py [--model NAME] [--examples N] [--precision bfloat16]

The same attack on the same examples in float32 and in the lower precision, on four forms of one network: unchanged
(honest), traced by TorchScript, with its logits times 10,000 (saturated: cross-entropy is exactly 0 in float32), and
with its logits divided by 10,000 (flat: gradients are tiny). An outcome that differs is listed with the margin of the
adversarial image: near 0 it is float noise at the boundary, far from 0 the search in low precision is worse.
"""

import argparse
import copy

import torch
from measuring import seconds, traced, write_results
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from robench.evaluation.environment import pick_device
from robench.evaluation.prepared import SLOTS
from robench.evidence.referee import Referee
from robench.problem import datasets
from robench.problem.checkpoints import load
from robench.problem.classifier import Classifier
from robench.problem.losses import margin, misclassified
from robench.problem.split import Split
from robench.problem.threats import ThreatModel, parse
from robench.search.attack import AnyAttack
from robench.search.attacks import build
from robench.search.attacks import parse as parse_attack
from robench.search.engine.engine import Engine
from robench.search.engine.job import Job
from robench.search.engine.scheduler import Item, Waiting


class Scaled(nn.Module):
    """A network whose logits are multiplied by a factor."""

    def __init__(self, inner: nn.Module, factor: float):
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x) * self.factor
        return logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default="mnist-adv-linf")
    parser.add_argument("--threat", default="linf:0.3")
    parser.add_argument("--attack", default="pgd(steps=20)")
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    loaded = load(args.model, device=device)
    assert loaded.card is not None, "a bundled model has a card"
    convert_conv2d_weight_memory_format(loaded.classifier.module, torch.channels_last)
    whole = datasets.load(loaded.card.data).part(str(args.examples))
    split = whole.take(
        (~misclassified(Referee(loaded.classifier).logits(whole.x), whole.y)).nonzero().flatten().tolist()
    )
    threat, attack = parse(args.threat), build(*parse_attack(args.attack))

    rows = [
        _compared(form, factor, loaded.classifier.module, split, threat, attack, args.precision, device)
        for form, factor in (("honest", 1.0), ("traced", 1.0), ("saturated", 1e4), ("flat", 1e-4))
    ]
    notes = [
        f"{args.model}, the {len(split)} correct ones of the first {args.examples} images, {args.attack} under"
        f" {args.threat}, seed 0. In brackets the margin of the find, in logits of the honest network.",
        f"Command: python benchmarks/precision.py --model {args.model} --examples {args.examples}"
        f" --threat {args.threat} --attack '{args.attack}' --threads {args.threads}",
    ]
    write_results(
        f"precision-{args.model}", f"Searching in {args.precision}: verdicts that change", rows, notes, device
    )


def _compared(
    form: str,
    factor: float,
    module: nn.Module,
    split: Split,
    threat: ThreatModel,
    attack: AnyAttack,
    precision: str,
    device: torch.device,
) -> dict[str, object]:
    scaled = Scaled(traced(module, split.shape) if form == "traced" else copy.deepcopy(module), factor)
    classifier = Classifier(scaled, name=form, architecture="", shape=split.shape, classes=split.classes)
    found: dict[str, dict[int, float]] = {}
    taken = {}
    for name in ("float32", precision):
        taken[name] = seconds(
            lambda name=name: found.update({name: _searched(classifier, split, threat, attack, name)}),  # type: ignore[misc]
            device,
        )

    def only(one: str, other: str) -> str:
        apart = sorted(found[one].keys() - found[other].keys())
        return " ".join(f"{split.numbers[row]} ({found[one][row] / factor:.2g})" for row in apart) or "-"

    return {
        "network": form,
        "broken in float32": len(found["float32"]),
        f"in {precision}": len(found[precision]),
        "only in float32": only("float32", precision),
        f"only in {precision}": only(precision, "float32"),
        "float32 s": taken["float32"],
        f"{precision} s": taken[precision],
    }


def _searched(
    classifier: Classifier, split: Split, threat: ThreatModel, attack: AnyAttack, precision: str
) -> dict[int, float]:
    """The rows that are broken, with the margin of the adversarial image in float32."""
    referee = Referee(classifier)
    job = Job(threat, attack, Waiting.of(Item(row, 0, 0) for row in range(len(split))))
    engine = Engine(classifier, split, 0, SLOTS[classifier.device.type], precision)
    return {
        end.item.row: margin(referee.logits(end.x_adv[None]), split.y[[end.item.row]]).item()
        for ended in engine.work([job])
        for end in ended
        if end.x_adv is not None
    }


if __name__ == "__main__":
    main()
