"""`robench check`: the gate, through the command."""

import json
import shlex
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from robench.evaluation import regression, runner
from robench.evidence.store import RunFile
from robench.problem import checkpoints, datasets
from robench.problem.checkpoints import locate
from robench.problem.subsets import held_out
from robench.results.stats import shares
from robench.search.attacks.pgd import PGD
from robench.testing.masked import masked

from .conftest import files, run_once
from .test_kill import killed

pytestmark = pytest.mark.precision
GATE = """
name = "gate"

[[threat]]
threat = "linf:0.1"
attacks = [
    { attack = "pgd", label = "still", steps = 4, random_start = false },
    { attack = "pgd", label = "random", steps = 5, restarts = 2 },
]

[[threat]]
threat = "l2:1"
attacks = [{ attack = "pgd", label = "quick", steps = 4, random_start = false }]
"""


@pytest.fixture(scope="session")
def strong(tmp_path_factory):
    """digits-adv-linf, measured: baseline.json and its run file."""
    folder = tmp_path_factory.mktemp("strong")
    (folder / "gate.toml").write_text(GATE)
    words = "evaluate", "digits-adv-linf", "--protocol", folder / "gate.toml", "--examples", 40, "--quiet"
    run_once(*words, "--run", folder / "b.robench", "--json", folder / "baseline.json", slots=16)
    return folder


@pytest.fixture
def baseline(folder, strong):
    """baseline.json and b.robench in the working folder; no protocol file, for none is needed."""
    for name in ("baseline.json", "b.robench"):
        shutil.copy(strong / name, folder / name)
    return json.loads((folder / "baseline.json").read_text())


@pytest.fixture
def unattacked(monkeypatch):
    """Fails when anything is attacked."""

    def attacked(*arguments, **settings):
        raise AssertionError("something was attacked")

    monkeypatch.setattr(runner, "Engine", attacked)


def weights(folder, model="digits-adv-linf", name="model.safetensors", factor=1.0):
    """A model of one's own: that of the zoo, with its weights a little larger."""
    path, card = locate(model)
    tensors = {key: t * factor for key, t in safetensors.torch.load_file(path).items()}
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert card is not None
    safetensors.torch.save_file(tensors, folder / name, metadata)
    return folder / name


MASKED = """
from robench.problem.architectures.digits_cnn import DigitsCNN
from robench.testing.masked import masked


def build(shape, classes):
    return masked("staircase", DigitsCNN(shape, classes))
"""
CHECK = "check", "digits-nat", "--baseline", "baseline.json"


# Unchanged


@pytest.mark.parametrize("file", ["baseline.json", "b.robench"])
def test_an_unchanged_model_passes_and_nothing_is_attacked(robench, baseline, folder, unattacked, file):
    before = files(folder)
    result = robench("check", "digits-adv-linf", "--baseline", file, "--json", "now.json")
    assert result.code == 0
    assert result.out.startswith("### robench check: no regression\n")
    assert "nothing was attacked again" in result.out
    assert {name for name in files(folder) if name not in before} == {"now.json"}
    assert json.loads((folder / "now.json").read_text())["union"] == baseline["union"]


def test_the_same_weights_in_a_file_of_another_name_are_the_same_model(robench, baseline, folder, unattacked):
    weights(folder)
    assert robench("check", "model.safetensors", "--baseline", "baseline.json").code == 0


def test_the_same_weights_with_another_normalisation_are_another_model(robench, baseline, folder, unattacked):
    weights(folder)
    result = robench("check", "model.safetensors", "--baseline", "baseline.json", "--normalise", "0/0.9")
    assert "something was attacked" in result.err


def test_a_model_that_was_checked_before_is_not_attacked_again(robench, baseline, folder, monkeypatch, request):
    first = robench(*CHECK, "--quiet")
    request.getfixturevalue("unattacked")
    assert robench(*CHECK, "--quiet") == first


# Worse


