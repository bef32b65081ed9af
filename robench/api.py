"""From what a user names to an answered question: the functions behind the command line, and `robench.evaluate`."""

import hashlib
import os
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from . import __version__, protocols
from .environment import environment, use_granted_cores
from .errors import UserError
from .evaluation import Evaluation, Progress, Silence, make_plan
from .evidence.records import Evidence, Plan
from .evidence.referee import Referee
from .evidence.store import RunFile
from .problem import cautions, checkpoints, datasets
from .problem.architectures import factories
from .problem.checkpoints.cards import Card, read_card, write_card
from .problem.checkpoints.probe import probe, wrong_images
from .problem.classifier import Classifier
from .problem.datasets import python_data
from .problem.datasets.preparation import Preparation
from .problem.names import as_file_name
from .problem.noise import random_images
from .problem.process import plain_process
from .problem.python_model import name_of, own_module
from .problem.split import Source, Split, rows_of, shuffled_rows
from .protocols import Protocol
from .results.measured import failure, refuse_unmeasured, unmeasured
from .results.summary import Summary, summarise
from .scrutiny import level
from .search.trial import use_channels_last

LANES = {"cpu": 64, "cuda": 512}  # rows of the device batch; the best rate of Madry's CNN on two cores is near 64
SEEDS = 2**32  # so many are there, from 0 on
TRIED = 64  # images on which it is found out what a model of the caller's returns

Data = Any
"""What `problem.datasets.python_data` reads: arrays, data sets, loaders; or the name of a data set, folder or file."""

Model = Callable[[Tensor], Any] | str | Path
"""A function from images in [0, 1] to logits, mostly a module; a checkpoint; or the name of a bundled model."""


@dataclass(frozen=True)
class Ask:
    """What a user wants to know, as they said it. None means: as the protocol or the model's card say."""

    data: str | None = None
    protocol: str | None = None
    threats: Sequence[str] = ()
    attacks: Sequence[str] = ()
    examples: str | None = None
    seed: int | None = None
    every_attack: bool = False
    curve: bool = False
    precision: str | None = None  # None: that of ROBENCH_PRECISION, else `auto`
    masking: str = "off"
    preparation: Preparation = field(default_factory=Preparation)
    shuffled: bool = False  # take the examples in an order that does not depend on their classes


@dataclass(frozen=True)
class Subject:
    """A checkpoint to be asked about, and how to read it."""

    checkpoint: str
    arch: str | None = None
    normalise: str | None = None
    trust_pickle: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    weights: str | None = None  # the key of one of several sets of weights

    def load(self, split: Split) -> checkpoints.Loaded:
        """The classifier, made for the images of this split."""
        return checkpoints.load(
            self.checkpoint,
            arch=self.arch,
            normalise=self.normalise,
            shape=split.shape,
            classes=split.classes,
            trust_pickle=self.trust_pickle,
            device=self.device,
            weights=self.weights,
            images=split.x[:TRIED],
        )

    def told(self, data: str, preparation: Preparation | None = None) -> dict[str, str]:
        """What `robench verify` needs, from any folder, to load the model and the images again."""
        said = {"checkpoint": _placed(self.checkpoint), "normalise": self.normalise or "", **located(data, preparation)}
        said["weights"] = self.weights or ""
        if self.arch:
            said["arch"] = factories.placed(self.arch) if factories.named_factory(self.arch) else self.arch
        return {key: value for key, value in said.items() if value}


@dataclass(frozen=True)
class Answer:
    """What an evaluation has come to: the question, what is known, and its summary."""

    plan: Plan
    evidence: Evidence
    summary: Summary
    finished: bool = True  # False: stopped by somebody

    @classmethod
    def of(cls, evaluation: Evaluation, *, finished: bool = True) -> "Answer":
        """As far as it has come."""
        return cls(evaluation.plan, evaluation.run.evidence(), evaluation.summary(), finished)


def commit(device: torch.device) -> str:
    """Of the source checkout that runs here; empty for an installed package."""
    return environment(device).get("commit", "")


def hardware(device: torch.device) -> str:
    """The processor, and the library that computes on it: what minutes depend on."""
    told = environment(device)
    threads = f", {told['threads']} threads" if device.type == "cpu" else ""
    return f"{told['device']}{threads}, torch {told['torch']}"


