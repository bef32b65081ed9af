"""What every recipe needs around its loop: batches in a fixed order, a step size by step, and a way to resume.

The state of a training is its step number, the weights and the optimiser's memory; order of images, noise and
learning rate are functions of the seed and the step, so a training killed anywhere goes on as if it had not been.
"""

import hashlib
import io
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol as Interface
from typing import runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import UserError, counted
from ..problem import durable
from ..problem.noise import keyed, text_key, uniform
from ..problem.split import Split
from ..search.attack import Batch

SAVE_EVERY = 60.0  # seconds between copies of the state
KEPT_OUT = 0  # the seed of what is kept out: the same images in every training on this data


@runtime_checkable
class Report(Interface):
    """Told how a training goes."""

    def step(self, step: int, steps: int, loss: float, accuracy: float) -> None:
        """After a step: the loss it went down, and the share of its images that were classified right."""


@dataclass(frozen=True)
class TrainingData:
    """A training set on the device, in an order fixed by the seed."""

    x: Tensor  # (N, C, H, W) in [0, 1]
    y: Tensor
    batch: int
    seed: int
    augment: bool = False  # shift by up to 4 pixels and mirror, as usual for CIFAR-10
    without: frozenset[int] = frozenset()  # rows that are left out; the order of the others is as it was

    @classmethod
    def of(
        cls,
        split: Split,
        batch: int,
        seed: int,
        device: torch.device,
        augment: bool = False,
        without: frozenset[int] = frozenset(),
    ) -> "TrainingData":
        """The whole split on the device. Raises UserError when it has not one full batch."""
        if len(split) - len(without) < batch:
            left = max(len(split) - len(without), 0)
            beside = f" beside the {len(without)} kept out" if without else ""
            cure = "keep out fewer with --validation" if without else "--set batch=..."
            raise UserError(
                f"{split.name} has {counted(left, 'example')}{beside}, fewer than one batch of {batch}; {cure}"
            )
        return cls(split.x.to(device), split.y.to(device), batch, seed, augment, without)

    @property
    def batches(self) -> int:
        """Full batches in an epoch."""
        return (len(self.y) - len(self.without)) // self.batch

    def dice(self, step: int) -> float:
        """A number in [0, 1) that belongs to the step."""
        return float(uniform(keyed(self.seed, torch.tensor([step]), text_key("dice"), draw=0), 0, 1))

    def at(self, step: int) -> Batch:
        """The batch of a step: every epoch shuffles anew, and a step's batch does not depend on the steps before."""
        epoch, place = divmod(step, self.batches)
        order = _order(len(self.y), self.without, self.seed * 1_000_003 + epoch)
        rows = order[place * self.batch : (place + 1) * self.batch]
        keys = keyed(self.seed, rows, text_key("training"), draw=epoch).to(self.x.device)
        rows = rows.to(self.x.device)
        x = self.x[rows]
        if self.augment:
            x = _shifted_and_mirrored(x, keys)
        return Batch(x=x, y=self.y[rows], target=self.y[rows], keys=keys)


@lru_cache(maxsize=1)
def _order(examples: int, without: frozenset[int], seed: int) -> Tensor:
    """Of an epoch: all rows but some."""
    order = torch.randperm(examples, generator=torch.Generator().manual_seed(seed))
    return order[~torch.isin(order, torch.tensor(sorted(without)))] if without else order


def kept_out(examples: int, count: int) -> frozenset[int]:
    """So many rows of a training set of this size, to validate on."""
    shuffled = torch.randperm(examples, generator=torch.Generator().manual_seed(KEPT_OUT))
    return frozenset(shuffled[:count].tolist())


