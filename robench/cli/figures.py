"""`robench figures`: pictures of run files."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..analysis import features, first_layer
from ..analysis.landscape import landscape, lines
from ..errors import UserError, unknown
from ..evaluation.recorded import recorded_plan
from ..evidence.referee import Referee
from ..evidence.store import RunFile
from ..problem import durable, threats
from ..problem.checkpoints.cards import read_card, training_threats
from ..problem.checkpoints.zoo import card_of_run
from ..problem.shapes import Inputs, Labels
from ..problem.split import Split
from ..results import figures
from ..results.figures import FORMS, KINDS, Album, Layer, Material, Picture, Placed, Raised, Shown, Surface, Walk
from ..results.summarising import summarise
from .options import preparation
from .reloading import reloaded
from .terminal import echo, one_line


def run(
    runs: tuple[Path, ...],
    out: Path,
    kinds: tuple[str, ...],
    forms: tuple[str, ...],
    each: int,
    cards: tuple[Path, ...],
    checkpoint: str | None,
    data: str | None,
    quiet: bool,
    **reading: Any,
) -> None:
    """Runs the command; commands/figures.py documents its options."""
    _known("kind of figure", kinds, KINDS)
    _known("format", forms, FORMS)
    reading["preparation"] = preparation(reading)
    if checkpoint and len(runs) > 1:
        raise UserError("--model locates the model of a single run; give one run, or leave --model out")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a folder with --out")
    with ExitStack() as stack:
        read = [_Read.of(stack.enter_context(RunFile.read(path)), reading, checkpoint, data) for path in runs]
        pictures = _pictures(read, tuple(dict.fromkeys(kinds)), each, _trained_on(read, cards), quiet)
        # Everything is drawn before anything is written: an error leaves the folder unchanged.
        files = {
            f"{picture.name}.{form}": (figures.image_bytes(picture, form), picture.caption)
            for picture in _with_distinct_names(pictures)
            for form in dict.fromkeys(forms or ("svg",))
        }
    _make(out)
    for name, (content, caption) in files.items():
        durable.replace(out / name, content)
        echo(one_line(f"{out / name}: {caption}" if not quiet else str(out / name)))


@dataclass(frozen=True, eq=False)
class _Read:
    """An open run file; its model and images are loaded on first use."""

    file: RunFile
    material: Material
    where: dict[str, Any]

    @classmethod
    def of(cls, file: RunFile, reading: dict[str, Any], checkpoint: str | None, data: str | None) -> "_Read":
        plan, evidence = recorded_plan(file, hint="leave it out"), file.evidence()
        summary = summarise(plan, evidence, __version__)
        try:
            summary.refuse_unreadable()
        except UserError as error:
            raise UserError(f"{file.path} cannot be drawn: {error}") from None
        material = Material(str(file.path), plan, evidence, summary)
        return cls(file, material, reading | {"checkpoint": checkpoint, "data": data})

    @cached_property
    def loaded(self) -> tuple[Split, Referee]:
        return reloaded(self.file.path, self.material.plan, self.material.evidence.environment, **self.where)[:2]


def _pictures(
    read: list[_Read], kinds: tuple[str, ...], each: int, trained_on: dict[str, tuple[str, ...]], quiet: bool
) -> list[Picture]:
    """The pictures of the named kinds; without names, of all kinds that can be drawn.

    Raises UserError where a named kind cannot be drawn, or none can.
    """
    materials = [r.material for r in read]
    makers: dict[str, Callable[[], Album]] = {
        "curve": lambda: figures.curves(materials),
        "trade-off": lambda: figures.trade_offs(materials, trained_on),
        "queries": lambda: figures.queries(materials),
        "landscape": lambda: _one_by_one(read, lambda r: _landscape(r, each)),
        "along": lambda: _one_by_one(read, lambda r: _along(r, each)),
        "first-layer": lambda: _one_by_one(read, lambda r: _first_layer(r, each)),
        "features": lambda: _one_by_one(read, _features),
        "gallery": lambda: _one_by_one(read, lambda r: _gallery(r, each)),
    }
    pictures = []
    for kind in kinds or KINDS:
        album = makers[kind]()
        if kinds and album.left_out:
            raise UserError(album.left_out[0])
        for reason in album.left_out if not quiet else []:
            echo(one_line(f"note: no {kind}: {reason}"), err=True)
        pictures += album.pictures
    if not pictures:
        raise UserError("these runs hold nothing to draw; make one with robench evaluate")
    return pictures


def _one_by_one(read: list[_Read], draw: Callable[[_Read], Picture]) -> Album:
    album = Album()
    for run in read:
        try:
            album.pictures.append(draw(run))
        except UserError as error:
            album.left_out.append(str(error))
    return album


def _landscape(run: _Read, each: int) -> Picture:
    """The loss around the first examples that the model classifies correctly, under every threat that is a ball."""
    surfaces = []
    for ball, x, y, number in _around(run, each, "landscape"):
        found = landscape(run.loaded[1].classifier, ball, x, y, number=number, seed=run.material.plan.seed)
        surfaces.append(Surface(str(ball), number, int(y), 1.0, found.loss.numpy(), found.margin.numpy()))
    return figures.landscapes(run.material.summary, surfaces)


def _along(run: _Read, each: int) -> Picture:
    """Loss and margin along lines from the first correctly classified examples, under every threat that is a ball."""
    walked = []
    for ball, x, y, number in _around(run, each, "lines"):
        found = lines(run.loaded[1].classifier, ball, x, y, number=number, seed=run.material.plan.seed)
        walked.append(Walk(str(ball), number, int(y), found.loss.numpy(), found.margin.numpy(), found.predicted))
    return figures.walks(run.material.summary, walked)


def _around(run: _Read, each: int, what: str) -> Iterator[tuple[threats.Ball, Inputs, Labels, int]]:
    """Every ball with each example to show: image, class and number."""
    balls, rows = _balls(run, what), _correct(run, each, what)
    split = run.loaded[0]
    for row in rows:
        for ball in balls:
            yield ball, split.x[row : row + 1], split.y[row : row + 1], split.numbers[row]


def _first_layer(run: _Read, each: int) -> Picture:
    """The filters, and black pixels of the first correctly classified examples that have some."""
    rows = _correct(run, len(run.material.plan.examples), "pixels to raise")
    split, referee = run.loaded
    seed = run.material.plan.seed
    found = first_layer.filters(referee.classifier, seed=seed)
    rows = [row for row in rows if first_layer.black(split.x[row]).any()][:each]
    if not rows:
        raise UserError(
            f"{run.file.path} is about images without black pixels, so there is none to raise; leave it out"
        )
    raised = []
    for row in rows:
        x, y = split.x[row : row + 1], split.y[row : row + 1]
        rise = first_layer.rise(referee.classifier, x, y, seed=seed)
        losses = (rise.loss.numpy(), rise.together.numpy(), rise.predicted.numpy())
        raised.append(Raised(split.numbers[row], int(y), x[0].numpy(), rise.pixels, *losses))
    return figures.first_layers(run.material.summary, Layer(found.weight.numpy(), found.thresholds.numpy()), raised)


def _balls(run: _Read, what: str) -> list[threats.Ball]:
    balls = [ball for t in run.material.plan.threats if isinstance(ball := threats.parse(t.threat), threats.Ball)]
    if not balls:
        raise UserError(f"{run.file.path} has no threat with a radius, so no {what}; name one, as --threat linf:0.1")
    return balls


def _correct(run: _Read, count: int, what: str) -> list[int]:
    """The rows of the first examples that the model classifies correctly."""
    correct = {c.example for c in run.material.evidence.clean if c.correct}
    split, _ = run.loaded
    rows = [row for row, number in enumerate(split.numbers) if number in correct][:count]
    if not rows:
        raise UserError(f"{run.file.path} is about a model that classifies no image correctly, so it has no {what}")
    return rows


def _features(run: _Read) -> Picture:
    """The features of clean and adversarial images of the two classes between which most finds lead."""
    images = _stored(run)
    split, referee = run.loaded
    plan, evidence = run.material.plan, run.material.evidence
    rows = {number: row for row, number in enumerate(split.numbers)}
    smallest: dict[tuple[str, int], int] = {}  # of each threat and example, the find
    for planned in plan.threats:
        for claim, _ in figures.nearest(plan, evidence, planned.threat, images, len(images)):
            smallest.setdefault((planned.threat, rows[claim.example]), claim.id)
    seed = plan.seed
    broken = torch.from_numpy(np.stack([images[find] for find in smallest.values()]))
    found = features.penultimate(referee.classifier, broken, seed=seed)
    answers, labels = found.logits.argmax(dim=1).numpy(), split.y.numpy()
    pairs = [(int(labels[row]), int(answer)) for (_, row), answer in zip(smallest, answers, strict=True)]
    classes = figures.often_confused(pairs)
    shown = [row for row in range(len(labels)) if labels[row] in classes]
    clean = features.penultimate(referee.classifier, split.x[shown], seed=seed)
    among = [i for i, (label, _) in enumerate(pairs) if label in classes]
    places = features.plane(torch.cat([clean.features, found.features[among]]), seed=seed)
    answered = np.concatenate([clean.logits.argmax(dim=1).numpy(), answers[among]])
    at = dict(zip([list(smallest)[i] for i in among], range(len(shown), len(places)), strict=True))
    panels = [Placed("clean", places[: len(shown)], labels[shown], answered[: len(shown)])]
    for planned in plan.threats:
        chosen = [at.get((planned.threat, row), i) for i, row in enumerate(shown)]
        panels.append(Placed(planned.threat, places[chosen], labels[shown], answered[chosen]))
    return figures.feature_planes(run.material.summary, classes, panels)


def _stored(run: _Read) -> dict[int, np.ndarray]:
    """The images of the finds, by the number of the find; there is at least one."""
    if not any(v.accepted for v in run.material.evidence.verdicts):
        raise UserError(
            f"{run.file.path} holds no find, so there is nothing to show; try more attacks, or leave it out"
        )
    images = dict(run.file.images(run.loaded[0].shape))
    if not images:
        raise UserError(
            f"{run.file.path} holds no images, as runs merged with --slim do; make it again with robench evaluate"
        )
    return images


def _gallery(run: _Read, each: int) -> Picture:
    """The finds nearest to their clean images, under each threat."""
    material, images = run.material, _stored(run)
    split, referee = run.loaded
    rows = {number: row for row, number in enumerate(split.numbers)}
    shown = []
    for planned in material.plan.threats:
        for claim, verdict in figures.nearest(material.plan, material.evidence, planned.threat, images, each):
            row, x_adv = rows[claim.example], images[claim.id]
            predictions = referee.predict(torch.from_numpy(x_adv)[None], split.y[row : row + 1])
            answer = int(predictions.logits.argmax())
            shown.append(
                Shown(
                    planned.threat,
                    claim.example,
                    int(split.y[row]),
                    answer,
                    verdict.size,
                    split.x[row].numpy(),
                    x_adv,
                )
            )
    return figures.galleries(material.summary, shown)


def _trained_on(read: list[_Read], named: tuple[Path, ...]) -> dict[str, tuple[str, ...]]:
    """The threats that models were trained on, by model name, as far as cards name them."""
    given = [(r.material.plan.model.name, r.material.evidence.environment.get("checkpoint", "")) for r in read]
    known = [card for name, checkpoint in given if (card := card_of_run(name, checkpoint))]
    found = {card.name: training_threats(card) for card in map(read_card, [*known, *named])}
    unknown_models = found.keys() - {r.material.plan.model.name for r in read}
    if unknown_models:
        raise UserError(f"none of these runs is about {min(unknown_models)}, whose card was named; leave it out")
    return found


def _with_distinct_names(pictures: list[Picture]) -> list[Picture]:
    """The pictures with distinct names: the second curve-mnist-test becomes curve-mnist-test-2."""
    taken: set[str] = set()
    renamed = []
    for picture in pictures:
        name, count = picture.name, 1
        while name in taken:
            count += 1
            name = f"{picture.name}-{count}"
        taken.add(name)
        renamed.append(Picture(name, picture.caption, picture.figure))
    return renamed


def _known(kind: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    for name in names:
        if name not in known:
            raise unknown(kind, name, known)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be created: {error.strerror}; name another folder with --out") from None
