"""Builds the network for the weights in a file, and loads them."""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ...errors import UserError, counted, described, unknown
from ..architectures import ARCHITECTURES, Architecture, factories, named
from ..architectures.chain import build, is_chain, parse, written
from ..architectures.factories import Factory
from ..names import shown
from . import recognition
from .choice import Choice, chosen, chosen_module, under, unused, weights_of, whence
from .contents import Contents
from .inference import Inferred, Trial, inferred_chain
from .misfits import ambiguous, empty, misfit, not_recognised, unknown_set
from .nested import by
from .numbered import numbered
from .own_normalisation import Own, own_normalisation
from .places import Place, Wanted, find, fits, nearest
from .recognition import BY_NAMES, Match
from .rivals import compared


@dataclass(frozen=True)
class Declared:
    """What a card, or else the metadata of a file, declares about the weights. None where it declares nothing."""

    source: str
    architecture: str | None = None
    normalisation: str | None = None
    shape: tuple[int, ...] | None = None
    classes: int | None = None


@dataclass(frozen=True)
class Built:
    """A network with its weights. `shape` is the required image shape, if the weights determine it."""

    network: nn.Module
    architecture: str
    shape: tuple[int, ...] | None
    notes: tuple[str, ...] = ()
    normalisation: Own | None = None  # stored beside the weights
    inferred: Inferred | None = None  # what clean images showed


@dataclass(frozen=True)
class _Request:
    """The weights to assemble, and what is known about them."""

    path: Path
    contents: Contents  # of the whole file
    picked: Contents  # the set of weights that the user picked
    declared: Declared
    shape: tuple[int, ...] | None  # of the data
    classes: int | None
    weights: str | None  # the --weights option
    trial: Trial | None  # clean images, if they are at hand


def assemble(
    path: Path,
    contents: Contents,
    declared: Declared,
    *,
    arch: str | Factory | None = None,
    shape: tuple[int, ...] | None = None,
    classes: int | None = None,
    weights: str | None = None,
    trial: Trial | None = None,
) -> Built:
    """The network that `arch` names, else a whole module in the file, else the declared or recognised architecture.

    `weights` names one of several sets of weights. With `trial`, a chain may be inferred. Raises UserError if
    no network can be made, or the weights do not fit it.
    """
    picked = weights_of(contents) if weights is None else under(contents, weights)
    request = _Request(
        path, contents, picked, declared, shape or declared.shape, declared.classes or classes, weights, trial
    )
    if arch is None and (contents.module is not None or picked.nested.modules):
        return _whole(request)
    if isinstance(arch, Factory):
        return _of_class(request, arch) or _from_factory(request, arch)
    if not picked.tensors and weights is None:
        raise empty(path, contents)
    likely = tuple(s for s in (shape, declared.shape) if s is not None)
    name = arch or declared.architecture
    return _recognised(request, likely) if name is None else _registered(request, name, likely, by_user=bool(arch))


def _whole(request: _Request) -> Built:
    """The network of a module that was saved whole."""
    if request.contents.module is not None:
        if request.weights is not None:
            raise UserError(f"{request.path} is a model with one set of weights; leave --weights out")
        return Built(request.contents.module, request.contents.code, request.contents.shape)
    name, notes = chosen_module(request.picked.nested)
    module = request.picked.nested.modules[name]
    return Built(module.float(), f"{type(module).__module__}.{type(module).__qualname__}", None, notes)


def _of_class(request: _Request, arch: Factory) -> Built | None:
    """The module that was saved whole, if it is of the class that the user names: it keeps its own arguments."""
    whole = request.contents.module
    if whole is not None and arch.makes(inside := _unwrapped(whole)):
        return Built(inside, arch.canonical, None)
    held = request.picked.nested
    alike = {name: inside for name, module in held.modules.items() if arch.makes(inside := _unwrapped(module))}
    if not alike:
        return None
    name, notes = chosen_module(replace(held, modules=alike))
    return Built(alike[name].float(), arch.canonical, None, notes)


def _unwrapped(module: nn.Module) -> nn.Module:
    """The network inside torch's own wrappers for several devices and for averaging."""
    while isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel | AveragedModel):
        module = module.module
    return module


