"""Fails where a table that `robench reproduce` made lacks a model, or a model answers nothing correctly.

    python scripts/check_tables.py PAPER SIZE FOLDER

CI runs it after `robench reproduce`; a clean accuracy below one half fails as well.
"""

import argparse
import sys
from pathlib import Path

from robench.api import load_run
from robench.reproduction import read


def faults(paper: str, size: str, folder: Path) -> list[str]:
    """A sentence per fault of the tables in this folder."""
    found = []
    made = [t for t in read(paper).table if size in t.sizes and (folder / f"table-{t.name}.md").exists()]
    for table in made:
        lines = (folder / f"table-{table.name}.md").read_text().splitlines()
        for model in table.models:
            if not any(line.startswith(f"| {model.name} ") for line in lines):
                found.append(f"table {table.name} has no row {model.name}")
            clean = load_run(folder / table.name / f"{model.name}.robench").clean.accuracy
            if clean < 0.5:
                found.append(f"{model.name} of table {table.name} has a clean accuracy of {clean:.0%}")
    return found if made else [f"{folder} holds no table"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paper")
    parser.add_argument("size")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    sys.exit("\n".join(faults(given.paper, given.size, given.folder)) or 0)
