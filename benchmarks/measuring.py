"""What both benchmarks print and keep: a table with the machine and the versions it was measured on."""

import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tabulate import tabulate

from robench.evaluation.environment import environment

RESULTS = Path(__file__).parent / "results"


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long it takes, the device's queue emptied before and after.

    On one thread of a CPU: how long this process had it, since machines are shared.
    """
    clock = time.process_time if alone(device) else time.perf_counter
    _settle(device)
    begun = clock()
    work()
    _settle(device)
    return clock() - begun


def alone(device: torch.device) -> bool:
    """Whether one thread does all the work."""
    return device.type == "cpu" and torch.get_num_threads() == 1


def keep(name: str, title: str, rows: list[dict[str, object]], notes: list[str], device: torch.device) -> None:
    """Print the table and write it to benchmarks/results."""
    told = environment(device)
    machine = f"{told['device']}, {told['threads']} threads, torch {told['torch']}, Python {platform.python_version()}"
    text = f"# {title}\n\n{machine}; commit {told.get('commit', 'unknown')}\n\n"
    text += "Seconds are CPU time of one thread.\n\n" if alone(device) else ""
    text += tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".2f") + "\n\n" + "\n".join(notes) + "\n"
    print(text)
    RESULTS.mkdir(exist_ok=True)
    kind = "gpu" if device.type == "cuda" else "cpu"
    (RESULTS / f"{name}-{kind}.md").write_text(text)


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
