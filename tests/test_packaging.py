"""What is shipped: versions that fit together, files that belong in it, nothing that belongs elsewhere."""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from pathspec import GitIgnoreSpec

import robench
from robench.cli import train
from robench.cli.main import robench as robench_command
from robench.problem import datasets
from robench.problem.checkpoints.cards import images_held_out, read_card
from robench.problem.split import Split

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
CARDS = sorted((ROOT / "model_zoo").glob("*.toml"))
WITH_WEIGHTS = [path for path in CARDS if path.with_suffix(".safetensors").exists()]


def constraints() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def applies(requirement: Requirement, python: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"python_version": python, "extra": ""})


def pins(python: str) -> dict[str, str]:
    """The version of each package under one Python; fails when there are two."""
    found: dict[str, str] = {}
    for pin in constraints():
        if applies(pin, python):
            assert pin.name not in found, f"{pin.name} has two versions under Python {python}"
            (only,) = pin.specifier
            found[pin.name] = only.version
    return found


WITH_THEIR_TORCH = {"timm", "torchvision", "robustbench"}
"""Extras without a pin: their versions follow from the user's torch."""


def wanted() -> list[Requirement]:
    """Everything pyproject.toml asks for, with all extras but those."""
    project = PROJECT["project"]
    extras = [texts for name, texts in project["optional-dependencies"].items() if name not in WITH_THEIR_TORCH]
    texts = [*project["dependencies"], *(text for extra in extras for text in extra)]
    return [r for r in map(Requirement, texts) if r.name != "robench"]


def test_every_constraint_names_one_exact_version():
    for pin in constraints():
        assert re.fullmatch(r"==[\w.!]+", str(pin.specifier)), pin
        assert pin.url is None, pin


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_has_an_exact_version_that_fits_it(python):
    versions = pins(python)
    for requirement in wanted():
        if applies(requirement, python):
            assert requirement.specifier.contains(versions[requirement.name]), requirement


def test_the_pythons_of_the_project_are_those_the_constraints_are_for():
    assert PROJECT["project"]["requires-python"] == f">={PYTHONS[0]},<3.14"


def test_the_version_is_in_one_place_and_in_the_changelog():
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "robench/__init__.py"
    assert re.search(rf"^## .*\b{re.escape(robench.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_command_is_a_function_that_exists():
    module, _, name = PROJECT["project"]["scripts"]["robench"].partition(":")
    assert callable(getattr(import_module(module), name))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout."""
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    return Path(path)


def test_the_wheel_carries_the_package_every_card_and_the_weights_of_the_digits_models_alone(wheel):
    package = {path.relative_to(ROOT) for path in (ROOT / "robench").rglob("*") if path.is_file()}
    package = {path.as_posix() for path in package if "__pycache__" not in path.parts}
    zoo = {f"robench/model_zoo/{path.name}" for path in CARDS}
    zoo |= {f"robench/model_zoo/{path.stem}.safetensors" for path in CARDS if read_card(path).data == "digits"}
    with zipfile.ZipFile(wheel) as archive:
        carried = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert carried == package | zoo
    assert {"robench/py.typed", "robench/protocols/standard-mnist.toml", "robench/cli/main.py"} <= package
    assert wheel.stat().st_size < 5_000_000


@pytest.mark.costly
def test_the_wheel_of_a_source_distribution_is_the_same(wheel, tmp_path):
    (archive,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    (folder,) = (tmp_path / "unpacked").iterdir()
    (again,) = WheelBuilder(str(folder)).build(directory=str(tmp_path), versions=["standard"])
    assert Path(again).read_bytes() == wheel.read_bytes()


def test_an_installed_package_finds_missing_weights_in_the_checkout_it_runs_in(wheel, tmp_path):
    """The README installs the checkout and goes on in it."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from robench.problem.checkpoints import locate, zoo; "
    code += "print(zoo.zoo_folder(), *(locate(name)[0] for name in ('digits-nat', 'mnist-adv-linf')), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "docs", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    zoo = tmp_path / "robench" / "model_zoo"
    weights = [zoo / "digits-nat.safetensors", ROOT / "model_zoo" / "mnist-adv-linf.safetensors"]
    assert done.stdout.splitlines() == [str(zoo), *map(str, weights)]


ROWS_ALONE = ("avg", "avg-rt", "eat-slow", "max-rt", "mng-ac", "msd", "sat-ac", "trades")  # of mnist-small


def test_the_repository_keeps_the_weights_that_the_pages_need():
    weights = {path.stem for path in (ROOT / "model_zoo").glob("*.safetensors")}
    digits = {path.stem for path in CARDS if read_card(path).data == "digits"}
    small = {path.stem for path in CARDS if path.stem.startswith(("mnist-small-", "cifar10-small-"))}
    small -= {*(f"mnist-small-{name}" for name in ROWS_ALONE), "cifar10-small-ramp-tuned"}
    assert weights - digits - small == {"mnist-adv-linf", "mnist-adv-max", "mnist-eat-l1r14", "mnist-wide-max-staged"}
    assert digits | small <= weights


def test_no_card_holds_images_out_that_its_start_was_trained_on():
    zoo = {path.stem: read_card(path) for path in CARDS}
    for card in zoo.values():
        held, start = images_held_out(card), zoo.get(str(card.settings.get("start", "")).split(" ")[0])
        assert not held or not start or images_held_out(start) >= held, card.name


# The room that the repository takes


def tracked(root: Path) -> list[Path]:
    """The files that git tracks; in a copy without git, as .ci/run makes, all that .gitignore does not leave out."""
    if (root / ".git").exists() and shutil.which("git"):
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=False)
        if listed.returncode == 0:  # git refuses a checkout of another user
            return [path for name in listed.stdout.split("\0") if name and (path := root / name).is_file()]
    ignored, paths = GitIgnoreSpec.from_lines((root / ".gitignore").read_text().splitlines()), []
    for folder, inside, files in os.walk(root):
        inside[:] = [
            n for n in inside if n != ".git" and not ignored.match_file(f"{Path(folder, n).relative_to(root)}/")
        ]
        paths += [p for p in (Path(folder, n) for n in files) if not ignored.match_file(p.relative_to(root))]
    return paths


