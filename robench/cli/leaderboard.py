"""`robench leaderboard`: a static site from run files."""

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import msgspec

from ..errors import UserError, counted
from ..evaluation.recorded import identity_of, recorded_plan
from ..evidence.records import Evidence, ModelRecord, Plan
from ..evidence.store import RunFile
from ..leaderboard.claimed import Publication
from ..leaderboard.collect import Background, RecordedRun, boards, collected
from ..leaderboard.entries import Board, CardFacts, Certified, ClaimedRow, json_files
from ..leaderboard.site import Extras, site
from ..leaderboard.submissions import STATEMENT
from ..problem import durable
from ..problem.checkpoints.cards import Card, minutes_in_all, read_card, training_threats
from ..problem.checkpoints.zoo import card_of_run, zoo_card, zoo_names
from ..problem.datasets.known_labels import known_labels
from ..results.summary import MAX_BYTES
from . import site_folder
from .merge import shareable
from .site_extras import site_address, site_images, site_runs
from .site_folder import write_files, write_site
from .submissions import Judged, SubmissionOptions, judge_submissions, report
from .terminal import echo, one_line


def run(
    runs: tuple[Path, ...],
    out: Path | None,
    json_folder: Path | None,
    check: Path | None,
    serve: bool,
    port: int,
    cards: tuple[Path, ...],
    images: int,
    no_runs: bool,
    url: str,
    **submitted: Any,
) -> int:
    """Runs the command; commands/leaderboard.py documents its options."""
    options = SubmissionOptions(**submitted)
    if out is None and json_folder is None and check is None:
        raise UserError("name a folder for the site with --out, for the data alone with --json, or use --check")
    if serve and out is None:
        raise UserError("--serve shows a site; name its folder with --out")
    for folder in (out, json_folder):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file; name a folder")
    if check is not None and not check.is_dir():
        raise UserError(f"{check} is no folder; write it first, with leaderboard ... --json {check}")
    url = site_address(url)
    named = {card.name: card for card in map(read_card, cards)}
    recorded = list(_recorded(_run_files(runs), named))
    accepted = Path(click.get_current_context().with_resource(TemporaryDirectory(prefix="robench-")))
    judged = judge(options, recorded, accepted)
    found = collected([*recorded, *judged.runs], _same_model, _background(named))
    report(judged, found.boards)
    if out is not None:
        extras = Extras(site_images(found, images, _note), {} if no_runs else site_runs(found, _note), url)
        write_site(out, site(found.boards, extras))
        rows = sum(len(table.models) for board in found.boards for table in board.tables)
        echo(one_line(f"{out / 'index.html'}: {counted(rows, 'row')}"))
    if json_folder is not None:
        write_files(json_folder, json_files(found.boards))
    code = 0 if check is None else _checked(check, json_files(found.boards))
    if serve and out is not None:
        _serve(out, port)
    return max(code, 1 if judged.refused else 0)


def board_with(runs: Iterable[Path], options: SubmissionOptions) -> tuple[Judged, list[Board]]:
    """The board of these runs and folders, with what its maintainer accepts of the submissions."""
    recorded = list(_recorded(_run_files(runs), {}))
    judged = judge(options, recorded)
    return judged, boards([*recorded, *judged.runs], _same_model, _background({}))


def judge(options: SubmissionOptions, recorded: Sequence[RecordedRun], accepted: Path | None = None) -> Judged:
    """What is accepted of the submissions, if there are any; as run files in the folder `accepted`, if there is one."""
    return judge_submissions(options, recorded, _same_model, _facts, accepted)


def _run_files(paths: Iterable[Path]) -> list[Path]:
    """The named files, and every run file below the named folders, sorted."""
    files: list[Path] = []
    for path in paths:
        below = sorted(_below(path)) if path.is_dir() else [path]
        if not below:
            raise UserError(f"the folder {path} holds no run file (*.robench); name another")
        files += below
    return files


