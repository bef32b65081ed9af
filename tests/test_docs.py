"""What the pages promise: links lead somewhere, commands exist, examples run."""

import ast
import json
import re
import shlex
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import click
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import robench as package
from robench import protocols
from robench.cli.main import COMMANDS, robench
from robench.evaluation import suite
from robench.problem import datasets, threats
from robench.problem.checkpoints.cards import read_card
from robench.problem.threats import Linf
from robench.protocols.suites import expanded
from robench.recipes import RECIPES
from robench.recipes.training import Training, TrainingData
from robench.search.attacks import build
from robench.search.attacks import parse as parse_attack
from robench.search.attacks.pgd import PGD
from robench.search.own_attack import from_user, names_file

from .exact_distances import Linear, classifier, distance, toy
from .search.running import broken_rows

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)
OWN = {"my.npz", "photos/val", "imagenet/val"}  # what the pages call the reader's own data
OWN_DATA = rf"^ *robench evaluate model\.pt .*--data ({'|'.join(sorted(map(re.escape, OWN)))})"


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    language: str
    text: str


def blocks(*languages: str) -> list[Block]:
    fences = [(page, re.finditer(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.M | re.S)) for page in PAGES]
    return [Block(page, m[1], m[2]) for page, found in fences for m in found if m[1] in languages]


def links() -> list[tuple[Path, str]]:
    found = [(page, re.findall(r"\]\(([^)\s]+)\)", page.read_text())) for page in PAGES]
    return [(page, link) for page, targets in found for link in targets if "://" not in link]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


def commands() -> list[str]:
    """Every line of a page that calls robench, as it would be typed."""
    lines = [line.strip() for page in PAGES for line in page.read_text().splitlines()]
    called = rf"(?:[A-Z_]+=\S+ )?robench (?:{'|'.join(COMMANDS)}) "
    typed = [line.strip() for block in blocks("sh") for line in block.text.splitlines()]
    whole = [line for line in lines if re.match(called, f"{line} ")]
    whole += [line for line in typed if re.match(r"(?:[A-Z_]+=\S+ )?robench \w", line)]
    inside = [command for block in blocks("sh") for command in re.findall(r"bin/(robench [^&|\n]+)", block.text)]
    return sorted({command.partition(" > ")[0] for command in (*whole, *inside)})


def parsed(words: list[str]) -> dict[str, Any]:
    """What a command understands of its words; it is not run."""
    above = click.Context(robench, **robench.context_settings)
    command = robench.get_command(above, words[0])
    assert command is not None, words
    return command.make_context(words[0], words[1:], parent=above).params


@pytest.mark.parametrize(("page", "link"), links(), ids=str)
def test_a_link_leads_to_a_file_and_a_heading(page, link):
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    assert target.exists()
    if anchor:
        assert anchor in anchors(target)


def test_there_are_links_and_commands_to_check():
    assert len(links()) > 10
    assert {command.split("robench ")[1].split()[0] for command in commands()} == set(COMMANDS)


@pytest.mark.parametrize("text", commands())
def test_a_command_on_a_page_parses(text):
    words = shlex.split(text[text.index("robench ") :], comments=True)
    params = parsed(words[1:])
    for threat in [*params.get("threats", ()), *params.get("threat_texts", ())]:
        assert str(threats.parse(threat)) == threat
    for attack in params.get("attacks", ()):
        if names_file(attack):  # an attack of the reader's own
            continue
        name, settings = parse_attack(attack)
        for entry in expanded({"attack": name, **settings}, "linf"):
            build(entry["attack"], {k: v for k, v in entry.items() if k not in ("attack", "label", "restarts")})
    assert params.get("recipe", "nat") in RECIPES
    data = (params.get("data") or "my.npz").partition(":")[0]
    assert data in OWN or datasets.find(data)


def test_a_planted_wrong_option_is_seen():
    with pytest.raises(click.NoSuchOption, match="--thread"):
        parsed(["evaluate", "model.pt", "--thread", "linf:0.3"])


@pytest.mark.parametrize("name", ["evaluate", "test"])
def test_the_readme_has_the_one_line_that_ci_runs(name):
    text = (ROOT / "README.md").read_text()
    (command,) = re.findall(rf"^<!-- ci: {name} -->\n```sh\n(.*?)\n```$", text, re.M | re.S)
    assert "\n" not in command
    assert f"run_command {name}\n" in (ROOT / ".ci" / "run").read_text()


class PooledNet(nn.Sequential):
    """Takes images of any size, as the examples of data do."""

    def __init__(self):
        super().__init__(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10))


