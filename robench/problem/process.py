"""Shields an evaluation from settings of the process, so that no number depends on the caller's settings."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


@contextmanager
def plain_process() -> Iterator[None]:
    """Makes new tensors float32 on the CPU and enables gradients, whatever the caller has set; also a decorator."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    # Only where the caller has chosen another device: within the context each operation passes through Python code of
    # torch, which takes as long as the operation on a small batch.
    cpu = nullcontext() if torch.empty(0).device.type == "cpu" else torch.device("cpu")
    try:
        with torch.inference_mode(False), torch.enable_grad(), cpu:
            yield
    finally:
        torch.set_default_dtype(dtype)
