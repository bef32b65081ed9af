"""Bad input: one clear line, exit 2, nothing run, nothing written."""

import os
import pickle
import sqlite3

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from robench.problem.checkpoints import locate
from robench.problem.datasets import DATASETS

EVALUATE = "evaluate", "model.pt", "--data", "digits", "--protocol", "tiny.toml"


@pytest.fixture
def weights():
    """A network for 1x28x28 images and ten classes, as a state dict."""
    return safetensors.torch.load_file(locate("digits-nat")[0])


@pytest.fixture
def model(folder, weights):
    torch.save(weights, folder / "model.pt")
    return folder / "model.pt"


# Checkpoints


class Hostile:
    """Creates a file when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch hacked",)


@pytest.mark.parametrize("how", ["torch", "pickle", "hidden among weights"])
def test_a_pickle_that_would_run_code_is_not_run(folder, refused, weights, how):
    if how == "pickle":
        (folder / "model.pt").write_bytes(pickle.dumps(Hostile(), protocol=2))
    else:
        torch.save(Hostile() if how == "torch" else {"state_dict": weights, "epoch": Hostile()}, folder / "model.pt")
    result = refused(*EVALUATE)
    assert "would run code" in result
    assert "--trust-pickle" in result
    assert not (folder / "hacked").exists()


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_a_truncated_checkpoint_is_named_as_such(folder, refused, weights, kind, share):
    path = folder / f"model.{kind}"
    safetensors.torch.save_file(weights, path) if kind == "safetensors" else torch.save(weights, path)
    held = path.read_bytes()
    path.write_bytes(held[: int(len(held) * share)])
    result = refused("evaluate", path.name, "--data", "digits", "--protocol", "tiny.toml")
    assert f"{path.name} is cut off or damaged" in result or f"{path.name} is not a checkpoint" in result


def test_a_path_in_the_home_of_an_unknown_user_is_one_line(folder, refused, monkeypatch):
    assert "there is no file ~no-such-user/m.pt" in refused("evaluate", "~no-such-user/m.pt", "--data", "digits")
    assert "there is no file ~no-such-user/x.npz" in refused("evaluate", "digits-nat", "--data", "~no-such-user/x.npz")
    monkeypatch.setenv("ROBENCH_DATA", "~no-such-user")
    assert "ROBENCH_DATA is '~no-such-user', which is not a folder" in refused(
        "evaluate", "digits-nat", "--data", "mnist"
    )


def test_an_html_page_named_as_a_checkpoint_is_recognised(folder, refused):
    (folder / "model.pt").write_text("<!DOCTYPE html>\n<html>Sign in</html>")
    assert "model.pt is an HTML page, not a checkpoint" in refused(*EVALUATE)


def test_weights_that_are_not_numbers_are_named(folder, refused, weights):
    weights["fc1.bias"][3] = torch.nan
    torch.save(weights, folder / "model.pt")
    assert "has NaN or infinite weights in fc1.bias" in refused(*EVALUATE)


FACTORY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(784, 10)

    def forward(self, x):
        {body}

def build():
    torch.manual_seed(0)
    return Net()
"""


def own(folder, body):
    """A checkpoint of an own architecture with this forward pass."""
    (folder / "net.py").write_text(FACTORY.format(body=body))
    torch.manual_seed(0)
    fc = torch.nn.Linear(784, 10)
    torch.save({"fc.weight": fc.weight.data, "fc.bias": fc.bias.data}, folder / "model.pt")
    return *EVALUATE, "--arch", "net.py:build"


def test_logits_that_are_not_numbers_on_real_images_are_named(folder, refused):
    """Random images have no row of 0, real ones do."""
    result = refused(*own(folder, "return self.fc(x.flatten(1)) / x[:, 0, :, :3].sum(dim=(1, 2))[:, None]"))
    assert "answers NaN or infinite logits on" in result
    assert "of 12 clean images (first: example" in result


def test_a_stochastic_model_that_ignores_the_seed_is_refused(folder, refused):
    result = refused(*own(folder, "return self.fc(x.flatten(1)) + torch.Generator().seed() % 997"))
    assert "different logits for the same images" in result


