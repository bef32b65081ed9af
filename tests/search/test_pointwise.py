"""Pointwise: no single value can move closer, asked of the model by brute force; and models with known distances."""

import pytest
import torch
from torch import nn

from robench.errors import UserError
from robench.problem.split import Split
from robench.problem.threats import parse
from robench.search.attack import Batch
from robench.search.attacks.pointwise import AGAIN, RESOLUTION, SEEK, Pointwise
from robench.search.engine.job import Job
from robench.search.engine.scheduler import Waiting

from ..exact_distances import Linear, classifier, distance, fraction, toy
from .engine.test_engine import net
from .engine.test_independence import OneHot
from .running import broken_rows, ends, items, job

N = 12
STEPS = 60
COLOUR = (3, 4, 3)
THREATS = ["l1:1", "l0:1"]


class Wavy(nn.Module):
    """Between any two images the class may change many times."""

    def __init__(self, shape):
        super().__init__()
        self.inner = Linear(4, shape, seed=3)

    def forward(self, x):
        return torch.sin(4 * self.inner(x))


class Uneven(Linear):
    """Some values weigh a thousand times as much as others, so a little that is left over moves those far."""

    def __init__(self):
        super().__init__(3)
        with torch.no_grad():
            self.weight *= 10 ** (-4 * torch.rand(self.weight.shape[1], generator=torch.Generator().manual_seed(1)))
            self.bias.copy_(-0.5 * self.weight.sum(dim=1))


MODELS = {
    "uneven": classifier(Uneven(), 3),
    "linear": classifier(Linear(3), 3),
    "colour": classifier(Linear(3, COLOUR), 3, COLOUR),
    "relu": classifier(net(), 4),
    "wavy": classifier(Wavy((1, 4, 5)), 4),
    "wavy in colour": classifier(Wavy(COLOUR), 4, COLOUR),
}


def search(model, attack, threat, x, y):
    """The state after every question, and the images asked about then."""
    batch = Batch(x, y, y, keys=torch.arange(len(x)) * 7919)
    state = attack.start(threat, batch)
    for _ in range(attack.max_queries(threat)):
        asked = attack.query(threat, batch, state)
        labels = model(asked.flatten(0, 1)).argmax(dim=1).view(len(x), -1)
        state = attack.step(threat, batch, state, labels)
        yield state, asked


def best(model, attack, threat, x, y):
    """The nearest point at which the attack said it was through, for every row."""
    *_, (state, _) = search(model, attack, threat, x, y)
    assert state.size.isfinite().all(), "every search must have come to an end, or the test says nothing"
    torch.testing.assert_close(state.size, threat.size(state.best))
    return state.best


