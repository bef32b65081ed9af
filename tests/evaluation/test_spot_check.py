"""Standing examples searched again: what is found is found, what is promised about the rest holds."""

from collections import Counter

import msgspec
import pytest
import torch
from scipy.stats import beta

from robench.errors import UserError
from robench.evaluation.progress import Silence
from robench.evaluation.spot_check import SpotCheck, sample, spot_check, standing
from robench.evaluation.verification import verify
from robench.evidence.records import Exhausted, PlannedAttack
from robench.evidence.referee import Referee
from robench.problem.threats import parse
from robench.results.outcomes import outcomes

from .test_verification import FACTS, classifier, honest


def searched(run, n=100, seed=1, progress=None):
    return spot_check(
        *(run.plan, run.evidence, FACTS.whole, classifier(), Referee(classifier())),
        n=n,
        seed=seed,
        progress=progress or Silence(),
    )


def lies_in(threat, run, claim):
    """Whether the image of this claim is stored and lies in the set of a threat: then it shows a deleted break."""
    if claim.id not in run.images:
        return False
    x = FACTS.whole.x[FACTS.rows[claim.example]][None]
    return parse(threat).contains(torch.from_numpy(run.images[claim.id])[None], x).item()


def hidden(run, count=2):
    """The run with some breaks deleted, and searches forged that found nothing: no recomputation can tell."""
    threat = "l2:2"
    letters = outcomes(run.plan, run.evidence, threat)
    shown = {c.example for c in run.evidence.claims if c.threat != threat and lies_in(threat, run, c)}
    broken = [e for e, letter in zip(run.plan.examples, letters, strict=True) if letter == "B"]
    gone = [example for example in broken if example not in shown][:count]
    assert len(gone) == count
    drop = {c.id for c in run.evidence.claims if c.example in gone and c.threat == threat}
    attacks = next(t.attacks for t in run.plan.threats if t.threat == threat)
    forged = {
        (e, a.spec): Exhausted(e, threat, a.spec, (1 << a.items) - 1, 10**6, 10**6) for e in gone for a in attacks
    }
    kept = [s for s in run.evidence.exhausted if s.threat != threat or (s.example, s.attack) not in forged]
    lie = run.but(
        claims=tuple(c for c in run.evidence.claims if c.id not in drop),
        verdicts=tuple(v for v in run.evidence.verdicts if v.claim not in drop),
        exhausted=(*kept, *forged.values()),
    )
    return gone, type(run)(lie.plan, lie.evidence, {n: i for n, i in run.images.items() if n not in drop})


@pytest.mark.costly
def test_deleted_breaks_pass_recomputation_and_are_found_by_a_search():
    gone, lie = hidden(honest())
    assert verify(lie.plan, lie.evidence, lie.images.items(), FACTS).faults == ()
    found = searched(lie)
    assert {example for example, _ in found.broken} >= set(gone)
    assert all(found.broken[example, "l2:2"] for example in gone)
    assert found.searched == found.standing == len(found.chosen)


@pytest.mark.costly
def test_only_standing_examples_are_searched_and_nothing_is_written():
    run = honest()
    under = standing(run.plan, run.evidence)
    letters = {t.threat: outcomes(run.plan, run.evidence, t.threat) for t in run.plan.threats}
    for place, example in enumerate(run.plan.examples):
        assert under.get(example, ()) == tuple(t for t, row in letters.items() if row[place] == "S")
    before = msgspec.json.encode(run.evidence)
    found = searched(run, n=5)
    assert len(found.chosen) == 5
    assert set(found.chosen) <= under.keys()
    assert all(threat in under[example] for example, threat in found.broken)
    assert msgspec.json.encode(run.evidence) == before


def test_the_sample_is_uniform_and_determined_by_its_seed():
    examples = list(range(100, 114))
    counts = Counter(example for seed in range(3000) for example in sample(examples, 3, seed))
    expected = 3000 * 3 / len(examples)
    assert set(counts) == set(examples)
    assert all(0.85 * expected < count < 1.15 * expected for count in counts.values())
    assert sample(examples, 3, 5) == sample(examples, 3, 5) == tuple(sorted(sample(examples, 3, 5)))
    assert sample(examples, 99, 5) == tuple(examples)


@pytest.mark.parametrize(("broken", "n"), [(0, 10), (1, 10), (3, 20), (0, 300)])
def test_the_bound_is_the_exact_one_sided_one(broken, n):
    check = SpotCheck(1000, tuple(range(n)), 0, {(e, "l2:2"): "pgd" for e in range(broken)})
    assert check.searched == n
    assert check.bound == pytest.approx(beta.ppf(0.95, broken + 1, n - broken))


@pytest.mark.costly
def test_attacks_that_cannot_run_here_are_named_and_the_others_run():
    run = honest()
    missing = PlannedAttack("theirs", "foolbox:NoSuchAttack(steps=3)", 1)
    threats = [msgspec.structs.replace(t, attacks=(*t.attacks, missing)) for t in run.plan.threats]
    more = run.asking(threats=tuple(threats))
    done = [Exhausted(e, t.threat, missing.spec, 1, 9, 9) for t in threats for e in run.plan.examples]
    found = searched(more.but(exhausted=(*run.evidence.exhausted, *done)), n=2)
    assert len(found.left_out) == 3
    assert all("theirs under " in text and "NoSuchAttack" in text for text in found.left_out)
    assert found.searched == 2
    alone = run.asking(threats=tuple(msgspec.structs.replace(t, attacks=(missing,)) for t in run.plan.threats))
    with pytest.raises(UserError, match="nothing can be searched again: theirs under linf"):
        searched(alone.but(exhausted=(*run.evidence.exhausted, *done)), n=2)


@pytest.mark.costly
def test_a_stopped_search_names_the_examples_it_did_not_finish():
    class Impatient(Silence):
        def moved(self, *_):
            raise KeyboardInterrupt

    found = searched(honest(), n=4, progress=Impatient())
    assert not found.finished
    assert found.open
    assert found.searched == 4 - len(found.open)


def test_without_standing_examples_nothing_is_searched():
    run = honest().but(exhausted=())
    assert searched(run).chosen == ()