def test_a_network_that_fails_names_its_error(folder, refused):
    result = refused(*own(folder, "raise RuntimeError('of its own')"))
    assert "fails on two images of 1x28x28 with RuntimeError: of its own" in result


# Data


def test_images_with_other_channels_are_refused(folder, refused, model):
    np.savez(folder / "rgb.npz", x=np.zeros((4, 28, 28, 3), np.uint8), y=np.arange(4))
    result = refused("evaluate", "model.pt", "--data", "rgb.npz", "--protocol", "tiny.toml")
    assert "reads 1-channel images, but those of the data are 3x28x28" in result


def test_labels_beyond_the_outputs_are_refused(folder, refused, model):
    np.savez(folder / "many.npz", x=np.zeros((12, 28, 28), np.uint8), y=np.arange(12))
    result = refused("evaluate", "model.pt", "--data", "many.npz", "--protocol", "tiny.toml")
    assert "labels reach 11 but the model model.pt has 10 outputs" in result


def test_floats_from_0_to_255_are_refused(folder, refused, model):
    np.savez(folder / "bright.npz", x=np.full((4, 28, 28), 255.0, np.float32), y=np.arange(4))
    result = refused("evaluate", "model.pt", "--data", "bright.npz", "--protocol", "tiny.toml")
    assert "divide them by 255" in result


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_missing_data_that_cannot_be_downloaded_are_refused(folder, refused, monkeypatch, name):
    monkeypatch.delenv("ROBENCH_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    result = refused("evaluate", "digits-nat", "--data", name, "--protocol", "tiny.toml")
    assert f"{name} is not on this machine" in result
    assert "no connection" in result
    assert "ROBENCH_DATA" in result
    assert "--data digits" in result


def test_without_data_the_matching_data_sets_are_listed(refused, model):
    result = refused("evaluate", "model.pt")
    assert "--data" in result
    fitting = [name for name, data in DATASETS.items() if data.shape == (1, 28, 28)]
    assert len(fitting) == 3
    assert all(name in result for name in fitting)
    assert "cifar10" not in result


# Names


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        ("evalute digits-nat", "evaluate"),
        ("evaluate digits-adv-lin --protocol tiny.toml", "digits-adv-linf"),
        ("evaluate model.pth --data digits", "model.pt"),
        ("evaluate digits-nat --data digts --protocol tiny.toml", "digits"),
        ("evaluate digits-nat --data digits:tst --protocol tiny.toml", "test"),
        ("evaluate digits-nat --protocol quik", "quick"),
        ("evaluate digits-nat --protocol tiny.toml --threat linv:0.3", "linf"),
        ("evaluate digits-nat --protocol tiny.toml --attack pdg", "pgd"),
        ("evaluate digits-nat --protocol tiny.toml --attack autoatack", "autoattack or"),
        ("evaluate digits-nat --protocol tiny.toml --attack foolbx:L2DeepFoolAttack", "foolbox:l2deepfoolattack"),
        ("evaluate digits-nat --protocol tiny.toml --attack foolbox:L2DeepFolAttack", "foolbox:l2deepfoolattack"),
        ("evaluate digits-nat --protocol tiny.toml --attack L2DeepFoolAttack", "foolbox:l2deepfoolattack"),
        ("evaluate digits-nat --protocol tiny.toml --attack foolbox", "foolbox:name"),
        ("evaluate digits-nat --protocol tiny.toml --attack pgd(stepz=3)", "steps"),
        ("evaluate digits-nat --protocol tiny.toml --attack pgd(loss=margn)", "margin"),
        ("evaluate model.pt --data digits --arch digits-cn", "digits-cnn"),
        ("evaluate model.pt --data digits --normalise mnst", "mnist"),
        ("evaluate digits-nat --protocl quick", "--protocol"),
        ("train pgd-at", "pgd_at"),
        ("train nat --set stepz=3", "steps"),
        ("train nat --data digts", "digits"),
        ("train pgd_at --threat linff:0.1", "linf"),
        ("list atacks", "attacks"),
        ("report r.robench --format markdwn", "markdown"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(refused, model, run, words, nearest):
    result = refused(*words.split())
    assert nearest in result.partition("did you mean")[2].lower() or nearest in result.partition("Did you mean")[2]


@pytest.mark.parametrize(
    "words",
    [
        "evaluate nothing-like-it",
        "evaluate no/such/file.pt",
        "evaluate . --data digits",
        "evaluate digits-nat --data none.npz --protocol tiny.toml",
        "evaluate digits-nat --protocol none.toml",
        "evaluate model.pt --data digits --arch none.py:build",
        "evaluate model.pt --data digits --arch no.such.module:build",
        "evaluate",
        "evaluate digits-nat digits-nat",
        "evaluate digits-nat --threat",
        "evaluate digits-nat --protocol tiny.toml --threat linf",
        "evaluate digits-nat --protocol tiny.toml --threat linf:x",
        "evaluate digits-nat --protocol tiny.toml --threat linf:-1",
        "evaluate digits-nat --protocol tiny.toml --threat linf:0",
        "evaluate digits-nat --protocol tiny.toml --threat l1:1",  # without attacks for it
        "evaluate digits-nat --protocol tiny.toml --attack pgd(steps=0)",
        "evaluate digits-nat --protocol tiny.toml --attack pgd(steps=many)",
        "evaluate digits-nat --protocol tiny.toml --attack pgd(restarts=0)",
        "evaluate digits-nat --protocol tiny.toml --attack pgd(",
        "evaluate digits-nat --protocol tiny.toml --examples 0",
        "evaluate digits-nat --protocol tiny.toml --examples -3",
        "evaluate digits-nat --protocol tiny.toml --examples few",
        "evaluate digits-nat --protocol tiny.toml --examples 5:5",
        "evaluate digits-nat --protocol tiny.toml --examples 9:5",
        "evaluate digits-nat --protocol tiny.toml --examples 100000",
        "evaluate digits-nat --protocol tiny.toml --device abacus",
        "evaluate digits-nat --protocol tiny.toml --device cuda:99",
        "evaluate digits-nat --protocol tiny.toml --device meta",
        "evaluate digits-nat --protocol tiny.toml --seed x",
        "evaluate digits-nat --protocol tiny.toml --seed -1",
        "evaluate digits-nat --protocol tiny.toml --seed 99999999999999999999999",
        "evaluate digits-nat --protocol tiny.toml --minutes 0",
        "train",
        "train nat --set steps",
        "train nat --set steps=few",
        "train nat --set steps=-1",
        "train nat --set steps=0",
        "train nat --epochs 0",
        "train nat --threat linf:0.1",
        "train pgd_at",
        "train nat --seed -1",
        "train nat --arch lenet-of-my-own",
        "train nat --device abacus",
        "list",
        "report",
        "report none.robench",
        "report tiny.toml",
        "report .",
        "verify none.robench",
        "verify tiny.toml",
        "merge r.robench",
        "merge none.robench --out m.robench",
        "merge r.robench tiny.toml --out m.robench",
        "merge r.robench --out r.robench",
        "merge r.robench --out tiny.toml/m.robench",
    ],
)
def test_an_invalid_command_is_one_line(refused, model, run, words):
    refused(*words.split())


# Places


def test_an_unwritable_run_file_is_refused_before_any_work(folder, refused):
    command = "evaluate", "digits-nat", "--protocol", "tiny.toml", "--run"
    assert "with --run" in refused(*command, "tiny.toml/r.robench")
    assert "is not a file" in refused(*command, ".")
    assert "tiny.toml is not a robench run file; it was left as it is" in refused(*command, "tiny.toml")


def test_an_unwritable_summary_is_refused_before_any_work(folder, refused):
    command = "evaluate", "digits-nat", "--protocol", "tiny.toml", "--json"
    assert "with --json" in refused(*command, "none/s.json")
    assert "with --json" in refused(*command, "tiny.toml/s.json")
    assert "with --json" in refused(*command, ".")
    assert "a file of its own" in refused(*command, "r.robench", "--run", "r.robench")


def test_a_damaged_run_is_refused_and_unchanged(run, refused):
    held = run.read_bytes()
    run.write_bytes(held[:5000])
    for words in ("evaluate digits-nat --protocol tiny.toml --run", "report", "verify"):
        assert "r.robench is damaged" in refused(*words.split(), "r.robench")
    assert "is damaged" in refused("merge", "r.robench", "--out", "m.robench")


def test_a_run_of_another_model_data_or_seed_is_refused_and_unchanged(run, images, refused, model):
    tail = "--protocol", "tiny.toml", "--run", "r.robench"
    assert "holds a run of another model (digits-nat" in refused("evaluate", "digits-adv-linf", *tail)
    assert "digits:test with seed 0, not on digits:test with seed 7" in refused(
        "evaluate", "digits-nat", *tail, "--seed", "7"
    )
    assert "not on digits:train" in refused("evaluate", "digits-nat", "--data", "digits:train", *tail)
    assert "is not the model of r.robench" in refused("verify", "r.robench", "--model", "digits-adv-linf")
    assert "holds other images than r.robench is about" in refused("verify", "r.robench", "--data", "digits:train")


# Protocols


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "is not valid TOML"),
        ("", "lacks or misspells 'threat'"),
        ("[[threat]]\nthreat = 'linf:0.1'", "lacks or misspells 'attacks'"),
        ("[[threat]]\nthreat = 'linf:0.1'\nattacks = []", "no attack is named"),
        ("[[threat]]\nattacks = [{ attack = 'pgd' }]", "lacks or misspells 'threat'"),
        ("[[threat]]\nthreat = 'linf:0.1'\nattacks = [{ attck = 'pgd' }]", "lacks or misspells 'attack'"),
        ("[[threat]]\nthreat = 'linf:0.1'\nattacks = [{ attack = 'pgdd' }]", "did you mean pgd"),
        ("[[threat]]\nthreat = 'linf:0.1'\nattacks = [{ attack = 'pgd', step = 3 }]", "did you mean step"),
        ("[[threat]]\nthreat = 'linf:0.1'\nattacks = [{ attack = 'pgd', steps = 'x' }]", "cannot take steps='x'"),
        ("[[threat]]\nthreat = 'l3:0.1'\nattacks = [{ attack = 'pgd' }]", "did you mean l"),
        ("[[threat]]\nthreat = 'l0:3'\nattacks = [{ attack = 'pgd' }]", "pgd does not attack l0"),
        ("examples = 'few'\n[[threat]]\nthreat = 'linf:0.1'\nattacks = [{ attack = 'pgd' }]", "few"),
        ("examples = -3\n[[threat]]\nthreat = 'linf:0.1'\nattacks = [{ attack = 'pgd' }]", "--examples -3 is empty"),
        (
            "seed = -1\n[[threat]]\nthreat = 'linf:0.1'\nattacks = [{ attack = 'pgd' }]",
            "the seed -1 of the protocol mine is out of range",
        ),
        (
            "[[threat]]\nthreat = 'linf:0.1'\nattacks = [{ attack = 'pgd', restarts = 2_000_000 }]",
            "pgd would search each example 2,000,000 times, and a run file counts up to 1,048,576; name fewer restarts",
        ),
    ],
)
def test_a_mistake_in_a_protocol_is_named(folder, refused, text, message):
    (folder / "mine.toml").write_text(text)
    result = refused("evaluate", "digits-nat", "--protocol", "mine.toml", "--run", "r.robench")
    assert message in result
    assert "mine" in result or "2,000,000" in result
    assert not (folder / "r.robench").exists()


