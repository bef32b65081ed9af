"""The operators of ONNX that robench imports, each with a function that makes a layer of a node.

Their meaning is that of https://onnx.ai/onnx/operators, and `tests/problem/onnx` compares each with ONNX Runtime.
"""

from collections.abc import Mapping

from ..layer import Maker
from .elementwise import ELEMENTWISE
from .layers import LAYERS
from .pooling import POOLING
from .reductions import REDUCING
from .shapes import SHAPES

OPERATORS: Mapping[str, Maker] = {**ELEMENTWISE, **LAYERS, **POOLING, **REDUCING, **SHAPES}
"""The makers by the names of the operators."""

QUANTISED = {
    "ConvInteger",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
}
"""The operators of quantised models, whose gradients are 0 almost everywhere."""

CONTROL = {"If", "Loop", "Scan", "SequenceMap"}
"""The operators with graphs inside."""
