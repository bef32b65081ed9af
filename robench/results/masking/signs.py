"""A sign of gradient masking where it was not checked: what the planned attacks of another kind have broken."""

from collections.abc import Sequence

from ...evidence.attack_key import AttackKey
from ..attack_rows import AttackEntry
from .comparison import is_another
from .indicators import LEVEL, tail

SHARE = 0.05  # of what gradient attacks left. The check's own share is less: it searches further by gradients first


def sign(attacks: Sequence[AttackEntry]) -> str:
    """What attacks of another kind broke of the examples that first-order attacks before them had left, if it is much.

    `attacks` are those of one threat in plan order, each on what the ones before it have left. Empty where no attack
    broke significantly more than SHARE, by the exact binomial tail and Bonferroni's correction. An attack that searched
    examples near the boundary alone says nothing about the others.
    """
    keys = [AttackKey.parse(attack.spec) for attack in attacks]
    first = next((place for place, key in enumerate(keys) if key.kind == "first-order"), len(keys))
    later = zip(attacks[first:], keys[first:], strict=True)
    others = [a for a, key in later if is_another(key) and not (a.near is not None and a.passed_over)]
    found = [a for a in others if tail(a.broken, a.tried, SHARE) <= LEVEL / len(others)]
    if not found:
        return ""
    broke = ", ".join(f"{a.name} broke {a.broken} of {a.tried}" for a in found)
    return (
        f"of the images that gradient attacks had left, {broke}, so gradients may be masked and the number too high;"
        " add --masking on"
    )
