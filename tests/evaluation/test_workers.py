"""Workers find what one process finds, however they share the work and whichever of them is lost."""

import itertools
import os
import signal
import socket
import time
import warnings
from collections import deque
from dataclasses import dataclass, field, replace
from multiprocessing import Pipe
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from robench.errors import ProgramEnded, UserError
from robench.evaluation.model_source import CheckpointSource
from robench.evaluation.planning import make_plan
from robench.evaluation.prepared import prepare
from robench.evaluation.progress import Silence
from robench.evaluation.request import EvalRequest
from robench.evaluation.runner import Evaluation
from robench.evaluation.workers import processes
from robench.evaluation.workers.answers import Answers
from robench.evaluation.workers.driver import Driver, Pool
from robench.evaluation.workers.leases import LeaseQueue
from robench.evaluation.workers.messages import Failed, Lost, Ready, Records, Report, Setup
from robench.evaluation.workers.processes import Processes
from robench.evaluation.workers.round_search import RoundSearch
from robench.evaluation.workers.searcher import Searcher
from robench.evidence.records import Exhausted
from robench.evidence.referee import Referee
from robench.evidence.store import RunFile
from robench.problem import datasets

from ..exact_distances import Linear, classifier, toy
from .test_shards import BREAKS, BREAKS_NONE, EXAMPLES, letters

SLOTS = 8


@dataclass
class Inline:
    """Workers in this process. Their messages come in turn; a worker can be lost after so many, and still send more."""

    count: int
    lost: dict[int, int] = field(default_factory=dict)  # after so many messages, by worker
    stale: bool = False  # whether the messages of a lost worker come after all
    queues: dict[int, deque] = field(default_factory=dict)
    searchers: dict[int, Searcher] = field(default_factory=dict)
    sent: dict[int, int] = field(default_factory=dict)
    assigned: list[tuple[int, int]] = field(default_factory=list)  # worker, and size of a lease
    late: int = 0
    stopped: bool = False

    def start(self, setup, source):
        for worker in range(self.count):
            self.queues[worker], self.sent[worker] = deque([Ready()]), 0
            self.searchers[worker] = Searcher(setup, self.queues[worker].append)

    def assign(self, worker, lease):
        self.assigned.append((worker, len(lease.examples)))
        self.searchers[worker].answer(lease)

    def receive(self, seconds):
        received = []
        for worker, queue in self.queues.items():
            if not queue:
                continue
            if self.sent[worker] == self.lost.get(worker, -1):
                received.append((worker, Lost("SIGKILL")))
                received += [(worker, message) for message in queue if self.stale]
                self.late += len(queue) if self.stale else 0
                queue.clear()
            else:
                received.append((worker, queue.popleft()))
            self.sent[worker] += 1
        return received

    def stop(self):
        self.stopped = True


def evaluation(run, protocol, pool, **more):
    model = classifier(Linear())
    split = toy(model, EXAMPLES)
    plan = make_plan(model, split, protocol, seed=0, every_attack=False, slots=SLOTS)
    elsewhere = Driver(pool).search_round if pool else None
    return Evaluation(plan, protocol, model, Referee(model), split, run, elsewhere=elsewhere, **more)


def answered(protocol, pool, path=None, **more):
    with RunFile.open(path) if path else RunFile.in_memory() as run:
        return evaluation(run, protocol, pool, **more).answer(), run.evidence()


@pytest.fixture(scope="module", params=[BREAKS, BREAKS_NONE], ids=["breaks one", "breaks none"])
def alone(request):
    """What one process finds."""
    return request.param, *answered(request.param, None)


def settled(evidence):
    """The searches that ended without a find on standing examples, with their cost, and what was passed over."""
    broken = {c.example for c, v in evidence.judged() if v.accepted}
    return {e for e in evidence.exhausted if e.example not in broken}, {
        p for p in evidence.passed_over if p.example not in broken
    }


def test_the_stand_in_is_a_pool():
    assert isinstance(Inline(1), Pool)
    assert isinstance(Processes(1), Pool)


