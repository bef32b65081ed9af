"""The model runner: makes steps of the searches on a batch, with one pass of the model for all of them."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ...errors import described
from ...problem.classifier import Classifier, arithmetic
from ...problem.memory import out_of_memory
from ...problem.shapes import Inputs
from ..attack import Model, Reads, Seen, differentiate
from .compaction import compacted
from .cuda_graph import Recorded, Values, cuda_graph
from .eot import AveragedAnswers, averaged
from .isolation import error_at, errors_end, fooling
from .job import Job
from .rounding import rounded, with_rounded_gradients
from .scheduler import Slots
from .slot_batch import SlotBatch

Arithmetic = Literal["float32", "near", "low"]
"""The way in which a job's queries are computed. `near`: logits of float32, and gradients from rounded weights."""


class ModelRunner:
    """Queries the model in the precision of the search, and passes its answers to the best images and the attacks.

    On a CPU, batches go on without idle slots (`compact`). On CUDA, a gradient attack that is
    alone on the slots is captured as a graph. An error ends the jobs or the searches that it concerns.
    """

    def __init__(self, classifier: Classifier, precision: str, x: Inputs, *, compact: bool = True):
        self.classifier = classifier
        self.precision = precision
        self.compact = compact
        self.notes: list[str] = []  # optimisations that were dropped, and why
        self.record = cuda_graph if classifier.device.type == "cuda" else None
        self._rounded = rounded(classifier) if precision == "bfloat16" else classifier
        self._near = with_rounded_gradients(classifier, x) if precision == "bfloat16" else classifier
        self._capturing = False

    def kind(self, job: Job) -> tuple[Reads, int, Arithmetic, bool, int, int]:
        """What jobs must agree in to share a pass of the model."""
        n_params = job.threat.n_params(self.classifier.shape)
        return job.attack.reads, job.attack.queries_per_step, self._arithmetic(job), job.smallest, job.eot, n_params

    def in_float32(self, job: Job) -> bool:
        """Whether the logits of a job's queries are computed in float32.

        So it is for a search for the smallest perturbation: its best image lies on the boundary, and where that is in
        low precision, float32 would reject every second one at the end. So it is for examples that earlier searches
        brought near to the boundary, too: in low precision searches miss some that fall in float32.
        """
        return job.attack.precise or job.near or job.smallest or self.precision == "float32"

    def fewer(self, job: Job, busy: Sequence[int], slots: int) -> Slots:
        """The slots with which a batch of jobs of this kind goes on; None for all.

        A captured graph needs a batch of one shape, and a stochastic model may draw its noise for a whole batch.
        """
        if not self.compact or self.classifier.device.type != "cpu" or job.eot > 1:
            return None
        return compacted(busy, slots, job.attack.queries_per_step)

    def run(self, batch: SlotBatch, steps: int) -> int:
        """Make this many steps on every slot. Returns how many were made: fewer if errors left nothing to compute."""
        return steps if self._replayed(batch, steps) else sum(self._step(batch) for _ in range(steps))

    def verify(self, batch: SlotBatch, slots: list[int]) -> tuple[set[int], dict[int, str]]:
        """The slots whose best image fools the model in float32, and what the model raises at that of others.

        A search in low precision ends with this check: its own result is not trusted.
        """
        at = batch.indices(slots)
        fools, errors = fooling(self.classifier, batch.best_seen.x_adv[at], batch.examples.y[at])
        raised = {slots[row]: error for row, error in errors.items()}
        return {slot for slot, fool in zip(slots, fools, strict=True) if fool}, raised

    def _step(self, batch: SlotBatch) -> bool:
        """Query the model for every slot in one pass, update the best images, then step the attacks.

        Returns whether the step was made: not if an attack or a single image failed, or if no job is left.
        """
        images, parts = [], []
        for active_job in batch.active.values():
            with errors_end(active_job.job, capturing=self._capturing):
                images.append(active_job.query(batch.examples))
                parts.append(active_job.params(batch.examples))
        if batch.remove_failed_jobs() or not batch.active:
            return False
        with errors_end(*batch.active, capturing=self._capturing):
            x_adv, params = batch.without_failed(batch.joined(images)), batch.joined(parts)
            try:
                observed, answers = self._answers(batch, x_adv)
            except Exception as error:
                if self._capturing or out_of_memory(error) or not self._isolated(batch, x_adv):
                    raise
                return False
            batch.observe(x_adv, params, observed)
        for active_job in batch.active.values():
            if not active_job.job.error:
                with errors_end(active_job.job, capturing=self._capturing):
                    active_job.step(batch.examples, answers)
        batch.remaining = batch.remaining - 1
        batch.remove_failed_jobs()
        return True

    def _replayed(self, batch: SlotBatch, steps: int) -> bool:
        """Make these steps by replaying a captured one. Returns False, with no step made, if that is not possible."""
        if self.record is None or len(batch.active) != 1:
            return False
        (active_job,) = batch.active.values()
        job = active_job.job
        if job.attack.reads != "gradients" or job.eot > 1 or active_job.recorded is False:
            return False

        def step(constants: Values, values: Values) -> Values:
            batch.set_values(active_job, constants, values)
            self._step(batch)
            return batch.values(active_job)[1]

        constants, values = batch.values(active_job)
        if active_job.recorded is None:
            self._capturing = True
            try:
                active_job.recorded = Recorded(step, constants, values, self.record)
            except Exception as error:
                if out_of_memory(error):
                    raise
                active_job.recorded = False  # some step cannot be captured; plain steps still work
                self.notes.append(f"steps of {job.attack.name} are not recorded as a graph ({described(error)})")
            finally:
                self._capturing = False
                batch.set_values(active_job, constants, values)
        if not isinstance(active_job.recorded, Recorded):
            return False
        batch.set_values(active_job, constants, active_job.recorded(constants, values, steps))
        return True

    def _answers(self, batch: SlotBatch, x_adv: Tensor) -> tuple[Tensor | AveragedAnswers, Seen | Tensor]:
        """The logits, or their average over several passes, and what the attacks read of them."""
        passes = batch.lead.eot
        if passes == 1:
            return self._one_pass(batch, x_adv)
        average = averaged(lambda: self._one_pass(batch, x_adv), passes, batch.examples.y)
        return average, average.answers

    def _one_pass(self, batch: SlotBatch, x_adv: Tensor) -> tuple[Tensor, Seen | Tensor]:
        """The logits of one pass, and what the attacks read of them."""
        reads, y = batch.lead.attack.reads, batch.examples.y
        model, tf32 = self._model(batch.lead)
        with arithmetic(x_adv.device, tf32=tf32):
            if reads == "gradients":
                seen = differentiate(model, batch.loss, x_adv, y, batch.examples.target)
                return seen.logits, seen
            with torch.no_grad():
                logits = in_chunks(model, x_adv, batch.rows)
        if reads == "logits":
            return logits, logits
        # NaN logits predict no class: the attack reads the correct one.
        return logits, torch.where(logits.isnan().any(dim=2), y[:, None], logits.argmax(dim=2))

    def _model(self, job: Job) -> tuple[Model, bool]:
        """The model in the precision of a job, and whether it computes in TF32."""
        kind = self._arithmetic(job)
        models: dict[Arithmetic, Model] = {"float32": self.classifier, "near": self._near, "low": self._rounded}
        return models[kind], kind == "low" and self.precision == "tf32"

    def _arithmetic(self, job: Job) -> Arithmetic:
        """How the queries of a job are computed. Attacks that walk along the boundary have exact gradients as well."""
        if not self.in_float32(job):
            return "low"
        return "near" if job.near and not (job.attack.precise or job.smallest) else "float32"

    def _isolated(self, batch: SlotBatch, x_adv: Tensor) -> bool:
        """End the searches whose own image makes the model raise. Returns whether there are any.

        That is so if the model raises on the image alone, but not on the clean image. Else the fault lies with the
        model or the attack.
        """
        errors = {slot: error for slot in batch.busy if (error := self._error_at(batch, x_adv[slot]))}
        own = {slot: error for slot, error in errors.items() if not self._error_at(batch, batch.examples.x[slot])}
        for slot, error in own.items():
            batch.fail(slot, error)
        return bool(own)

    def _error_at(self, batch: SlotBatch, images: Tensor) -> str:
        """What the model raises at the images of one slot, queried as the jobs do it; empty if it answers."""
        model, tf32 = self._model(batch.lead)
        with arithmetic(images.device, tf32=tf32):
            x = images.view(-1, *batch.examples.x.shape[1:])
            return error_at(model, x, gradients=batch.lead.attack.reads == "gradients")


def in_chunks(model: Model, x: Tensor, rows: int) -> Tensor:
    """The logits for several images per slot, (L, W, *D) to (L, W, K), in passes of at most `rows` images."""
    logits = torch.cat([model(part) for part in torch.split(x.flatten(0, 1), rows)])
    return logits.view(*x.shape[:2], -1)
