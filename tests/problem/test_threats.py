"""Laws that every threat model obeys, and distances known by another road."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robench.errors import UserError
from robench.problem.noise import normal
from robench.problem.threats import L0, L1, L2, THREATS, Linf, inward, parse
from robench.problem.threats.lp import NEWTON

ALL = ["linf:8/255", "linf:0.3", "l2:0.5", "l2:2", "l1:3/2", "l1:12", "l0:1", "l0:4"]
NORMS = [text for text in ALL if not text.startswith("l0")]
laws = settings(deadline=None, max_examples=20, derandomize=True)


@st.composite
def cases(draw):
    """Images with pixels at exactly 0 and 1, and deltas from nothing to far outside."""
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.0, 1e-6, 1e-3, 0.1, 1.0, 30.0, 1e4]))
    x = torch.rand(5, 2, 3, 4, generator=g)
    x = torch.where(torch.rand(x.shape, generator=g) < draw(st.sampled_from([0.0, 0.5, 1.0])), x.round(), x)
    sparse = torch.rand(x.shape, generator=g) < draw(st.sampled_from([0.1, 1.0]))
    return x, scale * sparse * torch.randn(x.shape, generator=g)


@pytest.mark.parametrize("text", ALL)
@pytest.mark.parametrize("way", ["project", "nearest"])
@laws
@given(case=cases())
def test_projection_lands_inside(text, way, case):
    threat, (x, delta) = parse(text), case
    assert threat.contains(x + getattr(threat, way)(delta, x), x).all()


@pytest.mark.parametrize("text", ALL)
@pytest.mark.parametrize("way", ["project", "nearest"])
@laws
@given(case=cases())
def test_projection_leaves_members_alone(text, way, case):
    threat, (x, delta) = parse(text), case
    member = threat.project(delta, x)
    torch.testing.assert_close(getattr(threat, way)(member, x), member, atol=2e-6, rtol=0)


@pytest.mark.costly
@pytest.mark.parametrize("text", NORMS)
@laws
@given(case=cases(), seed=st.integers(0, 2**31))
def test_nearest_member_is_nearest(text, case, seed):
    """For a convex set, p is the projection of d exactly when (d - p).(m - p) <= 0 for every member m."""
    threat, (x, delta) = parse(text), case
    p = threat.nearest(delta, x).double()
    d = delta.double()
    g = torch.Generator().manual_seed(seed)
    for scale in (0.1, 1.0, 10.0):
        m = threat.project(scale * torch.randn(x.shape, generator=g), x).double()
        angle = ((d - p) * (m - p)).flatten(1).sum(dim=1)
        assert (angle <= 2e-6 * (1 + d.flatten(1).norm(dim=1)) * (1 + threat.r)).all()
    # The member farthest along d - p decides: no other can do better.
    worst = _farthest(threat, d - p, x)
    assert (
        ((d - p) * (worst - p)).flatten(1).sum(dim=1) <= 2e-5 * (1 + d.flatten(1).norm(dim=1)) * (1 + threat.r)
    ).all()


def _farthest(threat, direction, x):
    """The member of ball and box that goes farthest along a direction, by the closed form of each norm."""
    d, image = direction.flatten(1), x.flatten(1).double()
    wall = torch.where(d > 0, 1 - image, image)
    if isinstance(threat, Linf):
        best = torch.minimum(wall, torch.tensor(threat.r, dtype=torch.float64))
    elif isinstance(threat, L1):  # a fractional knapsack: fill the pixels that pay most
        order = d.abs().argsort(dim=1, descending=True)
        walls = wall.gather(1, order)
        left = (threat.r - (walls.cumsum(dim=1) - walls)).clamp(min=0)
        best = torch.zeros_like(d).scatter(1, order, torch.minimum(walls, left))
    else:  # min(c |d|, wall) with the right c, by bisection
        low, high = torch.zeros(len(d), 1).double(), torch.full((len(d), 1), 1e9).double()
        for _ in range(200):
            c = (low * high).sqrt().clamp(min=1e-12) if (low > 0).all() else (low + high) / 2
            fits = torch.minimum(c * d.abs(), wall).norm(dim=1, keepdim=True) <= threat.r
            low, high = torch.where(fits, c, low), torch.where(fits, high, c)
        best = torch.minimum(low * d.abs(), wall)
    return (d.sign() * best).view_as(direction)


def threshold_by_sorting(reach, r):
    """Duchi et al. 2008, figure 1, in float64."""
    falling = reach.double().sort(dim=1, descending=True).values
    count = torch.arange(1, reach.shape[1] + 1)
    cut = (falling.cumsum(dim=1) - r) / count
    last = ((falling > cut) * count).amax(dim=1, keepdim=True).clamp(min=1)
    return cut.gather(1, last - 1).clamp(min=0)


def ball_then_box_by_sorting(delta, x, r):
    d, reach = delta.double(), delta.double().abs()
    far = (reach.amax(dim=1, keepdim=True) - r).clamp(min=0)  # sums of 1e6 keep few digits even in float64
    left = (reach - far).clamp(min=0)
    ball = d.sign() * (left - threshold_by_sorting(left, r)).clamp(min=0)
    return (x.double() + ball).clamp(0, 1) - x


def nearest_by_bisection(delta, x, r):
    d, image = delta.double(), x.double()
    reach, wall = d.abs(), torch.where(d > 0, 1 - image, image)

    def at(t):
        return torch.minimum((reach - t).clamp(min=0), wall)

    low, high = torch.zeros(len(d), 1).double(), reach.amax(dim=1, keepdim=True)
    for _ in range(100):
        middle = (low + high) / 2
        too_much = at(middle).sum(dim=1, keepdim=True) > r
        low, high = torch.where(too_much, middle, low), torch.where(too_much, high, middle)
    fits = at(torch.zeros_like(low)).sum(dim=1, keepdim=True) <= r
    return d.sign() * at(torch.where(fits, 0, high))


ROWS, PIXELS, RADIUS = 12, 784, 12
SCALES = 10.0 ** torch.linspace(-3, 6, ROWS)[:, None]  # one of them per row


def spectra():
    """Deltas that an iteration may find hard, by name; signs and places at random."""
    g = torch.Generator().manual_seed(0)

    def uniform():
        return torch.rand(ROWS, PIXELS, generator=g)

    i = torch.arange(1, PIXELS + 1).float().expand(ROWS, -1)
    member = uniform() * 2 * RADIUS / PIXELS
    step = torch.zeros(ROWS, PIXELS).scatter_(1, uniform().topk(8, dim=1).indices, RADIUS / 8)
    reaches = {
        "member": 0.9 * member,
        "member and a small step": member + 0.05 * step,
        "member and a large step": member + step,
        "noise": torch.randn(ROWS, PIXELS, generator=g).abs(),
        "noise of many scales": SCALES * torch.randn(ROWS, PIXELS, generator=g).abs(),
        "nothing": torch.zeros(ROWS, PIXELS),
        "all equal": SCALES * torch.ones(ROWS, PIXELS),
        "one huge": torch.where(i == 5, 1e3, 1e-3 * uniform()),
        "two clusters": torch.where(uniform() < 0.3, 10 + 1e-3 * uniform(), 0.05 + 1e-4 * uniform()),
        "two clusters far apart": torch.where(uniform() < 0.01, 1e4 + uniform(), uniform()),
        "whole numbers": (3 * uniform()).round(),
        "log-normal": (3 * torch.randn(ROWS, PIXELS, generator=g)).exp(),
    }
    for power in (0.5, 1, 2, 4):
        reaches[f"1 / i^{power}"] = SCALES * i**-power
    for ratio in (0.5, 0.9, 0.99, 0.999):
        reaches[f"{ratio}^i"] = SCALES * ratio**i
    shuffled = uniform().argsort(dim=1)
    signs = torch.randn(ROWS, PIXELS, generator=g).sign()
    return {name: signs * reach.gather(1, shuffled) for name, reach in reaches.items()}


SPECTRA = spectra()


def images(kind):
    g = torch.Generator().manual_seed(1)
    x = torch.rand(ROWS, PIXELS, generator=g)
    half_at_edge = torch.where(torch.rand(x.shape, generator=g) < 0.5, x.round(), x)
    return {"grey": torch.full_like(x, 0.5), "half at the edge": half_at_edge, "black and white": x.round()}[kind]


IMAGES = ["grey", "half at the edge", "black and white"]


@pytest.mark.parametrize("radius", ["12", "0.001"])
@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("name", SPECTRA)
def test_projecting_onto_the_l1_ball_agrees_with_sorting(name, kind, radius):
    threat, delta, x = parse(f"l1:{radius}"), SPECTRA[name], images(kind)
    found = threat.project(delta, x)
    assert threat.contains(x + found, x).all()
    torch.testing.assert_close(found.double(), ball_then_box_by_sorting(delta, x, threat.r), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("name", SPECTRA)
def test_the_nearest_of_l1_ball_and_box_agrees_with_bisection_in_float64(name, kind):
    """Within the rounding of the result, and beyond 40 within that of the largest delta of the row."""
    threat, delta, x = parse(f"l1:{RADIUS}"), SPECTRA[name], images(kind)
    found = threat.nearest(delta, x)
    assert threat.contains(x + found, x).all()
    apart = (found - nearest_by_bisection(delta, x, threat.r)).abs().amax(dim=1)
    largest = delta.abs().amax(dim=1)
    assert (apart <= torch.where(largest <= 40, 5e-7, 5e-7 + largest * 2.0**-23)).all()


def test_many_pixels_leaving_their_walls_at_once_do_not_throw_the_nearest_off():
    """Left of 0.5 only one pixel gives way, right of it 701: solving with the slope of the left goes too far."""
    wall, bend, root = 2.0**-10 - 2.0**-26, 0.5 + 2.0**-26, 0.5 + 2.0**-25
    x = torch.tensor([[1.0] + [wall] * 700])
    delta = -torch.tensor([[1.0] + [bend + wall] * 700])
    threat = L1(Fraction(1 - root) + 700 * Fraction(wall + bend - root))
    expected = nearest_by_bisection(delta, x, threat.r)
    assert expected[0, 0].item() == pytest.approx(root - 1, abs=1e-12)
    torch.testing.assert_close(threat.nearest(delta, x).double(), expected, atol=5e-7, rtol=0)


def test_every_row_of_l1_has_its_own_ball():
    """Rows of very different scale and stretch, each as if it were alone (P-16)."""
    threat, x = L1(Fraction(2)), images("half at the edge")
    delta = SPECTRA["member and a large step"] * torch.tensor([1e-6, 1e-3, 0.1, 0.5, 1, 2, 5, 10, 0, 1, 1, 1])[:, None]
    stretch = torch.tensor([1, 2, 3, 1, 2, 3, 1, 2, 3, 1e-3, 0.5, 30])
    found = threat.nearest(delta, x, stretch)
    expected = nearest_by_bisection(delta, x, threat.r * stretch.double()[:, None])
    torch.testing.assert_close(found.double(), expected, atol=5e-7, rtol=0)
    for row in range(ROWS):
        one = slice(row, row + 1)
        assert torch.equal(threat.nearest(delta[one], x[one], stretch[one]), found[one])
        assert torch.equal(threat.project(delta[one], x[one]), threat.project(delta, x)[one])


def slow_spectrum(ratio, gap):
    """Reaches on which Newton's method drops as few coordinates a step as it can, for an l1 ball of radius 1.

    Built from the last piece down. With c coordinates above it the method goes to the threshold t of those
    alone; the next are put under t, only so far that the threshold of them all stays under the ones before.
    """
    reaches, t, share = [1.0, 1.0], 0.5, 1.0
    while len(reaches) < PIXELS * ratio:
        count = len(reaches)
        more = max(round(count / ratio) - count, 1)
        gap *= share * (count + more) / more * 1.0001
        share = count / (count + more)
        reaches += [t - gap] * more
        t -= gap * (1 - share)
    assert reaches[-1] > 0
    return torch.tensor(reaches).double()[None]


def newton_steps(reach):
    t, steps = 0.0, 0
    while (excess := (reach - t).clamp(min=0).sum() - 1) > 1e-6:
        t, steps = t + excess / (reach > t).sum(), steps + 1
    return steps


@pytest.mark.parametrize(("ratio", "gap"), [(0.66, 1e-5), (0.66, 1e-6), (0.67, 1e-6), (0.72, 1e-8)])
def test_a_spectrum_built_against_the_l1_projection_still_ends_inside_and_near(ratio, gap):
    reach = slow_spectrum(ratio, gap)
    assert newton_steps(reach) > NEWTON
    threat, black = L1(Fraction(1)), torch.zeros(reach.shape)
    found = threat.project(reach.float(), black)
    assert threat.contains(black + found, black).all()
    assert (found - ball_then_box_by_sorting(reach, black, 1)).abs().sum() <= 1e-3


@pytest.mark.parametrize("text", ["l2:0.5", "l1:3/2"])
def test_nearest_does_better_than_ball_then_box_where_the_box_binds(text):
    """Clipping after the ball wastes what the box cuts off: public code stops there (PROTOCOLS P-01, P-38)."""
    threat = parse(text)
    g = torch.Generator().manual_seed(3)
    x = torch.rand(50, 1, 3, 4, generator=g).round()
    delta = torch.randn(x.shape, generator=g)
    apart = [(delta - way(delta, x)).flatten(1).norm(dim=1) for way in (threat.nearest, threat.project)]
    assert (apart[0] <= apart[1] + 1e-6).all()
    assert (apart[0] < apart[1] - 1e-3).float().mean() > 0.5


@pytest.mark.parametrize("text", ALL)
@laws
@given(case=cases())
def test_steepest_beats_every_random_direction(text, case):
    threat, (_, grad) = parse(text), case

    def rise(d):
        return (d.double() * grad).flatten(1).sum(dim=1)

    steepest = threat.steepest(grad)
    assert (threat.size(steepest) <= 1 + 1e-5).all()
    for seed in range(5):
        other = torch.randn(grad.shape, generator=torch.Generator().manual_seed(seed))
        if isinstance(threat, L0):  # of size 1 in a box of width 1: one pixel
            other = threat.steepest(other) * torch.rand(5, 1, 1, 1)
        else:
            other = other / threat.size(other).view(-1, 1, 1, 1)
        assert (rise(steepest) >= rise(other) - 1e-5 * (1 + rise(steepest).abs())).all()


def test_steepest_survives_gradients_whose_squares_underflow():
    grad = torch.tensor([[3e-30, -4e-30]])
    torch.testing.assert_close(L2(Fraction(1)).steepest(grad), torch.tensor([[0.6, -0.8]]))
    assert (L2(Fraction(1)).steepest(torch.zeros(1, 3)) == 0).all()


@pytest.mark.parametrize("text", ALL)
def test_samples_are_members_and_fill_the_set(text):
    threat = parse(text)
    x = torch.full((400, 1, 4, 4), 0.5)
    keys = torch.arange(400)
    delta = threat.sample(x, normal(keys, 0, x))
    assert threat.contains(x + delta, x).all()
    sizes = threat.size(delta)
    if isinstance(threat, Linf):  # uniform in the cube: the mean absolute value is half the radius
        assert delta.abs().mean().item() == pytest.approx(threat.r / 2, rel=0.05)
    else:  # on the sphere, where the box leaves it alone
        free = (delta.abs().flatten(1) < 0.5).all(dim=1) | isinstance(threat, L0)
        torch.testing.assert_close(sizes[free], torch.full_like(sizes[free], threat.r), rtol=1e-4, atol=1e-4)
        assert (sizes <= threat.r * (1 + 1e-6)).all()
    assert delta.mean().abs().item() < 0.1 * delta.abs().mean().item() + 1e-3  # no side is preferred: P-14
    assert not torch.equal(delta[0], delta[1])


@pytest.mark.parametrize("text", ["linf:8/255", "linf:0.3", "l2:0.5", "l2:128/255", "l1:2000/255", "l1:12", "l0:10"])
def test_text_round_trips(text):
    assert str(parse(text)) == text
    assert parse(str(parse(text))) == parse(text)


def test_a_fraction_without_a_short_text_keeps_its_value():
    assert parse("l2:1/3").radius == Fraction(1, 3)
    assert parse(str(parse("l2:1/3"))).radius == Fraction(1, 3)


@pytest.mark.parametrize(("text", "size"), [("linf:1", 0.1), ("l2:1", 0.3), ("l1:1", 0.9), ("l0:1", 9.0)])
def test_size_of_a_patch_worked_by_hand(text, size):
    delta = torch.zeros(1, 3, 8, 8)
    delta[0, 1, 2:5, 2:5] = torch.tensor([[0.1, -0.1, 0.1]])  # nine pixels of one channel
    torch.testing.assert_close(parse(text).size(delta), torch.tensor([size]))


def test_a_pixel_of_three_channels_counts_once_in_l0():
    delta = torch.zeros(1, 3, 8, 8)
    delta[0, :, 2, 2] = 0.5
    assert parse("l0:1").size(delta).item() == 1


@pytest.mark.parametrize("text", ["linf:0.3", "l2:2", "l1:10"])
@pytest.mark.parametrize(("stretch", "inside"), [(1.0, True), (1 + 1e-6, False), (1.01, False)])
def test_membership_forgives_the_rounding_of_pixels_and_nothing_more(text, stretch, inside):
    threat = parse(text)
    x = torch.zeros(1, 1, 8, 8)
    delta = torch.zeros_like(x)
    pixels = {"linf": 1, "l2": 16, "l1": 40}[threat.name]
    delta.view(-1)[:pixels] = stretch * threat.r / {"linf": 1, "l2": 4, "l1": 40}[threat.name]
    assert threat.contains(x + delta, x).item() is inside


def test_a_move_of_the_rounded_radius_down_to_black_is_a_member():
    """0.3 in float32 is above 0.3: an exact comparison would turn down what clipping to the radius gives."""
    x = torch.tensor([[0.3, 0.7]])
    assert Linf(Fraction(3, 10)).contains(x - torch.tensor([[0.3, 0.3]]), x).item()


@pytest.mark.parametrize("pixel", [-1e-9, 1 + 1e-6, float("nan"), float("inf")])
def test_the_box_is_exact(pixel):
    x_adv = torch.tensor([[0.5, pixel]])
    assert not parse("linf:1").contains(x_adv, torch.tensor([[0.5, 0.5]])).item()


def test_inward_removes_only_components_that_leave_the_box():
    x = torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.5]])
    grad = torch.tensor([[-1.0, 1.0, 1.0, -1.0, -2.0]])
    assert inward(grad, torch.zeros_like(x), x).tolist() == [[0.0, 1.0, 0.0, -1.0, -2.0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lnf:0.3", "did you mean linf"),
        ("linf", "no readable radius; write it like linf:8/255"),
        ("linf:abc", "no readable radius"),
        ("linf:1/0", "no readable radius"),
        ("linf:0", "must be above 0"),
        ("l2:-1", "must be above 0"),
        ("linf:1e400", "not beyond"),
        ("linf:1e-400", "must be above 0"),
        ("l0:2.5", "whole number"),
        ("", "no threat model"),
    ],
)
def test_an_unreadable_text_is_refused_with_the_reason(text, message):
    with pytest.raises(UserError, match=message):
        parse(text)


def test_every_threat_is_listed_under_its_own_name():
    assert all(name == threat.name for name, threat in THREATS.items())