def test_a_worse_model_is_a_regression_and_the_examples_lost_are_named(robench, baseline, folder, monkeypatch):
    monkeypatch.setattr(runner, "CHECK_EVERY", 1e9)  # to the end
    result = robench(*CHECK, "--json", "now.json", "--junit", "junit.xml", "--quiet")
    assert result.code == 1
    assert result.err == ""
    assert result.out.startswith("### robench check: regression\n")
    now = json.loads((folder / "now.json").read_text())
    assert now["model"]["name"] == "digits-nat"
    (line,) = [line for line in result.out.splitlines() if line.startswith("| linf:0.1")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    shares = [100 * part["threats"][0]["accuracy"] for part in (baseline, now)]
    assert cells[1:3] == [f"{share:.1f}" for share in shares]
    assert cells[3].startswith(f"{shares[0] - shares[1]:.1f} (≥ ")
    assert cells[4:] == ["1", "**regression**"]
    letters = zip(baseline["threats"][0]["outcomes"], now["threats"][0]["outcomes"], strict=True)
    fallen = {i for i, (before, after) in enumerate(letters) if before == "S" and after == "B"}
    case = ElementTree.parse(folder / "junit.xml").find("testcase[@name='linf:0.1']/failure")
    named = {}
    for part in case.text.split("; "):
        numbers, _, cause = part.rstrip(")").partition(" (")
        named |= {int(n): cause for n in numbers.split(", ")}
    assert set(named) == fallen
    (run,) = (folder / "runs").iterdir()
    with RunFile.read(run) as file:
        claims = [c for c, v in file.evidence().judged() if v.accepted and c.threat == "linf:0.1"]
    steps = {"still": "steps=4", "random": "steps=5", "quick under l2:1": "under l2:1"}
    for example, label in named.items():
        first = min((c for c in claims if c.example == example), key=lambda c: c.id)
        assert steps[label] in first.attack
    assert len(fallen) > 5


@pytest.mark.costly
@pytest.mark.parametrize(
    ("recorded", "has", "typed", "searched"),
    [
        ("bfloat16: as named", True, None, "bfloat16"),
        ("bfloat16: as named", False, None, "float32"),
        ("float32: as named", True, None, "float32"),
        ("float32: as named", True, "bfloat16", "bfloat16"),
        ("bfloat16: as named", True, "float32", "float32"),
        ("tf32: a pilot", False, None, "float32"),
        ("bfloat16: a | float32: b", True, None, "float32"),
        ("nonsense", True, None, "float32"),
        ("", True, None, "float32"),
    ],
)
def test_check_searches_in_the_baselines_precision_or_notes_the_difference(
    robench, baseline, folder, monkeypatch, recorded, has, typed, searched
):
    monkeypatch.setenv("ROBENCH_PRECISION", "")
    monkeypatch.setattr(regression, "has_hardware", lambda precision, device: has)
    baseline["environment"]["precision"] = recorded
    (folder / "baseline.json").write_text(json.dumps(baseline))
    result = robench(*CHECK, "--run", "r.robench", *(["--precision", typed] if typed else []))
    assert result.code == 1
    with RunFile.read(folder / "r.robench") as run:
        assert run.plan().precision == searched
    before = " and ".join(text.partition(":")[0] for text in recorded.split(" | "))
    sentence = f"- Searched in {searched}, the baseline in {before}: single outcomes may differ for this alone.\n"
    assert (sentence in result.out) is (before not in ("", searched))


@pytest.mark.costly
def test_check_stops_when_the_verdict_is_certain(robench, baseline, folder, monkeypatch):
    monkeypatch.setattr(runner, "COMMIT_EVERY", 0.0)
    monkeypatch.setattr(runner, "CHECK_EVERY", 0.0)
    monkeypatch.setattr(runner, "CHECK_SHARE", 1e9)
    early = robench(*CHECK, "--json", "early.json", "--run", "early.robench")
    assert early.code == 1
    assert "Stopped early" in early.out
    assert "not finished" in early.out
    monkeypatch.setattr(runner, "CHECK_EVERY", 1e9)
    whole = robench(*CHECK, "--json", "whole.json", "--run", "whole.robench")
    assert whole.code == 1
    cost = [json.loads((folder / f"{name}.json").read_text())["cost"]["forwards"] for name in ("early", "whole")]
    assert cost[0] < 0.8 * cost[1]


def test_a_model_without_clean_accuracy_is_not_attacked(robench, baseline, folder, unattacked):
    weights(folder, factor=-1.0)
    result = robench("check", "model.safetensors", "--baseline", "baseline.json")
    assert result.code == 1
    assert "(wrong before any attack)" in result.out


def test_only_named_rows_are_judged(robench, baseline):
    assert robench(*CHECK, "--max-drop", "clean=5pp", "--quiet").code == 0
    assert robench(*CHECK, "--max-drop", "99pp", "--quiet").code == 0
    assert robench(*CHECK, "--max-drop", "99pp", "--max-drop", "linf:0.1=1pp", "--quiet").code == 1


def test_annotations_have_the_syntax_of_github(robench, baseline, folder, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "step.md"))
    (folder / "step.md").write_text("before\n")
    result = robench(*CHECK, "--github", "--quiet")
    lines = [line for line in result.out.splitlines() if line.startswith("::")]
    assert any(line.startswith("::error title=robench check::regression: linf:0.1 went from") for line in lines)
    assert all(" %25" in line for line in lines)
    comment = result.out[: result.out.index("::")]
    assert (folder / "step.md").read_text() == "before\n" + comment


