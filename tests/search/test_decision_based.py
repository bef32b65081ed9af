"""HopSkipJump, Boundary and RayS, which read labels alone, on models whose distances are known."""

from statistics import median

import pytest
import torch

from robench.errors import UserError
from robench.problem.threats import parse
from robench.search.attacks import build
from robench.search.attacks.boundary import Boundary
from robench.search.attacks.hop_skip_jump import HopSkipJump
from robench.search.attacks.rays import RayS, _block, _following
from robench.search.engine.job import Job
from robench.search.engine.scheduler import Waiting

from ..exact_distances import Linear, classifier, distance, toy
from .engine.test_independence import OneHot
from .running import ends, items

FIFTY = (1, 5, 10)
N = 5
ATTACKS = {
    "hop-skip-jump linf": (HopSkipJump(steps=8), "linf"),
    "hop-skip-jump l2": (HopSkipJump(steps=8), "l2"),
    "boundary l2": (Boundary(steps=150), "l2"),
    "rays linf": (RayS(steps=1000), "linf"),
}
FEW = {"hop-skip-jump": 1, "boundary": 10, "rays": 300}  # steps
every = pytest.mark.parametrize(("attack", "norm"), ATTACKS.values(), ids=ATTACKS)
WIDE = {"linf": "linf:1", "l2": "l2:100"}


def nearest(model, attack, threat, split, slots=N, rows=None):
    """The image nearest to each example that the engine has kept; None where there is none."""
    waiting = items(model, attack, split, range(len(split)) if rows is None else rows)
    one = Job(threat, attack, Waiting.of(waiting), smallest=True)
    return {end.item.row: end for end in ends(model, split, one, slots=slots * attack.queries_per_step)}


@pytest.mark.costly
@every
@pytest.mark.parametrize("edges", [False, True], ids=["inside", "at the edges"])
def test_in_fifty_dimensions_it_comes_within_a_quarter_of_the_distance_and_never_below(attack, norm, edges):
    module = Linear(3, FIFTY)
    model = classifier(module, 3, FIFTY)
    split, threat = toy(model, N, edges=edges), parse(WIDE[norm])
    ratios = []
    for row, end in nearest(model, attack, threat, split).items():
        size = threat.measure(end.x_adv[None], split.x[[row]]).item()
        ratios.append(size / distance(module, split.x[row], int(split.y[row]), norm))
    assert len(ratios) == N
    assert min(ratios) > 1 - 1e-5
    # RayS changes one block at a time: at the edges of the box no single change may be of use.
    assert median(ratios) < (1.5 if edges and attack.name == "rays" else 1.25)


@pytest.mark.costly
@every
def test_results_depend_neither_on_the_batch_nor_on_order_nor_on_more_than_the_label(attack, norm):
    model = classifier(Linear(4, FIFTY), 4, FIFTY)
    attack = build(attack.name, {"steps": FEW[attack.name]})
    split, threat = toy(model, 4), parse(WIDE[norm])
    found = {row: end.x_adv for row, end in nearest(model, attack, threat, split).items()}
    assert all(x_adv is not None for x_adv in found.values())
    labels_alone = classifier(OneHot(model.module), 4, FIFTY)
    for other, rows, slots in [(model, [2, 0, 1, 3], 1), (labels_alone, range(4), 2)]:
        for row, end in nearest(other, attack, threat, split, slots, rows).items():
            torch.testing.assert_close(end.x_adv, found[row], atol=1e-5, rtol=0)


class Always(Linear):
    """Says the first class, but for images that are bright on the left: those of the second are told by their side."""

    def forward(self, x):
        left = x.flatten(1)[:, :1]
        return torch.cat([torch.ones_like(left), torch.where(left > 2, 2.0, 0.0)], dim=1)


@every
def test_an_example_without_a_start_is_its_own_outcome(attack, norm):
    """No image in the box is of the second class, so nothing fools an example of the first."""
    model = classifier(Always(2, FIFTY), 2, FIFTY)
    split = toy(model, 3)
    attack = build(attack.name, {"steps": 3})
    for end in nearest(model, attack, parse(WIDE[norm]), split).values():
        assert end.x_adv is None
        assert end.no_query_inside, "the engine must know that it found no start"
    split.y[1] = 1  # now everything fools this one
    outcome = nearest(model, attack, parse(WIDE[norm]), split)
    assert [outcome[row].no_query_inside for row in range(3)] == [True, False, True]
    assert outcome[1].x_adv is not None


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("hop-skip-jump", {"targets": 1}),
        ("hop-skip-jump", {"queries_per_step": 1}),
        ("hop-skip-jump", {"reach": 0.0}),
        ("hop-skip-jump", {"directions": 0}),
        ("boundary", {"targets": 1}),
        ("rays", {"targets": 1}),
        ("rays", {"tolerance": 0.0}),
        ("boundary", {"queries_per_step": 1}),
    ],
)
def test_settings_that_mean_nothing_are_refused(name, settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        build(name, settings)


@pytest.mark.costly
def test_rays_comes_to_the_distance_from_a_plane_within_its_tolerance():
    """With two classes each sign counts for itself, so one round of single pixels finds them all."""
    module = Linear(2, FIFTY)
    model = classifier(module, 2, FIFTY)
    split, threat, attack = toy(model, N), parse("linf:1"), RayS(steps=1000, tolerance=1e-4)
    for row, end in nearest(model, attack, threat, split).items():
        size = threat.measure(end.x_adv[None], split.x[[row]]).item()
        exact = distance(module, split.x[row], int(split.y[row]), "linf")
        assert exact * (1 - 1e-5) <= size <= exact + 10 * attack.tolerance


@pytest.mark.parametrize("pixels", [1, 2, 50, 784])
def test_the_blocks_of_rays_divide_the_image_on_every_level_and_begin_again(pixels):
    order = torch.randperm(pixels, generator=torch.Generator().manual_seed(0))[None]
    place, level, levels = torch.tensor([0]), [], []
    while True:
        level.append(_block(place, order))
        if torch.stack(level).sum() == pixels:
            assert torch.stack(level).sum(dim=0).eq(1).all(), "each pixel is in one block of a level"
            levels.append(len(level))
            level = []
        place = _following(place, pixels)
        if place == 0:
            break
    assert not level
    assert levels[0] == 1
    assert levels[-1] == pixels
    assert len(levels) == (pixels - 1).bit_length() + 1
