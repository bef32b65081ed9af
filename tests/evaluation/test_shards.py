"""Shards of an evaluation merge, in any order, into what one process finds."""

import itertools

import msgspec
import pytest

from robench.cli.merge import write_joint
from robench.errors import UserError
from robench.evaluation.planning import make_plan
from robench.evaluation.recorded import recorded_plan, recorded_summary
from robench.evaluation.rounds import sample
from robench.evaluation.runner import Evaluation
from robench.evaluation.shards import parse, searched, sharded
from robench.evidence.records import MIN_SAMPLE, Shard
from robench.evidence.referee import Referee
from robench.evidence.store import RunFile
from robench.problem.threats import parse as threat
from robench.protocols import AttackChoice, Protocol, ThreatChoice
from robench.results.tables import render
from robench.search.attacks.apgd import APGD
from robench.search.attacks.pgd import PGD

from ..exact_distances import Linear, classifier, toy
from .test_runner import Pulled

EXAMPLES = 40
SHORT = AttackChoice("short", PGD(steps=1, step_size=0.3, random_start=False))  # does not reach the corner of the ball
CORNER = AttackChoice("corner", PGD(steps=4, step_size=1.0, random_start=False))  # breaks all that can be broken
SAMPLED = AttackChoice("sampled", APGD(steps=6), sample=2 * MIN_SAMPLE)
NEAR = AttackChoice("near", APGD(steps=5), restarts=2, near=0.7)


def question(*attacks):
    threats = (ThreatChoice(threat("linf:0.02"), attacks), ThreatChoice(threat("l2:0.1"), (CORNER,)))
    return Protocol("shards", "", "toy", None, 0, threats)


BREAKS = question(SHORT, SAMPLED, NEAR)  # the second attack breaks one of its sample, so it searches every example
BREAKS_NONE = question(CORNER, SAMPLED, NEAR)


def answered(path, protocol, shard=None, examples=EXAMPLES, **more):
    searched_model = classifier(Linear())
    split = toy(searched_model, examples)
    plan = make_plan(searched_model, split, protocol, seed=0, every_attack=False, slots=8)
    with RunFile.open(path) as run:
        evaluation = Evaluation(
            sharded(plan, shard), protocol, searched_model, Referee(searched_model), split, run, **more
        )
        return evaluation.answer()


def joined(out, paths):
    with RunFile.read(paths[0]) as first, RunFile.read(paths[1]) as second:
        files = [first, second]
        write_joint(out, files, [recorded_plan(file) for file in files])
    return recorded_summary(out)


def merged(folder, paths):
    """All of them, one after the other."""
    out = paths[0]
    for number, path in enumerate(paths[1:]):
        target = folder / f"{'-'.join(p.stem for p in paths)}-{number}.robench"
        joined(target, [out, path])
        out = target
    return out


def letters(summary):
    return [entry.outcomes for entry in (*summary.threats, summary.union)]


@pytest.fixture(scope="module", params=[BREAKS, BREAKS_NONE], ids=["breaks one", "breaks none"])
def whole(request, tmp_path_factory):
    """What one process finds."""
    path = tmp_path_factory.mktemp("whole") / "whole.robench"
    return request.param, path, answered(path, request.param)


def test_the_questions_are_decided_by_their_sample(whole):
    protocol, path, summary = whole
    with RunFile.read(path) as run:
        passed = {p.example for p in run.evidence().passed_over if p.rule == "sample"}
    found = {a.name: a for a in summary.threats[0].attacks}["sampled"]
    assert (found.broken > 0, len(passed) > 0) == ((True, False) if protocol is BREAKS else (False, True))
    assert summary.threats[0].open == 0


@pytest.mark.costly
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shards_merge_into_the_outcomes_and_the_table_of_one_process(whole, tmp_path, count):
    protocol, path, summary = whole
    paths = [tmp_path / f"{index}.robench" for index in range(1, count + 1)]
    for index, part in enumerate(paths, start=1):
        found = answered(part, protocol, Shard(index, count))
        assert found.union.accuracy >= summary.union.accuracy
    orders = [paths, paths[::-1], paths[1:] + paths[:1]] if count > 1 else [paths]
    for order in {tuple(order): order for order in orders}.values():
        out = merged(tmp_path, order)
        again = recorded_summary(out)
        assert letters(again) == letters(summary)
        assert render([again], intervals=True) == render([summary], intervals=True)
        assert again.data == summary.data
        with RunFile.read(out) as run, RunFile.read(path) as one:
            assert set(run.evidence().passed_over) == set(one.evidence().passed_over)
            assert recorded_plan(run) == recorded_plan(one)


