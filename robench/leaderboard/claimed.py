"""Numbers that publications report, beside the measured ones and never among them."""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from .entries import ClaimedRow, Table


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


def claimed_once(tables: Iterable[Table]) -> tuple[Table, ...]:
    """The tables, with published rows only in the first of those under the same threats: the one with most models."""
    seen = set[frozenset[str]]()
    found = []
    for table in tables:
        threats = frozenset(table.threats)
        found.append(msgspec.structs.replace(table, claimed=()) if threats in seen else table)
        seen.add(threats)
    return tuple(found)
