"""Processes for files of strangers as forks of this one: as limited as real ones, but torch is not imported again."""

import contextlib
import faulthandler
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from robench.cli.main import main
from robench.problem.checkpoints.confinement import child
from robench.problem.checkpoints.torchscript import process


class Fork(subprocess.Popen):
    """A process that a fork of this one becomes."""

    _child_created = False  # nothing of the base class runs
    returncode = None

    def send_signal(self, sig):
        if self.returncode is None:
            os.kill(self.pid, sig)

    def wait(self, timeout=None):
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode


class Forked(Fork):
    """Stands for the `Popen` of `confinement.process`."""

    def __init__(self, command, **options):
        theirs, to_it = os.pipe()
        from_it, answers = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            with _ending():
                os.close(to_it)
                _become(theirs, answers)
                os.environ.clear()
                child.main(_argument(command))
        os.close(theirs)
        os.close(answers)
        self.stdin, self.stdout = os.fdopen(to_it, "wb", 0), os.fdopen(from_it, "rb", 0)


class Command(Fork):
    """Stands for the `Popen` of a command of robench, which prints nothing."""

    def __init__(self, command, **options):
        assert command[:3] == [sys.executable, "-m", "robench"]
        self.pid = os.fork()
        if self.pid == 0:
            with _ending(), open(os.devnull, "w") as nowhere:
                sys.stdout = sys.stderr = nowhere
                sys.argv = ["robench", *command[3:]]
                try:
                    main()
                except SystemExit as end:
                    os._exit(end.code)


def run(command, *, input, env, **options):  # noqa: A002 (as it is called there)
    """Stands for the `run` of `torchscript`."""
    with tempfile.TemporaryFile() as given:
        given.write(input)
        given.seek(0)
        found, answer = os.pipe()
        pid = os.fork()
        if pid == 0:
            with _ending():
                _become(given.fileno(), answer)
                os.environ.clear()
                os.environ.update(env)
                sys.stdin = os.fdopen(0)
                process.main(_argument(command))
                os._exit(0)
    os.close(answer)
    with open(found, "rb") as pipe:
        written = pipe.read()
    return subprocess.CompletedProcess(command, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), written)


def _argument(command):
    return command[command.index("-c") + 2]


def _become(given, answer):
    """Makes these descriptors standard input and output, and says nothing elsewhere."""
    faulthandler.disable()
    os.dup2(given, 0)
    os.dup2(answer, 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


@contextlib.contextmanager
def _ending() -> Iterator[None]:
    """Ends the process, whatever happens: it must not go on with the tests."""
    try:
        yield
    finally:
        os._exit(1)
