"""Numbers that publications report, beside the measured ones and never among them."""

from collections.abc import Iterable
from dataclasses import dataclass

from .entries import ClaimedRow


@dataclass(frozen=True)
class Publication:
    """What a publication reports of one model under one set of threats."""

    data: str  # mnist:test
    threats: frozenset[str]
    row: ClaimedRow


def claimed_rows(publications: Iterable[Publication], data: str, threats: tuple[str, ...]) -> tuple[ClaimedRow, ...]:
    """The rows about these data under exactly these threats, by source and name, with the columns of the table."""
    columns = ("clean", *threats, "union", "average")
    found = {
        (p.row.source, p.row.name): {column: p.row.accuracy[column] for column in columns if column in p.row.accuracy}
        for p in publications
        if p.data == data and p.threats == frozenset(threats)
    }
    return tuple(ClaimedRow(name, source, accuracy) for (source, name), accuracy in sorted(found.items()) if accuracy)
