"""Output whose reader may go away, whose disk may be full, and whose encoding may lack letters."""

import errno
import io
import os
import sys
from typing import TextIO

from ..errors import UserError


class _Stream(io.FileIO):
    """Writes to a descriptor of the process. Where nobody reads it any more, what follows is discarded.

    So a command ends with its own exit code. Raises UserError once for any other error, such as a full disk.
    """

    def __init__(self, descriptor: int, name: str):
        super().__init__(descriptor, "w", closefd=False)
        self._what = name

    def write(self, data, /):  # type: ignore[no-untyped-def]  # the types of buffers differ between versions of Python
        try:
            return super().write(data)
        except OSError as error:
            _discard(self.fileno())
            if isinstance(error, BrokenPipeError) or error.errno == errno.EPIPE:
                return memoryview(data).nbytes
            raise UserError(f"{self._what} cannot be written: {error.strerror}; send it elsewhere") from None


def use() -> None:
    """Prints through such streams from now on, unless something else has replaced those of the process."""
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:
        sys.stdout = _text(sys.stdout, "the output")
    if sys.stderr is sys.__stderr__ and sys.stderr is not None:
        sys.stderr = _text(sys.stderr, "the messages")


def _text(stream: TextIO, name: str) -> TextIO:
    """The stream; letters that its encoding lacks are escaped."""
    try:
        raw = _Stream(stream.fileno(), name)
    except (OSError, ValueError):  # closed, or none of the system
        return stream
    lines = bool(stream.line_buffering) or raw.isatty()
    return io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, "backslashreplace", line_buffering=lines)


def _discard(descriptor: int) -> None:
    """Let the descriptor lead nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
