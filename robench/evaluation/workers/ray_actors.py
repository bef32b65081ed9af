"""Workers as actors of a Ray cluster. The only module that imports Ray, which is an extra.

Images and weights go once into Ray's object store. Leases and reports are the same as those of other workers.
"""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import ray
import torch

from ...errors import ProgramEnded, UserError, described
from ...problem.memory import keep_freed_memory
from ...problem.process import plain_process
from ..model_source import ModelSource
from .messages import Failed, Lease, Lost, Message, Ready, Received, Setup
from .processes import sendable
from .searcher import Searcher

POLL = 0.25  # seconds between the answers of an actor that has nothing to send


@dataclass
class RayActors:
    """Actors on a cluster, each with a number of CPUs and a share of a GPU."""

    address: str
    count: int
    threads: int = 1
    gpus: float = 0.0
    _actors: dict[int, Any] = field(default_factory=dict)
    _pending: dict[Any, int] = field(default_factory=dict)  # requests for messages, with the actor of each

    def start(self, setup: Setup, source: ModelSource | None) -> None:
        """Connects to the cluster, and starts the actors. Raises UserError where there is no cluster."""
        try:
            connect(self.address)
            model = sendable(setup.model, source)
            stored = ray.put(replace(setup, model=model, split=replace(setup.split, origin=None)))
        except Exception as error:  # whatever Ray raises
            raise UserError(
                f"Ray at {self.address} cannot be used ({described(error)}); `ray start --head` starts a cluster and"
                " shows its address"
            ) from error
        remote = ray.remote(num_cpus=self.threads, num_gpus=self.gpus, max_restarts=0, max_concurrency=2)(_Actor)
        for number in range(self.count):
            self._actors[number] = remote.remote(stored, self.threads, self.gpus > 0)
            self._request(number)

    def assign(self, worker: int, lease: Lease) -> None:
        """Sends a lease to an actor."""
        self._actors[worker].answer.remote(lease)

    def receive(self, seconds: float) -> Received:
        """The messages that have come."""
        received = list[tuple[int, Message]]()
        ready, _ = ray.wait(list(self._pending), num_returns=1, timeout=seconds) if self._pending else ([], [])
        more, _ = ray.wait(list(self._pending), num_returns=len(self._pending), timeout=0) if ready else ([], [])
        for reference in more:
            number = self._pending.pop(reference)
            try:
                received += [(number, message) for message in ray.get(reference)]
            except ray.exceptions.RayError as error:
                received.append((number, Lost(type(error).__name__)))
                del self._actors[number]
            else:
                self._request(number)
        return received

    def stop(self) -> None:
        """Ends the actors, and the connection to the cluster."""
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors, self._pending = {}, {}
        if ray.is_initialized():
            ray.shutdown()

    def _request(self, number: int) -> None:
        self._pending[self._actors[number].messages.remote()] = number


def connect(address: str) -> None:
    """Connects to a cluster that runs already. robench starts none: the processes of Ray listen on all interfaces."""
    ray.init(address=address, log_to_driver=False)


class _Actor:
    """One worker. It answers a lease in a thread, and gives out its messages meanwhile."""

    def __init__(self, setup: Setup, threads: int, on_gpu: bool):
        self._sent: queue.Queue[Message] = queue.Queue()
        self._searcher: Searcher | None = None
        device = torch.device("cuda" if on_gpu else "cpu")  # Ray shows an actor its own GPU alone
        # Tensors from the object store cannot be written to.
        split = replace(setup.split, x=setup.split.x.clone(), y=setup.split.y.clone())
        self._setup = replace(setup, device=device, split=split)
        torch.set_num_threads(threads)
        keep_freed_memory()
        self._begin(self._load)

    def answer(self, lease: Lease) -> None:
        """Begins to search the examples of a lease."""
        self._begin(lambda: self._search(lease))

    def messages(self) -> list[Message]:
        """What has been sent since the last call; nothing after a moment without messages."""
        try:
            found = [self._sent.get(timeout=POLL)]
        except queue.Empty:
            return []
        while not self._sent.empty():
            found.append(self._sent.get())
        return found

    def _load(self) -> None:
        self._searcher = Searcher(self._setup, self._sent.put)
        self._sent.put(Ready())

    def _search(self, lease: Lease) -> None:
        assert self._searcher is not None, "a lease comes after Ready"
        self._searcher.answer(lease)

    def _begin(self, task: Callable[[], None]) -> None:
        def run() -> None:
            try:
                with plain_process():
                    task()
            except UserError as error:
                self._sent.put(Failed(str(error), by_user=True))
            except ProgramEnded as ended:
                self._sent.put(Lost(str(ended)))
            except Exception as error:
                self._sent.put(Failed(described(error), by_user=False))

        threading.Thread(target=run, daemon=True).start()