def write_measured(card: Path, summary: Summary, run: str = "") -> None:
    """What an evaluation found, onto the card in this file; `run` is where its evidence is kept."""
    told = {
        "run": run,
        "protocol": summary.protocol,
        "examples": summary.data.examples,
        "clean": summary.clean.accuracy,
        **{t.threat: t.accuracy for t in summary.threats},
        "union": summary.union.accuracy,
        "average": summary.average.accuracy,
    }
    found = {key: value for key, value in told.items() if value not in ("", None)}
    write_card(card, msgspec.structs.replace(read_card(card), measured=found))


def located(data: str, preparation: Preparation | None = None) -> dict[str, str]:
    """What is needed, from any folder, to load these images again."""
    known = (preparation or Preparation()).known()
    if "labels" in known:
        known["labels"] = _placed(known["labels"])
    return {"data": datasets.placed(data), **known}


def _placed(text: str) -> str:
    """A path in full; the names of bundled models and modules as they are."""
    path = Path(os.path.expanduser(text))
    return str(path.resolve()) if path.is_file() else text


@plain_process()
def evaluate(
    model: Model,
    data: Data = None,
    protocol: str | Path | None = None,
    *,
    threats: Sequence[str] = (),
    attacks: Sequence[str] = (),
    examples: int | str | None = None,
    seed: int | None = None,
    every_attack: bool = False,
    curve: bool = False,
    run: str | Path | None = None,
    device: str = "cpu",
    precision: str | None = None,
    masking: str = "off",
    resize: int | str | None = None,
    crop: int | str | None = None,
    interpolation: str | None = None,
    labels: str | Path | None = None,
    channels: int | None = None,
    shuffled: bool = False,
) -> Summary:
    """How much accuracy a model keeps under attack.

    `model` is a module, or any function, from images in [0, 1] to logits, a checkpoint or the name of a bundled model;
    `data` is a name, a folder of images, an `.npz` file, `(x, y)`, a PyTorch data set or loader, a Hugging Face data
    set or a `Split`, to be given unless the model's card names it. `resize`, `crop`, `interpolation`, `channels` and
    `labels`, a label map, are those of the command line, for folders and PIL images. With `shuffled`, examples are
    taken in a fixed order that mixes the classes. With `run`, evidence is kept in that file, and the same call again
    finishes what is missing; without, it is kept in memory. With `masking`, on or deep, it is then checked whether
    misleading gradients flatter the number.

        robench.evaluate(net, "mnist", threats=["linf:0.3"], examples=100).union.accuracy

    Raises UserError, a ValueError, with one sentence on what is wrong; NotMeasuredError, which is one and carries the
    summary, where every planned attack failed. Warns of a threat under which every attack failed.
    """
    threats, attacks = ([text] if isinstance(text, str) else text for text in (threats, attacks))
    named = data is None or isinstance(data, str | Path)
    prepared = {"resize": resize, "crop": crop, "interpolation": interpolation, "labels": labels, "channels": channels}
    preparation = Preparation(**{key: "" if value is None else str(value) for key, value in prepared.items()})
    ask = Ask(
        data=str(data) if named and data is not None else None,
        preparation=preparation,
        shuffled=shuffled,
        protocol=None if protocol is None else str(protocol),
        threats=threats,
        attacks=attacks,
        examples=None if examples is None else str(examples),
        seed=seed,
        every_attack=every_attack,
        curve=curve,
        precision=precision,
        masking=masking,
    )
    given = None if named else python_data.source_of(data, preparation)
    if not isinstance(model, str | Path):
        if data is None:
            raise UserError("name the data with data=..., for example data='mnist'")
        split, chosen = choose(ask, given, card=None)
    else:
        card = checkpoints.locate(str(model))[1]
        split, chosen = choose(ask, given, card)
        if card and data is None:
            ask = replace(ask, data=card.data)
    summary = answer(model, ask, split, chosen, run=run, device=device).summary
    refuse_unmeasured(summary)
    for entry in unmeasured(summary):
        warnings.warn(f"robench: {failure(entry)}", stacklevel=2)
    return summary


@plain_process()
def answer(
    model: Model,
    ask: Ask,
    split: Split,
    protocol: Protocol,
    *,
    run: str | Path | None = None,
    device: str = "cpu",
    enough: Callable[[Summary], bool] | None = None,
) -> Answer:
    """What becomes of these examples under this protocol; with `enough`, no more of it than is asked for."""
    classifier, notes = loaded_of(model, split, device)
    referee = Referee(loaded_of(model, split, device)[0])
    by_name = isinstance(model, str | Path)
    told = Subject(str(model)).told(ask.data or "", ask.preparation) if by_name else {}
    if ask.data and not by_name:
        told = located(ask.data, ask.preparation)
    card = checkpoints.locate(str(model))[1] if by_name else None
    with RunFile.open(Path(run)) if run is not None else RunFile.in_memory() as file:
        asked = evaluation(ask, protocol, split, classifier, referee, file, told, enough=enough, card=card, notes=notes)
        asked.answer()
        return Answer.of(asked)


