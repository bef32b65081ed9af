"""Receives an attack that owns its loop: hands it a model, counts and watches everything it asks.

Nothing a library returns or says is read. What counts is what it asked the model about.
"""

import contextlib
import random
import sys
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

NEAREST = 4  # examples that a row is compared with, by Euclidean distance, where rows are not in the order of the batch

IDLE = "it asked about no image near this one but the image itself, so it has not searched"

Owners = Int[Tensor, "Q W"]
"""The examples that each of Q rows may belong to, the nearest first."""


def run_library(classifier: Classifier, job: Job, items: Sequence[Item], batch: Batch) -> list[Ended]:
    """One search from every image of the batch. Where the library raises, each of them is tried alone.

    Raises what it raised where it fails on each of several.
    """
    assert isinstance(job.attack, ForeignAttack), f"{job.attack.name} has no loop of its own"
    model = Watched(classifier, job.threat, batch.x, batch.y, smallest=job.smallest)
    with _quiet(), _seeded(batch), arithmetic(batch.x.device):
        with torch.no_grad():
            correct = model(batch.x).argmax(dim=1) == batch.y  # libraries do odd things to the others
        errors = _run(job.attack, model, job.threat, batch, correct.nonzero().flatten().tolist())
    return [
        Ended(
            *(job, item, image, forwards, backwards),
            nan=nan,
            no_query_inside=no_query_inside,
            error="" if image is not None else errors.get(row, IDLE if idle else ""),
        )
        for row, (item, (image, forwards, backwards, nan, no_query_inside, idle)) in enumerate(
            zip(items, model.seen(), strict=True)
        )
    ]


def _run(
    attack: ForeignAttack, model: "Watched", threat: ThreatModel, batch: Batch, rows: Sequence[int]
) -> dict[int, str]:
    """Search from these rows. Returns what the library raised, by row."""
    if not rows:
        return {}
    try:
        # Rows of its own, for a library that writes into what it is given.
        attack.run(model, threat, take_rows(batch, torch.tensor(rows, device=batch.x.device)))
    except UserError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        if len(rows) == 1:
            return {rows[0]: described(error)}
        errors: dict[int, str] = {}
        for row in rows:  # one of them may have spoilt it for all
            errors |= _run(attack, model, threat, batch, [row])
        if len(errors) == len(rows):
            raise
        return errors
    return {}


