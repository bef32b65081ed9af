"""What the process that checks a program answers."""

import json
from dataclasses import dataclass


class Refused(Exception):  # noqa: N818 (it is a decision about a file, not a fault of ours)
    """The program may do more than compute; the text completes "a TorchScript program that ..."."""


class Damaged(Exception):  # noqa: N818
    """The file is no whole TorchScript archive; the text is the reason."""


@dataclass(frozen=True)
class Inspection:
    """Whether a program is known to only compute, or why not. At most one of the two reasons is there."""

    refused: str = ""
    damaged: str = ""

    def to_json(self) -> bytes:
        return json.dumps({"refused": self.refused, "damaged": self.damaged}).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "Inspection":
        """Raises ValueError where the text is no verdict."""
        read = json.loads(text)
        if not isinstance(read, dict) or set(read) != {"refused", "damaged"}:
            raise ValueError("no verdict")
        return cls(str(read["refused"]), str(read["damaged"]))
