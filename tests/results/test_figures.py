"""What is drawn is what the records say. Heights are worked out by hand, or along another road than the drawing."""

import io
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace

import matplotlib
import msgspec
import numpy as np
import PIL.Image
import pytest
from matplotlib.contour import ContourSet
from matplotlib.image import imread

from robench.evidence.records import Claim, Evidence, PassedOver, PlannedAttack, Verdict
from robench.results import figures
from robench.results.attack_rows import FailureEntry
from robench.results.figures import Layer, Material, Placed, Raised, Shown, Surface, Walk
from robench.results.queries import Fall, falls
from robench.results.summarising import summarise
from robench.results.summary import ThreatMaskingEntry

from .made import APGD, EVIDENCE, L2, LINF, PGD, PLAN, accepted, claim, clean, exhausted, plan
from .tables.test_tables import models


def material(asked=PLAN, evidence=EVIDENCE, path="r.robench"):
    return Material(path, asked, evidence, summarise(asked, evidence, "0"))


SIZES = {20: 0.05, 21: 0.12, 22: 0.12, 23: 0.29}  # of finds; 24 to 26 stand, 27 is wrong
CURVED = Evidence(
    clean=(*map(clean, range(20, 27)), clean(27, correct=False)),
    claims=tuple(claim(e, e) for e in SIZES),
    verdicts=tuple(accepted(e, size) for e, size in SIZES.items()),
)


def curved(**changes):
    return material(plan(threats=(LINF,), curve=True, **changes), CURVED)


def lines(picture, label):
    return [line for axes in picture.figure.axes for line in axes.get_lines() if line.get_label() == label]


def picture_of(kind):
    both = [material(plan(name="one")), material(plan(name="two"))]
    if kind == "curve":
        return figures.curves([curved()]).pictures[0]
    if kind == "trade-off":
        return figures.trade_offs(both, {"one": ["l2:2"]}).pictures[0]
    if kind == "queries":
        return figures.queries([material()]).pictures[0]
    if kind == "landscape":
        return figures.landscapes(both[0].summary, [surface("linf:0.3", 21), surface("l2:2", 21)])
    if kind == "along":
        return figures.walks(both[0].summary, [walk("linf:0.3", 21), walk("l2:2", 21)])
    if kind == "first-layer":
        return figures.first_layers(both[0].summary, layer(), [raised(21), raised(22)])
    if kind == "features":
        return figures.feature_planes(
            both[0].summary, (3, 8), [placed("clean", [3, 3, 8, 8]), placed("linf:0.3", [3, 8, 8, 5])]
        )
    return figures.galleries(both[0].summary, [shown(1), shown(1, "l2:2")])


def surface(threat, example, offset=-0.5):
    """A slope along the gradient that the model falls off halfway between the middle and the edge."""
    margin = np.broadcast_to(np.linspace(-1, 1, 9, dtype=np.float32) + np.float32(offset), (9, 9)).copy()
    return Surface(threat, example, 3, 1.0, np.log1p(np.exp(margin)), margin)


def walk(threat, example, lines=4):
    """Straight margins; the gradient's rises to 1 from -2, the random ones fall."""
    margin = -2 + np.linspace(0, 1, 5) * np.linspace(3, -1, lines)[:, None]
    return Walk(threat, example, 3, np.log1p(np.exp(margin)), margin, 0.25)


def layer(filters=4, channels=1):
    weight = np.random.default_rng(0).normal(size=(filters, channels, 3, 3))
    return Layer(weight, np.resize([0.3, 0.0, np.inf, 0.75], filters))


def raised(example, channels=1):
    """Flat up to 0.3, and then up; the gradient promises a little."""
    image = np.zeros((channels, 6, 6))
    over = np.maximum(np.linspace(0, 1, 11) - 0.3, 0)
    alone = 0.1 + np.outer([2.0, 1.0], over)
    return Raised(example, 3, image, ((2, 4), (1, 0)), alone, 0.1 + 5 * over, np.array([0.2, 0.1]))


