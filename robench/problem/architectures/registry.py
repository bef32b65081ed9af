"""The interface of a registered network: one alone, or a family whose members are named by depth, width and options."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import nn

from ...errors import UserError

Shapes = Mapping[str, tuple[int, ...]]
"""The shapes of a state dict by key, in its order."""

NEVER = 2**31
"""A side that no image reaches."""


@runtime_checkable
class Make(Protocol):
    """A function that makes a network for images of `shape` (channels, height, width) with `classes` outputs."""

    def __call__(self, shape: tuple[int, ...], classes: int) -> nn.Module: ...


@dataclass(frozen=True)
class Architecture:
    """A network that is made for any image shape and number of classes."""

    name: str
    description: str  # one line, with its source
    make: Make
    first: str  # the weight of the first layer: (maps, channels, ...)
    last: str  # the weight of the last layer: (classes, features)
    smallest: int = 8  # the minimal height and width, in pixels
    multiple: int = 1  # height and width are multiples of it
    assumed_from: int = 1  # the minimal side from which it is taken where others have equal keys and shapes
    by_shapes: bool = True  # recognised by the shapes of its weights alone, where the keys differ

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """A network with random weights from torch's global generator. Raises UserError for images that do not fit."""
        self.check(shape)
        return self.make(shape, classes)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UserError for images that do not fit."""
        small = len(shape) != 3 or shape[0] < 1 or min(shape[1:]) < self.smallest
        if small or any(side % self.multiple for side in shape[1:]):
            multiples = f" that are multiples of {self.multiple}" if self.multiple > 1 else ""
            raise UserError(
                f"{self.name} reads images of (channels, height, width) with sides of at least {self.smallest} pixels"
                f"{multiples}, not {'x'.join(map(str, shape))}; choose another architecture with --arch"
            )

    @property
    def accepted(self) -> tuple[int, int, int]:
        """The shape of small images that it reads."""
        side = self.multiple * -(-max(32, self.smallest) // self.multiple)
        return 1, side, side

    def read(self, shapes: Shapes) -> tuple[int, int] | None:
        """The (channels, classes) of a state dict with these shapes; None if it is not of this kind."""
        first, last = shapes.get(self.first, ()), shapes.get(self.last, ())
        return (first[1], last[0]) if len(first) == 4 and len(last) == 2 else None


@dataclass(frozen=True)
class Family:
    """Networks of one kind that differ in depth, width or options; the name of each states its own."""

    pattern: str  # a regular expression that matches the names
    listed: tuple[str, ...]  # the names in lists
    anchor: str  # the key of a weight that all members have
    member: Callable[[re.Match[str]], Architecture | None]  # None if there is no such depth or width
    names: Callable[[Shapes], Iterable[str]]
    """The names of the members that weights of these shapes may be. In the keys, `_` is written as a dot."""
    others: str = ""  # how members that no list shows are called

    def named(self, name: str) -> Architecture | None:
        """The member of this name."""
        found = re.fullmatch(self.pattern, name)
        return None if found is None else self.member(found)


def dotted(key: str) -> str:
    """The key with a dot for every separator, as `Family.names` reads it: files differ in these."""
    return key.replace("_", ".").replace("/", ".")


def counted_layers(shapes: Shapes, key: str, start: int = 0) -> int:
    """How many layers a state dict has of a key with `{}` for their number; the first number is `start`."""
    number = start
    while key.format(number) in shapes:
        number += 1
    return number - start


def side(shapes: Shapes, key: str, axis: int = 0) -> int:
    """The length of one axis of a weight; 0 if there is no such weight or axis."""
    shape = shapes.get(key, ())
    return shape[axis] if axis < len(shape) else 0
