"""The expected time of a comparison on clean images, logged where it is long: nothing else is printed by then."""

import time
from dataclasses import dataclass, field
from logging import getLogger

LONG = 5.0  # seconds
BATCH = 16  # images; the first batch shows the speed


@dataclass
class Wait:
    """A number of forward passes; after the first batch a line is logged if the rest takes long."""

    what: str  # what is done, as the beginning of a sentence
    images: int
    started: float = field(default_factory=time.monotonic)
    logged: bool = False

    def passed(self, images: int) -> None:
        """Counts a batch that has gone through a network."""
        left = (time.monotonic() - self.started) * (self.images - images) / images
        if not self.logged and left > LONG:
            minutes, seconds = divmod(round(left), 60)
            getLogger("robench").warning(f"{self.what} takes about {minutes}:{seconds:02}")
        self.logged = True
