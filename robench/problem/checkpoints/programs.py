"""Models that bring their own code: TorchScript and torch.export files.

Neither is Python, but both can do more than arithmetic. TorchScript is loaded without consent where all of its code is
known to only compute: see `torchscript/`. Reading a torch.export file evaluates Python expressions in it, which no
check can make safe.
"""

import hashlib
import io
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import UserError
from ..architectures.normalise import Around
from .torchscript import refuse_what_may_do_more


class Program(Around):
    """A loaded program, with the methods of a module that such programs lack."""

    def train(self, mode: bool = True) -> "Program":
        """Exported programs stay in the mode they were exported in, and refuse to be asked."""
        self.training = mode
        if not isinstance(self.network, torch.fx.GraphModule):
            self.network.train(mode)
        return self


def is_torchscript(entries: set[str]) -> bool:
    """Whether a zip file with these entries, the archive's own folder left out, is a TorchScript archive."""
    return "constants.pkl" in entries or "model.json" in entries or any(e.startswith("code/") for e in entries)


def is_exported(entries: set[str]) -> bool:
    """Whether it is a torch.export archive, of this format or of the one before torch 2.8."""
    return any(e.startswith("models/") for e in entries) or "serialized_exported_program.json" in entries


def load_torchscript(path: Path, device: torch.device, *, trust: bool) -> tuple[Program, str]:
    """The program in a TorchScript archive, and a text that names its code.

    Raises UserError when the file is damaged or, unless it is trusted, may do more than compute.
    """
    try:
        data = path.read_bytes()  # once: what is checked is what is loaded, whatever becomes of the file meanwhile
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    if not trust:
        refuse_what_may_do_more(path, data)
    try:
        with warnings.catch_warnings():
            # torch 2.13 warns people who write TorchScript; we only read what others wrote.
            warnings.filterwarnings("ignore", ".*torch.jit.load.* is deprecated", DeprecationWarning)
            module = torch.jit.load(io.BytesIO(data), map_location=device)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path} is not a whole TorchScript file ({reason}); copy or download it again") from error
    return Program(module), f"torchscript:{hashlib.sha256(data).hexdigest()[:16]}"


def load_exported(path: Path, *, trust: bool) -> Program:
    """The program in a torch.export archive. Raises UserError unless it is trusted."""
    if not trust:
        raise UserError(
            f"{path} is a torch.export program, and reading one can run code; if you trust who made it, add "
            "--trust-pickle, else save the state dict of the model and name its architecture with --arch"
        )
    try:
        program = Program(torch.export.load(path).module())
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{path} cannot be read by torch {torch.__version__}: {reason}; export it again with this version"
        ) from error
    return program


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """The state dict of a module, without what is no tensor."""
    return {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}
