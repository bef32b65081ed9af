"""Peak memory of an evaluation by its number of examples.

    python benchmarks/memory.py [--model NAME] [--data NAME] [--attack ATTACK]

Each evaluation is a process of its own, by the installed command; measured is its largest resident set.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from measuring import keep

EXAMPLES = (100, 1000, 10_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mnist-adv-linf")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--threat", default="linf:0.1")
    parser.add_argument("--attack", default="apgd(steps=3, loss=dlr, targets=9)")
    asked = parser.parse_args()
    rows = []
    for examples in EXAMPLES:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "memory.robench"
            words = ["evaluate", asked.model, "--data", asked.data, "--threat", asked.threat, "--attack", asked.attack]
            words += ["--examples", str(examples), "--run", str(run), "--quiet", "--device", "cpu"]
            subprocess.run([sys.executable, "-m", "robench", *words], check=True, stdout=subprocess.DEVNULL)
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # the largest child so far
            rows.append({"examples": examples, "peak MiB": peak, "run file MiB": run.stat().st_size / 2**20})
    notes = [
        f"{asked.model} under {asked.threat}, {asked.attack}. The data set is held whole, whatever part is asked for.",
        f"Command: python benchmarks/memory.py --model {asked.model} --data {asked.data}",
    ]
    keep(f"memory-{asked.model}", "Peak memory by number of examples", rows, notes, torch.device("cpu"))


if __name__ == "__main__":
    main()
