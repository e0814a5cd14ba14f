"""Changed files of every kind end well: those that did not once, and some at random."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

from actionfusion.data.layouts.table import read_rows
from actionfusion.data.store import StoredVideo
from actionfusion.errors import DatasetError, VideoDamaged
from actionfusion.video.reading import iterate_frames
from actionfusion.video.still_pictures import read_picture

FINDS = Path(__file__).parent / "fuzz_finds"
INPUTS = 150  # benchmarks/fuzz.py reads tens of thousands


@pytest.fixture(scope="module")
def fuzz():
    folder = str(Path(__file__).parent.parent / "benchmarks")
    sys.path.insert(0, folder)
    try:
        yield import_module("fuzz")
    finally:
        sys.path.remove(folder)


def _read_table(path):
    pytest.importorskip("pyarrow")
    return list(read_rows(path))


# By file: how it is read, and the error that it is; or how many parts it gives.
KNOWN = {
    "unknown_sound.avi": (lambda path: list(iterate_frames(path)), 2),
    "first_key_frame.mp4": (lambda path: list(iterate_frames(path)), VideoDamaged),
    "encrypted.avi.zip": (lambda path: StoredVideo(path).verify(), DatasetError),
    "long_part.png": (read_picture, VideoDamaged),
    "no_text.parquet": (_read_table, DatasetError),
}


def test_every_find_is_in_these_tests():
    assert sorted(path.name for path in FINDS.iterdir()) == sorted(KNOWN)


@pytest.mark.parametrize("name", KNOWN)
def test_what_was_found_once_ends_well(name):
    read, wanted = KNOWN[name]
    if isinstance(wanted, int):
        assert len(read(FINDS / name)) == wanted
    else:
        with pytest.raises(wanted, match=name.replace(".", r"\.")):
            read(FINDS / name)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a child is limited and measured by Linux's means")
def test_changed_files_end_well(fuzz, tiny_run, shapes_root, tmp_path):
    material = fuzz.lay_out(tmp_path / "fuzz", lambda folder: fuzz.make_material(folder, tiny_run, shapes_root))
    found = fuzz.Findings()
    for _ in fuzz.run(material, 1, INPUTS, found):
        pass
    assert found.finds == []
    assert found.done == INPUTS
    kinds = {kind.name for kind in fuzz.kinds(material)}
    assert set(found.outcomes) == kinds
    assert len(kinds) >= 12
    answered, refused = (
        sum(counts.get(name, 0) for counts in found.outcomes.values()) for name in ("answered", "refused")
    )
    assert min(answered, refused) > INPUTS / 5  # neither all whole nor all destroyed


def test_a_find_is_a_find(fuzz, tmp_path, monkeypatch):
    """Of another family, over the limit of memory, or other than FFmpeg's."""
    path = tmp_path / "a"
    path.write_bytes(b"whole")

    def outcome(read):
        kind = fuzz.Kind("any", ["a"], read)
        return fuzz.read_input(tmp_path, kind, "a", b"changed")

    def fails(error):
        def read(folder, name):
            assert (folder / name).read_bytes() == b"changed"
            raise error

        return read

    assert outcome(fails(VideoDamaged("a", "b", "c"))) == ("refused", "")
    assert outcome(fails(KeyError("x"))) == ("KeyError", "'x'")
    assert outcome(lambda *_: None) == ("answered", "")
    assert path.read_bytes() == b"whole"
    monkeypatch.setattr(fuzz, "MEMORY", 50 << 20)
    if sys.platform == "linux":
        assert outcome(lambda *_: bytearray(b"x") * (100 << 20))[0] == "memory"
