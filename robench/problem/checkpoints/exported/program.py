"""A program of torch.export as a module that runs its graph: listed operators of PyTorch, one after the other."""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ....errors import UserError, described
from ...names import shown
from ...shapes import Inputs
from ..torchscript.operators import computes
from .archive import TYPES, Archive, Refused, read

SYMBOL = re.compile(r"Symbol\('(\w+)'(?:, \w+=True)*\)")
"""The text of a size that may vary."""
OPERATOR = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
"""The name of an operator of PyTorch, and which of its forms."""
OF_NUMBERS = {
    f"_operator.{name}": getattr(operator, name) for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "getitem")
}
"""The operators of Python on sizes."""
ASSERTIONS = ("torch.ops.aten._assert_", "torch.ops.aten.sym_constrain_range")
"""The beginnings of the names of operators that only check, and compute nothing."""
LAYOUTS = {7: torch.strided}
MEMORY = {1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format}
PLAIN = {"as_int", "as_float", "as_bool", "as_string", "as_ints", "as_floats", "as_bools", "as_strings"}
"""The kinds of arguments that stand for themselves."""

Read = Callable[[Mapping[str, Any], torch.device], Any]
"""Makes an argument of the values by name, for a device."""


@dataclass(frozen=True)
class Call:
    """One node: what is called, with which arguments, and the names of what it returns."""

    function: Callable[..., Any]
    positional: tuple[Read, ...]
    named: dict[str, Read]
    outputs: tuple[Any, ...]  # a name, or names for a list
    label: str


class Exported(nn.Module):
    """The graph of a program. Its weights have the names that they had in the exported module."""

    def __init__(self, archive: Archive):
        super().__init__()
        graph, signature = archive.graph, archive.signature
        self.places: dict[str, str] = {}  # of weights, by their names in the graph
        images = []
        for spec in signature["input_specs"]:
            ((kind, entry),) = spec.items()
            if kind == "user_input":
                images.append(entry["arg"]["as_tensor"]["name"])
                continue
            key = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}
            if kind not in key:
                raise Refused(f"has an input that is no image and no weight ({shown(kind)})")
            name = entry[key[kind]]
            self.places[entry["arg"]["name"]] = name
            _place(self, name, archive.tensors[name], kind, persistent=entry.get("persistent", True))
        if len(images) != 1:
            raise Refused(f"needs one input, the images, but has {len(images)}")
        (self.image,) = images
        self.sizes = [_bounds(size, archive.ranges) for size in graph["tensor_values"][self.image]["sizes"]]
        self.calls = tuple(_call(node) for node in graph["nodes"] if not node["target"].startswith(ASSERTIONS))
        outputs = []
        for spec in signature["output_specs"]:
            ((kind, entry),) = spec.items()
            if kind != "user_output":
                raise Refused(f"changes its own state or input ({shown(kind)})")
            outputs.append(entry["arg"]["as_tensor"]["name"])
        self.outputs = tuple(outputs)

    def forward(self, x: Inputs) -> Tensor | tuple[Tensor, ...]:
        low, high = self.sizes[0]
        if (
            0 < len(x) < low < high
        ):  # torch itself writes 2 as the smallest number of images; the added rows are dropped
            found = self._run(torch.cat([x, x[-1:].detach().expand(int(low) - len(x), *x.shape[1:])]))
            return found[: len(x)] if isinstance(found, Tensor) else tuple(one[: len(x)] for one in found)
        return self._run(x)

    def _run(self, x: Inputs) -> Tensor | tuple[Tensor, ...]:
        for size, (low, high) in zip(x.shape, self.sizes, strict=True):
            if not low <= size <= high:
                wanted = f"{low}" if low == high else f"{low} to {high}"
                raise ValueError(f"the program is for a size of {wanted}, not {size}, in {list(x.shape)}")
        values: dict[str, Any] = {name: _held(self, place) for name, place in self.places.items()}
        values[self.image] = x
        for call in self.calls:
            given = [argument(values, x.device) for argument in call.positional]
            results = call.function(*given, **{k: argument(values, x.device) for k, argument in call.named.items()})
            results = results if len(call.outputs) > 1 else (results,)
            for name, result in zip(call.outputs, results, strict=True):
                values.update([(name, result)] if isinstance(name, str) else zip(name, result, strict=True))
        found = tuple(values[name] for name in self.outputs)
        return found[0] if len(found) == 1 else found


