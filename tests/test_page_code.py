"""Every Python block of a page is run by a test: here those that need only a model, elsewhere the others."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import robench

from .test_docs import PAGES, ROOT, blocks

RUN_BY = {
    "README.md": "here",
    "docs/concepts/masking.md": "here",
    "docs/how-to/ci.md": "test_testing",
    "docs/how-to/export.md": "here",
    "docs/how-to/extend.md": "test_docs",
    "docs/how-to/own-model.md": "test_docs",
    "docs/how-to/paper.md": "test_pages",
    "docs/how-to/train.md": "test_pages",
    "docs/reference/data.md": "test_docs",
    "docs/reference/python/evaluate.md": "here",
    "docs/start.md": "test_pages",
}
"""The pages with Python, and the module that runs it."""


def code(page: str) -> str:
    (text,) = [block.text for block in blocks("python") if block.page == ROOT / page]
    return text


@pytest.fixture
def net(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def test_every_python_block_of_a_page_is_run_by_a_test():
    assert {block.page.relative_to(ROOT).as_posix() for block in blocks("python")} == RUN_BY.keys()
    for page, module in RUN_BY.items():
        if module != "here":
            assert Path(page).name in (ROOT / "tests" / f"{module}.py").read_text(), page


def test_no_page_has_code_in_a_language_that_no_test_reads():
    named = {language for page in PAGES for language in re.findall(r"^`{3,}(\S+)", page.read_text(), re.M)}
    assert named == {"python", "sh", "sql", "text", "toml", "yaml"}


@pytest.mark.parametrize("page", ["README.md", "docs/reference/python/evaluate.md"])
def test_the_example_of_evaluate_runs(page, net, capsys):
    quick = code(page).replace("examples=100", 'examples=4, attacks="pgd(steps=1)"')
    exec(compile(quick, page, "exec"), {"net": net})
    clean, union = map(float, capsys.readouterr().out.split())
    assert 0 <= union <= clean <= 1
    assert Path("net.robench").is_file()


def test_the_example_of_masked_models_keeps_predictions(net):
    names = {"net": net}
    exec(compile(code("docs/concepts/masking.md"), "masking.md", "exec"), names)
    x = torch.rand(3, 1, 28, 28)
    assert torch.equal(names["model"](x).argmax(dim=1), names["known"](x).argmax(dim=1))


def test_the_example_of_exported_images_loads_them(net):
    x, y = torch.rand(6, 1, 28, 28), torch.zeros(6, dtype=torch.long)
    with torch.no_grad():
        y = net(x).argmax(dim=1)
    robench.evaluate(net, (x, y), threats=["linf:0.1"], attacks="pgd(steps=5)", run="mine.robench")
    lines = code("docs/how-to/export.md").splitlines()
    names = {"robench": robench, "x": x, "y": y}
    exec(lines[1], names)
    assert len(names["found"]["x_adv"]) == 6
    with pytest.raises(robench.UserError, match="data"):  # the run is about arrays, which have to be given again
        exec(lines[0], names)
