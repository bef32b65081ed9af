"""Tensors in memory that two processes share. What describes them may come from a stranger, and is checked.

A tensor lies there as in its own memory, with its strides: another order would be summed in another order.
"""

from math import prod

import msgspec
import torch
from torch import Tensor

TYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
    )
}
STEP = 64  # bytes: where tensors begin
MAX_AXES = 16
LARGEST = 2**48  # of sizes and strides
SPREAD = 2  # times as many places as numbers; a tensor that is more scattered is made contiguous


class Placed(msgspec.Struct, frozen=True):
    """The place and the layout of a tensor in the memory."""

    dtype: str
    sizes: list[int]
    strides: list[int]
    start: int  # bytes


class Misplaced(Exception):  # noqa: N818
    """A description that fits no tensor in the memory."""


def is_plain(tensor: Tensor) -> bool:
    """Whether the tensor can lie in shared memory."""
    dense = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_neg()
    return dense and tensor.device.type == "cpu" and tensor.dtype in TYPES.values()


def arranged(tensors: list[Tensor], start: int = 0) -> tuple[list[Tensor], list[Placed], int]:
    """The tensors as they will lie in the memory, their places from `start` on, and the end of the last."""
    ready, places = [], []
    for tensor in tensors:
        held = tensor.detach()
        if _extent(held.shape, held.stride()) > SPREAD * held.numel():
            held = held.contiguous()
        start = -(-start // STEP) * STEP
        name = str(held.dtype).removeprefix("torch.")
        places.append(Placed(name, list(held.shape), list(held.stride()), start))
        ready.append(held)
        start += _extent(held.shape, held.stride()) * held.element_size()
    return ready, places, start


def write(memory: Tensor, tensor: Tensor, place: Placed) -> None:
    """Copies an arranged tensor to its place. `memory` holds bytes."""
    extent = _extent(tensor.shape, tensor.stride())
    if extent:
        raw = tensor.as_strided((extent,), (1,))
        memory[place.start : place.start + extent * tensor.element_size()].view(tensor.dtype).copy_(raw)


def read(memory: Tensor, place: Placed, limit: int) -> Tensor:
    """A copy of the tensor at this place. Raises Misplaced unless it lies in the memory and has at most `limit` bytes.

    The content may change while it is copied; every number in it is as good as another.
    """
    dtype, sizes, strides, start = TYPES.get(place.dtype), place.sizes, place.strides, place.start
    if dtype is None or len(sizes) != len(strides) or len(sizes) > MAX_AXES:
        raise Misplaced
    if min([*sizes, *strides, start]) < 0 or max([*sizes, *strides, 0]) > LARGEST:
        raise Misplaced
    size = dtype.itemsize
    extent = _extent(sizes, strides)
    if start % STEP or start + extent * size > len(memory) or prod(max(n, 1) for n in sizes) * size > limit:
        raise Misplaced
    if not extent:
        return torch.empty_strided(sizes, strides, dtype=dtype)
    raw = memory[start : start + extent * size]
    if dtype is torch.bool:  # other bytes than 0 and 1 are no truth values
        return (raw != 0).as_strided(sizes, strides).clone()
    return raw.view(dtype).as_strided(sizes, strides).clone()


def _extent(sizes: tuple[int, ...] | list[int], strides: tuple[int, ...] | list[int]) -> int:
    """How many numbers lie between the first and the last of a tensor, both included."""
    if 0 in sizes:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