@plain_process()
def classifier_of(model: Model, split: Split, device: str = "cpu") -> Classifier:
    """The classifier in a model of the caller's, which is copied, or in a checkpoint, for the images of this split."""
    return loaded_of(model, split, device)[0]


def loaded_of(model: Model, split: Split, device: str = "cpu") -> tuple[Classifier, tuple[str, ...]]:
    """The same, with what there is to note about how it was read."""
    where = pick_device(device)
    if isinstance(model, str | Path):
        loaded = Subject(str(model), device=where).load(split)
        return loaded.classifier, loaded.notes
    text = name_of(model)
    module, notes = _own_module(model, text, split, where)
    outputs, probed = probe(module, Path(text), split.shape, split.classes)
    classifier = Classifier(module, name=text, architecture=text, shape=split.shape, classes=outputs)
    return classifier, (*notes, *probed)


def _own_module(
    model: Callable[[Tensor], Any], text: str, split: Split, device: torch.device
) -> tuple[nn.Module, tuple[str, ...]]:
    """The model tried on the first images, or where it raises on one of these, on noise."""
    images = split.x[:TRIED] if len(split) > 1 else split.x.repeat(2, 1, 1, 1)
    for tried in (images, random_images(split.shape)):
        try:
            return own_module(model, tried, split.classes, device)
        except UserError:
            raise
        except Exception as error:  # whatever the model's own code raises
            raised = error
    raise wrong_images(Path(text), None, split.shape, raised) from raised


def load_run(path: str | Path) -> Summary:
    """The summary of the last question that was asked into a run file.

    Raises UserError when the file is no run file, is damaged, or holds no question yet.
    """
    with RunFile.read(Path(path)) as run:
        plan = run.plan()
        if plan is None:
            raise UserError(f"{path} holds no plan yet: the run was stopped before it began; start it again")
        return summarise(plan, run.evidence(), __version__)


def planned_examples(run: str | Path, plan: Plan, whole: Source) -> Split:
    """The examples that a run is about. Raises UserError when they are not there, or are other images."""
    rows = {number: row for row, number in enumerate(whole.numbers)}
    missing = [number for number in plan.examples if number not in rows]
    if missing:
        raise UserError(f"{whole.name} has no example {missing[0]}, which {run} is about; name its data with --data")
    split = whole.take([rows[number] for number in plan.examples])
    if split.sha256 != plan.data_sha256:
        raise UserError(f"{whole.name} holds other images than {run} is about; name its data with --data")
    return split


def choose(ask: Ask, given: Source | None, card: Card | None) -> tuple[Split, Protocol]:
    """The examples and the protocol. Raises UserError when the data are not named and no card does."""
    data = ask.data or (given.name if given is not None else None) or (card.data if card else None)
    if data is None:
        raise UserError("name the data with --data")
    name = datasets.title(data)
    text = ask.protocol or (card.protocol if card and not ask.data else "") or protocols.default_name(name)
    protocol = protocols.load(text, name)
    if ask.threats:
        standard = protocol if ask.protocol else protocols.load(protocols.default_name(name), name)
        protocol = standard.with_threats(ask.threats, bare=bool(ask.attacks))
    if ask.attacks:
        protocol = protocol.with_attacks(ask.attacks)
    whole = given if given is not None else datasets.source(data, preparation=ask.preparation)
    if isinstance(whole, Split):
        whole = _checked(whole) if given is not None else whole
    wanted = protocol.examples if ask.examples is None else ask.examples
    few = ask.examples is None and wanted is not None and wanted.isdigit() and int(wanted) > len(whole)
    rows: Sequence[int] = range(len(whole)) if wanted is None or few else rows_of(wanted, whole)
    if ask.shuffled:
        order = shuffled_rows(len(whole))
        rows = [order[row] for row in rows]
    return whole.take(rows), protocol


