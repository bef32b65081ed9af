"""`robench train`: what it shows, what it refuses, and that nothing stops it for good."""

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from robench.cli import display
from robench.cli.main import main
from robench.problem import durable
from robench.problem.checkpoints.cards import read_card
from robench.recipes import training

from .conftest import files

ROOT = Path(__file__).parents[2]
ADVERSARIAL = "pgd_at --threat linf:0.1 --set steps=12 --set batch=16 --set inner_steps=1 --no-evaluation"
SEVERAL = ADVERSARIAL.replace("pgd_at", "mng_ac") + " --threat l2:1"


@pytest.fixture
def train(robench):
    """`train("nat --out m")` is that command."""
    return lambda words: robench("train", *words.split())


@pytest.fixture
def often(monkeypatch):
    """The state is kept after every step, and every step is told."""
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(display, "PLAIN_EVERY", 0.0)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The weights that SEVERAL ends with."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["robench", "train", *SEVERAL.split(), "--quiet", "--out", str(folder / "m")])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
    return safetensors.torch.load_file(folder / "m.safetensors")


def same(path, weights):
    """Whether a file holds these very weights. (Its bytes may differ: the order of its metadata is chance.)"""
    found = safetensors.torch.load_file(path)
    return all(torch.equal(found[key], weights[key]) for key in weights | found)


def test_a_line_tells_how_far_it_is_how_good_and_how_fast(train, folder, often):
    told = train(f"{ADVERSARIAL} --out m --validation 40")
    assert told.code == 0, told.err
    step = r"step \d+/12, (about \d+:\d\d left|reckoning the time), [\d,]+ images/s: "
    step += r"loss \d\.\d{3}, \d+\.\d% right in training"
    look = r"kept out: \d+\.\d% clean, \d+\.\d% under attack, after step \d+"
    *lines, last = told.err.splitlines()
    assert len(lines) == 24
    assert all(re.fullmatch(form, line) for form, line in zip([look, step] * 12, lines, strict=True)), lines
    assert last.startswith("m.safetensors and m.toml are written")
    seen = read_card(folder / "m.toml").validation
    assert seen["examples"] == 40
    assert lines[-2] == f"kept out: {seen['clean']:.1%} clean, {seen['robust']:.1%} under attack, after step 12"


def test_nothing_is_kept_out_unless_asked_for(train, folder, often):
    told = train(f"{ADVERSARIAL} --out m")
    assert "kept out" not in told.err
    assert read_card(folder / "m.toml").validation == {}
    assert train(f"{ADVERSARIAL} --out q --quiet").err.count("\n") == 1


def test_the_rate_is_that_of_the_steps_of_this_sitting(monkeypatch, capsys):
    clock = [100.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: clock[0])
    shown = display.TrainingDisplay(batch=50)
    for step in range(11, 31):
        clock[0] += 1
        shown.step(step, 50, 1.0, 0.5)
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "going on after step 10 of 50"
    assert told[-1] == "step 30/50, about 0:20 left, 50 images/s: loss 1.000, 50.0% right in training"


def test_catastrophic_overfitting_is_warned_of_once(train, monkeypatch, often):
    monkeypatch.setattr("robench.recipes.validation.fallen", lambda looks, now, n: f"look {now.step}")
    told = train(f"{ADVERSARIAL} --out m --validation 40")
    assert told.err.count("warning: ") == 1
    assert "warning: look 1\n" in told.err


@pytest.mark.parametrize("words", [SEVERAL, SEVERAL.replace("mng_ac", "eat"), SEVERAL.replace("mng_ac", "adaptive")])
def test_the_same_seed_gives_the_same_weights_and_another_does_not(train, folder, words):
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        assert train(f"{words} --out {name} --seed {seed} --quiet").code == 0
    one = safetensors.torch.load_file(folder / "one.safetensors")
    assert same(folder / "two.safetensors", one)
    assert not same(folder / "other.safetensors", one)


# Stopped


KILLED = """
import os, signal
from robench.cli import display, train
from robench.cli.main import main
from robench.recipes import training

def step(self, step, *_):
    if step == 5:  # the weights have moved, and that is not kept yet
        os.kill(os.getpid(), signal.SIGKILL)

training.SAVE_EVERY = 0.0
display.TrainingDisplay.step = step
main()
"""


def test_a_training_killed_at_work_ends_with_the_same_weights(train, folder, undisturbed):
    threads = str(torch.get_num_threads())  # sums are rounded by how they are shared out
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": threads}
    words = [sys.executable, "-c", KILLED, "train", *SEVERAL.split(), "--out", "m"]
    killed = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    told = train(f"{SEVERAL} --out m")
    assert "going on after step 4 of 12" in told.err
    assert same(folder / "m.safetensors", undisturbed)
    assert not (folder / "m.training").exists()


def test_a_training_asked_to_stop_says_how_to_go_on(train, folder, monkeypatch, undisturbed):
    told_of = []

    def step(self, step, *_):
        told_of.append(step)
        if step == 5:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(display.TrainingDisplay, "step", step)
        told = train(f"{SEVERAL} --out m")
    assert told.code == 130
    assert "stopped; m.training holds how far it was: type the same command again to go on" in told.err
    assert told_of == [1, 2, 3, 4, 5]
    assert train(f"{SEVERAL} --out m").code == 0
    assert same(folder / "m.safetensors", undisturbed)


