"""The story on one page: plan, what is missing, search, judge, record.

Search proposes, evidence decides, results only read.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Protocol as Interface
from typing import runtime_checkable

import msgspec
import torch

from . import __version__
from .attempt import Attempt, Broken, Court, prepare
from .errors import UserError, counted
from .evidence.records import Clean, Failure, ModelRecord, Plan, PlannedAttack, PlannedThreat
from .evidence.referee import PASSES, Referee
from .evidence.store import RunFile
from .problem import cautions
from .problem.classifier import Classifier, Identity
from .problem.randomness import seeded
from .problem.split import Split
from .protocols import AttackChoice, Protocol, ThreatChoice, rebuilt
from .protocols.cost import planned_items
from .results.merging import searched_in, with_precision
from .results.summary import NOTE, Summary, summarise
from .scrutiny import Masking, Scrutiny, Step
from .search.attack import ForeignAttack
from .search.job import Ended, Job
from .search.loop import Engine
from .search.pilot import Choice, Pilot, choose, named, notes
from .search.precision import checked
from .search.trial import gradient_caution, objection_to_smaller_batches

LOOKED_AT = 8  # clean images, asked about twice, to tell whether the model answers at random
OUTPUTS = 64  # clean images from whose outputs it is read whether they are logits
NOTES = ("model", "training", "labels", "outputs", "gradients", "classes", "accuracy", "threats", "failures", "batch")
OF_MODEL = ("outputs", "gradients", "batch")  # those that are found out once
DROPPED = ("layout", "graph")  # optimisations: no number depends on them
CLEAN_PASS = "clean pass"  # the attack of failures before any attack
EOT = 20  # passes over which a search averages, as AutoAttack's version for random models does
COMMIT_EVERY = 0.25  # seconds: what a killed run may have to do again
LOOK_EVERY = 1.0  # seconds between looks at whether the answer will do already, at least
LOOK_SHARE = 0.05  # of the time, at most, may go into such looks


@runtime_checkable
class Progress(Interface):
    """What an evaluation tells while it works."""

    def clean(self, summary: Summary) -> None:
        """The clean accuracy is known."""

    def attacking(self, threat: str, attack: str) -> None:
        """Another attack begins."""

    def moved(self, standing: int, queries_done: int, queries_left: int) -> None:
        """So many examples may still stand under the threat; the run has made so many queries of the model since it
        was started, and has about so many to go.
        """

    def noted(self, text: str) -> None:
        """Something a user should know of, as a sentence without its full stop."""


class Silence:
    """A progress that tells nothing."""

    def clean(self, summary: Summary) -> None:
        pass

    def attacking(self, threat: str, attack: str) -> None:
        pass

    def moved(self, standing: int, queries_done: int, queries_left: int) -> None:
        pass

    def noted(self, text: str) -> None:
        pass


@dataclass
class Evaluation:
    """One question being answered into one run file."""

    plan: Plan  # its precision may be `auto`, to be settled before the first attack
    protocol: Protocol
    classifier: Classifier  # searched; whatever happens to it there, the referee has weights of its own
    referee: Referee
    split: Split
    run: RunFile
    environment: dict[str, str] = field(default_factory=dict)
    progress: Progress = field(default_factory=Silence)
    deadline: float = float("inf")  # of time.monotonic()
    enough: Callable[[Summary], bool] | None = None  # whether an answer will do although examples are open
    masking: Masking = "off"  # how closely to look, afterwards, whether gradients mislead
    notes: dict[str, str] = field(default_factory=dict)  # by NOTES or DROPPED
    _live: list[Attempt] = field(default_factory=list)
    _after: list[Step] = field(default_factory=list)  # yet to be prepared
    _before: tuple[str, ...] = ()  # precisions in which this run was searched before
    _asked: int = 0  # queries of the attempts that are over
    _next_look: float = 0.0  # not before this moment

    def answer(self) -> Summary:
        """Do what is missing, then sum up. Stopped anywhere, the same call later goes on from there."""
        self._begin()
        self.progress.clean(self.summary())
        if self._will_do():
            return self.summary()
        jobs = self._jobs(self._steps())
        if (first := next(jobs, None)) is not None:
            self._settle()
            self._attend(self._engine(self.classifier, self.plan.precision), chain([first], jobs), self.deadline)
        if self.masking != "off" and time.monotonic() < self.deadline:
            self._scrutinise(self.masking)
        return self.summary()

    def summary(self) -> Summary:
        """The answer so far."""
        return summarise(self.plan, self.run.evidence(), __version__)

    def _engine(self, classifier: Classifier, precision: str = "float32") -> Engine:
        return Engine(
            *(classifier, self.split, self.plan.seed, self.plan.lanes, precision), compact="batch" not in self.notes
        )

    def _scrutinise(self, masking: Masking) -> None:
        """Whether what stands owes it to its gradients. In float32: rounding is a mask of its own."""
        scrutiny = Scrutiny(
            *(self.plan, self.protocol, self.classifier, self.split, self.run, masking),
            spec=lambda choice: _spec(choice, self.plan.eot),
        )
        for search in scrutiny.searches():
            engine = self._engine(search.classifier)
            jobs = self._jobs(search.steps, among=search.examples, again=search.again)
            self._attend(engine, jobs, min(self.deadline, search.until))
            self._live = []  # one that was stopped in time has lanes no more

    def _jobs(self, steps: Sequence[Step], among: frozenset[int] | None = None, again: bool = False) -> Iterator[Job]:
        """Every attack under every threat that has work to do, in their order.

        Each is prepared when lanes fall free for it, by what is known then.
        """
        threats = tuple(choice.threat for choice in self.protocol.threats)
        claims = Counter(claim.example for claim in self.run.evidence().claims)
        court = Court(self.referee, self.split, threats, count(self.run.next_claim()), claims)
        for place, (choice, planned, attack_choice) in enumerate(steps):
            self._commit()
            asked = (self.plan, self.run, court, choice.threat, planned, attack_choice)
            attempt = prepare(*asked, among=among, again=again)
            if attempt.job.over:
                continue
            with self.run.writing():  # it is tried again: what went wrong before is forgotten
                self.run.clear_failures(str(choice.threat), planned.spec)
            self.progress.attacking(str(choice.threat), planned.label)
            self._live.append(attempt)
            self._after = list(steps[place + 1 :])
            yield attempt.job

    def _steps(self) -> list[Step]:
        """Every attack under every threat, in the order of the protocol."""
        return [
            (choice, planned_attack, attack_choice)
            for planned, choice in zip(self.plan.threats, self.protocol.threats, strict=True)
            for planned_attack, attack_choice in zip(planned.attacks, choice.attacks, strict=True)
        ]

    def _attend(self, engine: Engine, jobs: Iterable[Job], deadline: float) -> None:
        """Take what the engine finds, and write it down now and then; all of it, whatever happens."""
        at_random = self.plan.passes > 1
        noise = seeded(self.plan.seed, self.classifier.device) if at_random else nullcontext()
        clock = committed = time.monotonic()
        try:
            with noise:
                for ended in engine.work(jobs):
                    now = time.monotonic()
                    self._take(ended, now - clock)
                    clock = now
                    if engine.rows != self.plan.lanes:
                        self._shrink(engine.rows)
                    if engine.notes:
                        self._note("graph", "; ".join(engine.notes))
                        engine.notes.clear()
                    if now - committed > COMMIT_EVERY:
                        self._commit()
                        self._let_go()
                        committed = now
                        if self._will_do():
                            break
                    if now > deadline:
                        break
        finally:
            self._commit()

    def _take(self, ended: list[Ended], seconds: float) -> None:
        """Judge what has ended, and tell the attacks what is broken. They share the time by the lanes they held."""
        of = {attempt.job: [end for end in ended if end.job is attempt.job] for attempt in self._live}
        lanes = sum(job.in_flight + len(ends) for job, ends in of.items())
        broken: set[Broken] = set()
        for attempt in self._live:
            ends = of[attempt.job]
            attempt.seconds += seconds * (attempt.job.in_flight + len(ends)) / max(lanes, 1)
            broken |= attempt.take(ends)
        for attempt in self._live:
            attempt.hear(broken)
        if self._live:
            newest = self._live[-1]
            left = sum(a.job.left for a in self._live) + newest.standing * self._queries_of_each(self._after)
            self.progress.moved(newest.standing, self._asked + sum(a.job.asked for a in self._live), left)

    def _queries_of_each(self, steps: Iterable[Step]) -> int:
        """What these attacks will ask about an example that stands under every threat."""
        return sum(
            planned.items * choice.attack.visits(threat.threat) * choice.attack.width * self.plan.eot
            for threat, planned, choice in steps
        )

    def _commit(self) -> None:
        """Write down everything since the last time, or nothing of it."""
        with self.run.writing():
            for attempt in self._live:
                attempt.write(self.run)
        for attempt in self._live:
            attempt.written()

    def _will_do(self) -> bool:
        """Whether what is written down is answer enough."""
        began = time.monotonic()
        if self.enough is None or began < self._next_look:
            return False
        will_do = self.enough(self.summary())
        now = time.monotonic()
        self._next_look = now + max(LOOK_EVERY, (now - began) / LOOK_SHARE)
        return will_do

    def _let_go(self) -> None:
        """Of attempts that are done and written down."""
        self._asked += sum(a.job.asked for a in self._live if a.job.over)
        self._live = [attempt for attempt in self._live if not attempt.job.over]

    def _shrink(self, rows: int) -> None:
        """The batch did not fit the memory: from here on it is a plan with fewer lanes, and the file says so."""
        self.progress.noted(f"the batch did not fit the memory; going on with {counted(rows, 'image')} at once")
        self._change_plan(msgspec.structs.replace(self.plan, lanes=rows))

    def _settle(self) -> None:
        """Decide on a precision where none is named, and try the one that is."""
        asked = self.plan.precision
        if self.plan.passes > 1:
            choice = Choice("float32", "the model answers at random", failed=asked not in ("auto", "float32"))
        elif asked == "auto":
            choices = [(t.threat, [a.attack for a in t.attacks]) for t in self.protocol.threats]
            identity = repr(identity_of(self.plan.model))
            pilot = Pilot.of(choices, self.split, lambda part: self.referee.hear(part.x, part.y).right, identity)
            choice = choose(self.classifier, pilot, self.plan.lanes)
        else:
            choice = named(self.classifier, asked, self.split.x)
        for note in notes(choice, asked, self._before, self.classifier.device):
            self.progress.noted(note)
        if choice.precision not in self._before:  # else its reason is on record
            recorded = self.run.evidence().environment
            self.environment["precision"] = with_precision(recorded, choice.precision, choice.reason)
        self._change_plan(msgspec.structs.replace(self.plan, precision=choice.precision))

    def _change_plan(self, plan: Plan) -> None:
        self.plan = plan
        with self.run.writing():
            self.run.put_plan(plan, self._environment())

    def _judge_at_random(self, passes: int) -> None:
        """From here on: the model answers at random, so every image is judged over many passes."""
        eot = EOT if self.protocol.eot is None else self.protocol.eot
        told = f"the model answers at random: judged over {passes} passes, gradients averaged over {eot}"
        threats = tuple(as_planned(choice, self.classifier.classes, eot) for choice in self.protocol.threats)
        self.plan = msgspec.structs.replace(self.plan, threats=threats, passes=passes, eot=eot)
        self.referee = Referee(self.referee.classifier, passes)
        self.environment["randomness"] = told
        self.progress.noted(told)

    def _begin(self) -> None:
        """The question and the answers before any attack. What is refused has written nothing."""
        before = self.run.plan()
        if before is not None:
            _refuse_another_run(before, self.plan, str(self.run.path))
            self._before = searched_in(before, self.run.evidence())
            self.plan = _as_before(self.plan, before)
            if before.passes > 1:
                self._judge_at_random(before.passes)
        recorded = self.run.evidence().environment
        known = {kind: recorded.get(f"{NOTE}{kind}", "") for kind in OF_MODEL} if f"{NOTE}outputs" in recorded else {}
        for kind, text in [*self.notes.items(), *known.items()]:
            self._note(kind, text)
        clean, failures = self._clean_answers()
        if not known:
            self._caution_of_model()
        self._caution(clean)
        with self.run.writing():
            self.run.put_plan(self.plan, self._environment())
            self.run.put_clean(clean)
            self.run.clear_failures("", CLEAN_PASS)
            self.run.put_failures(failures)

    def _clean_answers(self) -> tuple[list[Clean], list[Failure]]:
        """Those that are not yet known, and the images on which the model raises, which stay open.

        Raises UserError when the model cannot be judged by its answers.
        """
        known = {c.example: c.digest for c in self.run.evidence().clean}
        for number, digest in zip(self.split.numbers, self.split.digests, strict=True):
            if known.get(number, digest) != digest:
                raise UserError(
                    f"{self.run.path} holds another image as example {number} of {self.split.name};"
                    " name another file with --run"
                )
        rows = [row for row, number in enumerate(self.split.numbers) if number not in known]
        missing = self.split.take(rows) if known else self.split
        if not len(missing):
            return [], []
        if self.plan.passes == 1 and self.referee.answers_at_random(missing.x[:LOOKED_AT]):
            self._judge_at_random(PASSES)
        heard = self.referee.hear(missing.x, missing.y)
        errors = {n: error for n, error in zip(missing.numbers, heard.errors, strict=False) if error}
        if "outputs" not in self.notes:
            self._note("outputs", cautions.of_outputs(heard.logits[:OUTPUTS]))
        if len(errors) == len(self.split):
            raise _never_answers(self.split, errors)
        _refuse_not_finite(missing, heard.logits, errors)
        if errors:
            first = next(iter(errors))
            self._note(
                "failures",
                f"the model raises on {len(errors)} of {len(self.split)} clean images, which stay open (first: example"
                f" {first}: {errors[first]})",
            )
        answers = zip(missing.numbers, missing.digests, heard.right.tolist(), heard.margin.tolist(), strict=True)
        clean = [Clean(n, digest, right, gap, tied=gap == 0) for n, digest, right, gap in answers if n not in errors]
        return clean, [Failure(n, "", CLEAN_PASS, error) for n, error in errors.items()]

    def _caution(self, new: Sequence[Clean]) -> None:
        """Note what a reader should know of these examples and threats."""
        self._note("classes", cautions.of_classes(self.split.y, self.classifier.classes))
        right = {c.example: c.correct for c in (*self.run.evidence().clean, *new)}
        correct = sum(right.get(number, True) for number in self.split.numbers)
        self._note("accuracy", cautions.of_accuracy(correct, self.split.y, self.classifier.classes))
        boundless = (cautions.of_threat(choice.threat, self.split.shape) for choice in self.protocol.threats)
        self._note("threats", "; ".join(filter(None, boundless)))

    def _caution_of_model(self) -> None:
        """Note what is odd about the model's gradients and batches; a run file keeps it."""
        if self.plan.passes > 1:
            return
        few = self.split.x[:LOOKED_AT]
        self._note("gradients", gradient_caution(self.classifier, few))
        if why := objection_to_smaller_batches(self.classifier, few):
            self._note(
                "batch",
                f"answers depend on the rest of the batch: leaving idle rows out {why}, so whole batches are asked"
                " about, and an image may be judged otherwise among others (is a layer in training mode?)",
            )

    def _note(self, kind: str, text: str) -> None:
        """Something to be shown now and kept with the run; nothing where it is empty."""
        assert kind in (*NOTES, *DROPPED), f"{kind} is no kind of note"
        if text:
            self.notes[kind] = text
            self.progress.noted(text)

    def _environment(self) -> dict[str, str]:
        """What the run file keeps of its making; a note that no longer holds is emptied."""
        notes = {f"{NOTE}{kind}": self.notes.get(kind, "") for kind in NOTES}
        dropped = {f"without {kind}": self.notes.get(kind, "") for kind in DROPPED}
        return self.environment | notes | dropped


