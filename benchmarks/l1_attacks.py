"""Accuracy against steps for four l1 attacks: SLIDE, APGD, steepest descent and Frank-Wolfe.

    python benchmarks/l1_attacks.py [--model NAME] [--radius R] [--examples N]

As in appendix B of Tramèr and Boneh 2019. Each number of steps is a run of its own, because strides depend on it; one
draw each. What a search finds is what the referee accepts. Writes a table and a figure.
"""

import argparse

import matplotlib.pyplot as plt
import torch
from measuring import RESULTS, keep
from torch.nn.utils import convert_conv2d_weight_memory_format

from robench.evaluation.environment import pick_device
from robench.evaluation.prepared import SLOTS
from robench.evidence.referee import Referee, fooled
from robench.problem import datasets
from robench.problem.checkpoints import load
from robench.problem.threats import parse
from robench.search.attack import AnyAttack
from robench.search.attacks.apgd import APGD
from robench.search.attacks.frank_wolfe import FrankWolfe
from robench.search.attacks.pgd import PGD
from robench.search.attacks.slide import SLIDE
from robench.search.engine.engine import Engine
from robench.search.engine.job import Job
from robench.search.engine.scheduler import Item, Waiting

STEPS = (5, 10, 20, 50, 100, 200, 500)


def attacks(steps: int) -> dict[str, AnyAttack]:
    """All climb the margin; strides as they are published, shortened where the steps are many."""
    return {
        "SLIDE": SLIDE(steps=steps),
        "APGD": APGD(steps=steps, loss="margin"),
        "steepest descent": PGD(steps=steps, step_size=0.05),
        "Frank-Wolfe": FrankWolfe(steps=steps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default="mnist-adv-linf")
    parser.add_argument("--radius", default="10")
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    device = pick_device(asked.device)
    loaded = load(asked.model, device=device)
    assert loaded.card is not None, "a bundled model has a card"
    classifier, referee = loaded.classifier, Referee(load(asked.model, device=device).classifier)
    convert_conv2d_weight_memory_format(classifier.module, torch.channels_last)
    split = datasets.load(loaded.card.data).part(str(asked.examples))
    right = (~fooled(referee.logits(split.x), split.y)).nonzero().flatten().tolist()
    threat = parse(f"l1:{asked.radius}")

    rows: list[dict[str, object]] = []
    for steps in STEPS:
        row: dict[str, object] = {"steps": steps}
        for name, attack in attacks(steps).items():
            standing = set(right)
            job = Job(threat, attack, Waiting.of(Item(r, 0, 0) for r in right))
            for ended in Engine(classifier, split, 0, SLOTS[device.type]).work([job]):
                for end in ended:
                    if end.x_adv is not None:
                        r = [end.item.row]
                        if referee.judge(threat, split.x[r], split.y[r], end.x_adv[None])[0].accepted:
                            standing.discard(end.item.row)
            row[name] = 100 * len(standing) / len(split)
        rows.append(row)
        print(row, flush=True)

    figure, axes = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    for name, marker in zip(attacks(1), "osv^", strict=True):
        axes.plot(STEPS, [float(str(row[name])) for row in rows], marker=marker, label=name)
    axes.set(xscale="log", xlabel="steps (one draw)", ylabel="accuracy, %", ylim=(0, 100))
    axes.set_xticks(STEPS, [str(s) for s in STEPS])
    axes.set_title(f"{asked.model} under {threat}, first {asked.examples} images", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / f"l1-attacks-{asked.model}.svg", metadata={"Date": None})
    figure.savefig(RESULTS / f"l1-attacks-{asked.model}.png", dpi=120)
    notes = [
        f"Percent of the first {asked.examples} images standing after one draw, seed 0; clean"
        f" {100 * len(right) / len(split):.1f}.",
        f"Command: python benchmarks/l1_attacks.py --model {asked.model} --radius {asked.radius}"
        f" --examples {asked.examples} --threads {asked.threads}",
    ]
    keep(f"l1-attacks-{asked.model}", f"l1 attacks by their number of steps, {threat}", rows, notes, device)


if __name__ == "__main__":
    main()
