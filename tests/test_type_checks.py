"""The type checks of tests find a wrong type, a wrong shape and an axis of two sizes, in arguments and results."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path

import jaxtyping
import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from torch import Tensor

from robench.problem.shapes import Labels, Logits, per_example
from robench.problem.split import Split

from . import type_checks
from .type_checks import EVERY, FIRST, calls, checked_once, names_a_shape, names_by_text

checked = jaxtyping.jaxtyped(typechecker=beartype)


@pytest.fixture(autouse=True)
def every_call_is_checked(monkeypatch):
    """A test calls the same function several times."""
    monkeypatch.setattr(type_checks, "FIRST", 100)


@checked
def plain(x: int) -> int:
    return x if x else "none"


@checked
def shaped(logits: Logits, y: Labels) -> Labels:
    return logits.argmax(1) if len(y) > 1 else logits


def test_a_wrong_type_is_found_in_an_argument_and_in_a_result():
    assert plain(1) == 1
    for wrong in ("1", 0):
        with pytest.raises(BeartypeCallHintViolation):
            plain(wrong)


def test_a_wrong_shape_is_found_in_an_argument_and_in_a_result():
    labels = torch.zeros(2, dtype=torch.long)
    assert shaped(torch.zeros(2, 3), labels).shape == (2,)
    for logits, y in (
        (torch.zeros(2), labels),  # an axis too few
        (torch.zeros(4, 3), labels),  # B of two sizes
        (torch.zeros(2, 3), labels.double()),  # no whole numbers
        (torch.zeros(1, 3), labels[:1]),  # the result has an axis too many
    ):
        with pytest.raises(BeartypeCallHintViolation):
            shaped(logits, y)


def is_found(function, *wrong):
    try:
        function(*wrong)
    except BeartypeCallHintViolation:
        return True
    return False


@pytest.mark.parametrize(
    ("function", "wrong"), [(plain, ("1",)), (shaped, (torch.zeros(2), torch.zeros(1, dtype=torch.long)))]
)
def test_a_mistake_is_found_in_every_early_call_and_in_one_of_several_later_ones(function, wrong, monkeypatch):
    monkeypatch.setattr(type_checks, "FIRST", FIRST)
    calls.clear()
    found = [is_found(function, *wrong) for _ in range(FIRST + 3 * EVERY)]
    assert all(found[:FIRST])
    assert sum(found[FIRST:]) == 3


def test_every_test_begins_with_early_calls():
    assert not calls


@checked
@dataclass
class Pair:
    logits: Logits
    name: str


def test_the_fields_of_a_dataclass_are_checked():
    assert Pair(torch.zeros(2, 3), "a").name == "a"
    for logits, name in ((torch.zeros(2), "a"), (torch.zeros(2, 3), 1)):
        with pytest.raises(BeartypeCallHintViolation):
            Pair(logits, name)


def test_axes_of_one_call_say_nothing_about_the_next():
    assert shaped(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)).shape == (2,)
    assert shaped(torch.zeros(5, 4), torch.zeros(5, dtype=torch.long)).shape == (5,)


def test_robench_is_checked_while_tests_run():
    assert jaxtyping.jaxtyped.__qualname__ == checked_once(None).__qualname__
    with pytest.raises(BeartypeCallHintViolation):
        per_example([1.0], torch.zeros(1))
    with pytest.raises(Exception, match=r"(?i)type"):
        Split.whole("x", torch.zeros(4, 1, 2, 2), torch.zeros(4), 10)


@pytest.mark.parametrize("named", [Logits, Logits | None, list[Labels], dict[str, tuple[Logits, int]]])
def test_a_shape_is_found_inside_other_types(named):
    assert names_a_shape(named)
    assert not any(map(names_a_shape, (int, str | None, list[int], Tensor, None)))


def test_a_type_named_by_text_is_found_inside_other_types():
    assert all(map(names_by_text, ("Logits", list["Logits"], Callable[["Logits"], int], dict[str, "Logits"] | None)))
    assert not names_by_text(dict[str, tuple[Logits, int]] | None)


@checked
def postponed(x: "Nowhere", n: int) -> int:
    return n


def test_a_type_that_cannot_be_resolved_is_let_pass():
    assert postponed("anything", 1) == 1


@checked
@dataclass
class Chain:
    link: "Chain | None" = None

    @checked
    def joined(self, other: "Chain", logits: "Logits", y: "Labels") -> "Chain":
        return Chain(other) if len(y) > 1 else "none"


def test_a_type_named_by_text_is_looked_up_and_checked():
    chain, logits, y = Chain(), torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)
    assert chain.joined(chain, logits, y) == Chain(chain)
    for wrong in [
        (1, logits, y),
        (chain, torch.zeros(2), y),
        (chain, torch.zeros(4, 3), y),
        (chain, logits[:1], y[:1]),
    ]:
        calls.clear()
        for _ in range(FIRST):
            with pytest.raises(BeartypeCallHintViolation):
                chain.joined(*wrong)
    with pytest.raises(BeartypeCallHintViolation):
        Chain("link")


def test_compiled_files_are_marked_for_robench_alone(tmp_path, monkeypatch):
    """A module of robench that imports another package: `jaxtyped` marks the files of both."""
    package, other = tmp_path / "robench_like", tmp_path / "other_package.py"
    package.mkdir()
    (package / "__init__.py").write_text("import other_package\n\n\ndef f(x: int) -> int:\n    return x\n")
    other.write_text("def f(x: int) -> int:\n    return x\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    with jaxtyping.install_import_hook("robench_like", "beartype.beartype"):
        made = importlib.import_module("robench_like")
    with pytest.raises(BeartypeCallHintViolation):
        made.f("1")
    assert made.other_package.f("1") == "1"
    (marked,) = (package / "__pycache__").iterdir()
    (plain_file,) = (tmp_path / "__pycache__").iterdir()
    assert "jaxtyping" in marked.name
    assert plain_file == Path(cache_from_source(str(other)))
    for name in ("robench_like", "other_package"):
        del sys.modules[name]
