"""Protocols: those that come along can be read, resolve as the contract says, and mistakes are named."""

import pytest

from robench import protocols
from robench.errors import UserError
from robench.problem.datasets import DATASETS
from robench.search.attacks import ATTACKS, build, parse
from robench.search.attacks.apgd import APGD
from robench.search.attacks.pgd import PGD

KINDS = ("standard", "exhaustive")


@pytest.mark.parametrize("name", protocols.names())
def test_every_protocol_that_comes_along_can_be_read(name):
    protocol = protocols.read(protocols.HERE / f"{name}.toml")
    assert protocol.name == name
    assert protocol.description
    assert all(choice.attacks for choice in protocol.threats)
    assert protocol.data in {"", *DATASETS}


@pytest.mark.parametrize("data", sorted(name for name, data in DATASETS.items() if data.mean))
def test_every_data_set_has_a_standard_of_its_own(data):
    assert protocols.load("standard", data).name == f"standard-{data}"


def test_corrupted_images_of_cifar10_are_evaluated_at_its_radii():
    for name in KINDS:
        assert protocols.load(name, "cifar10-c/fog@3").threats == protocols.load(name, "cifar10").threats


def test_standard_and_the_default_resolve_by_data():
    assert protocols.load("standard", "mine").name == "standard"
    assert protocols.default_name("digits") == "quick"
    assert protocols.default_name("mnist") == "standard"


def test_the_radii_are_those_of_their_sources():
    radii = {name: [str(t.threat) for t in protocols.load(name, "").threats] for name in protocols.names()}
    assert radii["quick"] == ["linf:0.2", "l2:2", "l1:10"]
    assert radii["standard-mnist"] == ["linf:0.3", "l2:2", "l1:10"]
    assert radii["standard-cifar10"] == ["linf:8/255", "l2:0.5", "l1:12"]
    assert sorted(radii["standard-svhn"]) == sorted(radii["madaan2021-svhn"])
    assert sorted(radii["standard-tiny-imagenet"]) == sorted(radii["madaan2021-tiny-imagenet"])
    assert all(radii[f"exhaustive-{data}"] == radii[f"standard-{data}"] for data in ("svhn", "tiny-imagenet"))


@pytest.mark.parametrize("name", [name for name in protocols.names() if name.startswith("exhaustive")])
def test_exhaustive_has_the_attacks_of_standard_under_l2_and_l1(name):
    """With as many targets and restarts at least; on more examples, as none has a sample."""

    def described(choice):
        numbers = vars(choice.attack) | {"targets": 0, "target_order": ""}
        return choice.attack.name, tuple(sorted(numbers.items()))

    standard, exhaustive = (protocols.load(name.replace("exhaustive", of), "").threats for of in KINDS)
    for ours, more in zip(standard[1:], exhaustive[1:], strict=True):
        for choice in ours.attacks:
            same = [other for other in more.attacks if described(other) == described(choice)]
            assert any(
                other.attack.targets >= choice.attack.targets and other.restarts >= choice.restarts for other in same
            ), f"{choice.label} under {more.threat}"
        assert not any(choice.sample for choice in more.attacks)


