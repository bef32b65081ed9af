"""Training in several processes that `torchrun` has started: each takes its part of every batch.

All begin with the same weights and take the same steps, as gradients are averaged before each. Images come in the order
of one process, and noise belongs to an example, so the steps are those of one process up to rounding, with these
exceptions. Batch-norm takes the mean and the variance of a part in train mode; its running statistics are averaged over
the processes. Dropout has other masks.

torch.distributed is imported only in a process that torchrun has started.
"""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError, first_line

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # of torchrun
STOPPED = 130  # exit code after Ctrl-C
LOOPBACK = "lo"  # the interface on which processes of one machine listen for each other, on Linux


class RankLostError(UserError):
    """Another process of the training has ended, or cannot be reached."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a training, of which this one has the number `rank`. As it stands: a process alone."""

    rank: int = 0
    size: int = 1
    per_machine: int = 1
    store: Any = None  # of torch.distributed, which all processes reach; None: a process alone

    @property
    def first(self) -> bool:
        """Whether this process writes the files and shows the progress."""
        return self.rank == 0

    @property
    def launcher(self) -> str:
        """What comes before `robench` in the command."""
        if self.store is None:
            return ""
        machines = self.size // max(1, self.per_machine)
        nodes = f"--nnodes {machines} " if machines > 1 else ""
        return f"torchrun {nodes}--nproc-per-node {self.per_machine} -m "

    def check_batch(self, images: int) -> None:
        """Raises UserError if the processes cannot share a batch of so many images evenly."""
        if images % self.size:
            raise UserError(
                f"{self.size} processes cannot share {images} images of a batch evenly; use --set batch=... with a"
                f" multiple of {self.size} ({2 * self.size} beside pseudo-labelled images), or another --nproc-per-node"
            )

    def part(self, rows: Tensor) -> Tensor:
        """The rows of a batch that this process takes."""
        each = len(rows) // self.size
        return rows[self.rank * each : (self.rank + 1) * each]

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.store is None:
            return tensor
        from torch import distributed

        tensor = tensor.clone()
        with _lost():
            distributed.all_reduce(tensor)
        return tensor

    def mean(self, number: float) -> float:
        """The mean of a number over all processes."""
        return number if self.store is None else float(self.total(torch.tensor(number).double())) / self.size

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replaces each tensor by its mean over all processes."""
        if self.store is None:
            return
        tensors = [tensor.detach() for tensor in tensors]
        mean = self.total(torch.cat([tensor.flatten() for tensor in tensors])) / self.size
        parts = torch.split(mean, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))

    def any(self, here: bool) -> bool:
        """Whether this is so in any process."""
        return here if self.store is None else bool(self.total(torch.tensor(float(here))))

    def of_first(self, content: bytes | None) -> bytes | None:
        """The content that the first process has, if it has any."""
        if self.store is None:
            return content
        from torch import distributed

        length = int(self.total(torch.tensor(0 if content is None or not self.first else 1 + len(content)))) - 1
        if length < 0:
            return None
        sent = torch.frombuffer(bytearray(content or b"\0" * length), dtype=torch.uint8)
        with _lost():
            distributed.broadcast(sent, src=0)
        return sent.numpy().tobytes()

    def speaks(self) -> bool:
        """Whether this process is the first that has an error to show. The others stay silent."""
        try:
            return bool(self.store.add("robench: errors", 1) == 1)
        except RuntimeError:  # the process that held the store has ended
            return True


ALONE = Ranks()


def average_gradients(ranks: Ranks, parameters: Iterable[Tensor], buffers: Iterable[Tensor]) -> None:
    """Averages gradients, and the running statistics of batch-norm, over all processes, between two steps."""
    if ranks.store is not None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        ranks.average([*gradients, *(buffer for buffer in buffers if buffer.is_floating_point())])


def launched() -> bool:
    """Whether torchrun, or a program like it, has started this process as one of several.

    Raises UserError if some of its variables are missing or are no numbers.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1" and "TORCHELASTIC_RUN_ID" not in os.environ:
        return False
    if missing := [name for name in VARIABLES if not os.environ.get(name)]:
        raise UserError(
            f"WORLD_SIZE={os.environ.get('WORLD_SIZE', '')} stands for one of several processes, but"
            f" {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing: start them with"
            " `torchrun --nproc-per-node N -m robench train ...`, or unset WORLD_SIZE"
        )
    for name in (*VARIABLES[:4], "MASTER_PORT"):
        if not os.environ[name].isdigit():
            raise UserError(f"{name}={os.environ[name]!r} is no number; let torchrun set it")
    if int(os.environ["RANK"]) >= int(os.environ["WORLD_SIZE"]):
        raise UserError(f"RANK={os.environ['RANK']} is not below WORLD_SIZE={os.environ['WORLD_SIZE']}")
    return True


def local_device(device: torch.device) -> torch.device:
    """The device of this process: the GPUs of a machine are given to its processes in turn.

    Raises UserError if one GPU is named for several processes.
    """
    if device.type != "cuda":
        return device
    if str(device) != "cuda" and os.environ["LOCAL_WORLD_SIZE"] != "1":
        raise UserError(f"--device {device} names one GPU for several processes; --device cuda gives them out in turn")
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())


def together(device: torch.device, work: Callable[[Ranks], int]) -> int:
    """The exit code of the work of this process, among the others that torchrun has started.

    An error in one process ends all, and one of them shows it.
    """
    from torch import distributed

    ranks = _joined(device)
    try:
        return work(ranks)
    except KeyboardInterrupt as stop:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the work has ended
        if isinstance(stop.__context__, RankLostError) and ranks.speaks():  # torchrun stops those that are left
            raise stop.__context__ from None
        if ranks.first and not isinstance(stop.__context__, RankLostError):
            raise
        return STOPPED
    except Exception:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if ranks.speaks():
            raise
        return 2
    finally:
        with suppress(RuntimeError):
            distributed.destroy_process_group()


def _joined(device: torch.device) -> Ranks:
    """Meets the other processes. Raises UserError if they cannot be reached."""
    # torch.optim imports this module, where the group of that moment becomes the default of parameters. Imported after
    # the group is made, it keeps the group and its threads, and a thread that runs at exit can abort the process.
    import torch.distributed.nn.functional
    from torch import distributed
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    rank, size, _, per_machine = (int(os.environ[name]) for name in VARIABLES[:4])
    if size == per_machine and os.path.exists(f"/sys/class/net/{LOOPBACK}"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)
    own_gpu = device.type == "cuda" and per_machine <= torch.cuda.device_count()  # NCCL needs one for each process
    try:
        store, rank, size = next(rendezvous("env://"))
        # torchrun keeps its store when it starts all processes again.
        store = PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        backend = "cpu:gloo,cuda:nccl" if own_gpu and distributed.is_nccl_available() else "gloo"
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size)
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(f"the {size} processes do not reach each other at {address}: {first_line(error)}") from error
    return Ranks(rank, size, per_machine, store)


@contextmanager
def _lost() -> Iterator[None]:
    """Raises RankLostError in place of the errors of torch.distributed."""
    try:
        yield
    except RuntimeError as error:
        raise RankLostError(
            "another process of this training has ended or cannot be reached; type the same command again to continue"
            " from the last saved state"
        ) from error
