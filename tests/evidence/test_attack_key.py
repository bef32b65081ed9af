"""The key of an attack's evidence: its text, its parts, and what the tables say of each attack."""

import pytest
import torch

from robench.evidence.attack_key import AttackKey
from robench.problem.losses import UNTARGETED
from robench.search.attack import Attack
from robench.search.attacks import ATTACKS, build
from robench.search.foreign.library import LibraryAttack

SPEC = "apgd(loss='margin', steps=100)"
OWN = "my_attack.py@09a73412ce07:MyAttack(loss='margin', steps=50, targets=0)"
GRADIENT_ATTACKS = sorted(name for name, attack in ATTACKS.items() if attack.reads == "gradients")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (SPEC, AttackKey(SPEC)),
        (f"{SPEC} over 20 passes", AttackKey(SPEC, passes=20)),
        (f"{SPEC} by repaired", AttackKey(SPEC, surrogate="repaired")),
        (f"{SPEC} under linf:8/255", AttackKey(SPEC, found_under="linf:8/255")),
        (f"{SPEC} over 20 passes by inside under rt:1px,5deg", AttackKey(SPEC, 20, "inside", "rt:1px,5deg")),
        ("theirs under l2:1", AttackKey("theirs", found_under="l2:1")),
        ("foolbox:X(a='b by c under (d)') by repaired", AttackKey("foolbox:X(a='b by c under (d)')", None, "repaired")),
        (f"{OWN} over 20 passes by repaired under l2:1", AttackKey(OWN, 20, "repaired", "l2:1")),
        ("", AttackKey("")),
    ],
)
def test_a_key_is_read_from_its_text_and_written_as_the_same_text(text, key):
    assert AttackKey.parse(text) == key
    assert str(key) == text


@pytest.mark.parametrize("text", ["it's(a='\"') or", "x over 020 passes", "x over y", "a  under b", "x()\n", " by "])
def test_other_text_is_kept_as_it_is(text):
    assert str(AttackKey.parse(text)) == text


def test_a_key_names_the_search_the_attack_and_the_surrogate():
    key = AttackKey(SPEC, 20, "repaired", "l2:1")
    assert str(key.of_search) == f"{SPEC} over 20 passes by repaired"
    assert str(key.unaveraged) == f"{SPEC} by repaired under l2:1"
    assert (key.name, key.short, key.kind) == ("apgd", "apgd by repaired", "surrogate")


def declared_kind(attack: type[Attack]) -> str:
    """The kind of an attack by what its class declares."""
    if attack.reads == "anything" or not set(attack.threats) & {"linf", "l2", "l1"}:
        return "other"  # it owns its loop, or it moves images rather than pixels
    if attack.reads == "gradients":
        return "outside" if attack.comes_from_outside else "first-order"
    return {"logits": "scores", "labels": "labels"}[attack.reads]


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_the_kind_of_an_attack_is_what_its_class_declares(name):
    assert AttackKey.parse(build(name, {}).spec).kind == declared_kind(ATTACKS[name])


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_an_attack_minimises_if_its_class_declares_it(name):
    assert AttackKey.parse(build(name, {}).spec).minimises is ATTACKS[name].minimises


def test_an_attack_of_the_users_own_is_of_no_known_kind():
    key = AttackKey.parse(f"{OWN} over 20 passes")
    assert (key.name, key.kind) == ("my_attack.py@09a73412ce07:MyAttack", "other")
    assert str(key.unaveraged) == OWN


def test_attacks_of_other_libraries_are_of_no_known_kind():
    assert LibraryAttack.reads == "anything"
    for spec in ("foolbox:LinfPGD(steps=3)", "torchattacks:PGD(steps=3)", "art:SquareAttack()", "old()"):
        assert AttackKey.parse(spec).kind == "other"


def test_every_attack_in_the_table_of_kinds_exists():
    from robench.evidence import attack_key

    assert attack_key._KINDS.keys() | attack_key._SCALE_FREE <= ATTACKS.keys()


def vanishes(attack) -> bool:
    """Whether the gradient of the attack's loss is 0 for an image with huge logits that the model gets right."""
    logits = torch.tensor([[4e4, 1e4, 2e4, 3e4]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(attack.objective(logits, torch.tensor([0]), torch.tensor([1])).sum(), logits)
    relative = gradient * logits.abs().max()  # losses that divide by logits have small gradients that never vanish
    return bool((relative == 0).all())


@pytest.mark.parametrize("name", GRADIENT_ATTACKS)
def test_an_attack_is_scale_free_if_large_logits_leave_its_loss_a_gradient(name):
    has_loss = "loss" in getattr(build(name, {}), "__dataclass_fields__", {})
    for settings in ({"loss": loss} for loss in UNTARGETED) if has_loss else ({},):
        attack = build(name, settings)
        assert AttackKey.parse(attack.spec).scale_free is not vanishes(attack), attack.spec
