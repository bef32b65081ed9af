"""CIFAR-10-C: CIFAR-10's test images under 19 corruptions at five severities.

Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261, https://zenodo.org/records/2535967
"""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from ...errors import UserError, unknown
from ..split import Split
from .files import Places, content, damaged, find, members, verified
from .pixels import split_of_bytes

SEVERITIES = 5
LABELS = "labels"
SIDE = 32


class Corruption(NamedTuple):
    """A corruption and its severity, from 1 to 5."""

    name: str
    severity: int


@dataclass(frozen=True)
class CorruptedCifar10:
    """The data set: its archive, the files in it with their md5, and servers."""

    files: Mapping[str, str]  # by name without suffix: a corruption, or `labels`
    archive_checksum: str
    urls: tuple[str, ...]
    archive: str = "CIFAR-10-C.tar"
    folders: tuple[str, ...] = ("CIFAR-10-C", "cifar10-c", "cifar-10-c", "cifar10-c/CIFAR-10-C")
    name: str = "cifar10-c"
    classes: int = 10

    @property
    def corruptions(self) -> list[str]:
        """The names of the corruptions, sorted."""
        return sorted(set(self.files) - {LABELS})

    def parse(self, text: str) -> Corruption | None:
        """The corruption in `cifar10-c/fog@3`; None if the text names other data.

        Raises UserError if the corruption or the severity is missing or unknown.
        """
        data, slash, ending = text.partition("/")
        if data != self.name or not slash:
            return None
        name, _, severity = ending.partition("@")
        if name not in self.corruptions:
            raise unknown(f"corruption of {self.name}", name, self.corruptions)
        if not re.fullmatch(f"[1-{SEVERITIES}]", severity):
            raise UserError(f"{text} has no severity from 1 to {SEVERITIES}; write it like {self.name}/{name}@3")
        return Corruption(name, int(severity))

    def refuse(self, part: str) -> Split:
        """Raises UserError: the name alone stands for 95 sets of images."""
        raise UserError(
            f"{self.name} is {len(self.corruptions)} corruptions at {SEVERITIES} severities; name one, like"
            f" {self.name}/fog@3: {', '.join(self.corruptions)}"
        )

    def read(self, corruption: Corruption, places: Places | None = None) -> Split:
        """All test images under a corruption, from the user's folder, else from the cache, else from a server.

        Example i is CIFAR-10's test image i. Raises UserError if a file is damaged, or the files are not found and
        cannot be downloaded.
        """
        places = places or Places.of_this_user()
        arrays = self._arrays(corruption.name, places)
        if arrays is None:
            self._fetch(places.cache / self.name)
            arrays = self._arrays(corruption.name, places)
        assert arrays is not None, f"{self.name} was downloaded into a folder that is not searched"
        pixels, labels = arrays
        count = len(labels) // SEVERITIES
        rows = slice(count * (corruption.severity - 1), count * corruption.severity)
        name = f"{self.name}/{corruption.name}@{corruption.severity}:test"
        return split_of_bytes(name, pixels[rows].transpose(0, 3, 1, 2), labels[rows], self.classes)

    def here(self, name: str = LABELS, places: Places | None = None) -> bool:
        """Whether the images under a corruption are on this machine. Their contents are not checked."""
        roots = (places or Places.of_this_user()).roots
        return any(self._unpacked(root, name) or self._archives(root) for root in roots)

    def _unpacked(self, root: Path, name: str) -> list[Path] | None:
        return find(root, self.folders, [f"{name}.npy", f"{LABELS}.npy"])

    def _archives(self, root: Path) -> list[Path] | None:
        return find(root, ("", *self.folders), [self.archive])

    def _arrays(
        self, name: str, places: Places
    ) -> tuple[UInt8[np.ndarray, "N 32 32 3"], UInt8[np.ndarray, "N"]] | None:
        """The images of all severities, and their labels; None if they are in none of the folders."""
        for root in places.roots:
            if paths := self._unpacked(root, name):
                return self._parsed(name, *((content(path), str(path)) for path in paths))
            if archives := self._archives(root):
                held = dict(members(archives[0], {f"{name}.npy", f"{LABELS}.npy"}, "r:"))
                parts = (f"{name}.npy", f"{LABELS}.npy")
                return self._parsed(name, *((held[part], f"{archives[0]}: {part}") for part in parts))
        return None

    def _parsed(
        self, name: str, images: tuple[bytes, str], labels: tuple[bytes, str]
    ) -> tuple[UInt8[np.ndarray, "N 32 32 3"], UInt8[np.ndarray, "N"]]:
        """Both arrays. The checksum comes first, so that only published files are parsed."""
        x, y = (
            array(verified(data, self.files[key], source), source)
            for key, (data, source) in ((name, images), (LABELS, labels))
        )
        if x.shape != (len(y), SIDE, SIDE, 3) or y.ndim != 1 or len(y) % SEVERITIES:
            raise damaged(images[1], f"images {x.shape} with labels {y.shape}")
        return x, y

    def _fetch(self, folder: Path) -> None:
        from .download import Download, fetch  # imports network libraries, so only when needed

        fetch([Download(self.archive, self.archive_checksum, self.urls)], folder, self.name)


