"""Protocols: those that come along can be read, resolve as the contract says, and mistakes are named."""

import pytest

from robench import protocols
from robench.errors import UserError
from robench.problem.datasets import DATASETS
from robench.search.attacks import ATTACKS, build, parse
from robench.search.attacks.apgd import APGD
from robench.search.attacks.pgd import PGD


@pytest.mark.parametrize("name", protocols.names())
def test_every_protocol_that_comes_along_can_be_read(name):
    protocol = protocols.read(protocols.HERE / f"{name}.toml")
    assert protocol.name == name
    assert protocol.description
    assert all(choice.attacks for choice in protocol.threats)
    assert protocol.data in {"", "svhn", "tiny-imagenet", *DATASETS}  # the last two as files of one's own


@pytest.mark.parametrize("data", sorted(DATASETS))
def test_every_data_set_has_a_standard_of_its_own(data):
    assert protocols.load("standard", data).name == f"standard-{data}"


def test_standard_and_the_default_resolve_by_data():
    assert protocols.load("standard", "mine").name == "standard"
    assert protocols.default_name("digits") == "quick"
    assert protocols.default_name("mnist") == "standard"


def test_the_radii_are_those_of_their_sources():
    radii = {name: [str(t.threat) for t in protocols.load(name, "").threats] for name in protocols.names()}
    assert radii["quick"] == ["linf:0.2", "l2:2", "l1:10"]
    assert radii["standard-mnist"] == ["linf:0.3", "l2:2", "l1:10"]
    assert radii["standard-cifar10"] == ["linf:8/255", "l2:0.5", "l1:12"]


def test_other_threats_get_the_attacks_of_their_norm():
    protocol = protocols.load("standard", "mnist").with_threats(["l1:3", "linf:1/255"])
    assert [str(t.threat) for t in protocol.threats] == ["l1:3", "linf:1/255"]
    by_norm = {t.threat.name: t.attacks for t in protocols.load("standard", "mnist").threats}
    assert [t.attacks for t in protocol.threats] == [by_norm["l1"], by_norm["linf"]]
    with pytest.raises(UserError, match="has no attacks for l0"):
        protocol.with_threats(["l0:3"])


def test_other_attacks_run_on_every_threat_and_keep_labels_apart():
    protocol = protocols.load("quick", "digits").with_attacks(["pgd", "pgd(steps=7, restarts=3)"])
    for threat in protocol.threats:
        assert [(a.label, a.attack.steps, a.restarts) for a in threat.attacks] == [("pgd", 100, 1), ("pgd-2", 7, 3)]
    with pytest.raises(UserError, match="slide does not attack linf"):
        protocol.with_attacks(["slide"])


@pytest.mark.parametrize("attack", [PGD(), PGD(steps=7, step_size=0.3, loss="dlr"), APGD(targets=9, loss="dlr")])
def test_the_text_of_an_attack_reads_back(attack):
    assert build(*parse(attack.spec)) == attack


def test_every_attack_has_a_name_a_source_and_defaults_that_build():
    for name, kind in ATTACKS.items():
        assert build(name, {}).name == name == kind.name
        assert "https://" in kind.source


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("pdg", "did you mean pgd"),
        ("pgd(stepz=3)", "did you mean steps"),
        ("pgd(steps=0)", "at least one"),
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
def test_an_attack_that_cannot_be_built_says_why(text, told):
    with pytest.raises(UserError, match=told):
        build(*parse(text))


@pytest.mark.parametrize(
    ("body", "told"),
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
def test_a_mistake_in_a_protocol_file_is_named_with_the_file(body, told, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(body)
    with pytest.raises(UserError, match=told) as caught:
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
