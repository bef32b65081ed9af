"""The attacks that the doctor checks, and its report."""

import importlib.metadata
from pathlib import Path

import pytest

from robench.doctor import installed
from robench.doctor.attacks import LIBRARIES, NO_REACH, OURS, AttackUnderTest, attacks_under_test
from robench.doctor.cases import cases
from robench.doctor.checks import CheckResult
from robench.doctor.installed import Library
from robench.doctor.report import FAILED, CheckedAttack, markdown, reach_of
from robench.errors import UserError
from robench.problem.datasets import DATASETS
from robench.search.attack import ForeignAttack
from robench.search.attacks import ATTACKS
from robench.search.attacks.pgd import PGD


def test_every_attack_of_robench_is_checked_under_every_threat_it_supports():
    ours = {(tested.attack.name, tested.threat) for tested in attacks_under_test([], [])}
    own = [kind for kind in ATTACKS.values() if not issubclass(kind, ForeignAttack)]
    assert ours == {(kind.name, threat) for kind in own for threat in kind.threats}


def test_only_installed_libraries_are_checked():
    assert {tested.library for tested in attacks_under_test([], ["Foolbox", "AutoAttack"])} == {
        OURS,
        "Foolbox",
        "AutoAttack",
    }
    assert {tested.library for tested in attacks_under_test([], [])} == {OURS}


def test_the_committed_report_lists_these_attacks_and_all_of_robench_pass(monkeypatch):
    monkeypatch.setattr("robench.doctor.attacks.find_spec", lambda name: None)  # the page was made without numba
    page = (Path(__file__).parents[2] / "docs" / "reference" / "conformance.md").read_text()
    rows = {tuple(line.strip("|").split(" | ")[:3]): line for line in page.splitlines() if line.startswith("| `")}
    every = attacks_under_test([], ["Foolbox", "AutoAttack"])
    expected = {(f" `{tested.name}`", tested.threat, reach_of(tested)): tested for tested in every}
    assert rows.keys() == expected.keys()
    assert not [row for row, line in rows.items() if expected[row].library == OURS and FAILED in line]


@pytest.mark.parametrize("library", ["torchattacks", "ART", "adv-lib"])
def test_attacks_of_the_other_libraries_are_listed_under_the_librarys_name(library):
    """Whether they run is tested where the libraries are installed."""
    every = attacks_under_test([], [library])
    theirs = [tested for tested in every if tested.library == library]
    assert len(theirs) > 10
    assert {tested.attack.name.partition(":")[0] for tested in theirs} == {library.lower()}
    assert not any(tested.ours for tested in theirs)
    assert len({(tested.attack.spec, tested.threat) for tested in theirs}) == len(theirs)


def test_attacks_can_be_selected_by_name_by_library_and_with_settings():
    assert {tested.threat for tested in attacks_under_test(["pgd"], [])} == {"linf", "l2", "l1"}
    assert [tested.name for tested in attacks_under_test(["pgd(steps=3)"], [])] == ["pgd(steps=3)"] * 3
    assert {tested.library for tested in attacks_under_test(["Foolbox"], ["Foolbox"])} == {"Foolbox"}
    (ddn,) = attacks_under_test(["foolbox:DDNAttack(steps=9)"], ["Foolbox"])
    assert (ddn.library, ddn.threat, dict(ddn.attack.settings)["steps"]) == ("Foolbox", "l2", 9)
    assert {tested.library for tested in attacks_under_test(["autoattack-reference(steps=2)"], ["AutoAttack"])} == {
        "AutoAttack"
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pgdd", "did you mean pgd"),
        ("pgd(stepz=3)", "did you mean steps"),
        ("foolbox:DNAttack", "did you mean foolbox:DDNAttack"),
        ("torchattacks", "torchattacks is not installed"),
        ("Foolboks", "did you mean Foolbox"),
    ],
)
def test_an_unknown_name_is_refused_with_a_suggestion(text, message):
    with pytest.raises(UserError, match=message):
        attacks_under_test([text], ["Foolbox"])


def test_libraries_are_listed_with_their_versions(monkeypatch):
    def version(package):
        if package == "pyautoattack":
            return "0.2.0"
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(installed, "version", version)
    found = {library.name: (library.package, library.version) for library in installed.libraries()}
    assert found["AutoAttack"] == ("pyautoattack", "0.2.0")
    assert found["Foolbox"] == ("foolbox", "")
    assert found.keys() == LIBRARIES.keys() - {OURS}


def test_a_data_set_is_here_if_its_files_are_on_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("ROBENCH_DATA", str(tmp_path))
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache")
    assert installed.data_sets() == {name: name == "digits" for name in DATASETS}
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    (tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz").touch()
    assert not installed.data_sets()["mnist"]
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").touch()
    (tmp_path / "fashion_mnist_test.npz").touch()
    (tmp_path / "cache" / "cifar10").mkdir(parents=True)
    (tmp_path / "cache" / "cifar10" / "cifar-10-python.tar.gz").touch()
    (tmp_path / "CIFAR-10-C.tar").touch()
    (tmp_path / "ti_500K_pseudo_labeled.pickle").touch()
    (tmp_path / "test_32x32.mat").touch()
    assert not installed.data_sets()["tiny-imagenet"]
    (tmp_path / "tiny-imagenet-200.zip").touch()
    assert all(installed.data_sets().values())


def test_the_report_has_a_mark_for_every_case_and_a_line_for_every_failure():
    names = [case.name for case in cases()]
    failed = ("binary", "2 classes")
    all_passed = tuple(CheckResult(name, frozenset(), "") for name in names)
    two_failed = tuple(CheckResult(name, frozenset(), "misses 3" if name in failed else "") for name in names)
    all_failed = tuple(CheckResult(name, frozenset(), "raises OSError: no") for name in names)
    text = markdown(
        [
            CheckedAttack(AttackUnderTest(OURS, "pgd(steps=40)", PGD(), "linf"), all_passed),
            CheckedAttack(AttackUnderTest("Foolbox", "foolbox:One", PGD(), "l2", NO_REACH), two_failed),
            CheckedAttack(AttackUnderTest("Foolbox", "foolbox:Two", PGD(), "rt"), all_failed),
        ],
        cases(),
        [Library("Foolbox", "foolbox", "3.3.4"), Library("ART", "adversarial-robustness-toolbox", "")],
        {"digits": True, "mnist": False},
        Library("robench", "robench", "1.2.3"),
    )
    lines = text.splitlines()
    assert "| Foolbox | foolbox 3.3.4 |" in lines
    assert "| ART | not installed |" in lines
    assert "| digits | here |" in lines
    assert "robench 1.2.3" in text
    assert "| `pgd(steps=40)` | linf | 1.25 | " + " | ".join("✓" * len(names)) + " |" in lines
    marks = ["✗" if name in failed else "✓" for name in names]
    assert "| `foolbox:One` | l2 | – | " + " | ".join(marks) + " |" in lines
    assert "- `foolbox:One`, l2, binary, 2 classes: misses 3" in lines
    assert "- `foolbox:Two`, rt, every case: raises OSError: no" in lines
    assert len([line for line in lines if line.startswith("- `")]) == 2
    assert all(f"- **{case.name}**: {case.about}" in lines for case in cases())
