from itertools import combinations
from random import Random

import msgspec
import pytest

from robench.evidence.records import Evidence, PassedOver, PlannedAttack, PlannedThreat
from robench.results.summarising import summarise
from robench.results.summary import Summary
from robench.results.tables.breakdown import across, attack_frame, breakdown, smallest_set

from ..made import EVIDENCE, PLAN, accepted, claim, clean, exhausted, plan

ATTACKS = tuple(PlannedAttack(name, f"{name}()", 1) for name in ("pgd", "apgd", "square"))


def measured(broken, n=10, every_attack=True, leave=(), **changes):
    """`broken` by attack, of examples 1 ... n-1; example 0 is wrong. Those in `leave` never met the last."""
    asked = plan(tuple(range(n)), (PlannedThreat("linf:0.3", ATTACKS),), every_attack, **changes)
    pairs = [(f"{name}()", e) for name, examples in broken.items() for e in examples]
    vain = [
        exhausted(e, 1, attack=a.spec)
        for a in ATTACKS
        for e in range(1, n)
        if e not in broken.get(a.label, ()) and not (a.label in leave and e == n - 1)
    ]
    evidence = Evidence(
        clean=tuple(clean(e, correct=e != 0) for e in range(n)),
        claims=tuple(claim(i, e, attack=spec) for i, (spec, e) in enumerate(pairs, 1)),
        verdicts=tuple(accepted(i) for i in range(1, len(pairs) + 1)),
        exhausted=tuple(vain),
    )
    return summarise(asked, evidence, "0.1.0")


FELLED = {"pgd": (1, 2, 3), "apgd": (3, 4), "square": (4, 2)}


def test_each_attack_of_a_run_with_every_attack_has_the_outcomes_it_would_give_alone():
    outcomes = {a.name: a.outcomes for a in measured(FELLED, leave=("apgd",)).threats[0].attacks}
    assert outcomes == {"pgd": "WBBBSSSSSS", "apgd": "WSSBBSSSSO", "square": "WSBSBSSSSS"}
    assert {a.outcomes for a in measured(FELLED, every_attack=False).threats[0].attacks} == {""}


def test_the_smallest_set_of_attacks_is_named_under_the_breakdown():
    assert breakdown(measured(FELLED)).footer == (
        "linf:0.3: the smallest set of attacks that breaks the same 4: pgd, apgd.",
    )


def test_what_another_round_would_break_is_estimated_under_the_breakdown():
    """Of 10 searched examples 1 fell: 1 * 9 / 9 of those left is expected to break next, and at most 0.445 * 9."""
    near = msgspec.structs.replace(ATTACKS[1], near=0.1)
    question = plan(tuple(range(20)), (PlannedThreat("linf:0.3", (ATTACKS[0], near)),))
    far = tuple(PassedOver(e, "linf:0.3", near.spec, "near", 0.5) for e in range(10, 20))
    evidence = Evidence(
        clean=tuple(map(clean, range(20))),
        claims=(claim(1, 0, attack=near.spec),),
        verdicts=(accepted(1),),
        exhausted=tuple(exhausted(e, 1, attack=a.spec) for a in (ATTACKS[0], near) for e in range(a is near, 20))[:29],
        passed_over=far,
    )
    summary = summarise(question, evidence, "0.1.0")
    assert [(a.tried, a.broken, a.passed_over) for a in summary.threats[0].attacks] == [(20, 0, 0), (10, 1, 10)]
    assert breakdown(summary).footer[-1] == (
        "linf:0.3: the second round searched 10 examples near the boundary and broke 1; one more is expected to break"
        " 1.0 [0.0, 4.0] of the 9 left, or fewer."
    )
    one_open = msgspec.structs.replace(evidence, passed_over=far[1:])
    assert not any("second round" in text for text in breakdown(summarise(question, one_open, "0.1.0")).footer)


def test_no_smallest_set_is_named_where_an_attack_is_not_known_on_every_example():
    for summary in (measured(FELLED, leave=("square",)), measured(FELLED, every_attack=False), measured({})):
        assert not any("smallest" in sentence for sentence in breakdown(summary).footer)


def by_trying_all(broken):
    whole = set().union(*broken.values())
    sizes = range(len(broken) + 1)
    return next(k for k in sizes for c in combinations(broken, k) if set().union(*(broken[a] for a in c)) == whole)


@pytest.mark.parametrize("seed", range(40))
def test_the_smallest_set_is_as_small_as_trying_all_subsets_finds_and_breaks_as_much(seed):
    random = Random(seed)
    broken = {f"a{i}": frozenset(e for e in range(12) if random.random() < 0.35) for i in range(7)}
    chosen = smallest_set(broken)
    assert frozenset().union(*(broken[a] for a in chosen)) == frozenset().union(*broken.values())
    assert len(chosen) == by_trying_all(broken)
    assert chosen == sorted(chosen)


def test_too_many_attacks_for_an_exact_answer_give_none():
    assert smallest_set({f"a{i}": frozenset({i, (i + 1) % 21}) for i in range(21)}) is None
    assert len(smallest_set({f"a{i}": frozenset({i}) for i in range(100)})) == 100  # each is needed


def test_the_table_of_attacks_by_models_has_a_column_per_model_and_all_attacks_together_last():
    table = across([measured(FELLED), measured({"pgd": (1,)}, name="other", leave=("square",))])
    assert table.markdown().partition("\n\n")[2].partition("\n\n")[0] == (
        "| threat   | attack       |   net |           other |\n"
        "|:---------|:-------------|------:|----------------:|\n"
        "| linf:0.3 | pgd          |  60.0 |            80.0 |\n"
        "| linf:0.3 | apgd         |  70.0 |            90.0 |\n"
        "| linf:0.3 | square       |  70.0 |          8 of 8 |\n"
        "| linf:0.3 | all together |  50.0 | ≤ 80.0 (1 open) |\n"
    ).rstrip("\n")


def test_the_table_of_attacks_keeps_bounds_and_counts_what_an_early_stop_left():
    rows = across([summarise(PLAN, EVIDENCE, "")]).frame.to_numpy().tolist()
    assert rows[:3] == [
        ["linf:0.3", "pgd", "3 of 5"],
        ["linf:0.3", "apgd", "4 of 5"],
        ["linf:0.3", "all together", "≤ 62.5 (2 open, 1 failed)"],
    ]


def test_outcomes_survive_the_summary_file_and_stay_out_of_csv():
    summary = measured(FELLED)
    assert Summary.from_json(summary.to_json()) == summary
    frame = attack_frame(summary)
    assert "outcomes" not in frame.columns
    fields = set(msgspec.structs.asdict(summary.threats[0].attacks[0])) - {"name", "outcomes"}
    assert fields <= set(frame.columns)
