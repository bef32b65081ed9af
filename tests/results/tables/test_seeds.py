from statistics import stdev

import msgspec
import pytest

from robench.results.tables import main_table
from robench.results.tables.seeds import Origin, names, rows

from .test_tables import finished, standing

METHOD = '["pgd_at", "digits"]'


def of(name, seed):
    return {name: Origin(("linf:0.3",), 2.0 + seed, METHOD, seed)}


def reported(summaries, origins=None):
    return [(row.name, len(row.runs), row.of) for row in rows(summaries, origins or {})]


def test_runs_of_the_same_weights_under_several_seeds_are_one_row():
    runs = [finished(seed=seed) for seed in (0, 1, 2)]
    assert reported([*runs, finished(name="other", weights="ab" * 32)]) == [
        ("net (3 seeds)", 3, "search"),
        ("other", 1, ""),
    ]


def test_models_of_one_method_under_several_training_seeds_are_one_row():
    runs = [finished(name=f"net-s{seed}", weights=f"{seed}a" * 32) for seed in (0, 1)]
    assert reported(runs, {**of("net-s0", 0), **of("net-s1", 1)}) == [("net (2 seeds)", 2, "training")]
    another = {**of("net-s0", 0), "net-s1": Origin(("linf:0.3",), 2.0, "another recipe", 1)}
    assert reported(runs, another) == [("net-s0", 1, ""), ("net-s1", 1, "")]
    assert reported(runs, {name: Origin(method="") for name in ("net-s0", "net-s1")}) == reported(runs)


def test_runs_with_equal_seeds_are_not_combined():
    assert reported([finished(), finished()]) == [("net", 1, ""), ("net", 1, "")]
    assert reported([finished(seed=1), finished(), finished()])[0] == ("net (seed 1)", 1, "")


def test_a_row_over_seeds_shows_mean_and_standard_deviation():
    runs = [standing(k, seed=seed) for seed, k in enumerate((60, 70, 74))]
    table = main_table([*runs, standing(10, name="other")])
    (first, second) = table.frame["linf:0.3"]
    assert first == f"68.0 ± {stdev([60, 70, 74]):.1f}"
    assert second == "10.0"
    assert "±: standard deviation over seeds of the search, behind their mean." in table.footer
    assert table.footer[0].endswith("seeds 0, 1, 2.")


def test_one_open_example_makes_a_row_over_seeds_a_bound():
    runs = [standing(60, seed=0), standing(60, seed=1, still_open=4)]
    (cell,) = main_table(runs).frame["linf:0.3"]
    assert cell == "≤ 62.0 ± 2.8 (4 open)"


@pytest.mark.parametrize(
    ("changes", "expected"), [({"seed": 2}, "net (seed 2)"), ({"weights": "c" * 64}, "net (cccccccc)")]
)
def test_names_include_what_distinguishes_equal_models(changes, expected):
    assert names([finished(), finished(**changes)])[1] == expected


def test_hours_over_training_seeds_are_a_mean_too():
    runs = [finished(name=f"net{seed}", weights=f"{seed}a" * 32) for seed in (1, 3)]
    other = msgspec.structs.replace(finished(name="x"), seed=5)
    table = main_table([*runs, other], origins={**of("net1", 1), **of("net3", 3)})
    assert list(table.frame["hours"]) == ["4.00 ± 1.41", ""]
