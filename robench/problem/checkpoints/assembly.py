"""Puts the weights of a file into the network they were trained in."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import UserError, unknown
from ..architectures import ARCHITECTURES, factories
from ..architectures.factories import Factory
from . import recognition
from .choice import chosen, chosen_module, under, unused, whence
from .contents import Contents
from .misfits import empty, misfit, not_recognised, unknown_set
from .own_normalisation import Own, own_normalisation
from .places import COUNTER, Place, Wanted, find, fits, nearest
from .recognition import BY_NAMES, Match


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
    normalisation: Own | None = None  # that lay beside the weights


def assemble(
    path: Path,
    contents: Contents,
    said: Said,
    *,
    arch: str | Factory | None = None,
    shape: tuple[int, ...] | None = None,
    classes: int | None = None,
    weights: str | None = None,
) -> Built:
    """The network, by what the user says in `arch`, else what the file is or says, else by its keys and shapes.

    `weights` names one of several sets of weights. Raises UserError when no network can be made, or the weights do not
    fit it.
    """
    picked = contents if weights is None else under(contents, weights)
    if arch is None and (contents.module is not None or picked.nested.modules):
        return _whole(contents, picked, path, weights)
    if isinstance(arch, Factory):
        if (whole := _of_class(contents, picked, arch)) is not None:
            return whole
        shape, classes = shape or said.shape, said.classes or classes
        return _from_factory(path, contents, picked, arch, shape, classes, weights)
    if not contents.tensors:
        raise empty(path, contents)
    likely = tuple(s for s in (shape, said.shape) if s is not None)
    name = arch or said.architecture
    if name is not None and name not in ARCHITECTURES:
        raise _unregistered(path, said, name, by_user=arch is not None)
    among = ARCHITECTURES if name is None else {name: ARCHITECTURES[name]}
    found = recognition.matches(picked, likely, among)
    if name is None:
        return _recognised(path, contents, picked, found, weights)
    if not found:
        # It cannot fit: building it for the likely images shows where.
        network = ARCHITECTURES[name].build(likely[0] if likely else (1, 28, 28), said.classes or classes or 10)
        raise _no_fit(path, contents, picked, Wanted.of(network), name, weights)
    match, notes = _of_matches(found, picked)
    notes = ((f"taken as {name} by {match.how}",) if match.how != BY_NAMES else ()) + notes
    return _from_match(match, path, contents, notes)


def _whole(contents: Contents, picked: Contents, path: Path, weights: str | None) -> Built:
    if contents.module is not None:
        if weights is not None:
            raise UserError(f"{path} is a model with one set of weights; leave --weights out")
        return Built(contents.module, contents.code, None)
    name, notes = chosen_module(picked.nested)
    module = picked.nested.modules[name]
    return Built(module.float(), f"{type(module).__module__}.{type(module).__qualname__}", None, notes)


def _of_class(contents: Contents, picked: Contents, arch: Factory) -> Built | None:
    """The module that was saved whole, if it is of the class that the user names: it has its own arguments."""
    if contents.module is not None and arch.makes(contents.module):
        return Built(contents.module, arch.canonical, None)
    alike = {name: module for name, module in picked.nested.modules.items() if arch.makes(module)}
    if not alike:
        return None
    name, notes = chosen_module(replace(picked.nested, modules=alike))
    return Built(alike[name].float(), arch.canonical, None, notes)


def _from_factory(
    path: Path,
    contents: Contents,
    picked: Contents,
    arch: Factory,
    shape: tuple[int, ...] | None,
    classes: int | None,
    weights: str | None,
) -> Built:
    first: Wanted | None = None
    for network, notes in _made(arch, shape, classes, picked):
        wanted = Wanted.of(network)
        first = first or wanted
        places = _fitting(picked, wanted)
        if places:
            place, more = chosen(places, picked)
            return _finished(network, arch.canonical, None, place, path, contents, notes + more)
    assert first is not None, "a factory makes at least one network"
    if not contents.tensors:
        raise empty(path, contents)
    outputs = _outputs(picked, first)
    hint = f"if it takes the number of classes, write it: --arch '{arch.target}:{arch.name}(num_classes={outputs})'"
    raise _no_fit(path, contents, picked, first, arch.text, weights, hint if outputs is not None else "")


def _made(
    arch: Factory, shape: tuple[int, ...] | None, classes: int | None, picked: Contents
) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
    """The network for these images and classes; for as many classes as the weights have; with its own defaults."""
    network = _materialised(arch.build(shape, classes), shape)
    yield network, ()
    outputs = _outputs(picked, Wanted.of(network))
    filled, least = arch.filled(shape, classes), arch.filled(shape, classes, defaults=True)
    with suppress(UserError):  # what the weights do not fit is the better message
        if outputs is not None and arch.filled(shape, outputs) != filled:
            yield _materialised(arch.build(shape, outputs), shape), ()
        if filled != least:
            own = ", ".join(sorted(filled.keys() - least.keys()))
            note = f"{arch.name} is called without {own}: with the numbers of the data the weights would not fit"
            yield _materialised(arch.build(shape, classes, defaults=True), shape), (note,)


def _materialised(network: nn.Module, shape: tuple[int, ...] | None) -> nn.Module:
    """The network after it has seen an image, if it has layers that learn their size from one."""
    lazy = any(nn.parameter.is_lazy(p) for p in (*network.parameters(), *network.buffers()))
    if lazy and shape is not None:
        with torch.no_grad():
            network.float().eval()(torch.zeros(2, *shape))
    return network


def _outputs(picked: Contents, wanted: Wanted) -> int | None:
    """How many classes the weights are for, where they differ from the network in nothing else."""
    places = find(picked.tensors, wanted)
    if not places:
        return None
    place = chosen(places, picked)[0]
    unlike = [
        (tuple(tensor.shape), wanted.shapes[key])
        for key, tensor in place.tensors(picked.tensors).items()
        if not fits(tensor, wanted.shapes[key], loose=picked.loose)
    ]
    outputs = {(given[0], own[0]) for given, own in unlike if given and own and given[1:] == own[1:]}
    return outputs.pop()[0] if len(outputs) == 1 and all(g[1:] == o[1:] for g, o in unlike) else None


def _fitting(picked: Contents, wanted: Wanted) -> list[Place]:
    """The places where all weights lie, in the network's shapes."""
    return [
        place
        for place in find(picked.tensors, wanted)
        if all(fits(picked.tensors[name], wanted.shapes[key], loose=picked.loose) for key, name in place.names.items())
    ]