@dataclass
class Training:
    """A training under way: where it stands, and the file that lets it go on after a kill."""

    module: nn.Module
    optimiser: Optimizer
    path: Path  # of the state; gone when the training has ended
    identity: str  # recipe, settings, data, seed: a state of another training is refused
    report: Report
    data: str = ""  # what its images are known by: those of another set under the same name are refused
    seconds: float = 0.0  # of training, over all sessions
    memory: dict[str, Tensor] = field(default_factory=dict)  # what a recipe keeps from step to step

    def steps(self, total: int) -> Iterator[int]:
        """The numbers of the steps still to do. The state is kept every minute, and between steps alone.

        Ctrl-C and a polite kill wait for the step to end, keep the state and then raise KeyboardInterrupt.
        """
        start = self._restore()
        clock = saved = time.monotonic()
        with _asked_to_stop() as stopping:
            for step in range(start, total):
                # Random numbers inside the network, as those of dropout, are then the same after a restart.
                torch.manual_seed(
                    int.from_bytes(hashlib.sha256(f"{self.identity} {step}".encode()).digest()[:8], "big")
                )
                yield step
                now = time.monotonic()
                self.seconds, clock = self.seconds + now - clock, now
                if stopping.is_set() or now - saved > SAVE_EVERY:
                    self._save(step + 1)
                    saved = now
                if stopping.is_set():
                    raise KeyboardInterrupt
        self._save(total)

    def down(self, loss: Tensor, lr: float) -> None:
        """One step of the optimiser down this loss."""
        for group in self.optimiser.param_groups:  # all of them: P-52
            group["lr"] = lr
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimiser.step()

    def _save(self, step: int) -> None:
        if not all(bool(torch.isfinite(p).all()) for p in self.module.parameters()):
            raise UserError(
                f"by step {step} the weights are no numbers any more, the loss has run away; train again with a "
                "smaller --set lr=..., and another --out or --no-resume"
            )
        state = {
            "identity": self.identity,
            "data": self.data,
            "step": step,
            "seconds": self.seconds,
            "module": self.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "memory": self.memory,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        with resumable():
            durable.replace(self.path, buffer.getvalue())

    def _restore(self) -> int:
        if not self.path.exists():
            return 0
        try:
            state = torch.load(self.path, weights_only=True, map_location="cpu")
        except Exception as error:  # torch has a different one for every way in which a file can be torn
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise UserError(f"{self.path} cannot be read ({reason}); delete it to train from the start") from None
        if state.get("identity") != self.identity:
            raise UserError(
                f"{self.path} holds another training ({state.get('identity')}); delete it, or choose another --out"
            )
        if state.get("data", self.data) != self.data:  # states of before 2026-11-21 do not say
            raise UserError(
                f"{self.path} was begun on other images than the data holds now; bring them back, or train from the "
                "start with --no-resume"
            )
        self.module.load_state_dict(state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.seconds = state["seconds"]
        self.memory.update(state.get("memory", {}))
        return int(state["step"])


@contextmanager
def resumable() -> Iterator[None]:
    """While something is written at the cost of hours: what fails then says that they are not lost."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}; mend that, and the same command goes on from what was kept before") from None


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """Set by the first Ctrl-C or polite kill; the second stops at once. Outside the main thread it is never set."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def right(logits: Tensor, y: Tensor) -> float:
    """The share of the batch that is classified right."""
    return (logits.argmax(dim=1) == y).float().mean().item()


def _shifted_and_mirrored(x: Tensor, keys: Tensor, reach: int = 4) -> Tensor:
    """Each image shifted by up to `reach` pixels over black, and mirrored half of the time."""
    n, _, height, width = x.shape
    dice = uniform(keys, 1_000_003, 3)
    down, right_ = ((dice[:, i] * (2 * reach + 1)).long() for i in (0, 1))
    rows = torch.arange(height, device=x.device) + down[:, None]
    columns = torch.arange(width, device=x.device)
    columns = torch.where(dice[:, 2:] < 0.5, width - 1 - columns, columns) + right_[:, None]
    padded = nn.functional.pad(x, (reach, reach, reach, reach))
    return padded[torch.arange(n, device=x.device)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )
