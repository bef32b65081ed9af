"""Clean images decide between architectures that have equal keys and shapes."""

import pytest
import torch
from torch import nn

from robench.errors import UserError
from robench.problem.architectures import named
from robench.problem.architectures.normalise import normalised
from robench.problem.checkpoints import load
from robench.problem.checkpoints.inference import Trial
from robench.problem.checkpoints.rivals import compared
from robench.problem.checkpoints.waiting import Wait
from robench.problem.split import Split

SHAPE, CLASSES = (3, 10, 10), 8
RIVALS = (  # taken without images, or None where that is refused
    ("preactresnet18", "preactresnet18"),
    ("preactresnet18-softplus", "preactresnet18"),
    ("resnet50-imagenet-v1", "resnet50-imagenet"),
    ("resnet18-imagenet-stem3", None),
    ("resnet18-imagenet-stem3-pool", None),
)


def clean_images(number: int = 72) -> Split:
    """Images of one pattern for each class, with noise."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(number) % CLASSES
    patterns = torch.rand(CLASSES, *SHAPE, generator=generator)
    x = 0.6 * patterns[y] + 0.4 * torch.rand(number, *SHAPE, generator=generator)
    return Split.whole("patterns", x, y, CLASSES)


def classifier(name: str, images: Split, normalisation: str = "none") -> nn.Module:
    """The network with random weights, but for the last layer, which is fitted to the images by least squares."""
    torch.manual_seed(0)
    network = named(name).build(SHAPE, CLASSES).train()
    whole, last = normalised(network, normalisation, 3), [m for m in network.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # the statistics are those of one pass
        whole(images.x)
        features: list[torch.Tensor] = []
        hook = last.register_forward_hook(lambda module, given, result: features.append(given[0]))
        whole.eval()(images.x)
        hook.remove()
        x = torch.cat([features[0], torch.ones(len(images), 1)], dim=1).double()
        targets = nn.functional.one_hot(images.y, CLASSES).double()
        gram = x @ x.T + 1e-3 * torch.eye(len(x))
        fitted = (x.T @ torch.linalg.solve(gram, targets)).T.float()
        last.weight.copy_(fitted[:, :-1])
        last.bias.copy_(fitted[:, -1])
    return network


@pytest.mark.costly
@pytest.mark.parametrize(("name", "usual"), RIVALS)
def test_clean_images_show_which_of_several_with_equal_keys_it_is(tmp_path, name, usual):
    images = clean_images()
    torch.save(classifier(name, images).state_dict(), tmp_path / "m.pt")
    loaded = load(tmp_path / "m.pt", shape=SHAPE, classes=CLASSES, clean=images)
    assert loaded.classifier.architecture == name
    assert f"recognised as {name} by its key names and shapes and by clean images" in loaded.notes[0]
    assert loaded.inferred.architecture == name  # kept with the run, so that it is not inferred again
    assert loaded.inferred.caution == ""
    if usual is None:
        with pytest.raises(UserError, match="strides or pooling that weights do not show; type --arch"):
            load(tmp_path / "m.pt", shape=SHAPE, classes=CLASSES)
    else:
        assert load(tmp_path / "m.pt", shape=SHAPE, classes=CLASSES).classifier.architecture == usual


@pytest.mark.costly
@pytest.mark.parametrize("typed", ["0.5/0.01", None])
def test_the_architecture_is_inferred_with_a_known_and_with_an_unknown_normalisation(tmp_path, typed):
    images, name = clean_images(), "resnet18-imagenet-stem3-pool"
    torch.save(classifier(name, images, typed or "0.5/0.5").state_dict(), tmp_path / "m.pt")
    loaded = load(tmp_path / "m.pt", shape=SHAPE, classes=CLASSES, clean=images, normalise=typed)
    assert loaded.classifier.architecture == name
    if typed:
        assert loaded.classifier.normalisation == "0.5,0.5,0.5/0.01,0.01,0.01"


@pytest.mark.costly
def test_images_that_do_not_decide_leave_the_usual_one_with_a_caution(tmp_path):
    images = clean_images()
    unlike = Split.whole("patterns", images.x, images.y.roll(1), CLASSES)  # no network is right
    torch.save(classifier("preactresnet18", images).state_dict(), tmp_path / "m.pt")
    loaded = load(tmp_path / "m.pt", shape=SHAPE, classes=CLASSES, clean=unlike)
    assert loaded.classifier.architecture == "preactresnet18"
    caution = loaded.inferred.caution
    assert "the network is taken as preactresnet18; preactresnet18-softplus would fit as well" in caution
    assert "and --arch chooses (correct on 72 clean images: preactresnet18 " in caution


@pytest.mark.costly
def test_images_that_do_not_decide_leave_the_choice_to_the_user_where_none_is_usual(tmp_path):
    images = clean_images()
    unlike = Split.whole("patterns", images.x, images.y.roll(1), CLASSES)
    torch.save(classifier("resnet18-imagenet-stem3", images).state_dict(), tmp_path / "m.pt")
    with pytest.raises(
        UserError, match=r"type --arch resnet18-imagenet-stem3 or --arch .*correct on 72 clean images: "
    ):
        load(tmp_path / "m.pt", shape=SHAPE, classes=CLASSES, clean=unlike)


def test_more_images_are_used_only_as_long_as_none_is_clearly_better():
    class Right(nn.Module):
        """Correct on this share of the images."""

        def __init__(self, share: float) -> None:
            super().__init__()
            self.share = share

        def forward(self, x):
            y = x[:, 0, 0, 0].round().long()
            wrong = x[:, 0, 0, 1] > self.share
            return nn.functional.one_hot((y + wrong) % CLASSES, CLASSES).float()

    number = 500
    y = torch.arange(number) % CLASSES
    x = torch.zeros(number, *SHAPE)
    x[:, 0, 0, 0], x[:, 0, 0, 1] = y.float(), torch.rand(number, generator=torch.Generator().manual_seed(0))
    images = Split.whole("patterns", x, y, CLASSES)
    trial = Trial(images, "none")
    assert compared([Right(0.3), Right(0.9)], trial).images == 32
    close = compared([Right(0.8), Right(0.9)], trial)
    assert (close.best, close.clear) == (1, True)
    assert close.images > 32
    equal = compared([Right(0.9), Right(0.9)], trial)
    assert (equal.clear, equal.images) == (False, 500)


def test_a_long_comparison_logs_once_how_long_it_takes(caplog, monkeypatch):
    monkeypatch.setattr("time.monotonic", lambda: 1.0)
    wait = Wait("comparing 2 architectures on 32 clean images", 64 * 16, started=0.0)
    wait.passed(16)
    assert caplog.messages == ["comparing 2 architectures on 32 clean images takes about 1:03"]
    wait.passed(16)
    assert len(caplog.messages) == 1


def test_a_short_comparison_logs_nothing(caplog):
    wait = Wait("comparing 2 architectures on 32 clean images", 32)
    wait.passed(16)
    assert not caplog.messages