def read_program(path: Path, data: BytesIO | None = None) -> Exported:
    """The program in an archive, or in these bytes of it. Raises UserError if it cannot be read without consent."""
    try:
        return Exported(read(data or path)).eval()
    except UserError:
        raise
    except Refused as refused:
        reason = str(refused)
    except Exception as error:  # whatever a damaged file leads to
        reason = f"is not written as torch 2.13 writes it ({described(error)})"
    raise UserError(
        f"{path} is a torch.export program that {reason}; reading it with torch can run code: if you trust who made "
        "it, add --trust-pickle, else save the state dict of the model and name its architecture with --arch"
    )


def _place(root: nn.Module, name: str, tensor: Tensor, kind: str, *, persistent: bool) -> None:
    """Puts a weight into the module at its dotted name."""
    *parts, last = name.split(".")
    for part in parts:
        if not isinstance(root._modules.get(part), nn.Module):
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    if kind == "parameter":
        root.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
    else:
        root.register_buffer(last, tensor, persistent=persistent)


def _held(root: nn.Module, name: str) -> Tensor:
    place, _, last = name.rpartition(".")
    tensor: Tensor = getattr(root.get_submodule(place), last)
    return tensor


def _bounds(size: dict[str, Any], ranges: dict[str, Any]) -> tuple[int, int | float]:
    """The smallest and the largest value of a size of the images."""
    if "as_int" in size:
        return int(size["as_int"]), int(size["as_int"])
    symbol = SYMBOL.fullmatch(size["as_expr"]["expr_str"])
    if symbol is None:
        raise Refused("has images of a computed size")
    bounds = ranges.get(symbol[1], {})
    low, high = bounds.get("min_val"), bounds.get("max_val")
    return int(low or 0), float("inf") if high is None else int(high)


def _call(node: dict[str, Any]) -> Call:
    target = str(node["target"])
    found = OPERATOR.fullmatch(target)
    function: Callable[..., Any] | None = None
    if target in OF_NUMBERS:
        function = OF_NUMBERS[target]
    elif found is not None and computes(f"aten::{found[1]}"):
        function = getattr(getattr(torch.ops.aten, found[1]), found[2])
    if function is None or not (target in OF_NUMBERS or isinstance(function, torch._ops.OpOverload)):
        raise Refused(f"has the operator {shown(target)}, which robench does not know to only compute")
    arguments = [(entry, _argument(entry["arg"])) for entry in node["inputs"]]
    positional = tuple(argument for entry, argument in arguments if entry["kind"] == 1)
    named = {str(entry["name"]): argument for entry, argument in arguments if entry["kind"] != 1}
    return Call(function, positional, named, tuple(_names(output) for output in node["outputs"]), target)


def _names(output: dict[str, Any]) -> Any:
    ((kind, value),) = output.items()
    if kind == "as_tensor":
        return str(value["name"])
    if kind == "as_tensors":
        return tuple(str(one["name"]) for one in value)
    if kind == "as_sym_int":
        return str(value["as_name"])
    raise Refused(f"has an operator with another result than tensors and sizes ({shown(kind)})")


def _argument(argument: dict[str, Any]) -> Read:
    ((kind, value),) = argument.items()
    if kind in PLAIN:
        return lambda values, device: value
    if kind == "as_none":
        return lambda values, device: None
    if kind == "as_tensor":
        return lambda values, device: values[value["name"]]
    if kind == "as_tensors":
        return lambda values, device: [values[one["name"]] for one in value]
    if kind == "as_sym_int":
        return _size(value)
    if kind == "as_sym_ints":
        sizes = [_size(one) for one in value]
        return lambda values, device: [size(values, device) for size in sizes]
    if kind == "as_device":
        return lambda values, device: device  # the images may be on another one than in the export
    tables: dict[str, Mapping[int, object]] = {
        "as_scalar_type": TYPES,
        "as_memory_format": MEMORY,
        "as_layout": LAYOUTS,
    }
    table = tables.get(kind, {})
    if value not in table:
        raise Refused(f"has an argument of a kind that robench does not read ({shown(kind)})")
    return lambda values, device: table[value]


def _size(value: dict[str, Any]) -> Read:
    if "as_int" in value:
        return lambda values, device: value["as_int"]
    return lambda values, device: values[value["as_name"]]
