"""A file is the old whole or the new whole."""

import pytest

from actionfusion.files import replacing, write_atomically


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
