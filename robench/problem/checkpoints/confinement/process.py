"""The process of a program as we see it: it is started, answers requests in time, and is not trusted."""

import hashlib
import mmap
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from itertools import count
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired
from typing import Any

import msgspec
import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ....errors import ProgramEnded, UserError
from ...multiply_adds import MultiplyAdds
from ..apart import command
from . import tensors as shared
from .kernel import NotConfined
from .limits import environment
from .messages import Closed, File, Reply, Request, TooLate, receive, send
from .tensors import Placed

if sys.platform == "linux":
    import fcntl

CHILD = f"{__package__}.child"
START = 300  # seconds in which torch is imported, on a machine that does much else
VARIABLE = "ROBENCH_PROGRAM_SECONDS"  # of the environment: the time for one answer
SECONDS, SECONDS_PER_IMAGE = 120, 10
ROOM = 1 << 20  # bytes of shared memory at first
TRUST = "if you trust who made it, add --trust-pickle"
GRACE = 10  # seconds after which the process ends by itself, if this one is gone
KNOWN: tuple[type[Exception], ...] = (
    *(AssertionError, IndexError, MemoryError),
    *(NotImplementedError, RuntimeError, TypeError, ValueError),
)


def seconds_for(images: int) -> int:
    """The seconds in which a program has to answer for so many images. Raises UserError for a wrong setting."""
    text = os.environ.get(VARIABLE)
    if text is None:
        return SECONDS + SECONDS_PER_IMAGE * images
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 10**6):
        raise UserError(f"{VARIABLE} is {text!r}; set it to a number of seconds such as 600, or unset it")
    return int(text)


