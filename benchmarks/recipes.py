"""The cost of a step of every recipe, relative to Adv_max.

    python benchmarks/recipes.py [--device cuda] [--data NAME] [--threads N] [--rounds N]

In every round each recipe makes a few steps in turn; a recipe that samples a threat for each batch makes one step under
each threat, and ant no step of a new generator alone. Rates and shares are medians of the rounds; shares are computed
within a round, because machines are shared. The last column is computed from the hours of Madaan et al. 2021 (tables 1
and 3, CIFAR-10, WRN-28-10).
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from measuring import seconds, write_results
from torch.nn.utils import convert_conv2d_weight_memory_format

from robench.evaluation.environment import pick_device
from robench.problem import datasets
from robench.problem.architectures import ARCHITECTURES
from robench.problem.threats import parse
from robench.recipes import RECIPES, configure
from robench.recipes.making import default_architecture
from robench.recipes.training import Training, TrainingData

ALL = ("linf:0.3", "l2:2", "l1:10")
THREATS = {
    "nat": (),
    "ant": (),
    "pgd_at": ALL[:1],
    "trades": ALL[:1],
    "rst": ALL[:1],
    "spatial_at": ("rt:3px,30deg",),
    "eat": (ALL[0], ALL[2]),
}
THREATS |= {"ramp": (ALL[0], ALL[2])}
ONE_EACH = ("sat", "sat_ac", "mng_ac", "eat", "adaptive", "nfgsm")  # recipes that sample a threat for each batch
HOURS = {"nat": 0.4, "pgd_at": 4.5, "trades": 5.2, "avg": 16.9, "max": 16.3, "msd": 16.7}
HOURS |= {"sat": 5.5, "sat_ac": 6.8, "mng_ac": 8.4}


class Quiet:
    """A progress display that shows nothing."""

    def step(self, step: int, steps: int, loss: float, accuracy: float) -> None:
        pass


class Unsaved(Training):
    """A training whose state is not saved."""

    def _save(self, step: int) -> None:
        pass


@dataclass(frozen=True)
class InTurn(TrainingData):
    """Data whose noise selects every threat in turn."""

    sides: int = 1

    def noise(self, step: int) -> float:
        return (step % self.sides + 0.5) / self.sides


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    split = datasets.load(args.data, "train")
    torch.manual_seed(0)
    module = ARCHITECTURES[default_architecture(args.data)].build(split.shape, split.classes).to(device)
    convert_conv2d_weight_memory_format(module, torch.channels_last)

    def cost(name: str) -> float:
        """The seconds of one step."""
        threats = tuple(map(parse, THREATS.get(name, ALL)))
        steps = len(threats) if name in ONE_EACH else 1
        warm = {"nat": {}, "ant": {"alone": 0.0}}.get(name, {"warmup": 0.0})
        recipe = configure(name, args.data, {"steps": steps, "batch": args.batch, **warm})
        data = InTurn(split.x.to(device), split.y.to(device), args.batch, 0, recipe.augment, sides=max(len(threats), 1))
        training = Unsaved(module, torch.optim.Adam(module.parameters()), Path("none"), "", Quiet())
        return seconds(lambda: recipe.train(training, data, threats), device) / steps

    cost("nat")  # a warm-up, so that one-time costs are not measured
    rounds = [{name: cost(name) for name in RECIPES} for _ in range(args.rounds)]
    rows: list[dict[str, object]] = []
    for name in RECIPES:
        shares = [one[name] / one["max"] for one in rounds]
        rows.append(
            {
                "recipe": name,
                "threats": ", ".join(THREATS.get(name, ALL)) or "none",
                "images per second": round(args.batch / median(one[name] for one in rounds)),
                "share of max": median(shares),
                "lowest": min(shares),
                "highest": max(shares),
                "the paper's hours": f"{HOURS[name] / HOURS['max']:.2f}" if name in HOURS else "",
            }
        )
    notes = [
        f"{default_architecture(args.data)} on {args.data}, batches of {args.batch}, the recipes' default numbers;"
        f" {args.rounds} rounds of every recipe in turn, medians.",
        "Shares are of the time of a step of max (Adv_max) in the same round; the last column is that of the training"
        " hours in Madaan et al. 2021, where l1 has twice as many inner steps as the others.",
        f"Command: python benchmarks/recipes.py --data {args.data} --threads {args.threads} --rounds {args.rounds}",
    ]
    write_results(f"recipes-{args.data}", "What a step of every recipe costs", rows, notes, device)


if __name__ == "__main__":
    main()
