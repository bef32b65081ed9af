"""Trains a model by a recipe, and writes its weights and card."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from .. import renames
from ..errors import UserError, described, unknown
from ..problem import checkpoints, durable, names
from ..problem.architectures import ARCHITECTURES, factories, named
from ..problem.cautions import boundless
from ..problem.checkpoints.cards import (
    SEEN_BEFORE,
    Card,
    minutes_in_all,
    read_card,
    verified,
    write_card,
)
from ..problem.checkpoints.probe import probe
from ..problem.checkpoints.saving import is_half
from ..problem.shapes import Inputs, Logits
from ..problem.split import Split
from ..problem.subsets import held_out
from ..problem.threats import ThreatModel
from .data_parallel import ALONE, Ranks
from .recipe import Recipe
from .training import MeanReport, Report, Training, TrainingData, resumable
from .validation import KEY as CHECKS_KEY
from .validation import Validation, ValidationCheck, seen_before
from .weight_average import weight_average

PRECISIONS = ("float32", "bfloat16")


def default_architecture(data: str) -> str:
    """The default network for a data set: a small one for grey digits, else one for photographs of up to 64 pixels."""
    return {"digits": "digits-cnn", "mnist": "madry-mnist", "fashion-mnist": "madry-mnist"}.get(data, "preactresnet18")


@dataclass(frozen=True)
class Order:
    """The description of a model to train."""

    recipe: Recipe
    threats: tuple[ThreatModel, ...]
    data: str  # name of the data set
    architecture: str  # a registered name, or a factory as the user typed it
    seed: int
    out: Path  # without suffix, for OUT.safetensors and OUT.toml
    command: str
    half: bool = False  # save the weights as float16
    validation: int = 0  # the number of training images held out for validation
    precision: str = "float32"  # of the network's matrix products in training
    start: str = ""  # name or file of a model whose weights to start from; empty: random weights
    commit: str = ""  # of robench, for the card
    hardware: str = ""  # for the card
    compiled: bool = False  # run the network with torch.compile
    restarted: bool = False  # ignore and replace existing files
    pseudo: Split | None = None  # pseudo-labelled images, half of every batch
    ranks: Ranks = ALONE  # the processes that train

    @property
    def identity(self) -> str:
        """The text that must be equal for a training to resume from a saved state."""
        recipe = renames.former_recipe(repr(self.recipe))
        threats = "+".join(map(str, self.threats)) or "no attack"
        text = f"{recipe} against {threats} on {self.data}, {self.canonical}, seed {self.seed}"
        return text + "".join(f", {name}={value!r}" for name, value in self.later.items())

    @property
    def factory(self) -> bool:
        """Whether the network is the user's own."""
        return factories.named_factory(self.architecture)

    @property
    def canonical(self) -> str:
        """The architecture for cards and files: a factory without the folders of its file."""
        return factories.canonical(self.architecture) if self.factory else self.architecture

    @property
    def later(self) -> dict[str, Any]:
        """Options that older saved states lack, if they differ from the defaults; `identity` includes only these."""
        late = [f for f in fields(self.recipe) if not f.repr]
        changed = {f.name: getattr(self.recipe, f.name) for f in late if getattr(self.recipe, f.name) != f.default}
        if self.start:
            changed["start"] = f"{self.start} ({durable.sha256(checkpoints.locate(self.start)[0])[:12]})"
        if self.pseudo:
            changed["pseudo_labelled"] = f"{self.pseudo.name} ({self.pseudo.sha256[:12]})"
        changed |= {"validation": self.validation} if self.validation else {}
        changed |= {"precision": self.precision} if self.precision != "float32" else {}
        changed |= {"processes": self.ranks.size} if self.ranks.size > 1 else {}
        return changed | ({"compiled": True} if self.compiled else {})

    @property
    def weights(self) -> Path:
        """The file of the trained weights."""
        return self.out.with_name(self.out.name + ".safetensors")

    @property
    def card(self) -> Path:
        """The file of the card."""
        return self.out.with_name(self.out.name + ".toml")

    @property
    def state(self) -> Path:
        """The file of the state of an unfinished training."""
        return self.out.with_name(self.out.name + ".training")


def make(
    order: Order,
    split: Split,
    device: torch.device,
    report: Report,
    checked: Callable[[ValidationCheck], None] = lambda _: None,
) -> Card | None:
    """Trains the model, then writes weights and card. Another call after a kill resumes from the last saved state.

    If the same order has made the model before, nothing changes. `checked` receives every validation check. Of several
    processes only the first reads and writes files; the others return None.
    """
    _check(order, split)
    made = _begin(order, split) if order.ranks.first else None
    if order.ranks.any(made is not None):
        return made
    module, training = _train(order, split, device, report, checked)
    if not order.ranks.first:
        return None
    with resumable():
        sha256 = checkpoints.save(
            module.eval(),
            order.weights,
            architecture=order.canonical,
            normalisation="none",
            shape=split.shape,
            classes=split.classes,
            dtype=torch.float16 if order.half else torch.float32,
        )
    card = msgspec.structs.replace(
        _card(order, split),
        sha256=sha256,
        parameters=sum(weight.numel() for weight in module.parameters()),
        minutes=round(training.seconds / 60, 2),
        validation=_validation(training, order, split),
    )
    with resumable():
        write_card(order.card, card)
    order.state.unlink(missing_ok=True)
    return card


