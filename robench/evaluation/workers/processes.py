"""Workers as processes of this machine. They are reached through pipes of their own: nothing listens for others."""

import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import torch
from torch import multiprocessing

from ...errors import ProgramEnded, UserError
from ...problem.classifier import Classifier
from ...problem.memory import keep_freed_memory
from ...problem.module_copy import own_copy
from ...problem.process import plain_process
from ..model_source import ModelSource
from .messages import Failed, Lease, Lost, Message, Ready, Received, Setup

PATIENCE = 5.0  # seconds that a worker has to end


@dataclass
class Processes:
    """Workers on this machine, each with a number of threads. The GPUs are given to them in turn."""

    count: int
    threads: int = 1
    _processes: list[BaseProcess] = field(default_factory=list)
    _pipes: list[Connection | None] = field(default_factory=list)  # None: the worker has ended

    def start(self, setup: Setup, source: ModelSource | None) -> None:
        """Starts the workers. Images and weights go into memory that all of them read.

        Raises UserError where an attack, or a model without a source, cannot be sent to another process.
        """
        context = multiprocessing.get_context("spawn")
        sent = replace(setup, model=sendable(setup.model, source))
        sent.split.x.share_memory_()  # type: ignore[no-untyped-call]
        for number in range(self.count):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=work, args=(theirs, sent, number, self.threads), daemon=True, name=f"robench worker {number + 1}"
            )
            self._processes.append(process)
            self._pipes.append(ours)
            try:
                with _ignoring_ctrl_c():  # which the worker inherits: the driver ends it
                    process.start()
            except Exception as error:  # whatever pickling raises
                self._processes.pop()
                raise UserError(
                    f"the evaluation cannot be sent to other processes ({error}), as with an attack of your own; leave"
                    " --workers out, or use --shard"
                ) from error
            theirs.close()  # so that the end of the worker closes the pipe

    def assign(self, worker: int, lease: Lease) -> None:
        """Sends a lease; one that no longer arrives comes back when the worker is found to have ended."""
        pipe = self._pipes[worker]
        assert pipe is not None, "a worker that has ended gets no lease"
        with suppress(OSError):
            pipe.send(lease)

    def receive(self, seconds: float) -> Received:
        """The messages that have come."""
        open_pipes = {pipe: number for number, pipe in enumerate(self._pipes) if pipe is not None}
        received = list[tuple[int, Message]]()
        for ready in connection.wait(list(open_pipes), seconds):
            assert isinstance(ready, Connection), "only pipes are waited for"
            number = open_pipes[ready]
            try:
                received.append((number, ready.recv()))
                while ready.poll():
                    received.append((number, ready.recv()))
            except (EOFError, OSError):
                received.append((number, Lost(self._end(number))))
        return received

    def stop(self) -> None:
        """Ends all workers."""
        started = [(number, process) for number, process in enumerate(self._processes) if process.pid is not None]
        for _, process in started:
            if process.is_alive():
                process.terminate()
        for number, process in started:
            process.join(PATIENCE)
            if process.is_alive():
                process.kill()
                process.join()
            self._close(number)
        self._processes, self._pipes = [], []

    def _end(self, number: int) -> str:
        """Closes the pipe of a worker that has ended, and returns how it ended."""
        process = self._processes[number]
        process.join(PATIENCE)
        self._close(number)
        code = process.exitcode
        return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"

    def _close(self, number: int) -> None:
        if (pipe := self._pipes[number]) is not None:
            pipe.close()
            self._pipes[number] = None


@contextmanager
def _ignoring_ctrl_c() -> Iterator[None]:
    """A context in which Ctrl-C is ignored, where that can be set: in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.default_int_handler)


def sendable(model: Classifier | ModelSource, source: ModelSource | None) -> Classifier | ModelSource:
    """A copy of the model on the CPU; its source where it cannot be pickled, as when its code is in a file."""
    if not isinstance(model, Classifier):
        return model
    copied = Classifier(
        own_copy(model.module).cpu(),
        name=model.name,
        architecture=model.architecture,
        shape=model.shape,
        classes=model.classes,
        normalisation=model.normalisation,
    )
    try:
        pickle.Pickler(_Nowhere()).dump(copied)  # the pickler of multiprocessing would open a socket for the weights
    except Exception:  # whatever pickling raises
        return source or copied
    return copied


class _Nowhere:
    """A file that discards what is written."""

    def write(self, data: object) -> int:
        return 0


def work(pipe: Connection, setup: Setup, number: int, threads: int) -> None:
    """The life of a worker: it answers leases until the driver closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver ends the workers
    torch.set_num_threads(threads)
    keep_freed_memory()

    def send(message: Message) -> None:
        try:
            pipe.send(message)
        except OSError:  # the driver has ended
            os._exit(1)

    try:
        with plain_process():
            _answer(pipe, setup, number, send)
    except UserError as error:
        send(Failed(str(error), by_user=True))
    except ProgramEnded as ended:  # the process of a program in a file: another worker may have more memory, or luck
        send(Lost(str(ended)))
    except Exception:
        send(Failed(traceback.format_exc(), by_user=False))


def _answer(pipe: Connection, setup: Setup, number: int, send: Callable[[Message], None]) -> None:
    from .searcher import Searcher

    searcher = Searcher(replace(setup, device=_device(setup.device, number)), send)
    send(Ready())
    for lease in _leases(pipe):
        searcher.answer(lease)


def _leases(pipe: Connection) -> Iterator[Lease]:
    """The leases that the driver sends, until it closes the pipe or ends."""
    while True:
        try:
            lease: Lease = pipe.recv()
        except (EOFError, OSError):
            return
        yield lease


def _device(device: torch.device, number: int) -> torch.device:
    """The device of a worker: GPUs in turn, unless one is named."""
    if str(device) != "cuda":
        return device
    return torch.device("cuda", number % torch.cuda.device_count())
