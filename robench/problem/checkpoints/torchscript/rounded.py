"""TorchScript programs in bfloat16: a copy of the loaded graph, with conversions of tensors before its layers.

No text is compiled, and the copy has the operators of the program and conversions only. It runs without TorchScript's
own derivatives, which take longer than those of PyTorch.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ....errors import UserError

CONVOLUTIONS = frozenset(
    f"aten::{name}"
    for name in (
        *("_convolution", "convolution", "conv1d", "conv2d", "conv3d"),
        *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    )
)
LAYERS = CONVOLUTIONS | {f"aten::{name}" for name in ("linear", "addmm", "mm", "matmul", "bmm", "baddbmm")}

# Graphs, nodes, blocks and values have no documented types.
_C: Any = torch._C
Node = Any
Value = Any


class RoundedScript(nn.Module):
    """A TorchScript module whose convolutions and matrix products are computed in bfloat16, with float32 at both ends.

    A layer that reads the image, directly or through operators that are no layers, has the outputs of float32 and the
    gradient of bfloat16. The last layer computes in float32. `channels_last` is the order of the weights of 2d
    convolutions; some programs, which reshape without regard to strides, raise with it.

    Raises UserError if the program has hooks, state that is not constant, several inputs, or no layer.
    """

    def __init__(self, script: torch.jit.ScriptModule, *, channels_last: bool):
        super().__init__()
        self._function, self._tensors = _Rewriting(script, channels_last).result()

    def forward(self, x: Tensor) -> Any:
        """What the program returns for a batch."""
        with torch.autocast(x.device.type, enabled=False), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return self._function(x, *self._tensors)


class _Rewriting:
    """The graph of a program while it is rewritten, and the tensors that it gets as inputs after the image."""

    def __init__(self, script: torch.jit.ScriptModule, channels_last: bool):
        if script._c._get_forward_hooks() or script._c._get_forward_pre_hooks():
            raise _refusal("has hooks")  # they are not part of the graph
        self.graph: Any = script.inlined_graph  # a copy
        self.tensors: dict[str, Tensor] = {}  # the inputs of the graph after the image, by name
        self.rounded: dict[str, Value] = {}  # inputs by the name of the one whose rounded copy they are
        _C._jit_pass_erase_shape_information(self.graph)
        self._lift_attributes(script)
        self._lift_constants()
        self.image, *others = (v for v in self.graph.inputs() if v.debugName() not in self.tensors)
        if others:
            raise _refusal("takes several inputs")
        if channels_last:
            self._use_channels_last()
        device = next((tensor.device for tensor in self.tensors.values()), torch.device("cpu"))
        types = (torch.float32, torch.bfloat16)
        self.like = {dtype: self._add_input(torch.zeros((), dtype=dtype, device=device)) for dtype in types}

    def result(self) -> tuple[Callable[..., Any], list[Tensor]]:
        """The rewritten program, and its tensors."""
        layers = [node for node in _nodes(self.graph) if node.kind() in LAYERS]
        if not layers:
            raise _refusal("has no convolution or dense layer")
        raw = _raw_values(self.graph, self.image)
        images = [next((value for value in layer.inputs() if value.debugName() in raw), None) for layer in layers]
        for layer, image in zip(layers[:-1], images[:-1], strict=True):
            if image is not None:
                self._through(layer, image)
            else:
                self._convert(layer, self._to_bfloat16)
        self._convert(layers[-1], lambda value: self._type_as(value, torch.float32))
        for i, value in reversed(list(enumerate(self.graph.inputs()))):
            if value.debugName() in self.tensors and not value.uses():
                self.graph.eraseInput(i)
        tensors = [self.tensors[value.debugName()] for value in list(self.graph.inputs())[1:]]
        return _C._create_function_from_graph("forward", self.graph), tensors

    def _through(self, layer: Node, image: Value) -> None:
        """Give a layer the outputs of float32, rounded, and, where one is recorded, the gradient of bfloat16."""
        output, after = layer.output(), self.graph.create("prim::If", 1)
        after.insertAfter(layer)
        after.output().setType(_C.TensorType.get())
        with self.graph.insert_point_guard(after):
            recorded = self._insert("prim::requires_grad", image)
            recorded.setType(_C.BoolType.get())
            after.addInput(recorded)
            exact, one = self._type_as(output, torch.bfloat16), self.graph.insertConstant(1)
        with_gradient, without = after.addBlock(), after.addBlock()
        rough = self.graph.createClone(layer, lambda value: value)
        with self.graph.insert_point_guard(with_gradient):
            self.graph.insertNode(rough)
            apart = self._insert("aten::sub_", exact, self._insert("aten::detach", rough.output()), one)
            with_gradient.registerOutput(self._insert("aten::add_", rough.output(), apart, one))
        without.registerOutput(exact)
        output.replaceAllUsesAfterNodeWith(after, after.output())
        self._convert(rough, self._to_bfloat16)
        self._convert(layer, self._constant_float32)

    def _convert(self, layer: Node, conversion: Callable[[Value], Value]) -> None:
        """Convert the tensors that a layer reads."""
        with self.graph.insert_point_guard(layer):
            for i, value in enumerate(list(layer.inputs())):
                if value.type().kind() == "TensorType":
                    layer.replaceInput(i, conversion(value))

    def _to_bfloat16(self, value: Value) -> Value:
        """The value in bfloat16; weights are rounded once."""
        name = value.debugName()
        if name not in self.tensors:
            return self._type_as(value, torch.bfloat16)
        if name not in self.rounded:
            self.rounded[name] = self._add_input(self.tensors[name].bfloat16())
        return self.rounded[name]

    def _constant_float32(self, value: Value) -> Value:
        """The value in float32, without a gradient."""
        return self._type_as(self._insert("aten::detach", value), torch.float32)

    def _type_as(self, value: Value, dtype: torch.dtype) -> Value:
        return self._insert("aten::type_as", value, self.like[dtype])

    def _insert(self, kind: str, *values: Value) -> Value:
        node = self.graph.create(kind, list(values), 1)
        node.output().setType(_C.TensorType.get())
        return self.graph.insertNode(node).output()

    def _add_input(self, tensor: Tensor) -> Value:
        value = self.graph.addInput()
        value.setType(_C.TensorType.get())
        self.tensors[value.debugName()] = tensor
        return value

    def _lift_attributes(self, script: torch.jit.ScriptModule) -> None:
        """Make inputs of the tensors that the program reads from its modules, and constants of other values."""
        this = next(self.graph.inputs())
        modules, lifted, done = {this.debugName(): script._c}, dict[int, tuple[Tensor, Value]](), []
        for node in list(_nodes(self.graph)):
            if node.kind() != "prim::GetAttr":
                continue
            owner, output = modules.get(node.input().debugName()), node.output()
            value = None if owner is None else owner.getattr(node.s("name"))
            if isinstance(value, Tensor):
                if id(value) not in lifted:  # shared weights stay shared
                    lifted[id(value)] = value, self._add_input(value.detach().clone())
                output.replaceAllUsesWith(lifted[id(value)][1])
            elif isinstance(value, _C.ScriptModule):
                modules[output.debugName()] = value
            elif owner is not None and _is_constant(value):
                with self.graph.insert_point_guard(node):
                    output.replaceAllUsesWith(self.graph.insertConstant(value))
            else:
                raise _refusal("has state other than tensors and numbers")
            done.append(node)
        for node in reversed(done):
            if not node.output().uses():
                node.destroy()
        if this.uses():
            raise _refusal("changes its state in a forward pass")
        self.graph.eraseInput(0)

    def _lift_constants(self) -> None:
        """Make inputs of constant tensors, such as the weights of a frozen program."""
        for node in list(_nodes(self.graph)):
            if node.kind() == "prim::Constant" and node.output().type().kind() == "TensorType":
                tensor = node.output().toIValue()
                if isinstance(tensor, Tensor):
                    node.output().replaceAllUsesWith(self._add_input(tensor.detach().clone()))

    def _use_channels_last(self) -> None:
        """Store the weights of 2d convolutions channels last, for which CPUs have faster code."""
        for value in self.graph.inputs():
            tensor = self.tensors.get(value.debugName())
            uses = [use for use in value.uses() if use.user.kind() in CONVOLUTIONS]
            if tensor is not None and tensor.ndim == 4 and uses:
                self.tensors[value.debugName()] = tensor.clone(memory_format=torch.channels_last)


def _nodes(block: Any) -> Iterator[Node]:
    """The nodes of a graph or block in the order of the program, with those of inner blocks."""
    for node in block.nodes():
        for inner in node.blocks():
            yield from _nodes(inner)
        yield node


def _raw_values(graph: Any, image: Value) -> set[str]:
    """The names of the tensors that depend on the image other than through a layer."""
    raw, before = {image.debugName()}, 0
    while len(raw) > before:  # a loop passes values to its next round, and operators write into their first input
        before = len(raw)
        for node in _nodes(graph):
            blocks = list(node.blocks())
            read = [*node.inputs(), *(value for block in blocks for value in block.outputs())]
            if node.kind() not in LAYERS and any(value.debugName() in raw for value in read):
                written = [*node.outputs(), *(value for block in blocks for value in block.inputs())]
                if node.kind().endswith("_"):
                    written.append(next(node.inputs()))
                raw |= {value.debugName() for value in written if "Tensor" in str(value.type())}
    return raw


def _is_constant(value: object) -> bool:
    """Whether an attribute is None, a number, a text, or a list of them."""
    values = value if isinstance(value, list | tuple) else [value]
    return all(v is None or isinstance(v, bool | int | float | str) for v in values)


def _refusal(reason: str) -> UserError:
    return UserError(f"this TorchScript model {reason}, so it cannot be rounded to bfloat16; leave --precision out")
