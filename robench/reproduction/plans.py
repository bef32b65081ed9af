"""A paper's tables: models, threats, sizes and published numbers, from a TOML file of the folder `papers`."""

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


class Size(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The data and the effort of one reproduction of a table."""

    data: str
    threats: tuple[str, ...]
    protocol: str
    examples: int
    hours: str  # what it takes, in words, and where that was measured
    settings: tuple[str, ...] = ()  # of every training, as --set takes them
    options: tuple[str, ...] = ()  # of every training, besides
    zoo: str = ""  # bundled models that are used in place of a training: mnist-small-{model}
    why: str = ""  # what explains differences from the paper


class PaperTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One table of a paper."""

    name: str
    title: str
    threats: tuple[str, ...]  # of the published numbers
    models: tuple[PlannedModel, ...]
    sizes: dict[str, Size]

    def sized(self, size: str) -> Size:
        """The size of this name. Raises UserError, which names those that there are."""
        if size not in self.sizes:
            there = " or ".join(f"--size {name}" for name in self.sizes)
            raise UserError(f"table {self.name} has no size {size}; give {there}")
        return self.sizes[size]


class Paper(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A paper and its tables."""

    title: str
    url: str
    table: tuple[PaperTable, ...]

    def chosen(self, names: tuple[str, ...]) -> tuple[PaperTable, ...]:
        """The tables of these names or of all that begin with them and a hyphen; all without a name.

        Raises UserError for a name that none has.
        """
        found = set()
        for name in names:
            some = {t.name for t in self.table if t.name == name or t.name.startswith(f"{name}-")}
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
    evaluate = [word for threat in size.threats for word in ("--threat", threat)]
    evaluate += ["--protocol", size.protocol, "--examples", str(size.examples), "--run", str(run), *on_device]
    if named in bundled:
        return Steps(model, named, run, [], ["evaluate", named, *evaluate])
    out = folder / model.name
    train = ["train", model.recipe, "--data", size.data]
    train += [word for threat in size.threats if _kind(threat) in model.train_on for word in ("--threat", threat)]
    train += [word for setting in size.settings for word in ("--set", setting)]
    train += [*size.options, "--no-evaluation", "--out", str(out), *on_device]
    weights = f"{out}.safetensors"
    return Steps(model, weights, run, train, ["evaluate", weights, "--data", size.data, *evaluate])


def _kind(threat: str) -> str:
    return threat.partition(":")[0]