def shown(channels, threat="linf:0.3", example=21):
    pixels = np.random.default_rng(example).random((2, channels, 6, 6), dtype=np.float32)
    return Shown(threat, example, 3, 8, 0.25, *pixels)


def placed(title, answers):
    """Two images of class 3 and two of class 8 at the corners of a square."""
    return Placed(title, np.array([[0, 0], [0, 1], [1, 0], [1, 1.0]]), np.array([3, 3, 8, 8]), np.array(answers))


def told_by(content, form):
    """The description inside the file."""
    if form == "png":
        return PIL.Image.open(io.BytesIO(content)).text["Description"]
    return [e.text for e in ET.fromstring(content).iter("{http://purl.org/dc/elements/1.1/}description")]


# curve


def test_a_curve_goes_through_the_share_of_examples_without_a_find_up_to_each_radius():
    (line,) = lines(figures.curves([curved()]).pictures[0], "net ≤")
    radii, heights = line.get_data()
    assert radii[0] == 0
    assert radii[-1] == pytest.approx(0.3)
    broken = [sum(size <= radius for size in SIZES.values()) for radius in radii]
    np.testing.assert_allclose(heights, [100 * (7 - count) / 8 for count in broken])
    assert (heights[0], heights[-1]) == (87.5, 37.5)


def test_bands_are_wilson_intervals():
    (axes,) = figures.curves([curved()]).pictures[0].figure.axes
    (band,) = axes.collections
    ends = [y for x, y in band.get_paths()[0].vertices if x == pytest.approx(0.3)]
    # At the last radius 3 of 8 stand: the roots of (p - share)^2 = z^2 p (1 - p) / n.
    n, share, z = 8, 3 / 8, 1.959963984540054
    roots = np.roots([1 + z**2 / n, -2 * share - z**2 / n, share**2])
    assert [min(ends), max(ends)] == pytest.approx(sorted(100 * roots))


def test_a_panel_per_norm_a_line_per_model_and_of_two_radii_the_larger():
    small = plan(threats=(type(LINF)("linf:0.1", LINF.attacks), LINF), curve=True, name="small")
    two = figures.curves([material(small, CURVED), curved(name="large")]).pictures
    assert len(two) == 1
    (axes,) = two[0].figure.axes
    assert [line.get_label() for line in axes.get_lines()] == ["small ≤", "large ≤"], "searches are still to do"
    assert lines(two[0], "small ≤")[0].get_xdata()[-1] == pytest.approx(0.3)
    assert "ℓ∞" in axes.get_xlabel()


def test_one_model_under_several_sets_of_attacks_has_a_line_for_each():
    further = type(LINF)(LINF.threat, (*LINF.attacks, PlannedAttack("pointwise", "pointwise(steps=40)", 1)))
    two = [curved(), material(plan(threats=(further,), curve=True), CURVED)]
    (axes,) = figures.curves(two).pictures[0].figure.axes
    by = ", ".join(a.label for a in LINF.attacks)
    assert [line.get_label() for line in axes.get_lines()] == [f"net ≤ by {by}", f"net ≤ by {by}, pointwise"]


@pytest.mark.parametrize("kind", ["curves", "queries"])
def test_a_curve_of_a_model_whose_gradients_are_masked_is_marked_and_its_caption_says_why(kind):
    found = curved()
    for verdict, marked in (("masked", True), ("suspect", True), ("none-found", False)):
        (threat,) = found.summary.threats
        doubted = msgspec.structs.replace(threat, masking=ThreatMaskingEntry(verdict))
        summary = msgspec.structs.replace(found.summary, threats=(doubted,))
        (picture,) = getattr(figures, kind)([replace(found, summary=summary)]).pictures
        assert ("† gradients are masked, or may be." in picture.caption) is marked
        left = sum(t.open for t in summary.threats)
        assert f"≤ not finished: {left} open cases count as standing." in picture.caption
        where = picture.caption if kind == "queries" else picture.figure.axes[0].get_lines()[0].get_label()
        assert ("net† ≤" in where) is marked


