"""Reads pickles that `torch.load` does not read with `weights_only`: files of `pickle.dump`, and tar files of PyTorch
before 0.1.10.

A table lists the names that a pickle may use: numbers, arrays, tensors and ordered dictionaries. Nothing outside the
table is imported or called.
"""

import io
import pickle
import struct
import tarfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...errors import UserError
from ..names import shown
from .pickled_arrays import PickledArray, PickledType, array_names
from .zips import AGAIN

TAR = 257, b"ustar"  # the offset at which a tar file names its format, and the name


class RefusedError(Exception):
    """The pickle uses a name that weights do not need."""


def is_tar(beginning: bytes) -> bool:
    """Whether a file begins like a tar file."""
    return beginning[TAR[0] :].startswith(TAR[1])


def read_plain(path: Path) -> object:
    """The object that `pickle.dump` wrote.

    Raises RefusedError with the first name outside the table, and any error of the unpickler if the file is damaged.
    """
    return _Reader(io.BytesIO(path.read_bytes()), TABLE).load()


def read_tar(path: Path) -> object:
    """The object that `torch.save` wrote before PyTorch 0.1.10. Raises UserError for other or damaged tar files."""
    try:
        with tarfile.open(path, "r:") as archive:
            members = {member.name.removeprefix("./"): member for member in archive.getmembers() if member.isfile()}
            if not {"pickle", "storages", "tensors"} <= members.keys():
                inside = next((name for name in members if name.endswith((".pt", ".pth", ".safetensors"))), "")
                like = f", like {shown(inside)}" if inside else ""
                raise UserError(f"{path} is a tar archive; unpack it and name the checkpoint in it{like}")
            content = {name: _content(archive, members[name]) for name in ("pickle", "storages", "tensors")}
        storages = _storages(io.BytesIO(content["storages"]))
        tensors = _tensors(io.BytesIO(content["tensors"]), storages)
        return _Reader(io.BytesIO(content["pickle"]), TABLE, tensors).load()
    except RefusedError as error:
        raise UserError(
            f"{path} is a pickle that would run code when it is read ({error}), so it was not read; load it with the "
            "program that wrote it and save the model's state_dict()"
        ) from None
    except UserError:
        raise
    except Exception:  # a damaged pickle may raise anything
        raise UserError(f"{path} is cut off or damaged; {AGAIN}") from None


class _Reader(pickle._Unpickler):
    """An unpickler that resolves only names in a table.

    Written for the Python implementation: the C version allocates memory for as many objects as a file claims.
    """

    def __init__(self, file: io.BytesIO, table: Mapping[str, Any], outside: Mapping[Any, object] | None = None):
        super().__init__(file, encoding="latin-1")
        self.table, self.outside = table, outside

    def find_class(self, module: str, name: str) -> Any:
        """The entry of the table. Raises RefusedError for other names."""
        if f"{module}.{name}" not in self.table:
            raise RefusedError(f"{module}.{name}")
        return self.table[f"{module}.{name}"]

    def persistent_load(self, pid: object) -> object:
        """The tensor of a tar file with this number."""
        if self.outside is None:
            raise RefusedError(f"the outside object {pid!r}")
        return self.outside[int(str(pid))]

    def build(self) -> None:
        """Sets the state of an object. Only arrays and dictionaries are allowed, never a function of the table."""
        changed = self.stack[-2]  # type: ignore[attr-defined]
        if not isinstance(changed, PickledArray | PickledType | OrderedDict):
            raise RefusedError(f"the state of {type(changed).__name__}")
        super().load_build()  # type: ignore[misc]

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: build}


def _encoded(text: str, encoding: str) -> bytes:
    """The bytes that pickles of protocol 2 write as latin-1 text. Raises RefusedError for other encodings."""
    if encoding not in ("latin1", "latin-1"):
        raise RefusedError(f"_codecs.encode to {encoding!r}")
    return text.encode("latin-1")


def _memory(data: bytes) -> object:
    """The storage of a tensor that was pickled on its own."""
    held: object = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return held


NUMBERS = ["Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool"]
TABLE: Mapping[str, Any] = {
    **{name: made for made, name in array_names()},
    **{f"torch.{where}{name}Storage": getattr(torch, f"{name}Storage")._dtype
       for where in ("", "cuda.") for name in NUMBERS},
    **{f"torch.{where}{name}Tensor": name for where in ("", "cuda.") for name in NUMBERS},
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _encoded,
    "torch.storage._load_from_bytes": _memory,
    "torch._utils._rebuild_tensor": torch._utils._rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
}  # fmt: skip


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None, "it is a file"
    return file.read()


def _storages(file: io.BytesIO) -> dict[Any, Tensor]:
    """The storages by number, as one-dimensional tensors, and views of them."""
    found: dict[Any, Tensor] = {}
    for _ in range(_Reader(file, TABLE).load()):
        number, _place, dtype = _Reader(file, TABLE).load()
        (length,) = struct.unpack("<q", file.read(8))
        data = file.read(length * dtype.itemsize)
        found[number] = torch.frombuffer(bytearray(data), dtype=dtype)[:length] if length else torch.empty(0)
    for view, root, start, length in _Reader(file, TABLE).load():
        found[view] = found[root][start : start + length]
    return found


def _tensors(file: io.BytesIO, storages: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
    """The tensors by number, as views of the storages with shapes and strides."""
    found: dict[Any, Tensor] = {}
    for _ in range(_Reader(file, TABLE).load()):
        number, storage, _kind = _Reader(file, TABLE).load()
        (axes, _) = struct.unpack("<ii", file.read(8))  # written as one number of eight bytes
        sizes = struct.unpack(f"<{axes}q", file.read(8 * axes))
        strides = struct.unpack(f"<{axes}q", file.read(8 * axes))
        (start,) = struct.unpack("<q", file.read(8))
        found[number] = storages[storage].as_strided(sizes, strides, start)
    return found
