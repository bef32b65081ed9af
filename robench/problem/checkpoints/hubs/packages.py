"""Models that installed packages make: timm, torchvision and RobustBench. To name one is to run its code.

Interfaces: `timm.create_model` (timm/models/_factory.py), `torchvision.models.get_model` and `get_model_weights`
(torchvision/models/_api.py), `robustbench.utils.load_model`.
"""

import contextlib
import importlib
import re
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import nn

from ....errors import UserError, described, unknown
from ...cache import cache_folder
from ...names import shown
from ..assembly import Declared
from .client import waiting
from .huggingface import commit_of
from .names import malformed, not_installed, package_of, repo
from .settings import Described, of_timm, prepared

HUB = "hf-hub:"
DEFAULT = "DEFAULT"  # the name of torchvision's best weights of a network
SHAPES = {"cifar10": (3, 32, 32), "cifar100": (3, 32, 32), "imagenet": (3, 224, 224)}
CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}
"""The images and classes of RobustBench's data sets."""


@dataclass(frozen=True)
class Made:
    """A module that a package made, under the name that makes it again, and what is known about it."""

    name: str
    short: str  # for tables and file names
    module: nn.Module
    described: Described
    recorded: Mapping[str, str]


def made(text: str) -> Made:
    """The model that the text names. Runs code of the package, which may download its weights. Raises UserError."""
    package = package_of(text)
    name = text.partition(":")[2]
    with _running(text, package):
        return MAKERS[package](text, name)


@contextlib.contextmanager
def _running(text: str, package: str) -> Iterator[None]:
    """Runs code of a package: what it prints goes to stderr, a silent server is given up, and errors are the user's."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(before or waiting())  # torch.hub waits without end
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{package} cannot make {shown(text)}: {described(error)}; correct its name, or try again"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def _module(text: str, name: str) -> Any:
    """A module of an installed package. Raises UserError if it is missing, or its import fails."""
    package = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == package:
            raise not_installed(text, package) from None
        raise UserError(f"importing {package} fails: it needs {error.name}; type pip install {error.name}") from error
    except Exception as error:  # a build for another torch raises RuntimeError or OSError
        raise UserError(
            f"importing {package} fails with {described(error)}; install the version that belongs to this torch"
        ) from error


def _of_timm(text: str, name: str) -> Made:
    timm = _module(text, "timm")
    notes: tuple[str, ...] = ()
    if name.startswith(HUB):
        named = repo(name.removeprefix(HUB))
        if named is None:
            raise malformed(text)
        found, notes = commit_of(named)
        name = f"{HUB}{named.at(found.commit)}"
    else:
        if not re.fullmatch(r"[\w.-]+", name):
            raise malformed(text)
        if not timm.is_model(name.partition(".")[0]):
            raise unknown("model of timm", name, timm.list_models())
    module = _checked(text, timm.create_model(name, pretrained=True))
    config = getattr(module, "pretrained_cfg", None) or {}
    if not any(config.get(key) for key in ("hf_hub_id", "url", "file", "state_dict")):
        raise UserError(f"timm has no weights for {name}; timm.list_pretrained() lists names with weights")
    tag = config.get("tag")
    name += f".{tag}" if tag and not name.startswith(HUB) and "." not in name else ""
    settings = of_timm(f"timm's settings of {name}", config)
    source = config.get("hf_hub_id") or config.get("url") or config.get("file") or ""
    return Made(
        f"timm:{name}",
        name.partition("@")[0].rpartition("/")[2],
        module,
        replace(settings, notes=notes),
        {"timm": _version("timm"), "weights from": str(source)},
    )


def _of_torchvision(text: str, name: str) -> Made:
    models = _module(text, "torchvision.models")
    architecture, slash, chosen = name.partition("/")
    if not architecture or "/" in chosen or bool(slash) != bool(chosen):
        raise malformed(text)
    known = models.list_models(module=models)
    if architecture not in known:
        raise unknown("classifier of torchvision", architecture, known)
    offered = models.get_model_weights(architecture).__members__
    if (chosen or DEFAULT) not in offered:
        raise unknown(f"set of weights of torchvision's {architecture}", chosen or DEFAULT, offered)
    weights = offered[chosen or DEFAULT]
    preset = weights.transforms()
    config = {
        "mean": _setting(preset, "mean"),
        "std": _setting(preset, "std"),
        "input_size": (3, *(_setting(preset, "crop_size") * 2)[:2]),
        "num_classes": len(weights.meta.get("categories", ())) or None,
        "crop_mode": "its own",
    }
    full = f"torchvision:{architecture}/{weights.name}"
    found = of_timm(f"the transforms of {full}", config)
    resize, crop = _setting(preset, "resize_size")[0], _setting(preset, "crop_size")[0]
    how = getattr(_setting(preset, "interpolation"), "value", "bilinear")
    preparation = prepared(f"--resize {resize} --crop {crop} --interpolation {how}")
    recorded = {"torchvision": _version("torchvision"), "weights from": str(weights.url)}
    module = _checked(text, models.get_model(architecture, weights=weights))
    return Made(full, architecture, module, replace(found, preparation=preparation), recorded)


def _checked(text: str, module: object) -> nn.Module:
    if not isinstance(module, nn.Module):
        raise UserError(f"{shown(text)} made {type(module).__name__}, not a torch.nn.Module")
    return module


def _setting(preset: Any, name: str) -> Any:
    """A setting of torchvision's preparation; older versions have a line before its name."""
    value = getattr(preset, name) if hasattr(preset, name) else getattr(preset, f"_{name.removeprefix('resize_')}")
    return list(value) if isinstance(value, list | tuple) else value


