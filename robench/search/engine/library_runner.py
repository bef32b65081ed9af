"""Runs an attack that has its own loop (a library attack) on a model that counts and records every query.

Nothing that the library returns is read. Only its queries of the model count. When the time is over, its next query
is refused, which ends its loop.
"""

import contextlib
import math
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...errors import UserError, described
from ...problem.classifier import Classifier, arithmetic
from ...problem.losses import margin, misclassified
from ...problem.memory import out_of_memory
from ...problem.shapes import Inputs, Labels, Logits, Mask
from ...problem.threats import ThreatModel
from ...problem.threats.base import N_PARAMS
from ..attack import Batch, ForeignAttack, batch_seed, take_rows
from .best_seen import BestSeen
from .job import Ended, Job
from .scheduler import Item

NEAREST = 4  # examples, by Euclidean distance, that a row is compared with if rows are not in the order of the batch

IDLE = "it queried no image near this one except the image itself, so it has not searched"

Owners = Int[Tensor, "Q W"]
"""The W examples that each of Q rows may belong to, the nearest first."""


class TimeOver(BaseException):
    """The time of the searches is over. No `Exception`, as a library may catch those and go on."""


def run_library(
    classifier: Classifier, job: Job, items: Sequence[Item], batch: Batch, until: float = math.inf
) -> list[Ended]:
    """Run one search from every image of the batch. If the library raises, each image is tried alone.

    Returns the searches that have ended: all of them, unless the library makes a query after `until` (of
    time.monotonic()), which is refused. Then those with a find, or none if the smallest is searched for. Raises the
    library's error if it fails on each of several images.
    """
    assert isinstance(job.attack, ForeignAttack), f"{job.attack.name} has no loop of its own"
    model = Watched(classifier, job.threat, batch.x, batch.y, smallest=job.smallest, until=until)
    errors: dict[int, str] = {}
    with _quiet(), _seeded(batch), arithmetic(batch.x.device), contextlib.suppress(TimeOver):
        with torch.no_grad():
            correct = model(batch.x).argmax(dim=1) == batch.y  # libraries expect correctly classified images
        errors = _run(job.attack, model, job.threat, batch, correct.nonzero().flatten().tolist())
    time_over = model.time_over
    return [
        Ended(
            *(job, item, image, forwards, backwards),
            nan=nan,
            no_query_inside=no_query_inside,
            error="" if image is not None else errors.get(row, IDLE if idle else ""),
            interrupted=time_over,
        )
        for row, (item, (image, forwards, backwards, nan, no_query_inside, idle)) in enumerate(
            zip(items, model.seen(), strict=True)
        )
        if not time_over or (image is not None and not job.smallest)
    ]


def _run(
    attack: ForeignAttack, model: "Watched", threat: ThreatModel, batch: Batch, rows: Sequence[int]
) -> dict[int, str]:
    """Run the attack on these rows. Returns what the library raised, by row."""
    if not rows:
        return {}
    try:
        # A copy of the rows, as a library may write into its input.
        attack.run(model, threat, take_rows(batch, torch.tensor(rows, device=batch.x.device)))
    except UserError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        if model.time_over:  # the library made an error of its own of the refused query
            return {}
        if len(rows) == 1:
            return {rows[0]: described(error)}
        errors: dict[int, str] = {}
        for row in rows:  # a single image may have made the whole batch fail
            errors |= _run(attack, model, threat, batch, [row])
        if len(errors) == len(rows):
            raise
        return errors
    return {}


