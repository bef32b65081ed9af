"""What a site shows beside the boards: images of run files, and one run file per model to download."""

import re
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from ..errors import UserError
from ..evaluation.recorded import recorded_plan
from ..evidence.store import RunFile
from ..leaderboard.collect import Collected, RecordedRun
from ..leaderboard.entries import Board, ModelResult, Table
from ..leaderboard.pictures import Adversarial, TableImages
from ..leaderboard.site import Download
from ..problem import datasets, durable
from ..problem.split import Split
from ..results.outcomes import Outcome, breaks
from .merge import write_joint

SIGNS = re.compile(r"[A-Za-z0-9:/.~_%-]+").fullmatch

Note = Callable[[str], None]
"""Receives a sentence for standard error."""

Found = dict[tuple[str, int], Adversarial]
"""The smallest image by threat and number of the example."""


def site_address(text: str) -> str:
    """The address of a site with a slash at its end; empty if there is none. Raises UserError if it is no address."""
    if not text:
        return ""
    try:
        parts = urlsplit(text)
    except ValueError:  # http://[
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment or not SIGNS(text):
        raise UserError(f"--url {text!a} is not the address of a folder; write https://HOST/FOLDER/")
    return text.rstrip("/") + "/"


def site_images(found: Collected, count: int, note: Note) -> dict[tuple[str, str], TableImages]:
    """The first `count` examples of each table with their adversarial images, by the ids of board and table.

    Nothing is downloaded: a note names the data sets without images.
    """
    images: dict[tuple[str, str], TableImages] = {}
    for board in found.boards if count else ():
        split = _clean(board, note)
        if split is None:
            continue
        shown = {table.id: part for table in board.tables if (part := _first(split, table, count)) is not None}
        if len(shown) < len(board.tables):
            note(f"no images of some tables of {board.data}: its examples are other images here")
        tables = [table for table in board.tables if table.id in shown]
        adversarial = {table.id: dict[tuple[str, str], dict[int, Adversarial]]() for table in tables}
        for identity in sorted({row.id for table in tables for row in table.models}):
            threats = {threat for table in tables for threat in table.threats}
            wanted = {number for part in shown.values() for number in part.numbers}
            smallest = _smallest(found.runs.get((board.id, identity), []), split.shape, threats, wanted)
            for table in tables:
                for row in (row for row in table.models if row.id == identity):
                    adversarial[table.id] |= _of_row(row, shown[table.id], smallest)
        for table in tables:
            part = shown[table.id]
            images[board.id, table.id] = TableImages(
                part.numbers, part.y.tolist(), list(part.x.numpy()), adversarial[table.id]
            )
    return images


def _clean(board: Board, note: Note) -> Split | None:
    """The data set of a board, if it is a published one that lies on this machine."""
    name, _, part = board.data.partition(":")
    data = datasets.DATASETS.get(name)
    if data is None or part not in datasets.PARTS or not data.here(part):
        note(f"no images of {board.data}: its examples are not on this machine")
        return None
    try:
        return datasets.load(board.data)
    except UserError as error:
        note(f"no images of {board.data}: {error}")
        return None


def _first(split: Split, table: Table, count: int) -> Split | None:
    """The first examples of a table; None if the data set holds other images."""
    numbers = [n for part in table.numbers.split() for n in range(*map(int, part.split(":")))]
    rows = {number: row for row, number in enumerate(split.numbers)}
    if not numbers or not all(number in rows for number in numbers):
        return None
    whole = split.take([rows[number] for number in numbers])
    return whole.take(range(min(count, len(whole)))) if whole.sha256 == table.sha256 else None


def _smallest(
    runs: Iterable[RecordedRun], shape: tuple[int, ...], threats: Iterable[str], wanted: Iterable[int]
) -> Found:
    """The smallest stored image of each wanted example that counts under each threat, over all runs of a model."""
    best: Found = {}
    threats, wanted = sorted(threats), frozenset(wanted)
    for run in runs:
        if run.path is None:
            continue
        with RunFile.read(run.path) as file:
            evidence, images = file.evidence(), dict(file.images(shape))
        for threat in threats:
            for claim, verdict in breaks(evidence, threat):
                key = (threat, claim.example)
                if claim.id not in images or claim.example not in wanted:
                    continue
                image = np.clip(np.nan_to_num(images[claim.id]), 0, 1)
                if key not in best or (verdict.size, image.tobytes()) < (best[key].size, best[key].image.tobytes()):
                    best[key] = Adversarial(image, verdict.size)
    return best


def _of_row(row: ModelResult, part: Split, smallest: Found) -> dict[tuple[str, str], dict[int, Adversarial]]:
    """The images of a row by threat and place: of examples that count as broken."""
    return {
        (row.id, threat.threat): {
            place: smallest[threat.threat, number]
            for place, number in enumerate(part.numbers)
            if threat.outcomes[place] == Outcome.BROKEN.value and (threat.threat, number) in smallest
        }
        for threat in row.threats
    }


def site_runs(found: Collected, note: Note) -> dict[tuple[str, str], Download]:
    """One run file per model with all its evidence, as `robench merge` writes it, without folders of this machine."""
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        for (board, model), runs in found.runs.items():
            out = Path(folder) / f"{model}.robench"
            try:
                with ExitStack() as stack:
                    opened = [stack.enter_context(RunFile.read(path)) for path in _ordered(runs)]
                    write_joint(out, opened, [recorded_plan(file) for file in opened], shared=True)
                files[board, model] = Download(out.read_bytes(), _stored(out), _missing(out))
                out.unlink()
            except UserError as error:
                note(f"no run file of {model}: {error}")
    return files


def _ordered(runs: Iterable[RecordedRun]) -> list[Path]:
    """The files of these runs without copies: merging takes the images of the first of two equal runs."""
    paths = {durable.sha256(run.path): run.path for run in runs if run.path is not None}
    return [paths[digest] for digest in sorted(paths, key=lambda digest: (-_stored(paths[digest]), digest))]


def _stored(path: Path) -> int:
    """The number of images in a run file."""
    with RunFile.read(path) as file:
        return file.image_count()


def _missing(path: Path) -> int:
    """The number of examples and threats that are broken by images none of which is in the run file."""
    with RunFile.read(path) as file:
        evidence, stored = file.evidence(), file.image_count()
    accepted = {verdict.claim for verdict in evidence.verdicts if verdict.accepted}
    return max(0, len({(c.example, c.threat) for c in evidence.claims if c.id in accepted}) - stored)
