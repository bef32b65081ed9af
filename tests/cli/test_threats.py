"""Threats whose images are rebuilt from parameters: from a run to its verification, its export and a claim."""

import numpy as np
import pytest

from robench.errors import UserError
from robench.evidence.store import RunFile
from robench.problem.threats import parse
from robench.problem.threats.base import stacked

ASCENT = "param-ascent(steps=10)"
REBUILT = {
    "corruption:gaussian_noise+fog@5": "corruptions",
    "jpeg-linf:2": ASCENT,
    "jpeg-l2:30": ASCENT,
    "jpeg-l1:300": ASCENT,
    "elastic:4": ASCENT,
    "rt-l2:6px,60deg+l2:6": "grid",
}
SHAPE = (1, 28, 28)


def test_a_run_of_patches_is_verified_without_parameters(robench, folder):
    question = ("--threat", "patch:5px", "--threat", "patch:8px", "--attack", "patch-pgd(steps=20)", "--examples", "8")
    assert robench("evaluate", "digits-nat", *question, "--run", "r.robench").code == 0
    assert robench("verify", "r.robench").code == 0
    with RunFile.read(folder / "r.robench") as run:
        judged = [(claim, verdict) for claim, verdict in run.evidence().judged() if verdict.accepted]
    assert judged
    assert not any(claim.params for claim, _ in judged)
    small = {claim.example for claim, _ in judged if claim.threat == "patch:5px"}
    assert small < {claim.example for claim, _ in judged if claim.threat == "patch:8px"}


@pytest.mark.costly
@pytest.mark.parametrize("threat", REBUILT)
def test_a_run_is_verified_and_its_exported_images_are_accepted_as_claims(robench, folder, threat):
    question = ("--threat", threat, "--attack", REBUILT[threat], "--examples", "12")
    assert robench("evaluate", "digits-nat", *question, "--run", "r.robench").code == 0
    assert robench("verify", "r.robench").code == 0
    with RunFile.read(folder / "r.robench") as run:
        broken = {claim.example for claim, verdict in run.evidence().judged() if verdict.accepted}
        widths = {stacked([claim.params]).shape[1] for claim in run.evidence().claims}
    assert broken, "some example must break"
    assert widths == {parse(threat).n_params(SHAPE)}
    assert robench("export", "r.robench", "--out", "adv.npz").code == 0
    arrays = dict(np.load(folder / "adv.npz"))
    claim = ("claim", "digits-nat", "adv.npz", "--run", "c.robench", "--threat", threat, "--examples", "12")
    assert robench(*claim).code == 0
    with RunFile.read(folder / "c.robench") as run:
        assert {c.example for c, verdict in run.evidence().judged() if verdict.accepted} == broken
    assert robench("verify", "c.robench").code == 0
    np.savez(folder / "adv.npz", **{**arrays, "params": np.roll(arrays["params"], 1, axis=1)})
    assert robench(*claim[:4], "other.robench", *claim[5:]).code == 1
    with RunFile.read(folder / "other.robench") as run:
        assert not any(verdict.accepted for _, verdict in run.evidence().judged())


@pytest.mark.costly
def test_parameters_of_several_threats_share_the_columns_of_an_exported_file(robench, folder):
    threats = ["--threat", "jpeg-linf:2", "--threat", "rt:3px,30deg", "--threat", "linf:0.2"]
    threats += ["--attack", ASCENT, "--attack", "grid", "--attack", "pgd(steps=10)"]
    assert robench("evaluate", "digits-nat", *threats, "--examples", "8", "--run", "r.robench").code == 0
    assert robench("verify", "r.robench").code == 0
    assert robench("export", "r.robench", "--out", "adv.npz").code == 0
    assert np.load(folder / "adv.npz")["params"].shape[1] == parse("jpeg-linf:2").n_params(SHAPE)
    assert robench("claim", "digits-nat", "adv.npz", "--run", "c.robench", "--examples", "8").code == 0
    assert robench("verify", "c.robench").code == 0
    with RunFile.read(folder / "r.robench") as one, RunFile.read(folder / "c.robench") as other:
        broken = [{(c.example, c.threat) for c, v in run.evidence().judged() if v.accepted} for run in (one, other)]
    assert broken[0] == broken[1]


def test_a_threat_with_more_parameters_than_a_run_file_holds_is_refused_before_it_searches():
    with pytest.raises(UserError, match="--resize"):
        parse("jpeg-l2:1").refuse_unfit((3, 512, 512))
    parse("jpeg-l2:1").refuse_unfit((3, 224, 224))
    parse("rt:3px,30deg").refuse_unfit((3, 512, 512))