# Undecided, stopped, failed


def test_a_note_that_the_baseline_has_not_is_in_the_comment_and_a_warning(robench, baseline, folder):
    (folder / "net.py").write_text(MASKED)
    torch.save(masked("staircase", checkpoints.load("digits-adv-linf").classifier.module).state_dict(), "net.pt")
    words = "check", "net.pt", "--arch", "net.py:build", "--normalise", "none", "--baseline", "baseline.json"
    result = robench(*words, "--github")
    assert result.code == 0, "gradients that are masked hold every row"
    assert "- New, not noted of the baseline: the gradient of the outputs is exactly 0" in result.out
    assert "::warning title=robench check::the gradient" in result.out
    assert "not noted" not in robench("check", "digits-adv-linf", "--baseline", "baseline.json").out


def test_a_baseline_that_was_checked_for_masking_is_noted_as_this_run_is_not(robench, baseline, folder, unattacked):
    for entry in (*baseline["threats"], baseline):
        entry["masking"] |= {"verdict": "none-found"}
    (folder / "checked.json").write_text(json.dumps(baseline))
    result = robench("check", weights(folder, "digits-adv-linf", factor=0.0), "--baseline", "checked.json")
    assert "- The baseline was checked for gradient masking" in result.out
    plain = robench("check", "digits-adv-linf", "--baseline", "baseline.json")
    assert "no regression" in plain.out
    assert "The baseline was checked" not in plain.out


def test_too_few_examples_are_undecided_with_the_number_of_further_ones(robench, folder, strong):
    words = "evaluate", "digits-adv-linf", "--protocol", strong / "gate.toml", "--examples", "5", "--quiet"
    assert robench(*words, "--json", "baseline.json").code == 0
    result = robench(*CHECK, "--max-drop", "union=1pp", "--quiet")
    assert result.code == 3
    assert result.out.startswith("### robench check: undecided\n")
    assert "further examples would decide, if they flip as these do." in result.out


@pytest.mark.costly
def test_until_decided_evaluates_both_models_on_further_examples(robench, folder, strong):
    words = "evaluate", "digits-adv-linf", "--protocol", strong / "gate.toml", "--examples", "5", "--quiet"
    assert robench(*words, "--json", "baseline.json", "--run", "mine.robench").code == 0
    kept = (folder / "mine.robench").read_bytes()
    result = robench(*CHECK, "--max-drop", "union=1pp", "--until-decided", "--quiet")
    assert result.code == 1
    runs = sorted(path.name[:16] for path in (folder / "runs").iterdir())
    assert runs == ["baseline-digits-", "digits-nat-6febf"] or len(runs) == 2
    assert "the same 20 examples" in result.out or "the same 10 examples" in result.out
    assert (folder / "mine.robench").read_bytes() == kept
    assert "99." in result.out, "a stricter level at every look"


def test_images_held_out_have_no_further_examples():
    train = datasets.load("digits:train")
    assert regression._further(train, train.part("held-out:20")) == []
    assert len(regression._further(train, train.part("20"))) == len(train) - 20
    test = datasets.load("digits:test")
    assert len(regression._further(test, test.take(sorted(held_out(len(test), 20))))) == len(test) - 20


def test_images_held_out_of_the_rest_of_a_file_have_no_further_examples(tmp_path):
    x = np.random.default_rng(0).random((50, 1, 6, 6), dtype=np.float32)
    np.savez(tmp_path / "my.npz", x=x, y=np.arange(50) % 5)
    rest = datasets.load(f"{tmp_path / 'my.npz'}:rest")
    assert list(rest.numbers) != list(range(len(rest))), "numbers are not rows"
    chosen = sorted(held_out(len(rest), 8))
    assert regression._further(rest, rest.take(chosen)) == []
    assert len(regression._further(rest, rest.take(range(8)))) == len(rest) - 8


