"""Submissions on the way to the board: each is verified with its weights, and the accepted ones count."""

import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..errors import ProgramEnded, UserError, counted, described
from ..evaluation import acceptance
from ..evaluation.acceptance import Verified
from ..evaluation.claims import PROTOCOL
from ..evaluation.environment import pick_device
from ..evaluation.progress import Silence
from ..evaluation.recorded import recorded_plan
from ..evidence.attack_key import AttackKey
from ..evidence.records import Evidence, Plan
from ..evidence.store import RunFile
from ..leaderboard import submissions
from ..leaderboard.collect import RecordedRun, SameModel, boards
from ..leaderboard.entries import Board, CardFacts
from ..leaderboard.history import LATEST, UNION
from ..leaderboard.submissions import CARD, RUN, Submission
from ..problem.checkpoints.cards import Card
from ..problem.checkpoints.zoo import zoo_names
from ..results.merging import date_of, merge
from .merge import shareable
from .options import SEARCHED
from .terminal import echo, one_line

Facts = Callable[[Card, str], CardFacts]
"""What a card states of a model, as a board of these data shows it."""


@dataclass(frozen=True)
class SubmissionOptions:
    """The options that concern submissions."""

    submissions: Path | None = None
    weights: tuple[Path, ...] = ()
    search: int = SEARCHED
    seed: int | None = None
    found: Path | None = None
    device: str = "auto"


@dataclass
class Judged:
    """The accepted submissions as runs, and what is said about each submission, by name."""

    runs: list[RecordedRun] = field(default_factory=list)
    accepted: dict[str, Submission] = field(default_factory=dict)
    tested: dict[str, str] = field(default_factory=dict)  # how standing examples of a new model were tested
    refused: dict[str, str] = field(default_factory=dict)  # why


class _Sent(NamedTuple):
    """A submission whose folder is of the known form."""

    folder: Path
    statement: Submission
    plan: Plan
    date: str

    @property
    def has_card(self) -> bool:
        return (self.folder / CARD).exists()


def judge_submissions(
    options: SubmissionOptions, board: Sequence[RecordedRun], same_model: SameModel, facts: Facts, folder: Path | None
) -> Judged:
    """Verifies every submission in the folder, in an order that depends on their content alone.

    What counts of each is written as a run file to `folder`, if there is one, for images and downloads.

    New models come first, so that a challenge to one is judged after it. Of several submissions about one new model
    the first by date is the one with a row, and the others are challenges to it.
    """
    judged = Judged()
    if options.submissions is None:
        if options.weights or options.found or options.seed is not None:
            raise UserError("--weights, --found and --seed are for submissions; name their folder with --submissions")
        return judged
    for path in options.weights:
        if not path.is_file():
            raise UserError(f"there is no file {path}; name a file with weights with --weights")
    if options.found is not None and os.path.lexists(options.found) and not options.found.is_dir():
        raise UserError(f"{options.found} is no folder; name one with --found")
    pick_device(options.device)  # an unknown one is no fault of a submission
    sent = list(_sent(options.submissions, judged))
    searched = [run.plan for run in board if any(t.attacks for t in run.plan.threats)]
    gate = _Gate(options, board, searched, same_model, facts, folder)
    sent.sort(key=lambda s: (not s.has_card, s.date or LATEST, s.statement.name))
    for one in sent:
        name = one.statement.name
        try:
            runs, tested = gate.accepted(one)
        except (UserError, ProgramEnded) as error:
            judged.refused[name] = str(error)
        except Exception as error:  # whatever a stranger's file or model makes raise must not stop the others
            judged.refused[name] = f"it cannot be verified: {described(error)}"
        else:
            judged.runs += runs
            judged.accepted[name] = one.statement
            if tested:
                judged.tested[name] = tested
    return judged


