"""From a recipe to a model with its card."""

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
from ..problem.architectures import ARCHITECTURES, factories
from ..problem.cautions import boundless
from ..problem.checkpoints.cards import Card, minutes_in_all, read_card, verified, write_card
from ..problem.shapes import Inputs, Logits
from ..problem.split import Split
from ..problem.threats import ThreatModel
from .recipe import Recipe
from .training import Report, Training, TrainingData, held_out, resumable
from .validation import KEY as CHECKS_KEY
from .validation import Validation, ValidationCheck

PRECISIONS = ("float32", "bfloat16")


def default_architecture(data: str) -> str:
    """The network that suits a data set."""
    return {"digits": "digits-cnn", "mnist": "madry-mnist", "fashion-mnist": "madry-mnist"}.get(data, "preactresnet18")


@dataclass(frozen=True)
class Order:
    """A model to be made."""

    recipe: Recipe
    threats: tuple[ThreatModel, ...]
    data: str  # name of the data set
    architecture: str  # a registered name, or a factory as it was typed
    seed: int
    out: Path  # without suffix: OUT.safetensors and OUT.toml will appear
    command: str
    half: bool = False  # keep the weights as float16
    validation: int = 0  # so many training images are kept out, to see how the model does on them
    precision: str = "float32"  # of the network's matrix products in training
    start: str = ""  # a model to go on from, by its name or file; without one, fresh weights
    commit: str = ""  # of robench, for the card
    hardware: str = ""  # it is trained on, for the card
    compiled: bool = False  # the network's passes, by torch.compile
    restarted: bool = False  # whatever is there already, of this training or of another

    @property
    def identity(self) -> str:
        """What must be equal for a training to go on from a kept state."""
        threats = "+".join(map(str, self.threats)) or "no attack"
        text = f"{renames.former_recipe(repr(self.recipe))} against {threats} on {self.data}, {self.canonical}, seed {self.seed}"
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
        """What can be asked for since the first states were kept, where it was: nothing else tells of it."""
        late = [f for f in fields(self.recipe) if not f.repr]
        changed = {f.name: getattr(self.recipe, f.name) for f in late if getattr(self.recipe, f.name) != f.default}
        if self.start:
            changed["start"] = f"{self.start} ({durable.sha256(checkpoints.locate(self.start)[0])[:12]})"
        changed |= {"validation": self.validation} if self.validation else {}
        changed |= {"precision": self.precision} if self.precision != "float32" else {}
        return changed | ({"compiled": True} if self.compiled else {})

    @property
    def weights(self) -> Path:
        """Where the trained network goes."""
        return self.out.with_name(self.out.name + ".safetensors")

    @property
    def card(self) -> Path:
        """Where what was done to make it is told."""
        return self.out.with_name(self.out.name + ".toml")

    @property
    def state(self) -> Path:
        """Where an unfinished training is kept."""
        return self.out.with_name(self.out.name + ".training")


def make(
    order: Order,
    split: Split,
    device: torch.device,
    report: Report,
    looked: Callable[[ValidationCheck], None] = lambda _: None,
) -> Card:
    """Train, then write weights and card. Called again after a kill, it goes on from the last kept state.

    A model that was made by the same order is left as it is. `looked` is told what is seen on the images that the
    order keeps out.
    """
    recipe = order.recipe
    _check(order, split)
    if order.restarted:
        order.state.unlink(missing_ok=True)
    elif (there := _made(order, split)) is not None:
        return there
    try:
        order.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{order.out.parent} is no folder: {error.strerror or error}; choose another --out") from None
    torch.manual_seed(order.seed)  # the one place where weights are drawn
    module = _network(order, split)
    if order.start:
        module.load_state_dict(_weights(order, split))
    _lay_out(module.to(device), order, split)
    if order.compiled:
        module.compile()
    learner = InBFloat16(module) if order.precision == "bfloat16" else module
    adam = torch.optim.Adam(module.parameters())
    training = Training(learner, adam, order.state, order.identity, report, data=split.sha256)
    without = held_out(len(split), order.validation)
    data = TrainingData.of(split, recipe.batch, order.seed, device, recipe.augment, without)
    if order.validation:
        Validation.of(recipe, order.threats, training, split.take(sorted(without)), looked)
    # Deterministic, that a training which is resumed ends the same.
    with torch.backends.cudnn.flags(enabled=True, deterministic=True), _compilable():
        recipe.train(training, data, order.threats)

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
        minutes=round(training.seconds / 60, 2),
        validation=_seen(training, order.validation),
    )
    with resumable():
        write_card(order.card, card)
    order.state.unlink(missing_ok=True)
    return card


def usual_validation(examples: int) -> int:
    """How many images to keep out where nobody says: enough to see a fall, too few to be missed."""
    return min(200, examples // 20) if examples >= 1000 else 0


@contextmanager
def _compilable() -> Iterator[None]:
    """Raises UserError where torch.compile, at work from the first pass on, finds no compiler or does not know how."""
    try:
        yield
    except Exception as error:  # of many classes, in modules without a public name
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"torch.compile fails here ({reason}); --no-compile trains without it") from None


