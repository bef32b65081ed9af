"""A sign of gradient masking without a check: what the planned attacks of another kind have broken."""

from collections.abc import Mapping

from ...evidence.attack_key import AttackKey
from ...evidence.records import PlannedAttack
from ..attack_rows import AttackCounts
from .comparison import is_another
from .indicators import LEVEL, tail

SHARE = 0.05  # of what gradient attacks left. The check's own share is less: it searches further by gradients first
MIN_FINDS = 5  # on fewer images nothing is concluded


def sign(attacks: Mapping[PlannedAttack, AttackCounts]) -> str:
    """What attacks of another kind broke of the examples that the gradient attacks before them left, if it is much.

    `attacks` are those of one threat in plan order. Empty where no attack broke significantly more than SHARE, by the
    exact binomial tail and Bonferroni's correction. An attack that has not ended yet says nothing, nor one that
    searched examples near the boundary alone.
    """
    others = {a.label: n for a, n in attacks.items() if is_another(AttackKey.parse(a.spec)) and _whole(a, n)}
    found = {label: n for label, n in others.items() if _is_much(n, LEVEL / len(others))}
    if not found:
        return ""
    broke = ", ".join(f"{label} broke {n.broken_after} of {n.searched_after}" for label, n in found.items())
    return (
        f"of the images that gradient attacks had left, {broke}, so gradients may be masked, or these attacks too weak,"
        " and the number may be too high"
    )


def _whole(attack: PlannedAttack, counts: AttackCounts) -> bool:
    return not counts.pending_after and not (attack.near is not None and counts.passed_over)


def _is_much(counts: AttackCounts, level: float) -> bool:
    return counts.broken_after >= MIN_FINDS and tail(counts.broken_after, counts.searched_after, SHARE) <= level
