"""`robench train`: what it shows, what it refuses, and that nothing stops it for good."""

import errno
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import safetensors.torch
import torch

from robench.cli import display
from robench.cli.main import main
from robench.evidence.store import RunFile
from robench.problem import datasets, durable
from robench.problem.checkpoints.cards import images_held_out, minutes_in_all, read_card
from robench.recipes import RECIPES, training
from robench.recipes.making import usual_validation

from .conftest import files

ROOT = Path(__file__).parents[2]
ADVERSARIAL = (
    "pgd_at --threat linf:0.1 --set steps=12 --set batch=16 --set inner_steps=1 --no-evaluation --validation 0"
)
SEVERAL = ADVERSARIAL.replace("pgd_at", "mng_ac") + " --threat l2:1"


@pytest.fixture
def train(robench):
    """`train("nat --out m")` is that command."""
    return lambda words: robench("train", *words.split())


@pytest.fixture
def often(monkeypatch):
    """The state is stored and progress is shown after every step."""
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


@pytest.mark.costly
def test_progress_lines_show_step_time_speed_loss_and_accuracy(train, folder, often):
    result = train(f"{ADVERSARIAL} --out m --validation 40")
    assert result.code == 0, result.err
    step = r"step \d+/12, (about \d+:\d\d left|estimating the time left), [\d,]+ images/s: "
    step += r"loss \d\.\d{3}, \d+\.\d% correct in training"
    look = r"held out: \d+\.\d% clean, \d+\.\d% under attack, after step \d+"
    *lines, last = result.err.splitlines()
    assert len(lines) == 24
    assert all(re.fullmatch(form, line) for form, line in zip([look, step] * 12, lines, strict=True)), lines
    assert last.startswith("m.safetensors and m.toml are written")
    seen = read_card(folder / "m.toml").validation
    assert seen["examples"] == 40
    assert lines[-2] == f"held out: {seen['clean']:.1%} clean, {seen['robust']:.1%} under attack, after step 12"


def test_some_images_are_held_out_unless_validation_is_0(train, folder, often):
    words = "nat --set steps=2 --no-evaluation"
    assert "held out" in train(f"{words} --out some").err
    assert read_card(folder / "some.toml").validation["examples"] == 64  # a twentieth of digits
    assert "held out" not in train(f"{words} --validation 0 --out none").err
    assert read_card(folder / "none.toml").validation == {}
    assert train(f"{words} --out quiet --quiet").err.count("\n") == 1


def test_held_out_images_that_the_start_may_have_had_are_told_apart(train, folder):
    words = "nat --set steps=2 --no-evaluation"
    assert train(f"{words} --validation 50 --out unseen").code == 0
    assert train(f"{words} --validation 49 --out seen").code == 0
    shutil.copy(folder / "unseen.safetensors", folder / "uncarded.safetensors")

    def noted(start, validation, out, data="digits"):
        note = (
            "may have been trained on images that are held out now"
            in train(f"{words} --from {start}.safetensors --validation {validation} --out {out} --data {data}").err
        )
        marked = read_card(folder / f"{out}.toml").validation.get("seen_before", False)
        assert note == marked
        return note

    assert not noted("unseen", 50, "a")
    assert not noted("unseen", 0, "b")
    assert noted("seen", 50, "c"), "49 of these 50 alone were held out"
    assert noted("c", 50, "d"), "held out by the start, and not by its own start"
    assert not noted("a", 50, "e")
    assert noted("seen", 50, "f", data="digits:train"), "the same images by another name"
    assert noted("uncarded", 50, "g"), "nobody says what it was trained on"


def test_a_card_without_a_word_about_its_start_does_not_vouch_for_images_held_out(train, folder):
    assert train("nat --set steps=2 --no-evaluation --validation 50 --out a").code == 0
    assert train("nat --set steps=2 --no-evaluation --validation 50 --from a.safetensors --out b").code == 0
    card = read_card(folder / "b.toml")
    assert card.validation["seen_before"] is False
    assert images_held_out(card) == 50
    silent = {key: value for key, value in card.validation.items() if key != "seen_before"}
    assert images_held_out(msgspec.structs.replace(card, validation=silent)) == 0
    for wrong in (-5, True, "50"):
        settings = {key: value for key, value in card.settings.items() if key != "start"} | {"validation": wrong}
        assert images_held_out(msgspec.structs.replace(card, settings=settings)) == 0


