"""`python -m robench.theory FOLDER` writes theory.md and its figures."""

import argparse
from pathlib import Path

from ..results.figures.picture import image_bytes
from .page import page, sections


def main() -> None:
    """The page and its figures, in the folder that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m robench.theory",
        description="Write theory.md and its figures: the theorems of Tramèr and Boneh 2019, computed.",
        epilog="Example: python -m robench.theory reports",
    )
    parser.add_argument("folder", type=Path, help="an existing folder")
    folder: Path = parser.parse_args().folder
    if not folder.is_dir():
        parser.error(f"there is no folder {folder}; make it first, with mkdir")
    parts = sections()
    (folder / "theory.md").write_text(page(parts), encoding="utf-8")
    for part in parts:
        for picture in part.pictures:
            (folder / f"theory-{picture.name}.svg").write_bytes(image_bytes(picture, "svg"))


if __name__ == "__main__":
    main()
