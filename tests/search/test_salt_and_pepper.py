"""Salt and pepper: what it asks about, which of it counts, and that it reads nothing but labels."""

import pytest
import torch

from robench.errors import UserError
from robench.problem.split import Split
from robench.problem.threats import parse
from robench.search.attack import Batch
from robench.search.attacks.salt_and_pepper import BEYOND, SaltAndPepper

from ..exact_distances import Linear, classifier, distance, fraction, toy
from .engine.test_engine import net
from .engine.test_independence import OneHot
from .running import broken_rows, ends, items, job
from .test_pointwise import Marked, nearest_finds

N = 12
COLOUR = (3, 5, 4)
ATTACK = SaltAndPepper(steps=20)


def search(model, threat, x, y):
    """The state before every question, the images asked about and whether they fool."""
    batch = Batch(x, y, y, keys=torch.arange(len(x)) * 7919)
    state = ATTACK.start(threat, batch)
    for _ in range(ATTACK.max_queries(threat)):
        asked = ATTACK.query(threat, batch, state)
        labels = model(asked.flatten(0, 1)).argmax(dim=1).view(len(x), -1)
        yield state, asked, labels != y[:, None]
        state = ATTACK.step(threat, batch, state, labels)


@pytest.fixture(scope="module")
def seen():
    model = classifier(Linear(3, COLOUR), 3, COLOUR)
    split = toy(model, N, edges=False)
    return split.x, list(search(model, parse("l1:2"), split.x, split.y))


def test_pixels_stay_or_turn_white_or_black_in_all_channels_and_more_of_them_the_denser(seen):
    x, questions = seen
    for _, asked, _ in questions:
        turned = asked != x[:, None]
        assert torch.equal(turned.any(dim=2), turned.all(dim=2))
        white = torch.where(turned, asked, 0.5)
        assert ((white == 1) | (white == 0) | ~turned).all()
        assert torch.equal(white.amin(dim=2), white.amax(dim=2))
        assert (turned[:, 1:] | ~turned[:, :-1]).all(), "the next of the images keeps what the one before has turned"
    everything = torch.stack([asked[:, -1] for _, asked, _ in questions])
    share = (everything == 1).float().mean() / (everything != x).float().mean()
    assert 0.45 < share < 0.55


def test_it_retains_the_nearest_find_in_the_norm_of_the_threat_and_queries_little_beyond_its_density(seen):
    x, questions = seen
    least = torch.full((N,), torch.inf)
    for state, asked, fools in questions:
        assert torch.equal(state.size, least)
        found = least.isfinite()
        torch.testing.assert_close(state.delta[found].flatten(1).abs().sum(dim=1), least[found])
        assert (asked.ne(x[:, None])[:, :, 0].flatten(2).float().mean(dim=2) <= state.density[:, None] + 0.5).all()
        size = (asked - x[:, None]).flatten(2).abs().sum(dim=2)
        least = torch.minimum(least, torch.where(fools, size, torch.inf).amin(dim=1))
    assert least.isfinite().all()
    first, last = questions[0][0], questions[-1][0]
    assert (first.density == 1).all()
    assert (last.density < BEYOND * 0.5).any()


def test_every_noise_is_new_and_belongs_to_the_example():
    x = torch.full((3, 1, 5, 4), 0.5)
    asked = [
        asked[:, -1]
        for _, asked, _ in search(lambda x: x.flatten(1)[:, :3] * 0, parse("l1:1"), x, torch.zeros(3).long())
    ]
    assert len(torch.cat(asked).flatten(1).unique(dim=0)) == 3 * len(asked)


@pytest.mark.parametrize("norm", ["l1", "l0"])
def test_it_breaks_linear_models_with_room_to_spare_and_never_before_the_exact_distance(norm):
    module = Linear(3)
    model = classifier(module, 3)
    split = toy(model, N)
    far = {row for row in range(N) if broken_rows(model, parse(f"{norm}:20"), ATTACK, split, [row])}
    assert far == set(range(N))
    for row in range(4):
        exact = distance(module, split.x[row], split.y[row].item(), norm)
        if exact * 0.97 >= 1 or norm == "l1":
            near = parse(f"l1:{fraction(exact * 0.97)}") if norm == "l1" else parse(f"l0:{int(exact) - 1}")
            assert not broken_rows(model, near, ATTACK, split, [row])


def test_it_finds_the_same_in_any_company_and_order_and_where_the_model_says_nothing_but_the_class():
    model, bare, threat = classifier(net(), 4), classifier(OneHot(net()), 4), parse("l1:2")
    split = toy(model, N)
    line = items(model, ATTACK, split, range(6))
    alone = nearest_finds(model, threat, ATTACK, split, line, slots=ATTACK.queries_per_step)
    for other, rows, order in ((model, 64, line[::-1]), (bare, 4 * ATTACK.queries_per_step, line[2:] + line[:2])):
        for item, x_adv in nearest_finds(other, threat, ATTACK, split, order, rows).items():
            assert (x_adv is None) == (alone[item] is None)
            assert x_adv is None or torch.equal(x_adv, alone[item])
    assert 0 < sum(x is None for x in alone.values()) < 6, "both outcomes must occur"


def test_an_example_that_no_noise_fools_is_blind_and_the_others_go_on():
    model = classifier(Marked())
    x = toy(classifier(Linear()), N).x
    x[::2, 0, 1, 2] = Marked.mark
    split = Split.whole("marks", x, 1 - torch.arange(N) % 2, 2)
    ended = ends(model, split, job(parse("l1:20"), ATTACK, items(model, ATTACK, split, range(N))))
    assert {end.item.row for end in ended if end.no_query_inside} == set(range(1, N, 2))
    assert {end.item.row for end in ended if end.x_adv is not None} == set(range(0, N, 2))


@pytest.mark.parametrize("settings", [{"targets": 1}, {"queries_per_step": 0}])
def test_settings_without_sense_are_refused(settings):
    with pytest.raises(UserError):
        SaltAndPepper(**settings)