def test_a_second_value_behind_an_option_is_explained(refused):
    hint = "unexpected extra argument (l2:1); give --threat once for each value, as --threat ONE --threat OTHER (see"
    assert hint in refused("evaluate", "digits-nat", "--threat", "linf:0.1", "l2:1")
    assert "once for each" not in refused("evaluate", "digits-nat", "digits-sat", "--seed", "1")


def test_an_empty_name_of_a_model_is_refused(refused):
    for words in (["evaluate", ""], ["inspect", " "]):
        assert "the name of the model is empty; name a file, or a bundled model" in refused(*words)


@pytest.mark.parametrize("words", ["show r.robench", "inspect r.robench", "evaluate r.robench --data digits"])
def test_a_run_file_in_another_place_is_called_one(refused, run, words):
    result = refused(*words.split())
    assert "robench report" in result
    assert "run file" in result


def test_a_summary_in_place_of_a_run_file_is_called_one(refused, run):
    for words in ("verify s.json", "export s.json --out a.csv", "merge s.json --out m.robench"):
        assert "s.json is not a robench run file, but seems to be a summary" in refused(*words.split())


def test_files_that_share_a_suffix_alone_with_a_missing_one_are_not_suggested(folder, refused, model):
    np.savez(folder / "d_norm.npz", x=np.zeros(1))
    assert "there is no file nothere.pt; name a checkpoint that exists" in refused("inspect", "nothere.pt")
    assert refused("inspect", "modle.pth").endswith("did you mean model.pt?")