def test_a_protocol_of_images_held_out_is_refused_before_the_training(refused, folder):
    (folder / "held.toml").write_text(
        'name = "held"\nexamples = "held-out:30"\n[[threat]]\nthreat = "linf:0.1"\nattacks = [{ attack = "pgd" }]\n'
    )
    before = files(folder)
    words = "nat --data digits --set steps=2 --protocol held.toml --out m"
    assert "of training images (held-out:30), and train evaluates on test images" in refused("train", *words.split())
    assert files(folder) == before


def test_small_data_hold_out_no_images_and_large_data_200():
    assert [usual_validation(n) for n in (16, 999, 1000, 1297, 60000)] == [0, 0, 50, 64, 200]


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile asks for a C++ compiler")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch's own use
def test_compiled_training_gives_the_same_weights_up_to_rounding(train, folder):
    words = "sat --threat linf:0.2 --threat l1:10 --set steps=4 --set batch=16 --no-evaluation --validation 0"
    assert train(f"{words} --compile --out fast").code == 0
    assert train(f"{words} --out plain").code == 0
    fast, plain = (safetensors.torch.load_file(folder / f"{name}.safetensors") for name in ("fast", "plain"))
    assert all(torch.allclose(fast[key], plain[key], atol=1e-6) for key in fast | plain)
    assert read_card(folder / "fast.toml").settings["compiled"] is True


def test_a_missing_compiler_is_named_and_nothing_is_written(refused, folder, monkeypatch):
    def without_compiler(*_):
        raise torch._dynamo.exc.InternalTorchDynamoError("Compiler: cl is not found")

    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: module.register_forward_pre_hook(without_compiler))
    before = files(folder)
    result = refused("train", *["nat", "--set", "steps=2", "--no-evaluation", "--quiet", "--compile", "--out", "m"])
    assert "torch.compile fails here (Compiler: cl is not found); --no-compile trains without it" in result
    assert files(folder) == before


def test_the_speed_counts_only_steps_of_this_session(monkeypatch, capsys):
    clock = [100.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: clock[0])
    shown = display.TrainingDisplay(batch=50)
    for step in range(11, 31):
        clock[0] += 1
        shown.step(step, 50, 1.0, 0.5)
    result = capsys.readouterr().err.splitlines()
    assert result[0] == "continuing after step 10 of 50"
    assert result[-1] == "step 30/50, about 0:20 left, 50 images/s: loss 1.000, 50.0% correct in training"


@pytest.mark.costly
def test_catastrophic_overfitting_is_warned_of_once(train, monkeypatch, often):
    monkeypatch.setattr("robench.recipes.validation.overfitting_warning", lambda looks, now, n: f"look {now.step}")
    result = train(f"{ADVERSARIAL} --out m --validation 40")
    assert result.err.count("warning: ") == 1
    assert "warning: look 1\n" in result.err


def test_a_card_holds_the_command_and_everything_that_determines_the_model(train, folder, monkeypatch):
    monkeypatch.setattr("robench.cli.train.commit", lambda device: "0123456789ab-dirty")
    clock = itertools.count(0.0, 6.0)  # a step takes a tenth of a minute
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=clock.__next__))
    words = f"{SEVERAL.replace('steps=12', 'steps=3')} --set alpha=0.2 --seed 7 --validation 20 --out m"
    assert train(words).code == 0
    card = read_card(folder / "m.toml")
    assert card.command == f"robench train {words}"
    assert (card.name, card.weights, card.recipe) == ("m", "m.safetensors", "mng_ac")
    assert (card.data, card.architecture, card.shape, card.classes) == ("digits", "digits-cnn", (1, 28, 28), 10)
    assert (card.seed, card.commit, card.minutes) == (7, "0123456789ab-dirty", 0.3)
    assert f"torch {torch.__version__}" in card.hardware
    assert f"{torch.get_num_threads()} threads" in card.hardware
    settings = dict(card.settings)
    assert settings.pop("data_sha256") == datasets.load("digits", "train").sha256
    expected = {"steps": 3, "batch": 16, "augment": False, "lr": 0.001, "warmup": 0.1, "inner_steps": 1}
    expected |= {"inner_step_size": 0.25, "beta": 12.0, "alpha": 0.2, "generator": "image", "noise_unit": "radius"}
    assert settings == {**expected, "threats": ["linf:0.1", "l2:1"], "validation": 20}


@pytest.mark.costly
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


