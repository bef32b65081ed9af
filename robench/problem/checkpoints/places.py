"""Where in a file all weights of a network lie: under which prefix, or in which parts.

Training scripts put `module.`, `model.backbone.` or `state_dict.` before every key of a network, in any order. So the
keys of the network are found as endings of the names in the file, in time proportional to the number of names.
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
"""Words in the names of weights that are an average or another copy of those that were trained."""
COUNTER = "num_batches_tracked"
"""Counters of batch norm, which older files lack and no forward pass reads."""
INNER = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What wrappers of a layer inside the network put into its keys."""


@dataclass(frozen=True)
class Wanted:
    """The tensors of a network: their shapes by key, and the keys that a file must have, one of each group."""

    shapes: Mapping[str, Shape]
    groups: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, network: nn.Module) -> "Wanted":
        """The other name of a tied weight need not be in a file, nor the counters of batch norm."""
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
        """Of a network without tied weights."""
        return cls(shapes, tuple((key,) for key in shapes if not key.endswith(COUNTER)))

    def missing(self, found: Mapping[str, object]) -> list[str]:
        """The first key of each group of which nothing is found."""
        return [group[0] for group in self.groups if not any(key in found for key in group)]


@dataclass(frozen=True)
class Place:
    """Where weights of a network lie in a file."""

    prefixes: tuple[str, ...]  # one, or one for each part
    names: Mapping[str, str]  # the name in the file, by the network's key
    spelling: str = ""  # how the keys are written there, where it is unusual

    @property
    def prefix(self) -> str:
        """What all names begin with."""
        if len(self.prefixes) == 1:
            return self.prefixes[0]
        return parent(self.prefixes[-1]) if "" not in self.prefixes else ""

    def tensors(self, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights by the network's keys."""
        return {key: held[name] for key, name in self.names.items()}


def parent(prefix: str) -> str:
    """`model.` of `model.net.`."""
    return prefix[: prefix[:-1].rfind(".") + 1] if prefix else ""


def is_copy(prefix: str) -> bool:
    """Whether weights of this name are a copy of others, as `model_ema.` and `encoder_k.`."""
    return not COPIES.isdisjoint(words(prefix))


def find(names: Iterable[str], wanted: Wanted) -> list[Place]:
    """Every place that has all keys of the network, whatever their shapes; none is in several parts if one is whole."""
    names = list(names)
    if not wanted.groups:
        return []
    parts: list[Place] = []
    for spelling, spelt, keys, separator in _spellings(names, wanted):
        one = tuple(written for written, key in keys.items() if key in wanted.groups[0])
        if not any(name.endswith(one) for name in spelt):
            continue  # soon seen, where there are many architectures to try
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
    """The prefix with the most keys of the network; the shortest of several."""
    found = _endings({name: name for name in names}, {key: key for key in wanted.shapes}, ".")
    if not found:
        return None
    best = min(found, key=lambda prefix: (-len(found[prefix]), len(prefix)))
    return Place((best,), found[best])


def fits(tensor: Tensor, shape: Shape, *, loose: bool) -> bool:
    """Whether a tensor has this shape; `loose` passes over axes of one entry."""
    if tuple(tensor.shape) == shape:
        return True
    return loose and [side for side in tensor.shape if side != 1] == [side for side in shape if side != 1]


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two sets of weights are equal, and of one precision."""
    return one.keys() == other.keys() and all(
        one[key].dtype == other[key].dtype and torch.equal(one[key], other[key]) for key in one
    )


def _spellings(names: list[str], wanted: Wanted) -> Iterator[tuple[str, dict[str, str], dict[str, str], str]]:
    """Ways to write keys: a description; the names in the file and the network's keys, by how they are written; and
    what stands between their parts.
    """
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
    """By prefix, the names that are a key behind it."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    longest = max(map(len, keys), default=0)
    ends = re.compile(rf"[.{separator}]")  # a dot always ends a part: it is what follows the key of a dictionary
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
    """Weights that lie beside each other, as `backbone.` and `head.`, or in the stages of a list.

    Each layer comes from one part, and no other part has it: where two have, which of them counts is not known.
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
