"""Whose turn it is, without any tensors."""

import itertools

import pytest

from robench.search.engine.scheduler import Item, Slots, Waiting


def drained(waiting):
    return list(iter(waiting.take, None))


def test_items_are_made_as_their_turn_comes():
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


def test_a_dropped_example_is_never_served_again():
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


def test_its_length_is_what_it_will_serve():
    waiting = Waiting.of([Item(row, number, number) for number in range(3) for row in range(4)])
    for left in range(12, 0, -1):
        assert len(waiting) == left
        waiting.take()
    assert waiting.take() is None


def test_a_closed_line_serves_nobody():
    waiting = Waiting.of([Item(0, 0, 0)] * 3)
    waiting.close()
    assert (waiting.take(), len(waiting), waiting.rows()) == (None, 0, set())


def test_a_lane_holds_one_search():
    slots = Slots(3)
    slots.sit(1, "job", Item(5, 0, 0))
    assert slots.free() == [0, 2]
    assert [(slot, search.item.row) for slot, search in slots.of("job")] == [(1, 5)]
    with pytest.raises(AssertionError, match="lane 1 is taken"):
        slots.sit(1, "job", Item(6, 0, 0))
    assert slots.release(1).item.row == 5
    with pytest.raises(AssertionError, match="lane 1 was already free"):
        slots.release(1)