class Watched:
    """The model as a library sees it: it may be asked in any order, about any rows, and differentiated.

    Every row is counted, and shown to the example it belongs to. Where as many rows are asked about as there are
    examples, and each lies nearest to its own, that is the example in its place; else one whose threat set contains
    the row. The cost of rows that belong to nobody is shared out evenly.
    """

    def __init__(self, classifier: Classifier, threat: ThreatModel, x: Inputs, y: Labels, *, smallest: bool = False):
        self._classifier = classifier
        self._threat = threat
        self._x, self._y = x, y
        self._smallest = smallest
        self._best_seen = BestSeen.over(self._x)
        self._nan = torch.zeros_like(y, dtype=torch.bool)
        self._idle = torch.ones_like(y, dtype=torch.bool)
        self._forwards, self._backwards = torch.zeros_like(y), torch.zeros_like(y)  # of rows with an owner
        self.forwards = self.backwards = 0  # of all rows

    def __call__(self, x_adv: Inputs) -> Logits:
        x_adv = x_adv.to(self._x.device, torch.float32)
        if not len(x_adv):
            return x_adv.new_zeros(0, self._classifier.classes)
        asked = x_adv.detach()
        owners, in_place = self._owners(asked)

        def differentiated() -> None:
            self.backwards += len(asked)
            self._backwards += owned

        entered: Tensor = _Door.apply(x_adv, differentiated)  # type: ignore[no-untyped-call]
        logits = self._classifier(entered)
        told = logits.detach().float()
        inside = None if in_place and self._nothing_new(told) else self._inside(asked, owners)
        if bool(self._idle.any()):
            self._note_idle(asked, owners[:, 0])
        owned = torch.ones_like(self._y) if in_place or inside is None else self._owned(owners, inside)
        self.forwards += len(asked)
        self._forwards += owned
        if inside is not None:
            self._watch(asked, owners, inside, inside | in_place, told)
        return logits

    def _note_idle(self, x_adv: Inputs, owner: Int[Tensor, "Q"]) -> None:
        """Who has been asked about at most their own image; rows that hold no numbers are no question."""
        other = (x_adv != self._x[owner]).flatten(1).any(dim=1) & x_adv.flatten(1).isfinite().all(dim=1)
        self._idle &= torch.zeros_like(self._y).index_add(0, owner, other.to(self._y.dtype)) == 0

    def seen(self) -> Iterator[tuple[Tensor | None, int, int, bool, bool, bool]]:
        """For each example: the best member that fools the model, if any; its rows forward and backward; whether the
        model answered NaN; whether it was never asked about a member of the threat set that it has numbers for; whether
        it was never asked about anything but the example itself.
        """
        masks = (self._best_seen.found, self._nan, self._best_seen.rank == -torch.inf, self._idle)
        counts = (_shared_out(self._forwards, self.forwards), _shared_out(self._backwards, self.backwards))
        images = self._best_seen.x_adv.cpu()
        rows = zip(images, *counts, *(mask.tolist() for mask in masks), strict=True)
        for image, forwards, backwards, found, nan, no_query_inside, idle in rows:
            yield image.clone() if found else None, forwards, backwards, nan, no_query_inside, idle

    def _owners(self, x_adv: Inputs) -> tuple[Owners, bool]:
        """Whom each row may belong to, and whether that is known by its place."""
        far = torch.cdist(x_adv.flatten(1), self._x.flatten(1))
        if len(x_adv) == len(self._x) and bool((far.diagonal() <= far.amin(dim=1)).all()):
            return torch.arange(len(x_adv), device=far.device)[:, None], True
        near = far.nan_to_num(torch.inf).topk(min(NEAREST, len(self._x)), dim=1, largest=False)
        return near.indices, False

    def _nothing_new(self, logits: Logits) -> bool:
        """Whether every example, in its place, is still taken for what it is, and has been seen before."""
        dull = (logits.argmax(dim=1) == self._y) & ~logits.isnan().any(dim=1) & (self._best_seen.rank > -torch.inf)
        return bool(dull.all())

    def _inside(self, x_adv: Inputs, owners: Owners) -> Bool[Tensor, "Q W"]:
        """Whether each row is a member of their sets."""
        return self._threat.contains(*self._pairs(x_adv, owners)).view_as(owners)

    def _pairs(self, x_adv: Inputs, owners: Owners) -> tuple[Tensor, Tensor]:
        """Each row beside each of its examples, Q * W of them."""
        return x_adv.repeat_interleave(owners.shape[1], dim=0), self._x[owners.flatten()]

    def _owned(self, owners: Owners, inside: Bool[Tensor, "Q W"]) -> Int[Tensor, "N"]:
        """How many rows each example has: a row is that of the nearest whose set contains it."""
        first = owners.gather(1, inside.int().argmax(dim=1, keepdim=True)).squeeze(1)
        return torch.zeros_like(self._y).index_add(0, first, inside.any(dim=1).to(self._y.dtype))

    def _watch(
        self,
        x_adv: Inputs,
        owners: Owners,
        inside: Bool[Tensor, "Q W"],
        theirs: Bool[Tensor, "Q W"],
        logits: Float[Tensor, "Q K"],
    ) -> None:
        """Show each example the best of its rows."""
        width = owners.shape[1]
        value = margin(logits.repeat_interleave(width, dim=0), self._y[owners.flatten()]).view_as(inside)
        finite = x_adv.flatten(1).isfinite().all(dim=1, keepdim=True)  # else the question had no answer either
        self._nan |= self._by_example(owners, value.isnan() & finite & theirs, False).any(dim=1)

        member = inside & ~value.isnan()
        find = member & misclassified(logits[:, None], self._y[owners])
        worth = value
        if self._smallest:
            size = self._threat.measure(*self._pairs(x_adv, owners)).view_as(inside)
            worth = torch.where(find, -size.to(value.dtype), value)
        worth = torch.where(member, worth, -torch.inf)
        finds = self._by_example(owners, find, False)
        best = self._by_example(owners, worth, -torch.inf)
        best = best.masked_fill(finds.any(dim=1, keepdim=True) & ~finds, -torch.inf)
        active, row = best.amax(dim=1) > -torch.inf, best.argmax(dim=1)
        self._see(x_adv[row], logits[row], active)

    def _see(self, x_adv: Inputs, logits: Logits, active: Mask) -> None:
        """One row for each example, where it has any."""
        size = self._threat.measure(x_adv, self._x) if self._smallest else None
        no_witness = x_adv.new_zeros(len(x_adv), N_PARAMS)
        self._best_seen.see(x_adv, no_witness, active, logits, self._y, active, size)

    def _by_example(self, owners: Owners, values: Tensor, nothing: bool | float) -> Tensor:
        """(Q, W) values by owner as an (N, Q) table; `nothing` where a row is not theirs."""
        rows = torch.arange(len(owners), device=owners.device)[:, None].expand_as(owners)
        table = values.new_full((len(self._y), len(owners)), nothing)
        return table.index_put((owners, rows), values)


class _Door(torch.autograd.Function):
    """Where images enter the network, and gradients leave it: counted, and laid out as libraries expect them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, differentiated: Callable[[], None]) -> Tensor:
        ctx.differentiated = differentiated
        return x.clone(memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        ctx.differentiated()
        return grads[0].contiguous(), None


def _shared_out(counts: Int[Tensor, "N"], total: int) -> list[int]:
    """The counts, and an even share of what is missing to the total."""
    own = counts.tolist()
    share, left = divmod(total - sum(own), len(own))
    return [count + share + (row < left) for row, count in enumerate(own)]


@contextlib.contextmanager
def _seeded(batch: Batch) -> Iterator[None]:
    """Random numbers that belong to this batch; those of the process go on afterwards as if nothing had been."""
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
    """Libraries warn of their own old age, and may print: stdout is for results."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        yield
