"""Tiny-ImageNet: 200 classes of ImageNet at 64x64, from a course at Stanford. http://cs231n.stanford.edu/

The test images have no labels, so the validation images are the test part. Images are JPEG files: decoders may differ
by a grey level, and digests with them.
"""

import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from logging import getLogger
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from ...errors import UserError, counted
from ..split import Source, Split, Undecoded
from . import npz, pictures
from .files import Places, content, damaged, find, unverified, verified
from .pixels import split_of_bytes
from .preparation import Preparation

SHAPE = (64, 64, 3)
CLASSES = 200
FOLDER = "tiny-imagenet-200"  # within the archive
IDS, ANNOTATIONS = "wnids.txt", "val/val_annotations.txt"
_TRAIN = re.compile(r"train/(n[0-9]{8})/images/\1_[0-9]+\.JPEG")
_COLOUR = Preparation(channels="3")


@runtime_checkable
class Files(Protocol):
    """Files by their names below `tiny-imagenet-200/`."""

    def names(self) -> list[str]:
        """The names of all files, sorted."""

    def read(self, name: str) -> bytes:
        """The content of a file. Raises UserError if it is missing or damaged."""

    def source(self, name: str) -> str:
        """What messages call a file."""


@dataclass(frozen=True)
class Archive:
    """The files in the published archive."""

    path: Path
    zip: zipfile.ZipFile

    @classmethod
    def of(cls, path: Path, md5: str) -> "Archive":
        """The archive. Raises UserError if it is not the published file."""
        data = verified(content(path), md5, str(path))
        try:
            return cls(path, zipfile.ZipFile(io.BytesIO(data)))
        except zipfile.BadZipFile as error:
            raise damaged(str(path), error) from None

    def names(self) -> list[str]:
        return sorted(n.removeprefix(f"{FOLDER}/") for n in self.zip.namelist() if n.startswith(f"{FOLDER}/"))

    def read(self, name: str) -> bytes:
        try:
            return self.zip.read(f"{FOLDER}/{name}")
        except (KeyError, zipfile.BadZipFile, OSError) as error:
            raise damaged(self.source(name), error) from None

    def source(self, name: str) -> str:
        return f"{self.path}: {name}"


@dataclass(frozen=True)
class Unpacked:
    """The files of the unpacked archive, which no checksum covers."""

    path: Path

    def names(self) -> list[str]:
        return sorted(path.relative_to(self.path).as_posix() for path in self.path.glob("train/*/images/*.JPEG"))

    def read(self, name: str) -> bytes:
        return content(self.path / name)

    def source(self, name: str) -> str:
        return str(self.path / name)


