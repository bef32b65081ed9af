"""Claimed images: the referee alone decides, and a claim only ever lowers a number.

The models see the mean of an image alone, so a tone is adversarial exactly where it crosses the middle.
"""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from robench import Split
from robench.errors import UserError
from robench.evaluation import claims
from robench.evaluation.claim_file import read
from robench.evaluation.claims import put_claims
from robench.evaluation.model_source import PythonSource
from robench.evaluation.prepared import prepare
from robench.evaluation.progress import Silence
from robench.evaluation.request import EvalRequest
from robench.evaluation.verification import verify
from robench.evidence.attack_key import AttackKey
from robench.evidence.records import Clean, Exhausted
from robench.evidence.refutation import Facts
from robench.evidence.store import RunFile
from robench.problem.threats import parse
from robench.results.gate import broken_by
from robench.results.merging import joint_plan, merge
from robench.results.outcomes import outcomes
from robench.results.summarising import summarise
from robench.results.summary import Summary

SHAPE = (1, 4, 6)
TONES = (0.3, 0.4, 0.45, 0.6, 0.7, 0.8)  # of the clean images; the last is labelled wrongly
LABELS = (0, 0, 0, 1, 1, 0)
BRIGHT = 0.52  # fools the model as an image about the first three examples
LINF = "linf:0.2"


class Threshold(nn.Module):
    """Class 1 where the mean is above 0.5."""

    def forward(self, x):
        mean = x.flatten(1).mean(dim=1)
        return torch.stack([0.5 - mean, mean - 0.5], dim=1)


class Noisy(Threshold):
    """The same with noise on the mean, from torch's global generator."""

    def forward(self, x):
        return super().forward(x + 0.02 * torch.randn(len(x), 1, 1, 1))


class Choosy(Threshold):
    """The same, but some images make it raise."""

    def forward(self, x):
        if (x == 0.55).all(dim=(1, 2, 3)).any():
            raise ValueError("this grey is unreadable")
        return super().forward(x)


def toned(*tones):
    return torch.tensor(tones, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, *SHAPE).contiguous()


DATA = Split.whole("tones:test", toned(*TONES), torch.tensor(LABELS), 2)


def prepared(model=None, **request):
    return prepare(EvalRequest(data=DATA, **request), PythonSource(model or Threshold()))


@pytest.fixture
def claimed(tmp_path):
    """`claimed(x_adv, example=[...])` is that file, read."""

    def write(x_adv, **arrays):
        path = tmp_path / f"{len(list(tmp_path.glob('*.npz')))}.npz"
        np.savez(path, x_adv=np.asarray(x_adv), **{name: np.asarray(array) for name, array in arrays.items()})
        return read(path, SHAPE, DATA)

    return write


def put(run, *files, threats=(), model=None, **request):
    return put_claims(prepared(model, **request), DATA, run, files, threats, progress=Silence())


def letters(result):
    return {t.threat: t.outcomes for t in result.summary.threats}


def evaluated(run):
    """A finished run of an attack that is too weak to break anything but example 2: it moves by 0.3 of the radius."""
    weak = "pgd(steps=1, step_size=0.3, random_start=False)"
    evaluation = prepared(threats=(LINF,), attacks=(weak,)).evaluation(run)
    evaluation.answer()
    return summarise(run.plan(), run.evidence(), "")


def facts(model=None):
    return Facts(DATA, prepared(model).referee.classifier)


def faults(run, model=None):
    return verify(run.plan(), run.evidence(), run.images(SHAPE), facts(model)).faults


def test_in_a_new_run_an_example_without_an_accepted_image_stays_open(claimed):
    with RunFile.in_memory() as run:
        result = put(run, claimed(toned(0.52, 0.52, 0.48)), threats=[LINF])
        assert letters(result) == {LINF: "OBOOOW"}  # 0.3 to 0.52 is too far, and 0.48 fools nobody
        assert (result.images, result.accepted) == (3, 1)
        assert result.under == result.broken == Counter({LINF: 1})
        assert result.rejected == {"outside": 1, "does not fool": 1}
        assert result.reasons["outside"] == "example 0: lies at 0.22, outside linf:0.2"
        assert result.summary.union.standing == 0
        assert result.summary.union.accuracy == pytest.approx(4 / 6)
        assert not faults(run)


