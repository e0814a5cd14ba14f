"""Behind an address all is as in a folder here, and a copy of what it leads to never outlives its use."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actionfusion import remote_path, storage
from actionfusion.errors import VideoDamaged, VideoMissing, VideoTooLarge
from actionfusion.files import remove_scratch_of_the_dead, scratch_folder
from actionfusion.remote_path import RemotePath
from actionfusion.storage import (
    ask_many,
    local_copy,
    open_end_first,
    read_ranges,
    relative,
    to_path,
)


@pytest.fixture
def tree(tmp_path):
    """Files and folders with names that some systems take for patterns, links or addresses."""
    root = tmp_path / "tree"
    for name in ("a/b.avi", "a/[x]*?.avi", "a/c::d.avi", "class [1]/é ü.avi", "zip:/x.avi", "list.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


@pytest.fixture
def addresses(tree, shelf, memory, tmp_path):
    """The same tree behind four addresses."""
    shutil.copytree(tree, shelf / "tree")
    system = fsspec.filesystem("memory")
    with zipfile.ZipFile(tmp_path / "tree.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(tree.rglob("*")):
            if file.is_file():
                name = file.relative_to(tree).as_posix()
                system.pipe_file(f"/tree/{name}", file.read_bytes())
                archive.write(file, f"top/{name}")
    system.put_file(str(tmp_path / "tree.zip"), "/tree.zip")
    return ["shelf://tree", "memory://tree", f"zip://top::{tmp_path}/tree.zip", "zip://top::memory://tree.zip"]


def test_folders_and_files_are_what_they_are_here(tree, addresses):
    for address in addresses:
        root = to_path(address)
        wanted = {file.relative_to(tree).as_posix(): file for file in tree.rglob("*")}
        found, folders = {}, [root]
        while folders:
            for path in folders.pop().iterdir():
                found[relative(path, root)] = path
                assert path.is_dir() != path.is_file()
                if path.is_dir():
                    folders.append(path)
        assert found.keys() == wanted.keys()
        for name, path in found.items():
            again = root / name
            assert again == path
            assert again.is_dir() == wanted[name].is_dir()
            if again.is_file():
                assert again.read_bytes() == wanted[name].read_bytes()
                assert again.stat().st_size == wanted[name].stat().st_size
                with pytest.raises(NotADirectoryError):
                    list(again.iterdir())
        gone = root / "gone"
        assert (gone.exists(), gone.is_dir(), gone.is_file()) == (False, False, False)
        for question in (gone.stat, gone.read_bytes, lambda gone=gone: list(gone.iterdir())):
            with pytest.raises(FileNotFoundError, match="there is no such file or folder"):
                question()


def test_text_is_read_as_it_is_here(tree, shelf, addresses):
    content = "eins\r\nzwei\rdreißig\n".encode("utf-8-sig")
    (tree / "list.txt").write_bytes(content)
    fsspec.filesystem("memory").pipe_file("/tree/list.txt", content)
    (shelf / "tree/list.txt").write_bytes(content)
    for text in ("shelf://tree/list.txt", "memory://tree/list.txt"):
        assert to_path(text).read_text(encoding="utf-8-sig") == (tree / "list.txt").read_text(encoding="utf-8-sig")


def test_nothing_but_a_small_file_is_read_whole(shelf, monkeypatch):
    (shelf / "a").write_bytes(bytes(11))
    monkeypatch.setattr(remote_path, "_LARGEST_READ", 10)
    for faults in ("", "unsized a"):
        monkeypatch.setenv("SHELF_FAULTS", faults)
        with pytest.raises(OSError, match="it is over") as caught:
            to_path("shelf://a").read_bytes()
        assert caught.value.errno == errno.EFBIG


def test_a_small_file_that_comes_in_part_is_not_taken(shelf, monkeypatch):
    (shelf / "a").write_bytes(bytes(11))
    monkeypatch.setenv("SHELF_FAULTS", "short a")
    with pytest.raises(OSError, match="only 11 of its 21 bytes came"):
        to_path("shelf://a").read_bytes()


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        (1.5e9 + 0.7, 1_500_000_000),
        (datetime(2017, 7, 14, 2, 40, tzinfo=UTC), 1_500_000_000),
        (datetime(2017, 7, 14, 2, 40, tzinfo=UTC).replace(tzinfo=None), 1_500_000_000),
        ("2017-07-14T02:40:00Z", 1_500_000_000),
        ("2017-07-14T04:40:00+02:00", 1_500_000_000),
        ("20170714024000", 1_500_000_000),
        ((2017, 7, 14, 2, 40, 0), 1_500_000_000),
        ((1980, 0, 0, 0, 0, 0), 0),
        ("yesterday", 0),
        (object(), 0),
    ],
)
def test_every_way_to_say_a_time(told, seconds):
    path = RemotePath("memory", {}, "/a", shown="memory://a", info={"type": "file", "size": 1, "mtime": told})
    assert path.stat().st_mtime_ns == seconds * 10**9


def test_a_file_is_put_renamed_and_removed(tmp_path, shelf, memory):
    (tmp_path / "new").write_bytes(b"new")
    for top in ("shelf://store", "memory://store"):
        first, second = to_path(top) / "class [1]" / "first", to_path(top) / "class [1]" / "second"
        first.parent.mkdir(parents=True, exist_ok=True)
        first.put(tmp_path / "new")
        assert first.shows_parts
        first.replace(second)
        second.replace(second.with_name("third"))
        assert [path.name for path in first.parent.iterdir()] == ["third"]
        first.with_name("third").unlink()
        first.unlink(missing_ok=True)
        with pytest.raises(FileNotFoundError):
            first.unlink()


def test_the_folder_that_another_process_makes_first(shelf, monkeypatch):
    from shelf_filesystem import ShelfFileSystem

    def refuse(self, path, exist_ok=False):
        (shelf / path).mkdir(parents=True)
        raise ConnectionError("550 File exists.")

    monkeypatch.setattr(ShelfFileSystem, "makedirs", refuse)
    to_path("shelf://a/b").mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(ShelfFileSystem, "makedirs", lambda *_, **__: 1 / 0)
    with pytest.raises(OSError, match="division by zero"):
        to_path("shelf://c").mkdir(parents=True, exist_ok=True)


def test_the_links_of_a_page_are_names(monkeypatch):
    """No server here: what fsspec gives of a page, where names stand in escapes and folders are told by asking."""
    page = "https://host/clips"

    class Page:
        def ls(self, path, detail):
            assert (path, detail) == (page, True)
            names = ("wave%20left/", "100%25.avi", "a%2Fb.avi", "%C3%A9.avi")
            return [{"name": f"{page}/{name}", "size": None, "type": "file"} for name in names]

        def isdir(self, path):
            return path.endswith("left")

        def info(self, path):
            return {"name": path, "size": None, "type": "file"}

    monkeypatch.setattr(remote_path, "_file_system", lambda *_: Page())
    found = list(RemotePath("https", {}, page, shown=page).iterdir())
    assert [path.name for path in found] == ["wave left", "100%25.avi", "a%2Fb.avi", "é.avi"]
    assert [(path.is_dir(), path.is_file()) for path in found] == [(True, False), *[(False, True)] * 3]
    assert found[0].path == f"{page}/wave left"
    assert str(found[0] / "a.avi") == f"{page}/wave left/a.avi"


def test_a_copy_is_the_file_and_goes_with_its_use(addresses, tree, scratch):
    with local_copy(tree / "a/b.avi") as path:
        assert path == tree / "a/b.avi"
    for address in addresses:
        with local_copy(to_path(address) / "a" / "b.avi") as path:
            assert path.read_bytes() == b"a/b.avi"
            assert scratch in path.parents
            remove_scratch_of_the_dead()  # which this process is not
            assert path.exists()
        assert list(scratch.iterdir()) == []
        with pytest.raises(KeyboardInterrupt), local_copy(to_path(address) / "a" / "b.avi"):
            raise KeyboardInterrupt


def test_a_folder_of_pictures_keeps_their_names(shelf, scratch):
    for name in ("1.jpg", "2.jpg", "other.txt"):
        (shelf / name).write_text(name)
    root = to_path("shelf://")
    with local_copy(root, [root / "2.jpg", root / "1.jpg"]) as folder:
        assert {path.name: path.read_text() for path in folder.iterdir()} == {"1.jpg": "1.jpg", "2.jpg": "2.jpg"}


def test_what_fails_on_the_way_is_named_by_its_address(shelf, scratch, monkeypatch):
    (shelf / "a.avi").write_bytes(bytes(5000))
    cases = {
        "": ("gone.avi", "shelf://gone.avi: there is no such file"),
        "reads a.avi": ("a.avi", "shelf://a.avi: cannot be fetched (the line went dead: shelf://anna@far/x)"),
        "short a.avi": ("a.avi", "shelf://a.avi: only 5000 of its 5010 bytes came"),
    }
    for faults, (name, message) in cases.items():
        monkeypatch.setenv("SHELF_FAULTS", faults)
        with pytest.raises(VideoMissing) as caught, local_copy(to_path("shelf://") / name):
            pass
        assert str(caught.value).startswith(message)


def test_an_error_that_names_the_copy_comes_out_with_the_address(shelf, scratch):
    (shelf / "v").mkdir()
    (shelf / "v/1.jpg").touch()
    root = to_path("shelf://v")
    for inner, named in (("", "shelf://v"), ("1.jpg", "shelf://v/1.jpg")):
        with pytest.raises(VideoDamaged) as caught, local_copy(root, [root / "1.jpg"]) as folder:
            raise VideoDamaged(folder / inner, "is damaged", "leave it out")
        assert (caught.value.subject, caught.value.reason) == (named, "is damaged")
    with pytest.raises(VideoDamaged) as caught, local_copy(root, []):
        raise VideoDamaged("other.avi", "is damaged", "leave it out")
    assert caught.value.subject == "other.avi"


@pytest.mark.parametrize("faults", ["", "unsized a.avi"])
def test_no_more_is_fetched_than_allowed(shelf, scratch, monkeypatch, faults):
    (shelf / "a.avi").write_bytes(bytes(5000))
    monkeypatch.setenv("SHELF_FAULTS", faults)
    with local_copy(to_path("shelf://a.avi"), largest=5000) as path:
        assert path.stat().st_size == 5000
    with (
        pytest.raises(VideoTooLarge, match=r"shelf://a\.avi: it is over"),
        local_copy(to_path("shelf://a.avi"), largest=4999),
    ):
        pass
    (shelf / "b.avi").write_bytes(bytes(5000))
    root = to_path("shelf://")
    with pytest.raises(VideoTooLarge), local_copy(root, [root / "a.avi", root / "b.avi"], largest=9999):
        pass


def test_a_full_disk_names_the_folder_of_temporary_files(scratch):
    said = "No space left on device for temporary files in"
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OSError, match=said) as caught:
        storage._write(full, b"x")
    assert (caught.value.errno, str(scratch) in str(caught.value)) == (errno.ENOSPC, True)


def test_what_a_killed_process_left_is_removed(scratch):
    script = "import os, signal\nfrom actionfusion.files import scratch_folder\n"
    script += "with scratch_folder() as folder:\n (folder / 'copy').touch()\n os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", script], check=False)
    assert len(list(scratch.rglob("*"))) == 3
    own = [scratch / "actionfusion-runs", scratch / "actionfusion-scratch-of-mine"]
    for folder in own:
        folder.mkdir()
        os.utime(folder, (0, 0))
    (scratch / "actionfusion-scratch-begun.lock").touch()  # killed before its folder was made
    with scratch_folder() as alive:
        remove_scratch_of_the_dead()
        assert {*scratch.iterdir()} == {alive, alive.with_name(f"{alive.name}.lock"), *own}
    remove_scratch_of_the_dead()
    assert {*scratch.iterdir()} == {*own}
    for folder in own:
        folder.rmdir()


def test_a_clean_up_at_the_very_start_of_a_scratch_folder_leaves_it_alone(scratch, monkeypatch):
    lock, cleaned = fcntl.flock, []

    def clean_first(*arguments):
        if not cleaned:
            cleaned.append(True)
            # The lock file is there, and not locked yet.
            cleaner = threading.Thread(target=remove_scratch_of_the_dead)
            cleaner.start()
            cleaner.join()
            assert list(scratch.iterdir()) == []
        return lock(*arguments)

    monkeypatch.setattr("fcntl.flock", clean_first)
    with scratch_folder() as folder:
        assert folder.with_suffix(".lock").exists()
        remove_scratch_of_the_dead()
        assert folder.exists()
    assert cleaned


def test_where_there_are_no_locks_only_old_scratch_goes(scratch, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with scratch_folder() as folder:
        remove_scratch_of_the_dead()
        assert folder.exists()
        os.utime(folder, (0, 0))
        remove_scratch_of_the_dead()
        assert not folder.exists()


@given(st.data())
def test_ranges_are_those_of_the_file_and_not_much_more(data):
    size = data.draw(st.integers(1, 400_000))
    content = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
    starts = data.draw(st.lists(st.integers(0, size - 1), max_size=8))
    sizes = [data.draw(st.integers(0, min(9000, size - start))) for start in starts]
    fsspec.filesystem("memory").pipe_file("/ranges", content)
    parts = list(read_ranges(to_path("memory://ranges"), starts, sizes))
    assert parts == [content[start : start + count] for start, count in zip(starts, sizes, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "ranges")
        file.write_bytes(content)
        assert list(read_ranges(file, starts, sizes)) == parts


def test_near_ranges_come_in_one_request_and_far_ones_do_not(shelf):
    (shelf / "a").write_bytes(bytes(1_000_000))
    list(read_ranges(to_path("shelf://a"), [900_000, 10, 2_000, 900_500], [100, 100, 100, 100]))
    reads = [line.split()[2:] for line in Path(f"{shelf}.log").read_text().splitlines() if line.startswith("read")]
    assert reads == [["10", "2090"], ["900000", "600"]]
    with pytest.raises(OSError, match="bytes came where"):
        list(read_ranges(to_path("shelf://a"), [999_999], [2]))


@given(st.integers(0, 200_000), st.lists(st.tuples(st.integers(0, 210_000), st.integers(0, 70_000)), max_size=5))
def test_a_file_opened_end_first_reads_like_any_other(size, reads):
    content = bytes(index * 7 % 251 for index in range(size))
    fsspec.filesystem("memory").pipe_file("/end", content)
    with tempfile.NamedTemporaryFile() as local:
        local.write(content)
        local.flush()
        for path in (to_path("memory://end"), Path(local.name)):
            with open_end_first(path) as (found, read):
                assert found == size
                for start, count in reads:
                    assert read(start, start + count) == content[start : start + count]
                assert read(5, 3) == b""


def test_many_questions_are_answered_in_order():
    assert list(ask_many(lambda task: task * 2, range(100))) == [(task, task * 2) for task in range(100)]
    with pytest.raises(ZeroDivisionError):
        list(ask_many(lambda task: 1 // task, [1, 0, 2]))


def test_an_archive_is_opened_once_a_process_and_anew_when_asked(tmp_path):
    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "one")
    first = to_path(f"zip://a.txt::{file}")
    with first._asked() as system, (to_path(f"zip://::{file}") / "a.txt")._asked() as other:
        assert system is other
    file.unlink()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "two!")
    assert first.read_bytes() == b"one"
    first.forget_all()
    assert first.read_bytes() == b"two!"
    reader, writer = os.pipe()
    if not os.fork():
        # After a fork the open archive, whose place in the file is shared, is left alone.
        with first._asked() as forked:
            os.write(writer, b"same" if forked is system else b"other")
        os._exit(0)
    os.wait()
    assert os.read(reader, 10) == b"other"
    os.close(reader)
    os.close(writer)
