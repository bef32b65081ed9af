"""Converts what a model returns to logits: a tensor, a tuple, a dict, an object with `.logits`, one logit, labels."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError, counted
from .architectures.normalise import Around
from .shapes import Inputs, Logits

LOGITS = ("logits", "logit", "output", "outputs", "out", "pred", "preds", "prediction", "predictions", "scores")
"""Names under which models return their logits, the most common first."""

Place = int | str
Meaning = Literal["one logit", "one probability", "labels"]


class Part(Around):
    """A network whose output is a part of what it returns, found by keys, attributes and indices, outermost first.

    `alike` are the names of other parts of the same shape.
    """

    def __init__(self, network: nn.Module, place: tuple[Place, ...], alike: tuple[str, ...] = ()):
        super().__init__(network)
        self.place = place
        self.alike = alike

    def forward(self, x: Inputs) -> Any:
        returned = self.network(x)
        for place in self.place:
            returned = _part(returned, place)
        return returned


class AsLogits(Around):
    """A network that returns one number per image, converted to logits: of two classes, or one-hot for labels."""

    def __init__(self, network: nn.Module, meaning: Meaning, classes: int):
        super().__init__(network)
        self.meaning, self.classes = meaning, classes

    def forward(self, x: Inputs) -> Logits:
        answer: Tensor = self.network(x)
        flat = answer.flatten()
        if self.meaning == "labels":
            return F.one_hot(flat.long(), self.classes).to(x.dtype)
        if self.meaning == "one probability":
            return torch.stack([1 - flat, flat], dim=1)
        return torch.stack([-flat / 2, flat / 2], dim=1)  # their difference is the logit


def caution(network: nn.Module) -> str:
    """The caution about which of several outputs was taken as the logits; empty if there was one."""
    parts = [part for part in network.modules() if isinstance(part, Part) and part.alike]
    if not parts:
        return ""
    taken, alike = _name(parts[0].place), " and ".join(map(repr, parts[0].alike))
    return f"the model returns several outputs of one shape: {taken!r} is taken as the logits, not {alike}"


def as_logits(network: nn.Module, x: Inputs, classes: int | None) -> tuple[nn.Module, tuple[str, ...]]:
    """The network as a function to logits, (N, K), and notes about what it returns.

    `x` are at least two images to try; `classes` is the number of classes in the data, if known. Raises UserError if
    no part of what the network returns has a row for each image. Errors of the network itself propagate.
    """
    part, answer, notes = _read(network, x, classes)
    if answer.ndim == 2 and answer.shape[1] > 1:
        return part, notes
    meaning, outputs, note = _meaning(answer, classes)
    return AsLogits(part, meaning, outputs), (*notes, note)


def bare(network: nn.Module, x: Inputs, classes: int | None = None) -> tuple[nn.Module, tuple[str, ...]]:
    """The network as a function to the tensor with a row for each image, whatever its meaning, and notes about it.

    Raises as `as_logits` does.
    """
    part, _, notes = _read(network, x, classes)
    return part, notes


def _read(network: nn.Module, x: Inputs, classes: int | None) -> tuple[nn.Module, Tensor, tuple[str, ...]]:
    """The network reduced to its output, the output for `x`, and notes."""
    with torch.no_grad():
        returned = network(x.clone())
    place, answer, others, alike = _answer(returned, len(x), classes)
    if not place:
        return network, answer, ()
    note = f"of what the model returns ({type(returned).__name__}), {_name(place)!r} is taken as the logits"
    note += f"; {', '.join(others)} would fit as well" if others else ""
    return Part(network, place, alike), answer, (note,)


def _meaning(answer: Tensor, classes: int | None) -> tuple[Meaning, int, str]:
    """The meaning of one number per image, the number of classes, and the note about it."""
    if not answer.is_floating_point():
        note = "the model returns labels, which have no gradients: only attacks that read labels can run"
        return "labels", max(classes or 2, int(answer.max()) + 1), note
    if classes is not None and classes > 2:
        raise UserError(
            f"the model returns one number for each image, as a binary classifier does, but the data have {classes}"
            " classes; return one logit for each class, or choose data with two"
        )
    if bool(((answer >= 0) & (answer <= 1)).all()):
        note = (
            "the model returns one number between 0 and 1 for each image, taken as the probability of class 1; return"
            " the logit for gradients that do not saturate"
        )
        return "one probability", 2, note
    return "one logit", 2, "the model returns one logit for each image, taken as that of class 1 of two"


def _name(place: tuple[Place, ...]) -> str:
    return ".".join(map(str, place))


def _answer(
    returned: object, images: int, classes: int | None
) -> tuple[tuple[Place, ...], Tensor, list[str], tuple[str, ...]]:
    """The place of the output in what was returned, the output, and the names of other parts.

    First those that would fit as well, then those of the same shape.
    """
    found = [(place, t) for place, t in _tensors(returned, ()) if _is_answer(t, images)]
    if not found:
        raise UserError(_no_answer(returned, images))
    # Among equals, a part with as many columns as the data have classes comes first, then the first returned.
    ranked = sorted(found, key=lambda part: (*_rank(*part), part[1].shape[-1] != classes))
    place, answer = ranked[0]
    rivals = [other for other in ranked[1:] if _rank(*other) == _rank(place, answer)]
    alike = tuple(_name(other) for other, part in ranked[1:] if part.shape == answer.shape)
    return place, answer, [_name(other) for other, _ in rivals], alike


def _is_answer(part: Tensor, images: int) -> bool:
    """Whether a tensor may hold logits or a label for each image: dense, real numbers, one row for each image."""
    numbers = part.layout == torch.strided and not part.is_complex() and (part.dtype != torch.bool or part.ndim == 1)
    return numbers and part.ndim in (1, 2) and len(part) == images


def _rank(place: tuple[Place, ...], answer: Tensor) -> tuple[int, bool, int]:
    """Lower for parts more likely to be the logits: by name, then by shape, then by depth."""
    last = place[-1] if place else ""
    named = LOGITS.index(last) if isinstance(last, str) and last in LOGITS else len(LOGITS)
    return named, answer.ndim != 2, len(place)


def _tensors(returned: object, place: tuple[Place, ...]) -> list[tuple[tuple[Place, ...], Tensor]]:
    if isinstance(returned, Tensor):
        return [(place, returned)]
    if len(place) > 2:
        return []
    parts: list[tuple[Place, object]] = []
    if isinstance(returned, Mapping):
        parts = [(key, value) for key, value in returned.items() if isinstance(key, str)]
    elif isinstance(returned, list | tuple):
        parts = list(zip(getattr(returned, "_fields", range(len(returned))), returned, strict=True))
    elif is_dataclass(returned) and not isinstance(returned, type):
        parts = [(field.name, getattr(returned, field.name)) for field in fields(returned)]
    elif isinstance(logits := getattr(returned, "logits", None), Tensor):
        parts = [("logits", logits)]
    return [found for key, value in parts for found in _tensors(value, (*place, key))]


def _part(returned: object, place: Place) -> object:
    if isinstance(returned, Mapping) or (isinstance(returned, list | tuple) and isinstance(place, int)):
        return returned[place]  # type: ignore[index]
    return getattr(returned, str(place))


def _no_answer(returned: object, images: int) -> str:
    if isinstance(returned, Tensor):
        shape = "x".join(map(str, returned.shape)) or "one number"
        kind = "" if returned.layout == torch.strided else "sparse "
        kind += "" if returned.is_floating_point() else f"{str(returned.dtype).removeprefix('torch.')} "
        return (
            f"the model returns a {kind}tensor of {shape} for {counted(images, 'image')}, not {images}xK logits;"
            " name an image classifier that accepts batches of any size"
        )
    return (
        f"the model returns {type(returned).__name__}, in which no tensor has a row for each image; return the"
        " logits, alone or under the name 'logits'"
    )