@pytest.fixture
def owned(tmp_path, monkeypatch):
    """A folder with all that the pages about data call the reader's own; and what their Python examples name."""
    monkeypatch.chdir(tmp_path)
    x, y = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 10
    np.savez("my.npz", x=x.numpy(), y=y.numpy())
    pictures = [Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy()) for image in x]
    for place, label in enumerate(y.tolist()):
        for folder in ("photos/val", "imagenet/val"):
            Path(folder, f"n{label}").mkdir(parents=True, exist_ok=True)
            pictures[place].save(Path(folder, f"n{label}", f"{place}.png"))
    Path("imagenet_class_index.json").write_text(json.dumps({str(n): [f"n{n}", f"name {n}"] for n in range(10)}))
    torch.save(PooledNet().state_dict(), "model.pt")
    Path("net.py").write_text(
        "from torch import nn\n\n\n"
        "def Net():\n    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10))\n"
    )
    cells = [{"img": picture, "label": label} for picture, label in zip(pictures, y.tolist(), strict=True)]

    class Pictures(list[tuple[Image.Image, int]], Dataset[tuple[Image.Image, int]]):
        """As torchvision's data sets are."""

    class HuggingFace(list[dict[str, Any]]):
        column_names, features, info, split = ("img", "label"), {}, SimpleNamespace(builder_name="cifar10"), "test"

    return {
        "net": PooledNet(),
        "x": x,
        "y": y,
        "TensorDataset": TensorDataset,
        "torchvision_data": Pictures(zip(pictures, y.tolist(), strict=True)),
        "loader": DataLoader(TensorDataset(x, y), batch_size=5),
        "datasets": SimpleNamespace(load_dataset=lambda *_, **__: HuggingFace(cells)),
    }


def lines_of_data() -> list[str]:
    (text,) = [b.text for b in blocks("python") if b.page.name == "data.md"]
    return text.splitlines()


@pytest.mark.costly
@pytest.mark.parametrize("text", lines_of_data())
def test_an_example_of_data_in_python_runs(text, owned):
    def evaluate(model, data, *, examples=None, **settings):
        return package.evaluate(model, data, attacks=["pgd(steps=1)"], examples=examples and 4, **settings)

    summary = eval(text, owned | {"robench": SimpleNamespace(evaluate=evaluate, Split=package.Split)})
    assert summary.data.examples == (4 if "examples=" in text else 12)
    assert [t.open for t in summary.threats] == [0]


def commands_about_data() -> list[str]:
    pages = [(ROOT / "docs" / name).read_text() for name in ("reference/data.md", "how-to/own-model.md")]
    return sorted({line.strip() for page in pages for line in page.splitlines() if re.search(OWN_DATA, line)})


@pytest.mark.costly
@pytest.mark.parametrize("text", commands_about_data())
def test_a_command_about_data_of_ones_own_runs(text, owned, capsys):
    quick = ["--arch", "net.py:Net", "--threat", "linf:8/255", "--attack", "pgd(steps=1)", "--examples", "4", "--quiet"]
    code = robench.main([*shlex.split(text)[1:], *quick], standalone_mode=False)
    assert code == 0
    assert "4 examples of" in capsys.readouterr().out


def test_every_option_for_pictures_has_a_command_that_runs():
    text = " ".join(commands_about_data())
    assert all(f"--{option}" in text for option in ("resize", "crop", "interpolation", "channels", "labels"))


def test_the_example_of_a_model_of_ones_own_runs(capsys):
    (text,) = [b.text for b in blocks("python") if b.page.name == "own-model.md"]
    exec(compile(text, "own-model.md", "exec"), {})
    assert "outcome" in capsys.readouterr().out


def test_the_example_of_a_card_is_one(tmp_path):
    (text,) = [b.text for b in blocks("toml") if b.page.name == "submissions.md"]
    path = tmp_path / "card.toml"
    path.write_text(text)
    assert read_card(path).name == "net-one"


PROTOCOLS = [block for block in blocks("toml") if block.page.name not in ("submissions.md", "scale-out.md")]


def test_the_example_of_a_suite_is_one(tmp_path):
    (text,) = [b.text for b in blocks("toml") if b.page.name == "scale-out.md"]
    path = tmp_path / "suite.toml"
    path.write_text(text)
    assert len(suite.read(path)) == 3 * 2


