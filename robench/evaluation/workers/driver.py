"""The driver: it has the queue of examples and the run file, and gives leases to workers.

A lease that is lost goes back into the queue, and so does one whose worker stays silent for too long. Only the worker
that holds a lease is listened to, so a second answer changes nothing. Everything that concerns all examples is decided
here, from the run file.
"""

import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, runtime_checkable

from ...errors import UserError, counted
from ..model_source import ModelSource
from ..rounds import Round
from ..runner import Evaluation
from .answers import Answers
from .leases import LeaseQueue
from .messages import Failed, Finished, Lease, Lost, Message, Moved, Noted, Ready, Received, Report, Setup
from .round_search import RoundSearch

WAIT = 0.25  # seconds for messages, between checks of the deadline


@runtime_checkable
class Pool(Protocol):
    """A number of workers, as processes of this machine or on a cluster."""

    count: int

    def start(self, setup: Setup, source: ModelSource | None) -> None:
        """Starts the workers, numbered from 0. Each sends Ready when it has its model."""

    def assign(self, worker: int, lease: Lease) -> None:
        """Sends a lease to a worker that has none."""

    def receive(self, seconds: float) -> Received:
        """The messages that have come, in the order of each worker; waits so long for the first."""

    def stop(self) -> None:
        """Ends all workers. What they have not sent is lost."""


@dataclass
class Driver:
    """Searches the rounds of an evaluation by the workers of a pool. A context manager, which stops them."""

    pool: Pool
    source: ModelSource | None = None  # of a model that cannot be sent
    answers: Answers = field(default_factory=Answers)
    _idle: set[int] = field(default_factory=set)
    _silent: set[int] = field(default_factory=set)  # for too long: they get a lease once they have answered after all
    _alive: set[int] = field(default_factory=set)
    _started: bool = False
    _leases: int = 0  # given in earlier rounds
    _noted: set[str] = field(default_factory=set)

    def __enter__(self) -> "Driver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pool.stop()

    def search_round(self, evaluation: Evaluation, one: Round) -> bool:
        """Does what is missing of a round. Returns whether it came to its end."""
        numbers = evaluation.missing(one)
        if not len(numbers):
            return True
        self._start(evaluation)
        queue = LeaseQueue(numbers, self.pool.count, evaluation.plan.slots, self._leases)
        search = RoundSearch(evaluation, one, queue)
        while not search.queue.done:
            for worker in sorted(self._idle):
                if lease := search.lease(worker):
                    self._idle.discard(worker)
                    self.pool.assign(worker, lease)
                    self.answers.begin(worker, time.monotonic())
            received = self.pool.receive(WAIT)
            for worker in {worker for worker, _ in received}:
                self.answers.note(worker, time.monotonic())
            if reports := [(worker, message) for worker, message in received if isinstance(message, Report)]:
                with evaluation.run.writing():
                    for worker, report in reports:
                        search.store(worker, report)
            for worker, message in received:
                self._take(search, worker, message)
            for worker in self.answers.overdue(time.monotonic()):
                self._give_up(search, worker)
            self._leases = search.queue.next
            if time.monotonic() > evaluation.deadline or evaluation.stops_early():
                self.pool.stop()
                return False
        return True

    def _start(self, evaluation: Evaluation) -> None:
        """Starts the workers, once the conditions of the search are known."""
        if self._started:
            return
        evaluation.settle_precision()
        self._started, self._alive = True, set(range(self.pool.count))
        setup = Setup(
            evaluation.plan,
            evaluation.protocol,
            evaluation.split,
            evaluation.referee.classifier,
            evaluation.classifier.device,
            evaluation.notes.of_model(),
        )
        self.pool.start(setup, self.source)

    def _take(self, search: RoundSearch, worker: int, message: Message) -> None:
        evaluation = search.evaluation
        match message:
            case Ready():
                self._idle.add(worker)
            case Finished(lease) if search.queue.holds(worker, lease):
                search.finish(lease)
                self.answers.end(worker)
                self._idle.add(worker)
            case Finished() if worker in self._silent:  # too late; but it lives
                self._silent.discard(worker)
                self._idle.add(worker)
            case Moved() if search.queue.holds(worker, message.lease):
                search.moved(message)
            case Noted(text) if text not in self._noted:
                self._noted.add(text)
                evaluation.progress.noted(text)
            case Failed(text, by_user):
                raise UserError(text) if by_user else RuntimeError(f"a worker failed: {text}")
            case Lost(why) if worker in self._alive:
                self._lose(search, worker, why)
            case _:
                pass

    def _lose(self, search: RoundSearch, worker: int, why: str) -> None:
        """Gives the examples of a worker that has ended to the others."""
        for workers in (self._alive, self._idle, self._silent):
            workers.discard(worker)
        back = self._given_back(search, worker)
        if not self._alive:
            raise UserError(
                f"all workers have ended (the last one: {why}); what they found is in the run file: type the same"
                " command again, with fewer --workers if the memory was too small"
            )
        self._refuse_silence()
        text = f"worker {worker + 1} has ended ({why})"
        search.evaluation.progress.noted(f"{text}; {back}" if back else text)

    def _give_up(self, search: RoundSearch, worker: int) -> None:
        """Gives the examples of a worker that does not answer to the others."""
        self._silent.add(worker)
        back = self._given_back(search, worker)
        self._refuse_silence()
        minutes = counted(round(self.answers.limit / 60), "minute")
        search.evaluation.progress.noted(f"worker {worker + 1} has sent nothing for {minutes}; {back}")

    def _given_back(self, search: RoundSearch, worker: int) -> str:
        """Puts the examples of a worker back into the queue. Returns what to say about it; empty for none."""
        self.answers.end(worker)
        back = search.give_back(worker)
        return f"its {counted(len(back), 'example')} go back into the queue" if back else ""

    def _refuse_silence(self) -> None:
        """Raises UserError where no worker is left that answers."""
        if not self._alive - self._silent:
            minutes = counted(round(self.answers.limit / 60), "minute")
            raise UserError(
                f"no worker answers: {counted(len(self._silent), 'worker')} sent nothing for {minutes}; what they"
                " found is in the run file: type the same command again, with less on the machine if it was overloaded"
            )
