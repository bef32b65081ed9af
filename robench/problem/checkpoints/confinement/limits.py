"""Limits of memory and files for the process of a program, and what it may know of the environment."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

SHARE = 3 / 4  # of the memory that is free when the process starts
FAMILIES = ("OMP_", "MKL_", "KMP_", "GOMP_", "ATEN_", "DNNL_", "ONEDNN_", "LD_LIBRARY_PATH")
"""Beginnings of the variables that decide where libraries lie and in which order they compute."""


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables that the process gets: without names, places and secrets of the user."""
    passed = {name: value for name, value in variables.items() if name.startswith(FAMILIES)}
    return passed | {"OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def limit_resources() -> None:
    """Limits this process to a share of the free memory, as far as the system can; it writes no files and no dumps."""
    import resource  # Linux and macOS have it

    limits = {"CORE": 0, "FSIZE": 0}
    if free := free_memory():
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
        except OSError:
            pages = 0
        limits["AS"] = limits["DATA"] = pages * resource.getpagesize() + int(SHARE * free)
    for name, limit in limits.items():
        with suppress(OSError, ValueError):  # a lower limit may be set already
            which = getattr(resource, f"RLIMIT_{name}")
            hard = resource.getrlimit(which)[1]
            limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            resource.setrlimit(which, (limit, limit))


def free_memory(system: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int:
    """The bytes that are free on this machine, or in this container if that is less; 0 if that is unknown."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        line = next((line for line in system.read_text().splitlines() if line.startswith("MemAvailable:")), "")
        found.append(1024 * int(line.split()[1]))
    with suppress(OSError, ValueError):  # no limit reads "max"
        allowed = int((group / "memory.max").read_text())
        found.append(max(0, allowed - int((group / "memory.current").read_text())))
    return min(found, default=0)
