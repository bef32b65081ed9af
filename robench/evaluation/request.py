"""The request of a user, and the examples and the protocol that it names."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .. import protocols
from ..errors import UserError
from ..evidence.records import Shard
from ..masking.schedule import MaskingRequest, requested
from ..problem import datasets
from ..problem.checkpoints.cards import Card
from ..problem.datasets.preparation import Preparation
from ..problem.split import Source, Split, rows_of, shuffled_rows
from ..problem.subsets import HELD_OUT, Sample, wanted
from ..protocols import Protocol
from ..search.attack import AttackGiven


@dataclass(frozen=True)
class EvalRequest:
    """What to evaluate, as the user wrote it. None stands for the value of the protocol or of the model's card."""

    data: str | Source | None = None  # a name, folder or file; or examples from Python
    protocol: str | None = None
    threats: Sequence[str] = ()
    attacks: Sequence[AttackGiven] = ()
    examples: str | None = None
    seed: int | None = None
    every_attack: bool = False
    curve: bool = False
    precision: str | None = None  # None: that of ROBENCH_PRECISION, else `auto`
    masking: str = "off"  # comparisons are about the planned attacks; what users type is `auto`
    preparation: Preparation = field(default_factory=Preparation)
    shard: Shard | None = None  # the part of the examples that is searched; None: all of them
    shuffled: bool = False  # take the examples in an order that does not depend on their classes

    def sample(self, protocol: Protocol) -> Sample | None:
        """The seeded sample that the examples are; None if they are a count or a slice."""
        text = protocol.examples if self.examples is None else self.examples
        return Sample.parse(text) if text else None

    @property
    def masking_check(self) -> MaskingRequest:
        """Which check is made: `auto` is `off` for a shard, and where attacks are named, whose number is wanted.

        Raises UserError where there is no such level.
        """
        found = requested(self.masking)
        return "off" if found == "auto" and (self.attacks or self.shard) else found

    def data_name(self, card: Card | None) -> str:
        """The data by name: the requested ones, else those of the model's card; empty for examples from Python."""
        if self.data is None:
            return card.data if card else ""
        return self.data if isinstance(self.data, str) else ""


def choose(request: EvalRequest, card: Card | None = None) -> tuple[Split, Protocol]:
    """The examples and the protocol. Raises UserError when neither the request nor the model's card names data."""
    given = None if request.data is None or isinstance(request.data, str) else request.data
    data = given.name if given is not None else request.data_name(card)
    if not data:
        raise UserError("name the data with --data")
    title = datasets.title(data)
    of_card = card.protocol if card and not isinstance(request.data, str) else ""
    protocol = protocols.load(request.protocol or of_card or protocols.default_name(title), title)
    if request.threats:
        standard = protocol if request.protocol else protocols.load(protocols.default_name(title), title)
        protocol = standard.with_threats(request.threats, bare=bool(request.attacks))
    if request.attacks:
        protocol = protocol.with_attacks(request.attacks)
    whole = datasets.source(data, preparation=request.preparation) if given is None else given
    if given is not None and isinstance(whole, Split):
        whole = _checked(whole)
    return whole.take(_rows(request, protocol, whole)), protocol


def _rows(request: EvalRequest, protocol: Protocol, whole: Source) -> Sequence[int]:
    """The rows of the examples: the requested ones, else those of the protocol, or all where the data have fewer."""
    text = protocol.examples if request.examples is None else request.examples
    sample = request.sample(protocol)
    fewer = request.examples is None and text is not None and (wanted(text) or 0) > len(whole)
    fewer &= sample is None or sample.kind != HELD_OUT
    rows: Sequence[int] = range(len(whole)) if text is None or fewer else rows_of(text, whole)
    if not request.shuffled:
        return rows
    if sample:
        raise UserError(f"--examples {text} mixes the classes already; leave --shuffled out")
    order = shuffled_rows(len(whole))
    return [order[row] for row in rows]


def _checked(split: Split) -> Split:
    """The caller's own images, in float32. Raises UserError when an attack on them would be meaningless."""
    if not len(split):
        raise UserError(f"{split.name} is empty; give it at least one image")
    if split.x.ndim != 4 or split.y.shape != split.x.shape[:1]:
        shapes = " and ".join(str(tuple(values.shape)) for values in (split.x, split.y))
        raise UserError(f"{split.name} has images and labels of shapes {shapes}; give (N, C, H, W) and (N,)")
    x, y = split.x.detach().to("cpu", torch.float32), split.y.detach().to("cpu", torch.long)
    low, high = x.amin().item(), x.amax().item()
    if not (low >= 0 and high <= 1):
        raise UserError(
            f"{split.name} holds pixels from {low:.6g} to {high:.6g}; they go from 0 to 1: divide them by 255, or undo"
            " their normalisation"
        )
    if int(y.min()) < 0 or int(y.max()) >= split.classes:
        raise UserError(
            f"{split.name} holds labels from {int(y.min())} to {int(y.max())}; its {split.classes} classes are numbered"
            f" 0 to {split.classes - 1}"
        )
    origin = None if split.origin is None else _checked_origin(split.origin)
    return replace(split, x=_plain(x), y=_plain(y), origin=origin)


def _checked_origin(whole: Split) -> Split | None:
    """The split that the caller's was cut from; None where an attack on it would be meaningless.

    An example is a split whose images were scaled after it was cut.
    """
    with suppress(UserError):
        return _checked(whole)
    return None


def _plain(values: Tensor) -> Tensor:
    """A tensor that was made in inference mode cannot take part in a gradient; a copy can."""
    return values.clone() if values.is_inference() else values
