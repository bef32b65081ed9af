"""What a program's process and ours write to each other: requests and replies as JSON, each after its length.

Nothing in a reply is code, and whatever is in one is checked against its type.
"""

import os
import select
import time
from typing import Any

import msgspec

from .tensors import Placed

LONGEST = 1 << 24  # bytes of a reply


class File(msgspec.Struct, frozen=True):
    """The file of a process, and the memory that it shares with us, both as descriptors."""

    path: str  # for messages
    kind: str  # torchscript, exported, onnx
    descriptor: int
    size: int
    memory: int
    room: int  # bytes of the memory


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the process has to do."""

    op: str  # load, copy, round, read, state, forward, backward
    handle: int = 0  # of the program
    new: int = 0  # the handle of a new program, or of a new graph
    size: int  # bytes of the shared memory
    seconds: int  # after which the process ends
    tensors: list[Placed] = []
    unused_programs: list[int] = []
    unused_graphs: list[int] = []
    threads: int = 1
    matmul: str = "highest"
    random: Placed | None = None  # the state of the generator
    grad: bool = False  # whether gradients are recorded
    leaf: bool = False  # whether the images need one
    training: bool = False
    trainable: bool = False  # whether the weights need gradients, which a program can see
    count: bool = False  # the multiply-adds
    with_repairs: bool = False  # with other derivatives, as `problem.repairs` gives them
    leak: float = 0.0
    sharpness: float = 0.0
    watched: bool = False  # whether the values inside that could be logits are answers too
    channels_last: bool = False
    outputs: list[int] = []  # of a graph, those that `tensors` are the gradients of


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What the process answers."""

    ready: str = ""  # what confines it
    lacking: str = ""  # why nothing does
    error: str = ""
    kind: str = ""  # the class of the error
    refused: bool = False  # whether it is a sentence for the user
    room: int = 0  # bytes that the answer needs, if the memory is too small
    tensors: list[Placed] = []
    needs_grad: list[bool] = []
    tree: Any = None  # what the program returned
    names: list[str] = []  # of weights
    kinds: list[int] = []  # of weights: 0 for a buffer, 1 for a parameter, 2 for one that needs a gradient
    counts: tuple[int, int] = (0, 0)
    random: Placed | None = None  # the state of the generator, if it has changed
    sizes: list[int] = []  # of an image, where an exported program fixes them; 0 where not


class Closed(Exception):  # noqa: N818
    """The other process has ended."""


class TooLate(Exception):  # noqa: N818
    """No answer came in time."""


def send(descriptor: int, message: msgspec.Struct) -> None:
    """Writes a message. Raises Closed if none reads it."""
    text = msgspec.json.encode(message)
    data = len(text).to_bytes(8, "little") + text
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        raise Closed from None


def receive(descriptor: int, until: float | None = None) -> bytes:
    """The text of the next message. Raises Closed, and TooLate if it has not come by this time.monotonic()."""
    size = int.from_bytes(_read(descriptor, 8, until), "little")
    if size > LONGEST:
        raise Closed
    return _read(descriptor, size, until)


def _read(descriptor: int, size: int, until: float | None) -> bytes:
    found = b""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while len(found) < size:
        if until is not None and not poll.poll(max(0.0, 1000 * (until - time.monotonic()))):
            raise TooLate
        try:
            part = os.read(descriptor, size - len(found))
        except OSError:
            part = b""
        if not part:
            raise Closed
        found += part
    return found