@pytest.mark.costly
def test_until_decided_needs_the_model_of_the_baseline(robench, folder, strong):
    weights(folder, name="old.safetensors", factor=1.001)
    words = "evaluate", "old.safetensors", "--data", "digits", "--protocol", strong / "gate.toml", "--examples", "5"
    assert robench(*words, "--quiet", "--json", "baseline.json").code == 0
    shutil.move(folder / "old.safetensors", folder / "moved.safetensors")
    asked = *CHECK, "--max-drop", "union=1pp", "--until-decided", "--quiet"
    result = robench(*asked)
    assert (result.code, "--baseline-model" in result.err) == (2, True)
    result = robench(*asked, "--baseline-model", "digits-adv-linf")
    assert result.code == 2
    assert "is not the model of the baseline" in result.err
    assert robench(*asked, "--baseline-model", "moved.safetensors").code == 1


def test_a_check_out_of_time_is_unmeasured_and_the_same_command_continues(robench, baseline, folder):
    words = *CHECK, "--max-drop", "linf:0.1=1pp", "--quiet"
    early = robench(*words, "--minutes", "1e-9")
    assert early.code == 2
    assert early.out.startswith("### robench check: not measured")
    assert robench(*words).code == 1


def test_a_failing_attack_is_neither_a_regression_nor_a_pass(robench, baseline, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no gradient today")

    monkeypatch.setattr(PGD, "step", broken)
    weights(Path(), factor=1.01)
    result = robench("check", "model.safetensors", "--baseline", "baseline.json", "--quiet")
    assert result.code == 2
    assert "no gradient today" in result.out
    assert "examples are open" in result.out


@pytest.mark.processes
def test_a_repeatedly_killed_check_ends_in_the_same_verdict(folder, baseline):
    weights(folder, factor=1.05)
    words = "check", "model.safetensors", "--baseline", "baseline.json", "--max-drop", "99pp"
    _, sittings, whole, disturbed = killed(folder, (0.2, 0.4, 0.6), *words)
    assert not sittings[0]["over"]
    assert [t["outcomes"].replace("O", "S") for t in disturbed["threats"]] == [
        t["outcomes"].replace("O", "S") for t in whole["threats"]
    ]


# What is refused: one sentence, exit 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("digits-nat --baseline missing.json", "there is no baseline missing.json; write one with robench evaluate"),
        ("digits-nat --baseline gate.txt", "the baseline gate.txt cannot be read: this is not a summary file"),
        ("digits-nat --baseline baseline.json --max-drop unoin=1pp", "did you mean union?"),
        ("digits-nat --baseline baseline.json --max-drop linf:0.2=1pp", "did you mean linf:0.1?"),
        ("digits-nat --baseline baseline.json --max-drop union=much", "write a number of percentage points, like 1pp"),
        ("digits-nat --baseline baseline.json --max-drop=-3pp", "it goes from 0pp to less than 100pp"),
        (
            "digits-nat --baseline baseline.json --max-drop union=1pp --max-drop union=2pp",
            "the row union has two allowances, the second is 'union=2pp'; give one",
        ),
        ("digits-nat --baseline baseline.json --max-drop 1pp --max-drop 2pp", "every row has two allowances"),
        (
            "digits-nat --baseline baseline.json --until-decided --baseline-model old.pt",
            "there is no file old.pt; name a checkpoint that exists",
        ),
        (
            "digits-nat --baseline baseline.json --until-decided --baseline-arch old.py:Net",
            "--baseline-arch old.py:Net: there is no file old.py",
        ),
        ("digits-mat --baseline baseline.json", "did you mean digits-"),
        ("gate.txt --baseline baseline.json", "gate.txt"),
        ("digits-nat --baseline baseline.json --data images.npz", "images.npz has no example 10"),
        ("mnist-adv-linf --baseline baseline.json --run baseline.json", "--run baseline.json is the baseline"),
        ("digits-nat --baseline b.robench --run b.robench", "--run b.robench is the baseline"),
        ("digits-nat --baseline baseline.json --json baseline.json", "would overwrite what the evaluation reads"),
        ("digits-nat --baseline baseline.json --json a.txt --junit a.txt", "give each a file of its own"),
        ("digits-nat --baseline baseline.json --minutes nan", "nan"),
        ("digits-nat", "--baseline"),
    ],
)
def test_bad_input_is_one_sentence(refused, baseline, images, folder, words, message):
    (folder / "gate.txt").write_text("once upon a time")
    assert message in refused("check", *shlex.split(words))


