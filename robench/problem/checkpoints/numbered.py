"""Finds the layers of an `nn.Sequential` in a file: keys with numbers, as `0.weight` and `2.weight`."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..architectures.chain import Chain, Shape
from .contents import Contents
from .nested import by
from .own_normalisation import is_part
from .places import COUNTER, Place, is_copy

KEY = re.compile(r"(?P<prefix>(?:.*\.)?)(?P<number>\d{1,4})\.(?P<name>[^.]+)")
NAMES = {
    "conv": ({"weight"}, {"weight", "bias"}),
    "fc": ({"weight"}, {"weight", "bias"}),
    "bn": ({"running_mean", "running_var"}, {"weight", "bias", "running_mean", "running_var", COUNTER}),
}
"""The names of the tensors that each kind of layer must have, and may have."""


@dataclass(frozen=True)
class NumberedLayer:
    """A layer with weights: its number among all layers, and the names of its tensors in the file."""

    number: int
    kind: str  # conv, fc or bn
    names: Mapping[str, str]
    shapes: Mapping[str, Shape]


@dataclass(frozen=True)
class Numbered:
    """The layers with weights under one prefix, in the order of their numbers."""

    prefix: str
    layers: tuple[NumberedLayer, ...]
    beside: tuple[str, ...] = ()  # tensors in the same container that none of the layers uses

    @property
    def shapes(self) -> list[Mapping[str, Shape]]:
        """The shapes of the tensors of each layer."""
        return [layer.shapes for layer in self.layers]

    @property
    def about(self) -> str:
        """The layers as text: their numbers, kinds, and the shapes of their weights."""
        return ", ".join(
            f"{layer.number} {layer.kind} {by(layer.shapes.get('weight', layer.shapes.get('running_mean', ())))}"
            for layer in self.layers
        )

    @property
    def classifies(self) -> bool:
        """Whether they end with a dense layer, and begin with one that reads images."""
        return self.layers[-1].kind == "fc" and self.layers[0].kind != "bn"

    @property
    def place_by_number(self) -> Place:
        """The place of all their tensors, with keys by the numbers in the file."""
        names = {f"{one.number}.{key}": name for one in self.layers for key, name in one.names.items()}
        return Place((self.prefix,), names)

    def place(self, chain: Chain) -> Place:
        """The place of the weights of a chain, whose weighted layers are these."""
        if sum(layer.weighted for layer in chain) != len(self.layers):
            return Place((self.prefix,), {})
        positions = [position for position, layer in enumerate(chain) if layer.weighted]
        names = {
            f"{position}.{key}": name
            for position, layer in zip(positions, self.layers, strict=True)
            for key, name in layer.names.items()
        }
        alike = positions == [layer.number for layer in self.layers]
        return Place((self.prefix,), names, "" if alike else "layer by layer, in the order of their numbers")


def numbered(contents: Contents) -> list[Numbered]:
    """The numbered layers under each prefix, if all tensors under it are those of convolutions, dense layers and batch
    norm.
    """
    groups: dict[str, dict[int, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for name in contents.tensors:
        if (found := KEY.fullmatch(name)) is not None:
            groups[found["prefix"]][int(found["number"])][found["name"]] = name
    chains = [chain for prefix, group in groups.items() if (chain := _chain(contents, prefix, group)) is not None]
    used = {name for chain in chains for layer in chain.layers for name in layer.names.values()}
    return [Numbered(chain.prefix, chain.layers, _beside(contents, chain.prefix, used)) for chain in chains]


def _chain(contents: Contents, prefix: str, group: Mapping[int, Mapping[str, str]]) -> Numbered | None:
    layers: list[NumberedLayer] = []
    for number in sorted(group):
        names = group[number]
        if all(is_part(name) for name in names.values()) and not layers:
            continue  # a normalisation as the first layer
        shapes = {key: tuple(contents.tensors[name].shape) for key, name in names.items()}
        kind = _kind(shapes)
        if kind is None:
            return None
        layers.append(NumberedLayer(number, kind, names, shapes))
    return Numbered(prefix, tuple(layers)) if any(layer.kind != "bn" for layer in layers) else None


def _kind(shapes: Mapping[str, Shape]) -> str | None:
    """The kind of layer that has tensors of these shapes; None if it is another one."""
    sides = len(shapes.get("weight", ()))
    kind = {4: "conv", 2: "fc"}.get(sides, "bn")
    needed, known = NAMES[kind]
    if not needed <= shapes.keys() <= known:
        return None
    width = shapes["running_mean"][:1] if kind == "bn" else shapes["weight"][:1]
    vectors = [shape for key, shape in shapes.items() if key != COUNTER and not (key == "weight" and kind != "bn")]
    return kind if width and all(shape == width for shape in vectors) else None


def _beside(contents: Contents, prefix: str, used: set[str]) -> tuple[str, ...]:
    container = contents.nested.container(prefix)

    def belongs(name: str) -> bool:
        if not name.startswith(container) or name in used or name.endswith((COUNTER, "n_averaged")) or is_part(name):
            return False
        return contents.nested.container(name) == container and not is_copy(name[len(container) :])

    return tuple(filter(belongs, contents.tensors))


def weights_of_layers(contents: Contents, chain: Numbered) -> list[dict[str, Tensor]]:
    """The tensors of each layer, in float32."""
    return [
        {key: contents.tensors[name].float() for key, name in layer.names.items() if key != COUNTER}
        for layer in chain.layers
    ]
