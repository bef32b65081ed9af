"""robench's AutoAttack suite and its authors' own code: same model, images, budgets and referee, in one run.

    python benchmarks/autoattack.py [--model NAME] [--threat THREAT] [--examples N] [--seeds N] [--threads N]

Both are evaluations of robench: `--attack autoattack` is our APGD-CE, APGD-T, FAB-T and Square with the official
budgets, `--attack autoattack-reference` drives the attack classes of the authors. What an attack breaks is what the
referee accepts. Seconds are those of a whole evaluation.
"""

import argparse
from statistics import median

import torch
from measuring import keep, seconds

import robench
from robench.evaluation.environment import pick_device

OURS, THEIRS = "autoattack", "autoattack-reference"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default="mnist-adv-linf")
    parser.add_argument("--threat", action="append", required=True)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    for threat in asked.threat:
        rows = []
        for name in (OURS, THEIRS):
            timed = [evaluated(asked, threat, name, seed) for seed in range(asked.seeds)]
            runs, taken = [run for run, _ in timed], [exhausted for _, exhausted in timed]
            rows.append(
                {
                    "attack": name,
                    "standing, summed": sum(run.threats[0].standing for run in runs),
                    "by seed": " ".join(str(run.threats[0].standing) for run in runs),
                    "seconds, median": round(median(taken), 1),
                    "gradients": sum(run.cost.backwards for run in runs),
                    "forward passes": sum(run.cost.forwards for run in runs),
                    "open or rejected": sum(r.threats[0].open + sum(r.threats[0].rejected.values()) for r in runs),
                }
            )
        ratio = rows[1]["seconds, median"] / rows[0]["seconds, median"]
        notes = [
            f"{asked.examples} images, {asked.seeds} seeds, {asked.threads} threads, float32. Command: python"
            f" benchmarks/autoattack.py --model {asked.model} --threat {threat} --examples {asked.examples}"
            f" --seeds {asked.seeds} --threads {asked.threads}",
            f"The reference takes {ratio:.2g} times as long.",
        ]
        name = f"autoattack-suite-{asked.model}-{threat.partition(':')[0]}"
        keep(name, f"AutoAttack and its authors' code: {asked.model}, {threat}", rows, notes, pick_device(asked.device))


def evaluated(asked: argparse.Namespace, threat: str, attack: str, seed: int) -> tuple[robench.Summary, float]:
    """One of them, from nothing, and its seconds."""
    told: list[robench.Summary] = []

    def evaluate() -> None:
        summary = robench.evaluate(
            asked.model,
            threats=[threat],
            attacks=[attack],
            examples=asked.examples,
            seed=seed,
            device=asked.device,
            precision="float32",
        )
        told.append(summary)

    taken = seconds(evaluate, pick_device(asked.device))
    return told[0], taken


if __name__ == "__main__":
    main()
