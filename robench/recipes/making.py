"""From a recipe to a model with its card."""

import platform
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch.nn.utils import convert_conv2d_weight_memory_format

from ..errors import UserError
from ..problem import checkpoints
from ..problem.architectures import ARCHITECTURES
from ..problem.checkpoints.cards import Card, write_card
from ..problem.split import Split
from ..problem.threats import ThreatModel
from .recipe import Recipe
from .training import Report, Training, TrainingData


def default_architecture(data: str) -> str:
    """The network that suits a data set."""
    return {"digits": "digits-cnn", "mnist": "madry-mnist", "fashion-mnist": "madry-mnist"}.get(data, "preactresnet18")


@dataclass(frozen=True)
class Order:
    """A model to be made."""

    recipe: Recipe
    threats: tuple[ThreatModel, ...]
    data: str  # name of the data set
    architecture: str
    seed: int
    out: Path  # without suffix: OUT.safetensors and OUT.toml will appear
    command: str
    half: bool = False  # keep the weights as float16

    @property
    def identity(self) -> str:
        """What must be equal for a training to go on from a kept state."""
        threats = "+".join(map(str, self.threats)) or "no attack"
        # A setting that came later is told only where it was changed: states kept before it came still fit.
        later = [(f.name, getattr(self.recipe, f.name), f.default) for f in fields(self.recipe) if not f.repr]
        changed = [f", {name}={value!r}" for name, value, default in later if value != default]
        told = f"{self.recipe!r} against {threats} on {self.data}, {self.architecture}, seed {self.seed}"
        return told + "".join(changed)

    @property
    def state(self) -> Path:
        """Where an unfinished training is kept."""
        return self.out.with_name(self.out.name + ".training")


def make(order: Order, split: Split, device: torch.device, report: Report) -> Card:
    """Train, then write weights and card. Called again after a kill, it goes on from the last kept state."""
    order.recipe.check(order.threats)
    if order.architecture not in ARCHITECTURES:
        raise UserError(f"{order.architecture} is not a known architecture; choose from {', '.join(ARCHITECTURES)}")
    order.out.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(order.seed)  # the one place where weights are drawn
    module = ARCHITECTURES[order.architecture].build(split.shape, split.classes)
    convert_conv2d_weight_memory_format(module.to(device), torch.channels_last)  # half as fast again on a CPU
    recipe = order.recipe
    training = Training(module, torch.optim.Adam(module.parameters()), order.state, order.identity, report)
    recipe.train(training, TrainingData.of(split, recipe.batch, order.seed, device, recipe.augment), order.threats)

    weights = order.out.with_name(order.out.name + ".safetensors")
    sha256 = checkpoints.save(
        module.eval(),
        weights,
        architecture=order.architecture,
        normalisation="none",
        shape=split.shape,
        classes=split.classes,
        dtype=torch.float16 if order.half else torch.float32,
    )
    card = Card(
        name=order.out.name,
        data=order.data,
        architecture=order.architecture,
        shape=split.shape,
        classes=split.classes,
        weights=weights.name,
        sha256=sha256,
        recipe=recipe.name,
        command=order.command,
        seed=order.seed,
        minutes=round(training.seconds / 60, 2),
        hardware=f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
        if device.type == "cpu"
        else f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}",
        settings={**asdict(recipe), "threats": [str(t) for t in order.threats], "data_sha256": split.sha256},
    )
    write_card(order.out.with_name(order.out.name + ".toml"), card)
    order.state.unlink(missing_ok=True)
    return card
