"""`robench evaluate`: attack, judge, record, print the table."""

import math
import shlex
from pathlib import Path

import click
import torch

from ..errors import UserError
from ..evaluation import shards
from ..evaluation.environment import pick_device
from ..evaluation.model_source import CheckpointSource
from ..evaluation.prepared import prepare
from ..evaluation.request import EvalRequest
from ..evaluation.workers.driver import Pool
from ..evaluation.workers.processes import Processes
from ..problem import durable
from ..results.measured import failure, refuse_unmeasured, unmeasured
from ..results.tables import render
from .options import preparation
from .running import command_line, refuse_unwritable, run_shown
from .terminal import echo

MAX_WORKERS = 256


def run(
    checkpoint: str,
    data: str | None,
    protocol: str | None,
    threats: tuple[str, ...],
    attacks: tuple[str, ...],
    examples: str | None,
    shard: str | None,
    workers: int | None,
    ray: str | None,
    ray_gpus: float | None,
    shuffled: bool,
    every_attack: bool,
    curve: bool,
    seed: int | None,
    arch: str | None,
    weights: str | None,
    normalise: str | None,
    trust_pickle: bool,
    run_path: Path | None,
    json_path: Path | None,
    minutes: float | None,
    breakdown: bool,
    masking: str,
    precision: str | None,
    device: str,
    quiet: bool,
    **prepared: str | None,
) -> int:
    """Runs the command; commands/evaluate.py documents its options."""
    if minutes is not None and not math.isfinite(minutes):
        raise UserError(f"--minutes {minutes} is not a time; write a number of minutes like 30 or 0.5")
    request = EvalRequest(
        *(data, protocol, threats, attacks, examples, seed, every_attack, curve, precision, masking),
        preparation=preparation(prepared),
        shard=None if shard is None else shards.parse(shard),
        shuffled=shuffled,
    )
    pool = chosen_pool(workers, ray, ray_gpus)
    source = CheckpointSource(checkpoint, arch, normalise, trust_pickle, pick_device(device), weights)
    if json_path is not None and str(json_path) != "-":
        read = [checkpoint, data, arch, protocol, request.preparation.labels, *attacks]
        refuse_unwritable(json_path, "--json", run_path, read)
    evaluation = prepare(request, source, command=command_line())
    result = run_shown(evaluation, run_path, minutes, quiet, pool=pool)
    summary = result.summary
    refuse_unmeasured(summary)
    if masking == "auto" and not quiet and any(t.masking.evidence for t in summary.threats):
        path = shlex.quote(str(run_path or evaluation.default_run))
        click.echo(f"what the check for gradient masking found: robench report {path} --masking", err=True)
    table = render([summary], intervals=True, attacks=breakdown, masking=masking in ("on", "deep"))
    if json_path is None or str(json_path) != "-":
        echo(table, nl=False)
    if json_path is not None:
        if str(json_path) == "-":
            echo(summary.to_json(), nl=False)
        else:
            durable.replace(json_path, summary.to_json().encode())
    for entry in unmeasured(summary):
        click.echo(f"Error: {failure(entry)}", err=True)
    return 2 if unmeasured(summary) else 0 if result.finished else 130


def chosen_pool(workers: int | None, ray: str | None, gpus: float | None) -> Pool | None:
    """The workers that the user wants: on this machine, among which its threads are divided, or on a Ray cluster.

    Raises UserError where Ray is not installed, or the options do not fit each other.
    """
    if ray is None and gpus is not None:
        raise UserError("--ray-gpus is the share of a GPU for each worker of --ray; leave it out, or add --ray ADDRESS")
    if workers is None:
        if ray is not None:
            raise UserError(f"--ray {ray} needs the number of workers; add --workers N")
        return None
    if not 1 <= workers <= MAX_WORKERS:
        raise UserError(f"--workers {workers} is out of range; it goes from 1 to {MAX_WORKERS}")
    if ray is None:
        threads = max(1, torch.get_num_threads() // workers)
        torch.set_num_threads(threads)  # the plan records it
        return Processes(workers, threads)
    if gpus is not None and not 0 < gpus <= 1:
        raise UserError(f"--ray-gpus {gpus} is no share of a GPU; write a number above 0 and up to 1")
    try:
        from ..evaluation.workers.ray_actors import RayActors
    except ImportError as error:
        raise UserError(f"--ray needs Ray, which is not installed ({error}); pip install 'robench[ray]'") from None
    torch.set_num_threads(1)
    return RayActors(ray, workers, threads=1, gpus=gpus or 0.0)
