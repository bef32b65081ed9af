"""The batch on the device: for each slot the example, the state of its search, and the best image so far."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ... import renames
from ...problem.classifier import Classifier
from ...problem.noise import keyed, text_key
from ...problem.shapes import Logits, Mask, PerExample
from ...problem.split import Split
from ...problem.threats.base import N_PARAMS
from ..attack import Batch, put_rows
from ..some_rows import some
from .best_seen import BestSeen
from .cuda_graph import Values
from .eot import AveragedAnswers
from .isolation import errors_end
from .job import ActiveJob, Job, joined
from .scheduler import Item


@dataclass
class SlotBatch:
    """One batch of fixed shape, from its opening until its last search has ended. Every tensor has a row per slot."""

    examples: Batch  # idle slots hold padding
    best_seen: BestSeen
    remaining: Int[Tensor, "L"]  # steps left to the search
    certain: Mask  # whether the search can end: for stochastic models, where one success may be luck
    rows: int  # images that one pass of the model may hold
    active: dict[Job, ActiveJob] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)  # slots at whose images the model raised, not yet reported
    replaced: set[int] = field(default_factory=set)  # slots of failed searches: they query the clean image

    @classmethod
    def open(
        cls, padding: Float[Tensor, "*D"], slots: int, rows: int, device: torch.device, n_params: int = N_PARAMS
    ) -> "SlotBatch":
        """A batch of idle slots, each of which holds the same image as padding.

        `n_params` is the number of parameters of an image under the threats of its jobs.
        """
        zeros = torch.zeros(slots, dtype=torch.long, device=device)
        images = padding.to(device).repeat(slots, *[1] * padding.ndim)
        return cls(
            Batch(images, zeros, zeros, zeros), BestSeen.over(images, n_params), zeros.clone(), zeros.bool(), rows
        )

    @property
    def lead(self) -> Job:
        """The first active job; all others agree with it in kind."""
        return next(iter(self.active))

    @property
    def busy(self) -> list[int]:
        """The slots with a running search, in order."""
        return sorted(slot for active_job in self.active.values() for slot in active_job.held)

    def keep(self, slots: Sequence[int]) -> None:
        """Go on with these slots alone, numbered in this order."""
        at = self.indices(slots)
        self.examples, self.best_seen = some(self.examples, at), some(self.best_seen, at)
        self.remaining, self.certain = some(self.remaining, at), some(self.certain, at)
        self.replaced = {number for number, slot in enumerate(slots) if slot in self.replaced}
        for active_job in self.active.values():
            active_job.state = some(active_job.state, at)

    def regroup(self, groups: Mapping[Job, Sequence[int]]) -> None:
        """Let the active jobs hold these slots. Other jobs leave the batch."""
        self.active = {job: self.active.get(job) or ActiveJob(job) for job in groups}
        for job, slots in groups.items():
            self.active[job].held = list(slots)
        self._share()

    def start(self, job: Job, slots: Sequence[int], new: Batch) -> None:
        """Start searches of one job on these slots."""
        at = self.indices(slots)
        self.examples = put_rows(self.examples, at, new)
        self.best_seen.reset(at)
        self.remaining.index_fill_(0, at, job.max_queries)
        self.certain.index_fill_(0, at, False)
        self.replaced.difference_update(slots)
        with errors_end(job):
            self.active[job].start(at, new, len(self.remaining))

    def remove_failed_jobs(self) -> bool:
        """Remove the jobs with an error. Returns whether there were any."""
        failed = any(job.error for job in self.active)
        if failed:
            self.active = {job: one for job, one in self.active.items() if one.held and not job.error}
            self._share()
        return failed

    def fail(self, slot: int, error: str) -> None:
        """End the search of a slot at whose images the model raises."""
        self.failed[slot] = error
        self.replaced.add(slot)
        for active_job in self.active.values():
            active_job.held = [held for held in active_job.held if held != slot]

    def take_failed(self) -> dict[int, str]:
        """The failed slots that have not been reported, with what the model raised."""
        failed, self.failed = self.failed, {}
        return failed

    def without_failed(self, x_adv: Tensor) -> Tensor:
        """The queries, with the clean image on slots of failed searches: the model can compute it."""
        if not self.replaced:
            return x_adv
        at = self.indices(self.replaced)
        clean = self.examples.x[at]
        return x_adv.index_copy(0, at, clean if x_adv.ndim == clean.ndim else clean[:, None].expand_as(x_adv[at]))

    def observe(self, x_adv: Tensor, params: Tensor, answers: Tensor | AveragedAnswers) -> None:
        """Keep the best of the queried images: `answers` are their logits, or the average over several passes."""
        x, size, smallest = self.examples.x, None, self.lead.smallest
        inside = self.joined([active_job.inside(x_adv, x, params) for active_job in self.active.values()])
        if smallest:
            size = self.joined([active_job.measure(x_adv, x, params) for active_job in self.active.values()]).flatten()
        if x_adv.ndim > x.ndim:
            x_adv = x_adv.flatten(0, 1)
        active = self.remaining > 0
        queried = x_adv, params.flatten(0, 1), inside.flatten()
        if isinstance(answers, Tensor):
            self.best_seen.update(*queried, answers.flatten(0, -2), self.examples.y, active, size)
            return
        # The smallest example must fool in every pass: else one that does so rarely would be chosen by luck.
        fooled = answers.fools(every_pass=smallest)
        self.best_seen.update_from_margins(*queried, answers.margin, fooled, active, size)
        self.certain |= (inside & answers.certain().view_as(inside)).any(dim=1) & active

    def loss(self, logits: Logits, y: Tensor, target: Tensor) -> PerExample:
        """The loss that each slot's attack maximises."""
        return self.joined([active_job.loss(logits, y, target) for active_job in self.active.values()])

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """One tensor for all slots, from the part of each active job."""
        return joined(list(self.active.values()), parts, len(self.remaining))

    def indices(self, slots: Iterable[int]) -> Int[Tensor, "L"]:
        """Slot numbers as a tensor on the device."""
        return torch.tensor(list(slots), dtype=torch.long, device=self.remaining.device)

    def values(self, active_job: ActiveJob) -> tuple[Values, Values]:
        """The tensors of a step of the only active job: those that it only reads, and those that it changes."""
        changed = (active_job.state, self.best_seen)
        values = [getattr(rows, f.name) for rows in changed for f in fields(rows)]
        return tuple(getattr(self.examples, f.name) for f in fields(self.examples)), (*values, self.remaining)

    def set_values(self, active_job: ActiveJob, constants: Values, values: Values) -> None:
        """Replace the tensors that `values` returns."""
        self.examples = Batch(*constants)
        n_state = len(fields(active_job.state))
        active_job.state = type(active_job.state)(*values[:n_state])
        self.best_seen = BestSeen(*values[n_state:-1])
        self.remaining = values[-1]

    def _share(self) -> None:
        """Let each active job compute on the slots that it holds, or on all if it is the only one."""
        for active_job in self.active.values():
            active_job.slots = None if len(self.active) == 1 else self.indices(active_job.held)


def batch_of(classifier: Classifier, job: Job, split: Split, items: Sequence[Item], seed: int) -> Batch:
    """The rows of some items. Their noise is a function of seed, example, attack, target and restart alone."""
    rows = torch.tensor([item.row for item in items])
    targets = torch.tensor([item.target for item in items])
    keys = keyed(
        seed,
        torch.tensor([split.numbers[item.row] for item in items]),
        text_key(f"{job.threat.name} {renames.former_spec(job.attack.noise_key)}"),
        targets,
        restart=torch.tensor([item.restart for item in items]),
    )
    device = classifier.device
    y = split.y[rows].to(device)
    return Batch(
        x=split.x[rows].to(device),
        y=y,
        target=torch.where(targets.to(device) < 0, y, targets.to(device)),
        keys=keys.to(device),
    )