def test_an_image_counts_under_every_threat_in_whose_set_it_lies(claimed):
    with RunFile.in_memory() as run:
        result = put(run, claimed(toned(BRIGHT), example=[1]), threats=["linf:0.1", "linf:0.13", "l2:1", "l1:1"])
        assert letters(result) == {"linf:0.1": "OOOOOW", "linf:0.13": "OBOOOW", "l2:1": "OBOOOW", "l1:1": "OOOOOW"}
        assert not result.rejected
        assert len(run.evidence().claims) == 2
        assert not faults(run)


def test_a_claim_lowers_the_number_of_a_finished_run_and_keeps_its_plan(claimed):
    with RunFile.in_memory() as run:
        before = evaluated(run)
        plan = run.plan()
        assert before.union.outcomes == "SSBSSW"
        result = put(run, claimed(toned(BRIGHT, 0.45), example=[1, 3]))
        assert letters(result) == {LINF: "SBBBSW"}
        assert result.broken == {LINF: 2}
        assert run.plan() == plan
        (threat,) = result.summary.threats
        assert (threat.elsewhere, threat.by_claim, threat.attacks[0].broken) == (2, 2, 1)
        assert broken_by(plan, run.evidence(), LINF)[1] == "claim"
        text = result.summary.to_json()
        assert Summary.from_json(text) == result.summary
        with pytest.raises(UserError, match="more images are noted"):
            Summary.from_json(text.replace('"by_claim": 2', '"by_claim": 3'))
        assert not faults(run)


def test_an_evaluation_goes_on_from_claims(claimed):
    with RunFile.in_memory() as run:
        put(run, claimed(toned(BRIGHT), example=[1]), threats=[LINF])
        assert evaluated(run).union.outcomes == "SBBSSW"
        assert not faults(run)


def test_the_same_image_twice_changes_nothing(claimed):
    rows = toned(BRIGHT, BRIGHT, 0.49, np.nan)
    first, again = (claimed(rows, example=[1, 1, 2, 2], note=number) for number in (1, 2))
    assert first.sha256 != again.sha256
    with RunFile.in_memory() as run:
        one = put(run, first, threats=[LINF])
        before = run.evidence()
        two = put(run, again, first)
        assert run.evidence() == before
        assert (one.images, one.accepted, one.rejected) == (3, 1, {"does not fool": 1, "not finite": 1})
        assert (two.images, two.accepted, two.rejected) == (3, 1, {"does not fool": 1, "not finite": 1})
        assert two.broken == {LINF: 0}
        assert letters(two) == letters(one)


def test_images_that_a_search_has_found_are_not_recorded_again(claimed):
    with RunFile.in_memory() as run:
        evaluated(run)
        before = run.evidence()
        found = dict(run.images(SHAPE))
        (claim,) = (c for c, v in before.judged() if v.accepted)
        result = put(run, claimed(found[claim.id][None], example=[2]))
        assert result.accepted == 1
        assert run.evidence() == before


def test_of_two_images_the_smaller_one_is_kept_and_both_are_on_record(claimed):
    with RunFile.in_memory() as run:
        put(run, claimed(toned(0.55, 0.51, 0.53), example=[1, 1, 1]), threats=[LINF])
        assert len(run.evidence().claims) == 3
        (image,) = (image for _, image in run.images(SHAPE))
        assert (image == np.float32(0.51)).all()
        assert not faults(run)


def test_an_image_that_is_not_finite_is_rejected_and_the_others_count(claimed):
    with RunFile.in_memory() as run:
        result = put(run, claimed(toned(np.nan, BRIGHT, np.inf)), threats=[LINF])
        assert letters(result) == {LINF: "OBOOOW"}
        assert result.rejected == {"not finite": 2}
        assert not faults(run)