def _begin(order: Order, split: Split) -> Card | None:
    """Prepares the folder. Returns the card of the model if the same order has made it before."""
    if order.restarted:
        order.state.unlink(missing_ok=True)
    elif (made := _made(order, split)) is not None:
        return made
    try:
        order.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{order.out.parent} is no folder: {error.strerror or error}; choose another --out") from None
    return None


def _train(
    order: Order, split: Split, device: torch.device, report: Report, checked: Callable[[ValidationCheck], None]
) -> tuple[nn.Module, Training]:
    """The network after its training."""
    recipe, ranks = order.recipe, order.ranks
    torch.manual_seed(order.seed)  # the only place where weights are sampled
    module = _network(order, split)
    if order.start:
        module.load_state_dict(_weights(order, split))
    _lay_out(module.to(device), order, split)
    if order.compiled:
        module.compile()
    learner = InBFloat16(module) if order.precision == "bfloat16" else module
    optimiser = recipe.optimiser_for(module.parameters())
    training = Training(
        *(learner, optimiser, order.state, order.identity, report),
        data=split.sha256,
        clip=recipe.clip,
        ranks=ranks,
        average=weight_average(learner, recipe.weight_average) if recipe.weight_average else None,
    )
    without = held_out(len(split), order.validation)
    data = TrainingData.of(split, recipe.batch, order.seed, device, recipe.augmentation(), without, ranks)
    if order.pseudo:
        data = data.beside(order.pseudo)
    if order.validation and ranks.first:
        Validation.of(recipe, order.threats, training, split.take(sorted(without)), checked)
    if ranks.size > 1:
        training.report = MeanReport(ranks, training.report)
    # Deterministic, so that a resumed training ends the same.
    with torch.backends.cudnn.flags(enabled=True, deterministic=True), _compilable():
        recipe.train(training, data, order.threats)
    if training.average is not None:
        learner.load_state_dict(training.result.state_dict())
    return module, training


def usual_validation(examples: int) -> int:
    """The default number of held-out images: enough to detect overfitting, too few to weaken the training."""
    return min(200, examples // 20) if examples >= 1000 else 0


@contextmanager
def _compilable() -> Iterator[None]:
    """Raises UserError if torch.compile, which runs in the first pass, fails or finds no compiler."""
    try:
        yield
    except Exception as error:  # of many classes, in modules without a public name
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"torch.compile fails here ({reason}); --no-compile trains without it") from None


class InBFloat16(nn.Module):
    """A module whose convolutions and matrix products run in bfloat16; weights, logits and the rest are float32.

    Every pass enters autocast again: within one context it caches the rounded weights, which the optimiser changes.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Inputs) -> Logits:
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            logits: Tensor = self.module(x)
        return logits.float()


def _network(order: Order, split: Split) -> nn.Module:
    """The network with random weights. Raises UserError if the images do not fit it, or it cannot be trained."""
    if not order.factory:
        architecture = named(order.architecture)
        assert architecture is not None, "checked with the order"
        return architecture.build(split.shape, split.classes)
    network = factories.build(order.architecture, split.shape, split.classes).float()
    probe(network, Path(order.architecture), split.shape, split.classes)
    try:
        logits = copy.deepcopy(network).train()(torch.rand(2, *split.shape))
    except Exception as error:  # whatever the user's code raises
        raise UserError(f"--arch {order.architecture} fails in training with {described(error)}") from error
    if not isinstance(logits, Tensor):
        raise UserError(f"--arch {order.architecture} returns {type(logits).__name__} in training, not one tensor")
    if not any(weight.requires_grad for weight in network.parameters()):
        raise UserError(f"--arch {order.architecture} has no weights to train")
    return network.train()


def _lay_out(module: nn.Module, order: Order, split: Split) -> None:
    """Uses channels-last memory, 1.5 times as fast on a CPU, unless the user's own network fails with it."""
    convert_conv2d_weight_memory_format(module, torch.channels_last)
    if order.factory:
        device = next(module.parameters()).device
        try:
            copy.deepcopy(module).train()(torch.rand(2, *split.shape, device=device))
        except RuntimeError:  # it views feature maps as if their channels came first
            convert_conv2d_weight_memory_format(module, torch.contiguous_format)


