"""Street View House Numbers, cropped digits, in the MATLAB files of http://ufldl.stanford.edu/housenumbers/"""

import io
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from ..split import Source
from .files import Places, content, damaged, find, verified
from .pixels import source_of_bytes, split_of_bytes

SHAPE = (32, 32, 3)  # of an image in a file, whose last axis counts the images
ZERO = 10  # the stored label of the digit 0


class MatFile(NamedTuple):
    """A published file and its checksums."""

    name: str
    md5: str
    sha256: str


class Digits(NamedTuple):
    """The images and labels of a part."""

    pixels: UInt8[np.ndarray, "N 3 32 32"]
    labels: UInt8[np.ndarray, "N"]


@dataclass(frozen=True)
class Svhn:
    """The data set: a file for each part, the folders that may hold it, and its servers."""

    files: Mapping[str, MatFile]
    mirrors: tuple[str, ...]
    folders: tuple[str, ...] = ("", "svhn", "SVHN", "housenumbers")  # below ROBENCH_DATA and the cache; "" is the top
    name: str = "svhn"
    classes: int = 10

    def read(self, part: str, places: Places | None = None) -> Source:
        """The whole part, from the user's folder, else from the cache, else from a mirror.

        Raises UserError if a file is damaged, or is not found and cannot be downloaded.
        """
        places = places or Places.of_this_user()
        path = self._path(part, places)
        if path is None:
            self._fetch(part, places.cache / self.name)
            path = self._path(part, places)
        assert path is not None, f"{self.name} was downloaded into a folder that is not searched"
        # The checksum first, so that only the published file is parsed.
        digits = parse_mat(verified(content(path), self.files[part].md5, str(path)), str(path))
        make = source_of_bytes if part == "extra" else split_of_bytes
        return make(f"{self.name}:{part}", digits.pixels, digits.labels, self.classes)

    def here(self, part: str, places: Places | None = None) -> bool:
        """Whether the file of this part is on this machine. Its content is not checked."""
        return self._path(part, places or Places.of_this_user()) is not None

    def _path(self, part: str, places: Places) -> Path | None:
        found = (find(root, self.folders, [self.files[part].name]) for root in places.roots)
        return next((paths[0] for paths in found if paths), None)

    def _fetch(self, part: str, folder: Path) -> None:
        from .download import Download, fetch  # imports network libraries, so only when needed

        file = self.files[part]
        urls = tuple(mirror + file.name for mirror in self.mirrors)
        fetch([Download(file.name, f"sha256:{file.sha256}", urls)], folder, self.name)


def parse_mat(data: bytes, source: str) -> Digits:
    """The images in a MATLAB file, channels first, and their labels from 0 to 9.

    Raises UserError, which begins with `source`, for other contents.
    """
    from scipy.io import loadmat  # takes a moment to import, and only this data set needs it
    from scipy.io.matlab import MatReadError

    try:
        held = loadmat(io.BytesIO(data), variable_names=("X", "y"))
    except (MatReadError, ValueError, TypeError, NotImplementedError, EOFError, OSError, zlib.error) as error:
        raise damaged(source, error) from None
    if missing := [name for name in ("X", "y") if name not in held]:
        raise damaged(source, f"it has no array {' and no array '.join(missing)}")
    images, stored = held["X"], held["y"].reshape(-1)
    if images.dtype != np.uint8 or images.shape != (*SHAPE, len(stored)) or stored.dtype.kind not in "iu":
        raise damaged(source, f"images {images.dtype} {images.shape} with labels {stored.dtype} {stored.shape}")
    if not len(stored) or stored.min() < 1 or stored.max() > ZERO:
        raise damaged(source, f"its labels are not all from 1 to {ZERO}")
    return Digits(images.transpose(3, 2, 0, 1), (stored % ZERO).astype(np.uint8))


# md5: torchvision/datasets/svhn.py of pytorch/vision. sha256: url_checksums/svhn_cropped.txt of tensorflow/datasets.
SVHN = Svhn(
    files={
        "train": MatFile(
            "train_32x32.mat",
            "e26dedcc434d2e4c54c9b2d4a06d8373",
            "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
        ),
        "extra": MatFile(
            "extra_32x32.mat",
            "a93ce644f1a588dc4d68dda5feec44a7",
            "a133a4beb38a00fcdda90c9489e0c04f900b660ce8a316a5e854838379a71eb3",
        ),
        "test": MatFile(
            "test_32x32.mat",
            "eb5a983be6a315427106f1b164d9cef3",
            "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
        ),
    },
    mirrors=("http://ufldl.stanford.edu/housenumbers/", "https://ufldl.stanford.edu/housenumbers/"),
)
