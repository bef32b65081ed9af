"""`robench report`: tables of run files."""

from collections.abc import Iterable, Mapping
from difflib import unified_diff
from pathlib import Path

import msgspec

from ..errors import UserError
from ..evaluation.recorded import summary_of
from ..evidence.store import RunFile, is_run_file
from ..problem import durable
from ..problem.checkpoints.cards import Card, minutes_in_all, read_card, training_threats
from ..problem.checkpoints.zoo import card_of_run
from ..results.summary import MAX_BYTES, Summary
from ..results.tables import Origin, PublishedClaim, questions, render
from ..results.tables.published import published
from .terminal import echo

SHOWN = 40  # lines of a difference


def run(
    runs: tuple[Path, ...],
    form: str,
    breakdown: bool,
    together: bool,
    masking: bool,
    claimed: bool,
    intervals: bool,
    side_by_side: bool,
    cards: tuple[Path, ...],
    check: Path | None,
) -> int:
    """Runs the command; commands/report.py documents its options."""
    summaries = _once(summary for path in runs for summary in read_summaries(path))
    origins = {name: origin(card) for name, card in _cards(summaries, cards)}
    if claimed:
        _note_unclaimed(summaries, origins)
    text = render(
        summaries,
        form,
        intervals=intervals,
        attacks=breakdown,
        together=together,
        side_by_side=side_by_side,
        origins=origins,
        masking=masking,
        claimed=claimed,
    )
    if check is not None:
        return checked(check, text, "write it first, with report ... > FILE")
    if (count := len(questions(summaries))) > 1:
        echo(f"note: these runs answer {count} questions, so there is more than one table", err=True)
    echo(text, nl=False)
    return 0


def _once(summaries: Iterable[Summary]) -> list[Summary]:
    """Every summary once: a run and its summary file hold the same."""
    unique: dict[str, Summary] = {}
    for summary in summaries:
        if unique.setdefault(summary.to_json(), summary) is not summary:
            echo(f"note: {summary.model.name} is named twice with the same results, and shown once", err=True)
    return list(unique.values())


def read_summaries(path: Path) -> list[Summary]:
    """The summary of the last question in a run file, or those in a summary file."""
    text = durable.read(path, MAX_BYTES) if path.is_file() and not is_run_file(path) else b""
    if text.lstrip()[:1] not in (b"{", b"["):
        with RunFile.follow(path) as run:
            if run.in_progress:
                echo(f"note: {path} is being written; this is what it holds so far", err=True)
            return [summary_of(run)]
    try:
        parts = msgspec.json.decode(text, type=list[msgspec.Raw]) if text.lstrip().startswith(b"[") else [text]
        return [Summary.from_json(bytes(part)) for part in parts]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(
            f"{path}: this is not a summary file ({error}); write one with robench evaluate --json"
        ) from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _cards(summaries: Iterable[Summary], named: Iterable[Path]) -> Iterable[tuple[str, Card]]:
    """Cards by the name of the model: those of bundled models, then the named ones."""
    for summary in summaries:
        name = summary.model.name
        if path := card_of_run(name, summary.environment.get("checkpoint", "")):
            yield name, read_card(path)
    for path in named:
        card = read_card(path)
        if card.name not in {summary.model.name for summary in summaries}:
            raise UserError(f"{path} is the card of {card.name}, which none of these runs is about; leave it out")
        yield card.name, card


def origin(card: Card) -> Origin:
    """The origin of a model. Its method is everything that determines the weights, except the seed."""
    settings = {key: value for key, value in card.settings.items() if key != "seed"}
    made = (card.recipe, card.data, card.architecture, card.normalisation, settings)
    return Origin(
        threats=training_threats(card),
        hours=None if (minutes := minutes_in_all(card)) is None else minutes / 60,
        method=msgspec.json.encode(made, order="deterministic").decode() if card.recipe else "",
        seed=card.seed,
        claims=tuple(PublishedClaim(c.source, frozenset(c.threats), c.accuracy) for c in card.claimed.values()),
    )


def _note_unclaimed(summaries: list[Summary], origins: Mapping[str, Origin]) -> None:
    """Notes the questions that no card claims a result for."""
    for group in questions(summaries):
        if published(group, origins) is None:
            threats = ", ".join(t.threat for t in group[0].threats)
            echo(f"note: no card of these models claims anything under {threats or 'no threat'}", err=True)


def checked(path: Path, text: str, cure: str) -> int:
    """The exit code: 0 where the file holds exactly this text, else 1, and a printed diff."""
    if path.exists() and not path.is_file():  # a pipe would block
        raise UserError(f"{path} cannot be compared: it is not a file; name one")
    try:
        old = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be compared: {error.strerror}; {cure}") from None
    if old == text.encode():
        return 0
    lines = old.decode(errors="replace").splitlines(), text.splitlines()
    differences = list(unified_diff(*lines, str(path), "what the runs give", lineterm="", n=1))
    for line in differences[:SHOWN] or ["they differ in line ends only"]:
        echo(line)
    if len(differences) > SHOWN:
        echo(f"... and {len(differences) - SHOWN} more lines")
    echo(f"{path} differs from what the runs give; write it again", err=True)
    return 1
