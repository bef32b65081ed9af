"""Rehearses a release: builds dist/, checks what it holds, installs it away from the checkout, and uses it there.

    python scripts/rehearse_release.py           # with all dependencies: the README's evaluation
    python scripts/rehearse_release.py --light   # without torch: byte code, --help, list, show, and a report

Needs hatchling. Exits with 1 and one sentence if the release is not fit to be published.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Collection, Iterable
from pathlib import Path
from venv import EnvBuilder

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
MODEL = "digits-adv-linf"  # the model of the README's evaluation
RUN = ROOT / "reports" / "runs" / f"{MODEL}.robench"
NEEDS_TORCH = ("torch", "pyautoattack")
JUNK = re.compile(
    r"(^|/)(tests?|reports|runs|benchmarks|\.git|\.github|__pycache__|\.\w+_cache|\.venv)/|\.(robench|pyc)$"
)
ALSO_IN_SOURCE = {".gitignore", "CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "constraints.txt", "pyproject.toml"}


def main() -> int:
    """The exit code: 0 if the release can be published."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--light", action="store_true", help="install and use it without torch")
    light = parser.parse_args().light
    wheel, source = build()
    faults = [*wheel_faults(names_of_wheel(wheel)), *source_faults(names_of_source(source), names_of_wheel(wheel))]
    if faults:
        print(*faults, sep="\n", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        (use_light if light else use)(wheel, Path(folder))
    print(f"{wheel.name} and {source.name} are fit to be published")
    return 0


def build() -> tuple[Path, Path]:
    """The wheel and the source distribution, built into an empty dist/."""
    shutil.rmtree(DIST, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "hatchling", "build"], cwd=ROOT, check=True)
    (wheel,), (source,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    return wheel, source


def names_of_wheel(wheel: Path) -> set[str]:
    """The files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def names_of_source(source: Path) -> set[str]:
    """The files in the source distribution, without its folder."""
    with tarfile.open(source) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def wheel_faults(names: Collection[str]) -> Iterable[str]:
    """What is in the wheel and should not be, and what should be and is not."""
    cards = {path.name for path in (ROOT / "model_zoo").glob("*.toml")}
    cards |= {path.name for path in (ROOT / "model_zoo").glob("digits-*.safetensors")}
    wanted = {f"robench/model_zoo/{name}" for name in cards} | {"robench/py.typed", "robench/catalogue/catalogue.json"}
    yield from (f"the wheel lacks {name}" for name in sorted(wanted - set(names)))
    for name in sorted(names):
        inside = name.startswith("robench/") or re.match(r"robench-[^/]+\.dist-info/", name)
        weights = name.endswith(".safetensors") and name not in wanted
        if not inside or weights or JUNK.search(name):
            yield f"the wheel should not hold {name}"


def source_faults(names: Collection[str], in_wheel: Collection[str]) -> Iterable[str]:
    """What is in the source distribution beside what the wheel is built from, and what is missing."""
    built = {name.replace("robench/model_zoo/", "model_zoo/") for name in in_wheel if ".dist-info/" not in name}
    yield from (f"the source distribution lacks {name}" for name in sorted((built | ALSO_IN_SOURCE) - set(names)))
    yield from (f"the source distribution should not hold {n}" for n in sorted(set(names) - built - ALSO_IN_SOURCE))


def use(wheel: Path, folder: Path) -> None:
    """Install the wheel with its dependencies, and evaluate the README's model. Raises if something fails."""
    robench = installed(folder, str(wheel))
    run(folder, robench, "evaluate", MODEL)
    run(folder, robench, "report", *map(str, sorted((folder / "runs").glob("*.robench"))))


def use_light(wheel: Path, folder: Path) -> None:
    """Install the wheel without torch, compile every module, and run what needs none. Raises if something fails."""
    python = sys.executable
    metadata = subprocess.run(
        [python, "-m", "hatchling", "metadata"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    needed = [line for line in json.loads(metadata)["dependencies"] if re.match(r"[\w.-]+", line)[0] not in NEEDS_TORCH]  # type: ignore[index]
    robench = installed(folder, *needed)
    pip(folder, "--no-deps", str(wheel))
    (package,) = (folder / "environment" / "lib").glob("python*/site-packages/robench")
    run(folder, str(robench.with_name("python")), "-W", "error", "-m", "compileall", "-q", "-f", str(package))
    for words in (["--help"], ["list", "attacks"], ["list", "models"], ["show", MODEL], ["report", str(RUN)]):
        run(folder, str(robench), *words)


def installed(folder: Path, *what: str) -> Path:
    """The `robench` of a new environment that holds this."""
    EnvBuilder(with_pip=True).create(folder / "environment")
    pip(folder, "-c", str(ROOT / "constraints.txt"), *what)
    return folder / "environment" / "bin" / "robench"


def pip(folder: Path, *words: str) -> None:
    """Install into the new environment."""
    run(folder, str(folder / "environment" / "bin" / "python"), "-m", "pip", "install", "--quiet", *words)


def run(folder: Path, *command: object) -> None:
    """Run a command in the folder, and nothing of the checkout is on its path. Raises if it fails."""
    print("+", *command, flush=True)
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    subprocess.run(list(map(str, command)), cwd=folder, env=environment, check=True)


if __name__ == "__main__":
    sys.exit(main())