# Steps, the length of a step in the unit of the norm, and restarts, as the sources give them.
SOURCES = {
    "tramer2019-mnist-lp": {
        "linf:0.3": {"pgd": (100, 0.0075, 40), "boundary++": (40, None, 1)},
        "l2:2": {"pgd": (100, 0.05, 40), "cw": (1000, None, 1), "boundary": (1000, None, 1)},
        "l1:10": {"slide": (100, 0.5, 40), "ead": (1000, None, 1), "pointwise": (None, None, 1)},
    },
    "tramer2019-mnist-rt": {
        "linf:0.3": {"pgd": (100, 0.0075, 40), "pgd-1000": (1000, 0.00075, 1)},
        "rt:3px,30deg": {"grid": (None, None, 1), "random-transforms": (None, None, 1)},
    },
    "tramer2019-cifar10-lp": {
        "linf:4/255": {"pgd": (100, 0.1 / 255, 20), "pgd-1000": (1000, 0.01 / 255, 1)},
        "l1:2000/255": {
            "slide": (100, 2.0, 20),
            "slide-1000": (1000, 2.0, 1),
            "ead": (1000, None, 1),
            "pointwise": (None, None, 1),
        },
    },
    "madaan2021-cifar10": {
        "linf:8/255": {"pgd-50": (50, 1 / 255, 1), "pgd-foolbox": (40, 8 / 255 / 30, 1)},
        "l2:128/255": {"pgd-50": (50, 25 / 255, 1), "pgd-foolbox": (50, 128 / 255 / 40, 1), "cw": (200, None, 1)},
        "l1:2000/255": {"slide": (100, 1.0, 1), "slide-foolbox": (10, 0.2 * 2000 / 255, 1), "ead": (1000, None, 1)},
    },
    "madaan2021-svhn": {
        "linf:8/255": {"pgd-50": (50, 1 / 255, 1)},
        "l2:128/255": {"pgd-50": (50, 25 / 255, 1)},
        "l1:2000/255": {"slide": (100, 1.0, 1)},
    },
    "madaan2021-tiny-imagenet": {
        "linf:4/255": {"pgd-50": (50, 1 / 255, 1)},
        "l2:80/255": {"pgd-50": (50, 25 / 255, 1), "cw": (200, None, 1)},
        "l1:2000/255": {"slide": (100, 1.0, 1)},
    },
    "madaan2021-mnist": {"linf:0.3": {}, "l2:2": {}, "l1:10": {}},
    "maini2020-cifar10": {
        "linf:0.03": {"pgd": (50, 0.003, 10)},
        "l2:0.5": {"pgd": (500, 0.01, 10), "cw": (200, None, 1)},
        "l1:12": {"slide": (50, 1.0, 10)},
    },
    "croce2022-cifar10": {"linf:8/255": {}, "l2:0.5": {}, "l1:12": {}},
    "robustbench-linf": {"linf:8/255": {}},
    "robustbench-l2": {"l2:0.5": {}},
}


@pytest.mark.parametrize(("name", "threat"), [(name, threat) for name, rows in SOURCES.items() for threat in rows])
def test_the_numbers_are_those_of_their_sources(name, threat):
    protocol = protocols.load(name, "")
    assert [str(choice.threat) for choice in protocol.threats] == list(SOURCES[name])
    (choice,) = [choice for choice in protocol.threats if str(choice.threat) == threat]
    attacks = {attack.label: attack for attack in choice.attacks}
    for label, (steps, step, restarts) in SOURCES[name][threat].items():
        attack = attacks[label].attack
        assert attacks[label].restarts == restarts
        assert steps is None or attack.steps == steps
        if step is not None:
            # In radii; where PGD is told none, it takes 2.5 radii in all.
            share = attack.step_size or 2.5 / attack.steps
            assert share * choice.threat.r == pytest.approx(step, rel=5e-3)


def test_other_threats_get_the_attacks_of_their_norm():
    protocol = protocols.load("standard", "mnist").with_threats(["l1:3", "linf:1/255"])
    assert [str(t.threat) for t in protocol.threats] == ["l1:3", "linf:1/255"]
    by_norm = {t.threat.name: t.attacks for t in protocols.load("standard", "mnist").threats}
    assert [t.attacks for t in protocol.threats] == [by_norm["l1"], by_norm["linf"]]
    only_linf = protocols.load("robustbench-linf", "cifar10")
    with pytest.raises(UserError, match=r"has no attacks for l2; name some with --attack .*ddn"):
        only_linf.with_threats(["l2:3"])
    (bare,) = only_linf.with_threats(["l2:3"], bare=True).with_attacks(["ddn"]).threats
    assert (str(bare.threat), [a.label for a in bare.attacks]) == ("l2:3", ["ddn"])


def test_other_attacks_run_on_every_threat_and_keep_labels_apart():
    protocol = protocols.load("quick", "digits").with_attacks(["pgd", "pgd(steps=7, restarts=3)"])
    for threat in protocol.threats:
        assert [(a.label, a.attack.steps, a.restarts) for a in threat.attacks] == [("pgd", 100, 1), ("pgd-2", 7, 3)]
    with pytest.raises(UserError, match=r"no attack is named for linf:0\.2 beside slide; name some with --attack"):
        protocol.with_attacks(["slide"])
    with pytest.raises(UserError, match="grid does not attack linf"):
        protocol.with_attacks(["grid"])
    with pytest.raises(UserError, match="pgd has no setting called attack"):
        protocol.with_attacks(["pgd(attack=apgd)"])