@pytest.mark.processes
def test_a_killed_training_continues_to_the_same_weights(train, folder, undisturbed):
    threads = str(torch.get_num_threads())  # sums are rounded by how they are shared out
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": threads}
    words = [sys.executable, "-c", KILLED, "train", *SEVERAL.split(), "--out", "m"]
    killed = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    result = train(f"{SEVERAL} --out m")
    assert "continuing after step 4 of 12" in result.err
    assert same(folder / "m.safetensors", undisturbed)
    assert not (folder / "m.training").exists()


@pytest.mark.costly
def test_a_stopped_training_explains_how_to_continue(train, folder, monkeypatch, undisturbed):
    told_of = []

    def step(self, step, *_):
        told_of.append(step)
        if step == 5:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(display.TrainingDisplay, "step", step)
        result = train(f"{SEVERAL} --out m")
    assert result.code == 130
    assert "stopped; m.training holds the state so far: type the same command again to continue" in result.err
    assert told_of == [1, 2, 3, 4, 5]
    with monkeypatch.context() as patch:
        patch.setattr(display.TrainingDisplay, "step", step)
        restarted = train(f"{SEVERAL} --out m --no-resume")
    assert "type the same command without --no-resume to continue" in restarted.err
    assert train(f"{SEVERAL} --out m").code == 0
    assert same(folder / "m.safetensors", undisturbed)


@pytest.mark.costly
@pytest.mark.parametrize("full_at", [4, 14])
def test_a_full_disk_leaves_the_stored_state_intact(train, folder, monkeypatch, often, undisturbed, full_at):
    synced = []

    def fsync(handle):
        synced.append(handle)
        if len(synced) == full_at:  # while a state is written, or the weights after the last
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable.os, "fsync", fsync)
    result = train(f"{SEVERAL} --out m")
    *_, line = result.err.splitlines()
    assert result.code == 2
    assert line.startswith(f"Error: m.{'training' if full_at == 4 else 'safetensors'} cannot be written: No space left")
    assert "the same command resumes" in line
    assert "Traceback" not in result.err
    assert {*files(folder)} == {"tiny.toml", "m.training"}, "no half-written file is left behind"
    result = train(f"{SEVERAL} --out m")
    assert result.code == 0
    assert ("continuing after step 3 of 12" in result.err) is (full_at == 4)
    assert same(folder / "m.safetensors", undisturbed)


