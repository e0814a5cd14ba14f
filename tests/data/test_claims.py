"""One process alone makes an entry, and what a dead one left is told from what a living one writes."""

import errno
import os
import threading
import time

import pytest

from actionfusion.data.claims import claim_entry, remove_leftovers


def test_work_of_another_process_is_neither_removed_nor_written_to(tmp_path):
    entry = tmp_path / "a.avi.zip"
    with claim_entry(entry) as claim:
        claim.stream.write(b"whole")
        remove_leftovers(tmp_path)
        with claim_entry(entry) as second:
            assert second is None
        assert claim.publish(modified_ns=10**18) == 5
    assert entry.read_bytes() == b"whole"
    assert entry.stat().st_mtime_ns == 10**18
    assert [path.name for path in tmp_path.iterdir()] == ["a.avi.zip"]


def test_who_waits_gets_a_file_of_its_own(tmp_path):
    entry = tmp_path / "a.avi.zip"
    waiting = threading.Event()
    order = []

    def second():
        waiting.set()
        with claim_entry(entry, wait=True) as claim:
            order.append(entry.read_bytes())
            claim.stream.write(b"second")
            claim.publish(0)

    with claim_entry(entry) as claim:
        thread = threading.Thread(target=second)
        thread.start()
        waiting.wait()
        time.sleep(0.1)
        assert order == []
        claim.stream.write(b"first")
        claim.publish(0)
    thread.join(10)
    assert order == [b"first"]
    assert entry.read_bytes() == b"second"


def test_an_exception_leaves_nothing(tmp_path):
    entry = tmp_path / "a.zip"

    def work():
        with claim_entry(entry) as claim:
            claim.stream.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert list(tmp_path.iterdir()) == []


def test_what_a_dead_process_left_is_taken_over_from_its_start(tmp_path):
    entry = tmp_path / "a.zip"
    with claim_entry(entry):
        left = next(tmp_path.iterdir())
    left.write_bytes(b"much more than the new content")
    with claim_entry(entry) as claim:
        claim.stream.write(b"new")
        claim.publish(0)
    assert entry.read_bytes() == b"new"


@pytest.mark.parametrize("name", ["a.zip", "x" * 255, "é\n'.zip"])
def test_leftovers_of_any_name_are_found(tmp_path, name):
    with claim_entry(tmp_path / name):
        left = next(tmp_path.iterdir())
        remove_leftovers(tmp_path)
        assert left.exists()
    left.write_bytes(b"half")
    (tmp_path / ".other.partial").touch()
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".other.partial"]
    remove_leftovers(tmp_path / "no such folder")


def test_without_locks_each_writer_has_its_own_file_and_only_old_ones_go(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    entry = tmp_path / "a.zip"
    with claim_entry(entry) as first, claim_entry(entry) as second:
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
