"""Settings of attacks and recipes: the types of the fields decide which values they take."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import pytest

from robench import settings
from robench.errors import UserError
from robench.recipes import RECIPES
from robench.search.attacks import ATTACKS
from robench.settings import Bounds, Count, NoTargets, Positive, Share, build


@dataclass(frozen=True)
class Toy:
    name: ClassVar[str] = "toy"

    steps: Count = 10
    targets: NoTargets = 0
    rate: Positive | None = None
    share: Share = 0.5
    momentum: Annotated[float, Bounds(0, below=1)] = 0.9
    pairs: Annotated[int, Bounds(2, even=True)] = 4
    loss: Literal["margin", "dlr"] = "margin"
    staged: bool = True

    def __post_init__(self):
        settings.check(self)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stepz": 1}, "no setting of toy is called 'stepz'; did you mean steps or staged?"),
        ({"steps": 0}, "toy cannot take steps=0: it must be at least 1, like its default 10"),
        ({"steps": 2.5}, "toy cannot take steps=2.5: it must be a whole number, at least 1, like its default 10"),
        ({"steps": True}, "toy cannot take steps=True: it must be a whole number, at least 1, like its default 10"),
        ({"steps": 10**10}, "toy cannot take steps=10000000000: it must be no more than 1,000,000,000"),
        ({"targets": 2}, "toy cannot take targets=2: it aims at no class; it must be 0, like its default 0"),
        ({"rate": 0}, "toy cannot take rate=0.0: it must be above 0"),
        ({"rate": float("inf")}, "toy cannot take rate=inf: it must be a finite number, above 0"),
        ({"rate": float("nan")}, "toy cannot take rate=nan: it must be a finite number, above 0"),
        ({"rate": 10**400}, "it must be no more than 1,000,000,000"),
        ({"rate": "fast"}, "toy cannot take rate='fast': it must be a number, above 0"),
        ({"share": 1.5}, "toy cannot take share=1.5: it must be from 0 to 1, like its default 0.5"),
        ({"momentum": 1}, "toy cannot take momentum=1.0: it must be at least 0 and below 1, like its default 0.9"),
        ({"pairs": 3}, "toy cannot take pairs=3: it must be at least 2 and even, like its default 4"),
        ({"loss": "margim"}, "no loss of toy is called 'margim'; did you mean margin?"),
        ({"loss": 3}, "toy cannot take loss=3: it must be one of margin, dlr, like its default 'margin'"),
        ({"staged": 1}, "toy cannot take staged=1: it must be true or false, like its default True"),
    ],
)
def test_a_value_out_of_range_is_refused_in_one_sentence(given, message):
    with pytest.raises(UserError) as error:
        build(Toy, given)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_values_at_the_bounds_are_taken():
    toy = build(Toy, {"steps": 1, "targets": 0, "share": 1, "momentum": 0, "pairs": 2, "rate": None, "loss": "dlr"})
    assert (toy.steps, toy.share, toy.momentum, toy.pairs, toy.rate, toy.loss) == (1, 1.0, 0.0, 2, None, "dlr")


def test_a_whole_number_for_a_real_one_becomes_real_as_texts_of_settings_are_keys():
    assert repr(build(Toy, {"rate": 1})) == repr(build(Toy, {"rate": 1.0}))


def test_a_hidden_setting_is_unknown():
    with pytest.raises(UserError, match="no setting of toy is called 'staged'"):
        build(Toy, {"staged": False}, hidden=("staged",))


def test_an_instance_made_without_the_builder_is_validated_too():
    with pytest.raises(UserError, match="cannot take steps=0"):
        replace(Toy(), steps=0)


@pytest.mark.parametrize("kind", [*ATTACKS.values(), *RECIPES.values()], ids=lambda kind: kind.name)
def test_every_number_of_attacks_and_recipes_has_bounds(kind):
    rules = settings._rules(kind)
    unbounded = [name for name, rule in rules.items() if rule.kind in (int, float) and rule.bounds == Bounds()]
    assert unbounded == []
