"""The result of inspecting a program, as the inspecting process returns it."""

import json
from dataclasses import dataclass


class Refused(Exception):  # noqa: N818 (a decision about a file, not an internal error)
    """The program may do more than compute; the text completes "a TorchScript program that ..."."""


class Damaged(Exception):  # noqa: N818
    """The file is not a complete TorchScript archive; the text is the reason."""


@dataclass(frozen=True)
class Inspection:
    """The reason why a program is not known to only compute; at most one of the two is set, none if it is."""

    refused: str = ""
    damaged: str = ""

    def to_json(self) -> bytes:
        return json.dumps({"refused": self.refused, "damaged": self.damaged}).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "Inspection":
        """The inspection in `to_json`'s format. Raises ValueError for any other text."""
        read = json.loads(text)
        if not isinstance(read, dict) or set(read) != {"refused", "damaged"}:
            raise ValueError("not an inspection")
        return cls(str(read["refused"]), str(read["damaged"]))