@pytest.mark.costly
def test_a_state_of_another_training_is_refused_and_left_as_it_is(train, folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(display.TrainingDisplay, "step", lambda *_: signal.raise_signal(signal.SIGTERM))
        train(f"{SEVERAL} --out m")
    held = (folder / "m.training").read_bytes()
    changes = ("--set generator=noise", "--seed 1", "--set bn_train_attack=true", "--validation 30")
    for change in (*changes, "--precision bfloat16", "--set alpha=0.2"):
        result = train(f"{SEVERAL} --out m {change}")
        assert result.code == 2
        assert "m.training holds another training" in result.err
        assert (folder / "m.training").read_bytes() == held
    assert train(f"{SEVERAL} --out m --set alpha=0.2 --no-resume").code == 0


# Refused


@pytest.fixture
def monotonous(folder):
    """Forty images of one class."""
    np.savez(folder / "one.npz", x=np.zeros((40, 28, 28), dtype=np.uint8), y=np.full(40, 3))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nat --set step=3", "did you mean steps"),
        ("mng_ac --threat linf:0.1 --threat l2:1 --set generator=images", "did you mean image"),
        ("mng_ac --threat linf:0.1 --threat rt:3px,30deg", "projected onto an l2 ball; add one, like --threat l2:0.5"),
        ("sat_ac --threat linf:0.1", "two threats or more"),
        ("eat --threat linf:1/10 --threat linf:0.1", "--threat linf:0.1 is given twice; name each threat once"),
        ("eat --threat linf:0.1 --threat l1:5 --set kept=1.5", "must be from 0 to 1"),
        ("nat --set lr=1e999", "must be a finite number, above 0"),
        ("nat --set steps=2.5", "cannot take steps=2.5: it must be a whole number, at least 1, like its default 6000"),
        ("nat --set lr=nan", "cannot take lr='nan'"),
        ("pgd_at --threat linf:8", "under linf:8 any image may become any other"),
        ("pgd_at --threat linf:0", "must be above 0"),
        ("spatial_at --threat rt:28px,30deg", "under rt:28px,30deg any image may become any other"),
        ("nat --data one.npz --arch digits-cnn --set batch=8", "the images of one.npz:rest are all of one class"),
        ("nat --data digits:test", "would score higher than it should; train on the others with --data digits"),
        ("nat --data digits:test --no-evaluation", "holds the images that models are measured on"),
        ("nat --data cifar10-c/fog@3:test --no-evaluation", "holds the images that models are measured on"),
        ("nat --data one.npz:test --arch digits-cnn", "train on the others with --data one.npz"),
        ("nat --data one.npz:held-out --arch digits-cnn", "train on the others with --data one.npz"),
        ("nat --validation -1", "--validation"),
        ("nat --epochs nan", "--epochs nan never ends"),
        (
            "nat --epochs 2 --set steps=9",
            "--epochs and --set steps=... both set the length of the training; give one of them",
        ),
        ("nat --set lr=0.1 --set lr=0.2", "--set lr=... is given 2 times; set each number once"),
        ("eat --threat linf:0.1 --threat l1:5 --set inner_step_size=1", "no setting of eat is called"),
        ("spatial_at --threat rt:3px,30deg --set inner_steps=1", "no setting of spatial_at is called"),
        ("pgd_at --threat linf:0.1 --set poses=3", "no setting of pgd_at is called"),
        ("sat_ac --threat linf:0.1 --threat l1:5 --set beta=-1", "it must be at least 0"),
        ("mng_ac --threat linf:0.1 --threat l2:1 --compile", "mng_ac needs second derivatives"),
        ("nat --set batch=5000", "fewer than one batch of 5000; use --set batch=..."),
        ("nat --arch net.py", "--arch net.py names no network in that file; write --arch net.py:NETWORK"),
        ("nat --protocol quik", "no protocol is called 'quik'; did you mean quick"),
        ("nat --out models/", "models/ names a folder; add the name of the model, like models/mine"),
        ("nat --validation 1290", "7 examples beside the 1290 held out, fewer than one batch of 64"),
        ("nat --validation 99999", "0 examples beside the 1297 held out, fewer than one batch of 64"),
        ("nat --precision bfloat", "did you mean bfloat16"),
        ("nat --out tiny.toml/m", "choose another --out"),
        ("nat --from none.pt", "none.pt"),
        ("nat --from digits-na", "did you mean digits-nat"),
        ("nat --from digits-nat --arch lenet", "digits-nat is a digits-cnn, not a lenet; set --arch"),
    ],
)
def test_an_invalid_training_is_refused_in_one_line_before_any_work(refused, monotonous, words, message):
    assert message in refused("train", *words.split())


def test_a_training_does_not_overwrite_the_model_that_it_starts_from(train, refused, folder):
    assert train("nat --set steps=2 --no-evaluation --out m").code == 0
    before = (folder / "m.safetensors").read_bytes()
    for start in ("m.safetensors", "m.toml", "./m.safetensors"):
        result = refused("train", "nat", "--set", "steps=2", "--no-evaluation", "--from", start, "--out", "m")
        assert "--out m would overwrite the model that --from starts from; choose another --out" in result
    assert (folder / "m.safetensors").read_bytes() == before
    assert not (folder / "m.training").exists()


def test_a_finished_training_is_not_repeated_but_evaluated(train, folder):
    assert train("nat --set steps=2 --no-evaluation --out m").code == 0
    before = (folder / "m.safetensors").stat().st_mtime_ns
    result = train("nat --set steps=2 --protocol tiny.toml --out m")
    assert result.code == 0
    assert "m.safetensors and m.toml exist already" in result.err
    assert (folder / "m.safetensors").stat().st_mtime_ns == before
    assert read_card(folder / "m.toml").measured["protocol"] == "tiny"
    assert read_card(folder / "m.toml").parameters == 54822


def test_the_training_images_of_a_data_set_are_the_data_set_and_its_test_images_are_attacked(train, folder):
    assert train("nat --data digits:train --set steps=2 --protocol tiny.toml --out m").code == 0
    assert read_card(folder / "m.toml").data == "digits"
    (path,) = folder.rglob("*.robench")
    with RunFile.read(path) as run:
        assert run.plan().data == "digits:test"


@pytest.mark.parametrize("change", ["--seed 1", "--set lr=0.1", "--arch lenet", "--from digits-nat"])
def test_a_model_of_another_command_is_replaced_only_on_request(train, refused, folder, change):
    command = "nat --set steps=2 --no-evaluation --out m"
    assert train(command).code == 0
    before = files(folder)
    result = refused("train", *f"{command} {change}".split())
    assert "m.safetensors exists already and was not made by this command; choose another --out" in result
    assert files(folder) == before
    assert train(f"{command} {change} --no-resume").code == 0
    assert (folder / "m.safetensors").read_bytes() != before["m.safetensors"]


