"""The process in which a program runs: it reads one file, runs its programs on request, and can do nothing else.

It gives up its rights before it reads the first byte of the file: `kernel` and `limits` have what is left.
"""

import copy
import io
import mmap
import os
import signal
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward

from ....errors import UserError
from ...multiply_adds import MultiplyAdds
from ...repairs import repairs
from ..exported import read_program
from ..onnx.forward_only import ForwardOnly, import_runtime
from ..onnx.node import Refused
from ..torchscript.archive import shortened
from ..torchscript.interpreted import Interpreted
from ..torchscript.rounded import RoundedScript
from . import tensors as shared
from .kernel import NotConfined, forbid_all_but_computing
from .limits import limit_resources
from .messages import Closed, File, Reply, Request, receive, send
from .tensors import Placed
from .trees import PARTS, taken_apart

LONGEST = 4000  # characters of an error that are passed on
ALL = 2**62  # bytes: requests come from us, and are not limited


def main(argument: str) -> None:
    """Serves requests on standard input until it is closed. The argument is a `File` as JSON."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for this one
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    _compute_a_little()
    file = msgspec.json.decode(argument, type=File)
    if file.kind == "onnx":
        import_runtime()
    limit_resources()
    try:
        send(answers, Reply(ready=forbid_all_but_computing()))
    except NotConfined as reason:
        send(answers, Reply(lacking=str(reason)))
        return
    server = Server(file, answers)
    try:
        while True:
            server.serve(msgspec.json.decode(receive(0), type=Request))
    except Closed:
        return


def _compute_a_little() -> None:
    """Makes torch open what it opens at its first use."""
    x = torch.rand(2, 1, 8, 8, requires_grad=True)
    y = F.batch_norm(F.conv2d(x, torch.rand(4, 1, 3, 3)), torch.zeros(4), torch.ones(4)).flatten(1).relu()
    torch.autograd.grad(F.linear(y, torch.rand(4, 144)).softmax(dim=1).sum(), x)
    torch.fft.rfft(torch.rand(4096).exp())
    torch.linalg.inv(torch.eye(3))
    with repairs(0.1, watch=lambda value: None):
        torch.round(torch.ops.aten.relu.default(x.detach()))
    unit = torch._C.CompilationUnit()
    unit.define("def f(x: Tensor) -> Tensor:\n  return torch.relu(x)\n")
    unit.find_function("f")(torch.rand(2))


class Server:
    """The programs and graphs of a file, by their handles."""

    def __init__(self, file: File, answers: int):
        self.file = file
        self.answers = answers
        self.memory = _mapped(file.memory, file.room)
        self.programs: dict[int, nn.Module] = {}
        self.modes: dict[int, tuple[bool, bool]] = {}  # of programs: training, and weights that need gradients
        self.graphs: dict[int, tuple[Tensor, list[Tensor]]] = {}

    def serve(self, request: Request) -> None:
        """Does what is requested, and answers. Ends the process when the time is over."""
        for handle in request.unused_programs:
            self.programs.pop(handle, None)
            self.modes.pop(handle, None)
        for handle in request.unused_graphs:
            self.graphs.pop(handle, None)
        self._use_memory_of(request.size)
        signal.setitimer(signal.ITIMER_REAL, request.seconds)
        torch.set_num_threads(request.threads)
        torch.set_float32_matmul_precision(request.matmul)
        tensors: list[Tensor] = []
        before = self._seed(request.random)
        try:
            with torch.set_grad_enabled(request.grad):
                reply = getattr(self, request.op)(request, tensors)
        except Exception as error:  # whatever the program raises
            tensors.clear()
            reply = Reply(
                error=shortened(str(error), LONGEST), kind=type(error).__name__, refused=isinstance(error, UserError)
            )
        after = torch.default_generator.get_state()
        changed = before is not None and not torch.equal(after, before)
        self._answer(reply, tensors, [after] if changed else [])
        signal.setitimer(signal.ITIMER_REAL, 0)

    # What can be requested. Each appends the tensors of its answer.

    def load(self, request: Request, tensors: list[Tensor]) -> Reply:
        """Loads the program of the file once more."""
        with mmap.mmap(self.file.descriptor, self.file.size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as held:
            data = io.BytesIO(held)
        if self.file.kind == "onnx":
            try:
                self.programs[request.new] = ForwardOnly(data.getvalue())
            except Refused as reason:
                raise UserError(f"{self.file.path} {reason}") from None
            return Reply()
        if self.file.kind == "exported":
            program = read_program(Path(self.file.path), data)
            self.programs[request.new] = program.float()
            return Reply(sizes=[low if low == high else 0 for low, high in program.sizes[1:]])
        with warnings.catch_warnings():
            # torch 2.13 warns authors of TorchScript; we only read it.
            warnings.filterwarnings("ignore", ".*torch.jit.load.* is deprecated", DeprecationWarning)
            module: nn.Module = torch.jit.load(data, map_location="cpu")  # type: ignore[no-untyped-call]
        self.programs[request.new] = module.float()
        return Reply()

    def copy(self, request: Request, tensors: list[Tensor]) -> Reply:
        """Copies a program, with its state."""
        self.programs[request.new] = copy.deepcopy(self.programs[request.handle])
        return Reply()

    def round(self, request: Request, tensors: list[Tensor]) -> Reply:
        """Makes a copy in bfloat16."""
        program = self.programs[request.handle]
        self.programs[request.new] = RoundedScript(cast(Any, program), channels_last=request.channels_last)
        return Reply()

    def read(self, request: Request, tensors: list[Tensor]) -> Reply:
        """Reads a TorchScript program operator by operator; it shares the state of the program."""
        program = self.programs[request.handle]
        self.programs[request.new] = Interpreted(cast(Any, program)) if self.file.kind == "torchscript" else program
        return Reply()

    def state(self, request: Request, tensors: list[Tensor]) -> Reply:
        """The weights by name."""
        program = self.programs[request.handle]
        held = {key: value for key, value in program.state_dict().items() if isinstance(value, Tensor)}
        tensors += held.values()
        parameters = dict(program.named_parameters(remove_duplicate=False))
        kinds = [(name in parameters) + (name in parameters and parameters[name].requires_grad) for name in held]
        return Reply(names=list(held), kinds=kinds)

    def forward(self, request: Request, tensors: list[Tensor]) -> Reply:
        """Runs a program on images."""
        program = self._in_mode(request)
        leaf = images = shared.read(self.memory, request.tensors[0], ALL)
        if request.leaf:
            images = leaf.requires_grad_().clone()  # the program may write into it
        inside: list[Tensor] = []

        def watch(value: Tensor) -> None:
            if value.ndim == 2 and len(value) == len(images) and shared.is_plain(value) and len(inside) < PARTS:
                inside.append(value)

        with MultiplyAdds() if request.count else nullcontext() as counting:
            watching = watch if request.watched else None
            settings = request.leak, watching, request.sharpness, len(images)
            given = repairs(*settings) if request.with_repairs else nullcontext()
            with given:
                returned = program(images)
            tree = taken_apart([returned, inside] if request.watched else returned, tensors)
        needs_grad = [tensor.requires_grad for tensor in tensors]
        if request.leaf and any(needs_grad):
            self.graphs[request.new] = leaf, list(tensors)
        counts = (counting.rounded, counting.total) if counting else (0, 0)
        return Reply(tree=tree, needs_grad=needs_grad, counts=counts)

    def backward(self, request: Request, tensors: list[Tensor]) -> Reply:
        """The gradient with respect to the images, if it exists."""
        leaf, outputs = self.graphs[request.handle]
        given = [shared.read(self.memory, place, ALL) for place in request.tensors]
        chosen = tuple(outputs[number] for number in request.outputs)
        # As torch.autograd.grad does it, which would import modules now, and no file opens any more.
        (gradient,) = _engine_run_backward(chosen, tuple(given), True, False, (leaf,), True, accumulate_grad=False)
        tensors += [] if gradient is None else [gradient]
        return Reply()

    def _in_mode(self, request: Request) -> nn.Module:
        program, mode = self.programs[request.handle], (request.training, request.trainable)
        if self.modes.get(request.handle) != mode:
            program.train(request.training)
            if not request.trainable:
                for weight in program.parameters():
                    weight.requires_grad_(False)
            self.modes[request.handle] = mode
        return program

    # Memory.

    def _answer(self, reply: Reply, tensors: list[Tensor], random: list[Tensor]) -> None:
        ready, places, end = shared.arranged([*tensors, *random])
        if end > len(self.memory):
            send(self.answers, Reply(room=end))
            self._use_memory_of(msgspec.json.decode(receive(0), type=Request).size)
        for tensor, place in zip(ready, places, strict=True):
            shared.write(self.memory, tensor, place)
        first = len(tensors)
        send(
            self.answers,
            msgspec.structs.replace(reply, tensors=places[:first], random=places[first] if random else None),
        )

    def _use_memory_of(self, size: int) -> None:
        if size > len(self.memory):
            self.memory = _mapped(self.file.memory, size)

    def _seed(self, place: Placed | None) -> Tensor | None:
        if place is None:
            return None
        state = shared.read(self.memory, place, ALL)
        torch.default_generator.set_state(state)
        return state


def _mapped(descriptor: int, size: int) -> Tensor:
    return torch.frombuffer(mmap.mmap(descriptor, size), dtype=torch.uint8)