def _from_factory(request: _Request, arch: Factory) -> Built:
    first: Wanted | None = None
    for network, notes in _made(request, arch):
        wanted = Wanted.of(network)
        first = first or wanted
        if places := _fitting(request.picked, wanted):
            return _filled(request, network, arch.canonical, None, chosen(places, request.picked), notes)
    assert first is not None, "a factory makes at least one network"
    if not request.picked.tensors and request.weights is None:
        raise empty(request.path, request.contents)
    raise _no_fit(request, first, arch.text, _hint(request, arch, first))


def _made(request: _Request, arch: Factory) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
    """Candidates: built for these images and classes, for the number of classes in the weights, with its defaults."""
    shape, classes = request.shape, request.classes
    network = _materialised(arch, arch.build(shape, classes), shape)
    yield network, ()
    outputs = _outputs(request.picked, Wanted.of(network))
    filled, minimal = arch.filled(shape, classes), arch.filled(shape, classes, defaults=True)
    with suppress(UserError):  # the message about the misfit is more useful
        if outputs is not None and arch.filled(shape, outputs) != filled:
            yield _materialised(arch, arch.build(shape, outputs), shape), ()
        if filled != minimal:
            own = ", ".join(sorted(filled.keys() - minimal.keys()))
            note = f"{arch.name} is called without {own}: with the values of the data the weights would not fit"
            yield _materialised(arch, arch.build(shape, classes, defaults=True), shape), (note,)


def _materialised(arch: Factory, network: nn.Module, shape: tuple[int, ...] | None) -> nn.Module:
    """The network, after a forward pass if it has lazy layers, which infer their size. Raises UserError if it fails."""
    if not any(nn.parameter.is_lazy(weight) for weight in (*network.parameters(), *network.buffers())):
        return network
    if shape is None:
        raise UserError(f"--arch {arch.text} has layers that infer their size from an image; name the data with --data")
    try:
        with torch.no_grad():
            network.float().eval()(torch.zeros(2, *shape))
    except Exception as error:  # whatever the network's own code raises
        raise UserError(
            f"--arch {arch.text} fails on images of {by(shape)} with {described(error)}; choose "
            "the data that it was trained on with --data"
        ) from error
    return network


def _outputs(picked: Contents, wanted: Wanted) -> int | None:
    """The number of classes of the weights, if they differ from the network in nothing else."""
    places = find(picked.tensors, wanted)
    if not places:
        return None
    unlike = [
        (tuple(tensor.shape), wanted.shapes[key])
        for key, tensor in chosen(places, picked).place.tensors(picked.tensors).items()
        if not fits(tensor, wanted.shapes[key], loose=picked.loose)
    ]
    outputs = {(given[0], own[0]) for given, own in unlike if given and own and given[1:] == own[1:]}
    return outputs.pop()[0] if len(outputs) == 1 and all(g[1:] == o[1:] for g, o in unlike) else None


def _hint(request: _Request, arch: Factory, wanted: Wanted) -> str:
    """What to type if a factory's network does not fit; empty if nothing more is known."""
    declared, outputs = request.declared, _outputs(request.picked, wanted)
    if declared.architecture is not None and declared.architecture != arch.canonical:
        return f"{declared.source} names the architecture {shown(declared.architecture)}"
    if outputs is not None:
        call = shlex.quote(f"{arch.target}:{arch.name}(num_classes={outputs})")
        return f"if it takes the number of classes, write it: --arch {call}"
    return ""


def _fitting(picked: Contents, wanted: Wanted) -> list[Place]:
    """The places in the file that hold all weights of the network, in its shapes."""
    return [
        place
        for place in find(picked.tensors, wanted)
        if all(fits(picked.tensors[name], wanted.shapes[key], loose=picked.loose) for key, name in place.names.items())
    ]


