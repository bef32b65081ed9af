"""The engine: works through jobs. Each round schedules searches on slots, runs their steps, and ends what is done."""

import math
from collections.abc import Iterable, Iterator

import torch

from ...errors import UserError
from ...problem.classifier import Classifier
from ...problem.memory import out_of_memory
from ...problem.split import Split
from ...problem.threats.base import N_PARAMS, packed
from .isolation import errors_end
from .job import Ended, Job
from .library_runner import run_library
from .model_runner import ModelRunner
from .scheduler import LibraryBatch, Scheduler, SlotPlan
from .slot_batch import SlotBatch, batch_of

STEPS_PER_ROUND = 8  # on devices where reading a mask stops the pipeline


class Engine:
    """Works through jobs on a fixed number of rows of the device batch.

    When a search ends, its slot goes to the next one at once; when a job has no more waiting, to the next job's. Then
    slots stay idle: on a CPU the batch goes on without them, elsewhere they are padding. Every row is computed the same
    way whatever the other rows hold. A batch that does not fit into memory is halved: `rows` then says so.
    """

    def __init__(
        self,
        classifier: Classifier,
        split: Split,
        seed: int,
        rows: int,
        precision: str = "float32",
        *,
        compact: bool = True,
    ):
        self.classifier = classifier
        self.split = split
        self.seed = seed
        self.precision = precision
        self.rounds = 0  # passes of the whole batch so far
        self._steps_per_round = 1 if classifier.device.type == "cpu" else STEPS_PER_ROUND
        self._runner = ModelRunner(classifier, precision, split.x, compact=compact)
        self._scheduler: Scheduler[Job] = Scheduler(rows, self._runner.kind, self._runner.fewer)
        self._batch = self._open()
        self._until = math.inf

    @property
    def rows(self) -> int:
        """The number of images in one pass of the model; fewer than at first after a memory shortage."""
        return self._scheduler.rows

    @property
    def notes(self) -> list[str]:
        """Optimisations that were dropped, and why. The caller may empty the list."""
        return self._runner.notes

    def work(self, jobs: Iterable[Job], until: float = math.inf) -> Iterator[list[Ended]]:
        """Yield the searches that have ended, after every round, even if there are none.

        The caller judges them and updates the jobs: it drops a broken example, and adds an item for a rejected claim.
        At `until` (of time.monotonic()) a library attack is interrupted; the caller must stop then, too. Jobs are taken
        from the iterable when slots are free. A job whose attack raises gets an `error`, and the others go on. Raises
        UserError if the model runs out of memory on a single image.
        """
        self._until = until
        self._scheduler.add(jobs)
        while not self._scheduler.finished:
            yield self.step()

    def step(self) -> list[Ended]:
        """Make one round: schedule, run, postprocess. Returns the searches that have ended."""
        ended = [Ended.of(search, dropped=True) for search in self._scheduler.release_dropped()]
        shortage = ""
        try:
            plan = self._scheduler.schedule()
            if isinstance(plan, LibraryBatch):
                ended += self._run_library(plan)
            elif plan is not None:
                self._start(plan)
                steps = self._runner.run(self._batch, self._steps_per_round)
                failed = self._end_failed()
                try:
                    ended += self._postprocess(steps)
                finally:
                    ended += failed  # also if this runs out of memory
        except Exception as error:
            if not out_of_memory(error):
                raise
            shortage = str(error) or type(error).__name__
        if shortage:  # outside the handler: the error, and the tensors of the failed step with it, are freed
            ended += self._halve(shortage)
        return ended

    def _start(self, plan: SlotPlan[Job]) -> None:
        """Put the examples and the noise of new searches on their slots."""
        if plan.opens:
            first = min(item.row for starts in plan.starts.values() for _, item in starts)
            n_params = max(job.threat.n_params(self.classifier.shape) for job in plan.starts)
            self._batch = self._open(plan.slots, plan.rows, first, n_params)
        elif plan.retained is not None:
            self._batch.keep(plan.retained)
        self._batch.regroup(plan.groups)
        for job, starts in plan.starts.items():
            items = [item for _, item in starts]
            new = batch_of(self.classifier, job, self.split, items, self.seed)
            self._batch.start(job, [slot for slot, _ in starts], new)
        self._batch.remove_failed_jobs()

    def _run_library(self, plan: LibraryBatch[Job]) -> list[Ended]:
        """Run one batch of a library attack."""
        job, ended = plan.job, list[Ended]()
        try:
            with errors_end(job):
                batch = batch_of(self.classifier, job, self.split, plan.items, self.seed)
                ended = run_library(self.classifier, job, plan.items, batch, self._until)
        except BaseException:
            self._scheduler.finish(plan, [])
            raise
        self.rounds += 1
        job.steps += sum(end.forwards for end in ended)
        self._scheduler.finish(plan, (end.item for end in ended))
        return ended

    def _end_failed(self) -> list[Ended]:
        """End the searches at whose images the model raised, and remove the jobs with an error."""
        failed = self._batch.take_failed()
        ended = [Ended.of(self._scheduler.release(slot), error=error) for slot, error in failed.items()]
        self._scheduler.remove_failed()
        return ended

    def _postprocess(self, steps: int) -> list[Ended]:
        """Count the steps, and end the searches that found an adversarial example or used up their budget."""
        self.rounds += steps
        self._scheduler.advance(steps)
        running = self._scheduler.running()
        if not running:
            return []
        batch, best, lead = self._batch, self._batch.best_seen, running[0][1].job
        members = best.rank > -torch.inf
        found, fooled, nan, saw_member = torch.stack([best.found, best.fooled, best.nan, members]).tolist()
        done = found if lead.eot == 1 else batch.certain.tolist()
        ending = [
            (slot, search) for slot, search in running if (done[slot] and not search.job.smallest) or search.exhausted
        ]
        successes, errors = {slot for slot, _ in ending if found[slot]}, dict[int, str]()
        if ending and not self._runner.in_float32(lead):
            successes, errors = self._runner.verify(batch, [slot for slot, _ in ending if saw_member[slot]])
            best.reject(batch.indices(slot for slot, _ in ending if slot not in successes))
        images, params = (best.x_adv.cpu(), best.params.cpu()) if successes else (batch.examples.x, best.params)
        margins = best.rank.tolist() if len(successes) < len(ending) else []
        ended = []
        for slot, search in ending:
            if error := errors.get(slot, ""):
                ended.append(Ended.of(self._scheduler.release(slot), error=error))
                continue
            if slot not in successes and not search.exhausted:
                continue  # float32 rejects the image, and the search goes on
            no_query_inside = not (fooled[slot] if search.job.attack.comes_from_outside else saw_member[slot])
            example = (images[slot].clone(), packed(params[slot])) if slot in successes else (None, ())
            # A find that float32 rejects is as near as can be.
            margin = -math.inf if slot in successes else 0.0 if found[slot] else margins[slot]
            released = self._scheduler.release(slot)
            ended.append(Ended.of(released, *example, nan=nan[slot], no_query_inside=no_query_inside, margin=margin))
        return ended

    def _halve(self, shortage: str) -> list[Ended]:
        """Continue with half the rows after a memory shortage. Returns the searches that failed before it."""
        if self.rows == 1:
            raise UserError(f"the model runs out of memory on a single image ({shortage.splitlines()[0]})")
        failed = self._end_failed()
        self._scheduler.halve()
        self._batch = self._open()
        if self.classifier.device.type == "cuda":
            torch.cuda.empty_cache()
        return failed

    def _open(self, slots: int = 0, rows: int = 1, example: int = 0, n_params: int = N_PARAMS) -> SlotBatch:
        """A new batch; an example is its padding, since the model may raise on a black image."""
        return SlotBatch.open(self.split.x[example], slots, rows, self.classifier.device, n_params)
