"""One process alone makes an entry, and only what a dead one has left is removed."""

import errno
import os
import threading
import time

import pytest

from actionfusion.data.entry_lock import lock_entry, remove_leftovers


def test_work_of_another_process_is_neither_removed_nor_written_to(tmp_path):
    entry = tmp_path / "a.avi.zip"
    with lock_entry(entry) as new:
        new.stream.write(b"whole")
        remove_leftovers(tmp_path)
        with lock_entry(entry) as second:
            assert second is None
        assert new.publish(modified_ns=10**18) == 5
    assert entry.read_bytes() == b"whole"
    assert entry.stat().st_mtime_ns == 10**18
    assert [path.name for path in tmp_path.iterdir()] == ["a.avi.zip"]


def test_who_waits_gets_a_file_of_its_own(tmp_path):
    entry = tmp_path / "a.avi.zip"
    waiting = threading.Event()
    order = []

    def second():
        waiting.set()
        with lock_entry(entry, wait=True) as new:
            order.append(entry.read_bytes())
            new.stream.write(b"second")
            new.publish(0)

    with lock_entry(entry) as new:
        thread = threading.Thread(target=second)
        thread.start()
        waiting.wait()
        time.sleep(0.1)
        assert order == []
        new.stream.write(b"first")
        new.publish(0)
    thread.join(10)
    assert order == [b"first"]
    assert entry.read_bytes() == b"second"


def test_an_exception_leaves_nothing(tmp_path):
    entry = tmp_path / "a.zip"

    def work():
        with lock_entry(entry) as new:
            new.stream.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert list(tmp_path.iterdir()) == []


def test_what_a_dead_process_left_is_taken_over_from_its_start(tmp_path):
    entry = tmp_path / "a.zip"
    with lock_entry(entry):
        left = next(tmp_path.glob(".*.partial"))
    left.write_bytes(b"much more than the new content")
    with lock_entry(entry) as new:
        new.stream.write(b"new")
        new.publish(0)
    assert entry.read_bytes() == b"new"


@pytest.mark.parametrize("name", ["a.zip", "x" * 255, "é\n'.zip"])
def test_leftovers_of_any_name_are_found(tmp_path, name):
    with lock_entry(tmp_path / name):
        left = list(tmp_path.iterdir())
        remove_leftovers(tmp_path)
        assert list(tmp_path.iterdir()) == left
    for path in left:
        path.write_bytes(b"half")
    (tmp_path / ".other.partial").touch()
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".other.partial"]
    remove_leftovers(tmp_path / "no such folder")


def test_without_locks_each_writer_has_its_own_file_and_only_old_ones_go(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    entry = tmp_path / "a.zip"
    with lock_entry(entry) as first, lock_entry(entry) as second:
        names = {path.name for path in tmp_path.iterdir()}
        assert len(names) == 2
        first.stream.write(b"first")
        second.stream.write(b"second")
        first.publish(0)
        assert entry.read_bytes() == b"first"
        second.publish(0)
    assert entry.read_bytes() == b"second"
    old, recent = (tmp_path / name for name in names)
    old.touch()
    recent.touch()
    os.utime(old, (0, 0))
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip", recent.name}
