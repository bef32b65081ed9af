"""The attack libraries and data sets on this machine."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from .. import __version__
from ..problem.datasets import DATASETS

PACKAGES = {  # distribution names of each library, the first found counts
    "Foolbox": ("foolbox",),
    "AutoAttack": ("autoattack", "pyautoattack"),
    "torchattacks": ("torchattacks",),
    "ART": ("adversarial-robustness-toolbox",),
    "adv-lib": ("adv-lib",),
}


@dataclass(frozen=True)
class Library:
    """An attack library and its installed version."""

    name: str
    package: str
    version: str  # empty if not installed

    def __bool__(self) -> bool:
        return bool(self.version)


def libraries() -> list[Library]:
    """The libraries that the doctor can test. None is imported."""
    return [_library(name, packages) for name, packages in PACKAGES.items()]


def robench() -> Library:
    """This package, with its version."""
    return Library("robench", "robench", __version__)


def data_sets() -> dict[str, bool]:
    """Whether each data set can be read without a download."""
    return {data.name: data.here(data.parts[-1]) for data in DATASETS.values()}


def _library(name: str, packages: Iterable[str]) -> Library:
    for package in packages:
        try:
            return Library(name, package, version(package))
        except PackageNotFoundError:
            continue
    return Library(name, package, "")