class Process:
    """A process that has loaded nothing but one file. It ends with the last reference to it.

    Raises NotConfined if the system lacks the means, and UserError if no process can be started.
    """

    def __init__(self, path: str, kind: str, data: bytes):
        if sys.platform != "linux" or not hasattr(os, "memfd_create"):
            raise NotConfined("only Linux has the means")
        self.path, self.kind = path, kind
        self.size = len(data)  # of the file
        self.confined_by = ""
        self.ended = ""  # the sentence that says why
        self.handles = count(1)
        self.unused_programs: list[int] = []
        self.unused_graphs: list[int] = []
        self._lock = threading.RLock()
        held = _filled(data)
        self._memory = _memory("images", ROOM, fcntl.F_SEAL_SHRINK)
        self._map(ROOM)
        shown = path.encode(errors="replace").decode()  # a name may hold bytes that are no text
        about = msgspec.json.encode(File(shown, kind, held, len(data), self._memory, ROOM)).decode()
        try:
            self._process = Popen(
                command(CHILD, about),
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,
                bufsize=0,
                env=environment(os.environ),
                pass_fds=(held, self._memory),
            )
        except OSError as error:
            raise UserError(f"{path} needs a process of its own, which cannot be started ({error.strerror})") from None
        finally:
            os.close(held)
        pipes = self._process.stdin, self._process.stdout
        self._requests, self._replies = (pipe.fileno() for pipe in pipes if pipe is not None)
        self._finalizer = weakref.finalize(self, _end, self._process, self._memory, os.getpid())

    @property
    def pid(self) -> int:
        """Its number in the system."""
        return self._process.pid

    def wait_until_confined(self) -> None:
        """Waits until the process has given up its rights; before that it reads nothing of the file."""
        if self.confined_by:
            return
        try:
            reply = self._reply(time.monotonic() + START)
        except (Closed, TooLate, msgspec.MsgspecError):
            raise UserError(f"{self.path} needs a process of its own, which does not start; {TRUST}") from None
        if not reply.ready:
            self.end("was not confined")
            raise NotConfined(reply.lacking)
        self.confined_by = reply.ready

    def call(
        self, op: str, given: Sequence[Tensor] = (), *, what: str, images: int = 0, limit: int = 0, **settings: Any
    ) -> tuple[Reply, list[Tensor]]:
        """The answer to a request with these tensors, and its tensors, which have at most `limit` bytes in all.

        The time for it grows with the images that it is about. `what` completes messages. Raises what the
        program raises, under the same name, and ProgramEnded if there is no answer, now or before. Torch's generator
        goes on as if the program had run here.
        """
        seconds = seconds_for(images)
        with self._lock:
            if self.ended:
                raise ProgramEnded(self.ended)
            try:
                reply, tensors = self._call(op, given, limit, seconds, settings)
            except Closed:
                raise ProgramEnded(self.end(self._why())) from None
            except TooLate:
                slow = f"gave no answer {what} within {seconds} seconds (set {VARIABLE} to more if it is only slow)"
                raise ProgramEnded(self.end(slow)) from None
            except (msgspec.MsgspecError, shared.Misplaced, UnicodeDecodeError):
                raise ProgramEnded(self.end(f"gave something else than an answer {what}")) from None
            except BaseException:
                self.end("was stopped")
                raise
        if reply.error or reply.kind:
            raise UserError(reply.error) if reply.refused else _error(reply.kind, reply.error)
        return reply, tensors

    def end(self, why: str) -> str:
        """Ends the process, and returns the sentence for the user."""
        if not self.ended:
            end = "its process was ended, and a run keeps what was found before"
            self.ended = f"{self.path} is a program that {why}; {end}"
            self._finalizer()
        return self.ended

    def _call(
        self, op: str, given: Sequence[Tensor], limit: int, seconds: int, settings: dict[str, Any]
    ) -> tuple[Reply, list[Tensor]]:
        until = time.monotonic() + seconds
        state = torch.default_generator.get_state()
        places = self._put([*given, state])
        counting = _get_current_dispatch_mode()
        request = Request(
            op=op,
            size=len(self._bytes),
            seconds=seconds + GRACE,
            tensors=places[:-1],
            random=places[-1],
            unused_programs=_emptied(self.unused_programs),
            unused_graphs=_emptied(self.unused_graphs),
            threads=torch.get_num_threads(),
            matmul=torch.get_float32_matmul_precision(),
            count=isinstance(counting, MultiplyAdds),
            **settings,
        )
        send(self._requests, request)
        reply = self._reply(until)
        if reply.room:
            if not len(self._bytes) < reply.room <= limit + ROOM:
                raise shared.Misplaced
            self._make_room(reply.room)
            send(self._requests, msgspec.structs.replace(request, size=len(self._bytes)))
            reply = self._reply(until)
        tensors = [shared.read(self._bytes, place, limit) for place in reply.tensors]
        if sum(tensor.nbytes for tensor in tensors) > limit:
            raise shared.Misplaced
        if reply.random is not None:
            self._go_on(shared.read(self._bytes, reply.random, ROOM), state)
        if isinstance(counting, MultiplyAdds):
            counting.add(*reply.counts)
        return reply, tensors

    def _go_on(self, found: Tensor, sent: Tensor) -> None:
        """Sets torch's generator to the state in which the program left it."""
        if found.dtype != sent.dtype or found.shape != sent.shape:
            raise shared.Misplaced
        try:
            torch.default_generator.set_state(found)
        except RuntimeError:  # torch checks that it is a state
            raise shared.Misplaced from None

    def _reply(self, until: float) -> Reply:
        return msgspec.json.decode(receive(self._replies, until), type=Reply)

    def _put(self, given: list[Tensor]) -> list[Placed]:
        ready, places, end = shared.arranged(given)
        self._make_room(end)
        for tensor, place in zip(ready, places, strict=True):
            shared.write(self._bytes, tensor, place)
        return places

    def _make_room(self, size: int) -> None:
        if size > len(self._bytes):
            os.ftruncate(self._memory, size)
            self._map(size)

    def _map(self, size: int) -> None:
        self._bytes = torch.frombuffer(mmap.mmap(self._memory, size), dtype=torch.uint8)

    def _why(self) -> str:
        """Why the process ended by itself."""
        try:
            code = self._process.wait(timeout=GRACE)
        except TimeoutExpired:
            return "answers no more"
        if code == -signal.SIGALRM:
            return "gave no answer in time"
        if code == -signal.SIGKILL:
            return "was killed by the system, often for lack of memory"
        return f"crashed torch ({signal.Signals(-code).name})" if code < 0 else f"ended Python (exit code {code})"


def started(path: str, kind: str, data: bytes) -> Process:
    """A process for the program in these bytes of a file; the one that runs, if there is one."""
    key = (path, kind, hashlib.sha256(data).hexdigest())
    known = _running.get(key)
    if known is None or known.ended:
        known = _running[key] = Process(path, kind, data)
    return known


_running: "weakref.WeakValueDictionary[tuple[str, str, str], Process]" = weakref.WeakValueDictionary()


def _memory(name: str, size: int, seals: int) -> int:
    """Memory without a name in the file system, which is gone with its last descriptor."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def _filled(data: bytes) -> int:
    """Memory with these bytes, which nothing changes."""
    descriptor = _memory("program", len(data), fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    return descriptor


def _end(process: Popen[bytes], memory: int, owner: int) -> None:
    """Ends the process, unless this is a fork of the one that started it."""
    if os.getpid() != owner:
        return
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    os.close(memory)


def _emptied(handles: list[int]) -> list[int]:
    """The handles so far; finalizers may add others meanwhile."""
    found = []
    while handles:
        found.append(handles.pop())
    return found


def _error(kind: str, text: str) -> Exception:
    """An error of the program, under its own name."""
    for known in KNOWN:
        if known.__name__ == kind:
            return known(text)
    made: Exception = type(kind if kind.isidentifier() else "Error", (RuntimeError,), {})(text)
    return made