def test_a_label_map_with_more_outputs_than_the_model_is_named(folder, refused, weights):
    for name in ("cat", "dog"):
        (folder / "photos" / name).mkdir(parents=True)
        Image.new("L", (28, 28)).save(folder / "photos" / name / "1.png")
    (folder / "names.txt").write_text("\n".join(["cat", *(f"name{n}" for n in range(12)), "dog"]))
    result = refused("evaluate", "digits-nat", "--data", "photos", "--labels", "names.txt")
    assert "labels reach 13 but the model" in result
    assert "digits-nat.safetensors has 10 outputs" in result
    assert "correct the file of --labels" in result


# How errors are shown


def test_debug_shows_a_traceback(robench):
    result = robench("list", "atacks", "--debug")
    assert result.code == 2
    assert "Traceback (most recent call last)" in result.err
    assert result.err.splitlines()[-1].startswith("Error: no list is called 'atacks'")
    assert robench("--debug", "list", "atacks").err.count("Traceback") == 1


def test_an_internal_error_is_one_line_that_calls_it_a_bug(robench, monkeypatch, folder):
    (folder / "r.robench").touch()

    def fail(*_):
        raise ZeroDivisionError("of\nours")

    monkeypatch.setattr("robench.cli.report.read_summaries", fail)
    result = robench("report", "r.robench")
    assert (result.code, result.out) == (2, "")
    assert result.err == "Error: robench failed with ZeroDivisionError: of ours; this is a bug, --debug shows where\n"
    with pytest.raises(ZeroDivisionError):
        robench("report", "r.robench", "--debug")