def test_an_image_on_which_the_model_raises_is_rejected_and_the_run_holds(claimed):
    with RunFile.in_memory() as run:
        result = put(run, claimed(toned(0.55, BRIGHT), example=[1, 2]), threats=[LINF], model=Choosy())
        assert letters(result) == {LINF: "OOBOOW"}
        assert "makes the model raise ValueError: this grey is unreadable" in result.reasons["not finite"]
        assert not faults(run, Choosy())


def test_images_that_cannot_count_are_left_out_with_the_reason(claimed):
    with RunFile.in_memory() as run:
        file = claimed(toned(0.4, 0.45, BRIGHT), example=[5, 4, 0])
        result = put(run, file, threats=[LINF], examples="3:6")
        assert result.left_out == {claims.WRONG: 1, claims.NOT_PLANNED: 1}
        assert (result.images, result.accepted) == (1, 0)
        assert {c.example for c in run.evidence().claims} == {4}
        assert not faults(run)


def test_a_rejected_image_goes_on_record_under_the_threat_that_its_row_names(claimed):
    with RunFile.in_memory() as run:
        put(run, claimed(toned(0.9, 0.9), threat=["l2:1", "linf:0.2"]), threats=["linf:0.2", "l2:1"])
        assert [c.threat for c in run.evidence().claims] == ["l2:1", "linf:0.2"]


def test_without_a_threat_anywhere_nothing_is_written(claimed):
    with RunFile.in_memory() as run:
        with pytest.raises(UserError, match="name one, as in --threat"):
            put(run, claimed(toned(BRIGHT)))
        assert run.plan() is None


def test_a_file_with_thousands_of_threats_starts_no_run(claimed):
    many = [f"linf:0.{number}" for number in range(1001, 1102)]
    with RunFile.in_memory() as run:
        with pytest.raises(UserError, match="name 101 threats; choose at most 100 with --threat"):
            put(run, claimed(toned(BRIGHT).expand(101, *SHAPE), example=[1] * 101, threat=many))
        assert run.plan() is None


def test_another_question_is_refused_and_the_run_stays_as_it_is(claimed):
    file = claimed(toned(BRIGHT), example=[1])
    with RunFile.in_memory() as run:
        evaluated(run)
        before = run.plan(), run.evidence()
        other = Threshold()
        other.register_buffer("unused", torch.ones(1))
        for message, options in (
            ("and not l2:1", {"threats": ["l2:1"]}),
            ("holds a run of another model", {"model": other}),
            ("with seed 0, not on tones:test with seed 3", {"seed": 3}),
            ("not those of --examples", {"examples": "2"}),
        ):
            with pytest.raises(UserError, match=message):
                put(run, file, **options)
        assert (run.plan(), run.evidence()) == before


def test_images_of_other_data_are_refused(claimed):
    with RunFile.in_memory() as run:
        evaluated(run)
        other = Split.whole(DATA.name, DATA.x / 2, DATA.y, 2)
        with pytest.raises(UserError, match="holds other images than"):
            put_claims(prepared(), other, run, [claimed(toned(BRIGHT))], progress=Silence())


def test_a_transform_needs_its_parameters(claimed):
    threat = parse("rt:2px,0deg")
    x = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(0)) * 0.2
    x[:3] += torch.linspace(1, 0, 6)  # a shift to the right leaves the left black
    params = torch.tensor([[-2.0, 0.0, 0.0]] * 3)
    with RunFile.in_memory() as run:
        data = replace(DATA, x=x.clamp(0, 1), y=(x.clamp(0, 1).flatten(1).mean(1) > 0.5).long())
        moved = threat.apply(data.x[:3], params)
        assert ((moved.flatten(1).mean(1) > 0.5).long() != data.y[:3]).any()
        ready = prepare(EvalRequest(data=data), PythonSource(Threshold()))
        with_params, without = claimed(moved, params=params), claimed(moved)
        with_params, without = (replace(f, clean=data.take(range(3))) for f in (with_params, without))
        notes = []
        progress = Silence()
        progress.noted = notes.append
        result = put_claims(ready, data, run, [without], [str(threat)], progress=progress)
        assert (result.accepted, result.rejected) == (0, {"outside": 3})
        assert [note.partition(" has ")[2] for note in notes if "params" in note] == [
            "no params, so no moved image is accepted under rt:2px,0deg"
        ]
        result = put_claims(ready, data, run, [with_params], progress=Silence())
        assert result.accepted == int(((moved.flatten(1).mean(1) > 0.5).long() != data.y[:3]).sum())
        assert not verify(run.plan(), run.evidence(), run.images(SHAPE), Facts(data, ready.referee.classifier)).faults