def _sent(root: Path, judged: Judged) -> Iterator[_Sent]:
    """The submissions of the known form. The others are refused."""
    for folder in submissions.folders(root):
        try:
            statement = submissions.read(folder)
            with RunFile.read(folder / RUN) as run:
                plan, evidence = recorded_plan(run, hint="leave it out"), run.evidence()
            submissions.check_texts(evidence)
            if statement.model != plan.model.name:
                raise UserError(
                    f"it states that its model is {statement.model!a}, and its run file {plan.model.name[:100]!a}"
                )
        except UserError as error:
            judged.refused[folder.name] = str(error)
        else:
            yield _Sent(folder, statement, plan, date_of(evidence.environment))


@dataclass
class _Gate:
    """Accepts submissions in turn."""

    options: SubmissionOptions
    board: Sequence[RecordedRun]
    searched: list[Plan]  # of runs with attacks, on the board or of accepted new models: these give a model its row
    same_model: SameModel
    facts: Facts
    folder: Path | None
    models: list[_Sent] = field(default_factory=list)  # accepted new ones

    def accepted(self, sent: _Sent) -> tuple[list[RecordedRun], str]:
        """The runs that count for a submission, and how its standing examples were tested.

        Raises UserError if it is refused.
        """
        statement, plan = sent.statement, sent.plan
        if plan.data not in {run.plan.data for run in self.board}:
            raise UserError(f"no run of the board is about {plan.data[:100]!a}")
        known = sorted(p.model.name for p in self.searched if self.same_model(p.model, plan.model))
        if not known:
            self._refuse_name(sent)
        with self._weights(sent) as weights:
            run = acceptance.verified(
                sent.folder / RUN, statement.run_sha256, weights, pick_device(self.options.device)
            )
            if known:
                attack = str(AttackKey.of_file(statement.run_sha256))
                counted_plan, evidence = submissions.challenge(plan, run.evidence, run.shown, known[0], attack)
                counted_plan = msgspec.structs.replace(counted_plan, protocol=PROTOCOL)
                return [self._run(sent, counted_plan, evidence, None)], ""
            acceptance.check_new(plan, self.searched)
            found, tested = self._tested(sent, run)
        evidence = submissions.new_model(plan, run.evidence, f"submitted by {statement.by} as {statement.name}")
        evidence = msgspec.structs.replace(evidence, environment=shareable(evidence.environment))
        assert run.card is not None, "new models have a card"
        runs = [self._run(sent, plan, evidence, _unproven(self.facts(run.card, plan.data))), *found]
        boards(runs, self.same_model)  # raises UserError where it cannot be shown, before it can spoil the board
        self.searched.append(plan)
        self.models.append(sent)
        return runs, tested

    def _run(self, sent: _Sent, plan: Plan, evidence: Evidence, card: CardFacts | None) -> RecordedRun:
        name, path = sent.statement.name, None
        if self.folder is not None:
            path = self.folder / f"{name}.robench"
            sources = {claim.id: (0, claim.id) for claim in evidence.claims}
            with RunFile.read(sent.folder / RUN) as run, RunFile.whole(path) as copy, copy.writing():
                copy.put_plan(plan, evidence.environment)
                copy.adopt(evidence, sources, [run])
        return RecordedRun(plan, partial(_read, evidence, card), path, name, sent.statement.by)

    def _refuse_name(self, sent: _Sent) -> None:
        """Raises UserError if the model is not on the board and could be taken for one that is."""
        record = sent.plan.model
        name = record.name
        if acceptance.bundled(sent.statement.weights_sha256) is not None:
            raise UserError("its model is bundled, and no run of the board attacks it")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._+-]*", name):
            raise UserError(
                f"it calls its model {name[:100]!a}; the name of a new model has letters, digits, spaces and ._+- alone"
            )
        models = [*(run.plan.model for run in self.board), *(p.model for p in self.searched)]
        taken = [*(m.name for m in models if not self.same_model(m, record)), *zoo_names()]
        if alike := [other for other in taken if _letters(other) == _letters(name)]:
            raise UserError(f"it calls its model {name}, and {min(alike)} is another model; send it under another name")
        if not sent.has_card:
            raise UserError(f"its model {name} is not on the board, and it has no {CARD}")

    @contextmanager
    def _weights(self, sent: _Sent) -> Iterator[Path]:
        """The card of the model beside its weights: a bundled one, or one that was submitted."""
        sha256 = sent.statement.weights_sha256
        card = acceptance.bundled(sha256)
        if card is not None:
            yield card
            return
        same = (model for model in self.models if self.same_model(model.plan.model, sent.plan.model))
        holder = sent if sent.has_card else next(same, None)
        if holder is None:
            raise UserError(f"its weights {sha256[:16]}... are those of no bundled model, and it has no {CARD}")
        address = sent.statement.weights or holder.statement.weights
        with acceptance.beside_card(holder.folder / CARD, sha256, self.options.weights, address) as place:
            yield place

    def _tested(self, sent: _Sent, run: Verified) -> tuple[list[RecordedRun], str]:
        """What a search of some standing examples has broken, and a sentence on it."""
        n = self.options.search
        if not n:
            return [], "no standing example was searched again"
        others = [r.read()[0] for r in self.board if self.same_model(r.plan.model, run.plan.model)]
        others = [e for e in others if e.claims]
        seed = secrets.randbelow(2**32) if self.options.seed is None else self.options.seed
        known = merge([run.evidence, *others]).evidence
        check = acceptance.search_again(run, known, n, seed, Silence())
        text = f"{check.searched} of {counted(check.standing, 'standing example')} searched again with seed {seed}"
        text += f", {check.examples_broken} broken"
        if check.left_out:
            text += f", without {'; '.join(check.left_out)}"
        if not check.found:
            return [], text
        found = acceptance.found_run(run, check.found)
        # No submission has a dot in its name, so that none takes this one.
        path = None if self.folder is None else self.folder / f"{sent.statement.name}.found.robench"
        if self.options.found is None:
            text += "; --found DIR keeps what broke them, which counts only with such a run file among the runs"
        else:
            path = self.options.found / f"{sent.statement.name}-{seed}.robench"
            text += f"; what broke them is in {path}"
        if path is not None:
            acceptance.write_found(path, found)
        return [RecordedRun(found.plan, partial(_read, found.evidence, None), path)], text


