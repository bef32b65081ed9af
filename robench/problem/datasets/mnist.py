"""MNIST and Fashion-MNIST: the same four files, in the IDX format of http://yann.lecun.com/exdb/mnist/"""

import gzip
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ...errors import UserError
from ..split import Split
from . import npz
from .files import Places, content, damaged, find, verified
from .pixels import split_of_bytes

UNSIGNED_BYTES = 0x08  # the third byte of an IDX file gives the type of its values


@dataclass(frozen=True)
class IdxFile:
    """A published file and its checksums."""

    name: str
    md5: str  # of the file
    gz_md5: str  # of the .gz file on the servers


@dataclass(frozen=True)
class IdxPart:
    """The files with images and labels of one part."""

    images: IdxFile
    labels: IdxFile


@dataclass(frozen=True)
class IdxSet:
    """A data set in MNIST's format: the names of its files, the folders that may hold them, and their servers."""

    name: str
    folders: tuple[str, ...]  # below ROBENCH_DATA and the cache; "" is the top
    mirrors: tuple[str, ...]
    parts: Mapping[str, IdxPart]
    classes: int = 10

    def read(self, part: str, places: Places | None = None) -> Split:
        """The whole part, from the user's folder, else from the cache, else from a mirror.

        Raises UserError if a file is damaged, or the part is not found and cannot be downloaded.
        """
        places = places or Places.of_this_user()
        for root in places.roots:
            found = self._originals(root, part) or self._npz(root, part)
            if found:
                return self._split(part, *found)
        self._fetch(part, places.cache / self.name)
        found = self._originals(places.cache, part)
        assert found is not None, f"{self.name} was downloaded into a folder that is not searched"
        return self._split(part, *found)

    def here(self, part: str, places: Places | None = None) -> bool:
        """Whether the files of this part are on this machine. Their contents are not checked."""
        roots = (places or Places.of_this_user()).roots
        return any(self._original_files(root, part) or self._npz_file(root, part) for root in roots)

    def _original_files(self, root: Path, part: str) -> list[Path] | None:
        """The IDX files below `root`, compressed or not; None if they are not there."""
        names = [file.name for file in (self.parts[part].images, self.parts[part].labels)]
        return find(root, self.folders, names) or find(root, self.folders, [f"{name}.gz" for name in names])

    def _npz_file(self, root: Path, part: str) -> list[Path] | None:
        return find(root, ("", *self.folders), [f"{self.name.replace('-', '_')}_{part}.npz"])

    def _originals(self, root: Path, part: str) -> tuple[bytes, bytes] | None:
        """The contents of the IDX files below `root`; None if they are not there."""
        files = self.parts[part].images, self.parts[part].labels
        paths = self._original_files(root, part)
        if not paths:
            return None
        images, labels = (_unpacked(path, file) for path, file in zip(paths, files, strict=True))
        return images, labels

    def _npz(self, root: Path, part: str) -> tuple[bytes, bytes] | None:
        """The contents of the IDX files, rebuilt from the arrays in, say, `mnist_test.npz`; None without that file."""
        paths = self._npz_file(root, part)
        if not paths:
            return None
        files = self.parts[part].images, self.parts[part].labels
        stored = npz.arrays(paths[0], f"x_{part}", f"y_{part}")
        if any(array.dtype.kind not in "iu" for array in stored):
            raise damaged(str(paths[0]), f"it holds {' and '.join(str(array.dtype) for array in stored)}, not bytes")
        images, labels = (
            verified(idx_bytes(array.astype(np.uint8)), file.md5, f"{paths[0]}: {letter}_{part}")
            for letter, array, file in zip("xy", stored, files, strict=True)
        )
        return images, labels

    def _split(self, part: str, images: bytes, labels: bytes) -> Split:
        source = f"{self.name}:{part}"
        x, y = parse_idx(images, source), parse_idx(labels, source)
        if x.ndim != 3 or y.ndim != 1 or len(x) != len(y):
            raise UserError(f"the files of {source} do not belong together: images {x.shape}, labels {y.shape}")
        return split_of_bytes(source, x[:, None], y, self.classes)

    def _fetch(self, part: str, folder: Path) -> None:
        from .download import Download, fetch  # imports network libraries, so only when needed

        files = self.parts[part].images, self.parts[part].labels
        downloads = [
            Download(f"{f.name}.gz", f"md5:{f.gz_md5}", tuple(f"{mirror}{f.name}.gz" for mirror in self.mirrors))
            for f in files
        ]
        fetch(downloads, folder, self.name)


def _unpacked(path: Path, file: IdxFile) -> bytes:
    data = content(path)
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise damaged(str(path), error) from None
    parse_idx(data, str(path))  # first, so that the error for a truncated file is not about its checksum
    return verified(data, file.md5, str(path))


def parse_idx(data: bytes, source: str) -> UInt8[np.ndarray, "..."]:
    """The array of bytes in an IDX file: two zero bytes, type, number of axes, the axes as 32-bit numbers, the values.

    Raises UserError, which begins with `source`, for other bytes.
    """
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != UNSIGNED_BYTES:
        raise damaged(source, f"it begins with {data[:4].hex() or 'nothing'}, which no IDX file of bytes does")
    start = 4 + 4 * data[3]
    if len(data) < start:
        raise damaged(source, "it ends within its header")
    shape = tuple(np.frombuffer(data, dtype=">u4", count=data[3], offset=4).tolist())
    if len(data) != start + math.prod(shape):
        raise damaged(source, f"it has {len(data)} bytes instead of {start + math.prod(shape)}")
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)


def idx_bytes(array: UInt8[np.ndarray, "..."]) -> bytes:
    """The IDX file that holds this array."""
    return bytes((0, 0, UNSIGNED_BYTES, array.ndim)) + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()


MNIST = IdxSet(
    name="mnist",
    folders=("", "mnist", "MNIST", "MNIST/raw"),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    ),
    parts={
        "train": IdxPart(
            IdxFile("train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            IdxFile("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624", "d53e105ee54ea40749a09fcbcd1e9432"),
        ),
        "test": IdxPart(
            IdxFile("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea", "9fb629c4189551a2d022fa330f9573f3"),
            IdxFile("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637", "ec29112dd5afa0611ce80d1b7f02629c"),
        ),
    },
)

FASHION_MNIST = IdxSet(
    name="fashion-mnist",
    # Not the top folder: files there may be MNIST's, which have the same names.
    folders=("fashion-mnist", "fashion_mnist", "FashionMNIST", "FashionMNIST/raw"),
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
    parts={
        "train": IdxPart(
            IdxFile("train-images-idx3-ubyte", "f4a8712d7a061bf5bd6d2ca38dc4d50a", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            IdxFile("train-labels-idx1-ubyte", "9018921c3c673c538a1fc5bad174d6f9", "25c81989df183df01b3e8a0aad5dffbe"),
        ),
        "test": IdxPart(
            IdxFile("t10k-images-idx3-ubyte", "8181f5470baa50b63fa0f6fddb340f0a", "bef4ecab320f06d8554ea6380940ec79"),
            IdxFile("t10k-labels-idx1-ubyte", "15d484375f8d13e6eb1aabb0c3f46965", "bb300cfdad3c16e7a12a480ee83cd310"),
        ),
    },
)
