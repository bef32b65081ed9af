"""Operators that make images larger or smaller, or read them between their pixels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import floor

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layer import LISTED, Layer, Maker, axis_of, compute, integers, refuse_large
from ..node import Node

PLACES = ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "align_corners", "asymmetric")
"""The ways in which a pixel of the result lies on the image. `tf_half_pixel_for_nn` is read too."""
ROUNDED: Mapping[str, Callable[[Tensor], Tensor]] = {
    "round_prefer_floor": lambda x: (x - 0.5).ceil(),
    "round_prefer_ceil": lambda x: (x + 0.5).floor(),
    "floor": torch.floor,
    "ceil": torch.ceil,
}
"""The pixels that are nearest to places between them. Without the attribute, before opset 11: see `nearest`."""


@dataclass(frozen=True)
class Kernel:
    """How pixels are computed from those around their place."""

    mode: str  # nearest, linear or cubic
    places: str  # one of PLACES
    rounding: str  # one of ROUNDED, for nearest, or "simple"
    a: float  # the coefficient of the cubic
    inside: bool  # whether pixels beyond the edge have no weight; otherwise the edge is repeated

    def places_of(self, size: int, result: int, scale: float) -> Tensor:
        """The places of the pixels of the result along an axis, in pixels of the image."""
        i = torch.arange(result, dtype=torch.float32)
        if self.places == "align_corners":
            return i * ((size - 1) / (result - 1)) if result > 1 else torch.zeros(result)
        if self.places == "asymmetric":
            return i / scale
        if self.places == "tf_half_pixel_for_nn":
            return (i + 0.5) / scale
        if self.places == "pytorch_half_pixel" and result == 1:
            return torch.zeros(1)
        shift = size / 2 * (1 - result / (scale * size)) if self.places == "half_pixel_symmetric" else 0.0
        return shift + (i + 0.5) / scale - 0.5

    def nearest(self, size: int, result: int, scale: float) -> Tensor:
        """The pixel of the image for each of the result. The rounding `simple` is that of ONNX Runtime."""
        rounding = self.rounding if self.rounding != "simple" else "ceil" if scale < 1 else "floor"
        rounded = ROUNDED[rounding](self.places_of(size, result, scale))
        return rounded.long().clamp(0, size - 1)

    def weights(self, size: int, result: int, scale: float) -> Tensor:
        """The weight of each pixel of the image in each of the result, (result, size)."""
        places = self.places_of(size, result, scale)[:, None]
        pixels = places.floor().long() + torch.arange(-1, 3)
        shares = self._share((places - pixels).abs())
        if self.inside:
            shares = torch.where((pixels >= 0) & (pixels < size), shares, 0.0)
            shares = shares / shares.sum(dim=1, keepdim=True)
        return torch.zeros(result, size).scatter_add(1, pixels.clamp(0, size - 1), shares)

    def _share(self, d: Tensor) -> Tensor:
        if self.mode == "linear":
            return (1 - d).clamp_min(0)
        a = self.a
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        return torch.where(d <= 1, near, torch.where(d < 2, far, 0.0))


def resized(x: Tensor, sizes: Sequence[int], scales: Sequence[float], kernel: Kernel) -> Tensor:
    """The images with these sizes of all axes."""
    refuse_large(sizes)
    for axis, (size, result, scale) in enumerate(zip(x.shape, sizes, scales, strict=True)):
        if size == result and scale == 1:
            continue
        if max(size, result) > LISTED or not min(size, result):
            raise ValueError(f"{size} pixels resized to {result}")
        if kernel.mode == "nearest":
            x = x.index_select(axis, kernel.nearest(size, result, scale).to(x.device))
        else:
            x = (x.movedim(axis, -1) @ kernel.weights(size, result, scale).T.to(x.device, x.dtype)).movedim(-1, axis)
    return x


def resize(
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
    *,
    kernel: Kernel,
    axes: tuple[int, ...],
) -> Tensor:
    """The images with these sizes, or scaled by these factors, of all axes or of some."""
    along = [axis_of(axis, x.ndim) for axis in axes] or list(range(x.ndim))
    factors, wanted = [1.0] * x.ndim, list(x.shape)
    if sizes is not None and sizes.numel():
        for axis, size in zip(along, integers(sizes), strict=True):
            factors[axis], wanted[axis] = size / x.shape[axis], size
    elif scales is not None and 0 < scales.numel() <= x.ndim:
        for axis, factor in zip(along, scales.tolist(), strict=True):
            if not 0 < factor < LISTED:
                raise ValueError(f"a scale of {factor}")
            factors[axis], wanted[axis] = factor, floor(x.shape[axis] * factor)
    else:
        raise ValueError("neither sizes nor scales")
    return resized(x, wanted, factors, kernel)


def _resize(node: Node) -> Layer:
    mode = node.text("mode", "nearest")
    old = node.opset < 11
    places = node.text("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    rounding = node.text("nearest_mode", "simple" if old else "round_prefer_floor")
    known = mode in ("nearest", "linear", "cubic") and rounding in (*ROUNDED, "simple")
    if not known or places not in (*PLACES, "tf_half_pixel_for_nn"):
        raise node.refused(f"has mode={mode!r} with {places}")
    if node.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise node.refused("keeps the aspect ratio")
    node.must_be("antialias", 0, "smooths smaller images, in which ONNX Runtime and PyTorch differ")
    node.number("extrapolation_value", 0.0)  # of tf_crop_and_resize
    kernel = Kernel(
        mode,
        places,
        rounding,
        node.number("cubic_coeff_a", -0.75),
        bool(node.integer("exclude_outside", 0)) and mode == "cubic",
    )
    if old:
        return compute(_scaled, numbers=[1], kernel=kernel)
    return compute(resize, numbers=[1, 2, 3], kernel=kernel, axes=node.integers("axes"))


def _scaled(x: Tensor, scales: Tensor, *, kernel: Kernel) -> Tensor:
    return resize(x, scales=scales, kernel=kernel, axes=())


def _upsample(node: Node) -> Layer:
    mode = node.text("mode", "nearest")
    if mode not in ("nearest", "linear"):
        raise node.refused(f"has mode={mode!r}")
    kernel = Kernel(mode, "asymmetric", "simple", 0.0, inside=False)
    if node.opset >= 9:
        return compute(_scaled, numbers=[1], kernel=kernel)
    return compute(_scaled_by, scales=node.numbers("scales"), kernel=kernel)


def _scaled_by(x: Tensor, *, scales: tuple[float, ...], kernel: Kernel) -> Tensor:
    return _scaled(x, torch.tensor(scales), kernel=kernel)


def _grid_sample(node: Node) -> Layer:
    mode = node.text("mode", "bilinear" if node.opset < 20 else "linear")
    known = {
        "bilinear": "bilinear",
        "linear": "bilinear",
        "nearest": "nearest",
        "bicubic": "bicubic",
        "cubic": "bicubic",
    }
    padding = node.text("padding_mode", "zeros")
    if mode not in known or padding not in ("zeros", "border", "reflection"):
        raise node.refused(f"has mode={mode!r} with {padding}")
    corners = bool(node.integer("align_corners", 0))
    return compute(F.grid_sample, mode=known[mode], padding_mode=padding, align_corners=corners)


RESIZING: Mapping[str, Maker] = {"GridSample": _grid_sample, "Resize": _resize, "Upsample": _upsample}
