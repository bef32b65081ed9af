"""From what a user names to an answered question: the functions behind the command line, and `robench.evaluate`."""

import copy
import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import torch
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from . import __version__, protocols
from .environment import environment, use_granted_cores
from .errors import UserError
from .evaluation import Evaluation, Progress, Silence, make_plan
from .evidence.records import Evidence, Plan
from .evidence.referee import Referee
from .evidence.store import RunFile
from .problem import checkpoints, datasets
from .problem.checkpoints.cards import Card, read_card, write_card
from .problem.checkpoints.probe import probe
from .problem.classifier import Classifier
from .problem.split import Split
from .protocols import Protocol
from .results.summary import Summary, summarise
from .scrutiny import level

LANES = {"cpu": 64, "cuda": 512}  # rows of the device batch; the best rate of Madry's CNN on two cores is near 64
SEEDS = 2**32  # so many are there, from 0 on


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


@dataclass(frozen=True)
class Subject:
    """A checkpoint to be asked about, and how to read it."""

    checkpoint: str
    arch: str | None = None
    normalise: str | None = None
    trust_pickle: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

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
        )

    def told(self, data: str) -> dict[str, str]:
        """What `robench verify` needs, from any folder, to load the model and the images again."""
        said = {"checkpoint": _placed(self.checkpoint), "data": _placed(data), "normalise": self.normalise or ""}
        if self.arch:
            code, colon, factory = self.arch.rpartition(":")
            said["arch"] = _placed(code) + colon + factory
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


def _placed(text: str) -> str:
    """A path in full; the names of bundled models, data sets and modules as they are."""
    path = Path(text).expanduser()
    return str(path.resolve()) if path.is_file() else text


def evaluate(
    model: nn.Module | str | Path,
    data: Split | str | Path | None = None,
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
) -> Summary:
    """How much accuracy a model keeps under attack.

    `model` is a module that takes images in [0, 1], a checkpoint or the name of a bundled model; `data` a
    name, an `.npz` file or a `Split`, to be given unless the model's card names it. With `run`, evidence is
    kept in that file, and the same call again finishes what is missing; without, it is kept in memory. With `masking`,
    on or deep, it is then looked into whether misleading gradients flatter the number.

        robench.evaluate(net, "mnist", threats=["linf:0.3"], examples=100).union.accuracy

    Raises UserError, a ValueError, with one sentence on what is wrong.
    """
    threats, attacks = ([named] if isinstance(named, str) else named for named in (threats, attacks))
    ask = Ask(
        data=None if data is None or isinstance(data, Split) else str(data),
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
    given = data if isinstance(data, Split) else None
    if isinstance(model, nn.Module):
        if data is None:
            raise UserError("name the data with data=..., for example data='mnist'")
        split, chosen = choose(ask, given, card=None)
    else:
        card = checkpoints.locate(str(model))[1]
        split, chosen = choose(ask, given, card)
        if card and data is None:
            ask = replace(ask, data=card.data)
    return answer(model, ask, split, chosen, run=run, device=device).summary


def answer(
    model: nn.Module | str | Path,
    ask: Ask,
    split: Split,
    protocol: Protocol,
    *,
    run: str | Path | None = None,
    device: str = "cpu",
    enough: Callable[[Summary], bool] | None = None,
) -> Answer:
    """What becomes of these examples under this protocol; with `enough`, no more of it than is asked for."""
    classifier = classifier_of(model, split, device)
    referee = Referee(classifier_of(model, split, device))
    told = {} if isinstance(model, nn.Module) else Subject(str(model)).told(ask.data or "")
    with RunFile.open(Path(run)) if run is not None else RunFile.in_memory() as file:
        asked = evaluation(ask, protocol, split, classifier, referee, file, told, enough=enough)
        asked.answer()
        return Answer.of(asked)


def classifier_of(model: nn.Module | str | Path, split: Split, device: str = "cpu") -> Classifier:
    """The classifier in a module, which is copied, or in a checkpoint, for the images of this split."""
    where = pick_device(device)
    if not isinstance(model, nn.Module):
        return Subject(str(model), device=where).load(split).classifier
    text = type(model).__qualname__
    module = copy.deepcopy(model).to(where)
    outputs, _ = probe(module.eval(), Path(text), split.shape, split.classes)
    return Classifier(module, name=text, architecture=text, shape=split.shape, classes=outputs)


def load_run(path: str | Path) -> Summary:
    """The summary of the last question that was asked into a run file.

    Raises UserError when the file is no run file, is damaged, or holds no question yet.
    """
    with RunFile.read(Path(path)) as run:
        plan = run.plan()
        if plan is None:
            raise UserError(f"{path} holds no plan yet: the run was stopped before it began; start it again")
        return summarise(plan, run.evidence(), __version__)


def choose(ask: Ask, split: Split | None, card: Card | None) -> tuple[Split, Protocol]:
    """The examples and the protocol. Raises UserError when the data are not named and no card does."""
    data = ask.data or (card.data if card else None) or (split.name if split is not None else None)
    if data is None:
        raise UserError("name the data with --data")
    name = Path(data).stem if data.lower().endswith(".npz") else data.partition(":")[0]
    text = ask.protocol or (card.protocol if card and not ask.data else "") or protocols.default_name(name)
    protocol = protocols.load(text, name)
    if ask.threats:
        standard = protocol if ask.protocol else protocols.load(protocols.default_name(name), name)
        protocol = standard.with_threats(ask.threats, bare=bool(ask.attacks))
    if ask.attacks:
        protocol = protocol.with_attacks(ask.attacks)
    whole = _checked(split) if split is not None else datasets.load(data)
    if ask.examples is not None:
        return whole.part(ask.examples), protocol
    if protocol.examples is None:
        return whole, protocol
    few = protocol.examples.isdigit() and int(protocol.examples) > len(whole)
    return whole if few else whole.part(protocol.examples), protocol


def _checked(split: Split) -> Split:
    """The caller's own images, in float32. Raises UserError when attacks on them would mean nothing."""
    if not len(split):
        raise UserError(f"{split.name} is empty; give it at least one image")
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
    return replace(split, x=x, y=y, origin=None if split.origin is None else _checked_origin(split.origin))


def _checked_origin(whole: Split) -> Split | None:
    """The caller's whole part; None where attacks on it would mean nothing, as after scaling the images of a cut."""
    with suppress(UserError):
        return _checked(whole)
    return None


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
) -> Evaluation:
    """The evaluation that answers a question into a run file."""
    # First: in another layout of memory a model that answers at random meets other noise, and is known by it.
    asked = plan(ask, protocol, split, classifier)
    convert_conv2d_weight_memory_format(classifier.module, torch.channels_last)  # half as fast again on a CPU
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
    return Path("runs") / f"{name}-{key}.robench"


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
