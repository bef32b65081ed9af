"""If the model raises on an image, only the search of that image fails."""

import pytest
import torch
from torch import nn

import robench
from robench.evidence.referee import Referee
from robench.problem.classifier import Classifier
from robench.problem.split import Split
from robench.problem.threats import parse
from robench.search.attacks.hop_skip_jump import HopSkipJump
from robench.search.attacks.pgd import PGD
from robench.search.attacks.square import Square
from robench.search.engine.isolation import fooling

from ...exact_distances import classifier, toy
from ..running import ends, items, job


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 4))


class RaisesNear(nn.Module):
    """A network that raises on images near one place; `reach` 0 is that image alone."""

    def __init__(self, network, place, reach):
        super().__init__()
        self.network, self.place, self.reach = network, place, reach

    def forward(self, x):
        if bool(((x - self.place).abs().flatten(1).amax(dim=1) <= self.reach).any()):
            raise ValueError("it cannot be read")
        return self.network(x)


@pytest.fixture
def plain():
    return classifier(net(), 4)


@pytest.fixture
def split(plain):
    return toy(plain, 23)


@pytest.mark.costly
@pytest.mark.parametrize("attack", [PGD(steps=9), Square(steps=30), HopSkipJump(steps=2)], ids=lambda a: a.name)
@pytest.mark.parametrize("slots", [1, 5, 64])
def test_a_search_fails_alone_if_the_model_raises_on_its_images(plain, split, attack, slots):
    threat = parse("linf:0.03")
    waiting = items(plain, attack, split, range(11))
    expected = {end.item.row: end.x_adv for end in ends(plain, split, job(threat, attack, waiting), slots=slots)}

    class Raises(nn.Module):
        """A network that raises on every image near that of row 7, but not on the image itself."""

        def __init__(self):
            super().__init__()
            self.network = net()

        def forward(self, x):
            near = (x - split.x[7]).abs().flatten(1).amax(dim=1)
            if bool(((near > 0) & (near < 0.2)).any()):
                raise ValueError("it cannot be read")
            return self.network(x)

    one = job(threat, attack, items(plain, attack, split, range(11)))
    got = {end.item.row: end for end in ends(classifier(Raises(), 4), split, one, slots=slots)}
    assert not one.error
    assert "it cannot be read" in got[7].error or (attack.name != "pgd" and got[7].x_adv is not None)
    for row in set(range(11)) - {7}:
        assert not got[row].error
        assert (got[row].x_adv is None) == (expected[row] is None)
        assert expected[row] is None or torch.equal(got[row].x_adv, expected[row])


@pytest.mark.parametrize("attack", [PGD(steps=9), Square(steps=30)], ids=lambda a: a.name)
def test_a_model_that_raises_at_black_images_is_searched_where_searches_do_not_fill_the_batch(plain, split, attack):
    threat = parse("linf:0.03")
    raising = classifier(RaisesNear(net(), torch.zeros(split.shape), 0.03), 4)
    expected, got = (
        {
            end.item.row: end.x_adv
            for end in ends(model, split, job(threat, attack, items(plain, attack, split, range(23))), slots=64)
        }
        for model in (plain, raising)
    )
    assert got.keys() == expected.keys()
    for row, x_adv in expected.items():
        assert (got[row] is None) == (x_adv is None)
        assert x_adv is None or torch.equal(got[row], x_adv)


def test_a_model_that_raises_on_every_image_ends_the_job(split):
    class Raises(nn.Module):
        def forward(self, x):
            raise ValueError("never")

    one = job(parse("linf:0.1"), PGD(steps=3), items(classifier(net(), 4), PGD(steps=3), split, range(9)))
    assert not [end for end in ends(classifier(Raises(), 4), split, one, slots=4, may_fail=True) if not end.error]
    assert one.error == "ValueError: never"
    assert one.unfinished == set(range(9))


def test_in_verification_an_image_fails_alone(plain, split):
    module = RaisesNear(net(), split.x[3], 0)
    wrong = (plain(split.x).argmax(dim=1) + 1) % 4
    fools, errors = fooling(Classifier(module, name="", architecture="", shape=split.shape, classes=4), split.x, wrong)
    assert errors == {3: "ValueError: it cannot be read"}
    assert fools == [row != 3 for row in range(23)]
    assert not any(fooling(plain, split.x, plain(split.x).argmax(dim=1))[0])


@pytest.mark.parametrize("passes", [1, 3])
def test_the_referee_has_no_answer_for_that_image_and_the_same_answers_for_others(plain, split, passes):
    referee = Referee(classifier(RaisesNear(net(), split.x[3], 0), 4), passes)
    predictions, expected = referee.predict(split.x, split.y), Referee(plain, passes).predict(split.x, split.y)
    assert predictions.errors[3] == "ValueError: it cannot be read"
    assert not any(error for row, error in enumerate(predictions.errors) if row != 3)
    others = [row for row in range(23) if row != 3]
    torch.testing.assert_close(predictions.logits[others], expected.logits[others])
    assert predictions.logits[3].isnan().all()
    (decision,) = referee.judge(parse("linf:1"), split.x[[3]], split.y[[3]], split.x[[3]])
    assert (decision.accepted, decision.rejection) == (False, "not finite")
    assert "makes the model raise ValueError: it cannot be read" in decision.reason


def test_a_clean_image_on_which_the_model_raises_stays_open_with_its_error(plain, split):
    settings = {"threats": ["linf:0.03"], "attacks": ["pgd(steps=9)"], "precision": "float32"}
    expected = robench.evaluate(net(), split, **settings)
    got = robench.evaluate(RaisesNear(net(), split.x[7], 0), split, **settings)
    letters = expected.union.outcomes
    assert got.union.outcomes == letters[:7] + "O" + letters[8:]
    assert (got.clean.open, got.clean.error) == (1, "ValueError: it cannot be read")
    assert any("raises on 1 of 23 clean images" in note for note in got.notes)


def test_a_model_that_raises_on_every_clean_image_is_refused_with_its_error(split):
    class Raises(nn.Module):
        calls = 0

        def forward(self, x):
            Raises.calls += 1
            if Raises.calls > 2:  # loading and trial passes come first
                raise ValueError("out of order")
            return x.flatten(1)[:, :4] + 0

    with pytest.raises(robench.UserError, match="out of order"):
        robench.evaluate(Raises(), Split.whole("toys", split.x, split.y, 4), threats=["linf:0.1"])
