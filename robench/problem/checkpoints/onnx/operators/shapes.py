"""Operators that change shapes, select parts, or compute with shapes themselves."""

from collections.abc import Callable, Mapping
from functools import partial
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layer import Layer, Maker, axis_of, compute, integers, plain, refuse_large
from ..node import Node

OfAxes = Callable[[Tensor, Tensor | None], Tensor]


def _identity(x: Tensor, *others: Tensor | None) -> Tensor:
    return x


def reshape(x: Tensor, sizes: Tensor, *, zero_is_size: bool, images: int = 0) -> Tensor:
    """The numbers in another shape: 0 keeps a size, -1 is what remains.

    If `images` is not 0, a shape that begins with it begins with the first size of `x` instead.
    """
    wanted = integers(sizes)
    if images and wanted and wanted[0] == images:
        wanted[0] = x.shape[0]
    if not zero_is_size:
        wanted = [x.shape[i] if size == 0 else size for i, size in enumerate(wanted)]
    return x.reshape(wanted)


def flatten(x: Tensor, *, axis: int) -> Tensor:
    """A matrix: the axes before `axis` are its rows."""
    at = axis if axis == x.ndim else axis_of(axis, x.ndim)
    return x.reshape(prod(x.shape[:at]), prod(x.shape[at:]))


def _transpose(x: Tensor, *, order: tuple[int, ...]) -> Tensor:
    return x.permute(order or tuple(range(x.ndim))[::-1])


def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    """The numbers without these axes of length 1; without all such axes, if none are named."""
    if axes is None:
        return x.squeeze()
    places = {axis_of(axis, x.ndim) for axis in integers(axes)}
    if any(x.shape[place] != 1 for place in places):
        raise ValueError(f"axes {sorted(places)} of {list(x.shape)} are not all 1")
    return x.reshape([size for i, size in enumerate(x.shape) if i not in places])


def unsqueeze(x: Tensor, axes: Tensor | None) -> Tensor:
    """The numbers with axes of length 1 at these places of the result."""
    if axes is None:
        raise ValueError("no axes")
    dimensions = x.ndim + axes.numel()
    places = {axis_of(axis, dimensions) for axis in integers(axes)}
    sizes = iter(x.shape)
    return x.reshape([1 if i in places else next(sizes) for i in range(dimensions)])


def _concatenate(*parts: Tensor, axis: int) -> Tensor:
    return torch.cat(parts, dim=axis)


