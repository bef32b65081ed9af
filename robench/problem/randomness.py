"""The random numbers of the process: those that a model which answers at random draws from."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Global random numbers (torch's here and on the device, numpy's, Python's) from this seed on; afterwards they go
    on as if nothing had been.
    """
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        reseed(seed, device)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def reseed(seed: int, device: torch.device) -> None:
    """Begin anew, from 0 to 2**32 - 1. Within `seeded`, which gives the numbers back."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed looks at every kind of device, which takes longer
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