@dataclass(frozen=True)
class TinyImageNet:
    """The data set: its archive and servers, and the number of validation images."""

    archive: str
    md5: str
    sha256: str
    urls: tuple[str, ...]
    count: int = 10_000  # validation images
    folders: tuple[str, ...] = ("", "tiny-imagenet", "tiny_imagenet", "TinyImageNet")
    name: str = "tiny-imagenet"

    def read(self, part: str, places: Places | None = None) -> Source:
        """The whole part, from the user's folder, else from the cache, else from a server.

        If a folder holds only some of the validation images, these are returned with their numbers. Files that no
        checksum covers are named in the caution of the split, or, of the training images, in a logged warning. Raises
        UserError if a file is damaged, or the part is not found and cannot be downloaded.
        """
        places = places or Places.of_this_user()
        found = self._found(part, places)
        if found is None:
            self._fetch(places.cache / self.name)
            found = self._found(part, places)
        assert found is not None, f"{self.name} was downloaded into a folder that is not searched"
        return found

    def here(self, part: str, places: Places | None = None) -> bool:
        """Whether files of this part are on this machine. Their contents are not checked."""
        roots = (places or Places.of_this_user()).roots
        return any(self._archives(root) or self._folders(root, part) or self._npz(root, part) for root in roots)

    def _found(self, part: str, places: Places) -> Source | None:
        for root in places.roots:
            if archives := self._archives(root):
                return self._of_files(part, Archive.of(archives[0], self.md5))
            if folders := self._folders(root, part):
                caution = unverified(folders[0], f"the unpacked files of {self.name}:{part}")
                if part != "test":  # no evaluation will show it
                    getLogger("robench").warning(caution)
                return self._of_files(part, Unpacked(folders[0]), caution)
            if paths := self._npz(root, part):
                return self._of_arrays(part, paths[0])
        return None

    def _archives(self, root: Path) -> list[Path] | None:
        return find(root, self.folders, [self.archive])

    def _folders(self, root: Path, part: str) -> list[Path] | None:
        names = [IDS, ANNOTATIONS] if part == "test" else [IDS]
        unpacked = [f"{folder}/{FOLDER}".removeprefix("/") for folder in self.folders]
        found = find(root, [*unpacked, *filter(None, self.folders)], names)
        return found and [found[0].parent]

    def _npz(self, root: Path, part: str) -> list[Path] | None:
        if part != "test":
            return None
        names = ("tiny_imagenet_val.npz", "tiny_imagenet_val_1000.npz")
        return next(filter(None, (find(root, self.folders, [name]) for name in names)), None)

    def _of_files(self, part: str, files: Files, caution: str = "") -> Source:
        ids = _ids(files)
        rows = self._annotated(files, ids) if part == "test" else _training(files, ids)
        name = f"{self.name}:{part}"

        def open_picture(row: int) -> tuple[Image.Image, str]:
            file = rows[row][0]
            return pictures.opened(io.BytesIO(files.read(file)), files.source(file)), files.source(file)

        labels = [label for _, label in rows]

        def decode(wanted: Sequence[int]) -> Split:
            pixels = pictures.decoded(open_picture, wanted, as_grey=False, preparation=_COLOUR, name=name)
            if pixels.shape[1:] != SHAPE:
                raise damaged(files.source(rows[wanted[0]][0]), f"it has the shape {pixels.shape[1:]}")
            chosen = np.array([labels[row] for row in wanted], dtype=np.int64)
            split = split_of_bytes(name, pixels.transpose(0, 3, 1, 2), chosen, CLASSES)
            return replace(split, numbers=tuple(wanted), caution=caution)

        if part == "test":
            return decode(range(len(rows)))
        return Undecoded(name, len(rows), decode, labels=labels)

    def _annotated(self, files: Files, ids: Mapping[str, int]) -> list[tuple[str, int]]:
        """The file and the label of each validation image, in the order of their numbers."""
        source = files.source(ANNOTATIONS)
        found = {}
        for line in _text(files, ANNOTATIONS).splitlines():
            file, _, rest = line.partition("\t")
            wnid = rest.partition("\t")[0]
            if not re.fullmatch(r"val_[0-9]{1,6}\.JPEG", file) or wnid not in ids:
                raise damaged(source, f"it has the line {line[:60]!a}")
            found[int(file[4:-5])] = (f"val/images/{file}", ids[wnid])
        if sorted(found) != list(range(self.count)):
            raise damaged(source, f"it does not describe the images 0 to {self.count - 1}")
        return [found[number] for number in range(self.count)]

    def _of_arrays(self, part: str, path: Path) -> Split:
        """Validation images that were decoded before, with their numbers in `index`."""
        x, y, index = npz.arrays(path, "x_val", "y_val", "index")
        if x.dtype != np.uint8 or x.shape != (*y.shape, *SHAPE) or any(a.dtype.kind not in "iu" for a in (y, index)):
            raise damaged(str(path), f"images {x.dtype} {x.shape} with labels {y.dtype} {y.shape}")
        increasing = index.shape == y.shape and (np.diff(index) > 0).all()
        if not len(y) or not increasing or index[0] < 0 or index[-1] >= self.count:
            raise damaged(str(path), f"index does not hold increasing numbers from 0 to {self.count - 1}")
        if y.min() < 0 or y.max() >= CLASSES:
            raise damaged(str(path), f"y_val does not hold labels from 0 to {CLASSES - 1}")
        images = f"{len(y):,} of the {counted(self.count, 'image')} of {self.name}:{part}"
        split = split_of_bytes(f"{self.name}:{part}", x.transpose(0, 3, 1, 2), y, CLASSES)
        return replace(split, numbers=tuple(index.tolist()), caution=unverified(path, images))

    def _fetch(self, folder: Path) -> None:
        from .download import Download, fetch  # imports network libraries, so only when needed

        fetch([Download(self.archive, f"sha256:{self.sha256}", self.urls)], folder, self.name)


def _ids(files: Files) -> dict[str, int]:
    """The label of each WordNet id: its place in the sorted list."""
    ids = sorted(_text(files, IDS).split())
    if len(set(ids)) != CLASSES or len(ids) != CLASSES:
        raise damaged(files.source(IDS), f"it does not hold {CLASSES} WordNet ids")
    return {wnid: label for label, wnid in enumerate(ids)}


def _training(files: Files, ids: Mapping[str, int]) -> list[tuple[str, int]]:
    """The file and the label of each training image, in the order of torchvision's ImageFolder."""
    matches = [found for name in files.names() if (found := _TRAIN.fullmatch(name))]
    if {found[1] for found in matches} != set(ids):
        raise UserError(f"{files.source('train')} does not hold images of the {CLASSES} classes in {IDS}")
    return [(found[0], ids[found[1]]) for found in matches]


def _text(files: Files, name: str) -> str:
    try:
        return files.read(name).decode("ascii")
    except UnicodeDecodeError as error:
        raise damaged(files.source(name), error) from None


# md5: public loaders, such as avalanche/benchmarks/datasets/tiny_imagenet/tiny_imagenet.py of ContinualAI/avalanche.
# sha256: several public projects; the pointers of large-file storage to copies of 248,100,043 bytes give it too.
TINY_IMAGENET = TinyImageNet(
    archive="tiny-imagenet-200.zip",
    md5="90528d7ca1a48142e341f4ef8d21d0de",
    sha256="6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
    urls=(
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        "https://zenodo.org/records/10720917/files/tiny-imagenet-200.zip",
    ),
)