@pytest.mark.parametrize("full_at", [4, 14])
def test_a_disk_that_is_full_leaves_the_kept_state_whole(train, folder, monkeypatch, often, undisturbed, full_at):
    synced = []

    def fsync(handle):
        synced.append(handle)
        if len(synced) == full_at:  # while a state is written, or the weights after the last
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable.os, "fsync", fsync)
    told = train(f"{SEVERAL} --out m")
    *_, line = told.err.splitlines()
    assert told.code == 2
    assert line.startswith(f"Error: m.{'training' if full_at == 4 else 'safetensors'} cannot be written: No space left")
    assert "the same command goes on" in line
    assert "Traceback" not in told.err
    assert {*files(folder)} == {"tiny.toml", "m.training"}, "no half-written file is left behind"
    told = train(f"{SEVERAL} --out m")
    assert told.code == 0
    assert ("going on after step 3 of 12" in told.err) is (full_at == 4)
    assert same(folder / "m.safetensors", undisturbed)


def test_a_state_of_another_training_is_refused_and_left_as_it_is(train, folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(display.TrainingDisplay, "step", lambda *_: signal.raise_signal(signal.SIGTERM))
        train(f"{SEVERAL} --out m")
    held = (folder / "m.training").read_bytes()
    changes = ("--set generator=noise", "--seed 1", "--set bn_train_attack=true", "--validation 30")
    for change in (*changes, "--precision bfloat16", "--set alpha=0.2"):
        told = train(f"{SEVERAL} --out m {change}")
        assert told.code == 2
        assert "m.training holds another training" in told.err
        assert (folder / "m.training").read_bytes() == held
    assert train(f"{SEVERAL} --out m --set alpha=0.2 --no-resume").code == 0


# Refused


@pytest.fixture
def monotonous(folder):
    """Forty images of one class."""
    np.savez(folder / "one.npz", x=np.zeros((40, 28, 28), dtype=np.uint8), y=np.full(40, 3))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("nat --set step=3", "did you mean steps"),
        ("mng_ac --threat linf:0.1 --threat l2:1 --set generator=images", "did you mean image"),
        ("mng_ac --threat linf:0.1 --threat rt:3px,30deg", "mng_ac cannot train against rt:3px,30deg; it can against"),
        ("sat_ac --threat linf:0.1", "two threats or more"),
        ("eat --threat linf:1/10 --threat linf:0.1", "--threat linf:0.1 is given twice; name each threat once"),
        ("eat --threat linf:0.1 --threat l1:5 --set kept=1.5", "it is a share, 1 at most"),
        ("nat --set lr=1e999", "must be above 0, and finite"),
        ("nat --set steps=2.5", "cannot take steps=2.5: it must be a whole number, like its default 6000"),
        ("nat --set lr=nan", "cannot take lr='nan'"),
        ("pgd_at --threat linf:8", "under linf:8 any image may become any other"),
        ("pgd_at --threat linf:0", "must be above 0"),
        ("spatial_at --threat rt:28px,30deg", "under rt:28px,30deg any image may become any other"),
        ("nat --data one.npz --arch digits-cnn --set batch=8", "the images of one.npz are all of one class"),
        ("nat --validation 0", "--validation"),
        ("nat --validation 1290", "7 examples beside the 1290 kept out, fewer than one batch of 64"),
        ("nat --validation 99999", "0 examples beside the 1297 kept out, fewer than one batch of 64"),
        ("nat --precision bfloat", "did you mean bfloat16"),
        ("nat --out tiny.toml/m", "choose another --out"),
        ("nat --from none.pt", "none.pt"),
        ("nat --from digits-na", "did you mean digits-nat"),
        ("nat --from digits-nat --arch lenet", "digits-nat is a digits-cnn, not a lenet; --arch says which to train"),
    ],
)
def test_what_cannot_be_trained_is_one_line_before_any_work(refused, monotonous, words, told):
    assert told in refused("train", *words.split())


def test_a_training_does_not_write_over_the_model_that_it_starts_from(train, refused, folder):
    assert train("nat --set steps=2 --no-evaluation --out m").code == 0
    before = (folder / "m.safetensors").read_bytes()
    for start in ("m.safetensors", "m.toml", "./m.safetensors"):
        told = refused("train", "nat", "--set", "steps=2", "--no-evaluation", "--from", start, "--out", "m")
        assert "--out m would overwrite the model that --from starts from; choose another --out" in told
    assert (folder / "m.safetensors").read_bytes() == before
    assert not (folder / "m.training").exists()


def test_a_finished_training_is_not_done_again_and_goes_on_to_its_evaluation(train, folder):
    assert train("nat --set steps=2 --no-evaluation --out m").code == 0
    before = (folder / "m.safetensors").stat().st_mtime_ns
    told = train("nat --set steps=2 --protocol tiny.toml --out m")
    assert told.code == 0
    assert "m.safetensors and m.toml are there already" in told.err
    assert (folder / "m.safetensors").stat().st_mtime_ns == before
    assert read_card(folder / "m.toml").measured["protocol"] == "tiny"


@pytest.mark.parametrize("change", ["--seed 1", "--set lr=0.1", "--arch lenet", "--from digits-nat"])
def test_a_model_made_otherwise_is_not_replaced_unless_that_is_said(train, refused, folder, change):
    command = "nat --set steps=2 --no-evaluation --out m"
    assert train(command).code == 0
    before = files(folder)
    told = refused("train", *f"{command} {change}".split())
    assert "m.safetensors is there already, and is not what this command makes; choose another --out" in told
    assert files(folder) == before
    assert train(f"{command} {change} --no-resume").code == 0
    assert (folder / "m.safetensors").read_bytes() != before["m.safetensors"]


def test_a_loss_that_runs_away_leaves_no_model(refused, folder):
    told = refused(
        "train", *["nat", "--set", "lr=1e30", "--set", "steps=40", "--no-evaluation", "--out", "m", "--quiet"]
    )
    assert "the weights are no numbers any more, the loss has run away; train again with a smaller --set lr" in told
    assert not (folder / "m.safetensors").exists()