@pytest.mark.costly
def test_a_stochastic_model_is_judged_over_many_passes_and_each_image_makes_the_next_harder(claimed):
    with RunFile.in_memory() as run:
        near = [claimed(toned(0.5 + i * 1e-4), example=[1]) for i in range(1, 30)]
        result = put(run, *near, claimed(toned(0.54), example=[2]), threats=[LINF], model=Noisy())
        assert letters(result)[LINF][2] == "B"
        assert result.summary.environment["randomness"]
        needed = {v.reason.rpartition(" and ")[2] for _, v in run.evidence().judged() if not v.accepted}
        assert len(needed) > 3  # the level falls with the number of images about the example
        before = run.evidence()
        again = put(run, *near, model=Noisy())
        assert run.evidence() == before
        assert letters(again) == letters(result)
        assert not faults(run, Noisy())


def test_stopped_in_the_middle_the_rest_is_judged_by_the_same_command(claimed, monkeypatch):
    file = claimed(toned(*np.linspace(0.505, 0.55, 10)), example=[1, 2] * 5)
    monkeypatch.setattr(claims, "AT_ONCE", 3)
    with RunFile.in_memory() as whole, RunFile.in_memory() as run:
        put(whole, file, threats=[LINF])
        judge = claims.Referee.rule
        calls = []

        def stopping(self, *args):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return judge(self, *args)

        with monkeypatch.context() as patch:
            patch.setattr(claims.Referee, "rule", stopping)
            with pytest.raises(KeyboardInterrupt):
                put(run, file, threats=[LINF])
        assert len(run.evidence().claims) == 6
        put(run, file)
        assert run.evidence().claims == whole.evidence().claims


def test_a_merge_with_claims_takes_the_worst_of_both(claimed):
    with RunFile.in_memory() as one, RunFile.in_memory() as other, RunFile.in_memory() as both:
        evaluated(one)
        put(other, claimed(toned(BRIGHT), example=[1]), threats=[LINF])
        plans, evidences = [one.plan(), other.plan()], [one.evidence(), other.evidence()]
        merged = merge(evidences)
        plan = joint_plan(plans, merged.evidence)
        with both.writing():
            both.put_plan(plan, {})
            both.adopt(merged.evidence, merged.sources, [one, other])
        assert outcomes(plan, both.evidence(), LINF) == "SBBSSW"
        assert [t.by_claim for t in summarise(plan, both.evidence(), "").threats] == [1]
        assert not faults(both)


def test_a_search_by_claims_is_a_fault(claimed):
    """A run that plans claimed images as an attack, and calls it exhausted, would show examples as standing."""
    with RunFile.in_memory() as run:
        evaluated(run)
        key = str(AttackKey.of_file("ab" * 32))
        with run.writing():
            run.put_exhausted([Exhausted(0, LINF, key, 1, 1000, 1000)])
        assert any("images from a file are none" in fault for fault in faults(run))


def test_only_images_from_a_file_may_be_without_a_forward_pass(claimed):
    with RunFile.in_memory() as run:
        put(run, claimed(toned(BRIGHT), example=[1]), threats=[LINF])
        (claim,) = run.evidence().claims
        assert claim.key.is_claim
        assert (claim.key.kind, claim.key.short) == ("other", "claim")
        assert not AttackKey("claims(sha256='ab')").is_claim
        assert [c for c in run.evidence().clean if isinstance(c, Clean)]


# Files


