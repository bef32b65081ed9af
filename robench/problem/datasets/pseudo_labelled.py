"""The 500,000 pseudo-labelled images of Carmon et al. 2019 (RST). https://arxiv.org/abs/1905.13736

They were chosen from 80 Million Tiny Images for their likeness to CIFAR-10's classes, and labelled by a network. They
are published as a pickle without a checksum, and the authors of Tiny Images withdrew that data set in 2020. So the file
is never downloaded, and it is read without running anything it names.
"""

from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

from ...errors import UserError
from ..split import Undecoded
from .batch_pickle import read_pseudo_labelled
from .files import Places, find, refuse_page, unverified
from .pixels import source_of_bytes

PAGE = "https://github.com/yaircarmon/semisup-adv"


@dataclass(frozen=True)
class PseudoLabelledImages:
    """The data set: its file, and the folders that may hold it."""

    file: str = "ti_500K_pseudo_labeled.pickle"
    folders: tuple[str, ...] = ("", "rst-500k", "tinyimages", "cifar10")  # below ROBENCH_DATA and the cache
    name: str = "rst-500k"
    classes: int = 10

    def read(self, part: str, places: Places | None = None) -> Undecoded:
        """The images, as bytes until they are taken; a warning names the file.

        Raises UserError if the file is damaged, names code, or is not found.
        """
        places = places or Places.of_this_user()
        path = self._path(places)
        if path is None:
            raise UserError(
                f"{self.name} is not on this machine, and robench does not download it: get {self.file} from {PAGE},"
                " and set ROBENCH_DATA to its folder"
            )
        refuse_page(path)
        with path.open("rb") as file:
            images = read_pseudo_labelled(file, str(path))
        getLogger("robench").warning(unverified(path, f"{len(images.labels):,} pseudo-labelled images"))
        pixels = images.pixels.transpose(0, 3, 1, 2)
        return source_of_bytes(f"{self.name}:{part}", pixels, images.labels, self.classes)

    def here(self, part: str = "train", places: Places | None = None) -> bool:
        """Whether the file is on this machine. Its content is not checked."""
        return self._path(places or Places.of_this_user()) is not None

    def _path(self, places: Places) -> Path | None:
        found = (find(root, self.folders, [self.file]) for root in places.roots)
        return next((paths[0] for paths in found if paths), None)


RST_500K = PseudoLabelledImages()
