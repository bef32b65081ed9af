"""Which threats contain others of their kind, by their texts: an image in the smaller set counts under the larger."""

import re
from fractions import Fraction
from functools import lru_cache

from .. import radius

PATCH = re.compile(r"patch:(\d+)px")
ROTATED = re.compile(r"rt:([^,]+)px,([^,]+)deg(,pad\d+|)")
PROJECTED = re.compile(r"rt-l2:([^+]+)\+(l2:[^+]+)")
MIXED = re.compile(r"affine:([^+]+)\+([^+]+)")
CORRUPTED = re.compile(r"corruption:([a-z_+]+)@([1-5])(?:-([1-5]))?")
FAR = 10**60  # larger than any image, and well within floats
NORMS = ("linf", "l2", "l1", "l0")  # threats whose sizes are distances; named here, as tables are read without torch


def lies_in(inner: str, size: float, outer: str) -> bool:
    """Whether an image of this size, which the referee found to be in `inner`, is also in `outer`."""
    # A smaller set lies in a larger one as a whole: the rounding of its members needs no second check.
    if inner == outer or _is_within(inner, outer):
        return True
    # The size under any other threat with a radius, such as elastic:1, is a share of that radius.
    limit, reach = ball_radius(outer), ball_radius(inner)
    return kind(inner) == kind(outer) and limit is not None and reach is not None and limit >= size


def share_of_limits(inner: str, outer: str) -> float:
    """What a size under `inner` is multiplied by for one under `outer`, which contains it, at most.

    Sizes in l_p balls are distances, all others shares of the limits. A size under jpeg-l2 or jpeg-l1 may be the share
    of a parameter's own limit, which is the same at every radius.
    """
    if inner == outer or kind(outer) in (*NORMS, "jpeg-l2", "jpeg-l1"):
        return 1.0
    if kind(outer) == "corruption":
        return _corruptions(inner)[2] / _corruptions(outer)[2]
    pairs = zip(_limits(inner)[1], _limits(outer)[1], strict=False)
    return max((float(a / b) if b else 0.0 for a, b in pairs), default=1.0)


@lru_cache(maxsize=4096)
def _is_within(inner: str, outer: str) -> bool:
    """Whether both threats are of one kind, and no limit of the first exceeds that of the second."""
    if kind(inner) == kind(outer) == "corruption":
        (names, mildest, severest), (others, lowest, highest) = _corruptions(inner), _corruptions(outer)
        return bool(names) and (names <= others or "all" in others) and lowest <= mildest <= severest <= highest
    (own, reach), (other, limits) = _limits(inner), _limits(outer)
    nested = own == other and 0 < len(reach) == len(limits)
    return nested and all(0 <= a <= b for a, b in zip(reach, limits, strict=True))


def _limits(threat: str) -> tuple[str, tuple[Fraction, ...]]:
    """The kind of a threat, and the numbers that bound it; none for a threat without nested sets."""
    name, limit = ball(threat)
    if limit is not None:
        return name, (limit,)
    try:
        if found := PATCH.fullmatch(threat):
            return name, (radius.read(found[1]),)
        if found := ROTATED.fullmatch(threat):
            return f"rt{found[3]}", tuple(map(radius.read, found.group(1, 2)))  # on one canvas
    except ValueError:  # in a file, the text may be anything
        pass
    if found := PROJECTED.fullmatch(threat):
        moved, limits = _limits(f"rt:{found[1]}")
        return f"{moved}+{found[2]}", limits  # a larger ball has other members, not more
    if found := MIXED.fullmatch(threat):
        (one, reach), (two, rest) = sorted(map(_limits, found.groups()))
        return f"affine:{one}+{two}", (*reach, *rest) if reach and rest else ()
    return threat, ()


def _corruptions(threat: str) -> tuple[frozenset[str], int, int]:
    """The names of the corruptions, and the mildest and the severest of their severities; no names if unreadable."""
    if found := CORRUPTED.fullmatch(threat):
        return frozenset(found[1].split("+")), int(found[2]), int(found[3] or found[2])
    return frozenset(), 1, 1


def kind(threat: str) -> str:
    """The name of a threat, without its limits."""
    return ball(threat)[0]


def ball_radius(threat: str) -> Fraction | None:
    """The radius of an l_p ball, in the unit of the sizes of its members; None for any other threat."""
    name, limit = ball(threat)
    return limit if name in NORMS else None


@lru_cache(maxsize=1024)
def ball(threat: str) -> tuple[str, Fraction | None]:
    """`linf:8/255` as a name and a radius; None if the text holds something else."""
    name, _, numbers = threat.partition(":")
    try:
        limit = radius.read(numbers)
    except ValueError:
        return name, None
    return name, limit if abs(limit) < FAR else None