@pytest.mark.costly
@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_workers_finds_what_one_process_finds(alone, count):
    protocol, summary, evidence = alone
    pool = Inline(count)
    found, records = answered(protocol, pool)
    assert letters(found) == letters(summary)
    assert settled(records) == settled(evidence)
    assert {c.example for c in records.claims} == {c.example for c in evidence.claims}
    assert {worker for worker, _ in pool.assigned} == set(range(count))
    claims = [c.id for c in records.claims]
    assert len(claims) == len(set(claims))


@pytest.mark.costly
@pytest.mark.parametrize("stale", [False, True])
def test_a_lost_worker_changes_nothing_whenever_it_is_lost(alone, stale):
    protocol, summary, evidence = alone
    late = 0
    for after in (0, 2, 5):
        pool = Inline(3, {0: after, 2: 3 * after}, stale)
        found, records = answered(protocol, pool)
        assert letters(found) == letters(summary), after
        assert {e.example for e in settled(records)[0]} == {e.example for e in settled(evidence)[0]}
        assert settled(records)[1] == settled(evidence)[1]
        late += pool.late
    assert (late > 0) == stale


@pytest.mark.costly
@pytest.mark.parametrize("given_up", [False, True])
def test_messages_that_the_network_holds_back_change_nothing(alone, given_up):
    """All at once later; or never, as the worker is given up meanwhile, and then all the same."""

    class Cut(Inline):
        held_back = 60  # calls

        def receive(self, seconds):
            if all(worker for worker, _ in self.assigned):  # it has no lease so far
                return super().receive(seconds)
            self.held_back -= 1
            mine = self.queues.pop(0)
            received = super().receive(seconds)
            self.queues[0] = mine
            if self.held_back > 0:
                return received
            late = [Lost("ActorDiedError")] if given_up and self.held_back == 0 else []
            late += mine
            self.late += len(mine)
            mine.clear()
            return [*((0, message) for message in late), *received]

    protocol, summary, evidence = alone
    found, records = answered(protocol, pool := Cut(2))
    assert pool.late > 2
    assert letters(found) == letters(summary)
    assert settled(records)[1] == settled(evidence)[1]
    assert {e.example for e in settled(records)[0]} == {e.example for e in settled(evidence)[0]}


def test_what_a_worker_sends_after_its_lease_was_given_to_another_is_left_out():
    with RunFile.in_memory() as run:
        question = evaluation(run, BREAKS, None)
        search = RoundSearch(question, question.rounds()[0], LeaseQueue(list(range(EXAMPLES)), 2, SLOTS))
        spec = question.plan.threats[0].attacks[0].spec
        lease = search.lease(0)
        records = Records(exhausted=[Exhausted(lease.examples[0], "linf:0.02", spec, 1, 5, 5)])
        for holder in (0, 1):
            with run.writing():
                search.store(holder, Report(lease.number, records))
            assert len(run.evidence().exhausted) == 1
        assert search.give_back(0) == list(lease.examples)
        less = Records(exhausted=[Exhausted(lease.examples[0], "linf:0.02", spec, 0, 1, 1)])
        with run.writing():
            search.store(0, Report(lease.number, less))
        assert list(run.evidence().exhausted) == records.exhausted
        again = search.lease(1)
        assert records.exhausted[0] in again.evidence.exhausted  # the next worker goes on from there


@pytest.mark.costly
def test_without_a_worker_left_the_evaluation_ends_and_the_same_command_finishes_it(alone, tmp_path):
    protocol, summary, _ = alone
    path = tmp_path / "r.robench"
    with pytest.raises(
        UserError, match=r"all workers have ended \(the last one: SIGKILL\); what they found is in the run"
    ):
        answered(protocol, Inline(2, {0: 3, 1: 5}), path)
    with RunFile.read(path) as run:
        assert run.evidence().exhausted or run.evidence().claims
    assert letters(answered(protocol, Inline(2), path)[0]) == letters(summary)


def test_an_error_of_a_worker_is_that_of_the_evaluation():
    class Failing(Inline):
        def assign(self, worker, lease):
            self.queues[worker].append(Failed("out of memory on a single image", by_user=self.by_user))

    for by_user, error in ((True, UserError), (False, RuntimeError)):
        pool = Failing(1)
        pool.by_user = by_user
        with pytest.raises(error, match="out of memory on a single image"):
            answered(BREAKS, pool)


def test_a_time_limit_ends_the_search_of_workers_and_keeps_what_they_found(tmp_path):
    pool = Inline(2)
    summary, _ = answered(BREAKS, pool, deadline=0.0)
    assert pool.stopped
    assert summary.union.open > 0


