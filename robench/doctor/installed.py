"""Which attack libraries and data sets are here."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from .. import __version__
from ..problem.datasets import DATASETS

NAMES = {  # of their packages, by what people call them
    "Foolbox": ("foolbox",),
    "AutoAttack": ("autoattack", "pyautoattack"),
    "torchattacks": ("torchattacks",),
    "ART": ("adversarial-robustness-toolbox",),
    "adv-lib": ("adv-lib",),
}


@dataclass(frozen=True)
class Library:
    """An attack library, as far as it is installed."""

    name: str
    package: str
    version: str  # empty: not installed

    def __bool__(self) -> bool:
        return bool(self.version)


def libraries() -> list[Library]:
    """Those the doctor knows. None is imported."""
    return [_library(name, packages) for name, packages in NAMES.items()]


def robench() -> Library:
    """This one."""
    return Library("robench", "robench", __version__)


def data_sets() -> dict[str, bool]:
    """Whether each data set can be read without a download."""
    return {data.name: data.here("test") for data in DATASETS.values()}


def _library(name: str, packages: Iterable[str]) -> Library:
    for package in packages:
        try:
            return Library(name, package, version(package))
        except PackageNotFoundError:
            continue
    return Library(name, package, "")