def test_a_picture_of_queries_counts_open_cases_of_its_panels_alone():
    half = Evidence(clean=tuple(map(clean, range(20, 28))), exhausted=(exhausted(20, 3), exhausted(21, 3)))
    found = material(evidence=half)
    assert [t.open for t in found.summary.threats] == [8, 8]
    (picture,) = figures.queries([found]).pictures
    assert [axes.get_title() for axes in picture.figure.axes] == ["linf:0.3"]
    assert "≤ not finished: 8 open cases count as standing." in picture.caption


def test_a_curve_is_not_marked_for_a_threat_that_is_not_drawn():
    asked = plan(threats=(LINF, type(LINF)("rt:3px,30deg", (PlannedAttack("grid", "grid()", 1),))), curve=True)
    finished = tuple(exhausted(e, done, attack=a) for e in range(20, 27) for a, done in ((PGD.spec, 3), (APGD.spec, 1)))
    found = material(asked, msgspec.structs.replace(CURVED, exhausted=finished))
    assert [t.open for t in found.summary.threats] == [0, 7]
    (picture,) = figures.curves([found]).pictures
    assert lines(picture, "net")
    assert "open cases" not in picture.caption


def test_runs_on_different_examples_are_in_different_pictures():
    album = figures.curves([curved(), curved(data_sha256="0" * 64)])
    assert len(album.pictures) == 2


def test_a_run_without_a_curve_is_left_out_with_what_to_type():
    album = figures.curves([material(path="flat.robench")])
    assert album.pictures == []
    assert album.left_out == [
        "flat.robench holds no accuracy by radius; measure it with robench evaluate --curve and a minimum-norm attack"
    ]


# trade-off


def test_points_of_every_threat_and_of_the_union_lie_where_the_table_says():
    strong = Evidence(clean=tuple(map(clean, range(20, 28))))
    both = [material(plan(name="one")), material(plan(name="two"), strong)]
    (picture,) = figures.trade_offs(both, {}).pictures
    # Letters of made.py: WBBSOSOO, WSBBSSSO and WBBBOSOO; the second model has met no attack: all open.
    for name, share in {"linf:0.3": 62.5, "l2:2": 62.5, "union": 50.0}.items():
        (points,) = lines(picture, name)
        np.testing.assert_allclose(points.get_xdata(), [100, share])
        assert points.get_linestyle() == "None", "models have no order that a line could follow"
    (axes,) = picture.figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["two ≤", "one ≤"], "the best union first"
    assert axes.yaxis_inverted(), "the first row is on top"
    assert "20 open cases count as standing" in picture.caption


def test_an_unfinished_model_is_below_all_finished_ones_and_a_failed_one_is_left_out():
    threats = ("linf:0.3", "l2:2")
    high, low, masked = (
        Material(path, plan(), Evidence(), summary)
        for path, summary in zip("abc", models(
            {"open": ("OOOO", "SSSS"), "low": ("SBBB", "SBBB"), "masked": ("SSBB", "SSBB")}, threats
        ), strict=True)
    )  # fmt: skip
    first, *rest = masked.summary.threats
    doubted = msgspec.structs.replace(first, masking=ThreatMaskingEntry("masked"))
    verdict = msgspec.structs.replace(masked.summary, threats=(doubted, *rest))
    first, *rest = high.summary.threats
    failures = tuple(FailureEntry(attack.name, 4, "Boom") for attack in first.attacks)
    lost = msgspec.structs.replace(high.summary, threats=(msgspec.structs.replace(first, failures=failures), *rest))
    runs = [high, low, replace(masked, summary=verdict), replace(high, path="lost", summary=lost)]
    album = figures.trade_offs(runs, {})
    (picture,) = album.pictures
    assert [label.get_text() for label in picture.figure.axes[0].get_yticklabels()] == ["masked†", "low", "open ≤"]
    assert album.left_out == ["lost measured nothing under linf:0.3, as every planned attack failed there"]
    assert "† gradients are masked, or may be." in picture.caption


