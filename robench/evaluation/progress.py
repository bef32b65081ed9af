"""What an evaluation reports while it works."""

from typing import Protocol, runtime_checkable

from ..results.summary import Summary


@runtime_checkable
class Progress(Protocol):
    """Receives the progress of an evaluation."""

    def clean(self, summary: Summary) -> None:
        """The clean accuracy is known."""

    def attacking(self, threat: str, attack: str) -> None:
        """Another attack starts."""

    def moved(self, standing: int, queries_done: int, queries_left: int) -> None:
        """The search has advanced: at most `standing` examples are unbroken under the threat.

        The run has made `queries_done` queries of the model since it was started, and has about `queries_left` to go.
        """

    def noted(self, text: str) -> None:
        """Something a user should know, as a sentence without its full stop."""


class Silence:
    """A progress that reports nothing."""

    def clean(self, summary: Summary) -> None:
        pass

    def attacking(self, threat: str, attack: str) -> None:
        pass

    def moved(self, standing: int, queries_done: int, queries_left: int) -> None:
        pass

    def noted(self, text: str) -> None:
        pass
