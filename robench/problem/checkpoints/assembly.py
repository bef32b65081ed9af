"""Puts the weights of a file into the network they were trained in."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from ...errors import UserError, unknown
from ..architectures import ARCHITECTURES, factories
from . import recognition
from .contents import Contents, bare
from .recognition import Match, shapes_of


@dataclass(frozen=True)
class Said:
    """What a card, or else the metadata of a file, says about the weights. None where it is silent."""

    source: str
    architecture: str | None = None
    normalisation: str | None = None
    shape: tuple[int, ...] | None = None
    classes: int | None = None


@dataclass(frozen=True)
class Built:
    """A network with its weights. `shape` is what its images must be, where the weights tell."""

    network: nn.Module
    architecture: str
    shape: tuple[int, ...] | None
    notes: tuple[str, ...] = ()


def assemble(
    path: Path,
    contents: Contents,
    said: Said,
    *,
    arch: str | None = None,
    shape: tuple[int, ...] | None = None,
    classes: int | None = None,
) -> Built:
    """The network, by what the user says in `arch`, else what the file is or says, else by its keys and shapes.

    Raises UserError when no network can be made, or the weights do not fit it.
    """
    if contents.module is not None and arch is None:
        return Built(contents.module, contents.code, None)
    if arch is not None and factories.named_factory(arch):
        network = factories.build(arch, shape or said.shape, said.classes or classes)
        return Built(_filled(network, contents.tensors, path, arch), factories.canonical(arch), None)
    if not contents.tensors:
        raise UserError(f"{path} holds no tensors; name the file with the weights")
    likely = tuple(s for s in (shape, said.shape) if s is not None)
    name = arch or said.architecture
    if name is None:
        return _recognised(path, contents.tensors, likely)
    if name not in ARCHITECTURES:
        raise _unregistered(path, said, name, by_user=arch is not None)
    return _registered(path, contents.tensors, name, likely, said.classes or classes)


def _recognised(path: Path, tensors: Mapping[str, Tensor], likely: tuple[tuple[int, ...], ...]) -> Built:
    found = recognition.matches(tensors, likely)
    if not found:
        raise UserError(
            f"{path} is of no architecture that robench knows (it begins with "
            f"{_listed(shapes_of(bare(tensors)[-1]))}); name it with --arch file.py:factory"
        )
    first, others = found[0], [match.architecture.name for match in found[1:]]
    note = f"recognised as {first.architecture.name} by {first.how}"
    if others:
        note += f"; {' and '.join(others)} would fit as well, and --arch chooses"
    return _from_match(first, path, note)


def _registered(
    path: Path, tensors: Mapping[str, Tensor], name: str, likely: tuple[tuple[int, ...], ...], classes: int | None
) -> Built:
    architecture = ARCHITECTURES[name]
    found = recognition.matches(tensors, likely, among={name: architecture})
    if not found:
        # It cannot fit: building it for the likely images shows where.
        shape = likely[0] if likely else (1, 28, 28)
        _filled(architecture.build(shape, classes or 10), tensors, path, name)
        raise AssertionError(f"{path} fits {name}, yet was not matched")
    keys_differ = found[0].how != "its key names and shapes"
    return _from_match(found[0], path, *([f"taken as {name} by {found[0].how}"] if keys_differ else []))


def _from_match(match: Match, path: Path, *notes: str) -> Built:
    network = match.architecture.build(match.shape, match.classes)
    name = match.architecture.name
    return Built(_filled(network, match.tensors, path, name), name, match.shape, notes)


def _filled(network: nn.Module, tensors: Mapping[str, Tensor], path: Path, arch: str) -> nn.Module:
    """The network with these weights, in float32. Raises UserError naming the first that do not fit."""
    own: dict[str, Tensor] = {k: v for k, v in network.state_dict().items() if isinstance(v, Tensor)}
    stages = bare(tensors)
    given = next((stage for stage in stages if stage.keys() & own.keys()), stages[-1])
    # The other name of a tied weight need not be in the file, nor the counters of batch norm.
    filled = {own[key].data_ptr() for key in given.keys() & own.keys() if own[key].numel()}
    missing = [
        key
        for key, tensor in own.items()
        if key not in given and tensor.data_ptr() not in filled and not key.endswith("num_batches_tracked")
    ]
    unexpected = [key for key in given if key not in own]
    unlike = [key for key in given if key in own and given[key].shape != own[key].shape]
    faults = []
    if missing:
        faults.append(f"it lacks {_listed({key: tuple(own[key].shape) for key in missing})}")
    if unexpected:
        faults.append(f"it also has {_listed({key: tuple(given[key].shape) for key in unexpected})}")
    if unlike:
        faults.append(
            f"{unlike[0]} is {by(given[unlike[0]].shape)} where {by(own[unlike[0]].shape)} is wanted"
            + (f", and {len(unlike) - 1} more differ" if len(unlike) > 1 else "")
        )
    if faults:
        raise UserError(
            f"the weights in {path} do not fit {arch}: {'; '.join(faults)}; name the architecture they were trained in "
            "with --arch NAME, module:factory or file.py:factory"
        )
    network.load_state_dict(given, strict=False)
    return network.float()


def _unregistered(path: Path, said: Said, name: str, *, by_user: bool) -> UserError:
    if by_user:
        return unknown("architecture", name, [*ARCHITECTURES, "module:factory", "file.py:factory"])
    # A card or a file must not choose which code runs: only its reader may.
    return UserError(
        f"{said.source} says that its architecture is {name!r}, which robench does not know; if you have its code, "
        f"name it: --arch {name if factories.named_factory(name) else 'file.py:factory'}"
    )


def by(shape: tuple[int, ...]) -> str:
    """How a shape is written: 1x28x28."""
    return "x".join(map(str, shape)) if shape else "one number"


def _listed(shapes: Mapping[str, tuple[int, ...]], most: int = 3) -> str:
    """The first keys with their shapes."""
    named = [f"{key} ({by(shape)})" for key, shape in list(shapes.items())[:most]]
    return ", ".join(named) + (f" and {len(shapes) - most} more" if len(shapes) > most else "")
