"""Graphs that cannot be imported, computed by ONNX Runtime: images go in and logits come out, without gradients.

The file is a stranger's: nothing outside it is read, operators that may run without end are refused, and so is memory
beyond a limit.
"""

import importlib
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ....errors import first_line
from ...names import shown
from ...shapes import Inputs
from .node import Refused

MEMORY = 2**33  # bytes that ONNX Runtime may use for all values and weights
LONGEST = 160  # characters of a message of ONNX Runtime
CODES, PLACE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : "), re.compile(r"^/\S+:\d+ .*?\) (?=[A-Z])")
ROWS = 64  # images that are computed at one time
TYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(double)": torch.float64}
NUMBERS = ("tensor(float", "tensor(double", "tensor(int", "tensor(uint8", "tensor(bool")
ENDLESS = {"Loop", "Scan", "SequenceMap"}
"""The operators that may repeat a graph as often as they like."""
RUNTIME = {
    *("Attention", "BiasAdd", "BiasGelu", "BiasSplitGelu", "DequantizeLinear", "DynamicQuantizeMatMul", "FastGelu"),
    *("FusedConv", "FusedGemm", "FusedMatMul", "Gelu", "GroupNorm", "MatMulIntegerToFloat", "MultiHeadAttention"),
    *("NhwcConv", "NhwcFusedConv", "NhwcMaxPool", "QAttention", "QGemm", "QLinearAdd", "QLinearAveragePool"),
    *("QLinearConcat", "QLinearConv", "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMul"),
    *("QLinearReduceMean", "QLinearSigmoid", "QLinearSoftmax", "QLinearWhere", "QuantizeLinear", "QuickGelu"),
    *("SkipGroupNorm", "SkipLayerNormalization"),
}
"""The operators of ONNX Runtime's own that classifiers have; others may read files."""
DOMAINS = ("", "ai.onnx", "ai.onnx.ml")


class ForwardOnly(nn.Module):
    """A graph that ONNX Runtime computes on the CPU. Its output has no gradients. Raises Refused if it cannot be read.

    Copies share the graph, which never changes. The content of the file has passed `refuse_what_may_do_more`.
    """

    def __init__(self, data: bytes):
        super().__init__()
        try:
            self._session = _session(data)
        except Exception as error:  # ONNX Runtime's own classes
            raise Refused(f"cannot be read by ONNX Runtime ({_short(error)}); export the model again") from None
        (image,) = self._session.get_inputs()
        self._outputs = [output.name for output in self._session.get_outputs() if output.type.startswith(NUMBERS)]
        if image.type not in TYPES or not self._outputs:
            raise Refused(f"takes {image.type} and returns no tensor of numbers that ONNX Runtime has; export it again")
        self._image, self._type = image.name, TYPES[image.type]

    def forward(self, x: Inputs) -> Tensor | dict[str, Tensor]:
        parts = [self._answer(rows) for rows in torch.split(x.detach(), max(len(x), 1) if self._whole else ROWS)]
        whole = [torch.cat(part).to(x.device) for part in zip(*parts, strict=True)]
        whole = [part.float() if part.is_floating_point() else part for part in whole]
        return whole[0] if len(whole) == 1 else dict(zip(self._outputs, whole, strict=True))

    def __deepcopy__(self, memo: dict[int, Any]) -> "ForwardOnly":
        copy = self.__class__.__new__(self.__class__)
        nn.Module.__init__(copy)
        for name in ("_session", "_image", "_type", "_outputs"):
            setattr(copy, name, getattr(self, name))
        return copy.train(self.training)

    @property
    def _whole(self) -> bool:
        """Whether the file fixes the number of images, so that they are not split here."""
        return isinstance(self._session.get_inputs()[0].shape[0], int)

    def _answer(self, rows: Tensor) -> list[Tensor]:
        shape = [size if isinstance(size, int) else -1 for size in self._session.get_inputs()[0].shape[1:]]
        if len(shape) != rows.ndim - 1:
            rows = rows.reshape(len(rows), *shape)
        try:
            answers = self._session.run(self._outputs, {self._image: rows.to("cpu", self._type).numpy()})
        except Exception as error:  # ONNX Runtime's own classes
            raise ValueError(f"ONNX Runtime fails ({_short(error)})") from None
        return [torch.from_numpy(answer) for answer in answers]


def available() -> bool:
    """Whether ONNX Runtime is installed."""
    return importlib.util.find_spec("onnxruntime") is not None


def refuse_what_may_do_more(model: Any) -> None:
    """Raises Refused for a parsed file that may do more than compute."""
    if (reason := next(_reasons_against(model), None)) is not None:
        raise Refused(reason)


def import_runtime() -> None:
    """Imports ONNX Runtime, which reads files; a process that reads none afterwards can use it."""
    importlib.import_module("onnxruntime")


def _reasons_against(model: Any) -> Iterator[str]:
    """What in a file may do more than compute: other files, loops, unknown operators and functions of its own."""
    if len(model.functions):
        yield "has functions of its own; export the model without"
    for message in _messages(model):
        kind = message.DESCRIPTOR.name
        if kind == "TensorProto" and (message.data_location == 1 or len(message.external_data)):
            yield f"has the weights {shown(str(message.name))} in another file, which is not read; put all into one"
        if kind != "NodeProto":
            continue
        operator, domain = str(message.op_type), str(message.domain)
        if operator in ENDLESS:
            yield f"has the operator {operator}, which may run without end; export the model without"
        if domain not in DOMAINS and (domain != "com.microsoft" or operator not in RUNTIME):
            yield (
                f"has the operator {shown(operator)} of {shown(domain)}, which is not ONNX's own; export the model"
                " without the optimisations of a runtime"
            )


def _messages(message: Any) -> Iterator[Any]:
    """All parts of a parsed file, at any depth."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if hasattr(value, "__len__") else (value,):
                yield from _messages(part)


def _short(error: Exception) -> str:
    """A message of ONNX Runtime without the codes and the place in its source that it begins with."""
    message = CODES.sub("", first_line(error))
    return shown(PLACE.sub("", message.rpartition("Status Message: ")[2])[:LONGEST])


def _session(data: bytes) -> Any:
    import onnxruntime

    _limit_memory()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.use_env_allocators", "1")
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


@cache
def _limit_memory() -> None:
    """Limits the memory of all sessions of this process, once."""
    import onnxruntime

    place = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.set_default_logger_severity(4)  # else it prints what it raises
    limits = onnxruntime.OrtArenaCfg({"max_mem": MEMORY})
    onnxruntime.create_and_register_allocator(place, limits)
