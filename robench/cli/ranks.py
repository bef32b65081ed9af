"""Refuses commands that `torchrun` has started several times: each process would do the same work."""

import os
from collections.abc import Mapping, Sequence

from ..errors import UserError

TOGETHER = ("train",)  # commands whose processes share their work
WITH_WORKERS = ("evaluate",)  # commands that start processes of their own with --workers


def refuse_copies(args: Sequence[str], variables: Mapping[str, str] = os.environ) -> None:
    """Raises UserError for a command that would run several times, once in each process of torchrun.

    Help may run, and so may a command with --shard, whose number may come from RANK. WORLD_SIZE alone proves nothing:
    clusters set it in every container.
    """
    size = variables.get("WORLD_SIZE", "")
    if "TORCHELASTIC_RUN_ID" not in variables or not size.isdigit() or int(size) < 2:
        return
    command = next((arg for arg in args if not arg.startswith("-")), "")
    free = ("-h", "--help", "--version", "--shard")
    if not command or command in TOGETHER or any(arg.partition("=")[0] in free for arg in args):
        return
    workers = f" --workers {size}" if command in WITH_WORKERS else ""
    raise UserError(
        f"torchrun has started {size} processes, and each would run the same robench {command}; type"
        f" `robench {command} ...{workers}` without torchrun"
    )
