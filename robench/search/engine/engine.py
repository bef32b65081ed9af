"""The engine: keeps the lanes busy, makes every call to the model, watches it, counts it."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from itertools import chain

import torch
from torch import Tensor

from ... import renames
from ...errors import UserError, described
from ...problem.classifier import Classifier, arithmetic
from ...problem.memory import out_of_memory
from ...problem.noise import keyed, text_key
from ...problem.shapes import Labels, Logits, PerExample
from ...problem.split import Split
from ..attack import Batch, ForeignAttack, Seen, differentiate, put_rows
from .best_seen import BestSeen
from .compaction import compacted, only, rows_of
from .cuda_graph import Recorded, Values, cuda_graph
from .eot import AveragedAnswers, averaged
from .isolation import error_at, fooling
from .job import ActiveJob, Ended, Job, joined
from .library_runner import run_library
from .precision import rounded
from .scheduler import Item, Slots, SlotSearch

READ_EVERY = 8  # steps between looks at what was found, where looking is dear


class Engine:
    """Works jobs off on a fixed number of rows of the device batch.

    A lane whose search has ended is taken by the next one at once; when a job has no more waiting, by the next
    job's. The batch keeps its shape to the end, with idle lanes as padding, so every row is computed the same
    way whoever its neighbours are; on a CPU the model is not asked about the idle ones once most are (`compacted`).
    A batch that does not fit the memory is halved: `rows` then says so.
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
        self.rows = rows
        self.precision = precision
        self.compact = compact  # whether idle rows may be left out of the batch
        self.rounds = 0  # passes of the whole batch so far
        self.notes: list[str] = []  # optimisations that were dropped, and why
        self._rough = rounded(classifier) if precision == "bfloat16" else classifier
        # Elsewhere than on a CPU, reading a mask stops the pipeline.
        self._read_every = 1 if classifier.device.type == "cpu" else READ_EVERY
        self._record = cuda_graph if classifier.device.type == "cuda" else None
        self._recording = False
        self._upcoming: Iterator[Job] = iter(())
        self._next: Job | None = None
        self._active_jobs: list[ActiveJob] = []
        self._slots: Slots[Job] = Slots(0)
        self._batch: Batch
        self._best_seen: BestSeen
        self._remaining: Tensor  # steps left to the search on each lane
        self._sure: Tensor  # lanes whose find needs no more search, where the model answers at random
        self._failed: list[Ended] = []  # searches at whose image the model raised
        self._barred: set[int] = set()  # their lanes, until they are taken again

    def work(self, jobs: Iterable[Job]) -> Iterator[list[Ended]]:
        """Every search of every job, as they end. Each round yields, whether any ended or not.

        The caller judges what it is given and tells the job: `drop` when an example is broken, a new item when
        a claim was turned down. Jobs are asked for when lanes fall free. One whose attack raises is left with its
        `error` set, and the others go on.
        """
        self._upcoming = iter(jobs)
        while True:
            ended, going = self._clear(), True
            shortage = ""
            try:
                if (guest := self._library_job()) is not None:
                    ended += self._run_library(guest)
                elif self._fill():
                    self._steps(self._read_every)
                    ended += self._read()
                    ended += self._failed
                    self._failed = []
                else:
                    going = self._library_job() is not None
            except Exception as error:
                if not out_of_memory(error):
                    raise
                shortage = str(error) or type(error).__name__
            if shortage:  # here the error is gone, and with it the tensors of the step that failed
                self._halve(shortage)
            yield ended
            if not going:
                return

    # Who sits where

    def _fill(self) -> bool:
        """Give every free lane a waiting search, as far as there are any. Returns whether anybody is on the lanes."""
        while True:
            if not self._active_jobs and not self._open():
                return False
            assigned: dict[ActiveJob, list[tuple[int, Item]]] = {}
            for slot in self._slots.free():
                if (turn := self._turn()) is None:
                    break
                active_job, item = turn
                self._slots.sit(slot, active_job.job, item)
                active_job.job.in_flight += 1
                assigned.setdefault(active_job, []).append((slot, item))
            for active_job, places in assigned.items():
                self._begin(active_job, places)
            self._rid_of_failed()
            self._regroup()
            if self._active_jobs:
                return True

    def _open(self) -> bool:
        """Lanes for the next job's kind, when nobody is on them. Returns whether there is a job."""
        job = self._peek()
        if job is None or isinstance(job.attack, ForeignAttack):
            return False
        slots = max(1, self.rows // job.attack.queries_per_step)
        none = torch.zeros(slots, dtype=torch.long, device=self.classifier.device)
        # Padding, until somebody sits down: an example, since the model may raise at a black image.
        padding = self.split.x[[min(job.waiting.rows(), default=0)] * slots].to(none.device)
        self._slots = Slots(slots)
        self._batch = Batch(padding, none, none, none)
        self._best_seen = BestSeen.over(padding)
        self._remaining = none.clone()
        self._sure = none.bool()
        self._barred = set()
        self._active_jobs = [ActiveJob(job)]
        self._next = None
        return True

    def _turn(self) -> tuple[ActiveJob, Item] | None:
        """Whose turn it is: that of the first job with anybody waiting."""
        for active_job in self._active_jobs:
            if (item := active_job.job.waiting.take()) is not None:
                return active_job, item
        while (job := self._peek()) is not None and self._kind(job) == self._kind(self._active_jobs[0].job):
            self._active_jobs.append(ActiveJob(job))
            self._next = None
            if (item := job.waiting.take()) is not None:
                return self._active_jobs[-1], item
        return None

    def _kind(self, job: Job) -> tuple[str, int, bool, bool, int]:
        """What jobs must agree in to share a forward pass."""
        return job.attack.reads, job.attack.queries_per_step, self._exactly(job), job.smallest, job.eot

    def _exactly(self, job: Job) -> bool:
        """Whether the model answers it in float32."""
        return job.attack.precise or self.precision == "float32"

    def _peek(self) -> Job | None:
        if self._next is None:
            self._next = next(self._upcoming, None)
        return self._next

    def _begin(self, active_job: ActiveJob, places: Sequence[tuple[int, Item]]) -> None:
        """The images and noise of new searches onto their lanes."""
        fresh = batch_of(self.classifier, active_job.job, self.split, [item for _, item in places], self.seed)
        at = torch.tensor([slot for slot, _ in places], device=fresh.x.device)
        self._batch = put_rows(self._batch, at, fresh)
        self._best_seen.forget(at)
        self._remaining.index_fill_(0, at, active_job.job.max_queries)
        self._sure.index_fill_(0, at, False)
        self._barred.difference_update(slot for slot, _ in places)
        with self._blaming(active_job.job):
            active_job.sit(at, fresh, len(self._slots))

    def _regroup(self) -> None:
        """Jobs with nobody on the lanes leave; the others learn where they sit."""
        self._active_jobs = [active_job for active_job in self._active_jobs if active_job.job.in_flight]
        for active_job in self._active_jobs:
            alone = len(self._active_jobs) == 1
            active_job.slots = None if alone else self._slot_indices(slot for slot, _ in self._slots.of(active_job.job))

    def _clear(self) -> list[Ended]:
        """Free the lanes of examples that were dropped."""
        dropped = [slot for slot, search in self._slots.busy() if search.item.row in search.job.dropped]
        return [_ended(self._release(slot), dropped=True) for slot in dropped]

    def _release(self, slot: int) -> SlotSearch[Job]:
        search = self._slots.release(slot)
        search.job.in_flight -= 1
        return search

    # Attacks with a loop of their own

    def _library_job(self) -> Job | None:
        """The next job, when its attack drives itself and nobody is on the lanes."""
        job = None if self._active_jobs else self._peek()
        return job if job is not None and isinstance(job.attack, ForeignAttack) else None

    def _run_library(self, job: Job) -> list[Ended]:
        """One batch of its searches, from as many images as there are rows."""
        items = self._library_batch(job)
        if not items:
            self._next = None
            return []
        job.in_flight = len(items)
        ended: list[Ended] = []
        try:
            with self._blaming(job):
                batch = batch_of(self.classifier, job, self.split, items, self.seed)
                ended = run_library(self.classifier, job, items, batch)
        except Exception:
            for item in reversed(items):
                job.waiting.put_back(item)
            raise
        finally:
            job.in_flight = 0
        self.rounds += 1
        job.steps += sum(end.forwards for end in ended)
        if job.error:
            _give_up(job, items)
            self._next = None
        return ended

    def _library_batch(self, job: Job) -> list[Item]:
        """The next searches, from different images: rows of a library's batch are told apart by these."""
        items: list[Item] = []
        rows: set[int] = set()
        while len(items) < self.rows and (item := job.waiting.take()) is not None:
            if item.row in rows:
                job.waiting.put_back(item)
                break
            items.append(item)
            rows.add(item.row)
        return items

    # A step

    def _steps(self, times: int) -> None:
        """So many steps on every lane."""
        made = times if self._replay(times) else sum(self._step() for _ in range(times))
        self.rounds += made
        for _, search in self._slots.busy():
            more = min(made, search.job.max_queries - search.taken)
            search.taken += more
            search.job.steps += more

    def _step(self) -> bool:
        """Ask every lane's question in one pass, show the answers to the watcher, then to the attacks.

        Returns whether it was made: not where an attack failed before it could ask, or nobody is on the lanes.
        """
        batch = self._batch
        images, parts = [], []
        for active_job in self._active_jobs:
            with self._blaming(active_job.job):
                images.append(active_job.query(batch))
                parts.append(active_job.params(batch))
        if self._rid_of_failed() or not self._active_jobs:
            return False
        with self._blaming(*(active_job.job for active_job in self._active_jobs)):
            x_adv, params = self._with_barred(self._joined(images)), self._joined(parts)
            try:
                told, answers = self._ask(x_adv)
            except Exception as error:
                if self._recording or out_of_memory(error) or not self._single_out(x_adv):
                    raise
                return False
            self._watch(x_adv, params, told)
        for active_job in self._active_jobs:
            if not active_job.job.error:
                with self._blaming(active_job.job):
                    active_job.tell(batch, answers)
        self._remaining = self._remaining - 1
        self._rid_of_failed()
        return True

    def _replay(self, times: int) -> bool:
        """The same as a recording, where there can be one: on CUDA, of a gradient attack that is alone on the lanes."""
        if (
            not self._active_jobs
            or self._active_jobs[0].slots is not None
            or self._active_jobs[0].job.attack.reads != "gradients"
        ):
            return False
        (active_job,) = self._active_jobs
        if self._record is None or active_job.recorded is False or active_job.job.eot > 1:
            return False

        def step(constants: Values, values: Values) -> Values:
            self._put(active_job, constants, values)
            self._step()
            return self._values(active_job)[1]

        constants, values = self._values(active_job)
        if active_job.recorded is None:
            self._recording = True
            try:
                active_job.recorded = Recorded(step, constants, values, self._record)
            except Exception as error:
                if out_of_memory(error):
                    raise
                active_job.recorded = False  # some step cannot be recorded; it can still be made
                self.notes.append(
                    f"steps of {active_job.job.attack.name} are not recorded as a graph ({described(error)})"
                )
            finally:
                self._recording = False
                self._put(active_job, constants, values)
        if not isinstance(active_job.recorded, Recorded):
            return False
        self._put(active_job, constants, active_job.recorded(constants, values, times))
        return True

    def _values(self, active_job: ActiveJob) -> tuple[Values, Values]:
        """All that a step reads: what it leaves as it is, and what it changes."""
        changed = (active_job.state, self._best_seen)
        values = [getattr(rows, f.name) for rows in changed for f in fields(rows)]
        return tuple(getattr(self._batch, f.name) for f in fields(self._batch)), (*values, self._remaining)

    def _put(self, active_job: ActiveJob, constants: Values, values: Values) -> None:
        self._batch = Batch(*constants)
        kept = len(fields(active_job.state))
        active_job.state = type(active_job.state)(*values[:kept])
        self._best_seen = BestSeen(*values[kept:-1])
        self._remaining = values[-1]

    def _watch(self, x_adv: Tensor, params: Tensor, told: Tensor | AveragedAnswers) -> None:
        x, size = self._batch.x, None
        inside = self._joined([active_job.inside(x_adv, x, params) for active_job in self._active_jobs])
        if self._active_jobs[0].job.smallest:
            size = self._joined([active_job.measure(x_adv, x, params) for active_job in self._active_jobs]).flatten()
        if x_adv.ndim > x.ndim:
            x_adv = x_adv.flatten(0, 1)
        active = self._remaining > 0
        seen = x_adv, params.flatten(0, 1), inside.flatten()
        if isinstance(told, Tensor):
            self._best_seen.see(*seen, told.flatten(0, -2), self._batch.y, active, size)
            return
        # Where the smallest is kept, the luckiest of those that fail now and then would be.
        find = told.most(all_of_them=self._active_jobs[0].job.smallest)
        self._best_seen.look(*seen, told.margin, find, active, size)
        self._sure |= (inside & told.surely().view_as(inside)).any(dim=1) & active

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        return joined(self._active_jobs, parts, len(self._slots))

    def _ask(self, x_adv: Tensor) -> tuple[Tensor | AveragedAnswers, Seen | Tensor]:
        """What the watcher is told of the model's answers, and what the attacks are."""
        passes = self._active_jobs[0].job.eot
        if passes == 1:
            return self._ask_once(x_adv)
        average = averaged(lambda: self._ask_once(x_adv), passes, self._batch.y)
        return average, average.answers

    def _ask_once(self, x_adv: Tensor) -> tuple[Tensor, Seen | Tensor]:
        """The model's logits, and what of them the attacks are told."""
        job = self._active_jobs[0].job
        reads, exactly = job.attack.reads, self._exactly(job)
        model = self.classifier if exactly else self._rough
        with arithmetic(x_adv.device, tf32=self.precision == "tf32" and not exactly):
            slots = self._compacted()
            if reads == "gradients":
                seen = differentiate(only(model, slots), self._loss, x_adv, self._batch.y, self._batch.target)
                return seen.logits, seen
            with torch.no_grad():
                logits = only(rows_of(model, self.rows), slots)(x_adv)
        if reads == "logits":
            return logits, logits
        labels = self._batch.y[:, None]
        return logits, torch.where(logits.isnan().any(dim=2), labels, logits.argmax(dim=2))  # NaN is no answer

    def _compacted(self) -> Tensor | None:
        """The lanes that the model need be asked about; None for all.

        A recording needs a batch of one shape, and a model that answers at random may draw its noise for a whole one.
        """
        job = self._active_jobs[0].job
        if not self.compact or self.classifier.device.type != "cpu" or job.eot > 1:
            return None
        slots = compacted([slot for slot, _ in self._slots.busy()], len(self._slots), job.attack.queries_per_step)
        return None if slots is None else self._slot_indices(slots)

    def _loss(self, logits: Logits, y: Labels, target: Labels) -> PerExample:
        return self._joined([active_job.loss(logits, y, target) for active_job in self._active_jobs])

    # What was found

    def _read(self) -> list[Ended]:
        """Look at what the watcher has seen: searches with a find, or without budget, end."""
        best_seen, busy = self._best_seen, self._slots.busy()
        if not busy:
            return []
        members = best_seen.rank > -torch.inf
        found, fooled, nan, saw = torch.stack([best_seen.found, best_seen.fooled, best_seen.nan, members]).tolist()
        enough = found if busy[0][1].job.eot == 1 else self._sure.tolist()
        ending = [
            (slot, search)
            for slot, search in busy
            if (enough[slot] and not search.job.smallest) or search.taken == search.job.max_queries
        ]
        fools, errors = {slot for slot, _ in ending if found[slot]}, dict[int, str]()
        if ending and not self._exactly(ending[0][1].job):
            fools, errors = self._asked_again([slot for slot, _ in ending if saw[slot]])
            best_seen.turn_down(self._slot_indices(slot for slot, _ in ending if slot not in fools))
        images, params = (best_seen.x_adv.cpu(), best_seen.params.tolist()) if fools else (self._batch.x, [])
        ended = []
        for slot, search in ending:
            if error := errors.get(slot, ""):
                ended.append(_ended(self._release(slot), error=error))
                continue
            if slot not in fools and search.taken < search.job.max_queries:
                continue
            no_query_inside = not (fooled[slot] if search.job.attack.comes_from_outside else saw[slot])
            find = (images[slot].clone(), tuple(params[slot])) if slot in fools else (None, ())
            ended.append(_ended(self._release(slot), *find, nan=nan[slot], no_query_inside=no_query_inside))
        return ended

    def _asked_again(self, slots: Sequence[int]) -> tuple[set[int], dict[int, str]]:
        """The lanes whose best point fools the model in float32, and what the model raises at that of others.

        What low precision found or missed is not believed.
        """
        at = self._slot_indices(slots)
        fools, errors = fooling(self.classifier, self._best_seen.x_adv[at], self._batch.y[at])
        raised = {slots[row]: error for row, error in errors.items()}
        return {slot for slot, fool in zip(slots, fools, strict=True) if fool}, raised

    def _slot_indices(self, slots: Iterable[int]) -> Tensor:
        return torch.tensor(list(slots), dtype=torch.long, device=self._remaining.device)

    # What goes wrong

    @contextmanager
    def _blaming(self, *jobs: Job) -> Iterator[None]:
        """What an attack or the model raises ends the jobs it concerns, and nothing else."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if out_of_memory(error) or self._recording:
                raise
            for job in jobs:
                job.error = described(error)

    def _single_out(self, x_adv: Tensor) -> bool:
        """End the searches whose own image makes the model raise. Returns whether there are any.

        An image is to blame where the model raises at it alone, and answers about the example that it comes from.
        Else the fault lies with the model or the attack.
        """
        errors = {slot: error for slot, _ in self._slots.busy() if (error := self._raises_at(x_adv[slot]))}
        own = {slot: error for slot, error in errors.items() if not self._raises_at(self._batch.x[slot])}
        for slot, error in own.items():
            self._failed.append(_ended(self._release(slot), error=error))
            self._barred.add(slot)
        return bool(own)

    def _raises_at(self, images: Tensor) -> str:
        """What the model raises at the images of one lane, queried as the jobs query it."""
        job = self._active_jobs[0].job
        exactly = self._exactly(job)
        with arithmetic(images.device, tf32=self.precision == "tf32" and not exactly):
            return error_at(
                self.classifier if exactly else self._rough,
                images.view(-1, *self.split.shape),
                gradients=job.attack.reads == "gradients",
            )

    def _with_barred(self, x_adv: Tensor) -> Tensor:
        """The queries, but on lanes that were left by a failed search the clean image, which the model answers."""
        if not self._barred:
            return x_adv
        at = self._slot_indices(self._barred)
        clean = self._batch.x[at]
        return x_adv.index_copy(0, at, clean if x_adv.ndim == clean.ndim else clean[:, None].expand_as(x_adv[at]))

    def _rid_of_failed(self) -> bool:
        """Jobs with an error leave the lanes. Returns whether there were any."""
        failed = [active_job.job for active_job in self._active_jobs if active_job.job.error]
        for job in failed:
            _give_up(job, [self._release(slot).item for slot, _ in self._slots.of(job)])
        if failed:
            self._regroup()
        return bool(failed)

    def _halve(self, reason: str) -> None:
        """Go on with half the rows. Searches on lanes begin afresh; their noise is theirs, so they find the same."""
        if self.rows == 1:
            raise UserError(f"the model runs out of memory on a single image ({reason.splitlines()[0]})")
        self.rows //= 2
        for slot, search in reversed(self._slots.busy()):
            self._release(slot)
            search.job.waiting.put_back(search.item)
        again = [active_job.job for active_job in self._active_jobs] + ([self._next] if self._next is not None else [])
        self._upcoming, self._next, self._active_jobs = chain(again, self._upcoming), None, []
        self._slots = Slots(0)
        if self.classifier.device.type == "cuda":
            torch.cuda.empty_cache()


def _give_up(job: Job, begun: Iterable[Item]) -> None:
    """Note which examples a job leaves unfinished."""
    job.unfinished = (job.waiting.rows() | {item.row for item in begun}) - job.dropped
    job.waiting.close()


def _ended(
    search: SlotSearch[Job],
    x_adv: Tensor | None = None,
    params: tuple[float, ...] = (),
    *,
    nan: bool = False,
    no_query_inside: bool = False,
    dropped: bool = False,
    error: str = "",
) -> Ended:
    attack, passes = search.job.attack, search.taken * search.job.eot
    cost = attack.queries_per_step * passes, passes if attack.reads == "gradients" else 0
    return Ended(
        *(search.job, search.item, x_adv, *cost),
        params=params,
        nan=nan,
        no_query_inside=no_query_inside,
        dropped=dropped,
        error=error,
    )


def batch_of(classifier: Classifier, job: Job, split: Split, items: Sequence[Item], seed: int) -> Batch:
    """The rows of some items, with noise that belongs to (seed, example, attack, target, draw) alone."""
    rows = torch.tensor([item.row for item in items])
    targets = torch.tensor([item.target for item in items])
    keys = keyed(
        seed,
        torch.tensor([split.numbers[item.row] for item in items]),
        text_key(f"{job.threat.name} {renames.former_spec(job.attack.spec)}"),
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
