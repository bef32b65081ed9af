"""The environment of a run: what a reader needs to repeat it, and nothing about the person who started it."""

import math
import os
import platform
import subprocess
import time
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import nn

from .. import __version__
from ..errors import UserError
from ..problem.checkpoints.programs import confinement
from ..results.merging import DATE

SOURCE_DATE = "SOURCE_DATE_EPOCH"  # https://reproducible-builds.org/specs/source-date-epoch/
LAST_SECOND = 253402300800  # the year 10000 begins


def environment(device: torch.device) -> dict[str, str]:
    """Versions, machine and commit as texts."""
    found = {
        "robench": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": _version("numpy"),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": str(torch.get_num_threads()),
    }
    commit = _commit()
    return found | ({"commit": commit} if commit else {})


def model_size(module: nn.Module) -> dict[str, str]:
    """The count of the numbers that training sets, as a text under `parameters`; empty if the module shows none."""
    count = sum(weight.numel() for weight in module.parameters())
    return {"parameters": str(count)} if count else {}


def model_confinement(module: nn.Module) -> dict[str, str]:
    """What confines the program of a model, as a text under `confinement`; empty if the model is no program."""
    found = confinement(module)
    return {"confinement": found} if found else {}


def date() -> str:
    """The present time in UTC, as run files hold it: 2026-11-26T06:10:00Z. SOURCE_DATE_EPOCH takes precedence.

    Raises UserError if that variable is no number of seconds.
    """
    text = os.environ.get(SOURCE_DATE)
    if text is None:
        return time.strftime(DATE, time.gmtime())
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and int(text) < LAST_SECOND):
        raise UserError(
            f"{SOURCE_DATE} is {text!r}; set it to a time in seconds since 1970, such as 1795673400, or unset it"
        )
    return time.strftime(DATE, time.gmtime(int(text)))


def commit(device: torch.device) -> str:
    """The commit of the source checkout that runs here; empty for an installed package."""
    return environment(device).get("commit", "")


def hardware(device: torch.device) -> str:
    """The processor and the version of torch, on which running times depend."""
    found = environment(device)
    threads = f", {found['threads']} threads" if device.type == "cpu" else ""
    return f"{found['device']}{threads}, torch {found['torch']}"


def pick_device(text: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:1` names. Raises UserError when it is not available."""
    use_granted_cores()
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(text)
        torch.zeros(1, device=device).item()  # present, and able to compute
    except (RuntimeError, AssertionError):
        available = "cpu and cuda" if torch.cuda.is_available() else "only cpu"
        raise UserError(f"there is no device {text!r} here, {available}; leave --device out to use the best") from None
    return device


def use_granted_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> None:
    """Limits torch to as many threads as the container's CPU quota grants cores; torch itself ignores that quota.

    Further threads would only wait for each other. A value of OMP_NUM_THREADS takes precedence.
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


@cache
def _commit() -> str | None:
    """The commit of a source checkout at the first run of this process; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
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
