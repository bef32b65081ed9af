"""Competitiveness ratio and stability constant, by the definitions of MultiRobustBench.

Dai et al. 2023, https://arxiv.org/abs/2302.10980, as `CR_ind_avg`, `CR_ind_worst` and `SC` of their page compute them:
https://github.com/inspire-group/multirobustbench.github.io, scripts/utils.js. Let acc(f, P) be the accuracy of model f
under attack P of a set K, which always holds the absence of an attack, and acc*(P) a reference:

    CR_ind-avg(f)   = mean over P in K of acc(f, P) / acc*(P)
    CR_ind-worst(f) = min  over P in K of acc(f, P) / acc*(P)
    SC(f)           = max  over P in S(f), Q in K, 0 < |acc*(P) - acc*(Q)| < 0.03
                           of |acc(f, P) - acc(f, Q)| / |acc*(P) - acc*(Q)|

S(f) is the part of K that f was trained on, and again the absence of an attack: SC is high where a small step away from
the training costs much accuracy.

What differs here: their acc*(P) is the accuracy of a network that was trained against P alone, for each P. A table has
no such networks, so acc*(P) is the best accuracy under P of the models in the table, and every score depends on who is
in it. Their K has 20 strengths of each attack. For the ratios K is the threats of the table at their radius; for SC it
is all levels of them. Ratios are fractions, theirs percent.
"""

from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple, TypeAlias

import msgspec

from ..evidence.nesting import ball
from .entries import LEVELS, ModelResult, Share
from .patterns import standing_by_level

NEAR = Fraction(3, 100)  # attacks are of nearly equal strength if the accuracies of the reference are nearer than this

NO_ATTACK = (-1, 0)  # in place of (threat, level)
Attack: TypeAlias = tuple[int, int]
"""The place of a threat in the table, and a level from 1 to 20."""


class Ratios(NamedTuple):
    """The competitiveness of one model, as fractions."""

    average: float
    worst: float


def competitiveness(accuracies: Sequence[Sequence[float | None]], chosen: Sequence[int]) -> list[Ratios | None]:
    """The ratios of each model over the threats at these places.

    `accuracies` has a row per model: clean, then one per threat; None is no final number, because examples are open or
    nothing was measured. A model has ratios if all of its chosen numbers are there. No model has any if fewer than two
    models would, or if no model withstands one of the threats, because 0 / 0 says nothing.
    """
    columns = [0, *(place + 1 for place in chosen)]
    complete = [all(row[column] is not None for column in columns) for row in accuracies]
    best = [max((v for row in accuracies if (v := row[column]) is not None), default=0.0) for column in columns]
    if sum(complete) < 2 or not all(best):
        return [None] * len(accuracies)
    return [_ratios(row, columns, best) if there else None for row, there in zip(accuracies, complete, strict=True)]


def _ratios(row: Sequence[float | None], columns: Sequence[int], best: Sequence[float]) -> Ratios:
    total, worst = 0.0, 1.0
    for column, reference in zip(columns, best, strict=True):
        ratio = (row[column] or 0.0) / reference
        total += ratio
        worst = min(worst, ratio)
    return Ratios(total / len(columns), worst)


def stability(
    examples: int,
    clean: Sequence[int | None],
    levels: Sequence[Sequence[Sequence[int] | None]],
    seen: Sequence[Collection[Attack] | None],
    chosen: Sequence[int],
) -> list[float | None]:
    """The stability constant of each model over all levels of the threats at these places.

    `clean` has the correct examples of each model, and `levels` for each model and threat the standing ones at the
    levels 0 to 20; None without levels, or while examples are open. `seen` has the attacks of each model's training;
    None if it is unknown. A model that has seen all attacks has no constant, nor has one without such numbers. No model
    has one if fewer than two have the numbers.
    """
    attacks = [(place, level) for place in chosen for level in range(1, len(LEVELS))]
    tables = [_by_attack(own, rows, attacks) for own, rows in zip(clean, levels, strict=True)]
    known = [table for table in tables if table is not None]
    if len(known) < 2:
        return [None] * len(tables)
    best = {attack: max(table[attack] for table in known) for attack in known[0]}
    near = {p: [(q, gap) for q in best if 0 < (gap := abs(best[p] - best[q])) < NEAR * examples] for p in best}
    return [
        None if table is None or own is None or set(attacks) <= set(own) else _constant(table, {*own, NO_ATTACK}, near)
        for table, own in zip(tables, seen, strict=True)
    ]


def _by_attack(
    clean: int | None, rows: Sequence[Sequence[int] | None], attacks: Sequence[Attack]
) -> dict[Attack, int] | None:
    """The examples that stand under each attack, for one model; None if a number is missing."""
    found = {NO_ATTACK: clean} if clean is not None else None
    for place, level in attacks:
        row = rows[place]
        if found is None or row is None:
            return None
        found[place, level] = row[level]
    return found


def _constant(
    table: Mapping[Attack, int], seen: Collection[Attack], near: Mapping[Attack, Sequence[tuple[Attack, int]]]
) -> float | None:
    steps = [abs(table[p] - table[q]) / gap for p in seen for q, gap in near.get(p, ())]
    return max(steps, default=None)


def scored(models: Sequence[ModelResult]) -> tuple[ModelResult, ...]:
    """The rows of a table with their scores over all of its threats."""
    chosen, examples = range(len(models[0].threats)), sum(models[0].patterns.values())
    rows = [[_final(m.clean), *(_final(t.share) for t in m.threats)] for m in models]
    correct = [None if m.clean.open else examples - m.threats[0].wrong for m in models]
    levels = [
        [standing_by_level(t.levels) if t.levels and not t.share.open else None for t in m.threats] for m in models
    ]
    constants = stability(examples, correct, levels, [seen_attacks(m) for m in models], chosen)
    return tuple(
        msgspec.structs.replace(
            model,
            competitiveness=ratios.average if ratios else None,
            competitiveness_worst=ratios.worst if ratios else None,
            stability=constant,
        )
        for model, ratios, constant in zip(models, competitiveness(rows, chosen), constants, strict=True)
    )


def _final(share: Share) -> float | None:
    return share.accuracy if share.measured and not share.open else None


def seen_attacks(model: ModelResult) -> set[Attack] | None:
    """The levels of the table's threats that the model was trained on, by its card; None without a card.

    Training in a ball counts for every level that lies in it.
    """
    if model.card is None:
        return None
    found = set()
    for place, name, radius in ((place, *ball(t.threat)) for place, t in enumerate(model.threats)):
        for trained, reach in map(ball, model.card.trained_on):
            if trained == name and radius is not None and reach is not None:
                found |= {(place, k) for k in range(1, len(LEVELS)) if radius * k / (len(LEVELS) - 1) <= reach}
    return found
