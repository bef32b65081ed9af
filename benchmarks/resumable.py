"""Saves the rows of a long benchmark while it runs, so that the same command resumes it."""

import argparse
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Row = dict[str, object]


class SavedRows:
    """A folder with a file for each part of a benchmark; without a folder, nothing is saved."""

    def __init__(self, folder: Path | None):
        self.folder = folder
        self.commits: set[str] = set()  # at which rows were computed

    def rows(self, part: str, question: Row, make: Callable[[], list[Row]]) -> list[Row]:
        """The rows of a part: those saved by an earlier call with the same question, else made now and saved."""
        if self.folder is None:
            return make()
        if (known := self.known(part, question)) is not None:
            return known
        place = self._place(self.folder, part)
        rows, commit = make(), _commit()
        self.commits.add(commit)
        self.folder.mkdir(parents=True, exist_ok=True)
        half = place.with_suffix(".half")
        half.write_text(json.dumps({"question": question, "commit": commit, "rows": rows}, indent=1))
        half.replace(place)  # atomic: a killed process leaves a whole part or nothing
        return rows

    def known(self, part: str, question: Row) -> list[Row] | None:
        """The saved rows of a part; None if there are none for this question."""
        place = None if self.folder is None else self._place(self.folder, part)
        if place is None or not place.exists() or (saved := json.loads(place.read_text()))["question"] != question:
            return None
        self.commits.add(saved["commit"])
        return list(saved["rows"])

    def _place(self, folder: Path, part: str) -> Path:
        return folder / f"{part.replace(' ', '-').replace(',', '')}.json"

    def note(self) -> list[str]:
        """The note on the commits of the rows, which may differ from that above the table."""
        return [f"Rows were made at commit {', '.join(sorted(self.commits))}."] if self.commits else []


def add_option(parser: argparse.ArgumentParser) -> None:
    """Adds the option `--keep DIR`."""
    parser.add_argument("--keep", type=Path, metavar="DIR", help="save rows there, and resume from them")


def _commit() -> str:
    git = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return git.stdout.strip() or "unknown"
