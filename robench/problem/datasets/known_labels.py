"""Labels of the test parts of published data sets, known without the images.

Run files hold no labels, only digests of images with their labels. A file under `label_files/` has three bytes for each
example of a test part: the label, and the beginning of its digest, so that labels are never given to other images.
`python scripts/labels.py` makes the files.
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from ..split import Split

FOLDER = Path(__file__).parent / "label_files"
RECORD = 3  # bytes
SHOWN = 4  # hexadecimal digits of a digest: of a table with other images, not even one example in 65,000 agrees


def known_labels(data: str, digests: Mapping[int, str]) -> dict[int, int] | None:
    """The label of each of these examples, by its number in the data set, such as `mnist:test`.

    `digests` are those of `Split.digests`, or empty where an example's digest is unknown. None if the labels of these
    data are not known, if an example has another image or label, or if there is no digest at all.
    """
    content = _content(data)
    if content is None or not any(digests.values()):
        return None
    found = {}
    for number, digest in digests.items():
        record = content[RECORD * number : RECORD * (number + 1)]
        if len(record) < RECORD or (digest and digest[:SHOWN] != record[1:].hex()):
            return None
        found[number] = record[0]
    return found


def file_name(data: str) -> str:
    """The file with the labels of `mnist:test`."""
    return f"{data.replace(':', '-')}.bin"


def records(split: Split) -> bytes:
    """The content of the file for a whole test part."""
    pairs = zip(split.y.tolist(), split.digests, strict=True)
    return b"".join(bytes([label]) + bytes.fromhex(digest[:SHOWN]) for label, digest in pairs)


@cache
def _content(data: str) -> bytes | None:
    path = FOLDER / file_name(data)
    if not re.fullmatch(r"[a-z0-9-]+:test", data) or not path.is_file():
        return None
    return path.read_bytes()
