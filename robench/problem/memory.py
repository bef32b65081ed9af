"""Memory of the CPU: errors that mean it is full, and freed memory that the process keeps."""

import ctypes
from contextlib import suppress

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt
UNTRIMMED = 256 << 20  # bytes of freed memory at the end of the heap that do not go back to the system
ON_HEAP = 32 << 20  # bytes: smaller tensors are on the heap; the highest value that glibc takes


def out_of_memory(error: Exception) -> bool:
    """Whether the memory is full: CUDA raises an exception of its own, the CPU allocator a RuntimeError with a text."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def keep_freed_memory() -> None:
    """Keeps freed memory for the next tensors, where glibc allocates.

    Otherwise it may go back to the system after every layer, and come back as pages of zeros. The thresholds of glibc
    follow from what the process has freed so far; in workers they were too low, and a ninth of the time was lost.
    """
    with suppress(OSError, AttributeError):  # another system, or another library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, ON_HEAP)
        mallopt(M_TRIM_THRESHOLD, UNTRIMMED)