def test_a_forged_table_in_a_run_file_is_refused(run, refused):
    with sqlite3.connect(run) as db:
        db.execute("UPDATE plan SET json = 'null'")
    db.close()
    assert "is damaged" in refused("report", "r.robench")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--threat", "rt:nonsense"), "write it like rt:3px,30deg"),
        (("--threat", "rt:1px,5deg,pad100000"), "pad1024 is the limit"),
        (("--threat", "affine:linf:0.1"), "affine"),
        (("--threat", "linf:0.1", "--attack", "foolbox:Nope"), "no attack of Foolbox is called 'foolbox:Nope'"),
        (("--threat", "linf:0.1", "--attack", "foolbox:DatasetAttack"), "cannot provide"),
        (("--attack", "foolbox:LinfPGD(steps=0)"), "it must be at least 1"),
        (("--attack", "pgd(steps=-1)"), "pgd cannot take steps=-1"),
        (("--attack", "pgd(steps=99999999999999999999)"), "no more than 1,000,000,000"),
        (("--threat", "l2:1", "--attack", "boundary(queries_per_step=10001)"), "set at most 10,000, in more steps"),
        (("--attack", "pgd(attack=apgd)"), "pgd has no setting called attack"),
        (("--attack", "autoattack(steps=2)"), "name its attacks (apgd, fab, square) to set theirs"),
        (("--threat", "rt:1px,5deg", "--attack", "grid(translations=1000000)"), "transforms is too fine"),
        (("--threat", "linf:0.1", "--threat", "l2:1", "--attack", "cw"), "no attack is named for linf:0.1 beside cw"),
        (("--threat", "l0:5", "--attack", "pgd"), "pgd does not attack l0"),
    ],
)
def test_attacks_and_threats_that_make_no_sense_are_refused(refused, words, message):
    assert message in refused("evaluate", "digits-nat", *words)


def test_unknown_protocols_models_and_attacks_are_refused(refused):
    assert "no protocol is called 'nope'" in refused("list", "protocols", "nope")
    assert "nonsense" in refused("list", "protocols", "-v", "--model", "nonsense")
    assert "no attack is called 'nope'" in refused("doctor", "--attack", "nope")
