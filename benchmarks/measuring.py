"""Timing, traced networks, and result tables with the machine and the versions on which they were measured."""

import copy
import platform
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tabulate import tabulate
from torch import nn

from robench.evaluation.environment import environment
from robench.problem.checkpoints.programs import Program

RESULTS = Path(__file__).parent / "results"


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """The duration of some work, with the device's queue emptied before and after.

    On one CPU thread, it is the CPU time of this process, because machines are shared.
    """
    clock = time.process_time if alone(device) else time.perf_counter
    _settle(device)
    start_time = clock()
    work()
    _settle(device)
    return clock() - start_time


def alone(device: torch.device) -> bool:
    """Whether one CPU thread does all the work."""
    return device.type == "cpu" and torch.get_num_threads() == 1


def traced(module: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """The network as a TorchScript program, for images of this shape."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript itself, which is still in use
        return Program(torch.jit.trace(copy.deepcopy(module), torch.rand(2, *shape)))  # type: ignore[no-untyped-call]


def machine(device: torch.device) -> str:
    """The machine and the versions here, without the commit."""
    values = environment(device)
    return (
        f"{values['device']}, {values['threads']} threads, torch {values['torch']}, Python {platform.python_version()}"
    )


def write_results(
    name: str,
    title: str,
    rows: list[dict[str, object]],
    notes: list[str],
    device: torch.device,
    measured_on: Sequence[str] = (),
) -> None:
    """Prints the table, and writes it to benchmarks/results.

    `measured_on` has the machines and commits of rows that were not measured here and now.
    """
    here = f"{machine(device)}; commit {environment(device).get('commit', 'unknown')}"
    text = f"# {title}\n\n" + "\n".join(measured_on or [here]) + "\n\n"
    text += "Seconds are CPU time of one thread.\n\n" if alone(device) else ""
    text += tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".2f") + "\n\n" + "\n".join(notes) + "\n"
    print(text)
    RESULTS.mkdir(exist_ok=True)
    kind = "gpu" if device.type == "cuda" else "cpu"
    (RESULTS / f"{name}-{kind}.md").write_text(text)


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
