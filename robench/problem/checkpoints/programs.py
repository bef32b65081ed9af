"""Models that bring their own code: TorchScript and torch.export files.

Neither is Python, but both can do more than arithmetic. TorchScript has operators that write files, and a
`__setstate__` runs while it is loaded; so its code is read as text first, and refused if it could do
either. Reading a torch.export file evaluates Python expressions in it, which no look can make safe.
"""

import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UserError
from ..architectures.normalise import Around

# aten::save and aten::from_file write files; operators of other libraries may do anything.
FORBIDDEN = re.compile(rb"\b(__setstate__|save|from_file)\b|\b(ops)\b(?!\s*\.\s*(?:aten|prim|prims|quantized)\s*\.)")


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


def load_torchscript(path: Path, device: torch.device, *, trust: bool) -> Program:
    """The program in a TorchScript archive. Raises UserError when it is damaged, or could touch files."""
    try:
        if not trust:
            _refuse_what_touches_files(path)
        with warnings.catch_warnings():
            # torch 2.13 warns people who write TorchScript; we only read what others wrote.
            warnings.filterwarnings("ignore", ".*torch.jit.load.* is deprecated", DeprecationWarning)
            return Program(torch.jit.load(str(path), map_location=device))  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path} is not a whole TorchScript file ({reason}); copy or download it again") from error


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


def _refuse_what_touches_files(path: Path) -> None:
    # torch's own reader, so that what is looked at is what will be loaded.
    reader: Any = torch._C.PyTorchFileReader(str(path))
    for record in reader.get_all_records():
        found = FORBIDDEN.search(reader.get_record(record)) if record.endswith(".py") else None
        if found:
            raise UserError(
                f"{path} is a TorchScript program with {found[0].decode()!r} in {record}, which can write files when "
                "it is loaded or run, so it was not loaded; if you trust who made it, add --trust-pickle"
            )


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """The state dict of a module, without what is no tensor."""
    return {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}
