"""The engine: keeps the lanes busy, makes every call to the model, watches it, counts it."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from itertools import chain

import torch
from torch import Tensor

from ..errors import UserError, described
from ..problem.classifier import Classifier, arithmetic
from ..problem.memory import out_of_memory
from ..problem.noise import keyed, text_key
from ..problem.shapes import Labels, Logits, PerExample
from ..problem.split import Split
from .attack import Batch, ForeignAttack, Seen, differentiate, put_rows
from .awake import awake, only, rows_of
from .capture import Recorded, Values, cuda_graph
from .chance import Average, averaged
from .host import host
from .isolation import error_at, fooling
from .job import Crew, Ended, Job, joined
from .precision import rounded
from .queue import Item, Seat, Seats
from .watcher import Watcher

READ_EVERY = 8  # steps between looks at what was found, where looking is dear


class Engine:
    """Works jobs off on a fixed number of rows of the device batch.

    A lane whose search has ended is taken by the next one at once; when a job has no more waiting, by the next
    job's. The batch keeps its shape to the end, with idle lanes as padding, so every row is computed the same
    way whoever its neighbours are; on a CPU the model is not asked about the idle ones once most are (`awake`).
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
        self._crews: list[Crew] = []
        self._seats: Seats[Job] = Seats(0)
        self._batch: Batch
        self._watcher: Watcher
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
                if (guest := self._guest()) is not None:
                    ended += self._host(guest)
                elif self._fill():
                    self._steps(self._read_every)
                    ended += self._read()
                    ended += self._failed
                    self._failed = []
                else:
                    going = self._guest() is not None
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
            if not self._crews and not self._open():
                return False
            seated: dict[Crew, list[tuple[int, Item]]] = {}
            for lane in self._seats.free():
                if (turn := self._turn()) is None:
                    break
                crew, item = turn
                self._seats.sit(lane, crew.job, item)
                crew.job.in_flight += 1
                seated.setdefault(crew, []).append((lane, item))
            for crew, places in seated.items():
                self._begin(crew, places)
            self._rid_of_failed()
            self._muster()
            if self._crews:
                return True

    def _open(self) -> bool:
        """Lanes for the next job's kind, when nobody is on them. Returns whether there is a job."""
        job = self._peek()
        if job is None or isinstance(job.attack, ForeignAttack):
            return False
        lanes = max(1, self.rows // job.attack.width)
        none = torch.zeros(lanes, dtype=torch.long, device=self.classifier.device)
        # Padding, until somebody sits down: an example, since the model may raise at a black image.
        padding = self.split.x[[min(job.waiting.rows(), default=0)] * lanes].to(none.device)
        self._seats = Seats(lanes)
        self._batch = Batch(padding, none, none, none)
        self._watcher = Watcher.over(padding)
        self._remaining = none.clone()
        self._sure = none.bool()
        self._barred = set()
        self._crews = [Crew(job)]
        self._next = None
        return True

    def _turn(self) -> tuple[Crew, Item] | None:
        """Whose turn it is: that of the first job with anybody waiting."""
        for crew in self._crews:
            if (item := crew.job.waiting.take()) is not None:
                return crew, item
        while (job := self._peek()) is not None and self._kind(job) == self._kind(self._crews[0].job):
            self._crews.append(Crew(job))
            self._next = None
            if (item := job.waiting.take()) is not None:
                return self._crews[-1], item
        return None

    def _kind(self, job: Job) -> tuple[str, int, bool, bool, int]:
        """What jobs must agree in to share a forward pass."""
        return job.attack.reads, job.attack.width, self._exactly(job), job.smallest, job.eot

    def _exactly(self, job: Job) -> bool:
        """Whether the model answers it in float32."""
        return job.attack.precise or self.precision == "float32"

    def _peek(self) -> Job | None:
        if self._next is None:
            self._next = next(self._upcoming, None)
        return self._next

    def _begin(self, crew: Crew, places: Sequence[tuple[int, Item]]) -> None:
        """The images and noise of new searches onto their lanes."""
        fresh = batch_of(self.classifier, crew.job, self.split, [item for _, item in places], self.seed)
        at = torch.tensor([lane for lane, _ in places], device=fresh.x.device)
        self._batch = put_rows(self._batch, at, fresh)
        self._watcher.forget(at)
        self._remaining.index_fill_(0, at, crew.job.visits)
        self._sure.index_fill_(0, at, False)
        self._barred.difference_update(lane for lane, _ in places)
        with self._blaming(crew.job):
            crew.sit(at, fresh, len(self._seats))

    def _muster(self) -> None:
        """Jobs with nobody on the lanes leave; the others learn where they sit."""
        self._crews = [crew for crew in self._crews if crew.job.in_flight]
        for crew in self._crews:
            alone = len(self._crews) == 1
            crew.lanes = None if alone else self._lanes(lane for lane, _ in self._seats.of(crew.job))

    def _clear(self) -> list[Ended]:
        """Free the lanes of examples that were dropped."""
        dropped = [lane for lane, seat in self._seats.busy() if seat.item.row in seat.job.dropped]
        return [_ended(self._release(lane), dropped=True) for lane in dropped]

    def _release(self, lane: int) -> Seat[Job]:
        seat = self._seats.release(lane)
        seat.job.in_flight -= 1
        return seat

    # Attacks with a loop of their own

    def _guest(self) -> Job | None:
        """The next job, when its attack drives itself and nobody is on the lanes."""
        job = None if self._crews else self._peek()
        return job if job is not None and isinstance(job.attack, ForeignAttack) else None

    def _host(self, job: Job) -> list[Ended]:
        """One batch of its searches, from as many images as there are rows."""
        items = self._party(job)
        if not items:
            self._next = None
            return []
        job.in_flight = len(items)
        ended: list[Ended] = []
        try:
            with self._blaming(job):
                batch = batch_of(self.classifier, job, self.split, items, self.seed)
                ended = host(self.classifier, job, items, batch)
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

    def _party(self, job: Job) -> list[Item]:
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
        for _, seat in self._seats.busy():
            more = min(made, seat.job.visits - seat.taken)
            seat.taken += more
            seat.job.steps += more

    def _step(self) -> bool:
        """Ask every lane's question in one pass, show the answers to the watcher, then to the attacks.

        Returns whether it was made: not where an attack failed before it could ask, or nobody is on the lanes.
        """
        batch = self._batch
        images, witnesses = [], []
        for crew in self._crews:
            with self._blaming(crew.job):
                images.append(crew.query(batch))
                witnesses.append(crew.witness(batch))
        if self._rid_of_failed() or not self._crews:
            return False
        with self._blaming(*(crew.job for crew in self._crews)):
            x_adv, witness = self._with_barred(self._joined(images)), self._joined(witnesses)
            try:
                told, answers = self._ask(x_adv)
            except Exception as error:
                if self._recording or out_of_memory(error) or not self._single_out(x_adv):
                    raise
                return False
            self._watch(x_adv, witness, told)
        for crew in self._crews:
            if not crew.job.error:
                with self._blaming(crew.job):
                    crew.tell(batch, answers)
        self._remaining = self._remaining - 1
        self._rid_of_failed()
        return True

    def _replay(self, times: int) -> bool:
        """The same as a recording, where there can be one: on CUDA, of a gradient attack that is alone on the lanes."""
        if not self._crews or self._crews[0].lanes is not None or self._crews[0].job.attack.reads != "gradients":
            return False
        (crew,) = self._crews
        if self._record is None or crew.recorded is False or crew.job.eot > 1:
            return False

        def step(constants: Values, values: Values) -> Values:
            self._put(crew, constants, values)
            self._step()
            return self._values(crew)[1]

        constants, values = self._values(crew)
        if crew.recorded is None:
            self._recording = True
            try:
                crew.recorded = Recorded(step, constants, values, self._record)
            except Exception as error:
                if out_of_memory(error):
                    raise
                crew.recorded = False  # some step cannot be recorded; it can still be made
                self.notes.append(f"steps of {crew.job.attack.name} are not recorded as a graph ({described(error)})")
            finally:
                self._recording = False
                self._put(crew, constants, values)
        if not isinstance(crew.recorded, Recorded):
            return False
        self._put(crew, constants, crew.recorded(constants, values, times))
        return True

    def _values(self, crew: Crew) -> tuple[Values, Values]:
        """All that a step reads: what it leaves as it is, and what it changes."""
        changed = (crew.state, self._watcher)
        values = [getattr(rows, f.name) for rows in changed for f in fields(rows)]
        return tuple(getattr(self._batch, f.name) for f in fields(self._batch)), (*values, self._remaining)

    def _put(self, crew: Crew, constants: Values, values: Values) -> None:
        self._batch = Batch(*constants)
        kept = len(fields(crew.state))
        crew.state = type(crew.state)(*values[:kept])
        self._watcher = Watcher(*values[kept:-1])
        self._remaining = values[-1]

    def _watch(self, x_adv: Tensor, witness: Tensor, told: Tensor | Average) -> None:
        x, size = self._batch.x, None
        inside = self._joined([crew.inside(x_adv, x, witness) for crew in self._crews])
        if self._crews[0].job.smallest:
            size = self._joined([crew.measure(x_adv, x, witness) for crew in self._crews]).flatten()
        if x_adv.ndim > x.ndim:
            x_adv = x_adv.flatten(0, 1)
        active = self._remaining > 0
        seen = x_adv, witness.flatten(0, 1), inside.flatten()
        if isinstance(told, Tensor):
            self._watcher.see(*seen, told.flatten(0, -2), self._batch.y, active, size)
            return
        # Where the smallest is kept, the luckiest of those that fail now and then would be.
        find = told.most(all_of_them=self._crews[0].job.smallest)
        self._watcher.look(*seen, told.margin, find, active, size)
        self._sure |= (inside & told.surely().view_as(inside)).any(dim=1) & active

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        return joined(self._crews, parts, len(self._seats))

    def _ask(self, x_adv: Tensor) -> tuple[Tensor | Average, Seen | Tensor]:
        """What the watcher is told of the model's answers, and what the attacks are."""
        passes = self._crews[0].job.eot
        if passes == 1:
            return self._ask_once(x_adv)
        average = averaged(lambda: self._ask_once(x_adv), passes, self._batch.y)
        return average, average.answers

    def _ask_once(self, x_adv: Tensor) -> tuple[Tensor, Seen | Tensor]:
        """The model's logits, and what of them the attacks are told."""
        job = self._crews[0].job
        reads, exactly = job.attack.reads, self._exactly(job)
        model = self.classifier if exactly else self._rough
        with arithmetic(x_adv.device, tf32=self.precision == "tf32" and not exactly):
            lanes = self._awake()
            if reads == "gradients":
                seen = differentiate(only(model, lanes), self._loss, x_adv, self._batch.y, self._batch.target)
                return seen.logits, seen
            with torch.no_grad():
                logits = only(rows_of(model, self.rows), lanes)(x_adv)
        if reads == "logits":
            return logits, logits
        right = self._batch.y[:, None]
        return logits, torch.where(logits.isnan().any(dim=2), right, logits.argmax(dim=2))  # NaN is no answer

    def _awake(self) -> Tensor | None:
        """The lanes that the model need be asked about; None for all.

        A recording needs a batch of one shape, and a model that answers at random may draw its noise for a whole one.
        """
        job = self._crews[0].job
        if not self.compact or self.classifier.device.type != "cpu" or job.eot > 1:
            return None
        lanes = awake([lane for lane, _ in self._seats.busy()], len(self._seats), job.attack.width)
        return None if lanes is None else self._lanes(lanes)

    def _loss(self, logits: Logits, y: Labels, target: Labels) -> PerExample:
        return self._joined([crew.loss(logits, y, target) for crew in self._crews])

    # What was found

    def _read(self) -> list[Ended]:
        """Look at what the watcher has seen: searches with a find, or without budget, end."""
        watcher, busy = self._watcher, self._seats.busy()
        if not busy:
            return []
        members = watcher.rank > -torch.inf
        found, fooled, nan, saw = torch.stack([watcher.found, watcher.fooled, watcher.nan, members]).tolist()
        enough = found if busy[0][1].job.eot == 1 else self._sure.tolist()
        ending = [
            (lane, seat)
            for lane, seat in busy
            if (enough[lane] and not seat.job.smallest) or seat.taken == seat.job.visits
        ]
        fools, errors = {lane for lane, _ in ending if found[lane]}, dict[int, str]()
        if ending and not self._exactly(ending[0][1].job):
            fools, errors = self._asked_again([lane for lane, _ in ending if saw[lane]])
            watcher.turn_down(self._lanes(lane for lane, _ in ending if lane not in fools))
        images, witnesses = (watcher.x_adv.cpu(), watcher.witness.tolist()) if fools else (self._batch.x, [])
        ended = []
        for lane, seat in ending:
            if error := errors.get(lane, ""):
                ended.append(_ended(self._release(lane), error=error))
                continue
            if lane not in fools and seat.taken < seat.job.visits:
                continue
            blind = not (fooled[lane] if seat.job.attack.comes_from_outside else saw[lane])
            find = (images[lane].clone(), tuple(witnesses[lane])) if lane in fools else (None, ())
            ended.append(_ended(self._release(lane), *find, nan=nan[lane], blind=blind))
        return ended

    def _asked_again(self, lanes: Sequence[int]) -> tuple[set[int], dict[int, str]]:
        """The lanes whose best point fools the model in float32, and what the model raises at that of others.

        What low precision found or missed is not believed.
        """
        at = self._lanes(lanes)
        fools, errors = fooling(self.classifier, self._watcher.x_adv[at], self._batch.y[at])
        raised = {lanes[row]: error for row, error in errors.items()}
        return {lane for lane, fool in zip(lanes, fools, strict=True) if fool}, raised

    def _lanes(self, lanes: Iterable[int]) -> Tensor:
        return torch.tensor(list(lanes), dtype=torch.long, device=self._remaining.device)

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
        errors = {lane: error for lane, _ in self._seats.busy() if (error := self._raises_at(x_adv[lane]))}
        own = {lane: error for lane, error in errors.items() if not self._raises_at(self._batch.x[lane])}
        for lane, error in own.items():
            self._failed.append(_ended(self._release(lane), error=error))
            self._barred.add(lane)
        return bool(own)

    def _raises_at(self, images: Tensor) -> str:
        """What the model raises at the images of one lane, queried as the jobs query it."""
        job = self._crews[0].job
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
        at = self._lanes(self._barred)
        clean = self._batch.x[at]
        return x_adv.index_copy(0, at, clean if x_adv.ndim == clean.ndim else clean[:, None].expand_as(x_adv[at]))

    def _rid_of_failed(self) -> bool:
        """Jobs with an error leave the lanes. Returns whether there were any."""
        failed = [crew.job for crew in self._crews if crew.job.error]
        for job in failed:
            _give_up(job, [self._release(lane).item for lane, _ in self._seats.of(job)])
        if failed:
            self._muster()
        return bool(failed)

    def _halve(self, reason: str) -> None:
        """Go on with half the rows. Searches on lanes begin afresh; their noise is theirs, so they find the same."""
        if self.rows == 1:
            raise UserError(f"the model runs out of memory on a single image ({reason.splitlines()[0]})")
        self.rows //= 2
        for lane, seat in reversed(self._seats.busy()):
            self._release(lane)
            seat.job.waiting.put_back(seat.item)
        again = [crew.job for crew in self._crews] + ([self._next] if self._next is not None else [])
        self._upcoming, self._next, self._crews = chain(again, self._upcoming), None, []
        self._seats = Seats(0)
        if self.classifier.device.type == "cuda":
            torch.cuda.empty_cache()


def _give_up(job: Job, begun: Iterable[Item]) -> None:
    """Note which examples a job leaves unfinished."""
    job.unfinished = (job.waiting.rows() | {item.row for item in begun}) - job.dropped
    job.waiting.close()


def _ended(
    seat: Seat[Job],
    x_adv: Tensor | None = None,
    witness: tuple[float, ...] = (),
    *,
    nan: bool = False,
    blind: bool = False,
    dropped: bool = False,
    error: str = "",
) -> Ended:
    attack, passes = seat.job.attack, seat.taken * seat.job.eot
    cost = attack.width * passes, passes if attack.reads == "gradients" else 0
    return Ended(
        *(seat.job, seat.item, x_adv, *cost), witness=witness, nan=nan, blind=blind, dropped=dropped, error=error
    )


def batch_of(classifier: Classifier, job: Job, split: Split, items: Sequence[Item], seed: int) -> Batch:
    """The rows of some items, with noise that belongs to (seed, example, attack, target, draw) alone."""
    rows = torch.tensor([item.row for item in items])
    targets = torch.tensor([item.target for item in items])
    keys = keyed(
        seed,
        torch.tensor([split.numbers[item.row] for item in items]),
        text_key(f"{job.threat.name} {job.attack.spec}"),
        targets,
        draw=torch.tensor([item.draw for item in items]),
    )
    device = classifier.device
    y = split.y[rows].to(device)
    return Batch(
        x=split.x[rows].to(device),
        y=y,
        target=torch.where(targets.to(device) < 0, y, targets.to(device)),
        keys=keys.to(device),
    )
