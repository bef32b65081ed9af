"""The sign of masking that a run without the check shows, on records made by hand."""

import msgspec
import pytest

from robench.evidence.records import Evidence, MaskingDepth, MaskingState, PlannedAttack, PlannedThreat
from robench.results.attack_rows import AttackCounts
from robench.results.masking.signs import sign
from robench.results.summarising import summarise

from ..made import accepted, claim, clean, exhausted, plan

THREAT = "linf:0.3"
PGD, SQUARE, BRENDEL_BETHGE = "pgd(steps=40)", "square(steps=300)", "brendel-bethge(steps=100)"


def planned(spec, **options):
    return PlannedAttack(spec.partition("(")[0], spec, 1, **options)


def after(broken, searched, **counts):
    return AttackCounts(searched_after=searched, broken_after=broken, **counts)


@pytest.mark.parametrize(("broken", "searched"), [(2, 346), (3, 20), (7, 65), (5, 78), (4, 4), (1, 1), (0, 0)])
def test_few_finds_of_another_kind_are_no_sign(broken, searched):
    assert sign({planned(PGD): AttackCounts(), planned(SQUARE): after(broken, searched)}) == ""


@pytest.mark.parametrize(("broken", "searched"), [(5, 20), (25, 209), (7, 7), (60, 96)])
def test_many_finds_of_another_kind_are_a_sign_and_both_numbers_are_named(broken, searched):
    text = sign({planned(PGD): AttackCounts(), planned(SQUARE): after(broken, searched)})
    assert f"square broke {broken} of {searched}," in text
    assert "gradients may be masked" in text


def test_of_several_attacks_those_that_broke_much_are_named():
    text = sign({planned(SQUARE): after(0, 100), planned(BRENDEL_BETHGE): after(30, 100)})
    assert "brendel-bethge broke 30 of 100" in text
    assert "square" not in text


def test_attacks_that_have_not_ended_or_searched_near_images_alone_are_no_sign():
    near = planned(BRENDEL_BETHGE, sample=20, near=0.05)
    assert sign({planned(SQUARE): after(13, 13, pending_after=39)}) == ""
    assert sign({near: after(10, 20, passed_over=80)}) == ""
    assert sign({near: after(30, 100)})


def runs(*attacks, **options):
    return plan(examples=tuple(range(100)), threats=(PlannedThreat(THREAT, tuple(map(planned, attacks))),), **options)


def evidence(breaks, searched):
    """100 correct examples: what each attack broke, and what it searched to the end."""
    found = [(attack, example) for attack, examples in breaks for example in examples]
    return Evidence(
        clean=tuple(clean(i) for i in range(100)),
        claims=tuple(claim(n + 1, example, THREAT, attack) for n, (attack, example) in enumerate(found)),
        verdicts=tuple(accepted(n + 1) for n in range(len(found))),
        exhausted=tuple(exhausted(i, 1, THREAT, attack) for attack, examples in searched for i in examples),
    )


AFTER_PGD = evidence([(PGD, range(10)), (SQUARE, range(10, 40))], [(PGD, range(10, 100)), (SQUARE, range(40, 100))])


def notes(of_plan, records):
    return summarise(of_plan, records, "0").notes


def test_the_summary_notes_the_sign_with_the_threat():
    (note,) = notes(runs(PGD, SQUARE), AFTER_PGD)
    assert note.startswith(f"{THREAT}: of the images that gradient attacks had left, square broke 30 of 90,")


def test_no_sign_is_noted_where_masking_was_checked():
    checked = (MaskingState(THREAT, MaskingDepth.ON, MaskingDepth.ON, sampled=tuple(range(100))),)
    assert notes(runs(PGD, SQUARE), msgspec.structs.replace(AFTER_PGD, masking=checked)) == ()


def test_no_gradient_attack_before_it_is_no_sign():
    assert notes(runs(SQUARE, PGD), AFTER_PGD) == notes(runs(SQUARE), AFTER_PGD) == ()


def test_an_attack_that_ran_first_says_nothing_after_a_resumed_run_in_another_order():
    first = evidence([(SQUARE, range(40)), (PGD, ())], [(SQUARE, range(40, 100)), (PGD, range(40, 100))])
    assert notes(runs(PGD, SQUARE), first) == ()


def test_merged_runs_of_one_attack_each_count_what_both_searched_in_either_order():
    apart = [(PGD, range(10, 100)), (SQUARE, range(40, 100))]
    merged = [evidence(breaks, apart) for breaks in ([(PGD, range(10)), (SQUARE, range(40))],
                                                    [(SQUARE, range(40)), (PGD, range(10))])]  # fmt: skip
    for records in merged:
        (note,) = notes(runs(PGD, SQUARE), records)
        assert "square broke 30 of 90," in note


def test_a_stopped_attack_says_nothing_yet():
    stopped = evidence([(PGD, range(10)), (SQUARE, range(10, 40))], [(PGD, range(10, 100))])
    assert notes(runs(PGD, SQUARE), stopped) == ()


def test_with_every_attack_each_has_searched_everything():
    everything = evidence([(PGD, range(10)), (SQUARE, range(40))], [(PGD, range(10, 100)), (SQUARE, range(40, 100))])
    (note,) = notes(runs(PGD, SQUARE, every_attack=True), everything)
    assert "square broke 30 of 90," in note