@pytest.mark.parametrize("form", ["NCHW", "NHWC", "NHW", "bytes", "float64"])
def test_images_are_read_in_every_usual_form(claimed, form):
    values = np.arange(2 * 24, dtype=np.uint8).reshape(2, *SHAPE)
    wanted = torch.from_numpy(values.astype(np.float32) / np.float32(255))
    images = {
        "NCHW": wanted.numpy(),
        "NHWC": wanted.numpy().transpose(0, 2, 3, 1),
        "NHW": wanted.numpy()[:, 0],
        "bytes": values,
        "float64": values / 255,
    }[form]
    file = claimed(images)
    assert torch.equal(file.x_adv, wanted)
    assert file.clean.numbers == (0, 1)


def test_the_clean_images_and_labels_may_be_given_as_they_are(claimed):
    x, y = DATA.x.numpy()[[4, 1]], DATA.y.numpy()[[4, 1]]
    file = claimed(x, example=[4, 1], x=x.astype(np.float64), y=y, extra=np.arange(7))
    assert file.clean.numbers == (4, 1)


GREY = toned(0.5, 0.5).numpy()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": GREY}, "has no array x_adv; it holds x"),
        ({"x_adv": GREY[:, :, :3]}, "has shape (2, 1, 3, 6); images of these data are (N, 1, 4, 6) or (N, 4, 6, 1)"),
        ({"x_adv": np.float32(1)}, "has shape ()"),
        ({"x_adv": GREY[:0]}, "holds 0 images; give 1 to"),
        ({"x_adv": 255 * GREY}, "divide them by 255"),
        ({"x_adv": GREY - 1}, "undo their normalisation"),
        ({"x_adv": GREY.astype(int)}, "reads uint8 from 0 to 255, or floats from 0 to 1"),
        ({"x_adv": np.array([GREY, None], dtype=object)}, "holds Python objects, which robench never unpickles"),
        ({"x_adv": GREY, "example": [0]}, "has 2 images in x_adv and 1 row in example"),
        ({"x_adv": GREY, "example": 0}, "has 2 images in x_adv and no rows in example"),
        ({"x_adv": GREY, "example": [0, 6]}, "tones:test has no example 6; its examples are numbered 0 to 5"),
        ({"x_adv": GREY, "example": [0, -1]}, "has no example -1"),
        ({"x_adv": GREY, "example": [0.0, 1.0]}, "example holds float64"),
        ({"x_adv": GREY.repeat(4, 0)}, "give the number of the example of each image in an array example"),
        ({"x_adv": GREY, "y": [0, 1]}, "y gives example 1 the label 1, and in tones:test it has 0"),
        ({"x_adv": GREY, "y": ["a", "b"]}, "give one label for each image"),
        ({"x_adv": GREY, "x": GREY}, "x holds another image as example 0 than tones:test"),
        ({"x_adv": GREY, "x": GREY * np.nan}, "x holds another image as example 0 than tones:test"),
        ({"x_adv": GREY, "threat": ["linf:0.1", "linf"]}, "threat: 'linf' has no readable radius"),
        ({"x_adv": GREY, "threat": [1, 2]}, "give a text like linf:0.3 per image"),
        ({"x_adv": GREY, "params": [[0, 0], [0, 0]]}, "give tx, ty and the angle for each image"),
        ({"x_adv": GREY, "params": [[0, 0, np.nan]] * 2}, "numbers that are no pixels or degrees"),
    ],
)
def test_bad_content_is_refused_in_one_sentence(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(UserError) as refused:
        read(tmp_path / "bad.npz", SHAPE, DATA)
    assert message in str(refused.value)
    assert "bad.npz" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("robench.problem.datasets.npz.LARGEST", 1000)
    np.savez_compressed(tmp_path / "bomb.npz", x_adv=np.zeros((10**5, *SHAPE), np.float32))
    with pytest.raises(UserError, match="more than robench unpacks"):
        read(tmp_path / "bomb.npz", SHAPE, DATA)


@pytest.mark.parametrize("content", [None, b"", b"text", b"PK\x03\x04 and no more"])
def test_what_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "adv.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"there is no file|is no \.npz file"):
        read(path, SHAPE, DATA)