@pytest.mark.costly
@pytest.mark.parametrize(("text", "queries_per_step"), [("l1:1", 4), ("l1:1", 10), ("l0:1", 4)])
@pytest.mark.parametrize("name", MODELS)
def test_it_ends_where_the_model_is_fooled_and_no_single_value_or_pixel_can_move_closer(name, text, queries_per_step):
    model, threat = MODELS[name], parse(text)
    split = toy(model, N, spread=0.9)
    delta = best(
        model,
        Pointwise(steps=STEPS * 4 // queries_per_step, queries_per_step=queries_per_step),
        threat,
        split.x,
        split.y,
    )
    for x, y, change in zip(split.x, split.y, delta, strict=True):

        def fools(moved, x=x, y=y):
            return model((x + moved).clamp(0, 1)).argmax(dim=1) != y

        assert fools(change[None]).all()
        moved = []
        units = change.abs().amax(dim=0) if threat.name == "l0" else change
        for unit in units.nonzero().tolist():
            at = (slice(None), *unit) if threat.name == "l0" else tuple(unit)
            reset, closer = change.clone(), change.clone()
            reset[at] = 0
            moved.append(reset)
            if threat.name == "l1" and change[at].abs() > RESOLUTION:
                closer[at] -= RESOLUTION * change[at].sign()
                moved.append(closer)
        assert moved
        assert not fools(torch.stack(moved)).any()


def test_it_ends_only_after_a_query_for_every_value_since_the_last_change():
    model, ends_seen = MODELS["uneven"], 0
    split = toy(model, 4)
    before, asked_since = None, [[] for _ in split.x]
    for state, asked in search(model, Pointwise(steps=STEPS), parse("l1:1"), split.x, split.y):
        for row, x in enumerate(split.x):
            if before is not None and not torch.equal(before.delta[row], state.delta[row]):
                asked_since[row] = []
                continue
            asked_since[row] += [image.tolist() for image in asked[row]]
            if before is None or state.size[row] == before.size[row]:
                continue
            ends_seen += 1
            for unit in state.best[row].flatten().nonzero().flatten():
                for rest in (0, 1 - RESOLUTION / state.best[row].flatten()[unit].abs().clamp(min=RESOLUTION)):
                    delta = state.best[row].clone()
                    delta.view(-1)[unit] *= rest
                    near = (torch.tensor(asked_since[row]) - (x + delta)).abs().flatten(1).amax(dim=1) < 1e-6
                    assert near.any()
        before = state
    assert ends_seen > 3


def test_further_searches_begin_with_noise_on_a_small_part_of_the_nearest_point():
    model = MODELS["relu"]
    split = toy(model, N)
    kept = []
    before = None
    for state, asked in search(model, Pointwise(steps=STEPS), parse("l1:1"), split.x, split.y):
        if before is not None:
            again = (before.phase == SEEK) & before.size.isfinite()
            kept.append((asked == (split.x + before.best).clamp(0, 1)[:, None])[again].flatten(2).float().mean(dim=2))
        before = state
    share = torch.cat(kept).mean(dim=0)
    assert len(torch.cat(kept)) > N
    torch.testing.assert_close(share, 1 - AGAIN * torch.tensor([0.25, 0.5, 0.75, 1]), atol=0.07, rtol=0)


@pytest.mark.parametrize("text", THREATS)
def test_every_question_is_an_image(text):
    model = MODELS["wavy in colour"]
    split = toy(model, N)
    for _, asked in search(model, Pointwise(steps=40), parse(text), split.x, split.y):
        assert asked.shape == (N, 4, *COLOUR)
        assert ((asked >= 0) & (asked <= 1)).all()


class Even(Linear):
    """Two classes, and every value weighs alike: any point where none can move closer is a nearest one."""

    def __init__(self):
        super().__init__()
        with torch.no_grad():
            self.weight.copy_(torch.stack([self.weight[0].sign(), -self.weight[0].sign()]))
            self.bias.copy_(-0.5 * self.weight.sum(dim=1))


@pytest.mark.parametrize(("factor", "breaks"), [(1.03, True), (0.97, False)])
def test_where_every_value_weighs_alike_it_breaks_just_beyond_the_distance_and_never_before(factor, breaks):
    module = Even()
    model = classifier(module)
    split = toy(model, N, spread=1.0)
    for row in range(4):
        threat = parse(f"l1:{fraction(factor * distance(module, split.x[row], split.y[row].item(), 'l1'))}")
        assert broken_rows(model, threat, Pointwise(steps=25), split, [row]) == ({row} if breaks else set())


def test_where_every_pixel_weighs_alike_and_has_as_far_to_go_it_changes_the_fewest():
    module = Even()
    split = toy(classifier(module), N, spread=1.0)
    x = 0.5 + 0.25 * (split.x - 0.5).sign()  # each wall is at 1/4 or 3/4
    x = torch.where(split.y[:, None, None, None] == 0, x, 1 - x)
    y = classifier(module)(x).argmax(dim=1)
    delta = best(classifier(module), Pointwise(steps=80), parse("l0:1"), x, y)
    for row in range(N):
        assert (delta[row] != 0).sum() <= 1.5 * distance(module, x[row], y[row].item(), "l0") + 1


@pytest.mark.costly
@pytest.mark.parametrize("text", THREATS)
def test_with_searches_to_spare_it_comes_near_the_nearest_point_of_a_linear_model_and_never_nearer(text):
    module, threat = Linear(3, seed=5), parse(text)
    model = classifier(module, 3)
    split = toy(model, N, spread=0.8)
    size = threat.size(best(model, Pointwise(steps=150), threat, split.x, split.y))
    exact = torch.tensor([distance(module, split.x[i], split.y[i].item(), threat.name) for i in range(N)])
    assert (size >= exact * (1 - 1e-5)).all()
    assert size.sum() < 1.1 * exact.sum()


def test_a_first_end_on_a_large_image_takes_far_fewer_questions_than_there_are_values():
    shape = (1, 28, 28)
    module = Linear(2, shape)
    split = toy(classifier(module, 2, shape), N)
    attack = Pointwise(steps=100)
    *_, (state, _) = search(module, attack, parse("l0:1"), split.x, split.y)
    assert state.size.isfinite().all()


def test_examples_begin_with_noise_of_their_own_and_further_searches_with_fresh_noise():
    model = MODELS["linear"]
    x = toy(model, 1).x.expand(4, -1, -1, -1)
    (_, first), (_, second) = list(
        search(lambda x: x.flatten(1)[:, :3] * 0, Pointwise(steps=2), parse("l1:1"), x, torch.zeros(4).long())
    )
    noise = torch.cat([first[:, 0], second[:, 0]])
    assert len(noise.flatten(1).unique(dim=0)) == 8


def nearest_finds(model, threat, attack, split, line, slots):
    """The smallest find of every search; other differences between finds are more than a label attack reads."""
    asked = Job(threat, attack, Waiting.of(line), smallest=True)
    return {end.item: end.x_adv for end in ends(model, split, asked, slots=slots)}


@pytest.mark.costly
@pytest.mark.parametrize("text", ["l1:3/5", "l0:1"])
def test_it_finds_the_same_in_any_company_and_order_and_where_the_model_says_nothing_but_the_class(text):
    model, bare, attack, threat = MODELS["relu"], classifier(OneHot(net()), 4), Pointwise(steps=20), parse(text)
    split = toy(model, N)
    line = items(model, attack, split, range(5))
    alone = nearest_finds(model, threat, attack, split, line, slots=attack.queries_per_step)
    for other, rows, order in ((model, 64, line[::-1]), (bare, 4 * attack.queries_per_step, line[2:] + line[:2])):
        for item, x_adv in nearest_finds(other, threat, attack, split, order, rows).items():
            assert (x_adv is None) == (alone[item] is None)
            assert x_adv is None or torch.equal(x_adv, alone[item])
    assert 0 < sum(x is None for x in alone.values()) < 5, "both outcomes must occur"


class Marked(nn.Module):
    """Class 1 where some pixel has one very value, which no noise will hit."""

    mark = 0.3

    def forward(self, x):
        marked = (x.flatten(1) == self.mark).any(dim=1)
        return torch.stack([~marked, marked], dim=1).float()


def test_an_example_without_a_start_is_blind_and_the_others_go_on():
    model, attack, threat = classifier(Marked()), Pointwise(steps=15), parse("l0:5")
    x = toy(classifier(Linear()), N).x
    x[::2, 0, 1, 2] = Marked.mark
    split = Split.whole("marks", x, 1 - torch.arange(N) % 2, 2)
    ended = ends(model, split, job(threat, attack, items(model, attack, split, range(N))))
    assert {end.item.row for end in ended if end.no_query_inside} == set(range(1, N, 2))
    assert {end.item.row for end in ended if end.x_adv is not None} == set(range(0, N, 2))


@pytest.mark.parametrize("settings", [{"targets": 1}, {"queries_per_step": 1}, {"queries_per_step": 5}])
def test_settings_without_sense_are_refused(settings):
    with pytest.raises(UserError):
        Pointwise(**settings)
