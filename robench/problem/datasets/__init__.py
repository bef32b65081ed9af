"""Data sets: published ones by name, and the user's own in `.npz` files and image folders."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ... import errors
from ...errors import UserError
from ..missing import missing
from ..split import Source, Split, shuffled_rows
from . import cifar10, digits, mnist, npz
from .cifar10_c import CIFAR10_C
from .preparation import Preparation
from .pseudo_labelled import RST_500K
from .svhn import SVHN
from .tiny_imagenet import TINY_IMAGENET

PARTS = ("train", "test")
MAX_HELD_OUT = 1000  # images; more would hardly improve the measurement
HELD_OUT, REST = "held-out", "rest"  # parts of an .npz file that has no test part of its own
MEASURED_ON = ("test", HELD_OUT)  # parts that no model is trained on


def _always(part: str) -> bool:
    return True


@dataclass(frozen=True)
class DataSet:
    """A published data set. Reading it may download it; everything else is known in advance.

    `mean` and `std` are those of all training pixels in [0, 1], per channel, to four digits; empty if the images share
    those of another data set. A model may use them for normalisation.
    """

    name: str
    about: str  # one line: what the images show, and the source
    shape: tuple[int, int, int]  # channels, height, width
    classes: int
    licence: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    read: Callable[[str], Source]  # takes a part
    here: Callable[[str], bool] = _always  # whether a part can be read without a download
    parts: tuple[str, ...] = PARTS


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
        DataSet(
            name="cifar10-c",
            about="CIFAR-10's test images under 19 corruptions at severities 1 to 5, named as cifar10-c/fog@3. "
            "Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261",
            shape=(3, 32, 32),
            classes=10,
            licence="CC BY 4.0",
            mean=(),
            std=(),
            read=CIFAR10_C.refuse,
            here=lambda part: CIFAR10_C.here(),
            parts=("test",),
        ),
        DataSet(
            name="rst-500k",
            about="500,000 tiny images that a network labelled with CIFAR-10's classes, to train on; never downloaded. "
            "Carmon et al. 2019, https://arxiv.org/abs/1905.13736",
            shape=(3, 32, 32),
            classes=10,
            licence="none stated; from 80 Million Tiny Images, which its authors withdrew in 2020",
            mean=(),
            std=(),
            read=RST_500K.read,
            here=RST_500K.here,
            parts=("train",),
        ),
        DataSet(
            name="svhn",
            about="99,289 digits of house numbers, 32x32, in colour; 531,131 easier ones as svhn:extra. "
            "Netzer et al. 2011, http://ufldl.stanford.edu/housenumbers/",
            shape=(3, 32, 32),
            classes=10,
            licence="for non-commercial use only",
            mean=(0.4377, 0.4438, 0.4728),
            std=(0.1980, 0.2010, 0.1970),
            read=SVHN.read,
            here=SVHN.here,
            parts=("train", "extra", "test"),
        ),
        DataSet(
            name="tiny-imagenet",
            about="110,000 photographs of 200 of ImageNet's classes, 64x64; the test part is its validation images. "
            "Stanford CS231N, http://cs231n.stanford.edu/",
            shape=(3, 64, 64),
            classes=200,
            licence="none stated; ImageNet's terms are for non-commercial research and education",
            mean=(0.4802, 0.4481, 0.3975),
            std=(0.2770, 0.2691, 0.2821),
            read=TINY_IMAGENET.read,
            here=TINY_IMAGENET.here,
        ),
    )
}


def find(name: str) -> DataSet | None:
    """The published data set of this name; None if there is none. `cifar10-c/fog@3` is one of its own.

    Raises UserError for a corruption or a severity that CIFAR-10-C lacks.
    """
    if name in DATASETS:
        return DATASETS[name]
    corruption = CIFAR10_C.parse(name)
    if corruption is None:
        return None
    return replace(
        DATASETS["cifar10-c"],
        name=name,
        read=lambda part: CIFAR10_C.read(corruption),
        here=lambda part: CIFAR10_C.here(corruption.name),
    )


def load(
    text: str, part: str = "test", *, preparation: Preparation | None = None, numbers: Sequence[int] | None = None
) -> Split:
    """The examples of `mnist`, `mnist:train`, `my.npz` or `folder/`; a part in the text takes precedence over `part`.

    With `numbers`, an image folder decodes only the examples with these numbers, as far as they exist.
    Raises UserError if there is no such data set, part, file or folder, or its files are damaged.
    """
    found = source(text, part, preparation)
    if isinstance(found, Split):
        return found
    rows = range(len(found)) if numbers is None else [number for number in numbers if number < len(found)]
    return found.take(rows or range(1))


def source(text: str, part: str = "test", preparation: Preparation | None = None) -> Source:
    """The examples as in `load`, except that image files are decoded only on access."""
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
    data = None if _is_file(text) else find(text)
    if part not in (parts := data.parts if data else PARTS):
        raise errors.unknown(f"part of {text}", part, parts)
    if _is_file(text):
        return npz.read(Path(os.path.expanduser(text)), part)
    if data is None:
        if "/" in text or os.sep in text or os.path.exists(os.path.expanduser(text)):
            raise missing("folder", text)
        raise errors.unknown("data set", text, DATASETS)
    return data.read(part)


def is_folder(text: str) -> bool:
    """Whether the text names an existing folder and not a data set: `./mnist` is a folder, `mnist` the data set."""
    return not _is_file(text) and os.path.isdir(os.path.expanduser(text)) and find(text) is None


def placed(text: str) -> str:
    """A text that names the same data from any folder: paths become absolute, names stay."""
    file, cut = _file_and_part(text)
    path = Path(os.path.expanduser(file))
    there = is_folder(file) or (_is_file(file) and path.is_file())
    return str(path.resolve()) + (f":{cut}" if cut else "") if there else text


def prepared(text: str, given: Preparation | None, known: Mapping[str, str]) -> Preparation:
    """The preparation of these images when a run is resumed: the given one, else that in the run's environment."""
    if given is not None and given.known():
        return given
    return Preparation.of(known) if is_folder(text) else Preparation()


