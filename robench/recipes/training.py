"""The parts around a recipe's loop: batches in a fixed order, optimiser steps, and resuming.

The state of a training is its step number, the weights and the optimiser's memory. Image order, noise and learning rate
are functions of the seed and the step, so a training that is killed anywhere resumes as if it had not been.
"""

import hashlib
import io
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol as Interface
from typing import runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from ..errors import UserError, counted
from ..problem import durable
from ..problem.noise import keyed, text_key, uniform
from ..problem.split import Split
from ..search.attack import Batch
from .augmentation import UNCHANGED, Augmentation
from .data_parallel import ALONE, RankLostError, Ranks, average_gradients

SAVE_EVERY = 60.0  # seconds between saved states


@runtime_checkable
class Report(Interface):
    """A receiver of progress reports."""

    def step(self, step: int, steps: int, loss: float, accuracy: float) -> None:
        """Receives the loss of a step and the accuracy on its images."""


@dataclass(frozen=True)
class MeanReport:
    """The reports of several processes as one: the first forwards the means of loss and accuracy."""

    ranks: Ranks
    report: Report  # of the first

    def step(self, step: int, steps: int, loss: float, accuracy: float) -> None:
        loss, accuracy = self.ranks.mean(loss), self.ranks.mean(accuracy)
        if self.ranks.first:
            self.report.step(step, steps, loss, accuracy)


@dataclass(frozen=True)
class TrainingData:
    """A training set on the device, in an order fixed by the seed."""

    x: Tensor  # (N, C, H, W) in [0, 1]
    y: Tensor
    batch: int
    seed: int
    augmentation: Augmentation = UNCHANGED
    without: frozenset[int] = frozenset()  # rows to leave out; the order of the others does not change
    stream: str = "training"  # name of the noise: two sets in one training have noise of their own
    pseudo: "TrainingData | None" = None  # a second set, whose batch follows that of this one
    ranks: Ranks = ALONE  # the processes that share each batch

    @classmethod
    def of(
        cls,
        split: Split,
        batch: int,
        seed: int,
        device: torch.device,
        augmentation: Augmentation = UNCHANGED,
        without: frozenset[int] = frozenset(),
        ranks: Ranks = ALONE,
    ) -> "TrainingData":
        """The whole split on the device. Raises UserError if it has less than one full batch, or a batch has no parts.

        The size of the batch is that of all processes together.
        """
        if len(split) - len(without) < batch:
            left = max(len(split) - len(without), 0)
            beside = f" beside the {len(without)} held out" if without else ""
            cure = "hold out fewer with --validation" if without and len(split) >= batch else "use --set batch=..."
            raise UserError(
                f"{split.name} has {counted(left, 'example')}{beside}, fewer than one batch of {batch}; {cure}"
            )
        ranks.check_batch(batch)
        return cls(split.x.to(device), split.y.to(device), batch, seed, augmentation, without, ranks=ranks)

    @property
    def batches(self) -> int:
        """The number of full batches in an epoch."""
        return (len(self.y) - len(self.without)) // self.batch

    def noise(self, step: int) -> float:
        """A number in [0, 1) that belongs to the step."""
        return float(uniform(keyed(self.seed, torch.tensor([step]), text_key("dice"), restart=0), 0, 1))

    def at(self, step: int) -> Batch:
        """The batch of a step, or this process's part of it. Every epoch has its own order.

        A batch does not depend on earlier steps.
        """
        epoch, place = divmod(step, self.batches)
        order = _order(len(self.y), self.without, self.seed * 1_000_003 + epoch)
        rows = self.ranks.part(order[place * self.batch : (place + 1) * self.batch])
        keys = keyed(self.seed, rows, text_key(self.stream), restart=epoch).to(self.x.device)
        rows = rows.to(self.x.device)
        x = self.augmentation(self.x[rows], keys)
        y = self.y[rows]
        if self.pseudo is not None:
            other = self.pseudo.at(step)
            x, y, keys = (torch.cat(pair) for pair in ((x, other.x), (y, other.y), (keys, other.keys)))
        return Batch(x=x, y=y, target=y, keys=keys)

    def beside(self, split: Split) -> "TrainingData":
        """This data with batches of which half, rounded down, is from a second split of pseudo-labelled images."""
        second = self.batch // 2
        if not second:
            raise UserError("a batch of one image has no place for a pseudo-labelled one; use --set batch=2 or more")
        self.ranks.check_batch(self.batch - second)
        pseudo = TrainingData.of(split, second, self.seed, self.x.device, self.augmentation, ranks=self.ranks)
        return replace(self, batch=self.batch - second, pseudo=replace(pseudo, stream="pseudo-labelled"))


@lru_cache(maxsize=2)  # of labelled and pseudo-labelled images
def _order(examples: int, without: frozenset[int], seed: int) -> Tensor:
    """The order of an epoch: all rows except those in `without`, shuffled by the seed."""
    order = torch.randperm(examples, generator=torch.Generator().manual_seed(seed))
    return order[~torch.isin(order, torch.tensor(sorted(without)))] if without else order


