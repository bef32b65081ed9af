"""A run in memory that also passes its records on: the run file of a worker."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import cast

from ...evidence.images import Image
from ...evidence.records import (
    Claim,
    Effort,
    Evidence,
    Exhausted,
    Failure,
    Probe,
    Verdict,
)
from ...evidence.store import RunFile
from .messages import Records


class Recorder(RunFile):
    """Holds what a worker knows about the examples of a lease, and passes on what it adds, after every transaction."""

    _send: Callable[[Records], None]
    _new: Records | None = None  # since the last transaction; None while it takes in what is known

    @classmethod
    def knowing(cls, evidence: Evidence, send: Callable[[Records], None]) -> "Recorder":
        """A recorder that knows this evidence, and passes later records to `send`."""
        recorder = cast("Recorder", cls.in_memory())
        with recorder.writing():
            recorder.adopt(evidence, {}, [])
        recorder._new, recorder._send = Records(), send
        return recorder

    @contextmanager
    def writing(self) -> Iterator[None]:
        with super().writing():
            yield
        if self._new is not None and not self._new.empty:
            sent, self._new = self._new, Records()
            self._send(sent)

    def put_judged(self, claim: Claim, verdict: Verdict, image: Image) -> None:
        super().put_judged(claim, verdict, image)
        if self._new is not None:
            self._new.judged.append((claim, verdict, image))

    def put_exhausted(self, records: Iterable[Exhausted]) -> None:
        records = list(records)
        super().put_exhausted(records)
        if self._new is not None:
            self._new.exhausted += records

    def put_failures(self, records: Iterable[Failure]) -> None:
        records = list(records)
        super().put_failures(records)
        if self._new is not None:
            self._new.failures += records

    def put_effort(self, records: Iterable[Effort]) -> None:
        records = list(records)
        super().put_effort(records)
        if self._new is not None:
            self._new.efforts += records

    def put_probes(self, records: Iterable[Probe]) -> None:
        records = list(records)
        super().put_probes(records)
        if self._new is not None:
            self._new.probes += records
