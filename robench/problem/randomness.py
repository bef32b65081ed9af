"""The global random generators of the process, which stochastic models use."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds the global generators (torch's on CPU and device, numpy's, Python's), and restores their state at exit."""
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        reseed(seed, device)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def reseed(seed: int, device: torch.device) -> None:
    """Seeds the global generators with a number from 0 to 2**32 - 1. Use it within `seeded`, which restores them."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed visits every kind of device, which takes longer
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
