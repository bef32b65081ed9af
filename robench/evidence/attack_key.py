"""The key of an attack's evidence: which attack searched, and under which conditions.

Run files hold a key as text, such as `apgd(loss='margin', steps=100) over 20 passes by repaired under l2:1`. Only this
module writes and reads that text.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

Kind = Literal["first-order", "scores", "labels", "outside", "surrogate", "other"]
"""What a search relies on: the gradient at the image, scores, predicted classes, a gradient on the far side of the
boundary, or the gradient of a surrogate model. `other` stands for loops of other libraries, for attacks of the user's
own and for moved images."""

_KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("pgd", "apgd", "slide", "frank-wolfe", "fab", "cw", "ead", "ddn", "fmn", "pdpgd"), "first-order"),
    "square": "scores",
    **dict.fromkeys(("pointwise", "salt-and-pepper", "boundary", "hop-skip-jump", "rays"), "labels"),
    "brendel-bethge": "outside",
}
"""The kind of each attack. Results read records alone, so the classes of attacks are out of reach here; a test holds
this table and the next three equal to what the classes declare."""

_MINIMISING = frozenset(
    [
        "fab",
        "cw",
        "ead",
        "ddn",
        "fmn",
        "pdpgd",
        "sigma-zero",
        "brendel-bethge",
        "boundary",
        "hop-skip-jump",
        "rays",
        "pointwise",
        "salt-and-pepper",
    ]
)
"""Attacks that search for the nearest adversarial image: with `--curve` to the end of their budget."""

_SCALE_FREE = frozenset({"fab", "cw", "ead", "ddn", "fmn", "pdpgd", "sigma-zero", "brendel-bethge"})
"""Attacks whose loss grows with differences of logits and never saturates, whatever their settings."""

_SCALE_FREE_LOSSES = ("margin", "dlr", "probability-margin")
"""Losses with that property, for attacks whose loss is a setting."""

CLAIM = "claim"
"""The name that stands for the attack of images from a file: `claim(sha256='0123456789ab')`."""

# Non-greedy parts would stop inside a setting such as 'a by b', so the attack reaches to its last parenthesis.
_TEXT = re.compile(
    r"(?P<spec>.*\)|[^ ]*)"
    r"(?: over (?P<passes>[1-9][0-9]{0,8}) passes)?"
    r"(?: by (?P<surrogate>[^ ]+))?"
    r"(?: under (?P<found_under>.+))?",
    re.DOTALL,
)


@dataclass(frozen=True)
class AttackKey:
    """An attack with all its settings, and the conditions of its search. Text that is no such key is a bare `spec`."""

    spec: str  # pgd(loss='margin', steps=40)
    passes: int | None = None  # over which each answer was averaged; None where none was
    surrogate: str = ""  # the surrogate model whose gradient the attack followed; empty for the model itself
    found_under: str = ""  # the threat that was searched, where the image also lies in another one

    @classmethod
    def parse(cls, text: str) -> "AttackKey":
        """The key that `str` writes as this text."""
        return _parsed(text)

    @classmethod
    def of_file(cls, sha256: str) -> "AttackKey":
        """The key of images from the file with this hash: no search of robench found them."""
        return cls(f"{CLAIM}(sha256={sha256[:12]!r})")

    def __str__(self) -> str:
        parts = [self.spec]
        if self.passes is not None:
            parts.append(f"over {self.passes} passes")
        if self.surrogate:
            parts.append(f"by {self.surrogate}")
        if self.found_under:
            parts.append(f"under {self.found_under}")
        return " ".join(parts)

    @property
    def name(self) -> str:
        """The name of the attack, without its settings."""
        return self.spec.partition("(")[0]

    @property
    def is_claim(self) -> bool:
        """Whether the images come from a file, and not from a search."""
        return self.name == CLAIM

    @property
    def short(self) -> str:
        """The name of the attack and of the surrogate model, if there was one."""
        return str(AttackKey(self.name, surrogate=self.surrogate))

    @property
    def of_search(self) -> "AttackKey":
        """The key under which the search itself is planned and recorded, in the threat that it searched."""
        return replace(self, found_under="")

    @property
    def unaveraged(self) -> "AttackKey":
        """The key of the same search with one pass for each answer."""
        return replace(self, passes=None)

    @property
    def kind(self) -> Kind:
        """What the search relies on."""
        return "surrogate" if self.surrogate else _KINDS.get(self.name, "other")

    @property
    def minimises(self) -> bool:
        """Whether the attack searches for the nearest adversarial image; unknown, so False, for other libraries."""
        return self.name in _MINIMISING

    @property
    def scale_free(self) -> bool:
        """Whether large logits leave the loss of the attack unsaturated, so that its gradient never vanishes."""
        return self.name in _SCALE_FREE or any(f"loss={loss!r}" in self.spec for loss in _SCALE_FREE_LOSSES)


@lru_cache(maxsize=4096)
def _parsed(text: str) -> AttackKey:
    match = _TEXT.fullmatch(text)
    if match is None:
        return AttackKey(text)
    passes = int(match["passes"]) if match["passes"] else None
    return AttackKey(match["spec"], passes, match["surrogate"] or "", match["found_under"] or "")
