"""Branches of a graph (the operator If) whose condition does not depend on the images: the one that is taken."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .graph import sized
from .layer import Layer
from .node import Body, Node, Unsupported

ROWS = (2, 3)  # numbers of images for which a condition is computed, where the graph takes any


class Conditions:
    """What is known of the conditions in a graph for images of these sizes, the first of which may be open.

    It follows from constants, or from the sizes of all values, which are computed without the values themselves.
    """

    def __init__(self, image: str, sizes: Sequence[int | None]):
        numbers = ROWS if sizes[0] is None else (sizes[0],)
        shape = [size for size in sizes[1:] if size is not None]
        known = len(shape) == len(sizes) - 1
        self._values = [{image: torch.empty((n, *shape), device="meta")} for n in numbers] if known else []
        self._done = 0

    def holds(self, name: str, layers: Sequence[tuple[Node, Layer]], constants: Mapping[str, Tensor]) -> bool | None:
        """Whether the condition holds for every image; None if it is not known before there are images."""
        if name in constants:
            return _truth(constants[name])
        try:
            for node, layer in layers[self._done :]:
                for values in self._values:
                    given = [values.get(one, constants.get(one)) if one else None for one in node.inputs]
                    values.update(zip(node.outputs, sized(layer.module, given, layer.numbers), strict=False))
        except Exception:  # whatever torch raises
            self._values = []
        self._done = len(layers)
        found = {_truth(values[name]) for values in self._values if name in values}
        return found.pop() if len(found) == 1 else None


def taken(node: Node, holds: bool | None) -> tuple[list[Node], dict[str, Tensor]]:
    """The nodes in place of a branch, and their constants. Raises Unsupported if the condition is not known."""
    body = node.attributes.get("then_branch" if holds else "else_branch")
    if holds is None or not isinstance(body, Body) or len(body.outputs) != len(node.outputs):
        raise Unsupported(
            f"has the operator If ({node.label}), whose graph may change from image to image; export the model without"
        )
    inner = {*body.constants, *(name for one in body.nodes for name in one.outputs)} - {""}
    body = body.renamed({name: f"{node.outputs[0]}/{name}" for name in inner})
    ends = [
        replace(node, operator="Identity", inputs=(inside,), outputs=(outside,), attributes={})
        for inside, outside in zip(body.outputs, node.outputs, strict=True)
        if outside
    ]
    return [*body.nodes, *ends], dict(body.constants)


def _truth(condition: Tensor) -> bool | None:
    if condition.device.type == "meta" or condition.numel() != 1:
        return None
    return bool(condition)
