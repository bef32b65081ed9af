"""Evaluations of random and stratified samples: recorded, reproducible, and fit for merging."""

import pytest

import robench
from robench.errors import UserError
from robench.evaluation.model_source import CheckpointSource
from robench.evaluation.prepared import prepare
from robench.evaluation.request import EvalRequest
from robench.evidence.store import RunFile
from robench.results.merging import joint_plan, merge

PROTOCOL = """
name = "tiny"
data = "digits"
examples = "{examples}"

[[threat]]
threat = "linf:0.1"
attacks = [{{ attack = "pgd", steps = 1 }}]
"""


def answer(examples, path=None, **options):
    request = EvalRequest(data="digits", threats=("linf:0.1",), attacks=("pgd(steps=1)",), examples=examples, **options)
    return prepare(request, CheckpointSource("digits-nat")).answer(path)


def outcomes(result):
    return sorted((c.example, c.digest, c.correct) for c in result.evidence.clean)


@pytest.mark.parametrize("examples", ["random:12@3", "stratified:12@3"])
def test_two_runs_of_one_sample_have_the_same_examples_and_outcomes(tmp_path, examples):
    one, other = answer(examples, tmp_path / "one.robench"), answer(examples)
    assert one.plan.examples == other.plan.examples
    assert one.plan.data_sha256 == other.plan.data_sha256
    assert outcomes(one) == outcomes(other)
    assert one.summary.union == other.summary.union


def test_a_sample_is_named_in_the_run_and_in_its_summary(tmp_path):
    path = tmp_path / "one.robench"
    answer("stratified:12", path)
    note = "sampled with --examples stratified:12@0, every class in its share"
    assert note in robench.load_run(path).notes
    answer("12", path)
    assert note not in robench.load_run(path).notes


def test_a_run_of_a_sample_is_extended_by_a_larger_one_at_the_cost_of_the_difference(tmp_path):
    path = tmp_path / "one.robench"
    small = answer("random:8@3", path)
    large = answer("random:12@3", path)
    assert set(small.plan.examples) < set(large.plan.examples)
    assert outcomes(small) == [found for found in outcomes(large) if found[0] in small.plan.examples]
    assert len(outcomes(large)) == 12


def test_runs_of_two_samples_merge_by_the_numbers_of_their_examples():
    one, other = answer("random:8@3"), answer("stratified:8@4")
    merged = merge([one.evidence, other.evidence])
    plan = joint_plan([one.plan, other.plan], merged.evidence)
    assert set(plan.examples) == set(one.plan.examples) | set(other.plan.examples)
    whole = robench.problem.datasets.load("digits")
    assert plan.data_sha256 == whole.take(plan.examples).sha256


def test_a_protocol_may_name_a_sample_and_fewer_images_are_all_taken(tmp_path):
    for examples, count in (("stratified:20@5", 20), ("random:900", 500)):
        (tmp_path / "tiny.toml").write_text(PROTOCOL.format(examples=examples))
        request = EvalRequest(data="digits", protocol=str(tmp_path / "tiny.toml"))
        prepared = prepare(request, CheckpointSource("digits-nat"))
        assert len(prepared.split) == count
        assert ("sample" in prepared.evaluation(RunFile.in_memory()).notes.texts) == (count == 20)
    assert list(prepared.split.numbers) == list(range(500))


def test_a_sample_beyond_the_end_is_refused_where_the_user_names_it():
    with pytest.raises(UserError, match="--examples random:501 reaches past the 500 examples of digits:test"):
        answer("random:501")


def test_a_sample_is_not_shuffled_too():
    with pytest.raises(UserError, match="--examples random:8@3 mixes the classes already; leave --shuffled out"):
        answer("random:8@3", shuffled=True)


def test_a_protocol_of_more_images_held_out_than_there_are_is_refused(tmp_path):
    (tmp_path / "p.toml").write_text(PROTOCOL.format(examples="held-out:5000"))
    request = EvalRequest(data="digits:train", protocol=str(tmp_path / "p.toml"))
    with pytest.raises(UserError, match="held-out:5000 reaches past"):
        prepare(request, CheckpointSource("digits-nat"))