def test_stars_stand_where_a_card_says_the_model_was_trained_on_that_threat_alone():
    both = [material(plan(name=name)) for name in ("one", "two", "both")]
    reported = {"two": ["l2:2"], "both": ["l2:2", "linf:0.3"], "stranger": ["linf:0.3"]}
    (picture,) = figures.trade_offs(both, reported).pictures
    stars = [line for line in picture.figure.axes[0].get_lines() if line.get_marker() == "*"]
    (star,) = stars
    assert round(float(star.get_ydata()[0])) == 1
    assert star.get_xdata()[0] == pytest.approx(62.5)
    assert star.get_color() == lines(picture, "l2:2")[0].get_color()
    assert "Stars" in picture.caption
    assert "Stars" not in figures.trade_offs(both, {}).pictures[0].caption


def test_models_are_side_by_side_only_where_they_answer_one_question():
    album = figures.trade_offs([material(plan(name="one")), material(plan(name="two", protocol="other"))], {})
    assert album.pictures == []
    assert all("nothing to be compared with" in reason for reason in album.left_out)
    assert len(album.left_out) == 2


def test_one_threat_has_no_union_to_draw():
    album = figures.trade_offs([material(plan(threats=(L2,)), path="lone.robench")], {})
    assert album.left_out == [
        "lone.robench has no union, with fewer than two threats; name two or more with robench evaluate --threat"
    ]


# queries


def test_a_line_falls_at_the_cost_of_each_find():
    # pgd met 21 to 25: found on 21 after 10, in vain on 22 and 23 for 40 and on 24 for 20, on 25 for 40 and a
    # rejected claim of 10; it failed on 26, which stands as far as anyone knows, as does 27, without an answer.
    assert falls(PLAN, EVIDENCE, "linf:0.3") == [
        Fall("pgd", (1, 10, 50), (7 / 8, 6 / 8, 6 / 8)),
        Fall("apgd", (1, 10, 101), (6 / 8, 5 / 8, 5 / 8)),
    ]


def test_with_every_attack_each_line_starts_at_the_clean_accuracy_and_ends_at_the_attacks_own():
    examples = tuple(range(20, 24))
    asked = plan(examples=examples, threats=(L2,), every_attack=True)
    evidence = Evidence(
        clean=(*map(clean, examples[:3]), clean(23, correct=False)),
        claims=(claim(1, 20, "l2:2", forwards=7), claim(2, 21, "l2:2", forwards=3)),
        verdicts=(accepted(1), accepted(2)),
        exhausted=(exhausted(22, 1, "l2:2", forwards=40), exhausted(20, 0, "l2:2", forwards=5)),
    )
    (fall,) = falls(asked, evidence, "l2:2")
    assert fall == Fall("pgd", (1, 3, 12, 40), (3 / 4, 2 / 4, 1 / 4, 1 / 4))
    (entry,) = summarise(asked, evidence, "0").threats[0].attacks
    assert fall.standing[-1] == entry.accuracy


def test_with_every_attack_examples_that_it_did_not_reach_count_as_standing():
    asked = plan(threats=(L2,), every_attack=True)
    evidence = Evidence(clean=tuple(map(clean, range(20, 28))), exhausted=(exhausted(20, 1, "l2:2", forwards=40),))
    assert falls(asked, evidence, "l2:2") == [Fall("pgd", (1, 40), (1.0, 1.0))]


def test_a_line_starts_with_what_the_attack_has_still_to_search_and_without_what_its_plan_passes_over():
    sampled = type(L2)("l2:2", (PlannedAttack("pgd", PGD.spec, 1, sample=2),))
    passed = tuple(PassedOver(e, "l2:2", PGD.spec, "sample", 10.0) for e in (22, 23, 24))
    searched = tuple(exhausted(e, 1, "l2:2", forwards=40) for e in (20, 21))
    evidence = Evidence(clean=tuple(map(clean, range(20, 27))), exhausted=searched, passed_over=passed)
    # Two searched, 25 and 26 to be searched, and 27 without an answer; 22 to 24 are passed over.
    assert falls(plan(threats=(sampled,)), evidence, "l2:2") == [Fall("pgd", (1, 40), (5 / 8, 5 / 8))]
    every = falls(plan(threats=(sampled,), every_attack=True), evidence, "l2:2")
    assert every == [Fall("pgd", (1, 40), (1.0, 1.0))], "27 may be right, so the line is an upper bound"


