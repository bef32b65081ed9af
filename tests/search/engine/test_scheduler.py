"""The scheduler, with jobs that are no attacks: which search runs next on which slot."""

import itertools
from dataclasses import dataclass, field

import pytest

from robench.search.engine.scheduler import Item, LibraryBatch, Scheduler, Waiting

from ...test_architecture import run_without_torch


def drained(waiting):
    return list(iter(waiting.take, None))


def test_waiting_items_are_generated_on_demand():
    endless = (Item(row, 0, 0) for row in itertools.count())
    waiting = Waiting(endless, dict.fromkeys(range(10), 1))
    assert [waiting.take().row for _ in range(3)] == [0, 1, 2]
    assert next(endless).row == 3


def test_items_put_back_come_first_and_added_ones_last():
    waiting = Waiting.of([Item(0, 0, 0), Item(1, 0, 0)])
    first = waiting.take()
    waiting.add(Item(7, 0, 9))
    waiting.put_back(first)
    assert len(waiting) == 3
    assert [item.row for item in drained(waiting)] == [0, 1, 7]


def test_a_dropped_example_has_no_more_items():
    waiting = Waiting.of([Item(row, number, number) for number in range(3) for row in range(4)])
    waiting.take()
    waiting.drop(2)
    assert len(waiting) == 8
    waiting.add(Item(2, 9, 9))
    waiting.put_back(Item(2, 9, 9))
    assert len(waiting) == 8
    assert waiting.rows() == {0, 1, 3}
    assert {item.row for item in drained(waiting)} == {0, 1, 3}
    assert (len(waiting), waiting.rows()) == (0, set())


def test_the_length_of_a_queue_is_the_number_of_items_still_to_come():
    waiting = Waiting.of([Item(row, number, number) for number in range(3) for row in range(4)])
    for left in range(12, 0, -1):
        assert len(waiting) == left
        waiting.take()
    assert waiting.take() is None


def test_a_closed_queue_is_empty():
    waiting = Waiting.of([Item(0, 0, 0)] * 3)
    waiting.close()
    assert (waiting.take(), len(waiting), waiting.rows()) == (None, 0, set())


@dataclass(eq=False)
class Fake:
    """A job whose searches end when the test releases their slots."""

    name: str
    waiting: Waiting
    kind: str = "gradients"
    owns_loop: bool = False
    queries_per_step: int = 1
    max_queries: int = 3
    in_flight: int = 0
    steps: int = 0
    dropped: set[int] = field(default_factory=set)
    error: str = ""
    unfinished: set[int] = field(default_factory=set)


def fake(name, rows, **settings):
    return Fake(name, Waiting.of(Item(row, 0, 0) for row in rows), **settings)


def scheduler(rows, *jobs):
    made = Scheduler(rows, lambda job: job.kind)
    made.add(jobs)
    return made


def layout(scheduler):
    """The search on each busy slot, as text: `a0` is row 0 of job a."""
    return {slot: f"{search.job.name}{search.item.row}" for slot, search in scheduler.running()}


def started(plan):
    return {slot: f"{job.name}{item.row}" for job, starts in plan.starts.items() for slot, item in starts}


def held(plan):
    return {job.name: list(slots) for job, slots in plan.groups.items()}


def test_the_scheduler_does_not_need_torch():
    done = run_without_torch("import robench.search.engine.scheduler")
    assert done.returncode == 0, done.stderr


def test_free_slots_go_to_the_first_job_and_then_to_the_next_of_its_kind():
    made = scheduler(4, fake("a", range(3)), fake("b", range(9)))
    plan = made.schedule()
    assert (plan.slots, plan.rows, plan.opens) == (4, 4, True)
    assert started(plan) == {0: "a0", 1: "a1", 2: "a2", 3: "b0"}
    assert held(plan) == {"a": [0, 1, 2], "b": [3]}
    assert [job.in_flight for job in plan.groups] == [3, 1]

    made.release(1)
    plan = made.schedule()
    assert not plan.opens
    assert started(plan) == {1: "b1"}
    assert held(plan) == {"a": [0, 2], "b": [1, 3]}
    assert layout(made) == {0: "a0", 1: "b1", 2: "a2", 3: "b0"}