def make_plan(
    classifier: Classifier,
    split: Split,
    protocol: Protocol,
    *,
    seed: int,
    every_attack: bool,
    lanes: int,
    curve: bool = False,
    precision: str | None = None,
) -> Plan:
    """The question, with the conditions under which its verdicts repeat exactly.

    Raises UserError where the precision is unknown, or the device lacks it.
    """
    identity = classifier.identity()
    return Plan(
        model=ModelRecord(
            classifier.name,
            *(identity.weights_sha256, identity.architecture, identity.normalisation, identity.fingerprint),
        ),
        data=split.name,
        data_sha256=split.sha256,
        examples=split.numbers,
        protocol=protocol.name,
        seed=seed,
        every_attack=every_attack,
        threats=tuple(as_planned(choice, classifier.classes) for choice in protocol.threats),
        device=str(classifier.device),
        threads=torch.get_num_threads(),
        precision=checked(precision, classifier.device),
        lanes=lanes,
        curve=curve,
    )


def identity_of(model: ModelRecord) -> Identity:
    """The identity a run file remembers."""
    return Identity(model.weights_sha256, model.architecture, model.normalisation, model.fingerprint)


def as_planned(choice: ThreatChoice, classes: int, eot: int = 1) -> PlannedThreat:
    """What a protocol asks about one threat, as a plan says it."""
    attacks = (PlannedAttack(a.label, _spec(a, eot), planned_items(a, classes)) for a in choice.attacks)
    return PlannedThreat(str(choice.threat), tuple(attacks))


