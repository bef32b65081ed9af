"""Output whose reader may go away, whose disk may be full, and whose encoding may lack letters."""

import codecs
import errno
import io
import json
import os
import sys
from typing import TextIO

from ..errors import UserError

MESSAGES = "the messages"
NARROW = "robench-narrow"  # the name of `_spelled` among Python's handlers of encoding errors
_SPELLED = {"≤": "<=", "≥": ">=", "×": "x", "–": "-", "—": "-", "…": "...", "→": "->", "±": "+-", "≈": "~"}


class _Stream(io.FileIO):
    """Writes to a descriptor of the process. Where nobody reads it any more, what follows is discarded.

    So a command ends with its own exit code. Raises UserError once for any other error, such as a full disk; where
    messages cannot be written, no message can say so.
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
            if self._what == MESSAGES:
                return memoryview(data).nbytes
            raise UserError(f"{self._what} cannot be written: {error.strerror}; send it elsewhere") from None


def use() -> None:
    """Prints through such streams from now on, unless something else has replaced those of the process."""
    codecs.register_error(NARROW, _spelled)
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:
        sys.stdout = _text(sys.stdout, "the output")
    if sys.stderr is sys.__stderr__ and sys.stderr is not None:
        sys.stderr = _text(sys.stderr, MESSAGES)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=NARROW)


def _text(stream: TextIO, name: str) -> TextIO:
    """The stream with the same encoding."""
    try:
        raw = _Stream(stream.fileno(), name)
    except (OSError, ValueError):  # closed, or none of the system
        return stream
    lines = bool(stream.line_buffering) or raw.isatty()
    return io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, line_buffering=lines)


def _discard(descriptor: int) -> None:
    """Let the descriptor lead nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _spelled(error: UnicodeError) -> tuple[str, int]:
    """Signs that the encoding lacks, in letters it has; any other character escaped as in JSON."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_SPELLED.get(c, json.dumps(c)[1:-1]) for c in lacking), error.end
