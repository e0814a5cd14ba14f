"""The store is the same file by file wherever videos and store lie, and a far side that fails costs little."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path

import av
import cv2
import fsspec
import numpy as np
import pytest

import actionfusion
from actionfusion.__main__ import main
from actionfusion.data.entry_lock import remove_leftovers
from actionfusion.data.prepare import prepare
from actionfusion.data.store import StoredVideo, entry_path
from actionfusion.errors import DatasetError
from actionfusion.storage import to_path
from actionfusion.video.clip import ClipSettings, cut_clip
from actionfusion.video.flow import FlowRecipe

RECIPE = FlowRecipe("farneback", 10.0, 32)
NAMES = [f"class [{number % 2}]/v_{number:02d}.avi" for number in range(5)]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Five short videos and one that comes as pictures."""
    root = tmp_path_factory.mktemp("clips")
    for number, name in enumerate(NAMES):
        pattern = np.random.default_rng(number).integers(0, 255, (8, 10, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="avi") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 80, 64, "yuv420p"
            for index in range(8):
                picture = np.roll(pattern, 2 * index, axis=1)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            container.mux(stream.encode())
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(buffer.getvalue())
    (root / "pictures" / "001").mkdir(parents=True)
    for number in range(3):
        picture = np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        cv2.imwrite(str(root / "pictures" / "001" / f"{number}.png"), picture)
    (root / "pictures" / "001" / "about.txt").write_text("no picture")
    return root


def items(root):
    return [(root / name, name) for name in [*NAMES, "pictures/001"]]


def digests(files):
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def contents(store):
    """Every file of a store of any kind, hidden ones too."""
    found, folders = {}, [store]
    while folders:
        for path in folders.pop().iterdir():
            if path.is_dir():
                folders.append(path)
            else:
                found[str(path)[len(str(store)) :].strip("/")] = path.read_bytes()
    return digests(found)


@pytest.fixture(scope="module")
def undisturbed(clips, tmp_path_factory):
    """What every store is to hold."""
    store = tmp_path_factory.mktemp("undisturbed")
    assert prepare(items(clips), store, RECIPE, workers=0).made == 6
    return contents(store)


@pytest.fixture
def on_shelf(clips, shelf):
    """The clips behind ``shelf://clips``."""
    for file in clips.rglob("*"):
        if file.is_file():
            target = shelf / "clips" / file.relative_to(clips)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    return to_path("shelf://clips")


def log(shelf):
    file = Path(f"{shelf}.log")
    lines = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return lines


def test_in_memory_there_and_back(clips, undisturbed, memory, scratch, tmp_path):
    system = fsspec.filesystem("memory")
    for file in clips.rglob("*"):
        if file.is_file():
            system.pipe_file(f"/clips/{file.relative_to(clips).as_posix()}", file.read_bytes())
    far = items(to_path("memory://clips"))
    for source, store in ((far, tmp_path / "store"), (items(clips), "memory://a"), (far, "memory://b")):
        report = prepare(source, store, RECIPE, workers=0)
        assert (report.made, report.failures) == (6, ())
        assert contents(to_path(store)) == undisturbed
        assert (report.estimated_size is None) == (store != tmp_path / "store")
        again = prepare(source, store, RECIPE, workers=0)
        assert (again.made, again.kept, again.frames, again.size) == (0, 6, report.frames, report.size)


def test_two_processes_read_an_archive(clips, undisturbed, scratch, tmp_path):
    with zipfile.ZipFile(tmp_path / "clips.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(clips.rglob("*")):
            archive.write(file, f"inner/{file.relative_to(clips).as_posix()}")
    far = items(to_path(f"zip://inner::{tmp_path}/clips.zip"))
    report = prepare(far, tmp_path / "store", RECIPE, workers=2)
    assert (report.made, report.failures) == (6, ())
    assert report.estimated_size == pytest.approx(report.size, rel=0.3)
    assert contents(tmp_path / "store") == undisturbed
    assert prepare(far, tmp_path / "store", RECIPE, workers=0).kept == 6


def test_two_processes_fill_a_remote_store_from_a_remote_source(on_shelf, undisturbed, shelf, scratch):
    report = prepare(items(on_shelf), "shelf://store", RECIPE, workers=2)
    assert (report.made, report.failures) == (6, ())
    assert contents(shelf / "store") == undisturbed
    opened = [line.split(" ", 1)[1] for line in log(shelf) if line.startswith("open")]
    # Each was fetched once, and nothing but pictures of the folder of pictures.
    assert sorted(opened) == sorted(f"clips/{name}" for name in [*NAMES, *(f"pictures/001/{n}.png" for n in range(3))])
    assert prepare(items(on_shelf), "shelf://store", RECIPE, workers=2).kept == 6
    assert not [line for line in log(shelf) if "clips/" in line]


def test_a_rerun_makes_what_is_missing_damaged_or_of_a_changed_source(on_shelf, undisturbed, shelf, scratch, tmp_path):
    for store in (tmp_path / "store", shelf / "store"):
        address = "shelf://store" if store.parent == shelf else store
        prepare(items(on_shelf), address, RECIPE, workers=0)
        entries = [entry_path(store, name) for name in NAMES]
        entries[0].unlink()
        entries[1].write_bytes(entries[1].read_bytes()[:-30])
        source = shelf / "clips" / NAMES[2]
        newer = entries[2].stat().st_mtime + 60
        os.utime(source, (newer, newer))
        log(shelf)
        report = prepare(items(on_shelf), address, RECIPE, workers=0)
        assert (report.made, report.kept) == (3, 3)
        read = {line.split(" ", 1)[1] for line in log(shelf) if line.startswith("open clips/")}
        # Three to prepare, and for a local store the same to estimate its size.
        assert read == {f"clips/{name}" for name in NAMES[:3]}
        assert contents(store) == undisturbed
        os.utime(source, (newer - 120, newer - 120))


def test_a_second_call_of_one_process_asks_anew(on_shelf, shelf, scratch, tmp_path):
    far = items(on_shelf)
    prepare(far, tmp_path / "store", RECIPE, workers=0)
    os.utime(shelf / "clips" / NAMES[0], (0, 10))
    assert prepare(far, tmp_path / "store", RECIPE, workers=0).made == 1
    (shelf / "clips" / NAMES[0]).unlink()
    assert [failure.kind for failure in prepare(far, tmp_path / "store", RECIPE, workers=0).failures] == ["missing"]


def test_verify_finds_what_sizes_and_times_hide(on_shelf, undisturbed, shelf, scratch, tmp_path):
    for store in (tmp_path / "store", shelf / "store"):
        address = "shelf://store" if store.parent == shelf else store
        prepare(items(on_shelf), address, RECIPE, workers=0)
        source = shelf / "clips" / NAMES[2]
        whole, times = source.read_bytes(), source.stat()
        changed = bytearray(whole)
        changed[-1] ^= 1  # in the index, which nothing reads
        source.write_bytes(changed)
        os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
        damaged = entry_path(store, NAMES[0])
        content, status = bytearray(damaged.read_bytes()), damaged.stat()
        content[600] ^= 255
        damaged.write_bytes(content)
        os.utime(damaged, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert prepare(items(on_shelf), address, RECIPE, workers=0).kept == 6
        report = prepare(items(on_shelf), address, RECIPE, workers=0, verify=True)
        assert (report.made, report.kept) == (2, 4)
        assert StoredVideo(entry_path(store, NAMES[2])).source.sha256 == hashlib.sha256(changed).hexdigest()
        source.write_bytes(whole)
        os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_where_a_far_side_says_no_size_its_time_counts(on_shelf, shelf, scratch, tmp_path, monkeypatch):
    monkeypatch.setenv("SHELF_FAULTS", "unsized clips/")
    assert prepare(items(on_shelf), tmp_path, RECIPE, workers=0).made == 6
    assert prepare(items(on_shelf), tmp_path, RECIPE, workers=0).kept == 6
    os.utime(shelf / "clips" / NAMES[0], (0, 10))
    assert prepare(items(on_shelf), tmp_path, RECIPE, workers=0).made == 1


def test_a_source_that_changes_meanwhile_is_not_taken(on_shelf, shelf, scratch, monkeypatch):
    from actionfusion.data import source_videos

    real = source_videos.iterate_frames

    def slow(path, **settings):
        yield from real(path, **settings)
        os.utime(shelf / "clips" / NAMES[0], (0, 10))

    monkeypatch.setattr(source_videos, "iterate_frames", slow)
    report = prepare(items(on_shelf)[:1], "shelf://store", RECIPE, workers=0)
    assert "changed while it was read" in report.failures[0].message
    assert not list((shelf / "store").rglob("*.zip*"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_far_side_that_fails_costs_one_video_and_is_named(
    on_shelf, undisturbed, shelf, scratch, monkeypatch, workers
):
    monkeypatch.setenv("SHELF_FAULTS", "reads v_03.avi\nshort v_01.avi")
    (shelf / "clips" / NAMES[0]).write_text("no video")
    (shelf / "clips" / NAMES[2]).unlink()
    report = prepare(items(on_shelf), "shelf://store", RECIPE, workers=workers)
    assert [(failure.name, failure.kind) for failure in report.failures] == [
        (NAMES[0], "not_a_video"),
        (NAMES[1], "unreadable"),
        (NAMES[2], "missing"),
        (NAMES[3], "unreadable"),
    ]
    for failure in report.failures:
        assert failure.message.startswith(f"shelf://clips/{failure.name}: ")
        assert str(failure.source) == f"shelf://clips/{failure.name}"
        assert "\n" not in failure.message
        assert "secret" not in failure.message
    assert "cannot be fetched (the line went dead" in report.failures[3].message
    assert "only" in report.failures[1].message
    assert contents(shelf / "store").items() <= undisturbed.items()
    assert report.made == 2


def test_an_old_entry_stays_while_its_source_cannot_be_reached(on_shelf, shelf, scratch, monkeypatch):
    prepare(items(on_shelf), "shelf://store", RECIPE, workers=0)
    for name in NAMES[:2]:
        (shelf / "clips" / name).write_text("no video any more")
        os.utime(shelf / "clips" / name, (2e9, 2e9))
    monkeypatch.setenv("SHELF_FAULTS", "reads v_01.avi\nunsized v_01.avi")
    (shelf / "clips" / NAMES[1]).write_bytes(bytes(5000))
    os.utime(shelf / "clips" / NAMES[1], (2e9, 2e9))
    report = prepare(items(on_shelf), "shelf://store", RECIPE, workers=0)
    assert [failure.kind for failure in report.failures] == ["not_a_video", "unreadable"]
    assert [entry_path(shelf / "store", name).exists() for name in NAMES[:3]] == [False, True, True]


def test_a_store_that_refuses_ends_the_work_with_one_line(on_shelf, shelf, scratch, monkeypatch):
    monkeypatch.setenv("SHELF_FAULTS", "refuses store/")
    with pytest.raises(DatasetError, match=r"shelf://store: cannot be written \(not for you: https://far/x\); 0 of 6"):
        prepare(items(on_shelf), "shelf://store", RECIPE, workers=0)
    assert contents(shelf / "store") == {}
    with pytest.raises(
        DatasetError, match=r"^ftp://anna@127\.0\.0\.1:1/store: cannot be written \(Connection refused\)"
    ):
        prepare(items(on_shelf), "ftp://anna:secret@127.0.0.1:1/store", RECIPE, workers=0)
    # An archive is read only.
    with zipfile.ZipFile(shelf / "a.zip", "w") as archive:
        archive.writestr("store/x", "")
    with pytest.raises(DatasetError, match="cannot be written"):
        prepare(items(on_shelf), f"zip://store::{shelf}/a.zip", RECIPE, workers=0)


def test_a_full_disk_here_is_said(on_shelf, shelf, scratch, monkeypatch):
    from actionfusion import storage

    def full(stream, block):
        raise OSError(28, f"No space left on device for temporary files in {scratch}")

    monkeypatch.setattr(storage, "_write", full)
    with pytest.raises(
        DatasetError, match=r"No space left on device for temporary files in .*free some space, there or in"
    ):
        prepare(items(on_shelf), "shelf://store", RECIPE, workers=0)


SCRIPT = """
import json, sys
from actionfusion.data.prepare import prepare
from actionfusion.storage import to_path
from actionfusion.video.flow import FlowRecipe

if __name__ == "__main__":
    names, workers, recipe = json.loads(sys.argv[1])
    clips = to_path("shelf://clips")
    report = prepare([(clips / name, name) for name in names], "shelf://store", FlowRecipe(**recipe), workers=workers)
    print(report.made, *(failure.name for failure in report.failures))
"""


def run(shelf_package, workers, names, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    paths = [str(Path(actionfusion.__file__).parents[1]), str(shelf_package)]
    return subprocess.run(
        [sys.executable, script, json.dumps([names, workers, asdict(RECIPE)])],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_killed_in_the_middle_of_an_upload_no_half_entry_is_seen(
    on_shelf, undisturbed, shelf, shelf_package, scratch, tmp_path, monkeypatch
):
    # Of the third video's entry, which is uploaded under the hash of its name.
    third = hashlib.sha256(b"v_02.avi.zip").hexdigest()[:32]
    monkeypatch.setenv("SHELF_FAULTS", f"dies {third}")
    names = [name for _, name in items(on_shelf)]
    killed = run(shelf_package, 0, names, tmp_path)
    assert killed.returncode == -signal.SIGKILL
    left = contents(shelf / "store")
    half = [name for name in left if name.endswith(".partial")]
    assert len(half) == 1
    assert {name: digest for name, digest in left.items() if name not in half}.items() <= undisturbed.items()
    assert len(left) == 3
    assert list(scratch.iterdir())
    again = run(shelf_package, 2, names, tmp_path)
    assert (again.stdout.split(), again.stderr) == (["4"], "")
    assert contents(shelf / "store") == undisturbed


def test_a_worker_killed_in_the_middle_of_an_upload_costs_one_video(on_shelf, undisturbed, shelf, scratch, monkeypatch):
    third = hashlib.sha256(b"v_02.avi.zip").hexdigest()[:32]
    monkeypatch.setenv("SHELF_FAULTS", f"dies {third}")
    report = prepare(items(on_shelf), "shelf://store", RECIPE, workers=2)
    assert [failure.name for failure in report.failures] == [NAMES[2]]
    assert report.failures[0].message.startswith(f"shelf://clips/{NAMES[2]}: the process that read it died (Killed)")
    assert contents(shelf / "store").items() < undisturbed.items()
    assert prepare(items(on_shelf), "shelf://store", RECIPE, workers=0).made == 1
    assert contents(shelf / "store") == undisturbed


def test_of_others_only_old_leftovers_go(shelf):
    store = shelf / "store" / "class"
    store.mkdir(parents=True)
    other = f".{'a' * 32}.{'b' * 32}.zip.partial"
    unsigned = f".{'a' * 32}.zip.partial"
    for name in (other, unsigned, ".kept.partial", "a.zip"):
        (store / name).touch()
    remove_leftovers(to_path("shelf://store"))
    assert len(list(store.iterdir())) == 4
    for path in store.iterdir():
        os.utime(path, (0, 10))
    remove_leftovers(to_path("shelf://store"))
    assert {path.name for path in store.iterdir()} == {".kept.partial", "a.zip"}
    remove_leftovers(to_path("shelf://no such store"))


def test_an_object_store_needs_no_other_name(clips, undisturbed, shelf, scratch, monkeypatch):
    from actionfusion import remote_path

    monkeypatch.setattr(remote_path, "_OBJECT_STORES", frozenset({"shelf"}))
    assert prepare(items(clips), "shelf://store", RECIPE, workers=0).made == 6
    assert contents(shelf / "store") == undisturbed
    assert {line for line in log(shelf) if line.startswith("put")} == {f"put store/{name}" for name in undisturbed}


def test_a_clip_is_read_from_a_remote_store_by_its_own_pictures_alone(clips, shelf, scratch, tmp_path):
    """A long video, of which a clip needs little."""
    large = FlowRecipe("farneback", 10.0, 128)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 128, "yuv420p"
        rng = np.random.default_rng(0)
        for _ in range(120):
            picture = rng.integers(0, 255, (128, 128, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    (tmp_path / "long.avi").write_bytes(buffer.getvalue())
    prepare([(tmp_path / "long.avi", "long.avi")], "shelf://store", large, workers=0)
    log(shelf)
    settings = ClipSettings(frames=3, flow_frames=2, flow=large)
    far = cut_clip(StoredVideo("shelf://store/long.avi.zip"), settings)
    reads = [line.split() for line in log(shelf) if line.startswith("read")]
    near = cut_clip(StoredVideo(shelf / "store/long.avi.zip"), settings)
    np.testing.assert_array_equal(far.rgb, near.rgb)
    np.testing.assert_array_equal(far.flow, near.flow)
    size = (shelf / "store/long.avi.zip").stat().st_size
    assert size > 2_000_000
    # The end of the file with its directory, then one piece for each of the three moments.
    assert len(reads) == 4
    assert sum(int(count) for *_, count in reads) < 32_768 + size / 10
    assert StoredVideo("shelf://store/long.avi.zip").num_frames == 120


def test_faults_of_a_remote_entry_are_told_apart(clips, shelf, scratch, monkeypatch):
    prepare(items(clips)[:1], "shelf://store", RECIPE, workers=0)
    entry = entry_path(to_path("shelf://store"), NAMES[0])
    with pytest.raises(DatasetError, match=r"shelf://store/gone\.zip: not in the prepared store; run prepare for it"):
        StoredVideo("shelf://store/gone.zip")
    stored = StoredVideo(entry)
    stored.verify()
    monkeypatch.setenv("SHELF_FAULTS", "reads v_00.avi.zip")
    for fails in (lambda: StoredVideo(str(entry)), lambda: stored.read([0, 7], [6])):
        with pytest.raises(DatasetError, match=r"cannot be read \(.*check the connection and your rights"):
            fails()
    with pytest.raises(DatasetError, match="cannot be fetched"):
        stored.verify()
    monkeypatch.setenv("SHELF_FAULTS", "")
    local = entry_path(shelf / "store", NAMES[0])
    content = bytearray(local.read_bytes())
    content[60] ^= 255
    local.write_bytes(content)
    with pytest.raises(DatasetError, match=r"rgb/00000000\.jpg in it is damaged"):
        StoredVideo(entry).read([0], [])
    with pytest.raises(DatasetError, match="in it is damaged"):
        StoredVideo(entry).verify()
    local.write_bytes(content[:-40])
    with pytest.raises(DatasetError, match="no whole entry"):
        StoredVideo(entry)


@pytest.mark.slow
def test_prepare_train_and_evaluate_on_addresses(shapes_root, shelf, memory, scratch, tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "shapes.zip", "w") as archive:
        for file in sorted(shapes_root.rglob("*.*")):
            archive.write(file, f"shapes/{file.relative_to(shapes_root).as_posix()}")
    root = f"zip://shapes::{tmp_path}/shapes.zip"
    words = ["prepare", "folder", root, "--store", "shelf://store", "--config", "tiny", "--workers", "0"]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert "the room in shelf://store is not known, so it was not checked" in said
    assert f"found in zip://shapes::file://{tmp_path}/shapes.zip" in said
    out = tmp_path / "run"
    words = ["train", "--config", "tiny", "--data.root", root, "--data.store", "shelf://store", "--out", str(out)]
    words += ["--data.split", "folders", "--data.validation", "test", "--training.stages"]
    words += ["[{learning_rate: 0.001, max_epochs: 1, patience: 1}]", "--training.batch_size", "8"]
    assert main([*words, "--training.workers", "1"]) == 0
    capsys.readouterr()
    results = []
    for there, kept in ((root, "shelf://store"), (str(shapes_root), str(shelf / "store"))):
        places = ["--root", there, "--store", kept]
        assert main(["evaluate", str(out), *places, "--out", str(tmp_path / "figures.json")]) == 0
        results.append(json.loads((tmp_path / "figures.json").read_text()))
    assert results[0] == results[1]
    assert str(tmp_path) not in (out / "config.yaml").read_text()
    (shelf / "store" / "train").rename(shelf / "store" / "trained")
    assert main(["train", *words[1:-4], "--out", str(tmp_path / "refused")]) == 1
    assert "shelf://store/train/" in capsys.readouterr().err
    for words in (
        ["prepare", "folder", "foo://a", "--store", "b"],
        ["prepare", "folder", root, "--store", "foo://a"],
        ["train", "--config", "tiny", "--data.root", "foo://a", "--out", str(tmp_path / "refused")],
        [
            "train",
            "--config",
            "tiny",
            "--data.root",
            root,
            "--data.store",
            "foo://a",
            "--out",
            str(tmp_path / "refused"),
        ],
        ["evaluate", str(out), "--root", "foo://a"],
    ):
        assert main(words) == 1
        said = "error: foo://a: 'foo' is no kind of address that fsspec knows"
        assert capsys.readouterr().err.splitlines()[-1].startswith(said)
    assert not (tmp_path / "refused").exists()
    assert main(["evaluate", str(out), "--root", "memory://nothing"]) == 1
    assert capsys.readouterr().err == "error: memory://nothing: there is no such file or folder; check the path.\n"
