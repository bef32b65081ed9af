"""CIFAR-10, in either of the two formats that its authors publish. https://www.cs.toronto.edu/~kriz/cifar.html"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ..split import Split
from . import npz
from .arrays import Array
from .batch_pickle import read_batch
from .files import Places, content, damaged, find, members, verified
from .pixels import split_of_bytes

SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32  # a label, then the red, the green and the blue pixels row by row
Records = UInt8[np.ndarray, "_ 3073"]  # the batches in a list may differ in length

FOLDERS = ("", "cifar10", "cifar-10")


def from_binary(data: bytes, source: str) -> Records:
    """The records in a `.bin` file, which holds nothing else."""
    if not data or len(data) % RECORD:
        raise damaged(source, f"it has {len(data)} bytes, which is no multiple of {RECORD}")
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, RECORD)


def from_pickle(data: bytes, source: str) -> Records:
    """The records in a batch of the python version, a pickled dictionary; only plain numbers are read."""
    batch = read_batch(data, source)
    return np.concatenate([batch.labels[:, None], batch.pixels], axis=1)


def from_images(x: Array, y: Array, source: str) -> Records:
    """The records for images (N, 32, 32, 3) of bytes and their labels, as in `.npz` files."""
    channels, height, width = SHAPE
    if x.dtype != np.uint8 or y.dtype.kind not in "iu" or x.shape != (*y.shape, height, width, channels):
        raise damaged(source, f"images {x.dtype} {x.shape} with labels {y.dtype} {y.shape}")
    pixels = x.transpose(0, 3, 1, 2).reshape(len(y), -1)
    return np.concatenate([y.astype(np.uint8)[:, None], pixels], axis=1)


@dataclass(frozen=True)
class Version:
    """A published format: an archive, the folder in it, and the files of each part with their md5."""

    archive: str
    folder: str
    parts: Mapping[str, Mapping[str, str]]
    parse: Callable[[bytes, str], Records]

    def batches(self, root: Path, part: str) -> list[Path] | None:
        """The unpacked files of a part; None if they are not below `root`."""
        folders = [*FOLDERS, self.folder, *(f"{folder}/{self.folder}" for folder in FOLDERS if folder)]
        return find(root, folders, list(self.parts[part]))

    def archives(self, root: Path) -> list[Path] | None:
        """The archive, which holds every part; None if it is not below `root`."""
        return find(root, FOLDERS, [self.archive])

    def read(self, root: Path, part: str) -> list[Records] | None:
        """The batches of a part, unpacked or in the archive; None if neither lies below `root`."""
        if paths := self.batches(root, part):
            return [self._checked(content(path), path.name, str(path), part) for path in paths]
        if archives := self.archives(root):
            held = dict(members(archives[0], set(self.parts[part]), "r:gz"))
            return [self._checked(held[name], name, f"{archives[0]}: {name}", part) for name in self.parts[part]]
        return None

    def _checked(self, data: bytes, name: str, source: str, part: str) -> Records:
        # The checksum first, so that only the published file is parsed.
        return self.parse(verified(data, self.parts[part][name], source), source)


@dataclass(frozen=True)
class Cifar10:
    """The data set: its published versions, `.npz` files with the same content, and servers of the first version."""

    versions: tuple[Version, ...]
    npz_parts: Mapping[str, Mapping[str, str]]  # md5 of the records they hold
    npz_beginnings: Mapping[str, Mapping[str, str]]  # md5 of files that hold only the first examples of a part
    archive_checksum: str
    urls: tuple[str, ...]
    name: str = "cifar10"
    classes: int = 10

    def read(self, part: str, places: Places | None = None) -> Split:
        """The whole part, from the user's folder, else from the cache, else from a mirror.

        If a folder holds only the first examples of the part, these are returned, and a warning is logged.
        Raises UserError if a file is damaged, or the part is not found and cannot be downloaded.
        """
        places = places or Places.of_this_user()
        for root in places.roots:
            batches = self._below(root, part)
            if batches:
                return self._split(part, batches)
        self._fetch(places.cache / self.name)
        batches = self._below(places.cache, part)
        assert batches is not None, "CIFAR-10 was downloaded into a folder that is not searched"
        return self._split(part, batches)

    def here(self, part: str, places: Places | None = None) -> bool:
        """Whether files of this part are on this machine. Their contents are not checked."""
        return any(
            version.batches(root, part) or version.archives(root) or self._npz_files(root, part, known)
            for root in (places or Places.of_this_user()).roots
            for version in self.versions
            for known in (self.npz_parts, self.npz_beginnings)
        )

    def _below(self, root: Path, part: str) -> list[Records] | None:
        for version in self.versions:
            if batches := version.read(root, part):
                return batches
        if batches := self._npz(root, part, self.npz_parts):
            return batches
        if batches := self._npz(root, part, self.npz_beginnings):
            count = sum(len(batch) for batch in batches)
            getLogger("robench").warning(f"{root} holds only the first {count} examples of {self.name}:{part}")
            return batches
        return None

    def _npz_files(self, root: Path, part: str, known: Mapping[str, Mapping[str, str]]) -> list[Path]:
        names = list(known.get(part, {}))
        return find(root, (*FOLDERS, "big"), names) or []

    def _npz(self, root: Path, part: str, known: Mapping[str, Mapping[str, str]]) -> list[Records] | None:
        checksums = known.get(part, {})
        batches = []
        for path in self._npz_files(root, part, known):
            x, y = npz.arrays(path, f"x_{part}", f"y_{part}")
            records = from_images(x, y, str(path))
            verified(records.tobytes(), checksums[path.name], str(path))
            batches.append(records)
        return batches or None

    def _split(self, part: str, batches: list[Records]) -> Split:
        records = np.concatenate(batches)
        return split_of_bytes(f"{self.name}:{part}", records[:, 1:].reshape(-1, *SHAPE), records[:, 0], self.classes)

    def _fetch(self, folder: Path) -> None:
        from .download import Download, fetch  # imports network libraries, so only when needed

        fetch([Download(self.versions[0].archive, self.archive_checksum, self.urls)], folder, self.name)


BINARY = Version(
    archive="cifar-10-binary.tar.gz",
    folder="cifar-10-batches-bin",
    parts={
        "train": {
            "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
            "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
            "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
            "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
            "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
        },
        "test": {"test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d"},
    },
    parse=from_binary,
)

PYTHON = Version(
    archive="cifar-10-python.tar.gz",
    folder="cifar-10-batches-py",
    parts={
        "train": {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        "test": {"test_batch": "40351d587109b95175f43aff81a1287e"},
    },
    parse=from_pickle,
)

CIFAR10 = Cifar10(
    versions=(BINARY, PYTHON),
    npz_parts={
        "train": {f"cifar10_train_{k}.npz": md5 for k, md5 in enumerate(BINARY.parts["train"].values(), start=1)},
        "test": {"cifar10_test.npz": BINARY.parts["test"]["test_batch.bin"]},
    },
    npz_beginnings={"test": {"cifar10_test_first1000.npz": "371f65da31ad652f5e24b3699a3e6515"}},
    archive_checksum="sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    urls=(
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "https://cave.cs.toronto.edu/kriz/cifar-10-binary.tar.gz",
        "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/cifar-10-binary.tar.gz",
        "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets/cifar-10-binary.tar.gz",
    ),
)