def test_a_shard_searches_its_examples_and_the_samples_of_the_whole(tmp_path):
    path = tmp_path / "s.robench"
    summary = answered(path, BREAKS_NONE, Shard(2, 4))
    with RunFile.read(path) as run:
        plan, evidence = recorded_plan(run), run.evidence()
    assert plan.examples == tuple(range(EXAMPLES))
    assert len(evidence.clean) == EXAMPLES
    own = {number for number in plan.examples if number % 4 == 1}
    found = {c.example for c in evidence.claims} | {s.example for s in evidence.exhausted}
    assert found <= searched(plan, "sample")
    assert found - own == sample(plan.examples, plan.threats[0].attacks[1]) - own
    near = {s.example for s in evidence.exhausted if s.attack == NEAR.attack.spec}
    assert near <= own
    assert all(summary.union.outcomes[place] != "O" for place in own)
    assert "O" in summary.union.outcomes


def replace_shard(plan, shard):
    return msgspec.structs.replace(plan, shards=(shard,))


@pytest.mark.costly
def test_an_interrupted_shard_continues_as_itself(whole, tmp_path):
    protocol, _, summary = whole
    paths = [tmp_path / "1.robench", tmp_path / "2.robench"]
    for looks in (2, 5):
        with pytest.raises(KeyboardInterrupt):
            answered(paths[0], protocol, Shard(1, 2), progress=Pulled(looks))
    for index, path in enumerate(paths, start=1):
        answered(path, protocol, Shard(index, 2))
    assert letters(joined(tmp_path / "m.robench", paths)) == letters(summary)


@pytest.mark.costly
def test_a_merged_run_without_a_shard_is_finished_by_the_command_without_shards(whole, tmp_path):
    protocol, _, summary = whole
    paths = [tmp_path / "1.robench", tmp_path / "3.robench"]
    for index, path in zip((1, 3), paths, strict=True):
        answered(path, protocol, Shard(index, 3))
    partial = joined(tmp_path / "m.robench", paths)
    assert partial.union.open > 0
    with RunFile.read(tmp_path / "m.robench") as run:
        assert recorded_plan(run).shards == (Shard(1, 3), Shard(3, 3))
    assert letters(answered(tmp_path / "m.robench", protocol)) == letters(summary)


def test_two_shards_in_one_file_are_both_of_them(tmp_path):
    path = tmp_path / "s.robench"
    for index in (1, 2):
        summary = answered(path, BREAKS_NONE, Shard(index, 2))
    assert summary.union.open == 0
    with RunFile.read(path) as run:
        assert recorded_plan(run).shards == ()


def test_every_example_is_in_one_shard_and_shards_differ_by_one_example():
    for examples, count in itertools.product((1, 7, 40), (1, 2, 3, 7)):
        shards = [Shard(index, count).places(examples) for index in range(1, count + 1)]
        assert sorted(itertools.chain(*shards)) == list(range(examples))
        assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("text", ["0/2", "3/2", "1/0", "1", "a/b", "-1/2", "1/2/3", "1/99999999", "１/2"])
def test_another_text_is_no_shard(text):
    with pytest.raises(UserError, match="cannot be read; write the third of eight shards as 3/8"):
        parse(text)


def test_a_shard_without_examples_is_refused(tmp_path):
    with pytest.raises(UserError, match="--shard 6/6 holds none of the 5 examples; name fewer shards"):
        answered(tmp_path / "s.robench", BREAKS, Shard(6, 6), examples=5)


def test_a_plan_that_names_a_shard_beyond_the_last_is_refused(tmp_path):
    model = classifier(Linear())
    plan = make_plan(model, toy(model, 8), BREAKS, seed=0, every_attack=False, slots=8)
    with RunFile.in_memory() as run, pytest.raises(UserError, match="it names a shard beyond the last"), run.writing():
        run.put_plan(replace_shard(plan, Shard(3, 2)), {})
