"""Several processes of one training, as forks of this one: torch is not imported again."""

import os
import signal
import sys
import time
import traceback

import torch
from torch import distributed

from robench.recipes.data_parallel import together

CPU = torch.device("cpu")


class Ranks:
    """Forks that train together. This process has the store, as torchrun has."""

    def __init__(self, size, folder, work, *, after=None):
        """With `after`, as torchrun starts processes again after others: with the same store."""
        self.size, self.folder = size, folder
        self.start = 0 if after is None else after.start + 1
        self.store = (
            after.store if after else distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        )
        self.pids = [self._fork(rank, work) for rank in range(size)]

    def _fork(self, rank, work):
        pid = os.fork()
        if pid:
            return pid
        code = 99
        try:
            with (self.folder / f"rank {rank}.txt").open("w") as shown:
                os.dup2(shown.fileno(), 2)
            os.environ |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(self.size),
                "LOCAL_WORLD_SIZE": str(self.size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(self.store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
                "TORCHELASTIC_RESTART_COUNT": str(self.start),
            }
            torch.set_num_threads(1)
            code = together(CPU, lambda ranks: self._work(ranks, work))
        except KeyboardInterrupt:
            code = 130
        except BaseException as error:
            traceback.print_exc()
            (self.folder / f"error {rank}").write_text(f"{type(error).__name__}: {error}")
            code = 2
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _work(self, ranks, work):
        torch.save(work(ranks), self.folder / f"result {ranks.rank}")
        return 0

    def codes(self, seconds=60):
        """The exit codes, negative for signals, in the order of the processes."""
        codes, deadline = {}, time.monotonic() + seconds
        while len(codes) < self.size and time.monotonic() < deadline:
            for pid in self.pids:
                if pid not in codes and (ended := os.waitpid(pid, os.WNOHANG))[0]:
                    codes[pid] = os.waitstatus_to_exitcode(ended[1])
            time.sleep(0.01)
        for pid in {*self.pids} - {*codes}:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            codes[pid] = None  # it did not end
        return [codes[pid] for pid in self.pids]

    def results(self):
        """What the work of each process has returned."""
        codes = self.codes()
        assert codes == [0] * self.size, [(codes, p.read_text()) for p in sorted(self.folder.glob("rank *.txt"))]
        return [torch.load(self.folder / f"result {rank}") for rank in range(self.size)]

    def errors(self):
        """The errors that the processes show."""
        return [path.read_text() for path in sorted(self.folder.glob("error *"))]