def _check(order: Order, split: Split) -> None:
    """Raises UserError if the order cannot be trained."""
    names.check(order.out.name, f"--out {order.out} calls the model")
    order.recipe.check(order.threats)
    for place, threat in enumerate(order.threats):
        if threat in order.threats[:place]:
            raise UserError(f"--threat {threat} is given twice; name each threat once")
    if not order.factory and named(order.architecture) is None:
        if order.architecture.endswith(".py"):
            named_file = order.architecture
            raise UserError(f"--arch {named_file} names no network in that file; write --arch {named_file}:NETWORK")
        raise unknown("architecture", order.architecture, [*ARCHITECTURES, "module:factory", "file.py:factory"])
    if order.precision not in PRECISIONS:
        raise unknown("precision of a training", order.precision, PRECISIONS)
    if order.compiled and order.recipe.twice_differentiated:
        raise UserError(
            f"{order.recipe.name} needs second derivatives, which compiled code does not support; use --no-compile"
        )
    if order.ranks.size > 1 and not order.recipe.divisible:
        raise UserError(
            f"{order.recipe.name} trains in one process, as the steps of several would be others; start it without"
            " torchrun"
        )
    if order.start and checkpoints.locate(order.start)[0].resolve() == order.weights.resolve():
        raise UserError(f"--out {order.out} would overwrite the model that --from starts from; choose another --out")
    _check_pseudo(order, split)
    if split.y.min() == split.y.max():
        raise UserError(f"the images of {split.name} are all of one class; training needs at least two")
    rt = order.recipe.augmentation().rt
    if rt is not None and boundless(rt, split.shape):
        raise UserError(f"augment_rt={rt} moves everything out of view; choose smaller limits, like rt:1px,10deg")
    for threat in order.threats:
        if boundless(threat, split.shape):
            raise UserError(
                f"under {threat} any image may become any other, as pixels lie in [0, 1]; choose a smaller limit, "
                f"written like {threat.form}"
            )


def _check_pseudo(order: Order, split: Split) -> None:
    """Raises UserError if the pseudo-labelled images are missing or do not fit the others."""
    pseudo = order.pseudo
    if pseudo is None:
        if order.recipe.self_training:
            raise UserError(f"{order.recipe.name} needs pseudo-labelled images; name them with --pseudo-labelled")
        return
    if pseudo.shape != split.shape or int(pseudo.y.max()) >= split.classes:
        raise UserError(
            f"--pseudo-labelled {pseudo.name} has images of {'x'.join(map(str, pseudo.shape))} in classes up to "
            f"{int(pseudo.y.max())}, but {split.name} has {'x'.join(map(str, split.shape))} in {split.classes} classes"
        )


def _card(order: Order, split: Split) -> Card:
    """The part of the card that the order determines."""
    return Card(
        name=order.out.name,
        data=order.data,
        architecture=order.canonical,
        shape=split.shape,
        classes=split.classes,
        weights=order.weights.name,
        sha256="",
        recipe=order.recipe.name,
        command=order.command,
        seed=order.seed,
        minutes_before=_minutes_before(order),
        commit=order.commit,
        hardware=order.hardware,
        settings={**_settings(order), "data_sha256": split.sha256},
    )


def _minutes_before(order: Order) -> float | None:
    """The training time of the model to start from, in minutes, if its card has it."""
    card = checkpoints.locate(order.start)[1] if order.start else None
    return minutes_in_all(card) if card is not None else None


def _made(order: Order, split: Split) -> Card | None:
    """The card of the model if the same order has made it before. Raises UserError if another model is there."""
    if not order.weights.exists() or order.state.exists():
        return None
    if order.card.exists():
        card, wanted = read_card(order.card), _card(order, split)
        decided = ("data", "architecture", "shape", "classes", "recipe", "seed", "settings")
        if all(_plain(getattr(card, field)) == _plain(getattr(wanted, field)) for field in decided):
            verified(order.card, card)
            if is_half(order.weights) == order.half:
                return card
    raise UserError(
        f"{order.weights} exists already and was not made by this command; choose another --out, or replace it with "
        "--no-resume"
    )


def _plain(value: object) -> bytes:
    """A form that is equal for the values of a card and for those read from its file."""
    return msgspec.json.encode(value, order="deterministic")


def _weights(order: Order, split: Split) -> dict[str, Tensor]:
    """The weights of the model to start from. Raises UserError if its architecture or normalisation differs."""
    arch = order.architecture if order.factory else None
    start = checkpoints.load(order.start, arch=arch, shape=split.shape, classes=split.classes).classifier
    if start.architecture != order.canonical:
        raise UserError(f"{order.start} is a {start.architecture}, not a {order.canonical}; set --arch")
    if start.normalisation != "none":
        raise UserError(
            f"{order.start} normalises its images, and recipes train on pixels in [0, 1]; train a new model"
        )
    return start.module.state_dict()


def _settings(order: Order) -> dict[str, Any]:
    """The settings for the card."""
    used = [f for f in fields(order.recipe) if f.repr and f.name not in order.recipe.unused()]
    settings = {f.name: getattr(order.recipe, f.name) for f in used}
    return settings | order.later | {"threats": [str(threat) for threat in order.threats]}


def _validation(training: Training, order: Order, split: Split) -> dict[str, Any]:
    """The last validation check, for the card."""
    if not order.validation:
        return {}
    _, clean, robust, _ = training.memory[CHECKS_KEY][-1].tolist()
    check = {"examples": order.validation, "clean": clean} | ({"robust": robust} if robust >= 0 else {})
    return check | ({SEEN_BEFORE: seen_before(order.start, split, order.validation)} if order.start else {})
