"""Finds the weights of a network in a file: under a common prefix, or in several parts.

Training scripts put `module.`, `model.backbone.` or `state_dict.` before every key of a network, in any order. So the
keys of the network are matched with the ends of the names in the file, in time linear in the number of names.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .nested import words

Shape = tuple[int, ...]

COPIES = {"ema", "swa", "avg", "average", "averaged", "polyak", "shadow", "momentum", "teacher", "target", "k", "key"}
COPIES |= {"attacker", "old", "prev", "previous", "init", "initial", "frozen"}
"""Words in the names of weights that are an average or another copy of the trained weights."""
COUNTER = "num_batches_tracked"
"""The counters of batch norm: older files lack them, and no forward pass reads them."""
INNER = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""The key parts that wrappers around a layer inside the network add."""


@dataclass(frozen=True)
class Wanted:
    """The tensors of a network: shapes by key, and groups of keys; a file must have one key of each group."""

    shapes: Mapping[str, Shape]
    groups: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, network: nn.Module) -> "Wanted":
        """The tensors of this network. Tied weights form a group; the counters of batch norm are optional."""
        own = {key: tensor for key, tensor in network.state_dict().items() if isinstance(tensor, Tensor)}
        groups: dict[object, list[str]] = defaultdict(list)
        for key, tensor in own.items():
            if not key.endswith(COUNTER):
                memory = tensor.data_ptr() if tensor.numel() and tensor.device.type != "meta" else 0
                groups[(memory, tensor.shape, tensor.stride()) if memory else key].append(key)
        shapes = {key: tuple(tensor.shape) for key, tensor in own.items()}
        return cls(shapes, tuple(map(tuple, groups.values())))

    @classmethod
    def like(cls, shapes: Mapping[str, Shape]) -> "Wanted":
        """The tensors of a network with these shapes and without tied weights."""
        return cls(shapes, tuple((key,) for key in shapes if not key.endswith(COUNTER)))

    def missing(self, found: Mapping[str, object]) -> list[str]:
        """The first key of each group without a key in `found`."""
        return [group[0] for group in self.groups if not any(key in found for key in group)]


