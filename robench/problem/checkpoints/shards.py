"""Reads safetensors files, single or in several parts with an index."""

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import safetensors
from torch import Tensor

from ...errors import UserError, counted
from ..names import shown
from .locating import INDEX
from .zips import AGAIN

LARGEST = 2**26  # bytes of an index; a hundred thousand tensors need a tenth of it


class _Index(msgspec.Struct):
    """An index file: the name of the file that holds each tensor."""

    weight_map: dict[str, str]


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of one file. Raises UserError if it is damaged."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is not iterable)
            return tensors, dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} is cut off or damaged ({error}); {AGAIN}") from None
    except (KeyError, AttributeError) as error:  # a number type that this torch lacks
        raise UserError(f"{path} holds numbers of a type that this torch does not have ({error})") from None


def read_sharded(path: Path, read: Callable[[Path], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of all files that an index names, each read by `read`.

    Raises UserError if the index is damaged, a file is not in its folder, or a tensor is not in the file listed for it.
    """
    if path.stat().st_size > LARGEST:
        raise UserError(f"{path} is too large for an index; name the file with the weights")
    try:
        index = msgspec.json.decode(path.read_bytes(), type=_Index)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is no index of weights ({error}); name the file with the weights") from None
    files: dict[str, list[str]] = {}
    for key, name in index.weight_map.items():
        files.setdefault(name, []).append(key)
    missing = []
    for name in files:
        # Otherwise an index could name any file on this machine.
        if Path(name).name != name or name in ("", ".", "..") or "\\" in name:
            raise UserError(f"{path} names the file {shown(name)!r}; the parts must lie in its own folder")
        if not (path.parent / name).is_file():
            missing.append(name)
    if missing:
        more = f", and {counted(len(missing) - 1, 'more part')}" if len(missing) > 1 else ""
        raise UserError(f"{path} lists {shown(missing[0])}{more}, not in its folder; put all parts beside it")
    tensors: dict[str, Tensor] = {}
    for name, keys in files.items():
        held = read(path.parent / name)
        for key in keys:
            if key not in held:
                raise UserError(f"{path} lists {shown(key)} in {shown(name)}, which does not hold it; {AGAIN}")
            tensors[key] = held[key]
    return tensors


def index_of(path: Path) -> Path | None:
    """The index beside this file that lists it among several parts; None without one."""
    for index in sorted(path.parent.glob(f"*{INDEX}")):
        try:
            if index.stat().st_size <= LARGEST:
                parts = {*msgspec.json.decode(index.read_bytes(), type=_Index).weight_map.values()}
                if path.name in parts and len(parts) > 1:
                    return index
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OSError):
            continue
    return None
