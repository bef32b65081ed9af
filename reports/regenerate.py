"""Makes pages, pictures and leaderboard data of reports/, pictures of docs/, measured parts of cards from runs.

    python reports/regenerate.py

The commands are those that reports/README.md, its pages and docs/how-to/figures.md name; a command that fails ends it.
"""

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

from robench.api import load_run
from robench.evaluation.measured_card import write_measured

ROOT = Path(__file__).parents[1]
PAGE = re.compile(r"^\| \[([^\]]+)\]\(\1\) \| `robench ([^`]+)` \|$", re.M)
BOARDS = "leaderboard reports/runs --submissions reports/submissions --search 0 --json reports/leaderboard"
PICTURES = re.compile(r"^robench (figures reports/runs/.+)$", re.M)


def words(text: str) -> list[str]:
    """As a shell hands them over: patterns become the files they match, sorted."""
    found = []
    for word in shlex.split(text):
        found += sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(word)) if "*" in word else [word]
    return found


def made(text: str) -> str:
    """What the command prints, from the root of the repository."""
    print(f"robench {text}", file=sys.stderr)
    done = subprocess.run(
        [sys.executable, "-m", "robench", *words(text)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"that ended with exit code {done.returncode}; {done.stdout}")
    return done.stdout


def measured(card: Path) -> None:
    """What the model's run in runs/ has found, onto its card: of several runs, that of the most examples."""
    runs = ROOT / "reports" / "runs"
    found = [*sorted(runs.rglob(f"{card.stem}.robench")), *runs.glob(f"unseen-{card.stem}.robench")]
    if found:
        run = max(found, key=lambda run: load_run(run).data.examples)
        write_measured(card, load_run(run), run.relative_to(ROOT).as_posix())


def main() -> None:
    """Cards first, then pages, the leaderboard and pictures."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for card in sorted((ROOT / "model_zoo").glob("*.toml")):
        measured(card)
    for page, text in PAGE.findall((ROOT / "reports" / "README.md").read_text()):
        printed = made(text)
        if not text.startswith("reproduce "):  # that writes the page itself, with pictures beside it
            (ROOT / "reports" / page).write_text(printed)
    made(BOARDS)
    subprocess.run([sys.executable, "-m", "robench.theory", "reports"], cwd=ROOT, check=True)
    naming = [ROOT / "docs" / "how-to" / "figures.md", *sorted((ROOT / "reports").glob("*.md"))]
    for text in dict.fromkeys(found for page in naming for found in PICTURES.findall(page.read_text())):
        made(text)


if __name__ == "__main__":
    main()