@dataclass(frozen=True)
class Place:
    """The place of a network's weights in a file."""

    prefixes: tuple[str, ...]  # one prefix, or one for each part
    names: Mapping[str, str]  # the name in the file, by the network's key
    spelling: str = ""  # how the keys are spelled in the file; empty if as in the network

    @property
    def prefix(self) -> str:
        """The common prefix of all names."""
        if len(self.prefixes) == 1:
            return self.prefixes[0]
        return parent(self.prefixes[-1]) if "" not in self.prefixes else ""

    def tensors(self, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights, by the network's keys."""
        return {key: held[name] for key, name in self.names.items()}


def parent(prefix: str) -> str:
    """The parent of a prefix: `model.` for `model.net.`."""
    return prefix[: prefix[:-1].rfind(".") + 1] if prefix else ""


def is_copy(prefix: str) -> bool:
    """Whether weights under this prefix are a copy of others, as under `model_ema.` and `encoder_k.`."""
    return not COPIES.isdisjoint(words(prefix))


def find(names: Iterable[str], wanted: Wanted) -> list[Place]:
    """Every place that has all keys of the network, whatever their shapes.

    Places in several parts are returned only if no single prefix has all keys.
    """
    names = list(names)
    if not wanted.groups:
        return []
    parts: list[Place] = []
    for spelling, spelt, keys, separator in _spellings(names, wanted):
        one = tuple(written for written, key in keys.items() if key in wanted.groups[0])
        if not any(name.endswith(one) for name in spelt):
            continue  # a cheap test first, because many architectures are tried
        found = _endings(spelt, keys, separator)
        whole = [
            Place((prefix,), held, spelling)
            for prefix, held in found.items()
            if len(held) >= len(wanted.groups) and not wanted.missing(held)
        ]
        if whole:
            return whole
        parts = parts or [Place(*put, spelling) for put in _in_parts(found, wanted)]
    return parts


def nearest(names: Iterable[str], wanted: Wanted) -> Place | None:
    """The place with the most keys of the network; among equals, the one with the shortest prefix."""
    found = _endings({name: name for name in names}, {key: key for key in wanted.shapes}, ".")
    if not found:
        return None
    best = min(found, key=lambda prefix: (-len(found[prefix]), len(prefix)))
    return Place((best,), found[best])


def fits(tensor: Tensor, shape: Shape, *, loose: bool) -> bool:
    """Whether a tensor has this shape; with `loose`, axes of length 1 are ignored."""
    if tuple(tensor.shape) == shape:
        return True
    return loose and [side for side in tensor.shape if side != 1] == [side for side in shape if side != 1]


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two sets of weights are equal, and have the same precision."""
    return one.keys() == other.keys() and all(
        one[key].dtype == other[key].dtype and torch.equal(one[key], other[key]) for key in one
    )


def _spellings(names: list[str], wanted: Wanted) -> Iterator[tuple[str, dict[str, str], dict[str, str], str]]:
    """The spellings of keys to try: description, names in the file, network keys (both by spelling), separator."""
    plain = {key: key for key in wanted.shapes}
    yield "", {name: name for name in names}, plain, "."
    inner = {".".join(part for part in name.split(".") if part not in INNER): name for name in names}
    if len(inner) == len(names):
        yield "without the names of inner wrappers in the keys", inner, plain, "."
    for separator in "/_":
        keys = {key.replace(".", separator): key for key in wanted.shapes}
        if len(keys) == len(plain):
            yield f"with {separator} for the dots of the keys", {name: name for name in names}, keys, separator


def _endings(names: Mapping[str, str], keys: Mapping[str, str], separator: str) -> dict[str, dict[str, str]]:
    """The names in the file that consist of a prefix and a network key, by prefix and key."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    longest = max(map(len, keys), default=0)
    ends = re.compile(rf"[.{separator}]")  # a dot always ends a part, because it joins the keys of dictionaries
    for spelt, name in names.items():
        if spelt in keys:
            found[""][keys[spelt]] = name
        for end in ends.finditer(spelt, max(0, len(spelt) - longest - 1)):
            if (key := keys.get(spelt[end.end() :])) is not None:
                found[spelt[: end.end()]][key] = name
    return found


def _in_parts(
    found: Mapping[str, Mapping[str, str]], wanted: Wanted
) -> Iterator[tuple[tuple[str, ...], dict[str, str]]]:
    """Weights in parts that lie side by side, as under `backbone.` and `head.`, or in the items of a list.

    Each layer must lie in exactly one part: if two have it, it is not known which one the network uses.
    """
    families: dict[str, list[str]] = defaultdict(list)
    for prefix in found:
        families[prefix].append(prefix)
        if prefix:
            families[parent(prefix)].append(prefix)
    for family in families.values():
        for members in (family, [prefix for prefix in family if not is_copy(prefix)]):
            if (united := _united(found, members, wanted)) is not None:
                yield united
                break


def _united(
    found: Mapping[str, Mapping[str, str]], members: list[str], wanted: Wanted
) -> tuple[tuple[str, ...], dict[str, str]] | None:
    if len(members) < 2 or sum(len(found[prefix]) for prefix in members) < len(wanted.groups):
        return None
    holders: dict[str, str] = {}
    layers: dict[str, set[str]] = defaultdict(set)
    for prefix in members:
        for key in found[prefix]:
            holders[key] = prefix
            layers[key.rpartition(".")[0]].add(prefix)
    parts = {*holders.values()}
    if any(len(prefixes) > 1 for prefixes in layers.values()) or wanted.missing(holders) or len(parts) < 2:
        return None
    names = {key: found[prefix][key] for key, prefix in holders.items()}
    return tuple(prefix for prefix in members if prefix in parts), names
