"""Finds the mean and standard deviation that a checkpoint stores as buffers beside the weights of its network."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from ...errors import UserError
from ..architectures.normalise import canonical
from ..names import shown
from .nested import DEPTH, by
from .places import Place, is_copy, parent, same

PAIRS = {"mu": "sigma", "mean": "std", "_mean": "_std", "mean_": "std_", "new_mean": "new_std", "means": "stds"}
PAIRS |= {f"{of}_mean": f"{of}_std" for of in ("image", "img", "pixel", "norm", "input", "data", "dataset", "channel")}
PAIRS |= {mean.upper(): std.upper() for mean, std in PAIRS.items()}
"""Names of the two: in RobustBench, in most code, in MadryLab's robustness library. Not `acc_mean`: it is a result."""
PIXELS = 255  # the largest value of a pixel, if the normalisation is for bytes


@dataclass(frozen=True)
class Own:
    """A normalisation found in a file, or the reason why it cannot be used."""

    names: tuple[str, str]
    text: str = ""  # MEAN/STD, or `none` if it changes nothing; empty if it cannot be used
    remark: str = ""

    @property
    def called(self) -> str:
        """The names of mean and standard deviation in the file."""
        return " and ".join(map(shown, self.names))


def own_normalisation(
    tensors: Mapping[str, Tensor], place: Place, network: nn.Module, shape: tuple[int, ...] | None
) -> Own | None:
    """The pair nearest to the weights: beside them, or alone in a module beside or above them; None without one.

    `shape` is that of the images, if known. A pair that the network itself contains is not considered.
    """
    levels = {prefix for part in place.prefixes for prefix in _above(part)}
    ordered = sorted(tensors)
    used = {*place.names.values()}
    found = []
    for name in tensors:
        base, mean = _split(name)
        std = base + PAIRS.get(mean, "")
        if mean not in PAIRS or std not in tensors or name in used or std in used or is_copy(base):
            continue
        level = base if base in levels else parent(base)
        alone = base in levels or _below(ordered, base) == 2
        if level in levels and alone and _alike(tensors[name], shape) and not _has(network, place, base, mean):
            found.append((len(level), name, std))
    if not found:
        return None
    _, name, std = max(found, key=lambda one: one[0])
    others = [one for one in found if one[1] != name and not _equal(tensors, one[1:], (name, std))]
    return _read(tensors, (name, std), shape[0] if shape else None, bool(others))


def _alike(mean: Tensor, shape: tuple[int, ...] | None) -> bool:
    """Whether a tensor may be the mean of images: one number for each channel, or a mean image."""
    sides = [side for side in mean.shape if side != 1]
    few = len(sides) < 2 and mean.numel() <= (max(4, shape[0]) if shape else 4)
    return few or (shape is not None and tuple(mean.shape[-2:]) == shape[1:])


def mentioned(numbers: Mapping[str, tuple[float, ...]]) -> str:
    """The settings in a file called mean and standard deviation, and what to type to use them; empty without any."""
    for name, mean in numbers.items():
        base, last = _split(name)
        std = numbers.get(base + PAIRS.get(last, ""))
        if last in PAIRS and std is not None:
            text = "/".join(",".join(map(repr, half)) for half in (mean, std))
            return (
                f"{shown(name)} and {shown(base + PAIRS[last])} in the file may be meant: --normalise {text} uses them"
            )
    return ""


def is_part(name: str) -> bool:
    """Whether a tensor of this name may belong to a normalisation."""
    last = _split(name)[1]
    return last in PAIRS or last in PAIRS.values()


def _read(tensors: Mapping[str, Tensor], names: tuple[str, str], channels: int | None, several: bool) -> Own:
    mean, std = (tensors[name].float().cpu() for name in names)
    sides = [side for tensor in (mean, std) for side in tensor.shape if side != 1]
    axes = max(sum(side != 1 for side in tensor.shape) for tensor in (mean, std))
    if axes > 1 or len({*sides}) > 1 or (sides and channels is not None and sides[0] != channels):
        what = f"{by(mean.shape)} and {by(std.shape)}" if axes > 1 else f"{max(sides)} numbers each"
        want = "one number for each channel" if channels is None else f"{channels}, one for each channel"
        return Own(names, remark=f"{what} instead of {want}")
    bytes_ = bool(mean.max() > 1 or std.max() > 2)
    text = "/".join(",".join(_number(value, bytes_) for value in half.flatten().numpy()) for half in (mean, std))
    try:
        text = canonical(text, channels or max(mean.numel(), std.numel()))
    except UserError:
        return Own(names, remark=f"{shown(text)}, which is no mean and standard deviation")
    remark = f", divided by {PIXELS} for pixels from 0 to 1" if bytes_ else ""  # stored for pixels from 0 to 255
    return Own(names, text, remark + (", the pair nearest to the weights" if several else ""))


def _number(value: np.float32, of_bytes: bool) -> str:
    """The shortest text that parses to exactly this number."""
    return repr(float(value) / PIXELS) if of_bytes else str(value)


def _above(prefix: str) -> list[str]:
    """The prefix and all its parents."""
    levels = [prefix]
    while levels[-1] and len(levels) < DEPTH:
        levels.append(parent(levels[-1]))
    return levels


def _split(name: str) -> tuple[str, str]:
    base = parent(name)
    return base, name[len(base) :]


def _below(ordered: Sequence[str], base: str) -> int:
    """The number of names that begin with `base`."""
    return bisect_left(ordered, base + chr(0x10FFFF)) - bisect_left(ordered, base)


def _has(network: nn.Module, place: Place, base: str, mean: str) -> bool:
    """Whether the network has such a buffer that is not in its state dict."""
    for prefix in place.prefixes:
        if base.startswith(prefix):
            try:
                return hasattr(network.get_submodule(base[len(prefix) : -1]), mean)
            except AttributeError:
                continue
    return False


def _equal(tensors: Mapping[str, Tensor], one: Sequence[str], other: Sequence[str]) -> bool:
    halves = [{str(place): tensors[name].flatten() for place, name in enumerate(pair)} for pair in (one, other)]
    return same(*halves)
