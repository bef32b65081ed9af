"""One thread: small tensors, and several test runs may share a machine. For the same reason no test has a deadline."""

import os

import jaxtyping
import torch
from hypothesis import settings

from .type_checks import checked_once

jaxtyping.jaxtyped = checked_once(jaxtyping.jaxtyped)  # before anything of robench is imported
from robench.problem.checkpoints.confinement import process  # noqa: E402

from .forked import Forked  # noqa: E402

process.Popen = Forked  # torch is imported once; commands that tests run in a process start real ones
torch.set_num_threads(1)
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
os.environ["ROBENCH_PRECISION_CACHE"] = ""  # the account's own is none of our business; subprocesses inherit this
