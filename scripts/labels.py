"""Writes the labels of the test parts of published data sets into the package; reads the data, and may download them.

python scripts/labels.py
"""

import argparse

from robench.problem import datasets
from robench.problem.datasets.known_labels import FOLDER, file_name, records

PARTS = ("digits:test", "mnist:test", "fashion-mnist:test")


def main() -> None:
    """One file for each part."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    FOLDER.mkdir(exist_ok=True)
    for part in PARTS:
        (FOLDER / file_name(part)).write_bytes(records(datasets.load(part)))


if __name__ == "__main__":
    main()
