"""The rows, the table and the plot of `benchmarks/time_to_truth.py`, without an evaluation."""

import runpy
import sys
from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import robench
from robench.search.attacks import parse

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
ROWS = runpy.run_path(str(BENCHMARKS / "truth_rows.py"))
ARGS = Namespace(again=False, report=False)
LINF, L2 = ("digits-eat", "linf:0.2"), ("digits-eat", "l2:2")


def measured(
    pair=LINF, *, protocol="quick", outcomes=("SSBW", "SBBW"), seconds=2.0, their_seconds=None, rows=None, **changed
):
    model, threat = pair
    their_seconds = {"AutoAttack": 8.0} if their_seconds is None else their_seconds
    fields = {
        "protocol": protocol,
        "model": model,
        "threat": threat,
        "attacks": ["pgd() restarts=1"],
        "outcomes": list(outcomes),
        "timed": 2,
        "pairs": 1,
        "seconds": {protocol: seconds, **their_seconds},
        "gradients": {protocol: 10, "AutoAttack": 40},
        "machine": "a machine",
        "commit": "abc",
    }
    return (rows or ROWS)["Measured"](**(fields | changed))


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    """The names of the script, with its files in a folder of their own."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCHMARKS)])
    names = runpy.run_path(str(BENCHMARKS / "time_to_truth.py"))
    for module in ("measuring", "truth_rows"):
        monkeypatch.delitem(sys.modules, module)
    names["measured_rows"].__globals__.update(ROWS=tmp_path / "rows.json", REFERENCES=tmp_path)
    return names


def test_a_row_in_another_precision_has_a_name_of_its_own():
    named = [measured(precision=precision).name for precision in ("float32", "bfloat16")]
    assert named == ["quick digits-eat linf:0.2", "quick digits-eat linf:0.2 bfloat16"]


# The table.


def test_a_row_counts_for_each_seed_what_only_one_of_both_breaks():
    row = ROWS["table_row"](measured(), {"AutoAttack": "BSSW"}, ["SSBW", "BSSW", "SBBW"])
    assert row["quick leaves"] == "2 1"
    assert row["AutoAttack leaves"] == "2"
    assert row["only AutoAttack breaks"] == "1 1"
    assert row["AutoAttack misses"] == "1 2"
    assert row["everything else leaves"] == "0"
    assert row["times faster than AutoAttack"] == 4


def test_what_one_of_several_searches_breaks_is_broken():
    assert ROWS["together"](["SSBWO", "SBSWS", "SBBWO"]) == "SBBWO"


def test_an_open_example_is_broken_by_neither():
    assert ROWS["one_sided"]("SSSO", "SBOB") == 1


def test_sums_are_by_seed_and_the_ratio_is_that_of_the_sums():
    rows = ROWS["table"](
        [measured(), measured(L2, outcomes=("SSSW", "SSSW"), seconds=8.0)],
        {"AutoAttack": {LINF: "SBBW", L2: "SSSW"}},
        {LINF: ["SBBW"], L2: ["SSSW", "SBSW"]},
    )
    assert [row["model"] for row in rows] == ["digits-eat", "digits-eat", "sum"]
    assert rows[-1]["quick leaves"] == "5 4"
    assert rows[-1]["AutoAttack leaves"] == "4"
    assert rows[-1]["everything else leaves"] == "3"
    assert rows[-1]["quick s"] == 10
    assert rows[-1]["times faster than AutoAttack"] == 16 / 10


def test_norms_with_several_rows_have_sums_of_their_own():
    other = ("digits-nat", "linf:0.2")
    pairs = (LINF, other, L2)
    rows = ROWS["table"](
        [measured(pair) for pair in pairs],
        {"AutoAttack": dict.fromkeys(pairs, "SBBW")},
        {pair: ["SBBW"] for pair in pairs},
    )
    assert [row["model"] for row in rows[3:]] == ["sum, linf", "sum"]
    assert [row["AutoAttack leaves"] for row in rows[3:]] == ["2", "3"]


def test_columns_that_not_every_row_has_are_summed_only_over_those_that_have_them():
    both = {"AutoAttack": 8.0, "Foolbox": 6.0}
    theirs = {"AutoAttack": {LINF: "SBBW", L2: "SSSW"}, "Foolbox": {L2: "SSBW"}}
    rows = ROWS["table"]([measured(), measured(L2, their_seconds=both)], theirs, {LINF: ["SBBW"], L2: ["SSSW"]})
    assert "Foolbox leaves" not in rows[2]
    assert rows[3]["model"] == "sum with Foolbox"
    assert (rows[3]["AutoAttack leaves"], rows[3]["Foolbox leaves"]) == ("3", "2")
    assert rows[3]["times faster than Foolbox"] == 3


def test_a_row_that_was_not_timed_has_no_seconds():
    untimed = replace(measured(), timed=0, seconds={}, gradients={})
    row = ROWS["table_row"](untimed, {"AutoAttack": "SSBW"}, ["SSBW"])
    assert not any(key.endswith(" s") or "faster" in key for key in row)
    assert ROWS["summed"]("sum", [row])["quick leaves"] == "2 1"


# The plot.


def test_points_are_over_the_pairs_that_all_protocols_have_and_span_the_seeds():
    rows = [
        *(measured(), measured(L2)),
        measured(protocol="standard", seconds=6.0, their_seconds={"AutoAttack": 10.0}),
    ]
    assert ROWS["pairs_of"](rows, "linf", ["AutoAttack"]) == [LINF]
    assert ROWS["pairs_of"](rows, "l2", ["AutoAttack"]) == []
    assert ROWS["pairs_of"](rows, "linf", ["AutoAttack", "Foolbox"]) == []
    quick, standard, autoattack = ROWS["points"](rows, {"AutoAttack": {LINF: "SSSW"}}, [LINF], ["AutoAttack"])
    assert asdict(quick) == {"name": "quick", "seconds": 2, "accuracy": 37.5, "lowest": 25, "highest": 50}
    assert (standard.seconds, standard.accuracy) == (6, 37.5)
    assert (autoattack.seconds, autoattack.accuracy) == (9, 75)


def test_the_plot_has_a_panel_per_norm_and_a_second_row_where_foolbox_has_fewer_pairs():
    both = {"AutoAttack": 8.0, "Foolbox": 6.0}
    theirs = {"AutoAttack": {LINF: "SBBW", L2: "SSSW"}, "Foolbox": {LINF: "SBBW", L2: "SSBW"}}

    def titles(*rows):
        axes = ROWS["picture"](rows, theirs).figure.axes
        return [panel.get_title() for panel in axes if panel.axison]

    assert titles(measured(), measured(L2, their_seconds=both)) == ["ℓ∞, 1 model", "ℓ₂, 1 model", "ℓ₂, 1 model"]
    assert titles(measured(their_seconds=both), measured(L2, their_seconds=both)) == ["ℓ∞, 1 model", "ℓ₂, 1 model"]
    assert ROWS["picture"]([replace(measured(), seconds={})], theirs) is None
    assert ROWS["picture"]([], theirs) is None


# The rows on file.


def test_rows_are_read_back_as_they_were_kept(tmp_path):
    path = tmp_path / "rows.json"
    assert ROWS["read"](path) == {}
    rows = {"quick digits-eat linf:0.2": measured(), "quick digits-eat l2:2": measured(L2)}
    ROWS["keep"](path, rows)
    assert ROWS["read"](path) == rows
    assert [file.name for file in tmp_path.iterdir()] == ["rows.json"]


def test_what_is_on_file_is_not_measured_again_unless_the_question_changed(benchmark):
    quick, standard = (benchmark["Question"](name, seeds=2, timed=2, pairs=1) for name in ("quick", "standard"))
    calls = []

    def measure(questions, model, threat):
        calls.append([question.protocol for question in questions])
        return [
            measured(
                protocol=question.protocol,
                timed=question.timed,
                attacks=question.attacks(model, threat),
                outcomes=["SSBW"] * question.seeds,
                rows=benchmark,
            )
            for question in questions
        ]

    rows_of = benchmark["measured_rows"]
    names = rows_of.__globals__
    names["measure"] = measure
    again, report = Namespace(again=True, report=False), Namespace(again=False, report=True)
    assert rows_of([quick], *LINF, report) == []
    first = rows_of([quick], *LINF, ARGS)
    assert rows_of([quick, standard], *LINF, report) == first
    assert [row.protocol for row in rows_of([quick, standard], *LINF, ARGS)] == ["quick", "standard"]
    assert rows_of([quick], *LINF, ARGS) == first
    assert calls == [["quick"], ["standard"]]
    rows_of([quick], *LINF, again)
    assert calls[2:] == [["quick"]]
    rows_of([replace(quick, timed=1)], *LINF, ARGS)
    assert calls[3:] == [["quick"]], "another number of timed images"
    kept = benchmark["read"](names["ROWS"])
    assert set(kept) == {"quick digits-eat linf:0.2", "standard digits-eat linf:0.2"}
    benchmark["keep"](names["ROWS"], {name: replace(row, attacks=["pgd()"]) for name, row in kept.items()})
    assert rows_of([standard], *LINF, report) == [], "the protocol has other attacks now"


def test_attacks_of_a_protocol_are_described_with_every_number_but_their_label(benchmark):
    question = benchmark["Question"]("quick", seeds=1, timed=0, pairs=1)
    texts = question.attacks("digits-eat", "l1:10")
    assert texts[0].startswith("pgd(")
    assert "step_size=0.1" in texts[0]
    assert texts[0].endswith(" restarts=1")
    assert len(texts) == 4


def test_every_reference_has_attacks_for_every_norm_of_its_models(benchmark):
    for reference, models in benchmark["THEIR_MODELS"].items():
        for model in models:
            for threat in benchmark["RADII"][benchmark["data_of"](model)]:
                assert benchmark["THEIR_ATTACKS"][reference][benchmark["norm_of"](threat)]


def test_references_have_files_of_their_own(benchmark):
    files = {benchmark["reference_file"](*pair, name) for pair in (LINF, L2) for name in ("AutoAttack", "Foolbox")}
    assert {file.name for file in files} == {
        *("digits-eat-linf.robench", "digits-eat-l2.robench"),
        *("foolbox-digits-eat-linf.robench", "foolbox-digits-eat-l2.robench"),
    }


def test_the_committed_references_ran_to_the_end_with_the_attacks_of_the_script(benchmark):
    files = {path.name: path for path in (BENCHMARKS / "references").glob("*.robench")}
    checked = 0
    for reference, models in benchmark["THEIR_MODELS"].items():
        for pair in ((model, threat) for model in models for threat in benchmark["RADII"][benchmark["data_of"](model)]):
            if (path := files.pop(benchmark["reference_file"](*pair, reference).name, None)) is None:
                continue
            run = robench.load_run(path)
            (found,) = run.threats
            assert (run.model.name, found.threat) == pair
            texts = benchmark["THEIR_ATTACKS"][reference][benchmark["norm_of"](pair[1])]
            for text, entry in zip(texts, found.attacks, strict=True):
                (name, settings), (ran, every_setting) = parse(text), parse(entry.spec)
                assert ran == name
                assert entry.items == settings.pop("restarts", 1)
                assert settings.items() <= every_setting.items()
            assert (run.data.examples, run.union.open) == (benchmark["EXAMPLES"], 0)
            checked += 1
    assert checked >= 18
    assert not files, "files that the script does not read"
