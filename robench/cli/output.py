"""Standard output and error that fail in no surprising way: a reader that goes away, a full disk, a narrow encoding."""

import codecs
import io
import json
import sys
from typing import TYPE_CHECKING, TextIO

from ..errors import UserError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

NARROW = "robench-narrow"  # the name of `_spelled` among Python's handlers of encoding errors

_SPELLED = {"≤": "<=", "≥": ">=", "×": "x", "–": "-", "—": "-", "…": "...", "→": "->", "±": "+-", "≈": "~"}


def prepare_output() -> None:
    """Prepare both streams of this process, once. Streams that others have put in their place stay as they are."""
    codecs.register_error(NARROW, _spelled)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _prepared(sys.stdout, _Output)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _prepared(sys.stderr, _Messages)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=NARROW)


class _Output(io.FileIO):
    """A file that drops what is written after its reader has gone or its disk is full.

    A reader that goes away is no error, and changes no exit code. Raises UserError, once, if the disk is full.
    """

    lost = False

    def write(self, data: "ReadableBuffer", /) -> int:
        if self.lost:
            return memoryview(data).nbytes
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            self.lost = True
            return memoryview(data).nbytes
        except OSError as error:
            self.lost = True
            self.failed(error)
            return memoryview(data).nbytes

    def failed(self, error: OSError) -> None:
        raise UserError(f"the output cannot be written: {error.strerror}; write it to another place") from None


class _Messages(_Output):
    """The same for messages, of whose loss nothing can be said."""

    def failed(self, error: OSError) -> None:
        pass


def _prepared(stream: TextIO | None, kind: type[_Output]) -> TextIO | None:
    """A stream of this kind with the file and the encoding of another one; the same one if it has no file."""
    try:
        assert isinstance(stream, io.TextIOWrapper)
        raw = kind(stream.fileno(), "w", closefd=False)
    except (AssertionError, OSError, ValueError):
        return stream
    buffer = io.BufferedWriter(raw)
    return io.TextIOWrapper(buffer, stream.encoding, line_buffering=stream.line_buffering, write_through=False)


def _spelled(error: UnicodeError) -> tuple[str, int]:
    """Signs that the encoding lacks, in letters it has; any other character escaped as in JSON."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_SPELLED.get(c, json.dumps(c)[1:-1]) for c in missing), error.end
