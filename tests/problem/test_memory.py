"""Freed memory is there for the next tensor."""

import ctypes
import os
import platform
import resource

import pytest
import torch

from robench.problem.memory import M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, keep_freed_memory

PAGES = (16 << 20) // resource.getpagesize()  # of the tensor
TIMES = 20


def page_faults(setting):
    """Page faults in a process with this setting that allocates and frees a tensor of 16 MiB again and again."""
    reading, writing = os.pipe()
    if not (pid := os.fork()):
        try:
            setting()
            torch.set_num_threads(1)
            for _ in range(TIMES):  # takes free places of the heap that no process has touched
                torch.ones(4 << 20)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(TIMES):
                torch.ones(4 << 20)
            os.write(writing, str(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    found = int(os.read(reading, 20))
    os.close(reading)
    os.close(writing)
    return found


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
