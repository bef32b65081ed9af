"""Fetches the vendored parts of the leaderboard's pages with npm, and compares their hashes.

    python scripts/vendor.py           # exit 1 if a committed file has another hash than vendor.toml
    python scripts/vendor.py --fetch   # fetch every part again; nothing is written if a hash differs

To change a version, write the new one into vendor.toml; --fetch prints the hashes that it found.
"""

import argparse
import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import msgspec

FOLDER = Path(__file__).parents[1] / "robench" / "leaderboard" / "static" / "vendor"


def parts() -> list[dict[str, Any]]:
    """The parts that vendor.toml lists."""
    listed: list[dict[str, Any]] = msgspec.toml.decode((FOLDER / "vendor.toml").read_text())["part"]
    return listed


def fetched(part: dict[str, Any]) -> dict[str, bytes]:
    """The files of a part by their names here, from the package that npm fetches. No script of it is run."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = f"{part['name']}@{part['version']}"
        subprocess.run(["npm", "pack", "--ignore-scripts", wanted], cwd=folder, check=True, capture_output=True)
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as tar:
            read = {entry["file"]: tar.extractfile(f"package/{entry['from']}") for entry in part["files"]}
            return {name: file.read() for name, file in read.items() if file is not None}


def differences(part: dict[str, Any], found: dict[str, bytes]) -> list[str]:
    """A line for each file that is missing or has another hash."""
    lines = []
    for entry in part["files"]:
        content = found.get(entry["file"])
        digest = "missing" if content is None else hashlib.sha256(content).hexdigest()
        if digest != entry["sha256"]:
            lines.append(f"{part['name']} {part['version']}: {entry['file']} is {digest}, not {entry['sha256']}")
    return lines


def main() -> int:
    """The exit code: 0 if every file is the one that vendor.toml lists."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fetch", action="store_true", help="fetch the files with npm and write them")
    fetch = parser.parse_args().fetch
    files, lines = {}, []
    for part in parts():
        present = {e["file"]: (FOLDER / e["file"]).read_bytes() for e in part["files"] if (FOLDER / e["file"]).exists()}
        found = fetched(part) if fetch else present
        lines += differences(part, found)
        files.update(found)
    for line in lines:
        print(line, file=sys.stderr)
    if fetch and not lines:
        for name, content in files.items():
            (FOLDER / name).write_bytes(content)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
