"""The sign of masking that a run without the check shows: on rows made by hand, and in a summary."""

import msgspec
import pytest

from robench.evidence.records import Evidence, MaskingDepth, MaskingState, PlannedAttack, PlannedThreat
from robench.results.attack_rows import AttackEntry
from robench.results.masking.signs import sign
from robench.results.summary import summarise

from ..made import accepted, claim, clean, exhausted, plan

THREAT = "linf:0.3"
PGD, SQUARE, BRENDEL_BETHGE = "pgd(steps=40)", "square(steps=300)", "brendel-bethge(steps=100)"


def row(spec, broken, tried, **options):
    return AttackEntry(spec.partition("(")[0], tried, None, broken, None, 0.0, 0, 0, spec, **options)


@pytest.mark.parametrize(("broken", "tried"), [(2, 346), (3, 20), (7, 65), (5, 78), (1, 1), (0, 0)])
def test_few_finds_of_another_kind_are_no_sign(broken, tried):
    assert sign([row(PGD, 10, 500), row(SQUARE, broken, tried)]) == ""


@pytest.mark.parametrize(("broken", "tried"), [(5, 20), (25, 209), (7, 7), (60, 96)])
def test_many_finds_of_another_kind_are_a_sign_and_both_numbers_are_named(broken, tried):
    text = sign([row(PGD, 10, 500), row(SQUARE, broken, tried)])
    assert f"square broke {broken} of {tried}," in text
    assert "add --masking on" in text


def test_finds_before_any_gradient_attack_and_of_gradient_attacks_are_no_sign():
    assert sign([row(SQUARE, 90, 100), row(PGD, 5, 10)]) == ""
    assert sign([row(PGD, 5, 100), row("apgd(loss='margin')", 90, 95)]) == ""
    assert sign([row(SQUARE, 90, 100)]) == sign([]) == ""


def test_finds_near_the_boundary_alone_are_no_sign():
    assert sign([row(PGD, 0, 100), row(BRENDEL_BETHGE, 10, 20, sample=20, near=0.05, passed_over=80)]) == ""
    assert sign([row(PGD, 0, 100), row(BRENDEL_BETHGE, 30, 100, sample=20, near=0.05)])


def test_of_several_attacks_those_that_broke_much_are_named():
    text = sign([row(PGD, 0, 100), row(SQUARE, 0, 100), row(BRENDEL_BETHGE, 30, 100)])
    assert "brendel-bethge broke 30 of 100" in text
    assert "square" not in text


PLANNED = PlannedThreat(THREAT, (PlannedAttack("pgd", PGD, 1), PlannedAttack("square", SQUARE, 1)))
PLAN = plan(examples=tuple(range(100)), threats=(PLANNED,))
FINDS = Evidence(
    clean=tuple(clean(i) for i in range(100)),
    claims=tuple(claim(i + 1, i, THREAT, SQUARE) for i in range(40)),
    verdicts=tuple(accepted(i + 1) for i in range(40)),
    exhausted=(
        *(exhausted(i, 1, THREAT, PGD) for i in range(100)),
        *(exhausted(i, 1, THREAT, SQUARE) for i in range(40, 100)),
    ),
)


def test_the_summary_notes_the_sign_with_the_threat():
    (note,) = summarise(PLAN, FINDS, "0").notes
    assert note.startswith(f"{THREAT}: of the images that gradient attacks had left, square broke 40 of 100,")


def test_the_summary_notes_no_sign_where_masking_was_checked_or_attacks_ran_on_everything():
    checked = (MaskingState(THREAT, MaskingDepth.ON, MaskingDepth.ON, sampled=tuple(range(100))),)
    assert summarise(PLAN, msgspec.structs.replace(FINDS, masking=checked), "0").notes == ()
    assert summarise(msgspec.structs.replace(PLAN, every_attack=True), FINDS, "0").notes == ()
