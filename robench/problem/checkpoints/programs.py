"""Models that contain their own code: TorchScript and torch.export files, and ONNX graphs that robench cannot import.

Neither is Python, but both can do more than arithmetic. Without consent, TorchScript is loaded only if all of its code
is known to only compute (`torchscript/`), and torch.export files only if `exported/` reads them: torch's own reader
evaluates Python expressions in them. What is loaded runs in a process that can only compute (`confinement/`), on a CPU
and where the system has the means. With consent a program is loaded by torch, and runs in this process.
"""

import hashlib
import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import UserError
from ..architectures.normalise import Around
from .confinement import Confined, NotConfined, started
from .exported import Exported, read_program
from .onnx.forward_only import ForwardOnly
from .torchscript import refuse_what_may_do_more
from .torchscript.interpreted import Interpreted
from .torchscript.rounded import RoundedScript

NOTHING = "nothing: "  # confines a program that runs in this process; the reason follows
TRUSTED = NOTHING + "its file is trusted"
ON_CUDA = NOTHING + "on CUDA devices programs run in robench's own process"


class Program(Around):
    """A program in this process, with the module methods that such programs lack. `confined_by` says why it is here."""

    def __init__(self, network: nn.Module, confined_by: str = ""):
        super().__init__(network)
        self.confined_by = confined_by

    def train(self, mode: bool = True) -> "Program":
        """Sets the mode, except for exported programs: these keep theirs, and raise if it is set."""
        self.training = mode
        if not isinstance(self.network, torch.fx.GraphModule):
            self.network.train(mode)
        return self


def is_torchscript(entries: set[str]) -> bool:
    """Whether a zip file with these entries, named without the archive's own folder, is a TorchScript archive."""
    return "constants.pkl" in entries or "model.json" in entries or any(e.startswith("code/") for e in entries)


def is_exported(entries: set[str]) -> bool:
    """Whether a zip file with these entries is a torch.export archive, also of the format before torch 2.8."""
    return any(e.startswith("models/") for e in entries) or "serialized_exported_program.json" in entries


def load_torchscript(path: Path, device: torch.device, *, trust: bool) -> tuple[nn.Module, str]:
    """The program in a TorchScript archive, and a text that identifies its code.

    Raises UserError if the file is damaged or, unless it is trusted, may do more than compute.
    """
    data = _bytes(path)
    code = f"torchscript:{hashlib.sha256(data).hexdigest()[:16]}"

    def load() -> nn.Module:
        with warnings.catch_warnings():
            # torch 2.13 warns authors of TorchScript; we only read it.
            warnings.filterwarnings("ignore", ".*torch.jit.load.* is deprecated", DeprecationWarning)
            module: nn.Module = torch.jit.load(io.BytesIO(data), map_location=device)  # type: ignore[no-untyped-call]
        return module

    try:
        if trust:
            return Program(load(), TRUSTED), code
        return _confined(path, "torchscript", data, device, load, lambda: refuse_what_may_do_more(path, data)), code
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path} is not a complete TorchScript file ({reason}); copy or download it again") from error


def load_exported(path: Path, device: torch.device, *, trust: bool) -> tuple[nn.Module, str]:
    """The program in a torch.export archive, and a text that identifies its code.

    Raises UserError if it cannot be read without consent, and has none.
    """
    data = _bytes(path)
    code = f"torch.export:{hashlib.sha256(data).hexdigest()[:16]}"
    if not trust:
        return _confined(path, "exported", data, device, lambda: read_program(path, io.BytesIO(data))), code
    try:
        return Program(torch.export.load(path).module(), TRUSTED), code
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{path} cannot be read by torch {torch.__version__}: {reason}; export it again with this version"
        ) from error


def load_forward_only(path: Path, data: bytes, device: torch.device, *, trust: bool) -> nn.Module:
    """The graph in the content of an ONNX file, computed by ONNX Runtime; the file has been found only to compute.

    Raises UserError, or Refused, if ONNX Runtime cannot read it.
    """
    if trust:
        return Program(ForwardOnly(data), TRUSTED)
    return _confined(path, "onnx", data, device, lambda: ForwardOnly(data))


