"""The comment of the gate: bounds and doubtful numbers are marked in its table."""

from fractions import Fraction
from pathlib import Path

import msgspec
import pytest

from robench.errors import UserError
from robench.evaluation.regression import Baseline, read_baseline, unchanged
from robench.results.attack_rows import FailureEntry
from robench.results.comment import Comment
from robench.results.gate import judge, letters_of, paired
from robench.results.summary import MaskingEntry, ThreatMaskingEntry

from .tables.test_tables import models

THREATS = ("linf:0.3", "l2:2")
ALLOWED = {"union": Fraction(1, 100)}


def summary(*rows, failed=False, masking="untested"):
    (made,) = models({"net": rows}, THREATS)
    first, *rest = made.threats
    failures = tuple(FailureEntry(a.name, len(rows[0]), "Boom") for a in first.attacks) if failed else ()
    first = msgspec.structs.replace(first, failures=failures, masking=ThreatMaskingEntry(masking))
    return msgspec.structs.replace(made, threats=(first, *rest))


def cells(comment):
    """Baseline and now, by row."""
    lines = [line.split("|") for line in comment.markdown().splitlines() if line.startswith("| ")]
    return {line[1].strip(): (line[2].strip(), line[3].strip()) for line in lines[1:]}


def compared(was, now):
    return Comment(judge(paired(letters_of(was), letters_of(now)), ALLOWED), was, now, tuple(range(4)), {})


def test_an_unchanged_model_keeps_the_bounds_of_its_baseline():
    comment = unchanged(Baseline(Path("b.json"), summary("OOSB", "BBBB")), ALLOWED)
    assert comment.heading == "no regression"
    assert cells(comment)["linf:0.3"] == ("≤ 75.0", "≤ 75.0")
    assert cells(comment)["union"] == ("0.0", "0.0")
    assert "2 examples are open in the baseline (≤); finish it to know." in comment.markdown()


def test_what_was_not_measured_has_no_number():
    comment = compared(summary("SSSB", "SSBB"), summary("OOOO", "SSBB", failed=True))
    assert cells(comment)["linf:0.3"] == ("75.0", "not measured")
    assert "Stopped early" not in comment.markdown()


def test_masked_gradients_are_marked_and_explained():
    comment = compared(summary("SSSB", "SSBB", masking="masked"), summary("SSSB", "SSBB"))
    assert cells(comment)["linf:0.3"] == ("75.0†", "75.0")
    assert "† gradients are masked, or may be" in comment.markdown()
    assert "†" not in compared(summary("SSSB", "SSBB"), summary("SSSB", "SSBB")).markdown()


def test_the_union_is_marked_by_the_verdict_on_the_model():
    masked = msgspec.structs.replace(summary("SSSB", "SSBB", masking="masked"), masking=MaskingEntry("masked"))
    found = cells(compared(summary("SSSB", "SSBB"), masked))
    assert (found["union"], found["l2:2"]) == (("50.0", "50.0†"), ("50.0", "50.0"))


def test_a_baseline_that_measured_nothing_under_a_threat_is_refused(tmp_path):
    path = tmp_path / "b.json"
    path.write_text(summary("OOOO", "SSBB", failed=True).to_json())
    with pytest.raises(UserError, match=r"measured nothing under linf:0[.]3, where every planned attack failed"):
        read_baseline(path)