def test_the_drawn_steps_equal_the_computed_ones():
    (picture,) = figures.queries([material()]).pictures
    panels = {axes.get_title(): axes for axes in picture.figure.axes}
    assert list(panels) == ["linf:0.3", "l2:2"]
    step = panels["linf:0.3"].get_lines()[0]
    np.testing.assert_array_equal(step.get_xdata(), [1, 10, 50])
    np.testing.assert_allclose(step.get_ydata(), [87.5, 75, 75])
    assert step.get_drawstyle() == "steps-post"
    assert panels["l2:2"].get_xscale() == "log"


def test_a_run_without_a_search_is_left_out():
    album = figures.queries([material(evidence=Evidence(clean=EVIDENCE.clean))])
    assert album.left_out == ["r.robench holds no search; start it again with robench evaluate"]


# landscape


def test_a_landscape_shows_the_loss_as_it_is_and_the_line_where_the_answer_changes():
    surfaces = [surface(threat, example) for threat in ("linf:0.3", "l2:2") for example in (21, 22)]
    panels = figures.landscapes(material().summary, surfaces).figure.axes[:4]
    assert [a.get_title() for a in panels[:2]] == ["linf:0.3", "l2:2"]
    assert panels[2].get_ylabel().startswith("example 22, class 3")
    for axes in panels:
        np.testing.assert_array_equal(axes.get_images()[0].get_array(), surfaces[0].loss)
        (line,) = (c for c in axes.get_children() if isinstance(c, ContourSet))
        np.testing.assert_allclose(line.get_paths()[0].vertices[:, 0], 0.5, atol=1e-6)


def test_where_the_answer_never_changes_there_is_no_line():
    axes = figures.landscapes(material().summary, [surface("l2:2", 21, offset=-2)]).figure.axes[0]
    assert not [c for c in axes.get_children() if isinstance(c, ContourSet)]


def test_where_the_model_answers_nan_the_map_stays_blank():
    torn = surface("l2:2", 21)
    torn.loss[0], torn.margin[0] = np.nan, np.nan
    picture = figures.landscapes(material().summary, [torn])
    assert b"<svg" in figures.image_bytes(picture, "svg")
    low, high = picture.figure.axes[0].get_images()[0].get_clim()
    assert (low, high) == pytest.approx((np.log1p(np.exp(-1.5)), np.log1p(np.exp(0.5))))


@pytest.mark.parametrize(
    ("low", "high", "numbers"),
    [
        (0.05, 2.0, ["0.05", "0.1", "0.2", "0.5", "1", "2"]),
        (0.001, 3.0, ["0.001", "0.01", "0.1", "1"]),  # decades alone, where there are many
        (1.1, 2.05, ["1.2", "1.4", "1.6", "1.8", "2"]),  # short: evenly spaced
    ],
)
def test_the_scale_of_a_landscape_has_a_few_plain_numbers(low, high, numbers):
    loss = np.linspace(low, high, 25).reshape(5, 5)
    of = Surface("l2:2", 21, 3, 1.0, loss, loss - high)
    bar = figures.landscapes(material().summary, [of]).figure.axes[-1]
    assert [label.get_text() for label in bar.get_yticklabels()] == numbers


# along