class Watched:
    """The model as a library sees it: it may query any rows in any order, and differentiate them.

    Every row is counted, and assigned to the example it belongs to. If a query has as many rows as there are examples,
    and each row is nearest to the example at its place, it belongs to that example; else to the nearest example whose
    threat set contains it. The cost of rows that belong to no example is divided evenly. Raises TimeOver at a query
    after `until`.
    """

    def __init__(
        self,
        classifier: Classifier,
        threat: ThreatModel,
        x: Inputs,
        y: Labels,
        *,
        smallest: bool = False,
        until: float = math.inf,
    ):
        self._classifier = classifier
        self._threat = threat
        self._x, self._y = x, y
        self._smallest = smallest
        self._until = until
        self.time_over = False  # a query was refused, as it came after `until`
        self._best_seen = BestSeen.over(self._x)
        self._nan = torch.zeros_like(y, dtype=torch.bool)
        self._idle = torch.ones_like(y, dtype=torch.bool)
        self._forwards, self._backwards = torch.zeros_like(y), torch.zeros_like(y)  # of rows assigned to an example
        self.forwards = self.backwards = 0  # of all rows

    def __call__(self, x_adv: Inputs) -> Logits:
        if time.monotonic() > self._until:
            self.time_over = True
            raise TimeOver
        x_adv = x_adv.to(self._x.device, torch.float32)
        if not len(x_adv):
            return x_adv.new_zeros(0, self._classifier.classes)
        queried = x_adv.detach()
        owners, in_place = self._owners(queried)

        def differentiated() -> None:
            self.backwards += len(queried)
            self._backwards += owned

        entered: Tensor = _Entrance.apply(x_adv, differentiated)  # type: ignore[no-untyped-call]
        logits = self._classifier(entered)
        values = logits.detach().float()
        inside = None if in_place and self._nothing_new(values) else self._inside(queried, owners)
        if bool(self._idle.any()):
            self._note_idle(queried, owners[:, 0])
        owned = torch.ones_like(self._y) if in_place or inside is None else self._owned(owners, inside)
        self.forwards += len(queried)
        self._forwards += owned
        if inside is not None:
            self._observe(queried, owners, inside, inside | in_place, values)
        return logits

    def _note_idle(self, x_adv: Inputs, owner: Int[Tensor, "Q"]) -> None:
        """Update which examples were queried only at the clean image. Rows with NaN or infinity do not count."""
        other = (x_adv != self._x[owner]).flatten(1).any(dim=1) & x_adv.flatten(1).isfinite().all(dim=1)
        self._idle &= torch.zeros_like(self._y).index_add(0, owner, other.to(self._y.dtype)) == 0

    def seen(self) -> Iterator[tuple[Tensor | None, int, int, bool, bool, bool]]:
        """Yield a tuple for each example: the best member of its threat set that fools the model, or None; its rows
        forward and backward; whether the model returned NaN; whether no member with a finite answer was queried;
        whether nothing but the clean image was queried.
        """
        masks = (self._best_seen.found, self._nan, self._best_seen.rank == -torch.inf, self._idle)
        counts = (_with_share(self._forwards, self.forwards), _with_share(self._backwards, self.backwards))
        images = self._best_seen.x_adv.cpu()
        rows = zip(images, *counts, *(mask.tolist() for mask in masks), strict=True)
        for image, forwards, backwards, found, nan, no_query_inside, idle in rows:
            yield image.clone() if found else None, forwards, backwards, nan, no_query_inside, idle

    def _owners(self, x_adv: Inputs) -> tuple[Owners, bool]:
        """The examples that each row may belong to, and whether each belongs to the example at its place."""
        distances = torch.cdist(x_adv.flatten(1), self._x.flatten(1))
        if len(x_adv) == len(self._x) and bool((distances.diagonal() <= distances.amin(dim=1)).all()):
            return torch.arange(len(x_adv), device=distances.device)[:, None], True
        near = distances.nan_to_num(torch.inf).topk(min(NEAREST, len(self._x)), dim=1, largest=False)
        return near.indices, False

    def _nothing_new(self, logits: Logits) -> bool:
        """Whether every row, in the order of the examples, is classified correctly, and each example has a member."""
        unchanged = (logits.argmax(dim=1) == self._y) & ~logits.isnan().any(dim=1) & (self._best_seen.rank > -torch.inf)
        return bool(unchanged.all())

    def _inside(self, x_adv: Inputs, owners: Owners) -> Bool[Tensor, "Q W"]:
        """Whether each row is a member of the threat set of each of its examples."""
        return self._threat.contains(*self._pairs(x_adv, owners)).view_as(owners)

    def _pairs(self, x_adv: Inputs, owners: Owners) -> tuple[Tensor, Tensor]:
        """The Q * W pairs of a row and one of its examples."""
        return x_adv.repeat_interleave(owners.shape[1], dim=0), self._x[owners.flatten()]

    def _owned(self, owners: Owners, inside: Bool[Tensor, "Q W"]) -> Int[Tensor, "N"]:
        """The number of rows of each example: a row belongs to the nearest example whose threat set contains it."""
        first = owners.gather(1, inside.int().argmax(dim=1, keepdim=True)).squeeze(1)
        return torch.zeros_like(self._y).index_add(0, first, inside.any(dim=1).to(self._y.dtype))

    def _observe(
        self,
        x_adv: Inputs,
        owners: Owners,
        inside: Bool[Tensor, "Q W"],
        belongs: Bool[Tensor, "Q W"],
        logits: Float[Tensor, "Q K"],
    ) -> None:
        """Update the best image of each example from its rows."""
        width = owners.shape[1]
        value = margin(logits.repeat_interleave(width, dim=0), self._y[owners.flatten()]).view_as(inside)
        finite = x_adv.flatten(1).isfinite().all(dim=1, keepdim=True)  # NaN for other rows says nothing about the model
        self._nan |= self._by_example(owners, value.isnan() & finite & belongs, False).any(dim=1)

        member = inside & ~value.isnan()
        adversarial = member & misclassified(logits[:, None], self._y[owners])
        rank = value
        if self._smallest:
            size = self._threat.measure(*self._pairs(x_adv, owners)).view_as(inside)
            rank = torch.where(adversarial, -size.to(value.dtype), value)
        rank = torch.where(member, rank, -torch.inf)
        found = self._by_example(owners, adversarial, False)
        best = self._by_example(owners, rank, -torch.inf)
        best = best.masked_fill(found.any(dim=1, keepdim=True) & ~found, -torch.inf)
        active, row = best.amax(dim=1) > -torch.inf, best.argmax(dim=1)
        self._update(x_adv[row], logits[row], active)

    def _update(self, x_adv: Inputs, logits: Logits, active: Mask) -> None:
        """Update the best images with one row per example; `active` says which examples have one."""
        size = self._threat.measure(x_adv, self._x) if self._smallest else None
        no_params = x_adv.new_zeros(len(x_adv), N_PARAMS)
        self._best_seen.update(x_adv, no_params, active, logits, self._y, active, size)

    def _by_example(self, owners: Owners, values: Tensor, nothing: bool | float) -> Tensor:
        """The (Q, W) values as an (N, Q) table of examples and rows; `nothing` where a row has no such example."""
        rows = torch.arange(len(owners), device=owners.device)[:, None].expand_as(owners)
        table = values.new_full((len(self._y), len(owners)), nothing)
        return table.index_put((owners, rows), values)


class _Entrance(torch.autograd.Function):
    """The identity at the input of the network. It counts gradients, and makes them and the images contiguous."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, differentiated: Callable[[], None]) -> Tensor:
        ctx.differentiated = differentiated
        return x.clone(memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        ctx.differentiated()
        return grads[0].contiguous(), None


def _with_share(counts: Int[Tensor, "N"], total: int) -> list[int]:
    """The counts, each with an even share of the rest of the total."""
    own = counts.tolist()
    share, left = divmod(total - sum(own), len(own))
    return [count + share + (row < left) for row, count in enumerate(own)]


@contextlib.contextmanager
def _seeded(batch: Batch) -> Iterator[None]:
    """Seed the global random generators for this batch, and restore their states afterwards."""
    seed, device = batch_seed(batch), batch.x.device
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the warnings of libraries, and send what they print to stderr: stdout is for results."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        yield
