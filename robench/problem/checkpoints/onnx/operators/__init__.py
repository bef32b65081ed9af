"""The operators of ONNX that robench imports, each with a function that makes a layer of a node.

Their meaning is that of https://onnx.ai/onnx/operators, and `tests/problem/onnx` compares each with ONNX Runtime.
"""

from collections.abc import Mapping

from ..layer import Maker
from .elementwise import ELEMENTWISE
from .indexing import INDEXING
from .layers import LAYERS
from .pooling import POOLING
from .reductions import REDUCING
from .resizing import RESIZING
from .shapes import SHAPES

OPERATORS: Mapping[str, Maker] = {
    **ELEMENTWISE,
    **INDEXING,
    **LAYERS,
    **POOLING,
    **REDUCING,
    **RESIZING,
    **SHAPES,
}
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

BRANCH = "If"
"""The operator of which one of two graphs is taken, if its condition does not depend on the images."""

CONTROL = {"Loop", "Scan", "SequenceMap"}
"""The other operators with graphs inside."""