def test_lines_away_from_an_image_show_the_measured_values_and_the_promise_is_straight():
    walked = [walk(threat, example) for threat in ("linf:0.3", "l2:2") for example in (21, 22)]
    panels = figures.walks(material().summary, walked).figure.axes
    assert [a.get_title() for a in panels[:2]] == ["linf:0.3", "l2:2"]
    assert [panels[i].get_ylabel().partition(",")[0] for i in (0, 4)] == ["example 21", "example 22"]
    one = walked[0]
    for axes, heights in [(panels[i], one.loss) for i in (0, 1, 4, 5)] + [
        (panels[i], one.margin) for i in (2, 3, 6, 7)
    ]:
        drawn = {label: [line for line in axes.get_lines() if line.get_label() == label] for label in LABELS}
        np.testing.assert_allclose(drawn["gradient"][0].get_ydata(), heights[0])
        np.testing.assert_allclose([line.get_ydata() for line in drawn["random"]], heights[1:])
        np.testing.assert_allclose(drawn["gradient"][0].get_xdata(), [0, 0.25, 0.5, 0.75, 1])
        if heights is one.loss:
            np.testing.assert_allclose(drawn["promised"][0].get_ydata(), one.loss[0, 0] + 0.25 * np.linspace(0, 1, 5))


LABELS = ("gradient", "random", "promised")


def test_positive_margins_are_shaded_and_0_is_always_visible():
    sure = walk("l2:2", 21)
    sure.margin[:] -= 9
    for one in (walk("l2:2", 21), sure):
        axes = figures.walks(material().summary, [one]).figure.axes[1]
        (shade,) = axes.patches
        low, high = axes.get_ylim()
        assert low < one.margin.min()
        assert high > max(one.margin.max(), 0)
        assert (shade.get_y(), shade.get_y() + shade.get_height()) == pytest.approx((0, high))


def test_a_loss_of_0_is_drawn_at_the_foot_and_nan_is_not_drawn():
    torn = walk("l2:2", 21)
    torn.loss[1], torn.loss[2], torn.margin[2] = 0, np.nan, np.nan
    picture = figures.walks(material().summary, [torn])
    assert b"<svg" in figures.image_bytes(picture, "svg")
    foot = figures.along.MIN
    assert foot / 2 < picture.figure.axes[0].get_ylim()[0] <= foot


# first-layer


def squares(picture):
    """The images in the panels of filters, in the order they are drawn."""
    return [axes.get_images()[0] for axes in picture.figure.subfigs[0].axes if axes.get_images()]


def test_filters_are_in_the_order_of_their_largest_weight_on_one_scale_with_their_thresholds():
    found = layer()
    picture = figures.first_layers(material().summary, found, [raised(21)])
    order = sorted(range(4), key=lambda i: -np.abs(found.weight[i]).max())
    drawn = squares(picture)
    for square, i in zip(drawn, order, strict=True):
        np.testing.assert_allclose(square.get_array(), found.weight[i, 0])
        assert square.get_clim() == pytest.approx((-np.abs(found.weight).max(), np.abs(found.weight).max()))
    reported = [axes.get_xlabel() for axes in picture.figure.subfigs[0].axes[:4]]
    assert reported == [["0.30", "0", "–", "0.75"][i] for i in order]


@pytest.mark.parametrize("channels", [2, 3])
def test_filters_of_three_channels_are_in_colour_and_of_others_in_sum(channels):
    found = layer(1, channels)
    (square,) = squares(figures.first_layers(material().summary, found, [raised(21, 3)]))
    if channels == 2:
        np.testing.assert_allclose(square.get_array(), found.weight[0].sum(axis=0))
    else:
        most = np.abs(found.weight).max()
        drawn = (np.asarray(square.get_array()) - 0.5) * 2 * most
        np.testing.assert_allclose(drawn, found.weight[0].transpose(1, 2, 0), atol=1e-6)


def test_of_many_filters_32_are_drawn_and_the_caption_says_so():
    picture = figures.first_layers(material().summary, layer(40), [raised(21)])
    assert len(squares(picture)) == 32
    assert "The 32 of 40 filters with the largest weights." in picture.caption
    assert "filters with the largest" not in figures.first_layers(material().summary, layer(32), [raised(21)]).caption


