"""Models that contain their own code: TorchScript and torch.export files.

Neither is Python, but both can do more than arithmetic. TorchScript is loaded without consent if all of its code is
known to only compute: see `torchscript/`. torch's own reader of torch.export files evaluates Python expressions in
them, so it needs consent; without, `exported/` reads those that it can.
"""

import hashlib
import io
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import UserError
from ..architectures.normalise import Around
from .exported import Exported, read_program
from .torchscript import refuse_what_may_do_more


class Program(Around):
    """A loaded program, with the module methods that such programs lack."""

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


def load_torchscript(path: Path, device: torch.device, *, trust: bool) -> tuple[Program, str]:
    """The program in a TorchScript archive, and a text that identifies its code.

    Raises UserError if the file is damaged or, unless it is trusted, may do more than compute.
    """
    try:
        data = path.read_bytes()  # once, so that the loaded bytes are the checked ones even if the file changes
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    if not trust:
        refuse_what_may_do_more(path, data)
    try:
        with warnings.catch_warnings():
            # torch 2.13 warns authors of TorchScript; we only read it.
            warnings.filterwarnings("ignore", ".*torch.jit.load.* is deprecated", DeprecationWarning)
            module = torch.jit.load(io.BytesIO(data), map_location=device)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path} is not a complete TorchScript file ({reason}); copy or download it again") from error
    return Program(module), f"torchscript:{hashlib.sha256(data).hexdigest()[:16]}"


def load_exported(path: Path, *, trust: bool) -> Program:
    """The program in a torch.export archive. Raises UserError if it cannot be read without consent, and has none."""
    if not trust:
        return Program(read_program(path))
    try:
        program = Program(torch.export.load(path).module())
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{path} cannot be read by torch {torch.__version__}: {reason}; export it again with this version"
        ) from error
    return program


def images_of(program: Program) -> tuple[int, ...] | None:
    """The shape of the images that an exported program is for, if its graph fixes it."""
    network = program.network
    if isinstance(network, Exported):
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
