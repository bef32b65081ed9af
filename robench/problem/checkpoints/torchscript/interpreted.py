"""TorchScript programs read node by node, so that surrogate gradients reach the operators inside them.

TorchScript runs a compiled program as one call, in which no function can be replaced. Here every operator of its
inlined graph is called by itself through `torch.ops`: the same operators in the same order, with PyTorch's derivatives.
Nothing is compiled, and a program that was loaded without consent holds only operators that compute.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...shapes import Inputs

# Graphs, nodes, blocks and values have no documented types.
Node = Any
Block = Any
Environment = dict[str, Any]
"""The values of a graph so far, by name."""


class UnreadableGraphError(Exception):
    """The program has a node that this module cannot run by itself."""


class Interpreted(nn.Module):
    """The program of a TorchScript module, run one operator after the other.

    It shares the tensors of the program. Raises UnreadableGraphError if the program has hooks, several inputs, or a
    node of a kind that is not known here.
    """

    def __init__(self, script: torch.jit.ScriptModule):
        super().__init__()
        if script._c._get_forward_hooks() or script._c._get_forward_pre_hooks():
            raise UnreadableGraphError("hooks")  # they are not part of the graph
        self._graph: Any = script.inlined_graph
        self._this, *images = (value.debugName() for value in self._graph.inputs())
        if len(images) != 1:
            raise UnreadableGraphError("several inputs")
        self._image = images[0]
        self._script = script._c
        self._steps = _compiled(self._graph)

    def forward(self, x: Inputs) -> Any:
        """What the program returns for a batch."""
        values: Environment = {self._this: self._script, self._image: x}
        for step in self._steps:
            step(values)
        return _one_or_all([values[value.debugName()] for value in self._graph.outputs()])


Step = Callable[[Environment], None]


def _compiled(block: Block) -> list[Step]:
    """A function for each node of a block, which reads its inputs from the environment and adds its outputs."""
    return [_step(node) for node in block.nodes()]


def _step(node: Node) -> Step:
    kind = node.kind()
    if kind in _BLOCKS:
        return _BLOCKS[kind](node)
    if kind in _STRUCTURE:
        compute = _STRUCTURE[kind](node)
    elif kind.startswith("prim::"):
        raise UnreadableGraphError(kind)
    else:
        compute = _operator(node)
    inputs = [value.debugName() for value in node.inputs()]
    outputs = [value.debugName() for value in node.outputs()]

    def step(values: Environment) -> None:
        results = compute([values[name] for name in inputs])
        if len(outputs) == 1:
            values[outputs[0]] = results
        else:
            values.update(zip(outputs, results if outputs else (), strict=True))

    return step


Compute = Callable[[Sequence[Any]], Any]


def _operator(node: Node) -> Compute:
    """A call of the operator of a node through `torch.ops`."""
    space, _, name = node.kind().partition("::")
    schema = torch._C.parse_schema(node.schema())
    if schema.overload_name == "t":  # of lists of any type, which torch does not take from Python
        if name not in _LISTS:
            raise UnreadableGraphError(node.kind())
        return lambda given: _LISTS[name](*given)
    keywords = [a.name if a.kwarg_only else None for a in schema.arguments]
    # The overload is named: torch would choose by the values, and compare 2 and 1 as truth values.
    function = getattr(getattr(getattr(torch.ops, space), name), schema.overload_name or "default")

    def compute(given: Sequence[Any]) -> Any:
        named = {key: value for key, value in zip(keywords, given, strict=True) if key is not None}
        return function(*(v for key, v in zip(keywords, given, strict=True) if key is None), **named)

    return compute


_LISTS: Mapping[str, Callable[..., Any]] = {"__getitem__": operator.getitem, "len": len, "append": list.append}


def _constant(node: Node) -> Compute:
    value = node.output().toIValue() if node.outputsSize() else None
    return lambda given: value


def _attribute(node: Node) -> Compute:
    name = node.s("name")
    return lambda given: given[0].getattr(name)


def _nothing(node: Node) -> Compute:
    """Objects that only switch gradients on and off: a surrogate records them throughout."""
    return lambda given: None


def _unpacked(node: Node) -> Compute:
    return lambda given: given[0][0] if node.outputsSize() == 1 else given[0]


def _raised(node: Node) -> Compute:
    def compute(given: Sequence[Any]) -> Any:
        raise RuntimeError(str(given[0]))

    return compute


_STRUCTURE: Mapping[str, Callable[[Node], Compute]] = {
    "prim::Constant": _constant,
    "prim::GetAttr": _attribute,
    "prim::ListConstruct": lambda node: list,
    "prim::TupleConstruct": lambda node: tuple,
    "prim::ListUnpack": _unpacked,
    "prim::TupleUnpack": _unpacked,
    "prim::unchecked_cast": lambda node: lambda given: given[0],
    "prim::Uninitialized": _nothing,
    "prim::NumToTensor": lambda node: (
        lambda given: given[0] if isinstance(given[0], Tensor) else torch.tensor(given[0])
    ),
    "prim::device": lambda node: lambda given: given[0].device,
    "prim::dtype": lambda node: lambda given: given[0].dtype,
    "prim::layout": lambda node: lambda given: given[0].layout,
    "prim::RaiseException": _raised,
    # of `torch.no_grad` and `torch.enable_grad`
    "prim::CreateObject": _nothing,
    "prim::SetAttr": _nothing,
    "prim::Enter": _nothing,
    "prim::Exit": _nothing,
}


def _inner(block: Block) -> Callable[[Environment], list[Any]]:
    """A function that runs a nested block in the environment around it, and returns its outputs."""
    steps, outputs = _compiled(block), [value.debugName() for value in block.outputs()]

    def run(values: Environment) -> list[Any]:
        for step in steps:
            step(values)
        return [values[name] for name in outputs]

    return run


def _if(node: Node) -> Step:
    condition = node.input().debugName()
    then, otherwise = (_inner(block) for block in node.blocks())
    outputs = [value.debugName() for value in node.outputs()]

    def step(values: Environment) -> None:
        values.update(zip(outputs, (then if values[condition] else otherwise)(values), strict=True))

    return step


def _loop(node: Node) -> Step:
    (body,) = node.blocks()
    run = _inner(body)
    count, going, *carried = (value.debugName() for value in node.inputs())
    number, *slots = (value.debugName() for value in body.inputs())
    outputs = [value.debugName() for value in node.outputs()]

    def step(values: Environment) -> None:
        state, on = [values[name] for name in carried], values[going]
        for i in range(values[count]):
            if not on:
                break
            values[number] = i
            values.update(zip(slots, state, strict=True))
            on, *state = run(values)
        values.update(zip(outputs, state, strict=True))

    return step


_BLOCKS: Mapping[str, Callable[[Node], Step]] = {"prim::If": _if, "prim::Loop": _loop}


def _one_or_all(outputs: Sequence[Any]) -> Any:
    return outputs[0] if len(outputs) == 1 else tuple(outputs)
