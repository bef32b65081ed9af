"""The story on one page: plan, what is missing, search, judge, record. Search proposes, and evidence decides."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain, compress, count

import msgspec
import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..errors import counted
from ..evidence.records import PassedOver, Plan
from ..evidence.referee import PASSES, Referee
from ..evidence.store import RunFile
from ..masking.schedule import CHECKED, MaskingCheck, MaskingLevel, MaskingRequest, Step
from ..problem import cautions
from ..problem.classifier import Classifier
from ..problem.randomness import seeded
from ..problem.split import Split
from ..protocols import Protocol
from ..results.merging import searched_in, with_precision
from ..results.parts import parts_of
from ..results.summarising import summarise
from ..results.summary import Summary
from ..results.tally import signs_of_masking
from ..search.engine import pilot
from ..search.engine.engine import Engine
from ..search.engine.job import Ended, Job
from .attack_run import AttackRun, Broken, ClaimContext, ClaimCounts, prepare, remaining, searches_all
from .clean_pass import CLEAN_PASS, CleanPass, KnownExamples, predict_clean
from .conditions import settled_precision, stochastic
from .environment import date
from .notes import OUTPUTS, Notes, note_examples, note_model
from .planning import resumed, spec_of
from .progress import Progress, Silence
from .rounds import Nearness, Part, Round, SampleResult, rounds, sample
from .shards import searched, searched_mask
from .stored_images import judge_stored

RANDOMNESS_IMAGES = 8  # clean images, queried twice, to detect a model that answers at random
COMMIT_EVERY = 0.25  # seconds: what a killed run may have to do again
CHECK_EVERY = 1.0  # seconds between checks of the stop criterion, at the minimum
CHECK_SHARE = 0.05  # of the time, at the maximum, may go into these checks


@dataclass
class Evaluation:
    """One question that is being answered into one run file."""

    plan: Plan  # its precision may be `auto`, to be settled before the first attack
    protocol: Protocol
    classifier: Classifier  # the searched one; the referee has weights of its own
    referee: Referee
    split: Split
    run: RunFile
    environment: dict[str, str] = field(default_factory=dict)
    progress: Progress = field(default_factory=Silence)
    deadline: float = float("inf")  # of time.monotonic()
    stop_when: Callable[[Summary], bool] | None = None  # stop criterion: the answer suffices with examples open
    masking: MaskingRequest = "off"  # whether to check for gradient masking, after the attacks
    notes: Notes = field(default_factory=Notes)
    elsewhere: "Callable[[Evaluation, Round], bool] | None" = None  # searches a round in place of `search_round`
    engine: Engine | None = None  # of the searches without a surrogate gradient; made when it is needed
    only: frozenset[int] | None = None  # the examples that are searched; None: those of the plan
    _running: list[AttackRun] = field(default_factory=list)
    _after: list[Step] = field(default_factory=list)  # not yet prepared
    _before: tuple[str, ...] = ()  # precisions in which earlier sessions of this run searched
    _queries_done: int = 0  # of attack runs that are over
    _nearness: Nearness = field(default_factory=Nearness)
    _next_check: float = 0.0  # the stop criterion is not checked before this time

    def __post_init__(self) -> None:
        self.notes.progress = self.progress

    def answer(self) -> Summary:
        """Does what is missing, then sums up. After an interruption, the same call continues from there."""
        self._start()
        self.progress.clean(self.summary())
        if self.stops_early():
            return self.summary()
        for one in self.rounds():
            if not (self.elsewhere or Evaluation.search_round)(self, one):
                break
        if time.monotonic() < self.deadline and (level := self._masking_level()):
            self._check_masking(level)
        return self.summary()

    def summary(self) -> Summary:
        """The answer so far."""
        return summarise(self.plan, self.run, __version__)

    def search_round(self, one: Round) -> bool:
        """Does what is missing of a round. Returns whether it came to its end."""
        self._nearness = Nearness.read(self.plan, self.run)
        jobs = self._jobs(one.steps, one.part)
        if (first := next(jobs, None)) is None:
            return True
        if self.engine is None:
            self.settle_precision()
            self.engine = self._engine(self.classifier, self.plan.precision)
        return self._search(self.engine, chain([first], jobs), self.deadline)

    def missing(self, one: Round) -> NDArray[np.int32]:
        """The numbers of the examples that a round still searches, in the order of the plan.

        Writes down which examples its attacks pass over, and that those with work to do are tried again. The run file
        is read in parts.
        """
        plan, part = self.plan, one.part
        results = [SampleResult.of(plan, self.run, str(choice.threat), planned) for choice, planned, _ in one.steps]
        samples = [sample(plan.examples, planned) if part == "sample" else frozenset() for _, planned, _ in one.steps]
        mask = searched_mask(plan, part)
        wanted, busy = np.zeros(len(plan.examples), bool), set[tuple[str, str]]()
        for some in parts_of(plan, self.run):
            numbers = some.plan.examples
            own = None if mask is None else frozenset(compress(numbers, mask[some.places]))
            nearness, rows, passed = Nearness.of(plan, some.evidence), set[int](), list[PassedOver]()
            for (choice, planned, attack_choice), result, sampled in zip(one.steps, results, samples, strict=True):
                found = remaining(
                    *(some.plan, some.evidence, str(choice.threat), planned, nearness, result),
                    every_attack=searches_all(plan, attack_choice),
                    part=part,
                    own=own,
                    sampled=sampled,
                )
                passed += found.passed_over
                todo = [number for number in found.todo if found.left(number, planned)]
                rows.update(todo)
                if todo:
                    busy.add((str(choice.threat), planned.spec))
            wanted[some.places] = [number in rows for number in numbers]
            if settled := [p for p in passed if p.example not in rows]:
                with self.run.writing():
                    self.run.put_rounds(settled)
        if busy:
            self.environment["date"] = date()
            with self.run.writing():
                self.run.put_environment(self._environment())
                for place in sorted(busy):
                    self.run.clear_failures(*place)
        return np.fromiter(compress(plan.examples, wanted), np.int32, int(wanted.sum()))

    def places(self, one: Round) -> tuple[tuple[int, int], ...]:
        """The attacks of a round, as places in the plan: of a threat, and of an attack under it."""
        found = []
        for threat, planned, _ in one.steps:
            place = self.protocol.threats.index(threat)
            found.append((place, self.plan.threats[place].attacks.index(planned)))
        return tuple(found)

    # Before any attack.

    def _start(self) -> None:
        """Writes down the plan and the clean predictions. A refused evaluation has written nothing."""
        before = self.run.plan()
        if before is not None:
            self.plan = resumed(self.plan, before, str(self.run.path))
            for _ in self.run.images(self.split.shape):  # a damaged one is refused now, before anything is written
                pass
            self._before = searched_in(before, self.run.environment(), any_search=self.run.is_searched())
            if before.passes > 1:
                self._judge_at_random(before.passes)
        known = self.notes.adopt(self.run.environment())
        known_examples = KnownExamples.of(self.split, self.run)  # reads all rows: invalid ones are refused now
        clean_pass = self._clean_pass(known_examples)
        if clean_pass.answered or clean_pass.failures:
            self.environment["date"] = date()
        if not known:
            note_model(self.notes, self.classifier, self.split, at_random=self.plan.passes > 1)
        correct = len(self.split) - known_examples.wrong - clean_pass.wrong
        note_examples(self.notes, self.split, self.protocol, self.classifier.classes, correct)
        with self.run.writing():
            self.run.put_plan(self.plan, self._environment())
            self.run.put_clean(clean_pass.records())
            self.run.clear_failures("", CLEAN_PASS)
            self.run.put_failures(clean_pass.failures)
        for note in (counted_too := list(judge_stored(self.plan, self.run, self._claim_context()))):
            self.progress.noted(note)
        if counted_too:
            self.environment["date"] = date()
            self._change_plan(self.plan)

    def _claim_context(self) -> ClaimContext:
        """What new claims need: the referee, the images, the planned threats, and the claims so far."""
        threats = tuple(choice.threat for choice in self.protocol.threats)
        claims = ClaimCounts(self.run.claims_about)
        return ClaimContext(self.referee, self.split, threats, count(self.run.next_claim()), claims, self._nearness)

    def _clean_pass(self, known: KnownExamples) -> CleanPass:
        """The clean predictions that the run file does not hold yet."""
        unknown = known.others(self.split)
        if not len(unknown):
            return CleanPass()
        if self.plan.passes == 1 and self.referee.answers_at_random(unknown.x[:RANDOMNESS_IMAGES]):
            self._judge_at_random(PASSES)
        found = predict_clean(self.referee, unknown, len(self.split))
        if "outputs" not in self.notes.texts and (logits := found.logits(OUTPUTS)) is not None:
            self.notes.add("outputs", cautions.of_outputs(logits))
            self.notes.add("logarithms", cautions.of_logarithms(logits))
        self.notes.add("failures", found.note)
        return found

    def _judge_at_random(self, passes: int) -> None:
        """Switches to judging each image over many passes, as the model answers at random."""
        self.plan = stochastic(self.plan, self.protocol, self.classifier.classes, passes)
        self.referee = Referee(self.referee.classifier, passes)
        text = f"the model answers at random: judged over {passes} passes, gradients averaged over {self.plan.eot}"
        self.environment["randomness"] = text
        self.progress.noted(text)

    def settle_precision(self) -> None:
        """Decides on a precision where none is named, and tries the one that is."""
        requested = self.plan.precision
        choice = settled_precision(self.plan, self.protocol, self.classifier, self.referee, self.split)
        for note in pilot.notes(choice, requested, self._before, self.classifier.device):
            self.progress.noted(note)
        if choice.precision not in self._before:  # else its reason is on record
            recorded = self.run.environment()
            self.environment["precision"] = with_precision(recorded, choice.precision, choice.reason)
        self._change_plan(msgspec.structs.replace(self.plan, precision=choice.precision))

    # Attacks.

    def rounds(self) -> list[Round]:
        """The attacks under every threat in rounds, each of which begins when every search of the last has ended."""
        steps = [
            (choice, planned_attack, attack_choice)
            for planned, choice in zip(self.plan.threats, self.protocol.threats, strict=True)
            for planned_attack, attack_choice in zip(planned.attacks, choice.attacks, strict=True)
        ]
        return [Round(steps)] if self.plan.every_attack else list(rounds(steps))

    def _jobs(
        self, steps: Sequence[Step], part: Part = "all", *, among: frozenset[int] | None = None, again: bool = False
    ) -> Iterator[Job]:
        """Every attack under every threat that has work to do, in their order.

        Each is prepared when slots are free for it, from what is known then.
        """
        context = self._claim_context()
        for place, (choice, planned, attack_choice) in enumerate(steps):
            self._commit()
            prepared = (self.plan, self.run, context, choice.threat, planned, attack_choice)
            own = searched(self.plan, part) if self.only is None else self.only
            attack_run = prepare(*prepared, part=part, among=among, again=again, own=own)
            if attack_run.passed_over:
                with self.run.writing():
                    self.run.put_rounds(attack_run.passed_over)
            if attack_run.job.over:
                continue
            self.environment["date"] = date()  # this session adds evidence
            with self.run.writing():  # it is tried again: earlier failures no longer count
                self.run.put_environment(self._environment())
                self.run.clear_failures(str(choice.threat), planned.spec)
            self.progress.attacking(str(choice.threat), planned.label)
            self._running.append(attack_run)
            self._after = list(steps[place + 1 :])
            yield attack_run.job

    def _engine(self, classifier: Classifier, precision: str = "float32") -> Engine:
        return Engine(
            *(classifier, self.split, self.plan.seed, self.plan.slots, precision),
            compact="batch" not in self.notes.texts,
        )

    def _search(self, engine: Engine, jobs: Iterable[Job], deadline: float) -> bool:
        """Takes what the engine finds, and writes it down now and then; all of it, even when an error ends it.

        Returns whether all jobs came to their end.
        """
        at_random = self.plan.passes > 1
        noise = seeded(self.plan.seed, self.classifier.device) if at_random else nullcontext()
        clock = committed = time.monotonic()
        try:
            with noise:
                for ended in engine.work(jobs, deadline):
                    now = time.monotonic()
                    self._take(ended, now - clock)
                    clock = now
                    if engine.rows != self.plan.slots:
                        self._use_slots(engine.rows)
                    if engine.notes:
                        self.notes.add("graph", "; ".join(engine.notes))
                        engine.notes.clear()
                    if now - committed > COMMIT_EVERY:
                        self._commit()
                        self._drop_finished()
                        committed = now
                        if self.stops_early():
                            return False
                    if now > deadline:
                        return False
        finally:
            self._commit()
        return True

    def _take(self, ended: list[Ended], seconds: float) -> None:
        """Judges what has ended, and reports what is broken to all attacks.

        They share the time in proportion to the slots they held. Where none held any, a library batch ended without a
        search that is done, and the newest attack had all the time.
        """
        by_job = {a.job: [end for end in ended if end.job is a.job] for a in self._running}
        held = {job: job.in_flight + len(ends) for job, ends in by_job.items()}
        if self._running and not any(held.values()):
            held[self._running[-1].job] = 1
        broken: set[Broken] = set()
        for attack_run in self._running:
            attack_run.seconds += seconds * held[attack_run.job] / sum(held.values())
            broken |= attack_run.take(by_job[attack_run.job])
        for attack_run in self._running:
            attack_run.drop_broken(broken)
        if self._running:
            newest = self._running[-1]
            left = sum(a.job.left for a in self._running) + newest.standing * self._max_queries(self._after)
            self.progress.moved(
                newest.standing + newest.elsewhere, self._queries_done + sum(a.job.queries for a in self._running), left
            )

    def _max_queries(self, steps: Iterable[Step]) -> int:
        """The queries that these attacks make for an example that no attack breaks under any threat."""
        return sum(
            planned.items * choice.attack.max_queries(threat.threat) * choice.attack.queries_per_step * self.plan.eot
            for threat, planned, choice in steps
        )

    def _masking_level(self) -> MaskingLevel | None:
        """How thorough the check is now; none where it is off, or `auto` sees no sign or nothing left to break."""
        if self.masking != "auto":
            return None if self.masking == "off" else self.masking
        balls = {str(choice.threat) for choice in self.protocol.threats if choice.threat.name in CHECKED}
        signs = signs_of_masking(self.plan, self.run) if balls else {}
        if not balls or not (signs or self.notes.doubt_gradients):
            return None
        if not any(t.standing + t.open for t in self.summary().threats if t.threat in balls):
            return None
        for threat, sign in signs.items():
            self.progress.noted(f"{threat}: {sign}")
        self.progress.noted("gradient masking is checked, as the note above points to it; --masking off leaves it out")
        return "on"

    def _check_masking(self, level: MaskingLevel) -> None:
        """Checks whether examples stand only because gradients mislead.

        In float32, as rounding can mask gradients too.
        """
        check = MaskingCheck(
            *(self.plan, self.protocol, self.classifier, self.split, self.run, level),
            spec=lambda choice: spec_of(choice, self.plan.eot),
        )
        note = ""  # of the first search that still has something to do
        for search in check.searches():
            note = search.note or note
            jobs = self._jobs(search.steps, among=search.examples, again=search.again)
            if (first := next(jobs, None)) is None:
                continue
            if note:
                self.progress.noted(note)
                note = ""
            self._search(self._engine(search.classifier), chain([first], jobs), min(self.deadline, search.until))
            self._running = []  # an attack that ran out of time holds no slots any more

    # On record.

    def _commit(self) -> None:
        """Writes down everything since the last time, or nothing of it."""
        with self.run.writing():
            for attack_run in self._running:
                attack_run.write(self.run)
            self.run.put_rounds(self._nearness.changed())
        for attack_run in self._running:
            attack_run.written()
        self._nearness.written()

    def _drop_finished(self) -> None:
        """Forgets attack runs that are over and written down."""
        self._queries_done += sum(a.job.queries for a in self._running if a.job.over)
        self._running = [a for a in self._running if not a.job.over]

    def stops_early(self) -> bool:
        """Whether what is written down meets the stop criterion."""
        started = time.monotonic()
        if self.stop_when is None or started < self._next_check:
            return False
        met = self.stop_when(self.summary())
        now = time.monotonic()
        self._next_check = now + max(CHECK_EVERY, (now - started) / CHECK_SHARE)
        return met

    def _use_slots(self, slots: int) -> None:
        """Continues with fewer slots, as the batch did not fit the memory, and records it."""
        self.progress.noted(f"the batch did not fit the memory; going on with {counted(slots, 'image')} at once")
        self._change_plan(msgspec.structs.replace(self.plan, slots=slots))

    def _change_plan(self, plan: Plan) -> None:
        with self.run.writing():
            if plan == self.plan:  # as it is in the file: a plan names every example, which takes memory
                self.run.put_environment(self._environment())
            else:
                self.run.put_plan(plan, self._environment())
        self.plan = plan

    def _environment(self) -> dict[str, str]:
        """What the run file keeps about how it was made."""
        return self.environment | self.notes.environment()