def test_the_loss_of_rising_pixels_is_drawn_with_the_promise_the_thresholds_and_the_pixels():
    one = raised(22)
    picture = figures.first_layers(material().summary, layer(), [raised(21), one])
    places = [axes for axes in picture.figure.subfigs[1].axes if axes.axison]
    beside, panel = places[2:]
    assert beside.get_xlabel() == "example 22, class 3"
    assert [(p.get_y() + 0.5, p.get_x() + 0.5) for p in beside.patches] == [(2, 4), (1, 0)]
    drawn = {}
    for line in panel.get_lines():
        drawn.setdefault(line.get_label(), []).append(line)
    np.testing.assert_allclose([line.get_ydata() for line in drawn.pop("alone")], one.loss)
    np.testing.assert_allclose(drawn.pop("together")[0].get_ydata(), one.together)
    np.testing.assert_allclose(drawn.pop("promised")[0].get_ydata(), 0.1 + 0.3 * np.linspace(0, 1, 11))
    ticks = sorted(line.get_xdata()[0] for lines in drawn.values() for line in lines)
    assert ticks == [0.3, 0.75]
    assert panel.get_ylim()[0] == 0


# features


def test_the_classes_with_most_finds_between_them_are_shown_and_of_equal_ones_the_first():
    assert figures.often_confused([(7, 1), (1, 7), (2, 3), (2, 3), (2, 3), (5, 5)]) == (2, 3)
    assert figures.often_confused([(7, 1), (2, 3), (3, 2), (1, 7)]) == (1, 7)


def test_features_of_each_image_have_the_shape_of_its_class_and_the_colour_of_its_answer():
    clean, broken = picture_of("features").figure.axes
    assert (clean.get_title(), broken.get_title()) == ("clean\n4 of 4 correct", "linf:0.3\n2 of 4 correct")
    (three, eight), (blue, orange) = broken.collections, clean.collections
    np.testing.assert_array_equal(three.get_offsets(), [[0, 0], [0, 1]])
    np.testing.assert_array_equal(eight.get_offsets(), [[1, 0], [1, 1]])
    first, second = blue.get_facecolors()[0], orange.get_facecolors()[0]
    np.testing.assert_array_equal(three.get_facecolors(), [first, second])  # one of class 3 is read as 8
    np.testing.assert_array_equal(eight.get_facecolors()[0], second)
    assert not any((eight.get_facecolors()[1] == other).all() for other in (first, second))  # read as 5
    legend = picture_of("features").figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()][-1] == "another answer"


def test_an_area_has_the_colour_of_the_answers_in_it():
    places = np.array([[0.0, i] for i in range(6)] + [[9.0, i] for i in range(6)])
    labels = np.repeat([3, 8], 6)
    (axes,) = figures.feature_planes(material().summary, (3, 8), [Placed("clean", places, labels, labels)]).figure.axes
    area = axes.images[0].get_array()
    left, right = area[120, 5], area[120, -5]
    blue, orange = (group.get_facecolors()[0, :3] for group in axes.collections)
    # Lighter shades: a quarter of the way from white.
    np.testing.assert_allclose(left, 0.75 + 0.25 * blue, atol=1e-9)
    np.testing.assert_allclose(right, 0.75 + 0.25 * orange, atol=1e-9)


# gallery


def test_nearest_are_the_smallest_finds_with_images_of_equal_ones_the_earlier_example():
    sizes = {21: 0.2, 22: 0.1, 23: 0.2, 24: 0.05, 26: 0.15}
    evidence = Evidence(
        clean=(*map(clean, range(21, 26)), clean(26, correct=False)),
        claims=tuple(Claim(100 - e, e, "l2:2", PGD.spec, 0, -1, 1, 1) for e in sizes),
        verdicts=tuple(Verdict(100 - e, True, "", "", size, 0.1) for e, size in sizes.items()),
    )
    kept = {100 - e for e in sizes} - {100 - 24}  # without the image of 24; 26 was wrong before
    found = figures.nearest(PLAN, evidence, "l2:2", kept, 3)
    assert [c.example for c, _ in found] == [22, 21, 23]
    assert [c.example for c, _ in figures.nearest(PLAN, evidence, "l2:2", kept, 1)] == [22]
    assert figures.nearest(PLAN, evidence, "linf:0.3", kept, 3) == []