def test_a_batch_goes_on_without_idle_slots_once_no_search_waits():
    job = fake("a", range(5))
    made = Scheduler(4, lambda job: job.kind, lambda job, busy, slots: busy if len(busy) < slots else None)
    made.add([job])
    plan = made.schedule()
    assert (plan.slots, plan.opens, plan.retained) == (4, True, None)
    made.release(1)
    assert made.schedule().retained is None, "the last search takes the slot"
    made.release(0)
    made.release(2)
    plan = made.schedule()
    assert (plan.slots, plan.opens, plan.retained) == (2, False, [1, 3])
    assert layout(made) == {0: "a4", 1: "a3"}
    assert held(plan) == {"a": [0, 1]}

    job.waiting.add(Item(4, 0, 9))
    assert not made.schedule().starts, "a repeated search waits for a slot"
    made.release(0)
    plan = made.schedule()
    assert (started(plan), plan.retained) == ({0: "a4"}, None)


def test_a_batch_opens_with_as_many_slots_as_it_has_searches():
    made = Scheduler(4, lambda job: job.kind, lambda job, busy, slots: busy if len(busy) < slots else None)
    made.add([fake("a", range(2))])
    plan = made.schedule()
    assert (plan.slots, plan.opens, plan.retained) == (2, True, None)
    assert started(plan) == {0: "a0", 1: "a1"}


def test_a_job_of_another_kind_waits_until_every_slot_is_free_and_opens_a_new_batch():
    made = scheduler(8, fake("a", range(2)), fake("b", range(9), kind="labels", queries_per_step=4))
    assert started(made.schedule()) == {0: "a0", 1: "a1"}
    made.release(0)
    plan = made.schedule()
    assert (plan.opens, held(plan)) == (False, {"a": [1]})
    made.release(1)
    plan = made.schedule()
    assert (plan.opens, plan.slots, plan.rows) == (True, 2, 8), "four rows for each of two slots"
    assert started(plan) == {0: "b0", 1: "b1"}


def test_a_batch_has_at_least_one_slot():
    assert scheduler(3, fake("a", [0], queries_per_step=50)).schedule().slots == 1


def test_jobs_are_taken_only_when_slots_are_free():
    taken = []

    def jobs():
        for name in "abc":
            taken.append(name)
            yield fake(name, range(3))

    made = Scheduler(4, lambda job: job.kind)
    made.add(jobs())
    assert taken == []
    made.schedule()
    assert taken == ["a", "b"]
    made.schedule()
    assert taken == ["a", "b"]
    made.release(0)
    made.release(1)
    made.release(2)
    made.schedule()
    assert taken == ["a", "b", "c"]


def test_a_search_added_after_the_last_one_ended_runs_before_other_jobs():
    one = fake("a", [0])
    made = scheduler(1, one, fake("b", [0]))
    made.schedule()
    made.release(0)
    one.waiting.add(Item(5, 1, 1))
    assert started(made.schedule()) == {0: "a5"}


def test_it_is_finished_once_it_finds_no_work_and_goes_on_with_more_jobs():
    made = scheduler(2, fake("empty", []), fake("a", [0]))
    assert held(made.schedule()) == {"a": [0]}
    made.release(0)
    assert not made.finished
    assert made.schedule() is None
    assert made.finished
    made.add([fake("b", [0])])
    assert not made.finished
    assert held(made.schedule()) == {"b": [0]}


def test_steps_are_counted_up_to_the_budget_of_each_search():
    one = fake("a", range(2), max_queries=5)
    made = scheduler(2, one)
    made.schedule()
    made.advance(3)
    made.release(0)
    assert [search.exhausted for _, search in made.running()] == [False]
    made.advance(3)
    assert [(search.steps, search.exhausted) for _, search in made.running()] == [(5, True)]
    assert one.steps == 3 + 5


def test_running_searches_of_a_dropped_example_are_released():
    one = Fake("a", Waiting.of(Item(row, number, number) for row in range(2) for number in range(2)))
    made = scheduler(4, one)
    made.schedule()
    one.dropped.add(0)
    assert [(search.item.row, search.item.number) for search in made.release_dropped()] == [(0, 0), (0, 1)]
    assert layout(made) == {2: "a1", 3: "a1"}
    assert one.in_flight == 2
    assert made.release_dropped() == []