def test_training_minutes_include_those_of_the_models_it_starts_from(train, folder, monkeypatch):
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=itertools.count(0.0, 6.0).__next__))
    words = "nat --set batch=16 --no-evaluation --validation 0"
    assert train(f"{words} --set steps=4 --out one").code == 0
    assert train(f"{words} --set steps=2 --from one.safetensors --out two").code == 0
    assert train(f"{words} --set steps=1 --from two.toml --out three").code == 0
    cards = [read_card(folder / f"{name}.toml") for name in ("one", "two", "three")]
    assert [card.minutes for card in cards] == pytest.approx([0.4, 0.2, 0.1])
    assert [card.minutes_before for card in cards] == [None, pytest.approx(0.4), pytest.approx(0.6)]
    assert minutes_in_all(cards[2]) == pytest.approx(0.7)


def test_a_model_of_another_precision_is_another_model(train, refused, folder):
    command = "nat --set steps=2 --no-evaluation --out m"
    assert train(command).code == 0
    assert "was not made by this command" in refused("train", *f"{command} --half".split())
    assert train(f"{command} --half --no-resume").code == 0
    assert "exist already" in train(f"{command} --half").err


@pytest.mark.parametrize("hardware", [True, False])
def test_bfloat16_without_hardware_is_said_to_be_slow(train, folder, monkeypatch, hardware):
    monkeypatch.setattr("robench.cli.train.has_hardware", lambda *_: hardware)
    result = train("nat --set steps=1 --no-evaluation --precision bfloat16 --out m")
    assert result.code == 0
    assert ("note: this device has no hardware for bfloat16" in result.err) is not hardware


def test_a_training_does_not_continue_with_other_images_of_the_same_name(train, refused, folder, monkeypatch, often):
    words = "nat --data d.npz --arch digits-cnn --set steps=3 --set batch=16 --no-evaluation --quiet --out m"
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    np.savez(folder / "d.npz", x=images, y=np.arange(40) % 4)
    with monkeypatch.context() as patch:
        patch.setattr(display.TrainingDisplay, "step", lambda self, step, *_: step == 2 and stop())
        assert train(words).code == 130
    np.savez(folder / "d.npz", x=images[::-1], y=np.arange(40) % 4)
    assert "m.training was started on other images than the data holds now" in refused("train", *words.split())


def test_a_training_stopped_before_its_first_state_mentions_no_state(train, folder, monkeypatch):
    monkeypatch.setattr(display.TrainingDisplay, "step", lambda self, step, *_: stop())
    result = train("nat --set steps=9 --no-evaluation --out m")
    assert result.code == 130
    assert "stopped before the first step" in result.err
    assert not (folder / "m.training").exists()


def stop():
    raise KeyboardInterrupt


def test_a_diverging_loss_leaves_no_model(refused, folder):
    result = refused(
        "train", *["nat", "--set", "lr=1e30", "--set", "steps=40", "--no-evaluation", "--out", "m", "--quiet"]
    )
    assert "as the training diverged; train again with a smaller --set lr" in result
    assert not (folder / "m.safetensors").exists()


# On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("name", RECIPES)
def test_on_a_gpu_an_interrupted_training_gives_the_weights_of_an_uninterrupted_one(train, folder, monkeypatch, name):
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here")
    single = dict.fromkeys(("nat", "ant"), "") | dict.fromkeys(("pgd_at", "trades", "nfgsm"), "--threat linf:0.2")
    single["rst"] = "--threat linf:0.2 --pseudo-labelled digits:train --validation 0"
    threats = single.get(name, "--threat linf:0.2 --threat l1:10")
    threats = "--threat rt:3px,30deg" if name == "spatial_at" else threats
    words = f"{name} {threats} --set steps=6 --set batch=16 --no-evaluation --quiet --device cuda"
    assert train(f"{words} --out undisturbed").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(display.TrainingDisplay, "step", lambda self, step, *_: step == 3 and signal.raise_signal(2))
        assert train(f"{words} --out m").code == 130
    assert train(f"{words} --out m").code == 0
    assert same(folder / "m.safetensors", safetensors.torch.load_file(folder / "undisturbed.safetensors"))
    assert read_card(folder / "m.toml").settings.get("compiled", False) is (name != "mng_ac")
