"""Opens what the user names as a model: a file, a bundled model, a file of a hub, or a model of a package."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ..architectures.factories import Factory
from ..names import as_file_name
from .assembly import Declared
from .cards import Card
from .contents import Contents, of_module, read
from .hubs import huggingface, packages
from .hubs.names import is_hub_file, package_of
from .hubs.settings import Described, described
from .locating import locate

STEMS = (".safetensors.index", ".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".bin.index")
"""Suffixes that may remain when the last suffix is removed."""


@dataclass(frozen=True)
class Origin:
    """What a name stands for: the contents, what is declared about them, and where they come from."""

    path: Path  # of the file; for the model of a package, its name
    contents: Contents
    described: Described
    name: str  # of the model, in tables and run files
    card: Card | None = None
    pinned: str = ""  # the name under which a hub or a package has the same model later
    recorded: Mapping[str, str] = field(default_factory=dict)  # for the run file

    @property
    def declared(self) -> Declared:
        """What a card, the metadata of the file or the settings beside it declare."""
        return self.described.declared

    @property
    def made_for(self) -> tuple[int, ...] | None:
        """The images that the module of a package reads, as far as its settings state them."""
        return self.declared.shape if self.pinned and self.contents.module is not None else None

    def notes(self, arch: str | None, normalise: str | None, shape: tuple[int, ...]) -> tuple[str, ...]:
        """The notes on what the settings of a hub or a package declare. `arch` and `normalise` are what users type."""
        return () if not self.pinned else self.described.notes_for(arch, normalise, shape)


def opened(checkpoint: str | Path, *, trust_pickle: bool, device: torch.device, script: Factory | None) -> Origin:
    """What `checkpoint` names. Runs code of a file only with `trust_pickle`, and of a package that it names.

    Raises UserError if there is nothing of that name, or it cannot be read.
    """
    text = str(checkpoint)
    if package_of(text):
        made = packages.made(text)
        return Origin(
            path=Path(made.name),
            contents=of_module(made.module.eval(), made.name),
            described=made.described,
            name=as_file_name(made.short),
            pinned=made.name,
            recorded={"source": made.name, **made.recorded},
        )
    path, card = locate(checkpoint)
    contents = read(path, trust_pickle=trust_pickle, device=device, script=script)
    own = Described(_from_card(card) if card else _from_metadata(path, contents.metadata))
    found = Origin(path, contents, own, card.name if card else as_file_name(_stem(path)), card)
    return _of_hub(found, huggingface.resolve(text)) if is_hub_file(text) else found


def _of_hub(found: Origin, file: huggingface.HubFile) -> Origin:
    """The origin with what the hub knows about it. What robench wrote into the file comes before other settings."""
    known = found.described if found.declared.architecture is not None else described(file)
    stem = found.name if found.card else as_file_name(file.repo.name.rpartition("/")[2])
    recorded = {"source": file.name, "file sha256": file.sha256}
    return replace(
        found,
        described=replace(known, notes=(*file.notes, *known.notes)),
        name=stem,
        pinned=file.name,
        recorded=recorded,
    )


def _from_card(card: Card) -> Declared:
    return Declared(f"the card of {card.name}", card.architecture, card.normalisation, card.shape, card.classes)


def _from_metadata(path: Path, metadata: Mapping[str, str]) -> Declared:
    try:
        shape = tuple(int(side) for side in metadata["shape"].split("x")) if "shape" in metadata else None
        classes = int(metadata["classes"]) if "classes" in metadata else None
    except ValueError:  # other tools may use these keys for something else
        shape = classes = None
    return Declared(f"{path}", metadata.get("architecture"), metadata.get("normalisation"), shape, classes)


def _stem(path: Path) -> str:
    """The name of a file without its suffixes: `net` for `net.pth.tar`."""
    name = path.stem
    while name.endswith(STEMS) and not name.startswith("."):
        name = name[: name.rindex(".")]
    return name