def damaged(baseline, **changes):
    """The baseline with some of its fields changed, written as bad.json."""
    spoilt = json.loads(json.dumps(baseline))
    for path, value in changes.items():
        *above, last = path.split("__")
        part = spoilt
        for name in above:
            part = part[int(name) if name.isdigit() else name]
        part[last] = value
    Path("bad.json").write_text(json.dumps(spoilt))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "robench.summary/9"}, "reads 'robench.summary/1'"),
        ({"union__outcomes": ""}, "the outcomes of union do not fit its counts"),
        ({"threats__1__outcomes": "SB"}, "the outcomes of l2:1 do not fit its counts"),
        ({"threats__0__outcomes": None}, "the baseline bad.json cannot be read"),
        ({"data__numbers": ""}, "lacks a part of its question"),
        ({"data__numbers": "0:39"}, "are not 40 examples"),
        ({"data__numbers": "zero"}, "are not 40 examples"),
        ({"data__numbers": "1:41"}, "are not those of the baseline bad.json (digits:test"),
        ({"data__name": "digots:test"}, "did you mean digits"),
        ({"clean__open": 3}, "the clean answers are not as many as there are examples"),
        ({"threats__0__attacks__0__spec": "pgd(stepz=4)"}, "stepz"),
    ],
)
def test_a_damaged_baseline_is_one_sentence(refused, baseline, changes, message):
    damaged(baseline, **changes)
    assert message in refused("check", "digits-nat", "--baseline", "bad.json")


def test_a_baseline_on_other_data_with_the_same_numbers_is_refused(refused, baseline):
    damaged(baseline, data__name="digits:train")
    result = refused("check", "digits-nat", "--baseline", "bad.json")
    assert "of digits:train" in result
    assert "name its data with --data" in result


def test_a_run_file_without_a_plan_is_no_baseline(refused, folder):
    with RunFile.open(folder / "empty.robench") as run, run.writing():
        pass
    assert "holds no plan" in refused("check", "digits-nat", "--baseline", "empty.robench")


def changed(**entries):
    """baseline.json with other entries, `of__field` for that field of an entry."""
    result = json.loads(Path("baseline.json").read_text())
    for name, value in entries.items():
        *path, last = name.split("__")
        place = result
        for step in path:
            place = place[step]
        place[last] = value
    Path("baseline.json").write_text(json.dumps(result))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"data__numbers": "0:1000000000000"}, "is damaged"),
        ({"threats": []}, "names no threat"),
        ({"average__accuracy": None}, "no average"),
    ],
)
def test_a_baseline_that_contradicts_itself_is_refused(baseline, refused, entries, message):
    changed(**entries)
    assert message in refused("check", "digits-adv-linf", "--baseline", "baseline.json")


def test_an_unfinished_baseline_is_noted(baseline, robench, unattacked):
    result = json.loads(Path("baseline.json").read_text())
    for entry in [*result["threats"], result["union"]]:
        place = entry["outcomes"].rindex("S")
        entry["outcomes"] = entry["outcomes"][:place] + "O" + entry["outcomes"][place + 1 :]
        entry["standing"], entry["open"] = entry["standing"] - 1, entry["open"] + 1
        entry["ci95"] = shares.interval(entry["standing"], entry["open"], 40)
    result["average"]["ci95"] = shares.mean([t["outcomes"] for t in result["threats"]])[1]
    Path("baseline.json").write_text(json.dumps(result))
    answer = robench("check", "digits-adv-linf", "--baseline", "baseline.json")
    assert answer.code == 0
    assert "1 example is open in the baseline" in answer.out


def test_the_verdict_stands_if_the_step_summary_cannot_be_written(baseline, robench, folder, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "nowhere" / "summary.md"))
    result = robench("check", "digits-adv-linf", "--baseline", "baseline.json", "--github")
    assert result.code == 0
    assert "cannot be written" in result.err