@pytest.mark.costly
def test_seconds_of_attacks_add_up_over_leases_and_sessions(alone, tmp_path):
    protocol, _, evidence = alone
    path = tmp_path / "r.robench"
    with pytest.raises(UserError):
        answered(protocol, Inline(1, {0: 6}), path)
    with RunFile.read(path) as run:
        before = {(e.threat, e.attack): e.seconds for e in run.evidence().efforts}
    after = {(e.threat, e.attack): e.seconds for e in answered(protocol, Inline(2), path)[1].efforts}
    assert before
    assert after.keys() == {(e.threat, e.attack) for e in evidence.efforts}
    assert all(after[place] >= seconds > 0 for place, seconds in before.items())


@pytest.mark.costly
def test_a_second_attack_with_a_sample_knows_what_it_broke_outside_of_it(tmp_path):
    """An earlier question without a sample has broken one: all are searched, with workers as without."""
    sampled = BREAKS.threats[0].attacks[1]
    everywhere = replace(sampled, sample=None)
    first = replace(BREAKS, threats=(replace(BREAKS.threats[0], attacks=(everywhere,)),))
    found = []
    for number, pool in enumerate((None, Inline(2))):
        path = tmp_path / f"{number}.robench"
        answered(first, None, path)
        found.append(settled(answered(BREAKS, pool, path)[1]))
    assert found[0] == found[1]


# Workers that hang


@dataclass
class Sleeping(Inline):
    """Workers that sleep instead of answering their first leases; one may wake, and answer after all."""

    asleep: set[int] = field(default_factory=set)
    wakes: bool = False  # once its examples have gone to another
    slept: dict[int, tuple[int, ...]] = field(default_factory=dict)  # the examples of the lease, by worker
    searched: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)

    def assign(self, worker, lease):
        self.searched.append((worker, lease.examples))
        if worker not in self.asleep:
            super().assign(worker, lease)
            return
        self.slept[worker] = lease.examples
        self.asleep.discard(worker)
        before = len(self.queues[worker])
        super().assign(worker, lease)
        self.held = [self.queues[worker].pop() for _ in range(len(self.queues[worker]) - before)][::-1]

    def receive(self, seconds):
        received = super().receive(seconds)
        if not received:
            time.sleep(0.01)
        retaken = {e for worker, some in self.searched[1:] if worker not in self.slept for e in some}
        if self.wakes and self.slept and retaken.issuperset(self.slept[0]):
            self.late += len(self.held)
            received += [(0, message) for message in self.held]
            self.wakes = False
        return received


@pytest.mark.costly
@pytest.mark.parametrize("wakes", [False, True])
def test_the_examples_of_a_worker_that_hangs_go_to_others_and_its_late_answer_changes_nothing(alone, wakes):
    protocol, summary, evidence = alone
    pool, noting = Sleeping(2, asleep={0}, wakes=wakes), Noting()
    with RunFile.in_memory() as run:
        question = evaluation(run, protocol, None, progress=noting)
        question.elsewhere = Driver(pool, answers=Answers(floor=0.2)).search_round
        found, records = question.answer(), run.evidence()
    assert letters(found) == letters(summary)
    assert settled(records)[1] == settled(evidence)[1]
    assert {e.example for e in settled(records)[0]} == {e.example for e in settled(evidence)[0]}
    size = len(pool.slept[0])
    assert [text for text in noting.notes if f"its {size} examples go back into the queue" in text]
    assert (pool.late > 0) == wakes


def test_where_all_workers_hang_the_evaluation_ends(tmp_path):
    with RunFile.open(tmp_path / "r.robench") as run:
        question = evaluation(run, BREAKS, None)
        question.elsewhere = Driver(Sleeping(2, asleep={0, 1}), answers=Answers(floor=0.2)).search_round
        with pytest.raises(UserError, match="no worker answers: 2 workers sent nothing for"):
            question.answer()


def test_a_worker_may_be_silent_for_a_multiple_of_the_longest_silence_that_ended():
    answers = Answers(floor=60.0)
    answers.begin(0, 0.0)
    answers.begin(1, 0.0)
    answers.note(0, 30.0)
    assert answers.limit == 60 + 10 * 30
    assert not answers.overdue(360.0)
    assert answers.overdue(361.0) == [1]
    answers.end(1)
    assert not answers.overdue(361.0)
    answers.note(1, 10_000.0)  # it holds no lease: this is no measurement
    assert answers.limit == 360


