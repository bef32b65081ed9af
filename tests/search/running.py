"""Running searches in tests."""

from collections.abc import Iterable, Sequence

from robench.evidence.referee import Referee
from robench.search.engine.engine import Engine
from robench.search.engine.job import Ended, Job
from robench.search.engine.scheduler import Item, Waiting


def items(model, attack, split, rows: Iterable[int], restarts: int = 1) -> list[Item]:
    """Every item of every row: one per draw and wrong class aimed at."""
    out = []
    for restart in range(restarts):
        for row in rows:
            targets = [k for k in range(model.classes) if k != split.y[row]] if attack.targets else [-1]
            out += [Item(row, restart * len(targets) + i, restart, target) for i, target in enumerate(targets)]
    return out


def job(threat, attack, waiting: Iterable[Item]) -> Job:
    return Job(threat, attack, Waiting.of(waiting))


def ends(model, split, *jobs: Job, slots: int = 8, seed: int = 0, may_fail: bool = False, **settings) -> list[Ended]:
    """Every search to its end, none dropped. An attack that raises is no attack that finds nothing."""
    ended = [end for some in Engine(model, split, seed, slots, **settings).work(jobs) for end in some]
    assert may_fail or not any(job.error for job in jobs), [job.error for job in jobs]
    return ended


def run(model, threat, attack, split, waiting: Sequence[Item], slots: int = 8, seed: int = 0):
    """Every search to its end, none dropped. Returns {item: image or None}."""
    return {end.item: end.x_adv for end in ends(model, split, job(threat, attack, waiting), slots=slots, seed=seed)}


def broken_rows(model, threat, attack, split, rows: Sequence[int], restarts: int = 1, slots: int = 8) -> set[int]:
    """The rows on which the referee accepts an image."""
    found = [
        (i.row, x)
        for i, x in run(model, threat, attack, split, items(model, attack, split, rows, restarts), slots).items()
    ]
    referee = Referee(model)
    broken = set()
    for row, x_adv in found:
        if x_adv is not None:
            (decision,) = referee.judge(threat, split.x[[row]], split.y[[row]], x_adv[None])
            assert decision.accepted, decision.reason
            broken.add(row)
    return broken