def _recognised(path: Path, contents: Contents, picked: Contents, found: list[Match], weights: str | None) -> Built:
    if not found and weights is not None and not picked.tensors:
        raise unknown_set(path, contents, weights, [match.place for match in recognition.matches(contents, ())])
    if not found or found[0].beside:
        raise not_recognised(path, picked, found)
    first, more = _of_matches(found, picked)
    others = [match.architecture.name for match in found if match.place == first.place and match is not first]
    note = f"recognised as {first.architecture.name} by {first.how}"
    if others:
        note += f"; {' and '.join(others)} would fit as well, and --arch chooses"
    return _from_match(first, path, contents, (note, *more))


def _of_matches(found: list[Match], picked: Contents) -> tuple[Match, tuple[str, ...]]:
    """The match with the weights to take; of several architectures for them, the first."""
    place, notes = chosen([match.place for match in found], picked)
    return next(match for match in found if match.place == place), notes


def _from_match(match: Match, path: Path, contents: Contents, notes: tuple[str, ...]) -> Built:
    network = match.architecture.build(match.shape, match.classes)
    return _finished(network, match.architecture.name, match.shape, match.place, path, contents, notes)


def _finished(
    network: nn.Module,
    architecture: str,
    shape: tuple[int, ...] | None,
    place: Place,
    path: Path,
    contents: Contents,
    notes: tuple[str, ...],
) -> Built:
    """The network with the weights of this place, and what is said about them."""
    network = network.float()
    own: dict[str, Tensor] = {k: v for k, v in network.state_dict().items() if isinstance(v, Tensor)}
    counters = {key: prefix + key for key in own if key.endswith(COUNTER) for prefix in place.prefixes}
    names = {**{key: name for key, name in counters.items() if name in contents.tensors}, **place.names}
    given = {key: contents.tensors[name] for key, name in names.items()}
    precision = _precision(path, given, own, contents)
    # MATLAB's row vectors become vectors again; what fits has as many numbers.
    network.load_state_dict({key: tensor.reshape(own[key].shape) for key, tensor in given.items()}, strict=False)
    normalisation = own_normalisation(contents.tensors, place, network, shape[0] if shape else None)
    used = normalisation.names if normalisation else ()
    said = notes + whence(place, contents) + unused(place, contents, used) + precision
    return Built(network, architecture, shape, said, normalisation)


def _precision(
    path: Path, given: Mapping[str, Tensor], own: Mapping[str, Tensor], contents: Contents
) -> tuple[str, ...]:
    """What to say about the precision of the weights. Raises UserError when there are no gradients in it."""
    for key, tensor in given.items():
        if own[key].is_floating_point() and not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(
                f"{path} has whole numbers ({kind}) in {key}, as quantised weights have; save the model before "
                "quantisation"
            )
    types = {str(t.dtype).removeprefix("torch.") for t in given.values() if t.is_floating_point()} - {"float32"}
    scales = [name for name in contents.tensors if name.endswith(("weight_scale", "weight_scale_inv", "scale_weight"))]
    if scales and any(name.startswith("float8") for name in types):
        raise UserError(
            f"{path} is quantised: its {' and '.join(sorted(types))} weights go with scales ({scales[0]}); save the "
            "model before quantisation"
        )
    return (f"the weights were {' and '.join(sorted(types))} and are read as float32",) if types else ()


def _no_fit(
    path: Path, contents: Contents, picked: Contents, wanted: Wanted, arch: str, weights: str | None, hint: str = ""
) -> UserError:
    """Why no weights in the file fit this network."""
    if weights is not None and not (picked.tensors or picked.nested.unusable):
        return unknown_set(path, contents, weights, _fitting(contents, wanted))
    whole = find(picked.tensors, wanted)
    place = chosen(whole, picked)[0] if whole else nearest([*picked.tensors, *picked.nested.unusable], wanted)
    return misfit(path, picked, wanted, arch, place, hint)


def _unregistered(path: Path, said: Said, name: str, *, by_user: bool) -> UserError:
    if by_user:
        return unknown("architecture", name, [*ARCHITECTURES, "module:factory", "file.py:factory"])
    # A card or a file must not choose which code runs: only its reader may.
    return UserError(
        f"{said.source} says that its architecture is {name!r}, which robench does not know; if you have its code, "
        f"name it: --arch {name if factories.named_factory(name) else 'file.py:factory'}"
    )
