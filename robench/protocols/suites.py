"""Suites: several attacks under one name."""

from typing import Any

from ..errors import UserError

Entry = dict[str, Any]  # as a protocol writes an attack: its name, its settings, label and restarts

_GRADIENTS_THEN_MORE: list[Entry] = [
    {"attack": "apgd", "label": "apgd-ce"},
    {"attack": "apgd", "label": "apgd-t", "loss": "dlr", "targets": 9},
    {"attack": "fab", "label": "fab-t"},
    {"attack": "square"},
]

# Croce and Hein 2020, https://arxiv.org/abs/2003.01690; under l_1 Croce and Hein 2021, https://arxiv.org/abs/2103.01208.
SUITES: dict[str, dict[str, list[Entry]]] = {
    "autoattack": {
        "linf": _GRADIENTS_THEN_MORE,
        "l2": _GRADIENTS_THEN_MORE,
        "l1": [
            {"attack": "apgd", "label": "apgd-ce", "restarts": 5},
            {"attack": "apgd", "label": "apgd-t", "loss": "dlr", "targets": 5},
            {"attack": "fab", "label": "fab-t"},
            {"attack": "square"},
        ],
    },
}

ABOUT = {
    "autoattack": "the standard suite with its official budgets: APGD-CE, APGD-T, FAB-T, Square,"
    " Croce and Hein 2020, https://arxiv.org/abs/2003.01690",
}


def attacked(name: str) -> list[str]:
    """The threats that a suite has attacks for."""
    return list(SUITES[name])


def expanded(entry: Entry, threat: str) -> list[Entry]:
    """The attacks of a suite under a threat; the entry itself if it names a single attack."""
    suite = SUITES.get(str(entry["attack"]))
    if suite is None:
        return [entry]
    settings = [key for key in entry if key != "attack"]
    if settings:
        raise UserError(
            f"{entry['attack']} is a suite and takes no settings, not {settings[0]}; name its attacks"
            f" ({', '.join(dict.fromkeys(e['attack'] for e in next(iter(suite.values()))))}) to set theirs"
        )
    return suite.get(threat, [])
