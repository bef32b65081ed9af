"""A node of an ONNX graph, as the makers of layers read it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from torch import Tensor

from ...names import shown


@dataclass(frozen=True)
class Body:
    """A graph in an attribute of a node. It may read what the graph around it computes."""

    nodes: Sequence["Node"]
    constants: Mapping[str, Tensor]
    outputs: tuple[str, ...]

    @property
    def free(self) -> tuple[str, ...]:
        """The names that it reads from the graph around it."""
        own = {*self.constants, *(name for node in self.nodes for name in node.outputs)}
        read = [*(name for node in self.nodes for name in node.inputs), *self.outputs]
        return tuple(dict.fromkeys(name for name in read if name and name not in own))

    def renamed(self, names: Mapping[str, str]) -> "Body":
        """The same graph with other names."""
        constants = {names.get(name, name): tensor for name, tensor in self.constants.items()}
        outputs = tuple(names.get(name, name) for name in self.outputs)
        return Body([node.renamed(names) for node in self.nodes], constants, outputs)


Value = int | float | str | Tensor | tuple[int, ...] | tuple[float, ...] | Body | None
"""The value of an attribute; None if it is of another kind, such as a graph of a loop."""

T = TypeVar("T")


class Refused(Exception):  # noqa: N818 (a decision about a file, not an internal error)
    """The reason why a graph is not imported: the end of a sentence that begins with the name of its file."""


class Unsupported(Refused):
    """The reason why a sound graph is not imported: what it computes is not known here."""


@dataclass
class Node:
    """One operation: its operator, the names of its inputs and outputs, its attributes, and which inputs are constant.

    `opset` is the version of the operators. An input or output that is left out has an empty name.
    """

    name: str
    operator: str
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Value] = field(default_factory=dict)
    constants: Mapping[str, Tensor] = field(default_factory=dict)  # by the names of the inputs
    images: int = 0  # the number of images that the graph is written for, if it may be generalised
    read: set[str] = field(default_factory=set)  # the attributes that were read

    def renamed(self, names: Mapping[str, str]) -> "Node":
        """The same node with other names, also in the graphs inside."""
        inputs, outputs = (tuple(names.get(name, name) for name in kind) for kind in (self.inputs, self.outputs))
        bodies = {
            key: value.renamed({name: names[name] for name in value.free if name in names})
            for key, value in self.attributes.items()
            if isinstance(value, Body)
        }
        return replace(self, inputs=inputs, outputs=outputs, attributes={**self.attributes, **bodies})

    @property
    def label(self) -> str:
        """The node in messages."""
        return f"{shown(self.operator)} node {shown(self.name or (self.outputs or ('without outputs',))[0])}"

    def has(self, place: int) -> bool:
        """Whether the input at this place is given."""
        return place < len(self.inputs) and self.inputs[place] != ""

    def constant(self, place: int) -> Tensor | None:
        """The value of the input at this place, if it is a constant."""
        return self.constants.get(self.inputs[place]) if self.has(place) else None

    def weight(self, place: int) -> Tensor:
        """The constant at this place. Raises Refused if the graph computes it."""
        constant = self.constant(place)
        if constant is None:
            raise self.refused("has weights that the graph computes from its input")
        if not constant.is_floating_point():
            raise self.refused("has whole numbers for weights, as after quantisation")
        return constant

    def given(self, name: str) -> bool:
        """Whether the node has this attribute."""
        return name in self.attributes

    def integer(self, name: str, default: int) -> int:
        return self._attribute(name, int, default)

    def number(self, name: str, default: float) -> float:
        return float(self._attribute(name, float, default))

    def text(self, name: str, default: str) -> str:
        return self._attribute(name, str, default)

    def tensor(self, name: str) -> Tensor:
        """The tensor in this attribute. Raises Refused if there is none."""
        value = self._attribute(name, Tensor, None)
        if value is None:
            raise self.refused(f"lacks its attribute {name}")
        return value

    def integers(self, name: str, default: Sequence[int] = ()) -> tuple[int, ...]:
        return self._attribute(name, tuple, tuple(default))

    def numbers(self, name: str) -> tuple[float, ...]:
        return self._attribute(name, tuple, ())

    def must_be(self, name: str, value: int, why: str) -> None:
        """Raises Refused if the attribute is given with another value than the default."""
        if self.integer(name, value) != value:
            raise self.refused(f"{why} ({name})")

    def single(self) -> None:
        """Raises Refused if another output than the first is used."""
        if any(self.outputs[1:]):
            raise self.refused(f"has a second output, {shown(next(name for name in self.outputs[1:] if name))}")

    def refuse_unread(self) -> None:
        """Raises Refused if an attribute was not read: it might change what the node computes."""
        unread = sorted(self.attributes.keys() - self.read)
        if unread:
            raise self.refused(f"has the attribute {shown(unread[0])}")

    def refused(self, reason: str) -> Unsupported:
        return Unsupported(
            f"cannot be imported: the {self.label} {reason}, which robench does not read; save the state dict of the "
            "model it was made from"
        )

    def _attribute(self, name: str, kind: type[T], default: T) -> T:
        self.read.add(name)
        value = self.attributes.get(name, default)
        if value is not default and not isinstance(value, kind):
            raise self.refused(f"has an attribute {shown(name)} of another type than its operator")
        return value
