"""The data sets robench knows by name, and the user's own in `.npz` files and image folders."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ... import errors
from ...errors import UserError
from ..split import Source, Split, shuffled_rows
from . import cifar10, digits, mnist, npz
from .preparation import Preparation

PARTS = ("train", "test")
MOST_HELD_OUT = 1000  # images: more of them measure hardly better
HELD_OUT, REST = "held-out", "rest"  # parts of an .npz file that has no test part of its own


def _always(part: str) -> bool:
    return True


@dataclass(frozen=True)
class DataSet:
    """A published data set. Reading it may download it; everything else is known beforehand.

    `mean` and `std` are those of all training pixels in [0, 1], per channel, to four digits: what an
    architecture may normalise by.
    """

    name: str
    about: str  # one line: what the images show, and the source
    shape: tuple[int, int, int]  # channels, height, width
    classes: int
    licence: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    read: Callable[[str], Split]  # takes "train" or "test"
    here: Callable[[str], bool] = _always  # whether that part can be read without a download


DATASETS: dict[str, DataSet] = {
    data.name: data
    for data in (
        DataSet(
            name="digits",
            about="1,797 handwritten digits that need no download, 8x8 enlarged to 28x28. "
            "Alpaydin and Kaynak 1998, https://doi.org/10.24432/C50P49",
            shape=(1, 28, 28),
            classes=10,
            licence="CC BY 4.0 (UCI Machine Learning Repository); carried by scikit-learn, BSD 3-clause",
            mean=(0.3060,),
            std=(0.3249,),
            read=digits.read,
        ),
        DataSet(
            name="mnist",
            about="70,000 handwritten digits, 28x28. LeCun et al. 1998, http://yann.lecun.com/exdb/mnist/",
            shape=(1, 28, 28),
            classes=10,
            licence="commonly given as CC BY-SA 3.0",
            mean=(0.1307,),
            std=(0.3081,),
            read=mnist.MNIST.read,
            here=mnist.MNIST.here,
        ),
        DataSet(
            name="fashion-mnist",
            about="70,000 pieces of clothing, 28x28, grey. Xiao et al. 2017, https://arxiv.org/abs/1708.07747",
            shape=(1, 28, 28),
            classes=10,
            licence="MIT",
            mean=(0.2860,),
            std=(0.3530,),
            read=mnist.FASHION_MNIST.read,
            here=mnist.FASHION_MNIST.here,
        ),
        DataSet(
            name="cifar10",
            about="60,000 photographs of ten kinds of things, 32x32. Krizhevsky 2009, "
            "https://www.cs.toronto.edu/~kriz/cifar.html",
            shape=(3, 32, 32),
            classes=10,
            licence="none stated; cite Learning Multiple Layers of Features from Tiny Images, Krizhevsky 2009",
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
            read=cifar10.CIFAR10.read,
            here=cifar10.CIFAR10.here,
        ),
    )
}


def load(
    text: str, part: str = "test", *, preparation: Preparation | None = None, numbers: Sequence[int] | None = None
) -> Split:
    """The examples that `mnist`, `mnist:train`, `my.npz` or `folder/` names; a part in the text comes before `part`.

    With `numbers`, at least those examples that are there: of an image folder no others are decoded.
    Raises UserError when there is no such data set, part, file or folder, or its files are damaged.
    """
    found = source(text, part, preparation)
    if isinstance(found, Split):
        return found
    rows = range(len(found)) if numbers is None else [number for number in numbers if number < len(found)]
    return found.take(rows or range(1))


def source(text: str, part: str = "test", preparation: Preparation | None = None) -> Source:
    """The same, of which images in files are decoded only when they are taken."""
    preparation = preparation or Preparation()
    file, cut = _file_and_part(text)
    if cut:
        return _part_of(npz.read(Path(os.path.expanduser(file))), cut)
    if is_folder(text):
        from . import image_folder

        return image_folder.read(Path(os.path.expanduser(text)), preparation)
    if preparation.known():
        raise UserError(f"{preparation.given()} is for images in a folder; leave it out for {text}")
    name, colon, ending = text.rpartition(":")
    if colon and not _is_file(text):
        text, part = name, ending
    if part not in PARTS:
        raise errors.unknown(f"part of {text}", part, PARTS)
    if _is_file(text):
        return npz.read(Path(os.path.expanduser(text)), part)
    if text not in DATASETS:
        if "/" in text or os.sep in text or os.path.exists(os.path.expanduser(text)):
            raise UserError(
                f"there is no folder {text}; --data takes the name of a data set, a folder of images or an .npz file"
            )
        raise errors.unknown("data set", text, DATASETS)
    return DATASETS[text].read(part)


def is_folder(text: str) -> bool:
    """Whether the text names a folder that is there, and no data set: `./mnist` is a folder, `mnist` the data set."""
    return text not in DATASETS and not _is_file(text) and os.path.isdir(os.path.expanduser(text))


def placed(text: str) -> str:
    """The same data as named from any folder: paths in full, names as they are."""
    file, cut = _file_and_part(text)
    path = Path(os.path.expanduser(file))
    there = is_folder(file) or (_is_file(file) and path.is_file())
    return str(path.resolve()) + (f":{cut}" if cut else "") if there else text


def prepared(text: str, given: Preparation | None, known: Mapping[str, str]) -> Preparation:
    """How to prepare these images again: as is said now, else as a run says in its environment."""
    if given is not None and given.known():
        return given
    return Preparation.of(known) if is_folder(text) else Preparation()


def title(text: str) -> str:
    """What the data are called, without part and path: `mnist`, `my` for my.npz, the name of a folder."""
    if is_folder(text):
        return Path(os.path.expanduser(text)).resolve().name
    file = _file_and_part(text)[0]
    return Path(file).stem if _is_file(file) else text.partition(":")[0]


def is_undivided(text: str) -> bool:
    """Whether the text names an `.npz` file with images and labels alone: none of them are for testing."""
    path = Path(os.path.expanduser(text))
    return _is_file(text) and path.is_file() and npz.is_undivided(path)


def fitting(shape: tuple[int, ...]) -> list[str]:
    """The names of the data sets with images of this shape: channels, height, width."""
    return [data.name for data in DATASETS.values() if data.shape == shape]


def _file_and_part(text: str) -> tuple[str, str]:
    """`my.npz:held-out` as its file and its part; any other text with no part."""
    file, colon, ending = text.rpartition(":")
    return (file, ending) if colon and ending in (HELD_OUT, REST) and _is_file(file) else (text, "")


def _part_of(whole: Split, part: str) -> Split:
    """A fifth of the examples, at most a thousand, in an order that mixes classes; or the rest."""
    rows = shuffled_rows(len(whole))
    held = min(MOST_HELD_OUT, len(whole) // 5)
    chosen = rows[:held] if part == HELD_OUT else rows[held:]
    if not chosen:
        raise UserError(
            f"{whole.name} holds {errors.counted(len(whole), 'image')}, too few to hold any out; add images"
        )
    return replace(whole.take(sorted(chosen)), name=f"{whole.name}:{part}", origin=None)


def _is_file(text: str) -> bool:
    return text.lower().endswith(".npz")
