"""Peak memory of an evaluation by its number of examples.

    python benchmarks/memory.py [--model NAME] [--data NAME] [--attack ATTACK]

Each evaluation runs the installed command in a process of its own; its largest resident set is measured.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from measuring import write_results

EXAMPLES = (100, 1000, 10_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mnist-adv-linf")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--threat", default="linf:0.1")
    parser.add_argument("--attack", default="apgd(steps=3, loss=dlr, targets=9)")
    args = parser.parse_args()
    rows = []
    for examples in EXAMPLES:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "memory.robench"
            words = [
                "evaluate",
                args.model,
                "--data",
                args.data,
                "--threat",
                args.threat,
                "--attack",
                args.attack,
            ]
            words += ["--examples", str(examples), "--run", str(run), "--quiet", "--device", "cpu"]
            subprocess.run([sys.executable, "-m", "robench", *words], check=True, stdout=subprocess.DEVNULL)
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # the largest child so far
            rows.append({"examples": examples, "peak MiB": peak, "run file MiB": run.stat().st_size / 2**20})
    notes = [
        f"{args.model} under {args.threat}, {args.attack}. The whole data set is in memory, whatever part is used.",
        f"Command: python benchmarks/memory.py --model {args.model} --data {args.data}",
    ]
    write_results(f"memory-{args.model}", "Peak memory by number of examples", rows, notes, torch.device("cpu"))


if __name__ == "__main__":
    main()
