"""Parses an ONNX file into nodes and constants. Nothing of the graph is computed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....errors import UserError, described
from ...names import shown
from ..zips import AGAIN
from .layer import BATCH
from .node import Body, Node, Refused, Unsupported, Value
from .wire import LARGEST, too_many_parts

OLDEST, NEWEST = 7, 28  # versions of the operators; before 7 shapes were matched by other rules
NODES = 100_000

FLOATS = {"FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE"}
"""The types of numbers that are read as float32."""
INTEGERS = {"INT64", "INT32", "INT16", "INT8", "UINT8", "BOOL"}
"""The types of constants that are no weights."""


@dataclass(frozen=True)
class Source:
    """The content of an ONNX file. Sizes of the input that may vary are None; the first is the number of images."""

    nodes: Sequence[Node]
    constants: Mapping[str, Tensor]
    input: str
    sizes: tuple[int | None, ...]
    outputs: tuple[str, ...]
    types: frozenset[str]  # of weights, other than float32


def parsed(path: Path, data: bytes) -> "File":
    """A file, of which no tensor is read. Raises UserError if the pip package is missing, Refused if it is damaged."""
    try:
        import onnx
    except ImportError as error:
        raise UserError(
            f"{path} is ONNX, which needs the package onnx ({described(error)}); pip install 'robench[onnx]'"
        ) from None
    if too_many_parts(data, onnx.ModelProto.DESCRIPTOR):
        raise Refused("has far more parts than a classifier; name another file")
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception:  # protobuf's own classes, which differ between its versions
        raise Refused(f"is cut off, damaged or nested too deeply; {AGAIN}") from None
    return File(model)


class File:
    """A parsed file. Its methods raise Refused."""

    def __init__(self, model: Any):
        self.graph = model.graph
        self.model = model
        self.types: set[str] = set()
        self.opset = 0
        self.nodes = 0

    def source(self) -> Source:
        """The content that can be imported. Raises Unsupported for tensors of other types."""
        graph = self.graph
        if not graph.node or not graph.output:
            raise Refused(f"is not an ONNX file with a graph; {AGAIN}")
        self.opset = self._opset()
        constants = self._constants(graph)
        name, sizes = self.images()
        outputs = tuple(dict.fromkeys(_text(output.name) for output in graph.output))
        nodes = _needed(self._nodes(graph), outputs)
        return Source(nodes, constants, name, sizes, outputs, frozenset(self.types - {"FLOAT"}))

    def _constants(self, graph: Any) -> dict[str, Tensor]:
        if graph.sparse_initializer:
            raise Refused("has sparse weights; export the model with dense ones")
        constants: dict[str, Tensor] = {}
        for tensor in graph.initializer:
            name = _text(tensor.name)
            if name in constants:
                raise Refused(f"names two weights {shown(name)!r}; export the model again")
            constants[name] = self.tensor(tensor, shown(name))
        return constants

    def _nodes(self, graph: Any) -> list[Node]:
        self.nodes += len(graph.node)
        if self.nodes > NODES:
            raise Refused(f"has {self.nodes:,} nodes, unlike any classifier; name another file")
        return [self._node(node) for node in graph.node]

    def _opset(self) -> int:
        versions = [entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")]
        if len(versions) != 1:
            raise Refused("does not name one version of the ONNX operators (opset); export the model again")
        if versions[0] < OLDEST:
            raise Refused(
                f"uses opset {versions[0]}, and robench reads {OLDEST} to {NEWEST}; "
                "convert it with onnx.version_converter.convert_version(model, 17)"
            )
        if versions[0] > NEWEST:
            raise Refused(f"uses opset {versions[0]}, and robench reads {OLDEST} to {NEWEST}; export it with opset 20")
        return int(versions[0])

    def images(self) -> tuple[str, tuple[int | None, ...]]:
        """The name of the image input, and its sizes."""
        constants = {_text(tensor.name) for tensor in self.graph.initializer}
        inputs = [given for given in self.graph.input if _text(given.name) not in constants]
        if len(inputs) != 1:
            named = ", ".join(shown(_text(given.name)) for given in inputs[:4]) or "none"
            raise Refused(
                f"needs one input, the images, but has {len(inputs)} ({named}); export a model of images alone"
            )
        (image,) = inputs
        name = _text(image.name)
        if not image.type.HasField("tensor_type"):
            raise Refused(f"has an input {shown(name)} that is no tensor; export a model of images")
        kind = _type_name(image.type.tensor_type.elem_type)
        if kind not in FLOATS:
            raise Refused(
                f"reads images of type {kind.lower()}; robench gives floats from 0 to 1, so export a model of these"
            )
        self.types.add(kind)
        shape = image.type.tensor_type.shape.dim
        if not image.type.tensor_type.HasField("shape") or not shape:
            raise Refused(f"does not say which shape its input {shown(name)} has; export it with input shapes")
        sizes = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in shape)
        if any(size is not None and size < 1 for size in sizes[1:]) or (sizes[0] or 0) < 0:
            raise Refused(f"has an input of shape {_by(sizes)}; every size must be above 0, so export it again")
        if prod(size or 1 for size in sizes) > BATCH:
            raise Refused(f"has an input of shape {_by(sizes)}, more numbers than any image; export it again")
        return name, (sizes[0] or None, *sizes[1:])

    def _node(self, node: Any) -> Node:
        attributes: dict[str, Value] = {}
        name, operator, domain = map(_text, (node.name, node.op_type, node.domain))
        for attribute in node.attribute:
            key = _text(attribute.name)
            if key in attributes:
                raise Refused(f"gives a node two attributes {shown(key)!r}; export the model again")
            attributes[key] = self._value(attribute, f"{shown(name or operator)}.{shown(key)}", branch=operator == "If")
        inputs, outputs = (tuple(map(_text, names)) for names in (node.input, node.output))
        if operator == "If" and not inputs:
            raise Refused(f"is damaged: a branch {shown(name)!r} has no condition; export the model again")
        read = (name for value in attributes.values() if isinstance(value, Body) for name in value.free)
        inputs = (*inputs, *dict.fromkeys(name for name in read if name not in inputs))
        operator = operator if domain in ("", "ai.onnx") else f"{domain}.{operator}"
        return Node(name, operator, self.opset, inputs, outputs, attributes)

    def _value(self, attribute: Any, where: str, *, branch: bool) -> Value:
        import onnx

        kinds = onnx.AttributeProto
        if attribute.ref_attr_name:
            return None
        if attribute.type == kinds.TENSOR:
            return self.tensor(attribute.t, where)
        if attribute.type == kinds.GRAPH and branch:
            outputs = tuple(_text(output.name) for output in attribute.g.output)
            return Body(_needed(self._nodes(attribute.g), outputs), self._constants(attribute.g), outputs)
        readers: dict[int, Value] = {
            kinds.FLOAT: attribute.f,
            kinds.INT: attribute.i,
            kinds.FLOATS: tuple(attribute.floats),
            kinds.INTS: tuple(attribute.ints),
            kinds.STRING: attribute.s.decode(errors="replace"),
        }
        return readers.get(attribute.type)

    def tensor(self, tensor: Any, name: str) -> Tensor:
        """A constant: numbers of any float type as float32. Raises Refused for other types, and for other sizes."""
        import onnx

        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise Refused(
                f"has the weights {name} in another file, which is not read; put all into one: "
                "onnx.save(onnx.load('model.onnx'), 'one.onnx'), or torch.onnx.export(..., external_data=False)"
            )
        kind = _type_name(tensor.data_type)
        if kind not in FLOATS | INTEGERS:
            raise Unsupported(
                f"has {name} of type {kind.lower()}, which robench does not read; export the model in float32, "
                "before any quantisation"
            )
        if kind in FLOATS:
            self.types.add(kind)
        try:
            if any(size < 0 for size in tensor.dims):
                raise ValueError(f"a negative size in {list(tensor.dims)}")
            array = onnx.numpy_helper.to_array(tensor)  # views of the file's own bytes, so no size can be claimed
            whole = torch.float32 if kind in FLOATS else torch.bool if kind == "BOOL" else torch.int64
            if kind == "BFLOAT16":
                array = array.astype("float32")
            return torch.tensor(array, dtype=whole)
        except Exception as error:  # numpy's, protobuf's and onnx's own
            raise Refused(f"has {name} with other numbers than its shape needs ({described(error)}); {AGAIN}") from None


def _needed(nodes: Sequence[Node], outputs: Sequence[str]) -> list[Node]:
    """The nodes that the outputs depend on, in their order, with the outputs that are read."""
    needed = set(outputs)
    found = []
    for node in reversed(nodes):
        if needed.intersection(filter(None, node.outputs)):
            needed.update(node.inputs)
            found.append(replace(node, outputs=tuple(name if name in needed else "" for name in node.outputs)))
    return found[::-1]


def _text(value: str | bytes) -> str:
    """A text of the file, which protobuf returns as bytes if it is not valid."""
    return value if isinstance(value, str) else value.decode(errors="replace")


def _type_name(number: int) -> str:
    import onnx

    names: Iterator[str] = (name for name, value in onnx.TensorProto.DataType.items() if value == number)
    return next(names, f"number {number}")


def _by(sizes: Sequence[int | None]) -> str:
    return "x".join("?" if size is None else str(size) for size in sizes)


def read_bytes(path: Path) -> bytes:
    """The content of the file. Raises UserError if it is too large for protobuf, or cannot be read."""
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} has more than 2 GB, the largest ONNX file there can be; name another file")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
