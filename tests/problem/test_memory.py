"""Freed memory is there for the next tensor."""

import ctypes
import os
import platform
import resource

import pytest
import torch

from robench.problem.memory import M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, keep_freed_memory

NUMBERS = 4 << 20  # of the tensor: 16 MiB
PAGES = 4 * NUMBERS // resource.getpagesize()
TIMES = 20


def page_faults(setting):
    """Page faults in a process with this setting that allocates and frees a tensor of 16 MiB again and again."""
    reading, writing = os.pipe()
    if not (pid := os.fork()):
        try:
            torch.set_num_threads(1)
            held = fill_free_places()
            setting()
            for _ in range(TIMES):  # touches the pages once
                torch.ones(NUMBERS)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(TIMES):
                torch.ones(NUMBERS)
            os.write(writing, str(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before).encode())
            del held
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    found = int(os.read(reading, 20))
    os.close(reading)
    os.close(writing)
    return found


def fill_free_places():
    """Tensors in all free places of the heap that are large enough.

    Earlier tests of the process leave such places. A tensor in one of them comes and goes without the system under any
    setting.
    """
    default_of_glibc()
    end_of_heap = ctypes.CDLL(None).sbrk
    end_of_heap.restype = ctypes.c_void_p
    held = [torch.ones(NUMBERS)]
    while held[-1].data_ptr() < end_of_heap(0):
        held.append(torch.ones(NUMBERS))
    return held


def default_of_glibc():
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_THRESHOLD, 128 << 10)
    mallopt(M_TRIM_THRESHOLD, 128 << 10)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_freed_memory_is_used_again_without_the_system():
    assert page_faults(default_of_glibc) > TIMES * PAGES / 2
    assert page_faults(keep_freed_memory) < TIMES * PAGES / 4


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    keep_freed_memory()