def images_of(program: nn.Module) -> tuple[int, ...] | None:
    """The shape of the images that an exported program is for, if its graph fixes it."""
    network = program.network if isinstance(program, Program) else program
    sizes: list[int | None]
    if isinstance(network, Confined):
        sizes = [size or None for size in network.sizes]
    elif isinstance(network, Exported):
        sizes = [low if low == high else None for low, high in network.sizes[1:]]
    elif isinstance(network, torch.fx.GraphModule):  # torch notes what each value was when it was exported
        example = next((n.meta.get("val") for n in network.graph.nodes if n.op == "placeholder"), None)
        sizes = [size if isinstance(size, int) else None for size in getattr(example, "shape", ())[1:]]
    else:
        return None
    known = tuple(int(size) for size in sizes if size is not None)
    return known if len(known) == len(sizes) == 3 else None


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """The tensors in the state dict of a module."""
    return {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}


def scripts(module: nn.Module) -> Sequence[nn.Module]:
    """The TorchScript programs in a module that are not part of another."""
    if isinstance(module, torch.jit.ScriptModule) or (isinstance(module, Confined) and module.is_torchscript):
        return [module]
    return [script for child in module.children() for script in scripts(child)]


def in_bfloat16(script: nn.Module, *, channels_last: bool) -> nn.Module:
    """A copy of a TorchScript program in bfloat16, where the program runs. Raises UserError if there is none."""
    if isinstance(script, Confined):
        return script.rounded(channels_last=channels_last)
    assert isinstance(script, torch.jit.ScriptModule), "scripts() finds no others"
    return RoundedScript(script, channels_last=channels_last)


def is_out_of_reach(module: nn.Module) -> bool:
    """Whether the layers of a module take no hooks, since TorchScript compiled it, or it was exported."""
    return isinstance(module, torch.jit.ScriptModule | torch.fx.GraphModule | Confined | Exported)


def takes_no_repairs(module: nn.Module) -> bool:
    """Whether `problem.repairs` reaches nothing inside a module, since it is a program that runs as one call."""
    return isinstance(module, torch.jit.ScriptModule) or (isinstance(module, Confined) and not module.takes_repairs)


def read_by_operators(program: nn.Module) -> nn.Module:
    """A TorchScript program read operator by operator, where it runs. Raises UnreadableGraphError or RuntimeError."""
    if isinstance(program, Confined):
        return program.read()
    assert isinstance(program, torch.jit.ScriptModule), "takes_no_repairs() finds no others"
    return Interpreted(program)


def confinement(module: nn.Module) -> str:
    """What confines the programs in a module; empty if there are none."""
    found = (part.confined_by for part in module.modules() if isinstance(part, Program | Confined))
    return next((text for text in found if text), "")


def not_confined(module: nn.Module) -> tuple[str, ...]:
    """The note on a program that is not trusted, and runs in this process nevertheless."""
    found = confinement(module)
    if found == TRUSTED or not found.startswith(NOTHING):
        return ()
    return (f"the program of this file is not confined: {found.removeprefix(NOTHING)}",)


def _confined(
    path: Path,
    kind: str,
    data: bytes,
    device: torch.device,
    load: Callable[[], nn.Module],
    check: Callable[[], None] = lambda: None,
) -> nn.Module:
    """The program in a process that can only compute; `load` loads it here if there can be none. First it is checked.

    The process starts while the check is made, but gets the file to read only afterwards.
    """
    try:
        process = started(str(path), kind, data) if device.type == "cpu" else None
    except NotConfined as reason:
        process, lacking = None, f"{NOTHING}{reason}"
    else:
        lacking = ON_CUDA
    check()
    if process is not None:
        try:
            process.wait_until_confined()
            return Confined.load(process)
        except NotConfined as reason:
            lacking = f"{NOTHING}{reason}"
    return Program(load(), lacking)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()  # once, so that the loaded bytes are the checked ones even if the file changes
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