@pytest.mark.parametrize("block", PROTOCOLS, ids=lambda block: block.page.stem)
def test_an_example_of_a_protocol_is_one(block, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(block.text)
    protocol = protocols.read(path)
    assert [str(choice.threat) for choice in protocol.threats] == ["linf:0.3", "l1:10"]
    assert [attack.label for attack in protocol.threats[0].attacks] == ["pgd", "pgd-ce"]


@pytest.fixture
def own_attack(tmp_path, monkeypatch):
    """The Python blocks about an attack of one's own, in a folder with my_attack.py."""
    texts = [b.text for b in blocks("python") if b.page.name == "extend.md"]
    (tmp_path / "my_attack.py").write_text(texts[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield texts
    sys.modules.pop("my_attack", None)


@pytest.mark.costly
def test_the_example_of_an_adaptive_attack_breaks_what_pgd_does_not(own_attack, capsys):
    exec(compile(own_attack[1], "extend.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    text = (ROOT / "docs" / "how-to" / "extend.md").read_text()
    assert printed == ["100% left", "26% left"]
    assert all(f"`{line}`" in text for line in printed)


def test_the_example_of_an_adaptive_attack_keeps_the_contract(own_attack):
    names: dict[str, Any] = {}
    exec(compile(own_attack[2], "extend.md", "exec"), names)
    names["test_my_attack_keeps_the_contract"]()


def test_the_example_of_an_adaptive_attack_is_keyed_as_the_page_says(own_attack):
    attack, label, of_plan = from_user("my_attack.py:MyAttack(steps=50, restarts=2)")
    assert (label, of_plan) == ("my_attack.py:MyAttack", {"restarts": 2})
    assert f"`{attack.spec}`" in (ROOT / "docs" / "how-to" / "extend.md").read_text()


def example(path: str) -> dict[str, Any]:
    """The module that docs/how-to/extend.md shows under this path, run as if it were there.

    Its last statement may be an entry of a registry; its value is kept as `entry`.
    """
    (text,) = [b.text for b in blocks("python") if b.text.startswith(f"# {path}\n")]
    package, _, stem = path.removesuffix(".py").replace("/", ".").rpartition(".")
    names: dict[str, Any] = {"__name__": f"{package}.{stem}", "__package__": package}
    tree = ast.parse(text)
    if isinstance(tree.body[-1], ast.Expr):
        tree.body[-1] = ast.parse(f"entry = {ast.unparse(tree.body[-1])}").body[0]
    exec(compile(tree, path, "exec"), names)
    return names


@pytest.mark.parametrize(("factor", "breaks"), [(1.02, True), (0.98, False)])
def test_the_example_of_an_attack_breaks_a_half_space_just_beyond_its_distance(factor, breaks):
    model = classifier(Linear())
    split = toy(model, 6, edges=False, spread=0.2)
    attack = example("robench/search/attacks/fgsm.py")["FGSM"]()
    for row in range(6):
        reach = distance(model.module, split.x[row], int(split.y[row]), "linf")
        threat = Linf(Fraction(reach * factor).limit_denominator(10**9))
        assert broken_rows(model, threat, attack, split, [row]) == ({row} if breaks else set())


def test_the_example_of_a_threat_model_obeys_the_laws():
    threat = example("robench/problem/threats/rms.py")["RMS"](Fraction(1, 10))
    x = torch.rand(6, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(6, 1, 4, 5, generator=torch.Generator().manual_seed(1))
    for delta in (threat.project(noise, x), threat.nearest(noise, x), threat.sample(x, noise)):
        assert threat.contains(x + delta, x).all()
    member = 0.5 * threat.project(noise, x)
    torch.testing.assert_close(threat.project(member, x), member)
    assert not threat.contains((x + 0.3 * noise.sign()).clamp(0, 1), x).any()
    torch.testing.assert_close(threat.size(threat.steepest(noise)), torch.ones(6))
    assert str(threat) == "rms:0.1"


def test_under_the_example_of_a_threat_model_attacks_run_and_masking_stays_untested(monkeypatch):
    kind = example("robench/problem/threats/rms.py")["RMS"]
    monkeypatch.setitem(threats._READERS, kind.name, lambda text: kind(Fraction(text)))
    monkeypatch.setattr(PGD, "threats", (*PGD.threats, kind.name))
    asked = {"threats": [kind.form], "attacks": ["pgd(steps=5)"], "examples": 6}
    summary = package.evaluate("digits-nat", masking="on", **asked)
    assert summary.threats[0].broken > 0
    assert summary.masking.verdict == "untested"


def test_the_example_of_an_architecture_is_built_and_recognised():
    architecture = example("robench/problem/architectures/one_conv.py")["entry"]
    module = architecture.build((3, 9, 8), 4)
    assert module(torch.rand(2, 3, 9, 8)).shape == (2, 4)
    assert architecture.read({key: tuple(t.shape) for key, t in module.state_dict().items()}) == (3, 4)


def test_the_example_data_set_matches_its_description():
    entry = example("robench/problem/datasets/halves.py")["entry"]
    split = entry.read("train")
    assert (split.shape, split.classes) == (entry.shape, entry.classes)
    assert len(split) + len(entry.read("test")) == 1100
    assert split.x.mean().item() == pytest.approx(entry.mean[0], abs=0.002)
    assert split.x.std().item() == pytest.approx(entry.std[0], abs=0.002)
    left = split.x[..., :4].mean(dim=(1, 2, 3)) > split.x[..., 4:].mean(dim=(1, 2, 3))
    assert (left == (split.y == 0)).all()


def test_the_example_of_a_recipe_trains(tmp_path):
    class Steps(list):
        def step(self, step: int, steps: int, loss: float, accuracy: float) -> None:
            self.append(loss)

    split = example("robench/problem/datasets/halves.py")["entry"].read("train")
    recipe = example("robench/recipes/gaussian.py")["Gaussian"](steps=60, sigma=0.1)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    losses = Steps()
    training = Training(module, torch.optim.Adam(module.parameters()), tmp_path / "state", "a test", losses)
    recipe.train(training, TrainingData.of(split, 100, 0, torch.device("cpu")), ())
    assert len(losses) == 60
    assert (module(split.x).argmax(dim=1) == split.y).float().mean() > 0.9
