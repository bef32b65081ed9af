"""The content of a torch.export archive of torch 2.13: a graph as JSON, and weights as bytes.

The format is that of `torch.export.save`: `models/model.json`, `data/weights/` and `data/constants/`, each with a list
of its tensors. The sample inputs, which are a pickle, are not read.
"""

import json
import zipfile
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..zips import entries

SCHEMA = 8  # the first number of the format's version
LARGEST = 2**25  # bytes of JSON
REPEATED = 2**20  # numbers in a tensor that repeats some of its numbers

TYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
"""The types of numbers by their numbers in the format."""


class Refused(Exception):  # noqa: N818 (a decision about a file, not an internal error)
    """The reason why a program is not read without consent: it completes "a torch.export program that ..."."""


@dataclass(frozen=True)
class Archive:
    """A program: its graph, as the JSON holds it, the ranges of its symbols, and its tensors by name."""

    graph: dict[str, Any]
    signature: dict[str, Any]
    ranges: dict[str, Any]
    tensors: dict[str, Tensor]


def read(file: Path | BytesIO) -> Archive:
    """The content of an archive. Raises Refused for other versions, and for tensors in pickles."""
    if isinstance(file, Path):
        entries(file)
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()

        def record(name: str) -> bytes:
            full = [n for n in names if n.partition("/")[2] == name]
            if len(full) != 1:
                raise Refused(f"lacks its part {name}, as files of other versions of torch do")
            return archive.read(full[0])

        def table(name: str) -> dict[str, Any]:
            data = record(name)
            if len(data) > LARGEST:
                raise Refused(f"has {len(data):,} bytes of JSON")
            held = json.loads(data)
            if not isinstance(held, dict):
                raise Refused(f"has another content in {name}")
            return held

        program = table("models/model.json")
        version = program["schema_version"]["major"]
        if version != SCHEMA:
            raise Refused(
                f"was written by torch {program.get('torch_version', 'of another version')}, in version {version} of "
                f"the format; robench reads version {SCHEMA}"
            )
        tensors = {}
        for part in ("weights", "constants"):
            for name, entry in table(f"data/{part}/model_{part}_config.json")["config"].items():
                if entry["use_pickle"]:
                    raise Refused(f"has {name} in a pickle")
                tensors[name] = _tensor(record(f"data/{part}/{entry['path_name']}"), entry["tensor_meta"])
    module = program["graph_module"]
    return Archive(module["graph"], module["signature"], program["range_constraints"], tensors)


def _tensor(data: bytes, about: dict[str, Any]) -> Tensor:
    """A tensor in these bytes. Raises Refused if they are too few for its shape."""
    kind = TYPES.get(about["dtype"])
    if kind is None:
        raise Refused(f"has weights of type number {about['dtype']}")
    sizes, strides = ([n["as_int"] for n in about[key]] for key in ("sizes", "strides"))
    start = about["storage_offset"]["as_int"]
    if min([*sizes, *strides, start], default=0) < 0:
        raise Refused("has weights of a negative size")
    if 0 in sizes:
        return torch.empty(sizes, dtype=kind)
    held = torch.frombuffer(bytearray(data), dtype=kind) if data else torch.empty(0, dtype=kind)
    end = start + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True)) + 1
    if end > len(held) or prod(sizes) > max(len(held), REPEATED):
        raise Refused("has fewer numbers in its weights than their shapes need")
    return held.as_strided(sizes, strides, start)
