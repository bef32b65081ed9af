"""Recognises errors that mean the memory is full."""

import torch


def out_of_memory(error: Exception) -> bool:
    """Whether the memory is full: CUDA raises an exception of its own, the CPU allocator a RuntimeError with a text."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