def title(text: str) -> str:
    """The name of the data without part and path: `mnist`, `my` for my.npz, the name of a folder."""
    if is_folder(text):
        return Path(os.path.expanduser(text)).resolve().name
    file = _file_and_part(text)[0]
    return Path(file).stem if _is_file(file) else text.partition(":")[0]


def named_part(text: str) -> str:
    """The part that the text names, as `test` in `digits:test`; empty if it names none."""
    _, colon, part = text.rpartition(":")
    return part if colon and not _is_file(text) else ""


def is_undivided(text: str) -> bool:
    """Whether the text names an `.npz` file without separate training and test parts."""
    path = Path(os.path.expanduser(text))
    return _is_file(text) and path.is_file() and npz.is_undivided(path)


def fitting(shape: tuple[int, ...]) -> list[str]:
    """The names of the data sets with test images of this shape: channels, height, width."""
    return [data.name for data in DATASETS.values() if data.shape == shape and "test" in data.parts]


def _file_and_part(text: str) -> tuple[str, str]:
    """File and part of a text such as `my.npz:held-out`; any other text without a part."""
    file, colon, ending = text.rpartition(":")
    return (file, ending) if colon and ending in (HELD_OUT, REST) and _is_file(file) else (text, "")


def _part_of(whole: Split, part: str) -> Split:
    """The held-out part, a fifth of the examples with mixed classes and at most a thousand; or the rest."""
    rows = shuffled_rows(len(whole))
    held = min(MAX_HELD_OUT, len(whole) // 5)
    chosen = rows[:held] if part == HELD_OUT else rows[held:]
    if not chosen:
        raise UserError(
            f"{whole.name} holds {errors.counted(len(whole), 'image')}, too few to hold some out; add images"
        )
    return replace(whole.take(sorted(chosen)), name=f"{whole.name}:{part}", origin=None)


def _is_file(text: str) -> bool:
    return text.lower().endswith(".npz")