# The queue


@pytest.mark.parametrize(
    ("examples", "workers", "rows"), [*itertools.product((1, 7, 100, 1000), (1, 2, 64), (1, 8, 512))]
)
def test_every_example_is_leased_once_and_workers_share_them(examples, workers, rows):
    queue = LeaseQueue(list(range(examples)), workers, rows)
    taken, sizes = [], []
    for worker in itertools.cycle(range(workers)):
        if (lease := queue.take(worker)) is None:
            break
        number, some = lease
        assert queue.holds(worker, number)
        assert not queue.holds(worker + 1, number)
        queue.finish(number)
        assert not queue.holds(worker, number)
        taken += some
        sizes.append(len(some))
    assert taken == list(range(examples))
    assert queue.done
    assert max(sizes) <= max(-(-examples // (2 * workers)), rows)
    assert len(sizes) >= min(examples, workers)


@pytest.mark.parametrize(("examples", "workers", "smallest"), [(128, 1, 64), (128, 2, 32), (1000, 4, 32), (64, 4, 8)])
def test_the_last_leases_are_half_a_batch_where_there_are_whole_ones_for_all_workers(examples, workers, smallest):
    queue = LeaseQueue(list(range(examples)), workers, 64)
    sizes = [len(lease[1]) for lease in iter(lambda: queue.take(0), None)]
    assert sum(sizes) == examples
    assert sizes[:-1] == sorted(sizes[:-1], reverse=True)
    assert sizes[-2] == smallest  # the very last has what is left


def test_the_examples_of_a_lost_worker_come_back_first():
    queue = LeaseQueue(list(range(8)), 2, 2)
    one, other = queue.take(0), queue.take(1)
    assert queue.give_back(0) == list(one[1])
    assert queue.give_back(0) == []
    assert not queue.holds(0, one[0])
    assert queue.take(1)[1][0] == one[1][0]
    assert queue.holds(1, other[0])


# Processes


def listening(pids):
    """The listening sockets that these processes hold: of the internet, and of this machine."""
    held = {os.readlink(entry) for pid in pids for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()}
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    found = [line for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in held]
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return found + [line for line in lines if int(line[3], 16) & 0x10000 and f"socket:[{line[6]}]" in held]


class Killing(Processes):
    """Sends the worker that reports first a signal, and notes what listens at that moment."""

    signal = signal.SIGKILL
    killed = None
    listening = of_driver = None

    def receive(self, seconds):
        received = super().receive(seconds)
        reporting = [worker for worker, message in received if isinstance(message, Report)]
        if self.killed is None and reporting:
            self.listening = listening([process.pid for process in self._processes])
            self.of_driver = listening([os.getpid()])
            self.killed = reporting[0]
            os.kill(self._processes[self.killed].pid, self.signal)
        return received


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux lists sockets there")
def test_a_listening_socket_would_be_seen():
    before = len(listening([os.getpid()]))
    with socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX) as local:
        assert len(listening([os.getpid()])) == before + 1
        local.bind("\0robench test")
        local.listen()
        assert len(listening([os.getpid()])) == before + 2


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux lists sockets there")
def test_an_evaluation_in_one_process_listens_nowhere():
    class Listing(Silence):
        found: ClassVar[list[int]] = []

        def moved(self, standing, queries_done, queries_left):
            self.found.append(len(listening([os.getpid()])))

    before = len(listening([os.getpid()]))
    Listing.found.clear()
    answered(BREAKS, None, progress=Listing())
    assert {*Listing.found} == {before}


@pytest.mark.processes
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux lists sockets there")
def test_processes_find_what_one_finds_and_one_may_be_killed():
    summary, _ = answered(BREAKS, None)
    before = len(listening([os.getpid()]))
    with Driver(pool := Killing(2)) as driver, RunFile.in_memory() as run:
        question = evaluation(run, BREAKS, pool)
        question.elsewhere = driver.search_round
        assert letters(question.answer()) == letters(summary)
        assert pool.killed is not None
        assert not pool.listening
        assert len(pool.of_driver) == before
        processes = list(pool._processes)
    assert processes[pool.killed].exitcode == -signal.SIGKILL
    assert all(process.exitcode is not None for process in processes)


@pytest.mark.processes
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the signal is tried on Linux")
def test_a_process_that_is_stopped_hangs_and_the_others_go_on():
    class Stopping(Killing):
        signal = signal.SIGSTOP

    summary, _ = answered(BREAKS, None)
    noting = Noting()
    with Driver(pool := Stopping(2), answers=Answers(floor=2.0)) as driver, RunFile.in_memory() as run:
        question = evaluation(run, BREAKS, None, progress=noting)
        question.elsewhere = driver.search_round
        assert letters(question.answer()) == letters(summary)
        assert pool.killed is not None
        stopped = pool._processes[pool.killed]
    assert any(f"worker {pool.killed + 1} has sent nothing for" in text for text in noting.notes)
    assert stopped.exitcode == -signal.SIGKILL


# Programs in files


@pytest.fixture
def program(tmp_path):
    """A scripted network in a file, which runs in a process of its own. It answers the class of the nearest mean."""
    images = datasets.load("digits:test")
    means = torch.stack([images.x[images.y == label].mean(dim=0).flatten() for label in range(10)])
    net = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10))
    net[1].weight.data, net[1].bias.data = 2 * means, -means.square().sum(dim=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript
        torch.jit.trace(net, torch.rand(2, 1, 28, 28)).save(tmp_path / "net.pt")
    request = EvalRequest(data="digits", examples="8", threats=("linf:0.1",), attacks=("pgd(steps=2)",))
    return prepare(request, CheckpointSource(str(tmp_path / "net.pt")))


class Watched(Processes):
    """Kills the process of the program of the worker that reports first."""

    killed = None
    programs: ClassVar[dict[int, list[int]]] = {}  # of each worker

    def receive(self, seconds):
        received = super().receive(seconds)
        ready = [worker for worker, message in received if isinstance(message, Ready)]
        self.programs.update({worker: children(self._processes[worker].pid) for worker in ready})
        reporting = [worker for worker, message in received if isinstance(message, Report)]
        if self.killed is None and reporting:
            self.killed = reporting[0]
            for pid in self.programs[self.killed]:
                os.kill(pid, signal.SIGKILL)
        return received


def children(pid):
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in listed.split()]