def _registered(request: _Request, name: str, likely: tuple[tuple[int, ...], ...], *, by_user: bool) -> Built:
    if is_chain(name):
        return _chain(request, name)
    architecture = named(name)
    if architecture is None:
        raise _unregistered(request, name, by_user=by_user)
    found = recognition.matches(request.picked, likely, [architecture])
    if not found:
        network = _imagined(architecture, likely, request.classes or 10)
        others = [match.architecture.name for match in recognition.matches(request.picked, likely) if not match.beside]
        hint = f"its weights are those of {others[0]}: type --arch {others[0]}" if others else ""
        raise _no_fit(request, Wanted.of(network), name, hint)
    choice = chosen([match.place for match in found], request.picked)
    match = next(match for match in found if match.place == choice.place)
    return _matched(request, match, choice, f"taken as {name} by {match.how}" if match.how != BY_NAMES else "")


def _imagined(architecture: Architecture, likely: tuple[tuple[int, ...], ...], classes: int) -> nn.Module:
    """A network without values, for the likely images: it shows where weights differ that fit no network."""
    with torch.device("meta"):
        return architecture.build(likely[0] if likely else architecture.accepted, classes)


def _recognised(request: _Request, likely: tuple[tuple[int, ...], ...]) -> Built:
    found = recognition.matches(request.picked, likely)
    if not found and request.weights is not None and not request.picked.tensors:
        every = [match.place for match in recognition.matches(request.contents, likely)]
        raise unknown_set(request.path, request.contents, request.weights, every)
    if not found and (chain := inferred_chain(request.path, request.picked, request.trial)) is not None:
        built = _chain(request, chain.architecture)
        return replace(built, inferred=chain)
    if not found or found[0].beside:
        raise not_recognised(request.path, request.picked, found)
    choice = chosen([match.place for match in found], request.picked)
    first, *rest = (match for match in found if match.place == choice.place)
    if rest:
        return _of_rivals(request, [first, *rest], choice)
    return _matched(request, first, choice, f"recognised as {first.architecture.name} by {first.how}")


def _of_rivals(request: _Request, rivals: list[Match], choice: Choice) -> Built:
    """One of several networks with equal keys and shapes: that which clean images show, else the usual one.

    Raises UserError where clean images do not decide and none is usual.
    """
    first, trial = rivals[0], request.trial
    if trial is not None and trial.images.shape != first.shape:
        trial = None
    built = [_matched(request, match, choice, "") for match in (rivals[:1] if trial is None else rivals)]
    usual, measured, clear = built[0], "", False
    if trial is not None:
        own = usual.normalisation
        known = trial.normalisation or (own and own.text) or None
        comparison = compared([one.network for one in built], replace(trial, normalisation=known))
        clear = comparison.clear
        shares = [f"{one.architecture} {share:.1%}" for one, share in zip(built, comparison.accuracies, strict=True)]
        measured = f" (correct on {counted(comparison.images, 'clean image')}: {', '.join(shares)})"
    if not clear and min(first.shape[1:]) < first.architecture.assumed_from:
        raise ambiguous(request.path, rivals, measured)
    taken = built[comparison.best] if clear else usual
    names = (match.architecture.name for match in rivals)
    others = " and ".join(name for name in names if name != taken.architecture)
    note, caution = f"recognised as {taken.architecture} by {first.how}", ""
    if clear:
        note += f" and by clean images; the keys are those of {others} too{measured}"
    else:
        fits_too = f"{others} would fit as well, and --arch chooses{measured}"
        note += f"; {fits_too}"
        caution = f"the network is taken as {taken.architecture}; {fits_too}" if measured else ""
    inferred = Inferred(taken.architecture, None, (), caution) if measured else None
    return replace(taken, notes=(note, *taken.notes), inferred=inferred)


def _chain(request: _Request, text: str) -> Built:
    """The chain that the text describes, with numbered weights of the file."""
    chain, shape, path = parse(text), request.shape, request.path
    if shape is None:
        raise UserError(f"the size of the images decides whether the weights in {path} fit; name the data with --data")
    fitting, reasons = {}, []
    for layers in numbered(request.picked):
        try:
            fitting[layers.place(chain).prefix] = build(chain, layers.shapes, shape), layers.place(chain)
        except UserError as error:
            reasons.append(f"the weights in {path} ({layers.about}) do not fit {text}: {error}")
    if not fitting:
        kinds = "0.weight, 2.weight, ... of convolutions, dense layers and batch norm"
        raise UserError(
            reasons[0]
            if reasons
            else f"{path} has no numbered layers like {kinds}, of which a chain is made; name its network with --arch"
            " file.py:factory"
        )
    choice = chosen([place for _, place in fitting.values()], request.picked)
    network, _ = fitting[choice.place.prefix]
    return _filled(request, network, written(chain), shape, choice, ())