def megabytes(paths: Iterable[Path]) -> float:
    return sum(path.stat().st_size for path in paths) / 2**20


def test_tracked_files_stay_below_fifty_mebibytes():
    paths = tracked(ROOT)
    assert {ROOT / "README.md", ROOT / "reports" / "runs" / "digits-nat.robench", *WITH_WEIGHTS} <= {*paths}
    assert megabytes(paths) < 50, "remove weights that can be fetched or trained; their cards and rows stay"


@pytest.mark.parametrize("with_git", [True, False])
def test_only_committed_files_are_counted(tmp_path, with_git):
    names = {"README.md": 1, "model_zoo/large.safetensors": 60 * 2**20, "reports/runs/a.robench": 100}
    ignored = [".venv/lib/torch.so", "build/x", "robench/__pycache__/x.pyc", "runs/mine.robench", "dist/robench.whl"]
    for name, size in [*names.items(), *((name, 10**6) for name in ignored)]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)  # takes no room itself
    shutil.copy(ROOT / ".gitignore", tmp_path)
    if with_git:
        if not shutil.which("git"):
            pytest.skip("git is not installed")
        subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
        subprocess.run(["git", "add", "--intent-to-add", "."], cwd=tmp_path, check=True)
    paths = tracked(tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in paths} == {*names, ".gitignore"}
    assert megabytes(paths) > 60


@pytest.mark.parametrize("card", CARDS, ids=lambda path: path.stem)
def test_a_card_documents_how_its_model_was_trained(card):
    model_card = read_card(card)
    assert model_card.name == card.stem
    assert model_card.weights == f"{card.stem}.safetensors"
    assert model_card.recipe
    assert model_card.command.startswith("robench train ")


class OrderedError(Exception):
    """Raised in place of a training."""


@pytest.mark.parametrize("card", CARDS, ids=lambda path: path.stem)
def test_the_command_on_a_card_trains_the_model_that_the_card_describes(card, tmp_path, monkeypatch):
    model_card, orders = read_card(card), []

    def make(order, *_):
        orders.append(order)
        raise OrderedError

    count = 50_000 if model_card.data == "cifar10" else 4000  # its commands have --epochs, whose steps follow from it
    split = Split.whole("images", torch.zeros(count, 1, 1, 1), torch.zeros(count, dtype=torch.long), model_card.classes)
    monkeypatch.setattr(datasets, "load", lambda name, part: split)
    monkeypatch.setattr(train, "make", make)
    monkeypatch.setattr(train.signal, "signal", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    words = shlex.split(model_card.command)
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(OrderedError):
        robench_command.main(words[1:], standalone_mode=False)
    (order,) = orders
    assert words[:2] == ["robench", "train"]
    assert (order.recipe.name, order.data, order.architecture) == (
        model_card.recipe,
        model_card.data,
        model_card.architecture,
    )
    assert (order.seed, order.out.name, order.command) == (model_card.seed, model_card.name, model_card.command)
    settings = dict(model_card.settings)
    assert list(map(str, order.threats)) == settings.pop("threats")
    assert order.validation == settings.pop("validation", 0)
    assert order.precision == settings.pop("precision", "float32")
    assert order.compiled == settings.pop("compiled", False)
    assert order.start == settings.pop("start", "").partition(" ")[0]
    settings.pop("data_sha256")
    assert replace(order.recipe, **settings) == order.recipe
    listed = {f.name for f in fields(order.recipe) if f.repr}  # others only where they were changed
    assert listed - {*settings} == listed & {*order.recipe.unused()}


@pytest.mark.parametrize("card", WITH_WEIGHTS, ids=lambda path: path.stem)
def test_a_bundled_model_is_small_and_is_the_one_its_card_describes(card):
    weights = card.with_suffix(".safetensors")
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == read_card(card).sha256
    assert weights.stat().st_size < (300_000 if read_card(card).data == "digits" else 7_000_000)


def test_every_weights_file_has_a_card_and_small_models_come_with_their_weights():
    weights = {path.stem for path in (ROOT / "model_zoo").glob("*.safetensors")}
    assert weights == {path.stem for path in WITH_WEIGHTS}
    assert {path.stem for path in CARDS if path.stem.startswith("digits-")} <= weights


def test_the_licence_is_apache_2_in_full():
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_install_files_name_no_index_and_no_local_path():
    for name in ("constraints.txt", "pyproject.toml", ".ci/run", "README.md", "CONTRIBUTING.md"):
        found = re.findall(
            r"https?://\S+|--(?:extra-)?index-url|--find-links|(?:^|[\s'\"])/(?!dev/)\w+/\S+", (ROOT / name).read_text()
        )
        assert found == [], name