def array(data: bytes, source: str) -> UInt8[np.ndarray, "..."]:
    """The bytes in an `.npy` file. Raises UserError, which begins with `source`, for other contents."""
    try:
        held = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise damaged(source, error) from None
    if held.dtype != np.uint8:
        raise damaged(source, f"it holds {held.dtype}, not bytes")
    return held


# sha256 of the archive: url_checksums/cifar10_corrupted.txt of tensorflow/datasets; Zenodo gives the md5
# 56bf5dcef84df0e2308c6dcbcbbd8499. md5 of the files: datasets/classification/cifar/cifar_c.py of
# ENSTA-U2IS-AI/torch-uncertainty; that of the labels is also the md5 of CIFAR-10's test labels, five times over.
CIFAR10_C = CorruptedCifar10(
    files={
        "brightness": "0a81ef75e0b523c3383219c330a85d48",
        "contrast": "3c8262171c51307f916c30a3308235a8",
        "defocus_blur": "7d1322666342a0702b1957e92f6254bc",
        "elastic_transform": "9421657c6cd452429cf6ce96cc412b5f",
        "fog": "7b397314b5670f825465fbcd1f6e9ccd",
        "frost": "31f6ab3bce1d9934abfb0cc13656f141",
        "gaussian_blur": "c33370155bc9b055fb4a89113d3c559d",
        "gaussian_noise": "ecaf8b9a2399ffeda7680934c33405fd",
        "glass_blur": "7361fb4019269e02dbf6925f083e8629",
        "impulse_noise": "2090e01c83519ec51427e65116af6b1a",
        "jpeg_compression": "2b9cc4c864e0193bb64db8d7728f8187",
        "motion_blur": "fffa5f852ff7ad299cfe8a7643f090f4",
        "pixelate": "0f14f7e2db14288304e1de10df16832f",
        "saturate": "1cfae0964219c5102abbb883e538cc56",
        "shot_noise": "3a7239bb118894f013d9bf1984be7f11",
        "snow": "bb238de8555123da9c282dea23bd6e55",
        "spatter": "8a5a3903a7f8f65b59501a6093b4311e",
        "speckle_noise": "ef00b87611792b00df09c0b0237a1e30",
        "zoom_blur": "6ea8e63f1c5cdee1517533840641641b",
        LABELS: "c439b113295ed5254878798ffe28fd54",
    },
    archive_checksum="sha256:c72763e101c723b7c507b96205f7e938912a5d587376173b825850cf3cb876a7",
    urls=(
        "https://zenodo.org/records/2535967/files/CIFAR-10-C.tar",
        "https://zenodo.org/record/2535967/files/CIFAR-10-C.tar",
    ),
)
