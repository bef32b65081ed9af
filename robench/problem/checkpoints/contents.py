"""The contents of a checkpoint file: tensors by name, or a whole module. Runs code of the file only if it is trusted.

The format is recognised by the first bytes of the file, not by its name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import UserError
from ..architectures.factories import Factory
from ..cache import BEGINNING, is_html
from ..names import shown
from .arrays import is_mat, is_npz, read_mat, read_npz
from .locating import INDEX
from .nested import Nested, nested
from .onnx import Imported, is_onnx, load_onnx
from .pickled_arrays import PickledArray
from .pickles import unpickled
from .programs import (
    images_of,
    is_exported,
    is_torchscript,
    load_exported,
    load_forward_only,
    load_torchscript,
    not_confined,
    tensors_of,
)
from .shards import index_of, read_safetensors, read_sharded
from .zips import AGAIN, entries, names

FOREIGN = {
    b"\x89HDF\r\n": "is HDF5, of Keras or MATLAB 7.3; save its arrays by name with numpy.savez",
    b"GGUF": "is GGUF, whose weights are quantised and have no gradients; name the checkpoint it was made from",
    b"\x93NUMPY": "holds one array without names; save the weights by name with numpy.savez(path, **weights)",
    b"\x1f\x8b": "is compressed with gzip; unpack it and name the checkpoint in it",
    b"BZh": "is compressed with bzip2; unpack it and name the checkpoint in it",
    b"\xfd7zXZ": "is compressed with xz; unpack it and name the checkpoint in it",
    b"7z\xbc\xaf": "is a 7z archive; unpack it and name the checkpoint in it",
    b"SQLite format 3": "is a run file, not a checkpoint; print it with robench report, or name the model",
    b'{\n  "schema": "robench.summary': "is a summary; print it with robench report, or name the model",
    b"Rar!": "is a rar archive; unpack it and name the checkpoint in it",
}
"""The first bytes of files that are often mistaken for checkpoints, and the message for each."""


@dataclass(frozen=True)
class Contents:
    """The contents of a file: tensors, or a module that was saved whole, with the text that identifies its code."""

    tensors: Mapping[str, Tensor]
    module: nn.Module | None = None
    code: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    nested: Nested = field(default_factory=Nested)  # the containers of the tensors
    shape: tuple[int, ...] | None = None  # of the images, if the module fixes it
    loose: bool = False  # MATLAB has no shapes with one axis: axes of length 1 are ignored


def read(path: Path, *, trust_pickle: bool, device: torch.device, script: Factory | None = None) -> Contents:
    """The contents of a checkpoint file.

    Programs are loaded to `device`, tensors to the CPU. A module's weights become float32; tensors keep their type.
    Names in `__main__` that a trusted file refers to are taken from `script`. Raises UserError if the file is not a
    checkpoint, is damaged, or cannot be read without running its code.
    """
    if path.name.endswith(INDEX):
        return _held(path, read_sharded(path, lambda part: _one(part, trust_pickle, device, script).tensors))
    if (index := index_of(path)) is not None:
        raise UserError(f"{path} is one of several parts; name {index}, which lists them all")
    return _one(path, trust_pickle, device, script)


def _one(path: Path, trust: bool, device: torch.device, script: Factory | None) -> Contents:
    try:
        with path.open("rb") as file:
            beginning = file.read(BEGINNING)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    _refuse_foreign(path, beginning)
    if is_onnx(path, beginning):
        return _imported(*load_onnx(path, lambda data: load_forward_only(path, data, device, trust=trust)))
    if path.suffix == ".safetensors" or beginning[8:10] == b'{"':
        tensors, metadata = read_safetensors(path)
        return replace(_held(path, tensors), metadata=metadata)
    if is_mat(beginning):
        arrays, others = read_mat(path)
        found = _held(path, arrays)
        found.nested.unusable.update(
            {name: f"is {what}; save each array as a variable of its own" for name, what in others.items()}
        )
        return replace(found, loose=True)
    if not beginning.startswith(b"PK"):
        return _held(path, unpickled(path, beginning, trust, script))
    inside = entries(path)
    kinds = names(inside)
    if is_torchscript(kinds):
        return of_module(*load_torchscript(path, device, trust=trust))
    if is_exported(kinds):
        program, code = load_exported(path, device, trust=trust)
        return replace(of_module(program, code), shape=images_of(program))
    if is_npz(kinds):
        return _held(path, read_npz(path, inside))
    if "data.pkl" not in kinds:
        like = next((f", like {shown(name)}" for name in sorted(kinds) if name.endswith((".pt", ".pth"))), "")
        raise UserError(f"{path} is a zip file, but not a checkpoint; name the file with the weights{like}")
    return _held(path, unpickled(path, beginning, trust, script))


def _refuse_foreign(path: Path, beginning: bytes) -> None:
    """Raises UserError for a file that is known not to be a checkpoint."""
    if not beginning:
        raise UserError(f"{path} is empty; {AGAIN}")
    if is_html(beginning):
        raise UserError(f"{path} is an HTML page, not a checkpoint; download the file itself")
    if beginning.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a Git LFS pointer, not the checkpoint itself; type `git lfs pull` in its folder")
    for start, reason in FOREIGN.items():
        if beginning.startswith(start):
            raise UserError(f"{path} {reason}")


def _held(path: Path, held: object) -> Contents:
    """The contents of nested containers. Raises UserError if they hold no weights by name."""
    try:
        found = nested(held)
    except UserError as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if isinstance(held, nn.Module):
        return of_module(held, f"{type(held).__module__}.{type(held).__qualname__}")
    if not found.containers:
        what = "one array" if isinstance(held, PickledArray) else type(held).__name__
        raise UserError(f"{path} holds {what}, not weights by name; save the model's state_dict()")
    for name, module in found.modules.items():
        found.tensors.update({f"{name}.{key}": tensor for key, tensor in tensors_of(module).items()})
    return Contents(found.tensors, nested=found)


def of_module(module: nn.Module, code: str) -> Contents:
    """The contents of a module that is there whole; `code` identifies what it computes."""
    module = module.float()
    return Contents(tensors_of(module), module, code, nested=Nested(containers=[""]), notes=not_confined(module))


def _imported(imported: Imported, code: str) -> Contents:
    nested = Nested(containers=[""])
    return Contents(imported.weights, imported.network, code, notes=imported.notes, nested=nested, shape=imported.shape)
