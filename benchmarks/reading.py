"""What the commands that read run files cost with many examples: seconds of CPU, and the memory at its peak.

    python benchmarks/reading.py [--examples 100000]

Writes the run of one model in two shards: two threats with three attacks each. Of the examples a twentieth is wrong, a
third is broken under either threat, some by claims that were rejected before, and the others stand. Then it runs
`robench merge` on the shards, and `robench report` on the whole, for that many examples and for a hundredth.
Writes its table into benchmarks/results.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import torch
from measuring import write_results

from robench.evaluation.model_source import CheckpointSource
from robench.evaluation.prepared import prepare
from robench.evaluation.request import EvalRequest
from robench.evaluation.shards import sharded
from robench.evidence.records import Claim, Clean, Effort, Exhausted, Plan, Shard, Verdict
from robench.evidence.store import RunFile

SHAPE = (1, 8, 8)
WRONG, BROKEN = 0.05, 0.33  # shares of the examples
REJECTED = 0.02


def planned(examples: int) -> Plan:
    """The plan of an evaluation of so many examples."""
    request = EvalRequest(data="digits", examples="100", threats=("linf:0.1", "l2:1"), precision="float32")
    plan = prepare(request, CheckpointSource("digits-nat")).plan
    return msgspec.structs.replace(plan, examples=tuple(range(examples)))


def write(plan: Plan, shard: Shard, path: Path) -> None:
    """A run file with the evidence of one shard, as a search would leave it."""
    rng = random.Random(0)
    draws = [(rng.random(), *(rng.random() for _ in plan.threats)) for _ in plan.examples]
    mine = shard.places(len(plan.examples))
    with RunFile.open(path) as run, run.writing():
        run.put_plan(sharded(plan, shard), {"precision": "float32: asked for"})
        run.put_clean(
            Clean(n, f"{n:016x}", first >= WRONG, 1.0 if first < WRONG else -1.0 - first)
            for n, (first, *_) in zip(plan.examples, draws, strict=True)
        )
        image, number = np.zeros(SHAPE, np.float32), 1
        for place in mine:
            if draws[place][0] < WRONG:
                continue
            for threat, drawn in zip(plan.threats, draws[place][1:], strict=True):
                for verdict in _verdicts(number, drawn):
                    attack = threat.attacks[place % 2].spec
                    run.put_judged(
                        Claim(number, plan.examples[place], threat.threat, attack, 0, -1, 40, 40), verdict, image
                    )
                    number += 1
                done = [a for a in threat.attacks if drawn >= BROKEN]
                run.put_exhausted(
                    Exhausted(plan.examples[place], threat.threat, a.spec, (1 << a.items) - 1, 100 * a.items, 100)
                    for a in done
                )
        run.put_effort(Effort(t.threat, a.spec, 100.0) for t in plan.threats for a in t.attacks)


def _verdicts(number: int, drawn: float) -> Iterator[Verdict]:
    if drawn < REJECTED:
        yield Verdict(number, False, "does not fool", "does not fool the model: margin -0.1", 0.05, -0.1)
        number += 1
    if drawn < BROKEN:
        yield Verdict(number, True, "", "", 0.09, 0.1 + drawn)


PROGRAM = """
import atexit, runpy, sys
_, peak, *sys.argv[1:] = sys.argv
atexit.register(lambda: open(peak, "w").write(open("/proc/self/status").read()))
runpy.run_module("robench", run_name="__main__", alter_sys=True)
"""


def measured(*command: str) -> tuple[float, float, str]:
    """CPU seconds, megabytes at the peak, and the output of a robench command."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "output").open("w+b") as output:
        status = Path(folder) / "status"
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(status), *command], stdout=output)
        _, code, usage = os.wait4(process.pid, 0)
        output.seek(0)
        text = output.read().decode()
        assert code == 0, f"robench {' '.join(command)} failed"
        # The peak of `usage` would include the memory of this process, from which the other began.
        peak = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return usage.ru_utime + usage.ru_stime, int(peak) * 1024 / 1e6, text


def main() -> None:
    """Writes run files, and measures the commands that read them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=100_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = list[dict[str, object]]()
    with tempfile.TemporaryDirectory() as folder:
        for examples in (args.examples // 100, args.examples):
            plan, paths = planned(examples), [Path(folder) / f"{examples}-{n}.robench" for n in (1, 2)]
            for n, path in enumerate(paths, start=1):
                write(plan, Shard(n, 2), path)
            whole = Path(folder) / f"{examples}.robench"
            commands = [("merge", *map(str, paths), "--out", str(whole)), ("report", str(whole))]
            taken = {command[0]: measured(*command) for command in commands}
            for name in ("report", "merge"):
                seconds, peak, _ = taken[name]
                rows.append({"command": name, "examples": examples, "CPU s": seconds, "MB at most": peak})
                print(rows[-1], flush=True)
            print(taken["merge"][2])
    write_results(
        "reading",
        "Reading many examples",
        rows,
        [
            "Runs of one model on images of 8×8, under two threats with three attacks each; merged from two shards.",
            f"Command: python benchmarks/reading.py --examples {args.examples}",
        ],
        torch.device("cpu"),
    )


if __name__ == "__main__":
    main()
