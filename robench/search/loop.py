"""The engine: keeps the lanes busy, makes every call to the model, watches it, counts it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ..problem.classifier import Classifier
from ..problem.noise import keyed, text_key
from ..problem.split import Split
from ..problem.threats import ThreatModel
from .attack import Batch, GradientAttack, State, differentiate, put_rows
from .queue import Item, Queue
from .watcher import Watcher

S = TypeVar("S", bound=State)


@dataclass(frozen=True)
class Ended:
    """A search that has ended: with an image that seems to fool the model, or in vain."""

    item: Item
    x_adv: Tensor | None  # (C, H, W)
    forwards: int
    backwards: int
    nan: bool  # the model answered NaN at some point of this search
    blind: bool  # it never asked about a member of the threat set, so its failure says nothing


def search(
    classifier: Classifier, threat: ThreatModel, attack: GradientAttack[S], split: Split, queue: Queue, seed: int
) -> Iterator[list[Ended]]:
    """Work the queue to its end, refilling lanes as they fall free. Yields searches as they end.

    The caller judges what it is given and then tells the queue: `drop` when an example is broken, a new
    item when a claim was turned down. The batch keeps its shape to the end, with idle lanes as padding,
    so every row is computed the same way whoever its neighbours are.
    """
    lanes = len(queue.lanes)
    # On a device apart, reading a mask stops the pipeline: look every few steps. On a CPU looking is free.
    read_every = 1 if classifier.device.type == "cpu" else 8
    visits = attack.visits(threat)
    remaining = torch.zeros(lanes, dtype=torch.long, device=classifier.device)
    batch: Batch | None = None

    while queue:
        if seated := queue.fill():
            fresh = batch_of(classifier, threat, attack, split, [item for _, item in seated], seed)
            if batch is None:
                batch, state, watcher = _empty(attack, threat, fresh, lanes)
            seats = torch.tensor([lane for lane, _ in seated], device=classifier.device)
            batch = put_rows(batch, seats, fresh)
            state = put_rows(state, seats, attack.start(threat, fresh))
            watcher.forget(seats)
            remaining.index_fill_(0, seats, visits)
        assert batch is not None, "a queue with work has filled a lane"

        for _ in range(read_every):
            delta = attack.query(threat, batch, state)
            seen = differentiate(classifier, attack.objective, batch, delta)
            watcher.see(threat, delta, batch.x, seen.logits, batch.y, active=remaining > 0)
            state = attack.step(threat, batch, state, seen)
            remaining -= 1
        queue.count(read_every, visits)

        found, nan, blind = torch.stack([watcher.found, watcher.nan, watcher.margin == -torch.inf]).tolist()
        images = (batch.x + watcher.delta).cpu() if any(found) else batch.x
        ended = []
        for lane, item in queue.busy():
            taken = queue.taken[lane]
            if found[lane] or taken == visits:
                queue.release(lane)
                x_adv = images[lane].clone() if found[lane] else None
                cost = attack.forwards_per_step * taken, attack.backwards_per_step * taken
                ended.append(Ended(item, x_adv, *cost, nan=nan[lane], blind=blind[lane]))
        yield ended


def batch_of(
    classifier: Classifier, threat: ThreatModel, attack: GradientAttack[S], split: Split, items: list[Item], seed: int
) -> Batch:
    """The rows of some items, with noise that belongs to (seed, example, attack, target, draw) alone."""
    rows = torch.tensor([item.row for item in items])
    targets = torch.tensor([item.target for item in items])
    keys = keyed(
        seed,
        torch.tensor([split.numbers[item.row] for item in items]),
        text_key(f"{threat.name} {attack.spec}"),
        targets,
        draw=torch.tensor([item.draw for item in items]),
    )
    device = classifier.device
    y = split.y[rows].to(device)
    return Batch(
        x=split.x[rows].to(device),
        y=y,
        target=torch.where(targets.to(device) < 0, y, targets.to(device)),
        keys=keys.to(device),
    )


def _empty(attack: GradientAttack[S], threat: ThreatModel, fresh: Batch, lanes: int) -> tuple[Batch, S, Watcher]:
    """Lanes that hold something to compute on (the first item, repeated) and have seen nothing."""
    first = torch.zeros(lanes, dtype=torch.long, device=fresh.x.device)
    batch = Batch(fresh.x[first], fresh.y[first], fresh.target[first], fresh.keys[first])
    return batch, attack.start(threat, batch), Watcher.over(batch.x)
