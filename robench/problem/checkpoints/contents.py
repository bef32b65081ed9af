"""What is in a checkpoint file: tensors by name, or a whole module. Runs no code of the file unless told to.

Files are known by their first bytes, not by their names.
"""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import torch
from torch import Tensor, nn

from ...errors import UserError
from ..architectures.factories import searching
from ..datasets.files import BEGINNING, is_html
from ..durable import sha256
from .programs import is_exported, is_torchscript, load_exported, load_torchscript, tensors_of

AGAIN = "copy or download it again"
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "params",
    "weights",
    "state_dict_ema",
    "ema_state_dict",
    "ema",
)
"""Keys under which training scripts put the weights beside the optimizer, the most usual first."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and wrapper modules put before every key."""


@dataclass(frozen=True)
class Contents:
    """Either tensors, or a module that was saved whole, with the text that names its code."""

    tensors: Mapping[str, Tensor]
    module: nn.Module | None = None
    code: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read(path: Path, *, trust_pickle: bool, device: torch.device) -> Contents:
    """Raises UserError when the file is no checkpoint, is damaged, or could not be read without running its code.

    Programs are loaded to `device`, tensors to the CPU. A module's weights are float32; tensors are as they were saved.
    """
    try:
        with path.open("rb") as file:
            beginning = file.read(BEGINNING)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    _refuse_by_look(path, beginning)
    if path.suffix == ".safetensors" or beginning[8:10] == b'{"':
        return _safetensors(path)
    if not beginning.startswith(b"PK"):
        return _pickled(path, trust_pickle)
    entries = _zip_entries(path)
    if is_torchscript(entries):
        return _whole(*load_torchscript(path, device, trust=trust_pickle))
    if is_exported(entries):
        return _whole(load_exported(path, trust=trust_pickle), f"torch.export:{sha256(path)[:16]}")
    if "data.pkl" not in entries:
        raise UserError(f"{path} is a zip file of something else, not a checkpoint; name the file with the weights")
    return _pickled(path, trust_pickle)


def bare(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The tensors under the names in the file, then without each prefix that all the names share."""
    stages = [dict(tensors)]
    while stripped := _without_prefix(stages[-1]):
        stages.append(stripped)
    return stages


def _refuse_by_look(path: Path, beginning: bytes) -> None:
    if not beginning:
        raise UserError(f"{path} is empty; {AGAIN}")
    if is_html(beginning):
        raise UserError(f"{path} is an HTML page, not a checkpoint; download the file itself")
    if beginning.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a Git LFS pointer, not the checkpoint itself; type `git lfs pull` in its folder")
    if path.suffix == ".onnx":
        raise UserError(
            f"{path} is ONNX, which robench does not read yet; save the state dict of the PyTorch model it was made "
            "from, or convert it with onnx2torch and save the result with torch.jit.script"
        )


def _safetensors(path: Path) -> Contents:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it cannot be iterated)
            metadata = dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} is cut off or damaged ({error}); {AGAIN}") from None
    return Contents(tensors, metadata=metadata, notes=_precision(path, tensors))


def _zip_entries(path: Path) -> set[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        raise UserError(f"{path} is cut off or damaged; {AGAIN}") from None
    # torch puts everything into one folder, whose name does not matter; torch.export did not before torch 2.8.
    return {*names, *(name.partition("/")[2] for name in names)}


def _pickled(path: Path, trust: bool) -> Contents:
    held, notes = _unwrapped(_unpickled(path, trust))
    if isinstance(held, nn.Module):
        return _whole(held, f"{type(held).__module__}.{type(held).__qualname__}", notes)
    if not isinstance(held, Mapping):
        raise UserError(f"{path} holds {type(held).__name__}, not weights by name; save the model's state_dict()")
    tensors = {str(key): value.detach() for key, value in held.items() if isinstance(value, Tensor)}
    return Contents(tensors, notes=notes + _precision(path, tensors))


def _unpickled(path: Path, trust: bool) -> object:
    try:
        # The current folder is for the classes of a trusted file: a stranger's must not lend modules to torch.
        with searching(Path.cwd()) if trust else nullcontext(), warnings.catch_warnings():
            # A newer pickle protocol than torch's own is either read or refused: no third case to warn of.
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            # torch itself uses it, to read quantised tensors.
            warnings.filterwarnings("ignore", "TypedStorage is deprecated", UserWarning)
            loaded: object = torch.load(path, map_location="cpu", weights_only=not trust)
        return loaded
    except pickle.UnpicklingError as error:
        raise _unreadable(path, str(error), trust) from None
    except (EOFError, OSError, RuntimeError) as error:
        if trust:
            raise _unloadable(path, error) from error
        raise UserError(f"{path} is cut off or damaged; {AGAIN}") from None
    except Exception as error:
        if trust:  # the file's own code may raise anything
            raise _unloadable(path, error) from error
        raise UserError(f"{path} is not a checkpoint that PyTorch reads; name a .safetensors or .pt file") from None


def _unreadable(path: Path, message: str, trust: bool) -> UserError:
    with path.open("rb") as file:
        looks_pickled = file.read(2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
    if trust or not looks_pickled:
        return UserError(f"{path} is not a checkpoint that PyTorch reads; name a .safetensors or .pt file")
    named = re.search(r"GLOBAL (\S+)", message)
    return UserError(
        f"{path} is a pickle that would run code to be read{f' ({named[1]})' if named else ''}, so nothing of it was "
        "run; save the model's state_dict() instead, or add --trust-pickle if you trust who made the file"
    )


def _unloadable(path: Path, error: Exception) -> UserError:
    reason = str(error).strip().partition("\n")[0] or "no message"
    return UserError(
        f"{path} could not be unpickled ({type(error).__name__}: {reason}); run robench where the classes of the model "
        "can be imported, or save its state_dict() and name the architecture with --arch"
    )


def _unwrapped(loaded: object) -> tuple[object, tuple[str, ...]]:
    """The weights, or the module, inside what a training script saved."""
    if not isinstance(loaded, Mapping):
        return loaded, ()
    found = [key for key in WRAPPERS if isinstance(loaded.get(key), Mapping | nn.Module)]
    if not found:
        return loaded, ()
    inner, notes = _unwrapped(loaded[found[0]])
    if len(found) > 1:
        notes = (f"the file holds weights under {', '.join(found)}; those under {found[0]} are taken", *notes)
    return inner, notes


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor] | None:
    # torch's averaged models count their updates beside the weights.
    named = {key: value for key, value in tensors.items() if key != "n_averaged"}
    for prefix in PREFIXES:
        if named and all(key.startswith(prefix) for key in named):
            return {key.removeprefix(prefix): value for key, value in named.items()}
    return None


def _whole(module: nn.Module, code: str, notes: tuple[str, ...] = ()) -> Contents:
    module = module.float()
    return Contents(tensors_of(module), module, code, notes=notes)


def _precision(path: Path, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """What to say about the precision of the weights. Raises UserError when there are no gradients in it."""
    quantised = next((key for key, tensor in tensors.items() if tensor.is_quantized), None)
    if quantised is not None:
        raise UserError(f"{path} is quantised ({quantised}), and has no gradients; save the model before quantisation")
    types = {str(t.dtype).removeprefix("torch.") for t in tensors.values() if t.is_floating_point()} - {"float32"}
    return (f"the weights were {' and '.join(sorted(types))} and are read as float32",) if types else ()
