"""The errors for weights that fit no network, one sentence each."""

from difflib import get_close_matches
from pathlib import Path

from ...errors import UserError, counted
from ..names import shown
from .choice import called, shapes_listed
from .contents import Contents
from .nested import by, first
from .places import Place, Wanted, fits
from .recognition import Match

QUANTISED = ("_packed_params", "qweight", "qzeros", "SCB", "absmax", "quant_map", "zero_point", "weight_scale")
"""Suffixes of the names that libraries give to quantised weights."""


def empty(path: Path, contents: Contents) -> UserError:
    """The error for a file without weights."""
    held = contents.nested
    if held.optimiser:
        return UserError(f"{path} is the state of an optimiser, not of a model; name the file with the weights")
    if held.unusable:
        return UserError(f"{path}: {_first_unusable(contents)}")
    if contents.tensors:
        return UserError(f"{path} holds the state of an optimiser and no weights; name the file with the weights")
    if held.loops:
        return UserError(f"{path} holds no tensors: its {shown(held.loops[0])} refers back to a container around it")
    inside = f"; it holds {first(held.plain)}" if held.plain else ""
    return UserError(f"{path} holds no tensors{inside}; name the file with the weights")


def not_recognised(path: Path, contents: Contents, found: list[Match]) -> UserError:
    """The error for weights of no known architecture; `found` are matches that leave some tensors unused."""
    held = contents.nested
    if held.optimiser:
        return UserError(f"{path} is the state of an optimiser, not of a model; name the file with the weights")
    if not contents.tensors:
        return empty(path, contents)
    if (quantised := _quantised(contents)) is not None:
        return UserError(f"{path} {quantised}")
    if found:
        name = found[0].architecture.name
        beside = {name: contents.tensors[name] for name in found[0].beside}
        return UserError(
            f"{path} has all weights of {name}, and also {shapes_listed(beside)}; if the network does not use these, "
            f"type --arch {name}, else name the network with --arch file.py:factory"
        )
    if {"x", "y"} <= contents.tensors.keys() or {"x_test", "y_test"} <= contents.tensors.keys():
        return UserError(f"{path} holds images and labels, not weights; give it with --data, and name a model")
    if held.unusable:
        return UserError(f"{path}: {_first_unusable(contents)}")
    if all(name.isdigit() for name in contents.tensors):
        return UserError(f"{path} holds a list, not weights by name; save the model's state_dict()")
    return UserError(
        f"{path} matches no architecture that robench knows (it begins with {shapes_listed(contents.tensors)}); name "
        "it with --arch file.py:factory"
    )


def ambiguous(path: Path, found: list[Match], measured: str = "") -> UserError:
    """The error for weights that are those of several architectures, of which none is usual for such images.

    `measured` is how often each is correct, if clean images do not decide between them.
    """
    names = [match.architecture.name for match in found]
    return UserError(
        f"{path} has the weights of {' and of '.join(names)}, which differ in strides or pooling that weights do not "
        f"show; type --arch {' or --arch '.join(names)}{measured}"
    )


def unknown_set(path: Path, contents: Contents, weights: str, places: list[Place]) -> UserError:
    """The error for a `--weights` that names no set in the file; `places` are those that fit."""
    sets = [called(place) for place in places if place.prefixes != ("",)] or _sets(contents)
    near = get_close_matches(weights, sets, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    there = f"it has {first(sets, limit=8)}" if sets else "it has one set of weights: leave --weights out"
    return UserError(f"{path} has no weights under {shown(weights)}; {hint}{there}")


def misfit(path: Path, contents: Contents, wanted: Wanted, arch: str, place: Place | None, hint: str = "") -> UserError:
    """The error that lists missing and differing weights at the place that fits best; `hint` says what to type."""
    if contents.nested.optimiser:
        return UserError(f"{path} is the state of an optimiser, not of a model; name the file with the weights")
    if (quantised := _quantised(contents)) is not None:
        return UserError(f"{path} {quantised}")
    place = place or Place(("",), {})
    for name in place.names.values():
        if name in contents.nested.unusable:
            return UserError(f"{path}: {shown(name)} {contents.nested.unusable[name]}")
    if not wanted.shapes:
        return UserError(
            f"the network {arch} has no weights, and {path} has {counted(len(contents.tensors), 'tensor')}"
        )
    where = f" under {called(place)}" if place.prefix else ""
    return UserError(
        f"the weights in {path} do not fit {arch}{where}: {'; '.join(_faults(contents, wanted, place))}; "
        + (hint or "name the architecture they were trained in with --arch NAME, module:factory or file.py:factory")
    )


def _faults(contents: Contents, wanted: Wanted, place: Place) -> list[str]:
    given = place.tensors(contents.tensors)
    missing = wanted.missing(place.names)
    used = {*place.names.values()}
    others = {name: tensor for name, tensor in contents.tensors.items() if name not in used}
    beside = {n.removeprefix(place.prefix): t for n, t in others.items() if n.startswith(place.prefix)}
    unlike = [key for key, tensor in given.items() if not fits(tensor, wanted.shapes[key], loose=contents.loose)]
    faults = [f"it lacks {shapes_listed({key: wanted.shapes[key] for key in missing})}"] if missing else []
    if missing and beside:
        faults.append(f"it also has {shapes_listed(beside)}")
    if unlike:
        more = len(unlike) - 1
        faults.append(
            f"{unlike[0]} is {by(given[unlike[0]].shape)} where {by(wanted.shapes[unlike[0]])} is needed"
            + (f", and {more} more {'differ' if more > 1 else 'differs'}" if more else "")
        )
    return faults


def _first_unusable(contents: Contents) -> str:
    name, why = next(iter(contents.nested.unusable.items()))
    return f"{shown(name)} {why}" if name else f"it {why}"


def _quantised(contents: Contents) -> str | None:
    for name in (*contents.tensors, *contents.nested.unusable):
        if name.endswith(QUANTISED) or "is quantised" in contents.nested.unusable.get(name, ""):
            return f"is quantised ({shown(name)}), and has no gradients; save the model before quantisation"
    return None


def _sets(contents: Contents) -> list[str]:
    """The names of the containers that hold tensors directly."""
    held = contents.nested
    return [
        shown(container[:-1])
        for container in dict.fromkeys(held.container(name) for name in contents.tensors)
        if container
    ]
