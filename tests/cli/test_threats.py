"""Threats whose images are rebuilt from parameters: from a run to its verification, its export and a claim."""

import numpy as np
import pytest

from robench.evidence.store import RunFile
from robench.problem.threats import parse

REBUILT = ["corruption:gaussian_noise+fog@5"]
SHAPE = (1, 8, 8)


@pytest.mark.parametrize("threat", REBUILT)
def test_a_run_is_verified_and_its_exported_images_are_accepted_as_claims(robench, folder, threat):
    assert robench("evaluate", "digits-nat", "--threat", threat, "--examples", "12", "--run", "r.robench").code == 0
    assert robench("verify", "r.robench").code == 0
    with RunFile.read(folder / "r.robench") as run:
        broken = {claim.example for claim, verdict in run.evidence().judged() if verdict.accepted}
        lengths = {len(claim.params) for claim in run.evidence().claims}
    assert broken, "some example must break"
    assert lengths == {parse(threat).n_params(SHAPE)}
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
