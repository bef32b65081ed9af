"""Mutated ONNX files: by bytes, and by the parts of the graph."""

import warnings
from pathlib import Path
from random import Random
from typing import Any

import onnx
import torch

from robench.problem import checkpoints

from .changes import TEXTS, changed_bytes
from .texts import QUICK

NUMBERS = [-(2**63), -(2**31), -1, 0, 1, 2, 3, 4097, 2**20, 2**31, 2**40, 2**62]
OPERATORS = [
    *("Add", "ArgMax", "Cast", "Concat", "ConstantOfShape", "Conv", "CumSum", "Div", "Expand", "Flatten", "Gather"),
    *("GatherND", "Gemm", "Hardmax", "Identity", "If", "LSTM", "Loop", "MatMul", "Mod", "NonZero", "OneHot", "Pad"),
    *(
        "QuantizeLinear",
        "Range",
        "Reshape",
        "Resize",
        "ScatterND",
        "Shape",
        "Slice",
        "Softmax",
        "Split",
        "Tile",
        "TopK",
    ),
]


def write_graph(path: Path) -> None:
    """A valid file."""
    classifier = checkpoints.load("digits-nat").classifier
    images, axes = (torch.rand(1, *classifier.shape),), {"x": {0: "N"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter
        torch.onnx.export(classifier.module, images, str(path), dynamo=False, dynamic_axes=axes, input_names=["x"])


def graph(valid: Path, folder: Path, random: Random) -> list[str]:
    """A model in an ONNX file."""
    held = (valid / "model.onnx").read_bytes()
    if random.random() < 0.4:
        data = changed_bytes(held, random)
    else:
        model = onnx.ModelProto.FromString(held)
        for _ in range(random.choice([1, 1, 2, 3])):
            _change(model.graph, random)
        data = model.SerializeToString()
    (folder / "model.onnx").write_bytes(data)
    return ["evaluate", "model.onnx", "--data", "digits", "--examples", "2", "--attack", "pgd(steps=1)", *QUICK]


def _change(graph: Any, random: Random) -> None:
    """One change of a node, a weight, or the input."""
    node, weight = random.choice(graph.node), random.choice(graph.initializer)
    names = [name for one in graph.node for name in (*one.input, *one.output)] + TEXTS[:4]
    match random.randrange(9):
        case 0:
            node.op_type = random.choice(OPERATORS)
        case 1 if node.attribute:
            attribute = random.choice(node.attribute)
            attribute.i = random.choice(NUMBERS)
            attribute.ints[:] = random.choices(NUMBERS, k=random.randrange(5))
        case 2:
            node.attribute.add().CopyFrom(onnx.helper.make_attribute(random.choice(["axis", "k", "to"]), 1))
        case 3 if node.input:
            node.input[random.randrange(len(node.input))] = random.choice(names)
        case 4:
            node.output[0] = random.choice(names)
        case 5:
            weight.dims[:] = random.choices(NUMBERS, k=random.randrange(5))
        case 6:
            weight.data_type = random.randrange(25)
        case 7:
            dims = graph.input[0].type.tensor_type.shape.dim
            random.choice(dims).dim_value = random.choice(NUMBERS)
        case _:
            constant = onnx.helper.make_tensor("s", onnx.TensorProto.INT64, [4], random.choices(NUMBERS, k=4))
            graph.node.insert(0, onnx.helper.make_node("Constant", [], ["s"], value=constant))
            node = graph.node[random.randrange(1, len(graph.node))]
            node.input.append("s")
