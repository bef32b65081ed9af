"""What the doctor says, and of whom."""

import importlib.metadata
from pathlib import Path

import pytest

from robench.doctor import installed
from robench.doctor.cases import cases
from robench.doctor.examination import Finding
from robench.doctor.installed import Library
from robench.doctor.patients import LIBRARIES, NOTHING, OURS, Patient, patients
from robench.doctor.report import FAILED, Examined, markdown, reach_of
from robench.errors import UserError
from robench.problem.datasets import DATASETS
from robench.search.attack import ForeignAttack
from robench.search.attacks import ATTACKS
from robench.search.attacks.pgd import PGD


def test_every_attack_of_ours_is_examined_under_every_threat_it_is_made_for():
    ours = {(patient.attack.name, patient.threat) for patient in patients([], [])}
    own = [kind for kind in ATTACKS.values() if not issubclass(kind, ForeignAttack)]
    assert ours == {(kind.name, threat) for kind in own for threat in kind.threats}


def test_only_libraries_that_are_installed_are_examined():
    assert {patient.library for patient in patients([], ["Foolbox", "AutoAttack"])} == {OURS, "Foolbox", "AutoAttack"}
    assert {patient.library for patient in patients([], [])} == {OURS}


def test_the_page_that_comes_along_is_about_these_attacks_and_all_of_ours_pass(monkeypatch):
    monkeypatch.setattr("robench.doctor.patients.find_spec", lambda name: None)  # it was made without numba
    page = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text()
    rows = {tuple(line.strip("|").split(" | ")[:3]): line for line in page.splitlines() if line.startswith("| `")}
    examined = patients([], ["Foolbox", "AutoAttack"])
    expected = {(f" `{p.name}`", p.threat, reach_of(p)): p for p in examined}
    assert rows.keys() == expected.keys()
    assert not [row for row, line in rows.items() if expected[row].library == OURS and FAILED in line]


@pytest.mark.parametrize("library", ["torchattacks", "ART", "adv-lib"])
def test_the_other_libraries_have_attacks_of_their_own_names(library):
    """That they run is seen where they are installed."""
    every = patients([], [library])
    theirs = [patient for patient in every if patient.library == library]
    assert len(theirs) > 10
    assert {patient.attack.name.partition(":")[0] for patient in theirs} == {library.lower()}
    assert not any(patient.ours for patient in theirs)
    assert len({(patient.attack.spec, patient.threat) for patient in theirs}) == len(theirs)


def test_an_attack_may_be_named_alone_with_its_library_or_with_settings():
    assert {p.threat for p in patients(["pgd"], [])} == {"linf", "l2", "l1"}
    assert [p.name for p in patients(["pgd(steps=3)"], [])] == ["pgd(steps=3)"] * 3
    assert {p.library for p in patients(["Foolbox"], ["Foolbox"])} == {"Foolbox"}
    (ddn,) = patients(["foolbox:DDNAttack(steps=9)"], ["Foolbox"])
    assert (ddn.library, ddn.threat, dict(ddn.attack.settings)["steps"]) == ("Foolbox", "l2", 9)
    assert {p.library for p in patients(["autoattack-reference(steps=2)"], ["AutoAttack"])} == {"AutoAttack"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("pgdd", "did you mean pgd"),
        ("pgd(stepz=3)", "did you mean steps"),
        ("foolbox:DNAttack", "did you mean foolbox:DDNAttack"),
        ("torchattacks", "torchattacks is not installed"),
        ("Foolboks", "did you mean Foolbox"),
    ],
)
def test_a_name_that_is_not_there_is_one_sentence(text, told):
    with pytest.raises(UserError, match=told):
        patients([text], ["Foolbox"])


def test_libraries_are_told_with_their_versions(monkeypatch):
    def version(package):
        if package == "pyautoattack":
            return "0.2.0"
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(installed, "version", version)
    told = {library.name: (library.package, library.version) for library in installed.libraries()}
    assert told["AutoAttack"] == ("pyautoattack", "0.2.0")
    assert told["Foolbox"] == ("foolbox", "")
    assert told.keys() == LIBRARIES.keys() - {OURS}


def test_data_sets_are_here_when_their_files_are(monkeypatch, tmp_path):
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
    assert all(installed.data_sets().values())


def test_the_report_has_a_mark_for_every_case_and_a_line_for_every_complaint():
    names = [case.name for case in cases()]
    sound = tuple(Finding(name, frozenset(), "") for name in names)
    ill = tuple(Finding(name, frozenset(), "misses 3" if name in ("binary", "2 classes") else "") for name in names)
    dead = tuple(Finding(name, frozenset(), "raises OSError: no") for name in names)
    text = markdown(
        [
            Examined(Patient(OURS, "pgd(steps=40)", PGD(), "linf"), sound),
            Examined(Patient("Foolbox", "foolbox:One", PGD(), "l2", NOTHING), ill),
            Examined(Patient("Foolbox", "foolbox:Two", PGD(), "rt"), dead),
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
    marks = ["✗" if name in ("binary", "2 classes") else "✓" for name in names]
    assert "| `foolbox:One` | l2 | – | " + " | ".join(marks) + " |" in lines
    assert "- `foolbox:One`, l2, binary, 2 classes: misses 3" in lines
    assert "- `foolbox:Two`, rt, every case: raises OSError: no" in lines
    assert len([line for line in lines if line.startswith("- `")]) == 2
    assert all(f"- **{case.name}**: {case.asks}" in lines for case in cases())
