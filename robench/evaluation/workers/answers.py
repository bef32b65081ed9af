"""When workers have answered, and how long one may stay silent before its examples go to others."""

from dataclasses import dataclass, field

FLOOR = 1800.0  # seconds: an attack of another library says nothing until it has finished its batch
TIMES = 10  # of the longest silence after which a worker answered, on top of it


@dataclass
class Answers:
    """The times at which the workers that hold a lease last sent something. All times are those of time.monotonic()."""

    floor: float = FLOOR
    longest: float = 0.0  # seconds that a worker was silent and then answered
    _last: dict[int, float] = field(default_factory=dict)  # its lease, or its last message, by worker

    @property
    def limit(self) -> float:
        """The seconds for which a worker may be silent."""
        return self.floor + TIMES * self.longest

    def begin(self, worker: int, now: float) -> None:
        """A worker has got a lease."""
        self._last[worker] = now

    def note(self, worker: int, now: float) -> None:
        """A worker has sent something."""
        if worker in self._last:
            self.longest = max(self.longest, now - self._last[worker])
            self._last[worker] = now

    def end(self, worker: int) -> None:
        """A worker holds no lease any more."""
        self._last.pop(worker, None)

    def overdue(self, now: float) -> list[int]:
        """The workers that have been silent for longer than the limit."""
        return [worker for worker, last in self._last.items() if now - last > self.limit]
