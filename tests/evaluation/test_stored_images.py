"""An adversarial image that a run holds counts under every planned threat in whose set it lies, whenever planned."""

import sqlite3

import pytest

import robench
from robench.evaluation.verification import min_passes, verify
from robench.evidence.refutation import Facts
from robench.evidence.store import RunFile
from robench.problem import datasets
from robench.problem.checkpoints import load

WEAK = "pgd(steps=1, step_size=0.001, random_start=False)"
"""An attack that finds nothing."""


def evaluated(path, threats, attack, examples=20):
    return robench.evaluate(
        "digits-nat", threats=threats, attacks=[attack], examples=examples, run=path, precision="float32"
    )


def faults(path):
    whole = datasets.load("digits")
    with RunFile.read(path) as run:
        plan, evidence, images = run.plan(), run.evidence(), list(run.images(whole.shape))
    facts = Facts(whole, load("digits-nat").classifier, min_passes=min_passes)
    return verify(plan, evidence, images, facts).faults


@pytest.fixture
def run(tmp_path):
    """A run in which linf:0.1 breaks examples."""
    path = tmp_path / "run.robench"
    assert evaluated(path, ["linf:0.1"], "pgd(steps=20)").threats[0].broken > 5
    return path


def test_images_found_earlier_count_under_a_threat_that_is_added_later(run):
    alone = evaluated(run.with_name("alone.robench"), ["l2:3"], WEAK).threats[0]
    later = evaluated(run, ["l2:3"], WEAK).threats[0]
    assert alone.broken == 0
    assert later.broken > 5
    assert later.elsewhere == later.broken, "no planned attack found them"
    again = evaluated(run, ["l2:3"], WEAK)
    assert again.threats[0].outcomes == later.outcomes
    assert faults(run) == ()


def test_images_outside_the_new_set_or_of_broken_examples_add_no_claim(run):
    before = claims(run)
    evaluated(run, ["l2:0.0001"], WEAK)
    assert claims(run) == before
    evaluated(run, ["linf:0.1", "l2:3"], "pgd(steps=20)")
    between = claims(run)
    evaluated(run, ["linf:0.1", "l2:3"], "pgd(steps=20)")
    assert claims(run) == between, "nothing is judged twice"


def claims(path):
    with sqlite3.connect(path) as db:
        return db.execute("SELECT count(*) FROM claim").fetchone()[0]


def test_verify_reports_an_image_that_is_not_counted(run):
    """As when claims are deleted, or runs of two threats were merged."""
    evaluated(run, ["linf:0.1", "l2:3"], "pgd(steps=20)")
    assert faults(run) == ()
    with sqlite3.connect(run) as db:
        (example,) = db.execute("SELECT example FROM claim WHERE threat = 'linf:0.1' AND image IS NOT NULL").fetchone()
        db.execute(
            "DELETE FROM verdict WHERE claim IN (SELECT id FROM claim WHERE threat = 'l2:3' AND example = ?)",
            [example],
        )
        db.execute("DELETE FROM claim WHERE threat = 'l2:3' AND example = ?", [example])
    assert any(f"example {example}: its image under linf:0.1 lies in l2:3 too" in fault for fault in faults(run))
    evaluated(run, ["linf:0.1", "l2:3"], "pgd(steps=20)")
    assert faults(run) == (), "the same command counts it"