def split(x: Tensor, sizes: Tensor | None = None, *, axis: int, parts: int) -> tuple[Tensor, ...]:
    """Consecutive parts of these sizes, else of equal ones, the last of which may be smaller."""
    if sizes is not None:
        return torch.split(x, integers(sizes), dim=axis)
    found = torch.split(x, max(-(-x.shape[axis] // parts), 1), dim=axis)
    if len(found) != parts:
        raise ValueError(f"{x.shape[axis]} rows cannot be split into {parts} parts")
    return found


def slices(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
    """A part of each axis, as a slice of Python selects it."""
    begin, end = integers(starts), integers(ends)
    along = list(range(len(begin))) if axes is None else integers(axes)
    stride = [1] * len(begin) if steps is None else integers(steps)
    for a, b, axis, step in zip(begin, end, along, stride, strict=True):
        place = axis_of(axis, x.ndim)
        chosen = range(*slice(a, b, step).indices(x.shape[place]))
        if step > 0:
            x = x[(slice(None),) * place + (slice(chosen.start, max(chosen.stop, chosen.start), step),)]
        else:
            x = x.index_select(place, torch.tensor(chosen, dtype=torch.long, device=x.device))
    return x


def pad(
    x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None, *, mode: str, fill: float
) -> Tensor:
    """The tensor with numbers around it: `fill`, the edge's, or those mirrored at the edge. Negative pads cut.

    `fill` is the number in `value`.
    """
    amounts = integers(pads)
    along = list(range(x.ndim)) if axes is None else [axis_of(axis, x.ndim) for axis in integers(axes)]
    sides = [(0, 0)] * x.ndim
    for i, axis in enumerate(along):
        sides[axis] = amounts[i], amounts[i + len(along)]
    refuse_large(size + sum(side) for size, side in zip(x.shape, sides, strict=True))
    first = next((i for i, side in enumerate(sides) if any(side)), x.ndim)
    if first == x.ndim:
        return x
    if mode == "constant":
        return F.pad(x, [n for side in reversed(sides[first:]) for n in side], value=fill)
    if first < 2 or x.ndim - first > 3:
        raise ValueError(f"{mode} padding of axis {first} of {x.ndim}")
    return F.pad(x, [n for side in reversed(sides[2:]) for n in side], mode=mode)


def expand(x: Tensor, sizes: Tensor) -> Tensor:
    """The numbers repeated to a shape, with broadcasting in both directions."""
    wanted = torch.broadcast_shapes(x.shape, tuple(integers(sizes)))  # type: ignore[no-untyped-call]
    refuse_large(wanted)
    return x.expand(wanted)


def _tile(x: Tensor, repeats: Tensor) -> Tensor:
    times = integers(repeats)
    refuse_large(size * n for size, n in zip(x.shape, times, strict=True))
    return x.repeat(times)


def _filled(sizes: Tensor, *, value: Tensor) -> Tensor:
    wanted = integers(sizes)
    refuse_large(wanted)
    return value.reshape(()).expand(wanted)


def numbers_between(start: Tensor, limit: Tensor, step: Tensor) -> Tensor:
    """Numbers from `start` on, up to but without `limit`."""
    a, b, by = (value.item() for value in (start, limit, step))
    if by == 0:
        raise ValueError("a range with step 0")
    refuse_large([max(int((b - a) // by), 0)])
    return torch.arange(a, b, by) if (b - a) / by > 0 else torch.zeros(0, dtype=start.dtype)


def _shape_of(x: Tensor, *, start: int, end: int | None) -> Tensor:
    return torch.tensor(x.shape[start:end], dtype=torch.long)


def _size_of(x: Tensor) -> Tensor:
    return torch.tensor(x.numel())


def depth_to_space(x: Tensor, *, block: int, by_rows: bool) -> Tensor:
    """Blocks of channels as blocks of pixels."""
    n, c, h, w = x.shape
    if not by_rows:
        return F.pixel_shuffle(x, block)
    parts = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // block**2, h * block, w * block)


def space_to_depth(x: Tensor, *, block: int) -> Tensor:
    """Blocks of pixels as blocks of channels, the place in the block first."""
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * block**2, h // block, w // block)


def _as_float(x: Tensor) -> Tensor:
    return x.float()


def _as_integer(x: Tensor) -> Tensor:
    return x.long()


def _as_bool(x: Tensor) -> Tensor:
    return x.bool()


CASTS = {1: _as_float, 10: _as_float, 11: _as_float, 16: _as_float, 6: _as_integer, 7: _as_integer, 9: _as_bool}
"""The casts by the number of the type: floats of 32, 16 and 64 bits and bfloat16, integers of 32 and 64 bits, bool."""


def _cast(node: Node) -> Layer:
    node.integer("saturate", 1)  # of eight-bit floats
    node.text("round_mode", "up")  # likewise
    kind = node.integer("to", 1)
    if kind not in CASTS:
        raise node.refused(f"makes numbers of another type than float32, int64 and bool (type {kind})")
    return compute(CASTS[kind])


def cast_like(x: Tensor, other: Tensor) -> Tensor:
    """The numbers in the type of another tensor."""
    return x.to(other.dtype)


def _cast_like(node: Node) -> Layer:
    node.integer("saturate", 1)  # of eight-bit floats
    node.text("round_mode", "up")  # likewise
    return compute(cast_like)


def _reshape(node: Node) -> Layer:
    zero = bool(node.integer("allowzero", 0))
    return compute(reshape, numbers=[1], zero_is_size=zero, images=node.images if node.constant(1) is not None else 0)


def _axes(node: Node, function: OfAxes) -> Layer:
    """A function of axes: an attribute before opset 13, later an input."""
    if node.opset >= 13:
        return compute(function, numbers=[1])
    axes = node.integers("axes")
    return compute(partial(_of_axes, function, axes=axes))


def _of_axes(function: OfAxes, x: Tensor, *, axes: tuple[int, ...]) -> Tensor:
    return function(x, torch.tensor(axes) if axes else None)


def _split(node: Node) -> Layer:
    axis, parts = node.integer("axis", 0), len(node.outputs)
    if node.integer("num_outputs", parts) != parts:
        raise node.refused("has another number of outputs than it declares")
    if node.opset >= 13:
        return compute(split, numbers=[1], axis=axis, parts=parts)
    sizes = node.integers("split")
    return compute(_split_into, sizes=sizes, axis=axis, parts=parts)


def _split_into(x: Tensor, *, sizes: tuple[int, ...], axis: int, parts: int) -> tuple[Tensor, ...]:
    return split(x, torch.tensor(sizes) if sizes else None, axis=axis, parts=parts)


def _slice(node: Node) -> Layer:
    if node.opset >= 10:
        return compute(slices, numbers=[1, 2, 3, 4])
    starts, ends, axes = (node.integers(name) for name in ("starts", "ends", "axes"))
    return compute(_slices_of, starts=starts, ends=ends, axes=axes or tuple(range(len(starts))))


def _slices_of(x: Tensor, *, starts: tuple[int, ...], ends: tuple[int, ...], axes: tuple[int, ...]) -> Tensor:
    return slices(x, torch.tensor(starts), torch.tensor(ends), torch.tensor(axes))


def _pad(node: Node) -> Layer:
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}.get(
        node.text("mode", "constant")
    )
    if mode is None:
        raise node.refused(f"has mode={node.text('mode', '')!r}")
    if node.opset >= 11:
        value = node.weight(2) if node.has(2) else torch.zeros(1)
        return compute(pad, numbers=[1, 2, 3], mode=mode, fill=float(value))
    pads, fill = node.integers("pads"), node.number("value", 0.0)
    return compute(_pad_by, pads=pads, mode=mode, fill=fill)


def _pad_by(x: Tensor, *, pads: tuple[int, ...], mode: str, fill: float) -> Tensor:
    return pad(x, torch.tensor(pads), mode=mode, fill=fill)


def _dropout(node: Node) -> Layer:
    """Dropout of evaluation: nothing. Training mode is an input, which has to be a constant."""
    node.number("ratio", 0.5)
    node.integer("seed", 0)
    training = node.constant(2)
    if node.has(2) and (training is None or bool(training)):
        raise node.refused("is in training mode")
    return Layer(compute(_identity).module, takes=1)


def _constant(node: Node) -> Layer:
    """A constant in an attribute, of one of several names."""
    for name in ("value_int", "value_ints"):
        if node.given(name):
            values = node.integer(name, 0) if name == "value_int" else node.integers(name)
            return compute(_the_constant, value=torch.tensor(values, dtype=torch.long))
    for name in ("value_float", "value_floats"):
        if node.given(name):
            numbers = node.number(name, 0.0) if name == "value_float" else node.numbers(name)
            return compute(_the_constant, value=torch.tensor(numbers, dtype=torch.float32))
    return compute(_the_constant, value=node.tensor("value"))


def _the_constant(*, value: Tensor) -> Tensor:
    return value


def _constant_of_shape(node: Node) -> Layer:
    value = node.tensor("value") if node.given("value") else torch.zeros(1)
    if value.numel() != 1:
        raise node.refused("has several values")
    return compute(_filled, numbers=[0], value=value)


def _shape(node: Node) -> Layer:
    return compute(_shape_of, start=node.integer("start", 0), end=node.integer("end", 0) if node.given("end") else None)


def _depth_to_space(node: Node) -> Layer:
    mode = node.text("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise node.refused(f"has mode={mode!r}")
    return compute(depth_to_space, block=node.integer("blocksize", 1), by_rows=mode == "DCR")


SHAPES: Mapping[str, Maker] = {
    "Cast": _cast,
    "CastLike": _cast_like,
    "Concat": lambda node: compute(_concatenate, axis=node.integer("axis", 0)),
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Dropout": _dropout,
    "Expand": plain(expand, numbers=[1]),
    "Flatten": lambda node: compute(flatten, axis=node.integer("axis", 1)),
    "Identity": plain(_identity),
    "Pad": _pad,
    "Range": plain(numbers_between, numbers=[0, 1, 2]),
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": plain(_size_of),
    "Slice": _slice,
    "SpaceToDepth": lambda node: compute(space_to_depth, block=node.integer("blocksize", 1)),
    "Split": _split,
    "Squeeze": lambda node: _axes(node, squeeze),
    "Tile": plain(_tile, numbers=[1]),
    "Transpose": lambda node: compute(_transpose, order=node.integers("perm")),
    "Unsqueeze": lambda node: _axes(node, unsqueeze),
}