def _of_robustbench(text: str, name: str) -> Made:
    parts = name.split("/")
    if len(parts) != 3 or not all(re.fullmatch(r"[\w.+-]+", part, re.ASCII) for part in parts):
        raise malformed(text)
    utils, enums = _module(text, "robustbench.utils"), _module(text, "robustbench.model_zoo.enums")
    zoo = _module(text, "robustbench.model_zoo").model_dicts
    data = _member("data set of RobustBench", parts[0], enums.BenchmarkDataset)
    threat = _member("threat model of RobustBench", parts[1], enums.ThreatModel)
    known = zoo.get(data, {}).get(threat, {})
    if parts[2] not in known:
        raise unknown(f"model of RobustBench for {data.value} and {threat.value}", parts[2], known)
    folder = cache_folder() / "robustbench"
    with _whole_files(folder):
        module = utils.load_model(model_name=parts[2], model_dir=folder, dataset=data.value, threat_model=threat.value)
    full = f"robustbench:{data.value}/{threat.value}/{parts[2]}"
    declared = Declared(full, None, "none", SHAPES.get(data.value), CLASSES.get(data.value))
    notes = ("it normalises its images itself, as all models of RobustBench do",)
    recorded = {"robustbench": _version("robustbench")}
    return Made(full, parts[2], _checked(text, module), Described(declared, notes), recorded)


def _member(kind: str, text: str, kinds: Iterable[Any]) -> Any:
    """The member of an enumeration with this value, in any case."""
    members = {str(member.value): member for member in kinds}
    found = next((member for value, member in members.items() if value.lower() == text.lower()), None)
    if found is None:
        raise unknown(kind, text, members)
    return found


@contextlib.contextmanager
def _whole_files(folder: Path) -> Iterator[None]:
    """Removes new files of a folder if the code fails: it writes a download under its name from the beginning."""

    def files() -> set[Path]:
        return {path for path in folder.rglob("*") if path.is_file()}

    before = files()
    try:
        yield
    except BaseException:
        for path in files() - before:
            path.unlink(missing_ok=True)
        raise


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


MAKERS = {"timm": _of_timm, "torchvision": _of_torchvision, "robustbench": _of_robustbench}
"""The function that makes a model, for each package."""
