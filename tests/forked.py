"""The process of a program as a fork of this one: as confined as the real one, but torch is not imported again."""

import os
import signal
import subprocess

from robench.problem.checkpoints.confinement import child


class Forked(subprocess.Popen):
    """Stands for the `Popen` of `confinement.process`."""

    _child_created = False  # nothing of the base class runs

    def __init__(self, command, **options):
        theirs, to_it = os.pipe()
        from_it, answers = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(to_it)
                os.dup2(theirs, 0)
                os.dup2(answers, 1)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                os.environ.clear()
                child.main(command[command.index("-c") + 2])
            finally:
                os._exit(1)
        os.close(theirs)
        os.close(answers)
        self.stdin, self.stdout = os.fdopen(to_it, "wb", 0), os.fdopen(from_it, "rb", 0)
        self.returncode = None

    def kill(self):
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout=None):
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode
