"""Attacks of the second round search what earlier ones brought near, and the same examples after every interruption."""

import contextlib
from dataclasses import replace
from itertools import pairwise

import msgspec
import pytest
import torch

from robench.errors import UserError
from robench.evaluation import runner
from robench.evaluation.planning import make_plan
from robench.evaluation.rounds import rounds, sample
from robench.evaluation.runner import Evaluation
from robench.evidence.records import PlannedAttack
from robench.evidence.referee import Referee
from robench.evidence.store import RunFile
from robench.problem.threats import parse
from robench.protocols import AttackChoice, Protocol, ThreatChoice, read
from robench.results.merging import joint_plan, merge
from robench.results.outcomes import outcomes
from robench.results.summarising import summarise
from robench.search.attacks.apgd import APGD
from robench.search.attacks.pgd import PGD

from ..exact_distances import Linear, classifier, toy
from .test_runner import Pulled

THREAT = "linf:0.02"
FIRST = AttackChoice("pgd", PGD(steps=4, step_size=1.0, random_start=False))
SECOND = AttackChoice("apgd", APGD(steps=6), restarts=2, near=0.7)


def model():
    return classifier(Linear())


def protocol(*attacks):
    return Protocol("two rounds", "", "toy", None, 0, (ThreatChoice(parse(THREAT), attacks),))


BOTH = protocol(FIRST, SECOND)
CONDITIONS = {"seed": 0, "every_attack": False, "slots": 8}


def answered(run, split, question=BOTH, *, every_attack=False, **more):
    searched = model()
    plan = make_plan(searched, split, question, **(CONDITIONS | {"every_attack": every_attack}))
    return Evaluation(plan, question, searched, Referee(searched), split, run, **more).answer()


def settled(evidence):
    """What the second round rests on, and what it did."""
    second = SECOND.attack.spec
    searched = {s.example: s.done for s in evidence.exhausted if s.attack == second and s.done}
    return set(evidence.nearest), set(evidence.passed_over), searched


@pytest.fixture(scope="module")
def split():
    return toy(model(), 40)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "r.robench"


@pytest.fixture(scope="module")
def whole(split):
    with RunFile.in_memory() as run:
        summary = answered(run, split)
        return summary, run.evidence()


def attack_rows(summary):
    return {a.name: a for a in summary.threats[0].attacks}


def test_the_share_left_is_that_of_the_closed_form(split, whole):
    """On a linear model the best point of the ball is its corner, and one step goes there."""
    summary, evidence = whole
    weight = model().module.weight
    towards = torch.stack([weight[1] - weight[0], weight[0] - weight[1]])[split.y].sign().view_as(split.x)
    rows = torch.arange(len(split))
    with torch.no_grad():
        before, after = model()(split.x), model()((split.x + 0.02 * towards).clamp(0, 1))
    margins = [(z[rows, split.y] - z[rows, 1 - split.y]).tolist() for z in (before, after)]
    shares = {n: end / start for n, start, end in zip(split.numbers, *margins, strict=True) if end > 0}
    assert len(shares) > 5
    assert {n.example: n.left for n in evidence.nearest} == pytest.approx(shares, rel=1e-4)
    assert {n for n, letter in zip(split.numbers, summary.threats[0].outcomes, strict=True) if letter == "S"} == set(
        shares
    )


def test_near_examples_are_searched_and_far_ones_passed_over(whole):
    summary, evidence = whole
    left = {n.example: n.left for n in evidence.nearest}
    near = {example for example, share in left.items() if share <= SECOND.near}
    far = left.keys() - near
    assert near
    assert far
    _, passed, searched = settled(evidence)
    assert {p.example for p in passed} == far
    assert searched == dict.fromkeys(near, 0b11)
    entry = attack_rows(summary)["apgd"]
    assert (entry.tried, entry.standing, entry.passed_over, entry.near) == (len(near), len(near), len(far), 0.7)
    assert summary.threats[0].open == 0


def test_with_every_attack_nothing_is_passed_over(split):
    with RunFile.in_memory() as run:
        summary = answered(run, split, every_attack=True)
        assert attack_rows(summary)["apgd"].tried == len(split)
        assert not run.evidence().passed_over


@pytest.mark.costly
@pytest.mark.parametrize("looks", [1, 3, 5, 6, 7, 8, 9, 11])
def test_a_run_that_is_interrupted_in_either_round_settles_the_same(path, split, whole, monkeypatch, looks):
    monkeypatch.setattr(runner, "COMMIT_EVERY", 0)
    with pytest.raises(KeyboardInterrupt), RunFile.open(path) as run:
        answered(run, split, progress=Pulled(looks))
    with RunFile.open(path) as run:
        summary = answered(run, split)
        assert settled(run.evidence()) == settled(whole[1])
    assert summary.union == whole[0].union


def test_a_kill_between_the_rounds_changes_nothing(path, split, whole, monkeypatch):
    jobs = Evaluation._jobs

    def killed_before_the_second(self, steps, *arguments, **more):
        if steps and steps[0][1].near is not None:
            raise KeyboardInterrupt
        return jobs(self, steps, *arguments, **more)

    with monkeypatch.context() as patch, RunFile.open(path) as run:
        patch.setattr(Evaluation, "_jobs", killed_before_the_second)
        with pytest.raises(KeyboardInterrupt):
            answered(run, split)
    with RunFile.open(path) as run:
        assert run.evidence().nearest
        assert not run.evidence().passed_over
        answered(run, split)
        assert settled(run.evidence()) == settled(whole[1])


def test_a_run_without_measured_margins_searches_everything_that_stands(split, path, whole):
    """What was searched before the second round was planned may be near: nothing is passed over unseen."""
    with RunFile.open(path) as run:
        answered(run, split, protocol(FIRST))
    with RunFile.open(path) as run:
        answered(run, split)
        _, passed, searched = settled(run.evidence())
    assert not passed
    assert set(searched) == {n.example for n in whole[1].nearest}


def test_a_passed_deadline_begins_no_second_round(split):
    with RunFile.in_memory() as run:
        summary = answered(run, split, deadline=0.0)
        assert summary.union.open
        assert not run.evidence().passed_over


def merged(*runs):
    plans, evidences = zip(*[(run.plan(), run.evidence()) for run in runs], strict=True)
    evidence = merge(evidences).evidence
    return joint_plan(plans, evidence), evidence


def test_halves_settle_what_the_whole_does(split, whole):
    halves = [split.take(range(0, 40, 2)), split.take(range(1, 40, 2))]
    with RunFile.in_memory() as one, RunFile.in_memory() as other:
        answered(one, halves[0])
        answered(other, halves[1])
        plan, evidence = merged(one, other)
    assert settled(evidence) == settled(whole[1])
    assert summarise(plan, evidence, "").union.outcomes == whole[0].union.outcomes


def test_complete_runs_that_came_differently_near_merge_into_a_complete_one(split):
    """What one run has settled stays settled, also where the other came nearer with an attack of its own."""
    weaker = protocol(AttackChoice("weak", PGD(steps=1, step_size=0.2, random_start=False)), SECOND)
    with RunFile.in_memory() as one, RunFile.in_memory() as other:
        answered(one, split)
        answered(other, split, weaker)
        strong, weak = ({n.example: n.left for n in run.evidence().nearest} for run in (one, other))
        assert any(strong[example] <= SECOND.near < weak[example] for example in strong)
        plan, evidence = merged(one, other)
    assert "O" not in outcomes(plan, evidence, THREAT)
    assert {n.example: n.left for n in evidence.nearest if n.example in strong} == strong


def test_an_example_is_passed_over_only_if_it_is_farther_than_the_plan_allows(split, whole):
    """A record that contradicts the plan counts for nothing: its example is open."""
    evidence = whole[1]
    with RunFile.in_memory() as run:
        answered(run, split)
        plan = run.plan()
    farthest = max(p.value for p in evidence.passed_over)
    for near, still_open in ((SECOND.near, 0), (farthest, len(evidence.passed_over))):
        wider = tuple(_with_near(a, near) for a in plan.threats[0].attacks)
        question = msgspec.structs.replace(plan, threats=(msgspec.structs.replace(plan.threats[0], attacks=wider),))
        assert outcomes(question, evidence, THREAT).count("O") == still_open


def _with_near(attack, near):
    return attack if attack.near is None else msgspec.structs.replace(attack, near=near)


@pytest.mark.parametrize("near", ["0", "1", "1.5", "true", "-0.1", "nan", "'much'"])
def test_a_share_that_is_none_is_refused(near, tmp_path):
    file = tmp_path / "p.toml"
    file.write_text(
        f"[[threat]]\nthreat = '{THREAT}'\nattacks = [{{ attack = 'pgd' }}, {{ attack = 'apgd', near = {near} }}]"
    )
    with pytest.raises(UserError, match=r"near=.* share of the clean margin"):
        read(file)


def test_a_second_round_needs_a_first(tmp_path):
    file = tmp_path / "p.toml"
    file.write_text(f"[[threat]]\nthreat = '{THREAT}'\nattacks = [{{ attack = 'apgd', near = 0.1 }}]")
    with pytest.raises(UserError, match="no attack before it"):
        read(file)


# A sample first

WEAK = AttackChoice("weak", PGD(steps=1, step_size=0.5, random_start=False))
SAMPLED = AttackChoice("apgd", APGD(steps=6), sample=40)


@pytest.fixture(scope="module")
def many():
    return toy(model(), 120)


def drawn(split):
    return sample(
        split.numbers, make_plan(model(), split, protocol(FIRST, SAMPLED), **CONDITIONS).threats[0].attacks[1]
    )


def searched_by(evidence, choice):
    return {s.example for s in evidence.exhausted if s.attack == choice.attack.spec and s.done}


def test_an_attack_that_breaks_nothing_of_its_sample_searches_nothing_else(many):
    """On a linear model one step of PGD goes to the best point, so nothing is left to break."""
    with RunFile.in_memory() as run:
        summary = answered(run, many, protocol(FIRST, SAMPLED))
        evidence = run.evidence()
    standing = {n for n, letter in zip(many.numbers, summary.threats[0].outcomes, strict=True) if letter == "S"}
    assert searched_by(evidence, SAMPLED) == standing & drawn(many)
    assert {p.example for p in evidence.passed_over} == standing - drawn(many)
    assert {p.value for p in evidence.passed_over} == {len(standing & drawn(many))}
    assert summary.threats[0].open == 0
    entry = attack_rows(summary)["apgd"]
    assert (entry.sample, entry.passed_over) == (40, len(standing - drawn(many)))


def test_an_attack_that_breaks_one_of_its_sample_searches_everything(many, whole_many):
    with RunFile.in_memory() as run:
        summary = answered(run, many, protocol(WEAK, SAMPLED))
        evidence = run.evidence()
    broken = {c.example for c, v in evidence.judged() if v.accepted and c.attack == SAMPLED.attack.spec}
    assert broken & drawn(many)
    assert not evidence.passed_over
    assert summary.union.outcomes == whole_many.union.outcomes


@pytest.fixture(scope="module")
def whole_many(many):
    with RunFile.in_memory() as run:
        return answered(run, many, protocol(WEAK, replace(SAMPLED, sample=None)))


def test_a_sample_that_is_too_small_decides_nothing(split):
    with RunFile.in_memory() as run:
        summary = answered(run, split, protocol(FIRST, replace(SAMPLED, sample=5)))
        evidence = run.evidence()
    standing = {n for n, letter in zip(split.numbers, summary.threats[0].outcomes, strict=True) if letter == "S"}
    assert searched_by(evidence, SAMPLED) == standing
    assert not evidence.passed_over


@pytest.fixture(scope="module", params=[FIRST, WEAK])
def uninterrupted(request, many):
    """A question, the outcomes under any threat, and what was passed over."""
    question = protocol(request.param, SAMPLED)
    with RunFile.in_memory() as run:
        return question, answered(run, many, question).union, run.evidence().passed_over


@pytest.mark.costly
@pytest.mark.parametrize("looks", [1, 5, 9, 13, 18, 26])
def test_an_interrupted_sample_decides_as_one_that_is_not(path, many, monkeypatch, uninterrupted, looks):
    monkeypatch.setattr(runner, "COMMIT_EVERY", 0)
    question, union, passed_over = uninterrupted
    with contextlib.suppress(KeyboardInterrupt), RunFile.open(path) as run:
        answered(run, many, question, progress=Pulled(looks))
    with RunFile.open(path) as run:
        assert answered(run, many, question).union == union
        assert run.evidence().passed_over == passed_over


def test_a_larger_sample_holds_every_smaller_one(many):
    attack = PlannedAttack("a", "a", 1)
    samples = [sample(many.numbers, msgspec.structs.replace(attack, sample=n)) for n in (5, 20, 60, 120, 500)]
    assert [len(drawn) for drawn in samples] == [5, 20, 60, 120, 120]
    assert all(one < other for one, other in pairwise(samples[:4]))
    assert sample(many.numbers[::-1], msgspec.structs.replace(attack, sample=20)) == samples[1]


def test_with_near_too_an_attack_searches_its_sample_and_what_is_near(many):
    both = replace(SAMPLED, near=0.5)
    with RunFile.in_memory() as run:
        summary = answered(run, many, protocol(FIRST, both))
        evidence = run.evidence()
    standing = {n for n, letter in zip(many.numbers, summary.threats[0].outcomes, strict=True) if letter == "S"}
    near = {n.example for n in evidence.nearest if n.left <= 0.5} & standing
    assert near - drawn(many)
    assert searched_by(evidence, both) == standing & drawn(many) | near
    assert summary.threats[0].open == 0
    assert attack_rows(summary)["apgd"].passed_over == len(standing - drawn(many) - near)


def test_merged_shards_whose_samples_differ_leave_nothing_open(many):
    halves = [many.take(range(0, 120, 2)), many.take(range(1, 120, 2))]
    with RunFile.in_memory() as one, RunFile.in_memory() as other:
        answered(one, halves[0], protocol(FIRST, SAMPLED))
        answered(other, halves[1], protocol(WEAK, SAMPLED))
        answered(other, halves[1], protocol(FIRST, SAMPLED))
        plan, evidence = merged(one, other)
    assert "O" not in outcomes(plan, evidence, THREAT)


@pytest.mark.parametrize("given", ["0", "-5", "0.2", "true", "10000000", "'some'"])
def test_a_sample_that_is_no_number_of_examples_is_refused(given, tmp_path):
    file = tmp_path / "p.toml"
    file.write_text(f"[[threat]]\nthreat = '{THREAT}'\nattacks = [{{ attack = 'pgd', sample = {given} }}]")
    with pytest.raises(UserError, match=r"sample=.* a number of examples"):
        read(file)


def test_rounds_keep_the_order_of_attacks_and_end_with_those_of_near_examples():
    one, two = parse(THREAT), parse("l2:1")
    attacks = [("a", None, None), ("n", 0.1, None), ("s", None, 20), ("b", None, None), ("t", 0.1, 20)]
    planned = [PlannedAttack(label, label, 1, near, part) for label, near, part in attacks]
    steps = [(ThreatChoice(t, ()), a, FIRST) for t in (one, two) for a in planned[: 5 if t is one else 2]]
    found = [("".join(s[1].label for s in r.steps), r.part) for r in rounds(steps)]
    assert found == [("aa", "all"), ("s", "sample"), ("sb", "all"), ("t", "sample"), ("t", "all"), ("ntn", "near")]
