"""A file is the old whole or the new whole."""

import pytest

from actionfusion.files import replacing, replacing_folder, write_atomically


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "kept.txt"
    write_atomically(path, "old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["kept.txt"]


def test_text_is_utf8_and_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_atomically(path, "Fußball\n")
    assert path.read_bytes() == "Fußball\n".encode()


@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder_comes_whole_or_not_at_all(tmp_path, is_there):
    path = tmp_path / "a" / "out"
    if is_there:
        path.mkdir(parents=True)

    def fail():
        with replacing_folder(path) as temporary:
            (temporary / "half.txt").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [item.name for item in (tmp_path / "a").iterdir()] == (["out"] if is_there else [])
    with replacing_folder(path) as temporary:
        (temporary / "whole.txt").write_text("whole")
    assert [item.name for item in (tmp_path / "a").iterdir()] == ["out"]
    assert (path / "whole.txt").read_text() == "whole"


def test_a_folder_that_fills_meanwhile_is_not_overwritten(tmp_path):
    path = tmp_path / "out"

    def race():
        with replacing_folder(path) as temporary:
            (temporary / "ours.txt").write_text("ours")
            path.mkdir()
            (path / "theirs.txt").write_text("theirs")

    with pytest.raises(OSError, match="not empty"):
        race()
    assert [item.name for item in path.iterdir()] == ["theirs.txt"]
    assert list(tmp_path.iterdir()) == [path]