def _checked(split: Split) -> Split:
    """The caller's own images, in float32. Raises UserError when attacks on them would mean nothing."""
    if not len(split):
        raise UserError(f"{split.name} is empty; give it at least one image")
    if split.x.ndim != 4 or split.y.shape != split.x.shape[:1]:
        shapes = " and ".join(str(tuple(values.shape)) for values in (split.x, split.y))
        raise UserError(f"{split.name} has images and labels of shapes {shapes}; give (N, C, H, W) and (N,)")
    x, y = split.x.detach().to("cpu", torch.float32), split.y.detach().to("cpu", torch.long)
    low, high = x.amin().item(), x.amax().item()
    if not (low >= 0 and high <= 1):
        raise UserError(
            f"{split.name} holds pixels from {low:.6g} to {high:.6g}; they go from 0 to 1: divide them by 255, or undo"
            " their normalisation"
        )
    if int(y.min()) < 0 or int(y.max()) >= split.classes:
        raise UserError(
            f"{split.name} holds labels from {int(y.min())} to {int(y.max())}; its {split.classes} classes are numbered"
            f" 0 to {split.classes - 1}"
        )
    origin = None if split.origin is None else _checked_origin(split.origin)
    return replace(split, x=_plain(x), y=_plain(y), origin=origin)


def _checked_origin(whole: Split) -> Split | None:
    """The caller's whole part; None where attacks on it would mean nothing, as after scaling the images of a cut."""
    with suppress(UserError):
        return _checked(whole)
    return None


def _plain(values: Tensor) -> Tensor:
    """A tensor that was made in inference mode cannot take part in a gradient; a copy can."""
    return values.clone() if values.is_inference() else values


def evaluation(
    ask: Ask,
    protocol: Protocol,
    split: Split,
    classifier: Classifier,
    referee: Referee,
    run: RunFile,
    told: dict[str, str],
    *,
    progress: Progress | None = None,
    minutes: float | None = None,
    enough: Callable[[Summary], bool] | None = None,
    card: Card | None = None,
    notes: Sequence[str] = (),
) -> Evaluation:
    """The evaluation that answers a question into a run file.

    `card` is that of the model, where it has one; `notes` tell how the model was read.
    """
    # First: in another layout of memory a model that answers at random meets other noise, and is known by it.
    asked = plan(ask, protocol, split, classifier)
    known = {
        "model": "; ".join(notes),
        "training": cautions.of_training(split, card.data if card else ""),
        "labels": cautions.of_class_names(split, classifier.classes, mapped=bool(ask.preparation.labels)),
    }
    if why := use_channels_last(classifier, split.x):
        known["layout"] = f"the weights stay in the layout they have: channels last {why}"
    return Evaluation(
        plan=asked,
        protocol=protocol,
        classifier=classifier,
        referee=referee,
        split=split,
        run=run,
        environment=environment(classifier.device) | told,
        progress=progress or Silence(),
        deadline=float("inf") if minutes is None else time.monotonic() + 60 * minutes,
        enough=enough,
        masking=level(ask.masking),
        notes={kind: text for kind, text in known.items() if text},
    )


def plan(ask: Ask, protocol: Protocol, split: Split, classifier: Classifier) -> Plan:
    """The question with the conditions of this machine."""
    seed = protocol.seed if ask.seed is None else ask.seed
    if not 0 <= seed < SEEDS:
        raise UserError(f"the seed {seed} is out of range; it goes from 0 to {SEEDS - 1}")
    lanes = LANES.get(classifier.device.type, LANES["cuda"])
    level(ask.masking)
    return make_plan(
        *(classifier, split, protocol),
        seed=seed,
        every_attack=ask.every_attack,
        curve=ask.curve,
        lanes=lanes,
        precision=ask.precision,
    )


def default_run(plan: Plan) -> Path:
    """Where the evidence is kept when nobody says: one file per model, data set and seed, so that what is asked
    of them later adds to it.
    """
    model = plan.model
    about = [model.weights_sha256, model.architecture, model.normalisation, plan.data, str(plan.seed)]
    key = hashlib.sha256("\n".join(about).encode()).hexdigest()[:8]
    data = plan.data.partition(":")[0]
    name = model.name if model.name.startswith(data) else f"{model.name}-{data}"
    return Path("runs") / f"{as_file_name(name)}-{key}.robench"


def pick_device(text: str) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:1`. Raises UserError when it is not there."""
    use_granted_cores()
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(text)
        torch.zeros(1, device=device).item()  # there, and able to answer
    except (RuntimeError, AssertionError):
        has = "cpu and cuda" if torch.cuda.is_available() else "only cpu"
        raise UserError(f"there is no device {text!r} here, {has}; leave --device out to take the best") from None
    return device
