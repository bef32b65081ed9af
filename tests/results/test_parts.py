"""Evidence in parts: the same summary as from the whole, in memory that does not grow with the examples."""

import gc
import tracemalloc

import msgspec
import pytest

from robench.evidence import store
from robench.evidence.records import Clean, Exhausted
from robench.evidence.store import RunFile
from robench.results.summarising import summarise
from tests.results.made import EVIDENCE, PLAN


@pytest.mark.parametrize("part", [1, 2, 3, 100])
@pytest.mark.parametrize("every_attack", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_summary_of_parts_is_that_of_the_whole(monkeypatch, part, every_attack, backwards):
    monkeypatch.setattr(store, "PART", part)
    examples = PLAN.examples[::-1] if backwards else PLAN.examples
    plan = msgspec.structs.replace(PLAN, examples=examples, every_attack=every_attack, curve=True)
    with RunFile.in_memory() as run:
        with run.writing():
            run.adopt(EVIDENCE, {}, [])
        assert summarise(plan, run, "").to_json() == summarise(plan, run.evidence(), "").to_json()


def peak(path, count):
    """The bytes that a summary of so many examples takes, above its plan."""
    threat = PLAN.threats[0]
    plan = msgspec.structs.replace(PLAN, examples=tuple(range(count)), threats=(threat,))
    with RunFile.open(path) as run, run.writing():
        run.put_plan(plan, {})
        run.put_clean(Clean(n, f"{n:016x}", True, -1.0) for n in plan.examples)
        run.put_exhausted(Exhausted(n, threat.threat, a.spec, 1, 1, 1) for n in plan.examples for a in threat.attacks)
    with RunFile.read(path) as run:
        gc.collect()
        tracemalloc.start()
        try:
            summarise(plan, run, "")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


@pytest.mark.costly
def test_the_memory_of_a_summary_grows_by_its_arrays_alone(tmp_path, monkeypatch):
    """Per example: its letters under the threat and under all, as arrays (2) and as texts (2); and garbage (4)."""
    monkeypatch.setattr(store, "PART", store.PART // 4)  # for time
    few, many = 2 * store.PART, 8 * store.PART
    peak(tmp_path / "first", few)  # fills what the process keeps from now on
    growth = (peak(tmp_path / "many", many) - peak(tmp_path / "few", few)) / (many - few)
    assert growth < 2 + 2 + 4
