"""The place for what comes next: never more than one waits, nothing is lost without being counted."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actionfusion.inference.streams.latest import MAX_NOTES, LatestBuffer


@given(st.lists(st.sampled_from(["put", "note", "take"]), max_size=60))
def test_one_item_waits_the_newest_and_all_are_accounted_for(deeds):
    buffer, expected, taken, put = LatestBuffer(), [], [], 0
    reader = iter(buffer)
    for number, deed in enumerate(deeds):
        if deed == "put":
            buffer.put(("item", number), may_drop=True)
            put += 1
            expected = [entry for entry in expected if entry[0] == "note"] + [("item", number)]
        elif deed == "note":
            buffer.note(("note", number))
            expected.append(("note", number))
        elif expected:
            taken.append(next(reader))
            assert taken[-1] == expected.pop(0)
        assert buffer.dropped == put - sum(kind == "item" for kind, _ in [*taken, *expected])
        if len(expected) > MAX_NOTES:
            return  # more notes than are kept
    buffer.end()
    assert list(reader) == expected


def test_without_leave_to_drop_the_writer_waits_and_nothing_is_dropped():
    buffer, ahead = LatestBuffer(), []

    def write():
        for number in range(20):
            buffer.put(number, may_drop=False)
            ahead.append(number)
        buffer.end()

    writer = threading.Thread(target=write)
    writer.start()
    taken = []
    for number in buffer:
        taken.append(number)
        assert len(ahead) <= len(taken) + 1
    writer.join()
    assert taken == list(range(20))
    assert buffer.dropped == 0


def test_a_writer_without_a_reader_is_let_go():
    buffer = LatestBuffer()
    buffer.put(1, may_drop=False)
    writer = threading.Thread(target=buffer.put, args=(2,), kwargs={"may_drop": False})
    writer.start()
    buffer.close()
    writer.join(10)
    assert not writer.is_alive()


def test_an_error_comes_after_what_was_captured_before_it():
    buffer = LatestBuffer()
    buffer.put(1, may_drop=True)
    buffer.end(ValueError("gone"))
    reader = iter(buffer)
    assert next(reader) == 1
    with pytest.raises(ValueError, match="gone"):
        next(reader)


def test_notes_that_nobody_reads_do_not_fill_the_memory():
    buffer = LatestBuffer()
    for number in range(1000):
        buffer.note(number)
        buffer.put("item", may_drop=True)
    buffer.end()
    entries = list(buffer)
    assert entries[-2:] == [999, "item"]
    assert len(entries) <= MAX_NOTES + 1
