"""The pages of docs/reference that describe files, exit codes and commands, compared with the code."""

import importlib
import lzma
import re
import sqlite3
from contextlib import closing

import click
import msgspec
import pytest

from robench import load_run
from robench.cli.main import COMMANDS, robench
from robench.evidence.layout import APPLICATION_ID, FORMAT, lay_out
from robench.evidence.records import ModelRecord, Plan, PlannedAttack, PlannedThreat, Rejection
from robench.results import attack_rows, summary
from robench.results.masking.indicators import IndicatorEntry
from robench.results.outcomes import Outcome
from scripts import reference

from .test_docs import ROOT, blocks

FOLDER = ROOT / "docs" / "reference"
FIELDS = {
    "Summary": summary.Summary,
    "model": summary.ModelEntry,
    "data": summary.DataEntry,
    "clean": summary.CleanEntry,
    "threat": summary.ThreatEntry,
    "attack": attack_rows.AttackEntry,
    "curve": summary.CurveEntry,
    "masking under a threat": summary.ThreatMaskingEntry,
    "indicator": IndicatorEntry,
    "rejection": attack_rows.RejectionEntry,
    "failure": attack_rows.FailureEntry,
    "union": summary.UnionEntry,
    "average": summary.AverageEntry,
    "masking": summary.MaskingEntry,
    "cost": summary.CostEntry,
}
"""The classes of the summary file, by their heading on the page."""


def sections(page: str, level: str = "###") -> dict[str, list[tuple[str, str]]]:
    """By heading, the names in the first column of its table, with the rest of their row."""
    found = re.split(rf"^{level} (.+)$", (FOLDER / page).read_text(), flags=re.M)
    return {
        heading: [
            (name, rest)
            for first, rest in re.findall(r"^\| (`[^|]+`) \| (.*) \|$", text, re.M)
            for name in re.findall(r"`([^`]+)`", first)
        ]
        for heading, text in zip(found[1::2], (re.split(r"^## ", t, flags=re.M)[0] for t in found[2::2]), strict=True)
    }


def test_the_committed_reference_pages_are_what_the_code_gives():
    committed = {path: (FOLDER / path).read_text() for path in reference.pages()}
    assert committed == reference.pages(), "write them again: python scripts/reference.py"
    written = {p.relative_to(FOLDER).as_posix() for d in ("commands", "catalogue") for p in (FOLDER / d).glob("*.md")}
    assert written == committed.keys(), "a page of something that is gone"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_of_a_command_has_every_option_of_its_help(name):
    page = reference.pages()[f"commands/{name}.md"]
    command = robench.get_command(click.Context(robench), name)
    options = [text for option in command.params if isinstance(option, click.Option) for text in option.opts]
    assert options
    assert all(re.search(rf"^- `(-\w, )?[^`]*{option}\b", page, re.M) for option in options)
    examples = re.findall(r"^ *(robench .+)$", command.help, re.M)
    assert all(f"\n{example}\n" in page for example in examples)
    assert "\b" not in page


def test_the_page_of_the_run_file_has_every_table_and_column_with_its_type():
    page = sections("run-file.md")
    with closing(sqlite3.connect(":memory:")) as db:
        lay_out(db)
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {t: [(c[1], c[2].lower()) for c in db.execute(f"PRAGMA table_info({t})")] for t in tables}
    shown = {t: [(name, rest.split(" | ")[0].replace("0 or 1", "integer")) for name, rest in page[t]] for t in page}
    assert shown == columns
    text = (FOLDER / "run-file.md").read_text()
    assert f"`0x{APPLICATION_ID:X}`" in text
    assert f"the user version {FORMAT}." in text
    assert all(f"`{cause}`" in text for cause in Rejection.__args__ if cause)


def test_the_page_of_the_run_file_has_every_field_of_a_plan():
    rows = dict(sections("run-file.md", "##")["The plan"])
    assert list(rows) == [field.encode_name for field in msgspec.structs.fields(Plan)]
    for name, inner in (("model", ModelRecord), ("threats", PlannedThreat), ("threats", PlannedAttack)):
        assert all(f"`{field.encode_name}`" in rows[name] for field in msgspec.structs.fields(inner))


def test_the_page_of_the_summary_has_every_field():
    page = sections("summary.md")
    assert {h: [name for name, _ in rows] for h, rows in page.items()} == {
        heading: [field.encode_name for field in msgspec.structs.fields(kind)] for heading, kind in FIELDS.items()
    }
    assert f"`{summary.SCHEMA}`" in dict(page["Summary"])["schema"]


def test_the_page_of_the_summary_has_every_outcome():
    rows = sections("summary.md", "##")["Outcomes"]
    assert [(name, rest.split(":")[0].split(" ")[0]) for name, rest in rows] == [
        (outcome.value, outcome.name.lower()) for outcome in Outcome
    ]


def test_every_command_whose_help_speaks_of_exit_code_1_is_on_the_page_of_exit_codes():
    page = (FOLDER / "exit-codes.md").read_text()
    helps = {name: robench.get_command(click.Context(robench), name) for name in COMMANDS}
    texts = {
        n: " ".join([c.help, *(o.help or "" for o in c.params if isinstance(o, click.Option))])
        for n, c in helps.items()
    }
    speaking = {name for name, text in texts.items() if re.search(r"\b[Ee]xits?\b[^.]*\b1\b", text)}
    assert speaking == set(re.findall(r"^\| \[`robench (\w+)", page, re.M))


PYTHON = sorted((FOLDER / "python").glob("*.md"))
DIRECTIVE = r"^::: (robench\.[\w.]+)$"


@pytest.mark.parametrize("name", ["robench", "robench.testing"])
def test_the_python_pages_have_every_public_name(name):
    shown = {path for page in PYTHON for path in re.findall(DIRECTIVE, page.read_text(), re.M)}
    public = {f"{name}.{each}" for each in importlib.import_module(name).__all__ if not each.startswith("__")}
    assert public <= shown


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: page.stem)
def test_a_name_on_a_python_page_exists_and_has_a_docstring(page):
    for path in re.findall(DIRECTIVE, page.read_text(), re.M):
        home, _, name = path.rpartition(".")
        assert getattr(importlib.import_module(home), name).__doc__, path


def test_the_query_on_the_page_of_the_run_file_counts_broken_examples(tmp_path):
    (query,) = [block.text for block in blocks("sql")]
    path = tmp_path / "plain.robench"
    path.write_bytes(lzma.decompress((ROOT / "reports" / "runs" / "digits-adv-linf.robench").read_bytes()))
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as db:
        counted = dict(db.execute(query).fetchall())
    assert {t.threat: t.broken for t in load_run(path).threats} == counted