def _matched(request: _Request, match: Match, choice: Choice, note: str) -> Built:
    network = match.architecture.build(match.shape, match.classes)
    return _filled(request, network, match.architecture.name, match.shape, choice, (note,) if note else ())


def _filled(
    request: _Request,
    network: nn.Module,
    architecture: str,
    shape: tuple[int, ...] | None,
    choice: Choice,
    notes: tuple[str, ...],
) -> Built:
    """The network with the chosen weights, and the notes on them."""
    contents, place, network = request.contents, choice.place, network.float()
    own: dict[str, Tensor] = {k: v for k, v in network.state_dict().items() if isinstance(v, Tensor)}
    given = place.tensors(contents.tensors)
    precision = _precision(request, given, own)
    try:
        # MATLAB's row vectors become vectors again; weights that fit have the same number of entries.
        network.load_state_dict({key: tensor.reshape(own[key].shape) for key, tensor in given.items()}, strict=False)
    except Exception as error:  # the network may override the method
        raise UserError(
            f"{architecture} does not take its weights from {request.path} ({described(error)}); "
            "make a network that loads a state dict in the usual way"
        ) from error
    normalisation = own_normalisation(contents.tensors, place, network, shape or request.shape)
    used = normalisation.names if normalisation else ()
    notes += choice.note + whence(place, contents) + unused(choice, contents, used) + precision
    return Built(network, architecture, shape, notes, normalisation)


def _precision(request: _Request, given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The note on the precision of the weights. Raises UserError for quantised weights, which have no gradients."""
    for key, tensor in given.items():
        if own[key].is_floating_point() and not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(
                f"{request.path} has whole numbers ({kind}) in {key}, as quantised weights have; save the model before "
                "quantisation"
            )
    types = sorted({str(t.dtype).removeprefix("torch.") for t in given.values() if t.is_floating_point()} - {"float32"})
    beside = [name for name in request.picked.tensors if not name.endswith(tuple(own))]
    scales = [name for name in beside if "scale" in name.rpartition(".")[2].lower()]  # names differ between libraries
    if scales and any(name.startswith("float8") for name in types):
        raise UserError(
            f"{request.path} is quantised: its {' and '.join(types)} weights have scales ({shown(scales[0])}); save "
            "the model before quantisation"
        )
    return (f"the weights were {' and '.join(types)} and are read as float32",) if types else ()


def _no_fit(request: _Request, wanted: Wanted, arch: str, hint: str = "") -> UserError:
    """The error that says why no weights in the file fit this network."""
    picked = request.picked
    if request.weights is not None and not (picked.tensors or picked.nested.unusable):
        return unknown_set(request.path, request.contents, request.weights, _fitting(request.contents, wanted))
    whole = find(picked.tensors, wanted)
    place = chosen(whole, picked).place if whole else nearest([*picked.tensors, *picked.nested.unusable], wanted)
    return misfit(request.path, picked, wanted, arch, place, hint)


def _unregistered(request: _Request, name: str, *, by_user: bool) -> UserError:
    if by_user and name.endswith(".py"):
        return UserError(f"--arch {name} names no network in that file; write --arch {name}:NETWORK")
    if by_user:
        return unknown("architecture", name, [*ARCHITECTURES, "module:factory", "file.py:factory"])
    # A card or a file must not choose which code runs: only the user may.
    typed = shlex.quote(name) if factories.named_factory(name) else "file.py:factory"
    return UserError(
        f"{request.declared.source} says that its architecture is {shown(name)!r}, which robench does not know; if you "
        f"have its code, name it: --arch {typed}"
    )
