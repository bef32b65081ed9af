"""Settings of the process that must not reach an evaluation, or a number would depend on who called."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def plain_process() -> Iterator[None]:
    """New tensors are float32 on the CPU, and gradients can be had, whatever the caller has set; also a decorator."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)
