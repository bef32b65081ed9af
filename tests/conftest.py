"""One thread: small tensors, and several test runs may share a machine. For the same reason no test has a deadline."""

import gc
import os
from pathlib import Path

import jaxtyping
import pytest
import torch
from hypothesis import settings

from .type_checks import calls, checked_once, mark_only_what_is_instrumented

jaxtyping.jaxtyped = checked_once(jaxtyping.jaxtyped)  # before anything of robench is imported
mark_only_what_is_instrumented()
from robench.problem.checkpoints import torchscript  # noqa: E402
from robench.problem.checkpoints.confinement import process  # noqa: E402

from . import forked  # noqa: E402

# Torch is imported once; commands that tests run in a process of their own start real ones.
process.Popen, torchscript.run = forked.Forked, forked.run
torch.set_num_threads(1)
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
os.environ["ROBENCH_PRECISION_CACHE"] = ""  # the account's own is none of our business; subprocesses inherit this


def pytest_collectstart():
    """Collecting tests makes much and discards little: without this, a quarter of its time goes to finding garbage."""
    gc.disable()


def pytest_collection_finish():
    """What is there now stays; garbage is what the tests leave."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_runtest_setup():
    """The type checks begin again."""
    calls.clear()


def pytest_collection_modifyitems(items):
    """The tests of the whole package come first: the longest are among them, and with a long one last workers idle."""
    items.sort(key=lambda item: item.path.parent != Path(__file__).parent)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Consecutive tests stay in one worker, so that what the fixtures of a file make is made once, not in each worker.

    The usual scheduler deals out the tests of a file to all workers. This one gives each an equal part of the list, and
    one that has ended takes half of what another still has.
    """
    if config.getoption("dist") != "load":  # what -n means when no --dist is named
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)
