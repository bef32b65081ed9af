"""Telling that the memory is full from other failures."""

import torch


def out_of_memory(error: Exception) -> bool:
    """CUDA has an exception for it; the CPU allocator a sentence."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
