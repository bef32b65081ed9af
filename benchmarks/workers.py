"""The speed of workers, and what their queue and their reports cost.

    python benchmarks/workers.py [--model mnist-adv-linf] [--examples 128] [--pairs 5]
    python benchmarks/workers.py --overhead 10000

The first measures two workers of one thread against one, in alternated pairs, from the first lease to the last report
(starting the processes and loading torch, which takes some seconds once, is not in it). It prints the wall time of each
and the CPU time of the busiest worker. On a machine that others use, the ratio of wall times says little; the ratio of
CPU times is the one that workers with a core of their own would have, memory bandwidth aside.

The second measures the driver alone: workers that answer at once, in the same process, so that all time is that of the
queue, the evidence of leases, and storing reports.
"""

import argparse
import os
import statistics
import time
from collections import deque
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
import torch
from measuring import machine

from robench.evaluation.model_source import CheckpointSource
from robench.evaluation.prepared import prepare
from robench.evaluation.request import EvalRequest
from robench.evaluation.workers.driver import Driver
from robench.evaluation.workers.messages import Finished, Lease, Message, Ready, Received, Records, Report, Setup
from robench.evaluation.workers.processes import Processes
from robench.evidence.records import Clean, Exhausted
from robench.evidence.store import RunFile


@dataclass
class Timed(Processes):
    """Workers that note when the first was ready, and how much CPU time the busiest has had since it was."""

    ready: float = 0.0
    loading: dict[int, float] = field(default_factory=dict)  # CPU seconds until it was ready, by worker
    busiest: float = 0.0

    def receive(self, seconds: float) -> Received:
        received = super().receive(seconds)
        for worker, message in received:
            if isinstance(message, Ready):
                self.ready = self.ready or time.perf_counter()
                self.loading[worker] = _cpu_seconds(self._processes[worker].pid)
        return received

    def stop(self) -> None:
        if self._processes:
            self.busiest = max(_cpu_seconds(self._processes[n].pid) - before for n, before in self.loading.items())
        super().stop()


def _cpu_seconds(pid: int | None) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Instant:
    """Workers that find nothing, at once."""

    count: int
    queue: deque[tuple[int, Message]] = field(default_factory=deque)
    setup: Setup | None = None

    def start(self, setup: Setup, source: object) -> None:
        self.setup = setup
        self.queue.extend((worker, Ready()) for worker in range(self.count))

    def assign(self, worker: int, lease: Lease) -> None:
        assert self.setup is not None, "workers are started first"
        plan, records = self.setup.plan, Records()
        for t, a in lease.steps:
            threat, attack = plan.threats[t].threat, plan.threats[t].attacks[a]
            done = (1 << attack.items) - 1
            records.exhausted += [Exhausted(n, threat, attack.spec, done, 1, 1) for n in lease.examples]
        self.queue.append((worker, Report(lease.number, records)))
        self.queue.append((worker, Finished(lease.number)))

    def receive(self, seconds: float) -> Received:
        received = list(self.queue)
        self.queue.clear()
        return received

    def stop(self) -> None:
        pass


def seconds(count: int, model: str, examples: int) -> tuple[float, float, str]:
    """The wall time of the search by so many workers, the CPU time of the busiest, and the outcomes."""
    request = EvalRequest(examples=str(examples), precision="float32")
    prepared = prepare(request, CheckpointSource(model))
    pool = Timed(count)
    with RunFile.in_memory() as run, Driver(pool, prepared.source) as driver:
        summary = prepared.evaluation(run, elsewhere=driver.search_round).answer()
        ended = time.perf_counter()
    return ended - pool.ready, pool.busiest, summary.union.outcomes


def speed(model: str, examples: int, pairs: int) -> None:
    """Prints the times of alternated pairs, and their median ratios."""
    walls, cpus = [], []
    for number in range(pairs):
        measured = {count: seconds(count, model, examples) for count in ((1, 2) if number % 2 else (2, 1))}
        (wall, cpu, outcomes), (wall_2, cpu_2, outcomes_2) = measured[1], measured[2]
        assert outcomes == outcomes_2, "the outcomes differ"
        walls.append(wall / wall_2)
        cpus.append(cpu / cpu_2)
        print(f"one worker {wall:.1f} s, {cpu:.1f} s of CPU; two {wall_2:.1f} s, {cpu_2:.1f} s of CPU of the busiest")
        print(f"ratios {walls[-1]:.2f} and {cpus[-1]:.2f}", flush=True)
    median = statistics.median
    print(f"medians {median(walls):.2f} of wall and {median(cpus):.2f} of CPU times, {machine(torch.device('cpu'))}")


def overhead(examples: int) -> None:
    """Prints what the driver needs for each item, with 64 workers that answer at once."""
    prepared = prepare(
        EvalRequest(data="digits", examples="100", threats=("linf:0.1",)), CheckpointSource("digits-nat")
    )
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.random((examples, 1, 1, 1), dtype=np.float32)).expand(-1, *prepared.split.shape)
    split = replace(prepared.split, x=x, y=torch.zeros(examples, dtype=torch.long), numbers=tuple(range(examples)))
    plan = msgspec.structs.replace(prepared.plan, examples=split.numbers)
    with RunFile.in_memory() as run:
        with run.writing():
            run.put_clean(Clean(n, "", True, -1.0) for n in split.numbers)
        driver = Driver(Instant(64), prepared.source)
        evaluation = replace(prepared, split=split, plan=plan).evaluation(run, elsewhere=driver.search_round)
        evaluation.plan = plan
        started = time.process_time()
        for one in evaluation.rounds():
            evaluation.elsewhere(evaluation, one)  # type: ignore[misc]
        taken = time.process_time() - started
        items = examples * sum(len(t.attacks) for t in plan.threats)
    print(f"{items:,} items: {taken:.1f} s of CPU, {1e6 * taken / items:.0f} µs each; {machine(torch.device('cpu'))}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mnist-adv-linf")
    parser.add_argument("--examples", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--overhead", type=int, help="measure the driver alone, on so many examples")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.overhead:
        overhead(args.overhead)
    else:
        speed(args.model, args.examples, args.pairs)