@dataclass
class Training:
    """A training in progress, and the file from which it resumes after a kill."""

    module: nn.Module
    optimiser: Optimizer
    path: Path  # of the state; deleted at the end of the training
    identity: str  # recipe, settings, data, seed: a state of another training is refused
    report: Report
    data: str = ""  # hash of the images: a state of other images under the same name is refused
    seconds: float = 0.0  # of training, over all sessions
    memory: dict[str, Tensor] = field(default_factory=dict)  # tensors that a recipe carries from step to step
    clip: float = 0.0  # the largest Euclidean length of a gradient; 0: any length
    ranks: Ranks = ALONE  # the processes that train together; the first of them has the file
    average: AveragedModel | None = None  # of the weights over the steps, if the recipe wants it

    @property
    def result(self) -> nn.Module:
        """The network as it would be if the training ended now."""
        return self.module if self.average is None else self.average.module

    def steps(self, total: int) -> Iterator[int]:
        """The numbers of the remaining steps. The state is saved every minute, between two steps.

        Ctrl-C and SIGTERM wait for the end of the step, save the state and then raise KeyboardInterrupt. Several
        processes stop after the same step.
        """
        start = self._restore()
        clock = saved = time.monotonic()
        with _stop_requested(at_once=self.ranks.size == 1) as requested:
            for step in range(start, total):
                # Random numbers inside the network, such as dropout's, are then the same after a resume.
                place = f"{self.identity} {step}" + (f" {self.ranks.rank}" if self.ranks.rank else "")
                torch.manual_seed(int.from_bytes(hashlib.sha256(place.encode()).digest()[:8], "big"))
                yield step
                now = time.monotonic()
                self.seconds, clock = self.seconds + now - clock, now
                stopping = self.ranks.any(requested.is_set())
                if stopping or now - saved > SAVE_EVERY:
                    self._save(step + 1)
                    saved = now
                if stopping:
                    raise KeyboardInterrupt
        self._save(total)

    def down(self, loss: Tensor, lr: float) -> None:
        """One optimiser step that minimises this loss."""
        for group in self.optimiser.param_groups:  # all of them: P-52
            group["lr"] = lr
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        average_gradients(self.ranks, self.module.parameters(), self.module.buffers())
        if self.clip:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.clip)
        self.optimiser.step()
        if self.average is not None:
            self.average.update_parameters(self.module)

    def _save(self, step: int) -> None:
        if not self.ranks.first:
            return
        if not all(bool(torch.isfinite(p).all()) for p in self.module.parameters()):
            raise UserError(
                f"the weights are not finite at step {step}, as the training diverged; train again with a "
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
        if self.average is not None:
            state["average"] = self.average.state_dict()
        buffer = io.BytesIO()
        torch.save(state, buffer)
        with resumable():
            durable.replace(self.path, buffer.getvalue())

    def _restore(self) -> int:
        try:
            content = self.path.read_bytes() if self.ranks.first and self.path.exists() else None
            received = self.ranks.of_first(content)
            if received is None:
                return 0
            state = torch.load(io.BytesIO(received), weights_only=True, map_location="cpu")
        except RankLostError:
            raise
        except Exception as error:  # torch raises many classes for damaged files
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise UserError(f"{self.path} cannot be read ({reason}); delete it to train from the start") from None
        if not isinstance(state, dict):
            raise UserError(f"{self.path} holds no state of a training; delete it to train from the start")
        if state.get("identity") != self.identity:
            raise UserError(
                f"{self.path} holds another training ({state.get('identity')}); delete it, or choose another --out"
            )
        if state.get("data", self.data) != self.data:  # states before 2026-11-21 lack it
            raise UserError(
                f"{self.path} was started on other images than the data holds now; restore them, or train from the "
                "start with --no-resume"
            )
        try:
            self.module.load_state_dict(state["module"])
            self.optimiser.load_state_dict(state["optimiser"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
        except (KeyError, RuntimeError, ValueError):
            raise UserError(
                f"{self.path} holds the weights of another network than --arch names now; restore that, or train from"
                " the start with --no-resume"
            ) from None
        self.seconds = state["seconds"]
        self.memory.update(state.get("memory", {}))
        return int(state["step"])


@contextmanager
def resumable() -> Iterator[None]:
    """Adds to a UserError in this block that the training is saved and can be resumed."""
    try:
        yield
    except UserError as error:
        raise UserError(
            f"{error}; fix that, and the same command resumes from the saved state, without --no-resume"
        ) from None


@contextmanager
def _stop_requested(at_once: bool) -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; the second may stop at once. Never set outside the main thread.

    torchrun passes on every signal that it gets, so one of several processes may see two.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return

    def stop(number: int, frame: object) -> None:
        if at_once and requested.is_set():
            raise KeyboardInterrupt
        requested.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def share_correct(logits: Tensor, y: Tensor) -> float:
    """The accuracy on a batch."""
    return (logits.argmax(dim=1) == y).float().mean().item()