@pytest.mark.processes
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux lists children there")
def test_every_worker_runs_the_program_in_a_process_of_its_own_and_one_may_be_killed(program):
    with RunFile.in_memory() as run:
        alone = program.evaluation(run).answer()
    noting = Noting()
    with RunFile.in_memory() as run, Driver(pool := Watched(2), program.source) as driver:
        found = program.evaluation(run, elsewhere=driver.search_round, progress=noting).answer()
    assert letters(found) == letters(alone)
    pids = [pid for programs in pool.programs.values() for pid in programs]
    assert pool.killed is not None
    assert len(pids) == len(set(pids)) == len(pool.programs)
    assert any("net.pt is a program that " in note for note in noting.notes), noting.notes


class Noting(Silence):
    """Collects the notes."""

    def __init__(self):
        self.notes = []

    def noted(self, text):
        self.notes.append(text)


def test_a_worker_whose_program_has_ended_is_lost(monkeypatch):
    def ended(*arguments):
        raise ProgramEnded("net.pt is a program that was ended by SIGKILL")

    monkeypatch.setattr(processes, "_answer", ended)
    ours, theirs = Pipe()
    handler, threads = signal.getsignal(signal.SIGINT), torch.get_num_threads()
    try:
        processes.work(theirs, object.__new__(Setup), 0, threads)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert ours.recv() == Lost("net.pt is a program that was ended by SIGKILL")


@pytest.mark.costly
def test_a_worker_is_lost_once(alone):
    class Twice(Inline):
        def receive(self, seconds):
            return [message for message in super().receive(seconds) for _ in range(1 + isinstance(message[1], Lost))]

    protocol, summary, _ = alone
    noting = Noting()
    assert letters(answered(protocol, Twice(2, {0: 3}), progress=noting)[0]) == letters(summary)
    assert len([text for text in noting.notes if "worker 1 has ended" in text]) == 1
