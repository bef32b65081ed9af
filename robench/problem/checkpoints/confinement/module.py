"""A program in a process of its own, as a module: its answers and gradients are those of the program, bit for bit."""

import weakref
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ....errors import ProgramEnded, counted
from ...repairs import Repairs, suspended
from ...shapes import Inputs
from ..zips import max_unpacked
from . import trees
from .process import Process

LARGEST = 1 << 30  # bytes that a program may return for one batch


class Confined(nn.Module):
    """One program in the process, with its own state. It cannot be pickled; copies are other programs in the process.

    The parameters here are copies, for their number and shapes. `state_dict` has what the program holds now.
    """

    def __init__(self, process: Process, handle: int, weights: nn.Module | None = None, *, is_read: bool = False):
        super().__init__()
        self.process = process
        self.handle = handle
        self.confined_by = process.confined_by
        self.is_torchscript = process.kind == "torchscript"
        self.takes_repairs = (
            is_read or process.kind == "exported"
        )  # exported programs call torch's functions one by one
        self.sizes: tuple[int, ...] = ()  # of an image, where an exported program fixes them; 0 where not
        self.weights = self._weights() if weights is None else weights
        weakref.finalize(self, process.unused_programs.append, handle)

    @classmethod
    def load(cls, process: Process) -> "Confined":
        """The program of the file, loaded once more. Raises what torch raises for a damaged file."""
        handle = next(process.handles)
        reply, _ = process.call("load", what="while it was read", new=handle)
        made = cls(process, handle)
        made.sizes = tuple(reply.sizes)
        return made

    def rounded(self, *, channels_last: bool) -> "Confined":
        """A copy in bfloat16, as `torchscript.rounded` makes it. Raises UserError if there is none."""
        return self._another("round", channels_last=channels_last)

    def read(self) -> "Confined":
        """The program read operator by operator, so that `repairs` reach the operators. It shares its state.

        Raises RuntimeError if it cannot be read so.
        """
        return self._another("read", is_read=True)

    def forward(self, x: Inputs) -> Any:
        """What the program returns for a batch."""
        with suspended() as active:
            given = active if self.takes_repairs else None
            returned = self._answer(x, given)
            if given is None or given.watch is None:
                return returned
            if not (isinstance(returned, list) and len(returned) == 2):
                raise ProgramEnded(self.process.end("gave something else than an answer"))
            returned, inside = returned
        for value in inside if isinstance(inside, list) else ():
            if isinstance(value, Tensor):  # the program's process might send anything
                given.watch(value)
        return returned

    def _answer(self, x: Inputs, given: Repairs | None) -> Any:
        recorded = torch.is_grad_enabled()
        if not (recorded and x.requires_grad):
            outputs, _, tree = self._run(x, recorded, leaf=False, graph=0, given=given)
        else:
            found: list[Any] = []
            outputs = list(_Run.apply(x, self, found, given))  # type: ignore[no-untyped-call]
            (tree,) = found
        try:
            return trees.put_together(tree, outputs)
        except trees.NoTree:
            raise ProgramEnded(self.process.end("gave something else than an answer")) from None

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """The tensors of the program now, by name."""
        found: dict[str, Tensor] = OrderedDict() if destination is None else destination
        found.update((prefix + name, tensor) for name, tensor, _ in self._state())
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> "Confined":
        return self._another("copy")

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a program that runs in a process of its own cannot be pickled; name its file again")

    def _another(self, op: str, *, is_read: bool | None = None, **settings: Any) -> "Confined":
        handle = next(self.process.handles)
        recorded = torch.is_grad_enabled()
        self.process.call(op, what="while it was copied", handle=self.handle, new=handle, grad=recorded, **settings)
        read = self.takes_repairs if is_read is None else is_read
        made = Confined(self.process, handle, self.weights, is_read=read)
        made.training = self.training
        return made

    def _run(
        self, x: Inputs, recorded: bool, *, leaf: bool, graph: int, given: Repairs | None
    ) -> tuple[list[Tensor], list[bool], Any]:
        """The tensors that the program returns, which of them depend on the images, and how they belong together."""
        reply, tensors = self.process.call(
            "forward",
            [x],
            what=f"about {counted(len(x), 'image')}",
            images=len(x),
            limit=LARGEST,
            handle=self.handle,
            new=graph,
            grad=recorded,
            leaf=leaf,
            training=self.training,
            with_repairs=given is not None,
            leak=given.leak if given else 0.0,
            sharpness=given.sharpness if given else 0.0,
            watched=given is not None and given.watch is not None,
            trainable=any(weight.requires_grad for weight in self.weights.parameters()),
        )
        if len(reply.needs_grad) != len(tensors):
            raise ProgramEnded(self.process.end("gave something else than an answer"))
        floating = [tensor.is_floating_point() for tensor in tensors]
        return tensors, [a and b for a, b in zip(floating, reply.needs_grad, strict=True)], reply.tree

    def _weights(self) -> nn.Module:
        held = nn.Module()
        for name, tensor, kind in self._state():
            if kind:  # names have dots, which `register_parameter` refuses
                held._parameters[name] = nn.Parameter(tensor, requires_grad=kind == 2 and tensor.is_floating_point())
            else:
                held._buffers[name] = tensor
        return held

    def _state(self) -> list[tuple[str, Tensor, int]]:
        limit = max_unpacked(self.process.size)
        reply, tensors = self.process.call("state", what="about its weights", limit=limit, handle=self.handle)
        if not len(tensors) == len(reply.names) == len(reply.kinds):
            raise ProgramEnded(self.process.end("gave something else than its weights"))
        return list(zip(reply.names, tensors, reply.kinds, strict=True))


class _Run(torch.autograd.Function):
    """A pass whose graph stays in the process, until nothing here refers to it any more."""

    @staticmethod
    def forward(ctx: Any, x: Inputs, program: Confined, found: list[Any], given: Repairs | None) -> tuple[Tensor, ...]:
        graph = _Graph(program.process)
        outputs, needs_grad, tree = program._run(x, True, leaf=True, graph=graph.handle, given=given)
        ctx.graph, ctx.shape, ctx.images = graph, x.shape, len(x)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(t for t, needed in zip(outputs, needs_grad, strict=True) if not needed))
        found.append(tree)
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        given = {number: gradient for number, gradient in enumerate(gradients) if gradient is not None}
        if not given:
            return None, None, None, None
        process = ctx.graph.process
        _, found = process.call(
            "backward",
            list(given.values()),
            what=f"about the gradient of {counted(ctx.images, 'image')}",
            images=ctx.images,
            limit=LARGEST,
            handle=ctx.graph.handle,
            outputs=list(given),
        )
        if not found:
            return None, None, None, None
        if len(found) > 1 or found[0].shape != ctx.shape:
            raise ProgramEnded(process.end("gave something else than a gradient"))
        return found[0], None, None, None


class _Graph:
    """A graph in the process, which is freed there with this object."""

    def __init__(self, process: Process):
        self.process, self.handle = process, next(process.handles)
        weakref.finalize(self, process.unused_graphs.append, self.handle)