@pytest.mark.parametrize("channels", [1, 3])
def test_a_gallery_shows_the_images_their_difference_and_both_labels(channels):
    one = shown(channels)
    panels = figures.galleries(material().summary, [one]).figure.axes
    first, second, third = (np.asarray(axes.get_images()[0].get_array()) for axes in panels[:3])
    delta = one.adversarial - one.clean
    if channels == 1:
        np.testing.assert_array_equal(first, one.clean[0])
        np.testing.assert_array_equal(second, one.adversarial[0])
        np.testing.assert_array_equal(third, delta[0])
        assert panels[2].get_images()[0].get_clim() == pytest.approx((-abs(delta).max(), abs(delta).max()))
    else:
        np.testing.assert_array_equal(first, one.clean.transpose(1, 2, 0))
        np.testing.assert_array_equal(second, one.adversarial.transpose(1, 2, 0))
        scale = abs(delta).max()
        np.testing.assert_allclose((third - 0.5) * 2 * scale, delta.transpose(1, 2, 0), atol=1e-6)
    assert [axes.get_title() for axes in panels[:2]] == ["label 3", "read as 8"]


def test_a_gallery_has_a_row_per_threat_however_few_finds_it_has():
    figure = figures.galleries(material().summary, [shown(1), shown(1, example=22), shown(1, "l2:2")]).figure
    drawn = [bool(axes.get_images()) for axes in figure.axes]
    assert drawn == [True, True, True, False, True, True, True, True, True, True, False, False, False, False]


# all kinds


@pytest.mark.parametrize("kind", figures.KINDS)
def test_a_caption_says_what_was_measured_and_stands_in_the_picture(kind):
    picture = picture_of(kind)
    assert "mnist:test, n = 8; protocol quick; seed 0." in picture.caption
    below = picture.figure.get_supxlabel()
    assert " ".join(below.split()) == picture.caption


@pytest.mark.costly
@pytest.mark.parametrize(("kind", "form"), [*((kind, "svg") for kind in figures.KINDS), ("gallery", "png")])
def test_the_same_records_give_the_same_bytes_whatever_the_users_settings(kind, form):
    once = figures.image_bytes(picture_of(kind), form)
    with matplotlib.rc_context(
        {"lines.linewidth": 9, "font.size": 20, "axes.facecolor": "red", "xtick.direction": "in"}
    ):
        again = figures.image_bytes(picture_of(kind), form)
        assert matplotlib.rcParams["lines.linewidth"] == 9
    assert once == again
    assert b"Matplotlib" not in once
    assert picture_of(kind).caption in told_by(once, form)
    assert b"<dc:date>" not in once


def test_a_png_has_200_dots_per_inch():
    picture = picture_of("curve")
    height, width, _ = imread(io.BytesIO(figures.image_bytes(picture, "png"))).shape
    assert [width, height] == [round(200 * side) for side in picture.figure.get_size_inches()]


@pytest.mark.costly
@pytest.mark.parametrize("kind", ["curve", "trade-off", "queries", "along"])
def test_a_legend_covers_no_data(kind):
    picture = picture_of(kind)
    picture.figure.draw_without_rendering()
    (legend,) = picture.figure.legends
    frame = legend.get_window_extent()
    assert not any(frame.overlaps(axes.get_window_extent()) for axes in picture.figure.axes)


def test_up_to_fifty_lines_differ_in_colour_or_style():
    looks = {tuple(map(str, figures.picture.line_style(i).values())) for i in range(50)}
    assert len(looks) == 50


def test_names_of_files_hold_nothing_but_letters_figures_dots_and_dashes():
    assert figures.picture.file_name("curve", "../my data:test") == "curve-my-data-test"


@pytest.mark.processes
def test_no_window_and_no_pyplot():
    code = "import sys, robench.results.figures; print('matplotlib.pyplot' in sys.modules, 'torch' in sys.modules)"
    reported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert reported.stdout.split() == ["False", "False"]
