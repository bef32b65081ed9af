"""Where a run happened: what a reader needs to repeat it, and nothing about the person who ran it."""

import math
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from .. import __version__


def environment(device: torch.device) -> dict[str, str]:
    """Versions, machine and commit as texts."""
    told = {
        "robench": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": _version("numpy"),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": str(torch.get_num_threads()),
    }
    commit = _commit()
    return told | ({"commit": commit} if commit else {})


def use_granted_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> None:
    """No more threads than the cores this process may use: a container's quota, which torch does not look at.

    Threads beyond it wait for each other. OMP_NUM_THREADS, where somebody has set it, stands.
    """
    if "OMP_NUM_THREADS" in os.environ or not quota.is_file():
        return
    granted, period = [*quota.read_text().split(), "", ""][:2]
    if granted.isdigit() and period.isdigit():
        cores = max(1, math.ceil(int(granted) / int(period)))
        torch.set_num_threads(min(torch.get_num_threads(), cores))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str | None:
    """The commit of a source checkout; None for an installed package."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