def _read(evidence: Evidence, card: CardFacts | None) -> tuple[Evidence, CardFacts | None]:
    return evidence, card


def _letters(name: str) -> str:
    """The letters and digits of a name; those that resemble each other are one."""
    return re.sub(r"[^a-z0-9]", "", name.casefold()).translate(str.maketrans("1i0", "llo"))


def _unproven(facts: CardFacts) -> CardFacts:
    """What a submitted card states, without certified bounds: nothing here verifies a certificate."""
    return msgspec.structs.replace(facts, certified=())


def report(judged: Judged, found: Sequence[Board]) -> None:
    """Prints a line for each submission: what it adds to the boards, or why it is refused."""
    for name in sorted(judged.accepted.keys() | judged.refused.keys()):
        if name in judged.refused:
            echo(one_line(f"{name}: refused: {judged.refused[name]}"), err=True)
        else:
            statement = judged.accepted[name]
            added = "; ".join(_effects(statement, found)) or "lowers no number"
            tested = f" ({judged.tested[name]})" if name in judged.tested else ""
            echo(one_line(f"{name} by {statement.by}: accepted: {added}{tested}"))


def _effects(statement: Submission, found: Sequence[Board]) -> Iterator[str]:
    """What a submission does to each row."""
    for table in (table for board in found for table in board.tables):
        for row in table.models:
            for place, entry in enumerate(row.history):
                if (entry.source, entry.by) != (statement.name, statement.by):
                    continue
                about = f"{row.name} on {counted(table.examples, 'example')}"
                if not place:
                    yield f"adds {about}, union {100 * entry.union:.1f} %"
                    continue
                before = (*row.history[place - 1].threats, row.history[place - 1].union)
                after = (*entry.threats, entry.union)
                falls = [
                    f"{threat} from {100 * old:.1f} to {100 * new:.1f} %"
                    for threat, old, new in zip((*table.threats, UNION), before, after, strict=True)
                    if new < old
                ]
                yield f"{about}: {', '.join(falls)}"
