"""Decides whether a TorchScript archive may be loaded without consent: only if all its code is known to only compute.

TorchScript has operators that write files, and can run them while it is loaded. `process` checks an archive, and
`operators` lists what it may use. PyTorch itself advises to treat such a file like a program.
"""

import hashlib
import os
import signal
from pathlib import Path
from subprocess import DEVNULL, PIPE, TimeoutExpired, run

import torch

from ....errors import UserError
from ..apart import command
from .inspection import Inspection

SECONDS = 120  # of CPU time; a scripted ResNet-152 takes less than ten

_known: set[bytes] = set()  # digests of archives that only compute, because a command loads its model more than once


def refuse_what_may_do_more(path: Path, data: bytes) -> None:
    """Raises UserError unless the archive in `data`, read from `path`, is known to only compute."""
    digest = hashlib.sha256(data).digest()
    if digest in _known:
        return
    inspection = inspect_apart(data)
    if inspection.damaged:
        raise UserError(
            f"{path} is not a complete TorchScript file, or not one that torch {torch.__version__} reads "
            f"({inspection.damaged}); copy or download it again, or save it again with this version"
        )
    if inspection.refused:
        raise UserError(
            f"{path} is a TorchScript program that {inspection.refused}, so it was not loaded; if you trust who made "
            "it, add --trust-pickle"
        )
    _known.add(digest)


def inspect_apart(data: bytes, seconds: int = SECONDS) -> Inspection:
    """The result of inspecting an archive in a separate process, which gets only these bytes."""
    limited = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    try:
        done = run(
            command(f"{__name__}.process", str(seconds)),
            input=data,
            stdout=PIPE,
            stderr=DEVNULL,
            env=os.environ | limited,
            timeout=5 * seconds,
            check=False,
        )
        return Inspection.from_json(done.stdout)
    except TimeoutExpired:
        return Inspection(refused=f"could not be checked in {5 * seconds} seconds")
    except OSError as error:
        return Inspection(refused=f"could not be checked (no process can be started: {error.strerror or error})")
    except ValueError:
        return Inspection(refused=_why_ended(done.returncode, seconds))


def _why_ended(code: int, seconds: int) -> str:
    """Why the process ended without a result."""
    if code == -getattr(signal, "SIGXCPU", 0):
        return f"takes more than {seconds} seconds to read"
    if code < 0:
        return f"crashes torch's reader ({signal.Signals(-code).name})"
    return f"could not be checked (the process that checks it ended with exit code {code})"
