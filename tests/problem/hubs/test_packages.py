"""Models that installed packages make, from stand-ins with their interfaces."""

import socket
import sys

import pytest
import torch

from robench.errors import UserError
from robench.problem.architectures.normalise import normalised
from robench.problem.checkpoints import load
from robench.problem.checkpoints.hubs import huggingface
from robench.problem.checkpoints.locating import existing

from ..serving import left_in
from . import standins
from .standins import COMMIT, Net

TEXT = "0.5,0.4,0.3/0.2,0.2,0.1"


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def same(found, net, text: str) -> bool:
    x = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        return torch.equal(found.classifier(x), normalised(net, text, 3)(x))


def refused(text: str, **options) -> str:
    with pytest.raises(UserError) as caught:
        load(text, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_timm_makes_its_model_with_the_normalisation_of_its_settings(monkeypatch, net, capsys):
    calls = standins.timm(monkeypatch, net)
    found = load("timm:tinynet_a")
    assert calls == [("tinynet_a", {"pretrained": True})]
    assert same(found, net, TEXT)
    model = found.classifier
    assert (model.architecture, model.normalisation) == ("timm:tinynet_a.in1k", TEXT)
    assert (model.name, model.shape, model.classes) == ("tinynet_a.in1k", (3, 32, 32), 10)
    assert found.pinned == "timm:tinynet_a.in1k"  # another version of timm may prefer another tag
    assert found.recorded == {
        "source": "timm:tinynet_a.in1k", "timm": "unknown", "weights from": "timm/tinynet_a.in1k",
    }  # fmt: skip
    assert f"normalisation {TEXT}, from timm's settings of tinynet_a.in1k" in found.notes
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "timm says something\n")  # stdout may be a summary


def test_a_repository_of_timm_is_made_at_its_commit(monkeypatch, net, hub):
    monkeypatch.setattr(huggingface, "_FOUND", {})
    hub.add("me/net", {"model.safetensors": b""})
    calls = standins.timm(monkeypatch, net, tag=None)
    found = load("timm:hf-hub:me/net")
    assert calls[0][0] == f"hf-hub:me/net@{COMMIT}"
    assert (found.pinned, found.classifier.name) == (f"timm:hf-hub:me/net@{COMMIT}", "net")
    assert "cannot be read; write timm:NAME" in refused("timm:hf-hub:net")


def test_a_model_without_weights_is_not_evaluated_with_random_ones(monkeypatch, net):
    standins.timm(monkeypatch, net, hf_hub_id=None)  # older versions of timm only log it
    assert refused("timm:tinynet_a") == (
        "timm has no weights for tinynet_a; timm.list_pretrained() lists names with weights"
    )


def test_images_that_a_model_of_a_package_does_not_read_are_refused(monkeypatch, net):
    standins.timm(monkeypatch, net)
    assert "1x28x28" in refused("timm:tinynet_a", shape=(1, 28, 28), classes=10)
    assert any("it was trained on images of 3x32x32" in n for n in load("timm:tinynet_a", shape=(3, 40, 40)).notes)


def test_torchvision_makes_its_model_with_the_weights_that_are_named(monkeypatch, net):
    for private in (False, True):
        calls = standins.torchvision(monkeypatch, net, private=private)
        found = load("torchvision:tinynet/IMAGENET1K_V1")
        assert [(name, weights.name) for name, weights in calls] == [("tinynet", "IMAGENET1K_V1")]
        assert same(found, net, "0.1,0.2,0.3/0.4,0.5,0.6")
        assert (found.classifier.name, found.classifier.shape) == ("tinynet", (3, 32, 32))
        assert found.classifier.architecture == found.pinned == "torchvision:tinynet/IMAGENET1K_V1"
        assert found.recorded["weights from"] == "https://download.pytorch.org/models/tinynet-00000001.pth"
        assert any("--resize 36 --crop 32 --interpolation bilinear" in note for note in found.notes)


def test_without_weights_torchvision_s_default_is_taken_and_pinned(monkeypatch, net):
    standins.torchvision(monkeypatch, net)
    assert load("torchvision:tinynet").pinned == "torchvision:tinynet/IMAGENET1K_V2"


def test_robustbench_makes_its_model_in_the_cache_folder_without_normalisation(monkeypatch, net, cache):
    calls = []
    standins.robustbench(monkeypatch, lambda **given: calls.append(given) or net)
    found = load("robustbench:CIFAR10/linf/Tiny2026Net")
    assert calls == [
        {"model_name": "Tiny2026Net", "model_dir": cache / "robustbench", "dataset": "cifar10", "threat_model": "Linf"}
    ]
    assert same(found, net, "none")
    assert found.pinned == found.classifier.architecture == "robustbench:cifar10/Linf/Tiny2026Net"
    assert (found.classifier.name, found.classifier.shape) == ("Tiny2026Net", (3, 32, 32))
    assert found.notes == ("it normalises its images itself, as all models of RobustBench do",)


