"""Imports an ONNX graph: makes a layer of each node, and computes what does not depend on the images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ....errors import UserError, counted, described
from ...batches import InBatchesOf
from ...names import shown
from ...noise import random_images
from ..zips import AGAIN
from .branches import Conditions, taken
from .forward_only import available, refuse_what_may_do_more
from .graph import IMAGES, Entrance, Graph, Step, sized
from .layer import LARGEST, Layer
from .node import Node, Refused, Unsupported
from .operators import BRANCH, CONTROL, OPERATORS, QUANTISED
from .parsing import File, Source, parsed, read_bytes

EXTRA = 3  # images beyond the fixed number, which show whether the graph takes others
CHANNELS = (1, 3, 4)
"""The numbers of channels of usual images: where the last axis has one of them, it may hold the channels."""
HALVES: Mapping[object, str] = {10: "FLOAT16", 16: "BFLOAT16"}
"""The types with fewer digits than float32, by the numbers that the operator Cast has for them."""
SEVERAL = {"Split", "TopK"}
"""The operators whose second output is imported."""
NOISE = 1e-4  # of the largest logit: more than float32 and less than a change of the function


@dataclass(frozen=True)
class Imported:
    """An imported graph: its weights by name, and the shape of its images if the file fixes it."""

    network: nn.Module
    weights: Mapping[str, Tensor]
    shape: tuple[int, ...] | None
    notes: tuple[str, ...]


def import_onnx(path: Path, forward_only: Callable[[bytes], nn.Module]) -> tuple[Imported, bytes]:
    """The network in an ONNX file, and the content of the file. Raises UserError if it cannot be imported.

    `forward_only` makes the network of a file that is not imported, and that only computes, from its content.
    """
    data = read_bytes(path)
    try:
        return _read(parsed(path, data), data, forward_only), data
    except Refused as error:
        raise UserError(f"{path} {error}") from None


def _read(file: File, data: bytes, forward_only: Callable[[bytes], nn.Module]) -> Imported:
    """The network in a file, with gradients if it can be imported, else without."""
    try:
        return _imported(file.source())
    except Unsupported as error:
        reason, _, cure = str(error).partition("; ")
    if not available():
        raise Refused(f"{reason}; {cure}, or pip install 'robench[onnxruntime]', which computes it without gradients")
    _, sizes = file.images()
    shape, notes = _images(sizes)
    refuse_what_may_do_more(file.model)
    network = forward_only(data)
    note = f"it {reason}: ONNX Runtime computes it, without gradients; {cure}"
    return Imported(network, {}, shape, (*notes, note))


def _imported(source: Source) -> Imported:
    for node in source.nodes:
        _refuse_unknown(node)
    weights = {name: tensor for name, tensor in source.constants.items() if tensor.is_floating_point()}
    shape, notes = _images(source.sizes)
    images = source.sizes[0]
    network = _built(source, images)
    if shape is not None:
        try:
            network.measure(torch.empty(images or IMAGES, *shape, device="meta"))
        except ValueError as error:
            raise Refused(f"cannot be computed: {error}; export the model again") from None
    if images is not None and shape is not None:
        network, note = _for_any_number(source, network, images, shape)
        notes += (note,)
    rounded = {HALVES.get(node.attributes.get("to")) for node in source.nodes if node.operator == "Cast"} - {None}
    types = " and ".join(sorted(name.lower() for name in {*source.types, *rounded} if name))
    notes += (f"the graph is in {types} and is computed in float32",) if types else ()
    return Imported(network, weights, shape, notes)


def _refuse_unknown(node: Node) -> None:
    if node.operator in OPERATORS or node.operator == BRANCH:
        return
    name = shown(node.operator)
    if "." in node.operator:
        domain, _, operator = node.operator.rpartition(".")
        raise Unsupported(
            f"has the operator {shown(operator)} of {shown(domain)}, which is not ONNX's own; export the model "
            "without the optimisations of a runtime, or save the state dict of the model it was made from"
        )
    if node.operator in QUANTISED:
        raise Unsupported(
            f"is quantised (operator {name}), so it has no gradients; export the model before quantisation"
        )
    if node.operator in CONTROL or node.operator.startswith(("Sequence", "Optional")):
        raise Unsupported(
            f"has the operator {name}, whose graph may change from image to image; export the model without"
        )
    raise Unsupported(
        f"has the operator {name}, which robench does not import; save the state dict of the model it was made from, "
        "or trace it with torch.jit.trace"
    )


def _images(by_file: tuple[int | None, ...]) -> tuple[tuple[int, ...] | None, tuple[str, ...]]:
    """The shape of the images, if the file fixes it, and the note if they go in otherwise. Raises Refused for NHWC."""
    sizes = by_file[1:]
    if len(sizes) == 3:
        if sizes[2] in CHANNELS and sizes[0] not in CHANNELS:
            by = "x".join("?" if size is None else str(size) for size in sizes)
            raise Refused(
                f"reads images as height x width x channels ({by}), and robench gives channels x height x width; "
                "export it that way (in tf2onnx: --inputs-as-nchw)"
            )
        return (None if None in sizes else tuple(size for size in sizes if size is not None)), ()
    if None in sizes or not sizes:
        by = "x".join("?" if size is None else str(size) for size in by_file)
        raise Refused(f"reads inputs of {by}, not images (N x channels x height x width); export a model of images")
    return None, (f"the pixels are given to it row by row, as {'x'.join(map(str, sizes))} numbers",)


def _built(source: Source, images: int | None, *, loosely: bool = False) -> Graph:
    """The network for `images` images at a time; `loosely` for any number, where only shapes are written for it."""
    values: dict[str, Tensor] = dict(source.constants)
    known = {*values, source.input}
    layers: list[tuple[Node, Layer]] = []
    folded = 0
    conditions = Conditions(source.input, source.sizes)
    waiting = list(reversed(source.nodes))
    while waiting:
        given = waiting.pop()
        _refuse_unknown(given)
        if given.operator == BRANCH:
            _refuse_unordered(given, known)
            nodes, constants = taken(given, conditions.holds(given.inputs[0], layers, values))
            values.update(constants)
            known.update(constants)
            waiting.extend(reversed(nodes))
            continue
        node = replace(given, constants=values, images=(images or 0) if loosely else 0, read=set())
        _refuse_unordered(node, known)
        layer = _layer(node)
        inputs = node.inputs[: layer.takes]
        # A layer with weights takes one input, so weights are no reason to compute it here.
        if all(name in values or not name for name in inputs):
            results = _folded(node, layer, [values[name] if name else None for name in inputs])
            values.update({name: result for name, result in zip(node.outputs, results, strict=False) if name})
            folded += sum(result.numel() for result in results)
            if folded > LARGEST:
                raise Refused("computes more numbers from its weights than any machine holds; export the model again")
        else:
            layers.append((replace(node, inputs=inputs), layer))
        known.update(filter(None, node.outputs))
    missing = next((name for name in source.outputs if name not in known), None)
    if missing is not None:
        raise Refused(f"has an output {shown(missing)} that nothing computes; {AGAIN}")
    return _graph(source, layers, values, None if loosely else images)


def _graph(source: Source, layers: list[tuple[Node, Layer]], values: dict[str, Tensor], images: int | None) -> Graph:
    used: set[str] = set(source.outputs)
    steps: list[tuple[Step, nn.Module]] = []
    for node, layer in reversed(layers):
        last = {name for name in (*node.inputs, *node.outputs) if name} - used - values.keys()
        steps.append((Step(node.label, node.inputs, node.outputs, layer.numbers, tuple(sorted(last))), layer.module))
        used.update(node.inputs)
    constants = {name: value for name, value in values.items() if name in used}
    entrance = Entrance(source.sizes, images)
    return Graph(entrance, steps[::-1], constants, source.input, source.outputs).eval()


def _refuse_unordered(node: Node, known: set[str]) -> None:
    """Raises Refused if a node reads what no node before it computes, or computes what is there already."""
    missing = next((name for name in node.inputs if name and name not in known), None)
    if missing is not None:
        raise Refused(
            f"is damaged: the {node.label} reads {shown(missing)}, which no node before it computes; "
            "export the model again"
        )
    given = list(filter(None, node.outputs))
    twice = next((name for name in given if name in known or given.count(name) > 1), None)
    if twice is not None or not given:
        raise Refused(
            f"is damaged: {shown(twice or 'nothing')} is computed by the {node.label}; export the model again"
        )


def _layer(node: Node) -> Layer:
    try:
        layer = OPERATORS[node.operator](node)
    except Refused:
        raise
    except Exception as error:  # whatever torch raises for settings that do not fit
        raise Refused(f"is damaged: {described(error)} in the {node.label}; export the model again") from None
    node.refuse_unread()
    if node.operator not in SEVERAL:
        node.single()
    return layer


def _folded(node: Node, layer: Layer, given: list[Tensor | None]) -> tuple[Tensor, ...]:
    """What a node computes from constants."""
    try:
        return tuple(result.contiguous() for result in sized(layer.module, given, layer.numbers))
    except Exception as error:  # whatever torch raises
        raise Refused(f"is damaged: {described(error)} in the {node.label}; export the model again") from None


def _for_any_number(source: Source, network: Graph, images: int, shape: tuple[int, ...]) -> tuple[Graph, str]:
    """The network for any number of images, if it gives the same logits; else as it is. With the note on it."""
    note = f"the file is for exactly {counted(images, 'image')} at a time"
    try:
        free = _built(source, images, loosely=True)
        rows = (
            random_images(shape)[torch.arange(images + EXTRA) % 2]
            * torch.linspace(0.5, 1, images + EXTRA)[:, None, None, None]
        )
        with torch.no_grad():
            one, other = (_answer(n, rows) for n in (InBatchesOf(network, images), free))
            few = _answer(free, rows[:EXTRA])
        scale = float(one.abs().max())
        same = one.shape == other.shape and float((one - other).abs().max()) <= NOISE * scale
        if same and float((one[:EXTRA] - few).abs().max()) <= NOISE * scale:
            return (
                free,
                f"the file is for {counted(images, 'image')} at a time; more give the same logits, so they are taken",
            )
    except Exception:  # whatever torch raises for another number of images
        return network, note
    return network, note


def _answer(network: nn.Module, rows: Tensor) -> Tensor:
    answer = network(rows)
    return torch.cat([part.flatten(1) for part in answer.values()], dim=1) if isinstance(answer, dict) else answer
