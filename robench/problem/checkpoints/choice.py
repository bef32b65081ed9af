"""Selects one of several sets of weights in a file, and makes the notes on the rest of the file."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ...errors import UserError, counted
from ..names import shown
from .contents import Contents
from .nested import Nested, by, first, words
from .places import COUNTER, Place, is_copy, same

USUAL = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "params", "weights")
"""Keys under which training scripts store the weights beside the optimiser, the most common first."""
OPTIMISERS = {"optimizer", "optimizers", "optimiser", "optim", "opt", "scheduler", "schedulers"}
"""Words in the keys of an optimiser's state: its averages of gradients have the keys and shapes of weights."""
TRAINING = OPTIMISERS | {"scaler", "amp", "rng", "callbacks", "loops", "sampler"}
"""Words in the keys of other training state beside the weights."""
RULES = (
    "not an average or other copy by its name",
    "the most common key",
    "the last of a list",
    "the shortest name",
    "the first in the file",
)
"""The rules by which one set of weights is preferred, in the order in which they apply."""


def weights_of(contents: Contents) -> Contents:
    """The contents without the state of optimisers."""

    def is_weight(name: str) -> bool:
        return OPTIMISERS.isdisjoint(words(contents.nested.container(name)))

    return replace(contents, tensors={name: tensor for name, tensor in contents.tensors.items() if is_weight(name)})


def under(contents: Contents, key: str) -> Contents:
    """The contents under the key or prefix that `--weights` names, in full or without its first parts."""
    wanted = key.strip(".") + "."
    names = {**contents.tensors, **contents.nested.modules}
    places = {name[: at + len(wanted) - 1] for name in names if (at := f".{name}.".find(f".{wanted}")) >= 0}
    full = [place for place in places if place + "." == wanted] or sorted(places)
    if len(full) > 1:
        raise UserError(f"--weights {key} is ambiguous: {first(full)}; write one of them in full")
    prefix = f"{full[0]}." if full else None
    held = contents.nested

    def inside(name: str) -> bool:
        return prefix is not None and f"{name}.".startswith(prefix)

    nested = replace(
        held,
        modules={name: module for name, module in held.modules.items() if inside(name)},
        unusable={name: why for name, why in held.unusable.items() if inside(name)},
        containers=[container for container in held.containers if inside(container[:-1])],
    )
    tensors = {name: tensor for name, tensor in contents.tensors.items() if inside(name)}
    return replace(contents, tensors=tensors, nested=nested, module=None)


@dataclass(frozen=True)
class Choice:
    """The chosen place, and the other places whose weights would fit: those that differ, and those that are equal."""

    place: Place
    differing: tuple[Place, ...] = ()
    equal: tuple[Place, ...] = ()
    note: tuple[str, ...] = ()  # on those that differ


def chosen(places: Sequence[Place], contents: Contents) -> Choice:
    """The place to use, by `RULES`."""
    # Two architectures may fit at the same place.
    unique: dict[tuple[str, ...], Place] = {}
    for place in places:
        unique.setdefault(place.prefixes, place)
    best, *others = sorted(unique.values(), key=lambda place: _rank(place, contents.nested))
    weights = best.tensors(contents.tensors)
    equal = [place for place in others if same(weights, place.tensors(contents.tensors))]
    differing = [place for place in others if place not in equal]
    return Choice(best, tuple(differing), tuple(equal), _several([best, *differing], contents.nested))


def chosen_module(held: Nested) -> tuple[str, tuple[str, ...]]:
    """The name of the module to use, among modules that were saved whole, by `RULES`; and the note on it."""
    ranked = sorted((Place((f"{name}.",), {}) for name in held.modules), key=lambda place: _rank(place, held))
    return ranked[0].prefix[:-1], _several(ranked, held)


def called(place: Place) -> str:
    """The name of a place in messages, and for `--weights`."""
    return " and ".join(shown(prefix.removesuffix(".")) or "the top of the file" for prefix in place.prefixes)


def whence(place: Place, contents: Contents) -> tuple[str, ...]:
    """The note on where the weights were found; none if their names are the keys of the network."""
    if len(place.prefixes) > 1:
        sources = [f"in parts, from {called(place)}"]
    else:
        (prefix,) = place.prefixes
        container = contents.nested.container(prefix)
        sources = [f"from {shown(container[:-1])}"] if container else []
        sources += [f"with the prefix {shown(prefix[len(container) :])}"] if prefix != container else []
    sources += [place.spelling] if place.spelling else []
    return (f"weights read {', '.join(sources)}",) if sources else ()


def unused(choice: Choice, contents: Contents, also_used: Collection[str] = ()) -> tuple[str, ...]:
    """The note on the rest of the file: copies of the weights, the first tensors beside them, other containers."""
    held, place = contents.nested, choice.place
    used = {*place.names.values(), *also_used}
    used |= {name for other in (*choice.differing, *choice.equal) for name in other.names.values()}
    own = {held.container(prefix) for prefix in place.prefixes}
    beside, elsewhere = [], dict[str, int]()
    for name, tensor in contents.tensors.items():
        if name in used or name.endswith((COUNTER, "n_averaged")):
            continue
        container = held.container(name)
        label = container[:-1] or name.partition(".")[0]
        if container in own:
            beside.append(f"{shown(name[len(container) :])} ({by(tensor.shape)})")
        elif tensor.ndim and TRAINING.isdisjoint(words(label)):
            elsewhere[shown(label)] = elsewhere.get(shown(label), 0) + 1
    pieces = [f"{first(map(called, choice.equal))} (equal weights)"] if choice.equal else []
    pieces += [first(beside)] if beside else []
    pieces += [first(f"{label} ({counted(n, 'tensor')})" for label, n in elsewhere.items())] if elsewhere else []
    return (f"not used: {'; '.join(pieces)}",) if pieces else ()


def shapes_listed(tensors: Mapping[str, Tensor] | Mapping[str, tuple[int, ...]]) -> str:
    """The first keys with their shapes, as text."""
    return first(f"{shown(k)} ({by(v.shape if isinstance(v, Tensor) else v)})" for k, v in tensors.items())


def _rank(place: Place, held: Nested) -> tuple[object, ...]:
    """The sort key of a place: one entry for each of `RULES` but the last, because sorting is stable."""
    prefix = place.prefix
    parts = prefix.split(".")[:-1]
    usual = min((USUAL.index(part) for part in parts if part in USUAL), default=len(USUAL))
    heads = [".".join(parts[: i + 1]) + "." for i in range(len(parts))]
    place_in_list = next((-int(head[:-1].rpartition(".")[2]) for head in heads if head in held.listed), 1)
    return is_copy(prefix), usual if parts else -1, place_in_list, (len(parts), len(prefix))


def _several(places: Sequence[Place], held: Nested) -> tuple[str, ...]:
    """The note on sets of weights that differ; the first is used."""
    if len(places) < 2:
        return ()
    one, other = (_rank(place, held) for place in places[:2])
    decided = next((rule for rule, a, b in zip(RULES, one, other, strict=False) if a != b), RULES[-1])
    names = [called(place) for place in places]
    return (
        f"{len(names)} sets of weights fit and differ ({first(names)}): {names[0]} is used ({decided}); --weights "
        f"{names[1]} selects {'the other' if len(names) == 2 else 'another'}",
    )
