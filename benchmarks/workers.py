"""The speed of workers, and what their queue and their reports cost.

    python benchmarks/workers.py [--model mnist-adv-linf] [--threat linf:0.3] [--examples 128] [--pairs 5]
    python benchmarks/workers.py --overhead 1000000
    python benchmarks/workers.py --simulate 64 [--model digits-adv-linf] [--examples 72]

The first measures two workers of one thread against one, in alternated pairs, from the first lease to the last report
(starting the processes and loading torch, which takes some seconds once, is not in it). It prints the wall time of each
and the CPU time of the busiest worker. On a machine that others use, the ratio of wall times says little; the ratio of
CPU times is the one that workers with a core of their own would have, memory bandwidth aside.

The second measures the driver alone, on so many items, which are examples times attacks: workers that answer at once,
in the same process, so that all time is that of the queue, the evidence of leases, storing reports in a file, and the
summary at the end.

The third measures how long one worker takes for leases of several sizes, in CPU time. Then the real driver gives leases
to simulated workers, whose clock goes on by these times, and by the CPU time that the driver itself takes. Each worker
has a core of its own there; memory bandwidth and the network are not simulated.

Each writes its table into benchmarks/results.
"""

import argparse
import ctypes
import heapq
import os
import random
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count as numbers_from
from pathlib import Path

import msgspec
import numpy as np
import torch
from measuring import write_results
from numpy.typing import NDArray

from robench.evaluation.model_source import CheckpointSource
from robench.evaluation.prepared import PreparedEvaluation, prepare
from robench.evaluation.request import EvalRequest
from robench.evaluation.runner import COMMIT_EVERY, Evaluation
from robench.evaluation.workers.driver import Driver
from robench.evaluation.workers.leases import LeaseQueue
from robench.evaluation.workers.messages import Finished, Lease, Message, Ready, Received, Records, Report, Setup
from robench.evaluation.workers.processes import Processes
from robench.evaluation.workers.round_search import RoundSearch
from robench.evaluation.workers.searcher import Searcher
from robench.evidence.records import Clean, Evidence, Exhausted
from robench.evidence.store import RunFile

CPU = torch.device("cpu")
WORKERS = 64  # of the simulated cluster whose driver is measured
REPORTED = 512  # examples in a report of a worker that answers at once
SIMULATED = 10_000  # examples of the simulated evaluation
SIZES = (4, 8, 16, 32, 64)  # of measured leases


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


def nothing_found(setup: Setup, lease: Lease, examples: tuple[int, ...]) -> Report:
    """The report of searches that have found nothing on some examples of a lease."""
    records = Records()
    for t, a in lease.steps:
        threat, attack = setup.plan.threats[t].threat, setup.plan.threats[t].attacks[a]
        done = (1 << attack.items) - 1
        records.exhausted += [Exhausted(n, threat, attack.spec, done, 1, 1) for n in examples]
    return Report(lease.number, records)


@dataclass
class Instant:
    """Workers that find nothing, at once."""

    count: int
    queue: deque[tuple[int, Message]] = field(default_factory=deque)
    leased: deque[tuple[int, Lease, NDArray[np.int32]]] = field(default_factory=deque)
    setup: Setup | None = None
    memory: list[float] = field(default_factory=list)  # MB of this process at every lease

    def start(self, setup: Setup, source: object) -> None:
        self.setup = setup
        self.queue.extend((worker, Ready()) for worker in range(self.count))

    def assign(self, worker: int, lease: Lease) -> None:
        assert self.setup is not None, "workers are started first"
        self.memory.append(resident())
        examples = np.array(lease.examples, np.int32)  # in four bytes each: a real worker has a memory of its own
        self.leased.append((worker, replace(lease, examples=(), evidence=Evidence()), examples))

    def receive(self, seconds: float) -> Received:
        """What one worker has found on some examples: not all reports are in memory at once, as with real workers."""
        received = list(self.queue)
        self.queue.clear()
        if self.leased:
            assert self.setup is not None, "workers are started first"
            worker, lease, examples = self.leased.popleft()
            some, rest = examples[:REPORTED], examples[REPORTED:]
            received.append((worker, nothing_found(self.setup, lease, tuple(some.tolist()))))
            if len(rest):
                self.leased.appendleft((worker, lease, rest))
            else:
                received.append((worker, Finished(lease.number)))
        return received

    def stop(self) -> None:
        pass