def test_a_failed_job_leaves_its_slots_and_notes_what_it_leaves_unfinished():
    bad, good = fake("bad", range(3)), fake("good", range(9))
    made = scheduler(4, bad, good)
    made.schedule()
    made.release(0)
    bad.dropped.add(2)
    bad.error = "ValueError"
    bad.waiting.add(Item(7, 0, 0))
    made.remove_failed()
    assert bad.unfinished == {1, 7}, "not the search that ended, nor the dropped example"
    assert (bad.in_flight, len(bad.waiting)) == (0, 0)
    plan = made.schedule()
    assert held(plan) == {"good": [0, 1, 2, 3]}
    assert layout(made) == {0: "good1", 1: "good2", 2: "good3", 3: "good0"}


def test_after_a_memory_shortage_the_same_searches_start_in_the_same_order_on_half_the_slots():
    made = scheduler(4, fake("a", range(3)), fake("b", range(3)), fake("c", range(2), kind="labels"))
    made.schedule()
    made.halve()
    assert made.rows == 2
    order = []
    while (plan := made.schedule()) is not None:
        assert plan.slots == 2
        order += started(plan).values()
        for slot, _ in made.running():
            made.release(slot)
    assert order == ["a0", "a1", "a2", "b0", "b1", "b2", "c0", "c1"]


def test_a_single_row_is_not_halved():
    made = scheduler(1, fake("a", [0]))
    with pytest.raises(AssertionError, match="a single row cannot be halved"):
        made.halve()


def test_a_slot_is_released_once():
    made = scheduler(2, fake("a", [0]))
    made.schedule()
    assert made.release(0).item.row == 0
    with pytest.raises(AssertionError, match="slot 0 is already free"):
        made.release(0)


# Library attacks


def library(name, items):
    return Fake(name, Waiting.of(items), owns_loop=True)


def test_a_library_attack_gets_batches_of_different_images():
    one = library("lib", [Item(0, 0, 0), Item(1, 0, 0), Item(0, 1, 1), Item(2, 0, 0)])
    made = scheduler(8, one)
    batches = []
    while isinstance(batch := made.schedule(), LibraryBatch):
        assert one.in_flight == len(batch.items)
        batches.append([item.row for item in batch.items])
        made.finish(batch, batch.items)
    assert batches == [[0, 1], [0, 2]]
    assert (batch, made.finished, one.in_flight) == (None, True, 0)


def test_a_library_attack_waits_for_the_slots_and_goes_before_later_jobs():
    made = scheduler(2, fake("a", [0]), library("lib", [Item(row, 0, 0) for row in range(3)]), fake("b", [0]))
    assert held(made.schedule()) == {"a": [0]}
    assert held(made.schedule()) == {"a": [0]}
    made.release(0)
    for rows in ([0, 1], [2]):
        batch = made.schedule()
        assert (batch.job.name, [item.row for item in batch.items]) == ("lib", rows)
        made.finish(batch, batch.items)
    assert held(made.schedule()) == {"b": [0]}


def test_a_library_batch_that_ran_out_of_memory_is_repeated_in_halves():
    made = scheduler(4, library("lib", [Item(row, 0, 0) for row in range(5)]))
    batch = made.schedule()
    made.finish(batch, [])
    assert batch.job.in_flight == 0
    made.halve()
    rows = []
    while (batch := made.schedule()) is not None:
        rows.append([item.row for item in batch.items])
        made.finish(batch, batch.items)
    assert rows == [[0, 1], [2, 3], [4]]


def test_searches_of_a_library_batch_that_have_not_ended_come_first_again():
    made = scheduler(3, library("lib", [Item(row, 0, 0) for row in range(5)]))
    batch = made.schedule()
    made.finish(batch, [batch.items[1]])
    assert batch.job.in_flight == 0
    assert [item.row for item in made.schedule().items] == [0, 2, 3]


def test_a_failed_library_attack_makes_no_more_searches():
    one = library("lib", [Item(row, 0, 0) for row in range(5)])
    made = scheduler(2, one, fake("a", [0]))
    batch = made.schedule()
    one.error = "KeyError"
    made.finish(batch, batch.items)
    assert one.unfinished == set(range(5))
    assert held(made.schedule()) == {"a": [0]}