@pytest.mark.parametrize("attack", [PGD(), PGD(steps=7, step_size=0.3, loss="dlr"), APGD(targets=9, loss="dlr")])
def test_the_text_of_an_attack_reads_back(attack):
    assert build(*parse(attack.spec)) == attack


def test_every_attack_has_a_name_a_source_and_defaults_that_build():
    for name, kind in ATTACKS.items():
        assert build(name, {}).name == name == kind.name
        assert "https://" in kind.source


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("pdg", "did you mean pdpgd or pgd"),
        ("pgd(stepz=3)", "did you mean steps"),
        ("pgd(steps=0)", "at least 1"),
        ("pgd(steps='many')", "cannot take steps='many'"),
        ("pgd(steps=2.5)", "cannot take steps=2.5"),
        ("pgd(loss=margim)", "did you mean margin"),
        ("pgd(3)", "write settings like steps=40"),
        ("pgd(steps=3", "cannot read the attack"),
        ("slide(percentile=100)", "below 100"),
        ("slide(targets=2)", "aims at no class"),
        ("pgd(targets=-1)", "cannot take targets=-1"),
        ("pgd(step_size=1e999)", "must be a finite number"),
        ("pgd(steps=2, steps=3)", "set twice"),
    ],
)
def test_an_attack_that_cannot_be_built_says_why(text, reported):
    with pytest.raises(UserError, match=reported):
        build(*parse(text))


@pytest.mark.parametrize(
    ("body", "reported"),
    [
        ("x = ", "not valid TOML"),
        ("name = 'a'", "lacks or misspells 'threat'"),
        ("[[threat]]\nthreat = 'linf:0.3'", "lacks or misspells 'attacks'"),
        ("[[threat]]\nthreat = 'linf:0.3'\nattacks = []", "no attack is named"),
        ("[[threat]]\nthreat = 'lnf:0.3'\nattacks = [{ attack = 'pgd' }]", "did you mean linf"),
        ("[[threat]]\nthreat = 'linf:0.3'\nattacks = [{ attack = 'pgd', restarts = 0 }]", "restarts=0"),
        ("[[threat]]\nthreat = 'linf:0.3'\nattacks = [{ attack = 'pgd', stepz = 3 }]", "did you mean steps"),
        ("[[threat]]\nthreat = 'linf:0.3'\nattacks = [{ steps = 3 }]", "lacks or misspells 'attack'"),
        ("exampels = 3\n[[threat]]\nthreat = 'linf:0.3'\nattacks = [{ attack = 'pgd' }]", "did you mean examples"),
        ("[[threat]]\nthreat = 'linf:0.3'\nattcks = [{ attack = 'pgd' }]", "did you mean attacks"),
        ("threat = [1]", "not laid out as a protocol"),
    ],
)
def test_a_mistake_in_a_protocol_file_is_named_with_the_file(body, reported, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(body)
    with pytest.raises(UserError, match=reported) as caught:
        protocols.load(str(path), "digits")
    assert "mine.toml" in str(caught.value)


def test_a_name_that_is_not_there_gets_the_nearest():
    with pytest.raises(UserError, match="did you mean standard-mnist"):
        protocols.load("standard-mnst", "mnist")
    with pytest.raises(UserError, match="there is no protocol file"):
        protocols.load("nowhere.toml", "mnist")


def test_a_threat_or_an_attack_named_twice_would_count_twice_and_is_refused():
    with pytest.raises(UserError, match=r"the threat linf:0\.2 is named twice"):
        protocols.load("quick", "digits").with_threats(["linf:0.2", "linf:1/5"])
    with pytest.raises(UserError, match="named twice"):
        protocols.load("quick", "digits").with_attacks(["pgd(steps=5)", "pgd(steps=5, restarts=2)"])


def test_l0_has_a_standard_which_is_that_of_protocols_without_l0_too():
    standard = protocols.load("standard-l0", "mnist")
    (choice,) = standard.threats
    assert [a.attack.name for a in choice.attacks] == ["sigma-zero", "sigma-zero", "pointwise"]
    for name in ("standard-mnist", "quick"):
        (usual,) = protocols.load(name, "mnist").with_threats(["l0:10"]).threats
        assert [a.attack for a in usual.attacks] == [a.attack for a in choice.attacks]