@dataclass
class Simulated(Instant):
    """Workers that find nothing, in simulated time; they report as often as real ones."""

    service: Callable[[int], float] = lambda examples: 0.0  # seconds for a lease of so many examples
    now: float = 0.0  # simulated seconds
    busy: float = 0.0  # of all workers
    of_driver: float = 0.0  # seconds that the driver has worked
    _due: list[tuple[float, int, int, Message]] = field(default_factory=list)
    _order: "numbers_from[int]" = field(default_factory=numbers_from)
    _returned: float | None = None  # process time when the driver got the last messages

    def assign(self, worker: int, lease: Lease) -> None:
        assert self.setup is not None, "workers are started first"
        self._driver_worked()
        taken = self.service(len(lease.examples))
        self.busy += taken
        reports = max(1, min(len(lease.examples), int(taken / COMMIT_EVERY)))
        for n in range(reports):
            some = lease.examples[n * len(lease.examples) // reports : (n + 1) * len(lease.examples) // reports]
            at = self.now + taken * (n + 1) / reports
            heapq.heappush(self._due, (at, next(self._order), worker, nothing_found(self.setup, lease, some)))
        heapq.heappush(self._due, (self.now + taken, next(self._order), worker, Finished(lease.number)))
        self._returned = time.process_time()  # making reports is the work of workers

    def receive(self, seconds: float) -> Received:
        self._driver_worked()
        received = list(self.queue)
        self.queue.clear()
        if not received and self._due:
            self.now = max(self.now, min(self.now + seconds, self._due[0][0]))
        while self._due and self._due[0][0] <= self.now:
            _, _, worker, message = heapq.heappop(self._due)
            received.append((worker, message))
        self._returned = time.process_time()
        return received

    def _driver_worked(self) -> None:
        if self._returned is not None:
            worked = time.process_time() - self._returned
            self.now += worked
            self.of_driver += worked
        self._returned = time.process_time()


def speed(model: str, threats: tuple[str, ...], examples: int, pairs: int) -> None:
    """Two workers against one, in alternated pairs."""
    rows, walls, cpus = list[dict[str, object]](), [], []
    for number in range(pairs):
        order = (1, 2) if number % 2 else (2, 1)
        measured = {count: seconds(count, model, threats, examples) for count in order}
        (wall, cpu, outcomes), (wall_2, cpu_2, outcomes_2) = measured[1], measured[2]
        assert outcomes == outcomes_2, "the outcomes differ"
        walls.append(wall / wall_2)
        cpus.append(cpu / cpu_2)
        row = {"pair": number + 1, "one, wall s": wall, "two, wall s": wall_2, "ratio": walls[-1]}
        rows.append(row | {"one, CPU s": cpu, "two, CPU s of the busiest": cpu_2, "ratio of CPU times": cpus[-1]})
        print(row, flush=True)
    medians = {"pair": "median", "ratio": statistics.median(walls), "ratio of CPU times": statistics.median(cpus)}
    load = f"Load of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores."
    write_results(
        f"workers-{model}",
        f"Two workers against one: {model}",
        [*rows, medians],
        [
            f"{examples} examples under {', '.join(threats) or 'the threats of the protocol'}, float32; pairs in turn"
            " begin with two workers and with one. Same outcomes each time.",
            load,
            f"Command: python benchmarks/workers.py --model {model}{''.join(f' --threat {t}' for t in threats)}"
            f" --examples {examples} --pairs {pairs}",
        ],
        CPU,
    )


def seconds(count: int, model: str, threats: tuple[str, ...], examples: int) -> tuple[float, float, str]:
    """The wall time of the search by so many workers, the CPU time of the busiest, and the outcomes."""
    request = EvalRequest(examples=str(examples), threats=threats, precision="float32")
    prepared = prepare(request, CheckpointSource(model))
    pool = Timed(count)
    with RunFile.in_memory() as run, Driver(pool, prepared.source) as driver:
        summary = prepared.evaluation(run, elsewhere=driver.search_round).answer()
        ended = time.perf_counter()
    return ended - pool.ready, pool.busiest, summary.union.outcomes


def invented(examples: int, run: RunFile, driver: Driver) -> Evaluation:
    """An evaluation of so many examples that a model classifies correctly: the same image for all."""
    request = EvalRequest(data="digits", examples="100", threats=("linf:0.1",), precision="float32")
    prepared = prepare(request, CheckpointSource("digits-nat"))
    x = prepared.split.x[:1].expand(examples, *prepared.split.shape)  # takes the memory of one
    split = replace(prepared.split, x=x, y=torch.zeros(examples, dtype=torch.long), numbers=tuple(range(examples)))
    plan = msgspec.structs.replace(prepared.plan, examples=split.numbers, precision="float32")
    with run.writing():
        run.put_plan(plan, {})
        run.put_clean(Clean(n, "", True, -1.0) for n in split.numbers)
    evaluation = replace(prepared, split=split, plan=plan).evaluation(run, elsewhere=driver.search_round)
    evaluation.plan = plan
    return evaluation


def resident(line: str = "VmRSS") -> float:
    """The memory of this process in MB; for VmHWM the most since `forget_peak`."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(text.split()[1]) for text in status if text.startswith(line)) * 1024 / 1e6


def forget_peak() -> None:
    """Begins to measure the peak of memory anew, without what this process holds and does not use."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def overhead(items: int) -> None:
    """What the driver needs for each item, with workers that answer at once, for four numbers of items."""
    rows = list[dict[str, object]]()
    for share in (8, 4, 2, 1):
        row = in_child(lambda wanted=items // share: driven(wanted))  # type: ignore[misc]
        if rows:
            for name in ("held", "in the rounds"):
                row[f"bytes for each further example, {name}"] = further(rows[0], row, name)
        rows.append(row)
        print(rows[-1], flush=True)
    write_results(
        "workers-overhead",
        "The driver alone",
        rows,
        [
            f"{WORKERS} workers that find nothing, at once, in the driver's process; items are examples times attacks."
            " The examples share one image, so its memory is not in the numbers.",
            "Held: before the first round, with the list of examples. In the rounds: what is added from the first round"
            " to the table, at most. Bytes for each further example are those between the first row and this one.",
            f"Command: python benchmarks/workers.py --overhead {items}",
        ],
        CPU,
    )


def further(fewer: dict[str, object], more: dict[str, object], name: str) -> float:
    """Bytes for each example that one row has more than another."""
    apart = [float(str(row[f"MB {name}"])) for row in (fewer, more)]
    return 1e6 * (apart[1] - apart[0]) / (int(str(more["examples"])) - int(str(fewer["examples"])))


def driven(items: int) -> dict[str, object]:
    """The time and the memory of the driver of one evaluation."""
    with tempfile.TemporaryDirectory() as folder, RunFile.open(Path(folder) / "r.robench") as run:
        driver = Driver(pool := Instant(WORKERS))
        attacks = 3
        evaluation = invented(-(-items // attacks), run, driver)
        forget_peak()
        held = resident()
        started = time.process_time()
        first, *others = evaluation.rounds()
        driver.search_round(evaluation, first)
        growth = pool.memory[-1] - pool.memory[0]
        for one in others:
            driver.search_round(evaluation, one)
        evaluation.summary()
        taken = time.process_time() - started
        done = len(evaluation.plan.examples) * sum(len(t.attacks) for t in evaluation.plan.threats)
        return {
            "examples": len(evaluation.plan.examples),
            "items": done,
            "CPU s": taken,
            "µs per item": 1e6 * taken / done,
            "MB held": held,
            "MB in the rounds": resident("VmHWM") - held,
            "MB more while workers search": growth,
        }


def in_child(work: Callable[[], dict[str, object]]) -> dict[str, object]:
    """The result of some work in a fork of this process, which has a peak of memory of its own."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        try:
            os.write(writing, msgspec.json.encode(work()))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        result: dict[str, object] = msgspec.json.decode(file.read())
    os.waitpid(child, 0)
    return result


def measured_leases(model: str, examples: int) -> dict[int, list[float]]:
    """CPU seconds of one worker for each lease of an evaluation, by size of the lease."""
    prepared = prepare(EvalRequest(examples=str(examples), precision="float32"), CheckpointSource(model))
    return {size: lease_seconds(prepared, size) for size in SIZES}


@dataclass
class Even(LeaseQueue):
    """Leases of one size."""

    def __post_init__(self, examples: Sequence[int] | NDArray[np.int32]) -> None:
        super().__post_init__(examples)
        self.total = 2 * self.rows * self.workers  # so that a lease has as many examples as rows

    def take(self, worker: int) -> tuple[int, tuple[int, ...]] | None:
        rest, self.waiting = self.waiting[self.rows :], self.waiting[: self.rows]
        taken, self.waiting = super().take(worker), rest
        return taken


def lease_seconds(prepared: PreparedEvaluation, size: int) -> list[float]:
    """CPU seconds for the leases of the first round, all of one size."""
    found = []
    with RunFile.in_memory() as run:
        evaluation = prepared.evaluation(run)
        evaluation._start()
        evaluation.settle_precision()
        one = evaluation.rounds()[0]
        examples = evaluation.missing(one)
        search = RoundSearch(evaluation, one, Even(examples, 1, size))
        model, device = evaluation.referee.classifier, evaluation.classifier.device
        setup = Setup(evaluation.plan, evaluation.protocol, evaluation.split, model, device, {})
        searcher = Searcher(setup, lambda message: None)
        while (lease := search.lease(0)) is not None:
            started = time.process_time()
            searcher.answer(lease)
            found.append((len(lease.examples), time.process_time() - started))
    return [taken for examples, taken in found if examples == size]


def simulated(model: str, examples: int, most: int) -> None:
    """The efficiency of 1, 2, 4 and more workers, by the real driver in simulated time."""
    measured = measured_leases(model, examples)
    each = {size: statistics.mean(taken) / size for size, taken in measured.items()}

    def service(lease: int) -> float:
        """As long as that many measured examples took, in batches of such a size."""
        smallest, like = SIZES[0], max([SIZES[0], *(size for size in SIZES if size <= lease)])
        drawn = rng.choices(measured[smallest], k=max(1, round(lease / smallest)))
        return statistics.mean(drawn) / smallest * lease * each[like] / each[smallest]

    rows = list[dict[str, object]]()
    for count in (2**power for power in range(most.bit_length())):
        rng = random.Random(0)
        with tempfile.TemporaryDirectory() as folder, RunFile.open(Path(folder) / "r.robench") as run:
            driver = Driver(pool := Simulated(count, service=service))
            evaluation = invented(SIMULATED, run, driver)
            driver.search_round(evaluation, evaluation.rounds()[0])
        alone = SIMULATED * each[SIZES[-1]]  # batches of one worker are as large as any
        row = {"workers": count, "simulated s": pool.now, "speed-up": alone / pool.now}
        row |= {"efficiency": alone / pool.now / count, "workers busy": pool.busy / pool.now / count}
        rows.append(row | {"driver busy": pool.of_driver / pool.now})
        print(rows[-1], flush=True)
    sizes = "; ".join(f"{size}: {len(measured[size])} of {size * each[size]:.2f} s" for size in SIZES)
    write_results(
        "workers-simulated",
        "Up to 64 workers, in simulated time",
        rows,
        [
            f"Measured leases of {model}, {examples} examples, by size, with their mean: {sizes}.",
            f"{SIMULATED:,} simulated examples in one round. The time of a lease is drawn from the measured ones, with"
            " the rate of the largest measured size that is not above its own. Efficiency is against one worker with"
            " batches of the largest size and a driver that takes no time; the driver's own CPU time is in it.",
            f"Command: python benchmarks/workers.py --simulate {most} --model {model} --examples {examples}",
        ],
        CPU,
    )


def main() -> None:
    """Runs the benchmark that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--threat", action="append", default=[])
    parser.add_argument("--examples", type=int)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--overhead", type=int, metavar="ITEMS", help="measure the driver alone")
    parser.add_argument("--simulate", type=int, metavar="WORKERS", help="simulate so many workers")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.overhead:
        overhead(args.overhead)
    elif args.simulate:
        simulated(args.model or "digits-adv-linf", args.examples or 72, args.simulate)
    else:
        threats = tuple(args.threat or ["linf:0.3"])
        speed(args.model or "mnist-adv-linf", threats, args.examples or 128, args.pairs)


if __name__ == "__main__":
    main()