def test_a_download_of_robustbench_that_breaks_off_is_removed(monkeypatch, cache):
    def load_model(model_dir, **given):
        model_dir.mkdir(parents=True, exist_ok=True)
        (model_dir / "Tiny2026Net.pt").write_bytes(b"half")
        raise ConnectionError("reset by peer")

    standins.robustbench(monkeypatch, load_model)
    (cache / "robustbench").mkdir(parents=True)
    (cache / "robustbench" / "earlier.pt").write_bytes(b"whole")
    assert refused("robustbench:cifar10/Linf/Tiny2026Net") == (
        "robustbench cannot make robustbench:cifar10/Linf/Tiny2026Net: ConnectionError: reset by peer; correct its"
        " name, or try again"
    )
    assert left_in(cache) == ["earlier.pt"]


def test_a_server_without_an_answer_is_given_up_and_the_process_keeps_its_settings(monkeypatch, net):
    waits = []
    standins.robustbench(monkeypatch, lambda **given: waits.append(socket.getdefaulttimeout()) or net)
    load("robustbench:cifar10/Linf/Tiny2026Net")
    assert waits[0] is not None
    assert socket.getdefaulttimeout() is None
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "90")
    load("robustbench:cifar10/Linf/Tiny2026Net")
    assert waits[-1] == 90.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("timm:tinynet_c", "no model of timm is called 'tinynet_c'; did you mean tinynet_b or tinynet_a?"),
        ("timm:", "timm: cannot be read; write timm:NAME, timm:NAME.TAG or timm:hf-hub:USER/REPO@REVISION"),
        ("timm:tinynet_a@v1", "timm:tinynet_a@v1 cannot be read; write timm:NAME"),
        ("torchvision:tinynot", "no classifier of torchvision is called 'tinynot'; did you mean tinynet?"),
        (
            "torchvision:tinynet/V3",
            "no set of weights of torchvision's tinynet is called 'V3'; there are DEFAULT",
        ),
        ("torchvision:tinynet/", "torchvision:tinynet/ cannot be read; write torchvision:ARCHITECTURE or"),
        ("robustbench:Tiny2026Net", "robustbench:Tiny2026Net cannot be read; write robustbench:DATASET/THREAT/NAME"),
        ("robustbench:cifar/Linf/x", "no data set of RobustBench is called 'cifar'; did you mean cifar10?"),
        ("robustbench:cifar10/L1/x", "no threat model of RobustBench is called 'L1'; did you mean L2?"),
        ("robustbench:cifar10/Linf/Tiny2026", "no model of RobustBench for cifar10 and Linf is called 'Tiny2026'; did"),
        (
            "robustbench:cifar10/L2/Tiny2026Net",
            "no model of RobustBench for cifar10 and L2 is called 'Tiny2026Net'",
        ),
        ("robustbench:../../x", "no data set of RobustBench is called '..'"),
    ],
)
def test_a_name_that_a_package_does_not_have_is_one_sentence(monkeypatch, net, text, message):
    standins.timm(monkeypatch, net)
    standins.torchvision(monkeypatch, net)
    standins.robustbench(monkeypatch, lambda **given: net)
    assert message in refused(text)


@pytest.mark.parametrize("package", ["timm", "torchvision", "robustbench"])
def test_a_package_that_is_not_installed_is_named_with_what_to_type(package):
    text = f"{package}:a/b/c" if package == "robustbench" else f"{package}:a"
    message = f"{text} needs {package}, which is not installed; type pip install 'robench[{package}]'"
    with pytest.raises(UserError) as caught:  # before torch is imported
        existing(text)
    assert str(caught.value) == message
    assert refused(text) == message


def test_a_package_that_cannot_be_imported_is_one_sentence(monkeypatch, tmp_path):
    for name, line, message in (
        (
            "timm",
            "raise RuntimeError('no operator torchvision::nms')",
            "install the version that belongs",
        ),
        ("robustbench", "import gdown_of_no_one", "it needs gdown_of_no_one; type pip install gdown_of_no_one"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").write_text(line)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, name, raising=False)
        with pytest.raises(UserError, match=message):
            load({"timm": "timm:a", "robustbench": "robustbench:a/b/c"}[name])


def test_what_is_no_module_is_refused(monkeypatch):
    standins.robustbench(monkeypatch, lambda **given: {"state_dict": {}})
    assert "made dict, not a torch.nn.Module" in refused("robustbench:cifar10/Linf/Tiny2026Net")
