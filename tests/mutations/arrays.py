"""Mutated `.npz` files of images, claims and weights, and other checkpoints."""

import io
import json
import warnings
import zipfile
from pathlib import Path
from random import Random

import numpy as np

from .changes import STRANGE, as_json, changed, changed_bytes, changed_text
from .texts import QUICK

TYPES = [
    *("u1", "i1", "i8", "u8", "f2", "f4", "f8", "g", "c8", "?", "U5", "S3", "M8[s]", "m8[s]", ">f4", ">i8", "V4", "O"),
]
HEADER_TYPES = ["|O", "<c16", "<U9", "|V8", "<f16", ">f8", "<M8[ns]", "<f99", "O", "x", "<i8,<i8"]
HEADER_SHAPES = [
    *("(99999999999,)", "(-1,)", "(2, -3)", "(1,1,1,1,1,1)", "(0, 99999999)", "(1e3,)", "('x',)", "(10**99,)"),
    *("(True,)", "(" + "9" * 400 + ",)", "(" * 900 + ")" * 900),
]


def arrays(valid: Path, folder: Path, random: Random) -> list[str]:
    """Images, labels, claims or weights in an `.npz` file."""
    name = random.choice(["images.npz", "images.npz", "claims.npz", "weights.npz"])
    held = (valid / name).read_bytes()
    path = folder / name
    if random.random() < 0.3:
        path.write_bytes(changed_bytes(held, random))
    else:
        with np.load(valid / name) as archive:
            found = {key: archive[key] for key in archive.files}
        key = random.choice(list(found))
        if random.random() < 0.6:
            found[key] = _array(found[key], random)
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **found)
            path.write_bytes(buffer.getvalue())
        else:
            path.write_bytes(_archive(found, key, random))
    if name == "claims.npz":
        return ["claim", "digits-nat", name, "--threat", "linf:0.2", "--run", "new.robench", "--quiet"]
    attack = ["--threat", "linf:0.1", "--attack", "pgd(steps=1)", *QUICK]
    if name == "weights.npz":
        return ["evaluate", name, "--data", "digits", "--examples", "2", *attack]
    return ["evaluate", "digits-nat", "--data", name, "--examples", "2", *attack]


def _array(array: np.ndarray, random: Random) -> np.ndarray:
    """The array with another type, shape or values."""
    match random.randrange(4):
        case 0:
            try:
                return array.astype(random.choice(TYPES))
            except (TypeError, ValueError):
                return array.astype("O")
        case 1:
            shapes = [(), (0,), (1,), (5, 8), (0, 1, 8, 8), array.shape[:1], (*array.shape, 1), array.shape[::-1]]
            return np.resize(array, random.choice(shapes))
        case 2:
            strange = [s for s in STRANGE if isinstance(s, int | float)]
            try:
                wide = array.astype(random.choice([array.dtype, "f8", "O", "u8"]))
                wide.reshape(-1)[random.randrange(wide.size)] = random.choice(strange)
            except (ValueError, OverflowError, TypeError):
                wide = np.array([str(random.choice(strange))] * len(array) if array.ndim else "x")
            return wide
        case _:
            return array[: random.choice([0, 1, 3])] if array.ndim else np.array([array, array])


def _archive(arrays: dict[str, np.ndarray], key: str, random: Random) -> bytes:
    """A zip file whose member `key` has a changed header, or forged sizes, or is not alone."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.save(member, array, allow_pickle=True)
            data = member.getvalue()
            if name == key:
                data = _member(data, archive, random)
            archive.writestr(f"{name}.npy", data)
        info = archive.infolist()[-1]
        for _ in range(random.choice([0, 0, 1])):
            field = random.choice(["file_size", "compress_size", "CRC", "flag_bits", "compress_type", "header_offset"])
            sizes = [0, 1, 2**31, 2**32 - 1, 2**40]
            setattr(info, field, random.choice(sizes) if field.endswith("size") else random.randrange(99))
    return buffer.getvalue()


def _member(data: bytes, archive: zipfile.ZipFile, random: Random) -> bytes:
    length = int.from_bytes(data[8:10], "little")
    head, body = data[10 : 10 + length].decode("latin-1"), data[10 + length :]
    match random.randrange(5):
        case 0:  # another header, of the right length
            head = changed_text(head.rstrip(), random)
        case 1:
            shape = head[head.index("(") : head.index(")") + 1]
            head = head.replace(shape, random.choice(HEADER_SHAPES))
        case 2:
            kind = head.split("'")[3]
            head = head.replace(kind, random.choice(HEADER_TYPES))
        case 3:
            body = bytes(random.choice([2**20, 2**27])) if random.random() < 0.3 else body[: len(body) // 2]
        case _:
            name = random.choice(["x.npy", "../x.npy", "x", "more.txt", "\x1b[2J.npy"])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # the name may be there twice
                archive.writestr(name, random.choice([b"", data, b"x" * 99]))
    new = head.encode("latin-1", "replace")
    return data[:8] + (len(new) % 2**16).to_bytes(2, "little") + new + body


def weights(valid: Path, folder: Path, random: Random) -> list[str]:
    """A checkpoint: safetensors with a changed header, or a file of `torch.save` with changed bytes."""
    if random.random() < 0.5:
        held = (valid / "digits-nat.safetensors").read_bytes()
        length = int.from_bytes(held[:8], "little")
        header = as_json(changed(json.loads(held[8 : 8 + length]), random))
        data = len(header).to_bytes(8, "little") + header + held[8 + length :]
        name = "w.safetensors"
        if random.random() < 0.4:
            data = changed_bytes(held, random)
    else:
        name = "w.pt"
        data = changed_bytes((valid / "digits-nat.pt").read_bytes(), random)
    (folder / name).write_bytes(data)
    attack = ["--threat", "linf:0.1", "--attack", "pgd(steps=1)"]
    return ["evaluate", name, "--data", "digits", "--examples", "2", *attack, *QUICK]
