"""Rows of a benchmark that takes long, kept while it runs, so that the same command again goes on."""

import argparse
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Row = dict[str, object]


class Kept:
    """A folder with a file per part of a benchmark; without a folder nothing is kept."""

    def __init__(self, folder: Path | None):
        self.folder = folder
        self.commits: set[str] = set()  # at which rows were made

    def rows(self, part: str, question: Row, make: Callable[[], list[Row]]) -> list[Row]:
        """Those of an earlier call that asked the same about this part; else they are made, and written down."""
        if self.folder is None:
            return make()
        place = self.folder / f"{part.replace(' ', '-').replace(',', '')}.json"
        if place.exists() and (known := json.loads(place.read_text()))["question"] == question:
            self.commits.add(known["commit"])
            return list(known["rows"])
        rows, commit = make(), _commit()
        self.commits.add(commit)
        self.folder.mkdir(parents=True, exist_ok=True)
        half = place.with_suffix(".half")
        half.write_text(json.dumps({"question": question, "commit": commit, "rows": rows}, indent=1))
        half.replace(place)  # a call that is killed leaves all of a part, or nothing
        return rows

    def note(self) -> list[str]:
        """At which commits rows were made, where that may not be the one above the table."""
        return [f"Rows were made at commit {', '.join(sorted(self.commits))}."] if self.commits else []


def add_option(parser: argparse.ArgumentParser) -> None:
    """`--keep DIR`."""
    parser.add_argument("--keep", type=Path, metavar="DIR", help="write rows there as they come, and go on from them")


def _commit() -> str:
    told = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return told.stdout.strip() or "unknown"
