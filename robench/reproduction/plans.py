"""A paper's tables and figures: models, threats, sizes, published numbers, runs; from a TOML file of `papers`."""

from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from ..errors import UserError, unknown
from ..problem import toml

FOLDER = Path(__file__).parent / "papers"
SIZES = ("tiny", "small", "full")


class PlannedModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row of a table: how its model is made, and the paper's numbers for it, as fractions by column."""

    name: str
    recipe: str
    train_on: tuple[str, ...] = ()  # kinds of threats, such as linf; a size gives their radii
    published: dict[str, float] = {}
    hours: float | None = None  # of training, as published
    settings: tuple[str, ...] = ()  # of its training, besides those of the size


class Size(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The data and the effort of one reproduction of a table."""

    data: str
    threats: tuple[str, ...]
    protocol: str
    examples: int
    hours: str  # what it takes, in words, and where that was measured
    settings: tuple[str, ...] = ()  # of every training, as --set takes them
    training_threats: tuple[str, ...] = ()  # of the trainings, where they are not those that are measured
    recipe_settings: dict[str, tuple[str, ...]] = {}  # of the trainings by one recipe, besides
    options: tuple[str, ...] = ()  # of every training, besides
    zoo: str = ""  # bundled models that are used in place of a training: mnist-small-{model}
    why: str = ""  # what explains differences from the paper


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Models of one kind and their runs, which the paper's page shows beside the published numbers."""

    name: str  # as the texts of the table refer to it
    title: str  # of a row, such as Madry's CNN
    zoo: str  # the name of a model: mnist-small-{model}
    runs: str  # its run, in the folder of all runs: small/mnist-small-{model}.robench
    models: dict[str, str] = {}  # what stands for {model}, by the plan's name, where it is not that name
    size: str = ""  # the size whose commands make a missing model
    page: str = ""  # a page with more about these models


class PaperTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One table of a paper."""

    name: str
    title: str
    threats: tuple[str, ...]  # of the published numbers
    models: tuple[PlannedModel, ...]
    sizes: dict[str, Size] = {}
    united: tuple[str, ...] = ()  # the threats of union and average, where they are not all
    optimum: dict[str, float] = {}  # without a trade-off, as published
    measured: tuple[Measured, ...] = ()
    missing: str = ""  # why nothing can be measured here, and the command elsewhere
    base: str = ""  # the model that training times are compared with
    why: tuple[str, ...] = ()  # paragraphs on the differences; numbers are named, as in prose.py

    def sized(self, size: str) -> Size:
        """The size of this name. Raises UserError, which names those that there are."""
        if size not in self.sizes:
            there = " or ".join(f"--size {name}" for name in self.sizes)
            cure = f"give {there}" if there else f"it cannot be made here: {self.missing}"
            raise UserError(f"table {self.name} has no size {size}; {cure}")
        return self.sizes[size]


class PaperFigure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A figure of a paper or of its analysis: pictures, the command that draws them, and what they show."""

    title: str
    pictures: dict[str, str] = {}  # files beside the page, and what each shows
    command: str = ""
    course: str = ""  # a file of summaries in the folder of runs, from which the page's command draws the picture
    why: tuple[str, ...] = ()


class Paper(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A paper, its tables and its figures."""

    title: str
    url: str
    table: tuple[PaperTable, ...]
    figure: tuple[PaperFigure, ...] = ()
    about: tuple[str, ...] = ()  # paragraphs at the head of its page

    def chosen(self, names: tuple[str, ...]) -> tuple[PaperTable, ...]:
        """The tables of these names, or else those that begin with them and a hyphen; all without a name.

        Raises UserError for a name that none has.
        """
        found = set()
        for name in names:
            some = {t.name for t in self.table if t.name == name}
            some = some or {t.name for t in self.table if t.name.startswith(f"{name}-")}
            if not some:
                raise unknown("table", name, [t.name for t in self.table])
            found |= some
        return tuple(t for t in self.table if t.name in found or not names)


def papers() -> list[str]:
    """The names of all papers with a plan."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read(name: str) -> Paper:
    """The plan of a paper. Raises UserError for an unknown name."""
    if name not in papers():
        raise unknown("paper", name, papers())
    return msgspec.convert(toml.read(FOLDER / f"{name}.toml"), Paper)


@dataclass(frozen=True)
class Steps:
    """The commands of one model, as words after `robench`: its training, if there is one, and its evaluation."""

    model: PlannedModel
    file: str  # the checkpoint that is evaluated
    run: Path
    train: list[str] = field(default_factory=list)
    evaluate: list[str] = field(default_factory=list)


def steps(table: PaperTable, size: Size, folder: Path, bundled: frozenset[str], device: str) -> list[Steps]:
    """The commands that make a table in a folder. Models of `bundled` are not trained."""
    return [_steps(model, size, folder / table.name, bundled, device) for model in table.models]


def _steps(model: PlannedModel, size: Size, folder: Path, bundled: frozenset[str], device: str) -> Steps:
    named = size.zoo.format(model=model.name) if size.zoo else ""
    run = folder / f"{model.name}.robench"
    on_device = ["--device", device]
    evaluate = [*evaluation(size, run), *on_device]
    if named in bundled:
        return Steps(model, named, run, [], ["evaluate", named, *evaluate])
    out = folder / model.name
    weights = f"{out}.safetensors"
    train = [*training(model, size, str(out)), *on_device]
    return Steps(model, weights, run, train, ["evaluate", weights, "--data", size.data, *evaluate])


def evaluation(size: Size, run: Path) -> list[str]:
    """The words after the model that evaluate it into a run file."""
    threats = [word for threat in size.threats for word in ("--threat", threat)]
    return [*threats, "--protocol", size.protocol, "--examples", str(size.examples), "--run", str(run)]


def training(model: PlannedModel, size: Size, out: str) -> list[str]:
    """The words after `robench` that train a model into the files `out`."""
    train = ["train", model.recipe, "--data", size.data]
    against = [t for t in size.training_threats or size.threats if _kind(t) in model.train_on]
    train += [word for threat in against for word in ("--threat", threat)]
    settings = (*size.settings, *size.recipe_settings.get(model.recipe, ()), *model.settings)
    train += [word for setting in settings for word in ("--set", setting)]
    return [*train, *size.options, "--no-evaluation", "--out", out]


def _kind(threat: str) -> str:
    return threat.partition(":")[0]