def _below(folder: Path) -> Iterable[Path]:
    """The run files below a folder, without those that a site below it offers: these repeat runs.

    Raises UserError at a submission, whose run file counts only after it is verified.
    """
    is_site = cache(site_folder.is_site)
    for path in folder.rglob("*.robench"):
        if os.path.lexists(path.parent / STATEMENT):
            raise UserError(
                f"{path} belongs to a submission, which counts only when it is verified; name its folder with"
                " --submissions, and folders of runs alone before"
            )
        between = path.parents[: len(path.relative_to(folder).parents) - 1]
        if not any(map(is_site, between)):
            yield path


def _background(named: Mapping[str, Card]) -> Background:
    return Background(list(_publications(named)), known_labels)


def _publications(named: Mapping[str, Card]) -> Iterable[Publication]:
    """What the cards claim, named and bundled ones; a named card takes the place of a bundled one."""
    bundled = {name: read_card(zoo_card(name)) for name in zoo_names()}
    for card in (bundled | dict(named)).values():
        for claim in card.claimed.values():
            row = ClaimedRow(card.name, claim.source, claim.accuracy)
            yield Publication(_test_part(card), frozenset(claim.threats), row)


def _recorded(paths: Iterable[Path], cards: Mapping[str, Card]) -> Iterable[RecordedRun]:
    models = set()
    for path in paths:
        with RunFile.read(path) as run:
            plan = recorded_plan(run, hint="leave it out")
        models.add(plan.model.name)
        yield RecordedRun(plan, partial(_read, path, plan, cards), path)
    if unused := cards.keys() - models:
        raise UserError(f"none of these runs is about {min(unused)}, whose card was named; leave it out")


def _read(path: Path, plan: Plan, cards: Mapping[str, Card]) -> tuple[Evidence, CardFacts | None]:
    """The evidence of a run file without folders of this machine, and what the model's card states."""
    with RunFile.read(path) as run:
        evidence = run.evidence()
    environment = shareable(evidence.environment)
    name = plan.model.name
    card = cards.get(name)
    if card is None and (bundled := card_of_run(name, evidence.environment.get("checkpoint", ""))):
        card = read_card(bundled)
    return msgspec.structs.replace(evidence, environment=environment), None if card is None else _facts(card, plan.data)


def _facts(card: Card, data: str) -> CardFacts:
    """What the card states of the training, and of certificates if they are about these data."""
    stated = card.certified.items() if data == _test_part(card) else ()
    return CardFacts(
        recipe=card.recipe,
        trained_on=training_threats(card),
        minutes=minutes_in_all(card),
        command=card.command,
        notes=card.notes,
        certified=tuple(Certified(threat, c.accuracy, c.source) for threat, c in stated),
        parameters=card.parameters,
    )


def _test_part(card: Card) -> str:
    """The data that published and certified numbers of a model are about."""
    return f"{card.data}:test"


def _same_model(one: ModelRecord, other: ModelRecord) -> bool:
    return identity_of(one).same_as(identity_of(other))


def _checked(folder: Path, files: dict[str, bytes]) -> int:
    """The exit code: 0 where the folder holds exactly these JSON files, else 1, with a line for each difference."""
    present = {path.name for path in folder.glob("*.json")}
    different = [f"{name} is missing" for name in sorted(files.keys() - present)]
    different += [f"{name} is about data that no run is about" for name in sorted(present - files.keys())]
    for name in sorted(present & files.keys()):
        if durable.read(folder / name, MAX_BYTES) != files[name]:
            different.append(f"{name} differs from what the runs give")
    for line in different:
        echo(one_line(f"{folder}: {line}; write it again with --json"), err=True)
    return 1 if different else 0


def _note(sentence: str) -> None:
    echo(one_line(f"note: {sentence}"), err=True)


def _serve(folder: Path, port: int) -> None:
    """Serves the folder to this machine alone, until Ctrl-C."""
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    except OSError as error:
        raise UserError(f"port {port} cannot be used: {error.strerror}; name another with --port") from None
    with server:
        echo(f"http://127.0.0.1:{server.server_address[1]}/ (Ctrl-C ends it)")
        server.serve_forever()
