"""Random numbers that belong to an example, not to its batch.

A counter-based generator: number i of restart r under key k is a hash of (k, r, i). It has no state, so an example has
the same noise in any order, in any slot, and after a resume.
"""

import hashlib

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .shapes import Inputs, Keys

# Constants of splitmix64 (Steele et al. 2014), written as signed 64-bit integers.
_GOLDEN = -7046029254386353131
_MIX_1 = -4658895280553007687
_MIX_2 = -7723592293110705685


def _mix(z: Tensor) -> Tensor:
    """The finaliser of splitmix64. Right shifts are masked: torch has no unsigned 64-bit arithmetic."""
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * _MIX_1
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * _MIX_2
    return z ^ ((z >> 31) & ((1 << 33) - 1))


def keyed(seed: int, *numbers: Int[Tensor, "B"] | int, restart: int | Int[Tensor, "B"]) -> Keys:
    """One key per row, from the run's seed, the row's numbers (example, attack, target) and its restart."""
    key = torch.zeros(1, dtype=torch.long)
    for number in (seed, *numbers, restart):
        key = _mix(key * _GOLDEN + _mix(torch.as_tensor(number) + 1))
    return key


def text_key(text: str) -> int:
    """A number for a text, as a key of noise. Unlike hash(), it is the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def uniform(keys: Keys, restart: int | Int[Tensor, "B"], n: int) -> Float[Tensor, "B n"]:
    """n numbers in (0, 1) for each row, determined by (key, restart) alone."""
    i = torch.arange(1, n + 1, device=keys.device)
    # Filled, not copied from the host: a copy stalls a GPU, and cannot be part of a captured graph.
    restart = torch.full_like(keys, restart) if isinstance(restart, int) else restart.to(keys.device).expand_as(keys)
    z = _mix((_mix(keys) + _mix(restart + 1))[:, None] + _GOLDEN * i)
    # 53 bits make a double; the clamp keeps float32 strictly inside (0, 1).
    return ((z >> 11) & ((1 << 53) - 1)).double().add(0.5).mul(2.0**-53).float().clamp(2**-24, 1 - 2**-24)


def normal(keys: Keys, restart: int | Int[Tensor, "B"], like: Inputs) -> Inputs:
    """Standard normal noise of the shape of `like`, by inversion of the distribution function."""
    n = like[0].numel()
    return (torch.erfinv(2 * uniform(keys, restart, n) - 1) * 2**0.5).to(like.dtype).view_as(like)


def random_images(shape: tuple[int, ...]) -> Tensor:
    """Two images of uniform noise, the same always."""
    return uniform(keyed(0, torch.arange(2), restart=0), 0, int(torch.tensor(shape).prod())).view(2, *shape)
