"""Where every planned attack failed there is no number."""

import pytest

from robench.errors import UserError
from robench.evidence.records import Evidence, Failure
from robench.results.measured import NotMeasuredError, refuse_unmeasured, unmeasured
from robench.results.summarising import summarise

from .made import APGD, EVIDENCE, L2, LINF, PGD, PLAN, accepted, claim, clean, exhausted, plan

EXAMPLES = range(20, 28)
CLEAN = tuple(map(clean, EXAMPLES))


def failures(threat, *attacks):
    return tuple(Failure(e, threat, a.spec, "RuntimeError: no gradient") for e in EXAMPLES for a in attacks)


def summary(*failed, threats=(LINF, L2), **known):
    evidence = Evidence(clean=CLEAN, failures=sum(failed, ()), **known)
    return summarise(plan(threats=threats), evidence, "0.1.0")


def names(found):
    return [entry.threat for entry in unmeasured(found)]


def test_a_threat_is_unmeasured_where_each_attack_failed_and_nothing_was_broken_or_searched_to_its_end():
    whole = failures("linf:0.3", PGD, APGD)
    assert names(summary(whole)) == ["linf:0.3"]
    assert names(summary(failures("linf:0.3", PGD))) == [], "the other attack is still to come"
    assert names(summary(whole, exhausted=(exhausted(21, 0b11),))) == []
    assert names(summary(whole, exhausted=(exhausted(21, 0b01),))) == ["linf:0.3"], "one of two items proves nothing"
    assert names(summary(whole, claims=(claim(1, 22),), verdicts=(accepted(1),))) == []
    found_elsewhere = {"claims": (claim(1, 22, "linf:0.1", "old()"),), "verdicts": (accepted(1, size=0.1),)}
    assert names(summary(whole, **found_elsewhere)) == []
    assert names(summary()) == [], "a run that was stopped has failed at nothing"
    assert names(summarise(PLAN, EVIDENCE, "0.1.0")) == []


def test_the_error_holds_the_summary_if_nothing_was_measured_under_any_threat():
    both = summary(failures("linf:0.3", PGD, APGD), failures("l2:2", PGD))
    with pytest.raises(
        NotMeasuredError, match=r"every planned attack failed \(pgd: RuntimeError: no gradient\)"
    ) as raised:
        refuse_unmeasured(both)
    assert raised.value.summary is both
    assert isinstance(raised.value, UserError)
    refuse_unmeasured(summary(failures("linf:0.3", PGD, APGD)))  # l2 was not tried: the run goes on
    refuse_unmeasured(summary(threats=()))