class InBFloat16(nn.Module):
    """A module whose convolutions and matrix products are made in bfloat16; weights, answers and the rest are float32.

    Autocast is entered anew in every pass: within one it keeps the rounded weights, which the optimiser then moves.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Inputs) -> Logits:
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            logits: Tensor = self.module(x)
        return logits.float()


def _network(order: Order, split: Split) -> nn.Module:
    """The network with fresh weights. Raises UserError where the images do not suit it, or it cannot be trained."""
    if not order.factory:
        return ARCHITECTURES[order.architecture].build(split.shape, split.classes)
    network = factories.build(order.architecture, split.shape, split.classes).float()
    checkpoints.probe(network, Path(order.architecture), split.shape, split.classes)
    try:
        logits = copy.deepcopy(network).train()(torch.rand(2, *split.shape))
    except Exception as error:  # whatever the user's code raises
        raise UserError(f"--arch {order.architecture} fails in training with {described(error)}") from error
    if not isinstance(logits, Tensor):
        raise UserError(
            f"--arch {order.architecture} answers with {type(logits).__name__} in training, not with one tensor"
        )
    if not any(weight.requires_grad for weight in network.parameters()):
        raise UserError(f"--arch {order.architecture} has no weights to train")
    return network.train()


def _lay_out(module: nn.Module, order: Order, split: Split) -> None:
    """Puts the channels last in memory, half as fast again on a CPU, unless the user's own network does not bear it."""
    convert_conv2d_weight_memory_format(module, torch.channels_last)
    if order.factory:
        device = next(module.parameters()).device
        try:
            copy.deepcopy(module).train()(torch.rand(2, *split.shape, device=device))
        except RuntimeError:  # a view of maps, as if their channels came first
            convert_conv2d_weight_memory_format(module, torch.contiguous_format)


def _check(order: Order, split: Split) -> None:
    """Raises UserError for what cannot be trained."""
    names.check(order.out.name, f"--out {order.out} calls the model")
    order.recipe.check(order.threats)
    for place, threat in enumerate(order.threats):
        if threat in order.threats[:place]:
            raise UserError(f"--threat {threat} is given twice; name each threat once")
    if not order.factory and order.architecture not in ARCHITECTURES:
        raise unknown("architecture", order.architecture, [*ARCHITECTURES, "module:factory", "file.py:factory"])
    if order.precision not in PRECISIONS:
        raise unknown("precision of a training", order.precision, PRECISIONS)
    if order.compiled and order.recipe.twice_differentiated:
        raise UserError(f"{order.recipe.name} asks for second derivatives, which compiled code has not; --no-compile")
    if order.start and checkpoints.locate(order.start)[0].resolve() == order.weights.resolve():
        raise UserError(f"--out {order.out} would overwrite the model that --from starts from; choose another --out")
    if split.y.min() == split.y.max():
        raise UserError(
            f"the images of {split.name} are all of one class; there is nothing to learn from fewer than two"
        )
    for threat in order.threats:
        if boundless(threat, split.shape):
            raise UserError(
                f"under {threat} any image may become any other, as pixels lie in [0, 1]; choose a smaller limit, "
                f"written like {threat.form}"
            )


def _card(order: Order, split: Split) -> Card:
    """As far as the order decides it."""
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
    """Of the training of the model to go on from, where its card tells."""
    card = checkpoints.locate(order.start)[1] if order.start else None
    return minutes_in_all(card) if card is not None else None


def _made(order: Order, split: Split) -> Card | None:
    """The card of the model that this very order has made before. Raises UserError where there is another model."""
    if not order.weights.exists() or order.state.exists():
        return None
    if order.card.exists():
        card, wanted = read_card(order.card), _card(order, split)
        decided = ("data", "architecture", "shape", "classes", "recipe", "seed", "settings")
        if all(_plain(getattr(card, field)) == _plain(getattr(wanted, field)) for field in decided):
            verified(order.card, card)
            if checkpoints.is_half(order.weights) == order.half:
                return card
    raise UserError(
        f"{order.weights} is there already, and is not what this command makes; choose another --out, or replace it "
        "with --no-resume"
    )


def _plain(value: object) -> bytes:
    """The same for what a card was given and what is read of it again."""
    return msgspec.json.encode(value, order="deterministic")


def _weights(order: Order, split: Split) -> dict[str, Tensor]:
    """Of the model to go on from. Raises UserError where it is of another kind."""
    arch = order.architecture if order.factory else None
    begun = checkpoints.load(order.start, arch=arch, shape=split.shape, classes=split.classes).classifier
    if begun.architecture != order.canonical:
        raise UserError(f"{order.start} is a {begun.architecture}, not a {order.canonical}; --arch says which to train")
    if begun.normalisation != "none":
        raise UserError(
            f"{order.start} normalises its images, and recipes train on pixels in [0, 1]; train a new model"
        )
    return begun.module.state_dict()


def _settings(order: Order) -> dict[str, Any]:
    """For the card: the numbers that its seed was not drawn for."""
    used = [f for f in fields(order.recipe) if f.repr and f.name not in order.recipe.unused()]
    settings = {f.name: getattr(order.recipe, f.name) for f in used}
    return settings | order.later | {"threats": [str(threat) for threat in order.threats]}


def _seen(training: Training, examples: int) -> dict[str, Any]:
    """The last look at the images kept out, for the card."""
    if not examples:
        return {}
    _, clean, robust, _ = training.memory[CHECKS_KEY][-1].tolist()
    return {"examples": examples, "clean": clean} | ({"robust": robust} if robust >= 0 else {})
