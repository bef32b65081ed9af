"""Random numbers that belong to an example, not to the batch it happens to ride in.

A counter-based generator: number i of draw d under key k is a hash of (k, d, i). It has no state, so
the same example meets the same noise in any order, on any lane, after any restart.
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


def keyed(seed: int, *numbers: Int[Tensor, "B"] | int, draw: int | Int[Tensor, "B"]) -> Keys:
    """One key per row from the run's seed, the row's numbers (example, attack, target) and its draw."""
    key = torch.zeros(1, dtype=torch.long)
    for number in (seed, *numbers, draw):
        key = _mix(key * _GOLDEN + _mix(torch.as_tensor(number) + 1))
    return key


def text_key(text: str) -> int:
    """A number for a text, to key noise with. The same on every machine, unlike hash()."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def uniform(keys: Keys, draw: int | Int[Tensor, "B"], n: int) -> Float[Tensor, "B n"]:
    """n numbers in (0, 1) for each row, fixed by (key, draw) alone."""
    i = torch.arange(1, n + 1, device=keys.device)
    draw = torch.as_tensor(draw, device=keys.device).expand_as(keys)
    z = _mix((_mix(keys) + _mix(draw + 1))[:, None] + _GOLDEN * i)
    # 53 bits make a double; the clamp keeps float32 strictly inside (0, 1).
    return ((z >> 11) & ((1 << 53) - 1)).double().add(0.5).mul(2.0**-53).float().clamp(2**-24, 1 - 2**-24)


def normal(keys: Keys, draw: int | Int[Tensor, "B"], like: Inputs) -> Inputs:
    """Standard normal noise in the shape of `like`, by inversion of the distribution function."""
    n = like[0].numel()
    return (torch.erfinv(2 * uniform(keys, draw, n) - 1) * 2**0.5).to(like.dtype).view_as(like)


def random_images(shape: tuple[int, ...]) -> Tensor:
    """Two images of uniform noise, the same always."""
    return uniform(keyed(0, torch.arange(2), draw=0), 0, int(torch.tensor(shape).prod())).view(2, *shape)
