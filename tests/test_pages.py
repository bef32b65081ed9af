"""The pages for new readers: what they type works, in the order in which they type it, and prints what is shown."""

import glob
import re
import shlex
from pathlib import Path

import pytest

from robench.cli.main import robench

from .test_docs import PAGES, ROOT, blocks

START = ROOT / "docs" / "start.md"
TRAIN = ROOT / "docs" / "how-to" / "train.md"
LIGHT = {
    "train": ["--epochs", "1", "--validation", "0"],
    "evaluate": ["--examples", "4", "--attack", "pgd(steps=1)", "--quiet"],
    "report": [],
    "verify": ["--quiet"],
    "export": ["--quiet"],
}
"""Options that make each command of the page cheap; the last one of an option counts."""


def tables(page: Path) -> dict[str, str]:
    """The tables of a page between marks, by their command."""
    return dict(re.findall(r"^<!-- table: (.*?) -->\n(.*?)^<!-- end of table -->$", page.read_text(), re.M | re.S))


def own_commands() -> list[str]:
    """The commands of the start page about a network of one's own, in their order."""
    lines = [line for block in blocks("sh") if block.page == START for line in block.text.splitlines()]
    return [line for line in lines if "my-net" in line]


def typed(line: str) -> list[str]:
    """The words of a command, with the paths that a shell puts in place of a star."""
    words = shlex.split(line)[1:]
    return [path for word in words for path in (glob.glob(word) if "*" in word else [word])]


@pytest.mark.costly
def test_the_start_page_works_from_its_first_own_network_to_its_images(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (network,) = [block.text for block in blocks("python") if block.page == START]
    assert network.startswith("# net.py\n")
    Path("net.py").write_text(network)
    commands = own_commands()
    assert [line.split()[1] for line in commands] == ["train", "evaluate", "evaluate", "report", "verify", "export"]
    for line in commands:
        words = typed(line)
        assert not robench.main([*words, *LIGHT[words[0]]], standalone_mode=False), line
    assert Path("adv.png").exists()
    assert "| my-net" in capsys.readouterr().out


def test_the_page_about_training_works_with_its_images_and_its_network(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    images, network = [block.text for block in blocks("python") if block.page == TRAIN]
    exec(compile(images, "train.md", "exec"), {})
    Path("net.py").write_text(network)
    lines = [line for block in blocks("sh") if block.page == TRAIN for line in block.text.splitlines()]
    train, evaluate = [line for line in lines if "net.py" in line]
    assert not robench.main([*typed(train), *LIGHT["train"]], standalone_mode=False)
    assert {path.name for path in Path().glob("mine.*")} == {"mine.safetensors", "mine.toml"}
    assert not robench.main([*typed(evaluate), *LIGHT["evaluate"]], standalone_mode=False)
    assert "4 examples of my.npz:held-out" in capsys.readouterr().out


def test_the_start_page_shows_the_table_of_the_readme():
    command = "robench evaluate digits-adv-linf"
    assert tables(START)[command] == tables(ROOT / "README.md")[command]


@pytest.mark.slow
def test_the_table_of_the_readme_is_what_its_command_prints(tmp_path, monkeypatch, capsys):
    ((command, table),) = tables(ROOT / "README.md").items()
    monkeypatch.chdir(tmp_path)
    assert robench.main([*typed(command), "--quiet"], standalone_mode=False) == 0
    assert capsys.readouterr().out == table


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 120


def test_the_page_about_papers_shows_what_its_example_prints(capsys):
    (code,) = [block.text for block in blocks("python") if block.page.name == "paper.md"]
    (shown,) = [block.text for block in blocks("text") if block.page.name == "paper.md"]
    exec(compile(code, "paper.md", "exec"), {})
    assert capsys.readouterr().out == shown


WRITTEN = [page for page in PAGES if page.name != "conformance.md"]  # robench doctor prints that one


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_prose_fits_120_columns(page):
    """Tables, quoted output and code may be wider, and so may a line of one long command or address."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    prose = [line for line in text.splitlines() if not line.startswith(("|", ">", "!["))]
    assert [line for line in prose if len(re.sub(r"`[^`]*`|\]\([^)]*\)", "", line)) > 120] == []
