"""Images of any origin before the referee: what it accepts is evidence in a run file, and lowers the run's numbers.

A claim never raises a number. A new run plans no attack, so examples without an accepted image stay open there; a run
that exists keeps its plan.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import NamedTuple

import msgspec

from .. import __version__
from ..errors import UserError, counted
from ..evidence import images
from ..evidence.attack_key import AttackKey
from ..evidence.records import Claim, Plan, Rejection, Verdict
from ..evidence.referee import Decision, Referee
from ..evidence.store import RunFile
from ..problem import threats
from ..problem.split import Source
from ..problem.threats import ThreatModel
from ..problem.threats.base import PackedParams, packed, stacked
from ..protocols import Protocol, ThreatChoice
from ..results.outcomes import answers
from ..results.summarising import summarise
from ..results.summary import Summary
from .claim_file import ClaimFile
from .environment import date
from .planning import as_planned, planned_examples, resumed
from .prepared import PreparedEvaluation
from .progress import Progress

PROTOCOL = "claims"  # of a run without attacks
MAX_THREATS = 100  # of a new run
AT_ONCE = 256  # images judged together, and then written down
ORDER: tuple[Rejection, ...] = ("not finite", "outside the box", "outside", "does not fool")  # of the referee's tests

NOT_PLANNED = "not among the examples of this run"
WRONG = "the model is wrong on the clean image"
UNANSWERED = "the model raises on the clean image"


class _Image(NamedTuple):
    """An image about an example. Equal images are one."""

    example: int
    sha256: str
    params: PackedParams


@dataclass
class ClaimResult:
    """What became of the images. Each different image counts once."""

    summary: Summary  # with the claims
    images: int = 0  # judged
    accepted: int = 0  # under one threat or more
    under: Counter[str] = field(default_factory=Counter)  # accepted images, by threat
    broken: Counter[str] = field(default_factory=Counter)  # examples that were not broken before, by threat
    rejected: Counter[Rejection] = field(default_factory=Counter)
    reasons: dict[Rejection, str] = field(default_factory=dict)  # the sentence on the first of these
    left_out: Counter[str] = field(default_factory=Counter)  # images that were not judged, by the reason


def put_claims(
    prepared: PreparedEvaluation,
    whole: Source,
    run: RunFile,
    files: Sequence[ClaimFile],
    named: Sequence[str] = (),
    *,
    progress: Progress,
) -> ClaimResult:
    """Judges the images under the `named` threats, and writes the claims and verdicts to the run file.

    Without names these are the threats of the run's plan, in a new run those that the files name. `whole` holds all
    examples of the data. What is on record already changes nothing. Stopped early, the run holds what was judged by
    then. Raises UserError, and writes nothing, where the run is about another model, data set or threats.
    """
    wanted = tuple(dict.fromkeys(str(threats.parse(text)) for text in named))
    before = run.plan()
    if before is None:
        plan = _started(prepared, run, wanted or _named_by(files), progress)
    else:
        _refuse_other_question(prepared, whole, before, wanted, run)
        plan = before
    under = tuple(threats.parse(text) for text in wanted or [t.threat for t in plan.threats])
    earlier = summarise(plan, run, __version__)
    result = ClaimResult(earlier)
    judge = _Judge(plan, run, Referee(prepared.referee.classifier, plan.passes), under, result)
    for file in files:
        if file.params is None and (moved := [str(t) for t in under if t.by_params]):
            progress.noted(f"{file.path} has no params, so no moved image is accepted under {', '.join(moved)}")
        judge.take(file)
    result.summary = summarise(plan, run, __version__)
    for old, new in zip(earlier.threats, result.summary.threats, strict=True):
        result.broken[new.threat] = new.broken - old.broken
    return result


def _named_by(files: Sequence[ClaimFile]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for file in files for text in file.named))


def _started(prepared: PreparedEvaluation, run: RunFile, texts: Sequence[str], progress: Progress) -> Plan:
    """The plan of a new run, under these threats and without attacks; its clean images are answered."""
    if not texts:
        raise UserError("no threat is named, neither in a file nor before; name one, as in --threat linf:8/255")
    if len(texts) > MAX_THREATS:
        raise UserError(f"the files name {len(texts):,} threats; choose at most {MAX_THREATS} with --threat")
    chosen = tuple(ThreatChoice(threats.parse(text), ()) for text in texts)
    protocol = Protocol(PROTOCOL, "", "", None, prepared.plan.seed, chosen, prepared.protocol.eot)
    planned = tuple(as_planned(choice, prepared.classifier.classes) for choice in chosen)
    plan = msgspec.structs.replace(prepared.plan, protocol=PROTOCOL, threats=planned)
    evaluation = replace(prepared, protocol=protocol, plan=plan).evaluation(run, progress=progress)
    evaluation.answer()
    return evaluation.plan


def _refuse_other_question(
    prepared: PreparedEvaluation, whole: Source, before: Plan, wanted: Sequence[str], run: RunFile
) -> None:
    """Raises UserError where the run is about something else than the claims."""
    seed = before.seed if prepared.request.seed is None else prepared.plan.seed
    resumed(msgspec.structs.replace(prepared.plan, seed=seed), before, str(run.path))
    planned_examples(run.path, before, whole)
    if prepared.request.examples is not None and prepared.plan.examples != before.examples:
        raise UserError(
            f"{run.path} is about {counted(len(before.examples), 'example')}, and not those of --examples; leave"
            " --examples out, or name another file with --run"
        )
    planned = [t.threat for t in before.threats]
    if not planned:
        raise UserError(f"{run.path} is about no threat; name another file with --run")
    if missing := [text for text in wanted if text not in planned]:
        # A further threat would raise the average, as nothing was searched under it.
        raise UserError(
            f"{run.path} is about {', '.join(planned)}, and not {missing[0]}; leave it out, or start another run with"
            " --run"
        )


class _Judge:
    """Judges the images of files in turn, and writes down what is new."""

    def __init__(
        self, plan: Plan, run: RunFile, referee: Referee, under: Sequence[ThreatModel], result: ClaimResult
    ) -> None:
        evidence, hashes = run.evidence(), run.image_hashes()
        self.plan = plan
        self.run = run
        self.referee = referee
        self.under = under
        self.result = result
        self.planned = frozenset(plan.examples)
        self.correct = answers(evidence)
        self.ids = count(run.next_claim())
        self.counts = Counter(claim.example for claim in evidence.claims)  # claims by example
        self.on_record = {
            (_Image(claim.example, hashes[claim.id], claim.params), claim.threat): verdict
            for claim, verdict in evidence.judged()
            if claim.id in hashes
        }
        self.known = {image for image, _ in self.on_record}
        self.seen: set[_Image] = set()  # in these files

    def take(self, file: ClaimFile) -> None:
        """Judges the images of a file, except those that an earlier row or file has given."""
        rows: dict[_Image, int] = {}
        for row in range(len(file)):
            image = self._image(file, row)
            if image not in self.seen:
                self.seen.add(image)
                if why := self._why_not(image.example):
                    self.result.left_out[why] += 1
                else:
                    rows[image] = row
        parts = list(rows.items())
        for first in range(0, len(parts), AT_ONCE):
            self._judge(file, dict(parts[first : first + AT_ONCE]))

    def _image(self, file: ClaimFile, row: int) -> _Image:
        params = () if file.params is None else packed(file.params[row])
        return _Image(file.clean.numbers[row], images.sha256(file.x_adv[row].numpy()), params)

    def _why_not(self, example: int) -> str:
        """Why images about this example cannot count; empty if they can."""
        if example not in self.planned:
            return NOT_PLANNED
        if example not in self.correct:
            return UNANSWERED
        return "" if self.correct[example] else WRONG

    def _judge(self, file: ClaimFile, part: Mapping[_Image, int]) -> None:
        rows = list(part.values())
        x, y, x_adv = file.clean.x[rows], file.clean.y[rows], file.x_adv[rows]
        params = stacked([image.params for image in part])
        predictions = self.referee.predict(x_adv, y)
        nth = self._numbered(part)
        decisions = [self.referee.rule(threat, x, x_adv, predictions, params, nth) for threat in self.under]
        new = []
        for image, row, *ruled in zip(part, rows, *decisions, strict=True):
            verdicts = {str(t): self._verdict(image, str(t), d) for t, d in zip(self.under, ruled, strict=True)}
            self._count(image, verdicts)
            under = self._recorded_under(verdicts, file.named[row] if file.named else "")
            new += [(image, row, text, verdicts[text]) for text in under if (image, text) not in self.on_record]
        if new:
            with self.run.writing():
                self.run.put_plan(self.plan, {"date": date()})
                for image, row, text, verdict in new:
                    self._write(file, image, row, text, verdict)

    def _numbered(self, part: Iterable[_Image]) -> list[int]:
        """A number for each new image, above those of all claims about its example.

        For a stochastic model the level of the test falls with it. Images on record count already.
        """
        counts = Counter(self.counts)
        numbers = []
        for image in part:
            counts[image.example] += image not in self.known
            numbers.append(counts[image.example])
        return numbers

    def _verdict(self, image: _Image, threat: str, decision: Decision) -> Verdict:
        """The verdict on record, else the new one, still without the number of a claim."""
        d = decision
        new = Verdict(0, d.accepted, d.rejection, d.reason, d.size, d.margin, d.passes)
        return self.on_record.get((image, threat), new)

    def _recorded_under(self, verdicts: Mapping[str, Verdict], own: str) -> list[str]:
        """The threats under which the image goes on record: all that accept it, else one that rejects it.

        That one is the threat that the file names, else the first under which the image came furthest.
        """
        accepted = [text for text, verdict in verdicts.items() if verdict.accepted]
        return accepted or [own if own in verdicts else _furthest(verdicts)]

    def _count(self, image: _Image, verdicts: Mapping[str, Verdict]) -> None:
        self.result.images += 1
        accepted = [text for text, verdict in verdicts.items() if verdict.accepted]
        self.result.under.update(accepted)
        if accepted:
            self.result.accepted += 1
            return
        verdict = verdicts[_furthest(verdicts)]
        self.result.rejected[verdict.rejection] += 1
        self.result.reasons.setdefault(verdict.rejection, f"example {image.example}: {verdict.reason}")

    def _write(self, file: ClaimFile, image: _Image, row: int, threat: str, verdict: Verdict) -> None:
        key = AttackKey.of_file(file.sha256)
        claim = Claim(next(self.ids), image.example, threat, str(key), row, -1, 0, 0, image.params)
        verdict = msgspec.structs.replace(verdict, claim=claim.id)
        self.run.put_judged(claim, verdict, file.x_adv[row].numpy())
        self.on_record[image, threat] = verdict
        self.counts[image.example] += 1


def _furthest(verdicts: Mapping[str, Verdict]) -> str:
    """The first threat whose test the image passed longest."""
    return max(verdicts, key=lambda text: ORDER.index(verdicts[text].rejection))