def _spec(choice: AttackChoice, eot: int) -> str:
    """The attack with every number, that of the passes averaged included."""
    alone = eot == 1 or isinstance(choice.attack, ForeignAttack)
    return choice.attack.spec if alone else rebuilt.averaged(choice.attack.spec, eot)


def refuse_other_noise(before: Plan, device: str, path: str) -> None:
    """Raises UserError where the noise of a model that answers at random cannot be that of the run."""
    kind, there = device.partition(":")[0], before.device.partition(":")[0]
    if before.passes > 1 and kind != there:
        raise UserError(
            f"{path} is about a model that answers at random, on {there}, and its noise is another on {kind};"
            f" go on with --device {there}"
        )


def _refuse_another_run(before: Plan, now: Plan, path: str) -> None:
    refuse_other_noise(before, now.device, path)
    if not identity_of(before.model).same_as(identity_of(now.model)):
        raise UserError(
            f"{path} holds a run of another model ({before.model.name}, weights {before.model.weights_sha256[:8]});"
            " name another file with --run"
        )
    if (before.data, before.seed) != (now.data, now.seed):
        raise UserError(
            f"{path} holds a run on {before.data} with seed {before.seed}, not on {now.data} with seed {now.seed};"
            " name another file with --run"
        )


def _as_before(plan: Plan, before: Plan) -> Plan:
    """The plan under the conditions that were settled when the run began: precision, and lanes that fit the memory."""
    if before.device != plan.device:
        return plan
    settled = before.precision if plan.precision == "auto" else plan.precision
    return msgspec.structs.replace(plan, precision=settled, lanes=min(plan.lanes, before.lanes))


def _never_answers(split: Split, errors: Mapping[int, str]) -> UserError:
    first = split.numbers[0]
    return UserError(
        f"the model raises on every clean image (example {first} of {split.name}: {errors[first]}); mend its forward"
        " pass, or choose other images with --data"
    )


def _refuse_not_finite(split: Split, logits: torch.Tensor, errors: Mapping[int, str]) -> None:
    finite = zip(split.numbers, logits.isfinite().all(dim=1).tolist(), strict=True)
    bad = [number for number, good in finite if not good and number not in errors]
    if bad:
        raise UserError(
            f"the model answers NaN or infinite logits on {len(bad)} of {len(split)} clean images (first: example"
            f" {bad[0]} of {split.name}); look for an overflow or a division by 0 in its forward pass"
        )
