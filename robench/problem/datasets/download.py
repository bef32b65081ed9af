"""Downloads the published files of a data set."""

from collections.abc import Sequence
from pathlib import Path

from .. import download
from ..download import Download

__all__ = ["Download", "fetch"]


def fetch(downloads: Sequence[Download], folder: Path, data_set: str) -> None:
    """Downloads the files into `folder`, each from the first address that serves it as published.

    Raises UserError, with the reply of each address and what to do instead, if a file cannot be downloaded.
    """
    files = " and ".join(f"{data_set}/{file.name}" for file in downloads)
    way_out = f"set ROBENCH_DATA to a folder that holds {files}, or use --data digits, which needs no download"
    for file in downloads:
        download.fetch(file, folder, subject=data_set, way_out=way_out)
