"""``check`` reads every video once, tells what is wrong with each, and never does work twice."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest

import actionfusion
from actionfusion.__main__ import main
from actionfusion.data import check_videos as check_videos_module
from actionfusion.data.check import check
from actionfusion.data.check_videos import CheckJournal, CheckTask, check_video
from actionfusion.data.manifest import read_manifest
from actionfusion.data.prepare_dataset import prepare
from actionfusion.data.workers import WorkerDied, WorkerPool
from actionfusion.errors import DatasetError, OutputError, SettingsError
from actionfusion.video.reading import iterate_frames

NUM_FRAMES = 12


@pytest.fixture(scope="module")
def clips(tmp_path_factory, make_frames, make_video):
    """Two classes of five clips, by two persons; all good."""
    root = tmp_path_factory.mktemp("clips")
    for label, start in (("jump", 0), ("run", 20)):
        for number in range(5):
            name = f"{'anna' if number < 3 else 'ben'}_{number}.mp4"
            make_video(root / label / name, make_frames(start + number, start + number, NUM_FRAMES))
    return root


@pytest.fixture
def broken(clips, tmp_path, make_frames, make_video):
    """The same with faults of every kind."""
    root = shutil.copytree(clips, tmp_path / "broken clips")
    whole = (root / "jump/anna_0.mp4").read_bytes()
    (root / "jump/anna_0.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    (root / "jump/anna_1.mp4").write_text("no video at all")
    (root / "run/empty.mp4").write_bytes(b"")
    make_video(root / "run/still.mp4", make_frames(9, 9, 1))
    shutil.copy(root / "run/anna_0.mp4", root / "run/ben_9 copy.mp4")
    return root


def statuses(report):
    return {row.path: row.status for row in report.rows if row.status != "ok"}


def test_good_clips_are_described_as_they_are(clips, tmp_path):
    report = check("folder", clips, out=tmp_path / "m.csv", workers=0)
    assert not report.faults
    assert not report.duplicates
    for row in report.rows:
        assert row.frames == len(list(iterate_frames(clips / row.path))) == NUM_FRAMES
        assert (row.width, row.height, row.codec, row.fps, row.rotation) == (128, 96, "h264", 25.0, 0)
        assert row.label == row.path.split("/")[0]
        assert len(row.hash) == 64
    assert list(read_manifest(tmp_path / "m.csv").rows) == list(report.rows)


def test_every_fault_is_found_named_and_counted(broken, tmp_path, capsys):
    report = check("folder", broken, out=tmp_path / "m.csv", group_pattern="(?P<group>[a-z]+)_", workers=2)
    assert statuses(report) == {
        "jump/anna_0.mp4": "damaged",
        "jump/anna_1.mp4": "not_a_video",
        "run/empty.mp4": "not_a_video",
        "run/still.mp4": "too_short",
    }
    assert [(duplicate.first, duplicate.second, duplicate.kind) for duplicate in report.duplicates] == [
        ("run/anna_0.mp4", "run/ben_9 copy.mp4", "equal")
    ]
    told = capsys.readouterr().err
    assert "13 videos: 1 damaged, 2 not_a_video, 9 ok, 1 too_short; 108 frames in those that are ok" in told
    assert "too_short: run/still.mp4: 1 frames, where 2 are the least" in told
    assert not report.failed


def test_strict_fails_for_a_fault_and_for_a_split_that_gives_away(clips, broken, tmp_path):
    assert not check("folder", clips, out=tmp_path / "a.csv", workers=0, strict=True).failed
    assert check("folder", broken, out=tmp_path / "b.csv", workers=0, strict=True).failed
    leaking = {
        "group_pattern": "(?P<group>[a-z]+)_",
        "split": "stratified-7:3",
        "workers": 0,
        "out": tmp_path / "a.csv",
    }
    report = check("folder", clips, **leaking, strict=True)
    assert not report.faults
    assert report.failed
    assert not check("folder", clips, **leaking).failed
    assert main(["check", "folder", str(broken), "--out", str(tmp_path / "b.csv"), "--workers", "0", "--strict"]) == 1
    assert main(["check", "folder", str(broken), "--out", str(tmp_path / "b.csv"), "--workers", "0"]) == 0


def test_a_duplicate_on_both_sides_is_listed_with_its_twin(clips, tmp_path, capsys):
    root = tmp_path / "split"
    for part, numbers in (("train", (0, 1, 2)), ("test", (3, 4))):
        for label in ("jump", "run"):
            for number in numbers:
                source = next((clips / label).glob(f"*_{number}.mp4"))
                (root / part / label).mkdir(parents=True, exist_ok=True)
                shutil.copy(source, root / part / label / source.name)
    shutil.copy(root / "train/run/anna_1.mp4", root / "test/run/twin.mp4")
    report = check("folder", root, out=tmp_path / "m.csv", workers=0, strict=True)
    assert report.failed
    told = capsys.readouterr().err
    assert "1 of 5 test videos have a duplicate in training" in told
    assert "'test/run/twin.mp4' shows what 'train/run/anna_1.mp4' in training shows" in told
    table = (tmp_path / "m.leaks.csv").read_text().splitlines()
    assert table[1:] == ['"folders: train, test",test/run/twin.mp4,double,train/run/anna_1.mp4']
    (root / "test/run/twin.mp4").unlink()
    assert not check("folder", root, out=tmp_path / "m.csv", workers=0, strict=True).failed
    assert not (tmp_path / "m.leaks.csv").exists()


def test_a_split_that_cannot_be_made_is_said_and_the_manifest_is_there(clips, tmp_path, capsys):
    root = shutil.copytree(clips, tmp_path / "clips")
    for path in sorted((root / "run").iterdir())[1:]:
        path.unlink()
    report = check("folder", root, out=tmp_path / "m.csv", split="random-7:3", workers=0)
    assert len(read_manifest(tmp_path / "m.csv").rows) == 6
    assert not report.splits[0].sound
    assert "class 'run' has one video" in capsys.readouterr().err


def journal_lines(out: Path) -> list[str]:
    return out.with_name(out.name + ".journal").read_text().splitlines()


def test_a_second_call_reads_only_what_has_changed(broken, tmp_path, monkeypatch):
    out = tmp_path / "m.csv"
    first = check("folder", broken, out=out, workers=0)
    read = []
    real = check_videos_module.check_video

    def noted(task):
        read.append(task.path)
        return real(task)

    monkeypatch.setattr(check_videos_module, "check_video", noted)
    assert check("folder", broken, out=out, workers=0).rows == first.rows
    assert read == []
    shutil.copy(broken / "run/anna_1.mp4", broken / "jump/anna_1.mp4")
    (broken / "run/still.mp4").unlink()
    again = check("folder", broken, out=out, workers=0)
    assert read == ["jump/anna_1.mp4"]
    assert "jump/anna_1.mp4" not in statuses(again)
    assert len(again.rows) == len(first.rows) - 1
    assert len(journal_lines(out)) == 1 + len(again.rows)


SCRIPT = """
import sys
from pathlib import Path

if __name__ == "__main__":  # the workers, which run this file too, need no more than the command's do
    from actionfusion.data.check import check

    check("folder", Path(sys.argv[1]), out=Path(sys.argv[2]), workers=2)
"""


@pytest.mark.slow
def test_killed_at_any_moment_the_manifest_ends_equal(broken, tmp_path):
    expected = check("folder", broken, out=tmp_path / "undisturbed.csv", workers=0)
    out = tmp_path / "m.csv"
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    moments = random.Random(5)
    environment = {**os.environ, "PYTHONPATH": str(Path(actionfusion.__file__).parents[1])}
    journal = out.with_name(out.name + ".journal")
    for wanted in (2, 5, 9):
        process = subprocess.Popen(
            [sys.executable, script, broken, out], env=environment, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < wanted):
            time.sleep(0.002)
        time.sleep(moments.random() * 0.02)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert len(journal_lines(out)) >= 5
    known = journal.read_text()
    report = check("folder", broken, out=out, workers=0)
    assert report.rows == expected.rows
    assert out.read_bytes() == (tmp_path / "undisturbed.csv").read_bytes()
    # No video that was written down is written down a second time.
    paths = [json.loads(line)["row"]["path"] for line in known.splitlines()[1:] if line.endswith("}")]
    assert len(paths) == len(set(paths))


def test_a_line_cut_by_a_kill_is_checked_again(clips, tmp_path):
    out = tmp_path / "m.csv"
    expected = check("folder", clips, out=out, workers=0)
    journal = out.with_name("m.csv.journal")
    for cut in (-1, -40, -len(journal_lines(out)[-1]) - 3):
        journal.write_bytes(journal.read_bytes()[:cut])
        assert check("folder", clips, out=out, workers=0).rows == expected.rows


@pytest.mark.parametrize("length", [0, 1, 5])
def test_a_journal_killed_within_its_first_line_begins_anew(clips, tmp_path, length):
    out = tmp_path / "m.csv"
    check("folder", clips, out=out)
    journal = tmp_path / "m.csv.journal"
    whole = sorted(journal_lines(out))
    journal.write_bytes(journal.read_bytes()[:length])
    check("folder", clips, out=out)
    assert sorted(journal_lines(out)) == whole


@pytest.mark.parametrize("content", [b"garbage", b'{"format": 99}\n', b"[]\n"])
def test_a_file_that_is_no_journal_is_left_alone(clips, tmp_path, content):
    (tmp_path / "m.csv.journal").write_bytes(content)
    with pytest.raises(DatasetError, match="is no journal of this version's check"):
        check("folder", clips, out=tmp_path / "m.csv", workers=0)
    assert (tmp_path / "m.csv.journal").read_bytes() == content


def test_two_at_once_into_one_manifest_lose_no_line(clips, tmp_path):
    first, second = (CheckJournal(tmp_path / "m.csv.journal") for _ in range(2))
    with first, second:
        for number, path in enumerate(sorted(clips.rglob("*.mp4"))):
            (first, second)[number % 2].add(check_video(CheckTask(path, str(path))))
    assert len(CheckJournal(tmp_path / "m.csv.journal").known) == 10


def test_a_full_disk_ends_it_cleanly_and_keeps_what_was_found(clips, tmp_path, monkeypatch):
    real = check_videos_module._write_whole
    written = []

    def fills_up(stream, data):
        written.append(data)
        if len(written) > 4:
            stream.write(data[:20])
            raise OSError(errno.ENOSPC, "No space left on device")
        real(stream, data)

    with monkeypatch.context() as patched:
        patched.setattr(check_videos_module, "_write_whole", fills_up)
        with pytest.raises(DatasetError, match="the disk is full"):
            check("folder", clips, out=tmp_path / "m.csv", workers=0)
    assert not (tmp_path / "m.csv").exists()
    assert len(CheckJournal(tmp_path / "m.csv.journal").known) == 3
    assert len(check("folder", clips, out=tmp_path / "m.csv", workers=0).rows) == 10


def test_a_place_that_cannot_be_written_is_said_before_the_work(clips, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match=r"m\.csv: cannot be written"):
        check("folder", clips, out=tmp_path / "file" / "m.csv", workers=0)


def test_a_process_that_dies_costs_one_video(clips, tmp_path, monkeypatch):
    class Pool(WorkerPool):
        def run(self, function, tasks):
            for number, task in enumerate(tasks):
                yield task, WorkerDied(-9) if number == 2 else function(task)

    monkeypatch.setattr("actionfusion.data.check.open_pool", lambda *_: Pool(0))
    report = check("folder", clips, out=tmp_path / "m.csv")
    assert [row.reason for row in report.faults] == ["the process that read it died (Killed)"]
    monkeypatch.undo()
    # It may have been the machine's fault, so it is looked at again.
    assert not check("folder", clips, out=tmp_path / "m.csv", workers=0).faults


def test_a_library_in_trouble_costs_one_video(clips, monkeypatch):
    monkeypatch.setattr(check_videos_module, "probe", lambda _: {}["colour"])
    found = check_video(CheckTask(clips / "run/ben_3.mp4", "run/ben_3.mp4"))
    assert (found.row.status, found.row.reason) == ("error", "KeyError: 'colour'")


def test_videos_behind_an_address_are_found_to_be_the_same(broken, tmp_path, memory):
    import fsspec

    fsspec.filesystem("memory").put(str(broken), "/clips", recursive=True)
    here = check("folder", broken, out=tmp_path / "here.csv", workers=0)
    there = check("folder", "memory://clips", out=tmp_path / "there.csv", workers=0)
    assert there.rows == here.rows
    lines = journal_lines(tmp_path / "there.csv")
    assert check("folder", "memory://clips", out=tmp_path / "there.csv", workers=0).rows == here.rows
    assert journal_lines(tmp_path / "there.csv") == lines


def test_a_video_that_has_gone_is_missing(tmp_path):
    found = check_video(CheckTask(tmp_path / "gone.avi", "gone.avi"))
    assert (found.row.status, found.row.frames, found.row.hash) == ("missing", 0, "")


@pytest.mark.parametrize("fault", [errno.EACCES, errno.EIO])
def test_a_video_that_cannot_be_read_is_not_called_missing_and_is_looked_at_again(clips, monkeypatch, fault, tmp_path):
    def refuse(path, *words, **options):
        if path.name == "ben_3.mp4":
            raise OSError(fault, os.strerror(fault), str(path))
        return opened(path, *words, **options)

    opened = Path.open
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        faults = check("folder", clips, out=tmp_path / "m.csv", workers=0).faults
    assert {(row.path, row.status) for row in faults} == {
        ("jump/ben_3.mp4", "unreadable"),
        ("run/ben_3.mp4", "unreadable"),
    }
    assert os.strerror(fault) in faults[0].reason
    assert not check("folder", clips, out=tmp_path / "m.csv", workers=0).faults


def test_folders_of_pictures_are_checked_too(tmp_path, make_frames):
    for action in ("Diving-Side", "Kicking"):
        for number in ("001", "002"):
            folder = tmp_path / "ucf action" / action / number / "jpeg"
            folder.mkdir(parents=True)
            for index, frame in enumerate(make_frames(len(action), int(number), 6)):
                cv2.imwrite(str(folder / f"{index:04d}.jpg"), frame)
    (tmp_path / "ucf action/Kicking/002/jpeg/0003.jpg").write_bytes(b"broken")
    report = check("ucfsports", tmp_path, out=tmp_path / "m.csv", workers=0)
    assert len(report.rows) == 4
    assert [(row.status, row.frames) for row in report.rows if "Kicking/002" in row.path] == [("damaged", 3)]
    good = report.rows[0]
    assert (good.frames, good.width, good.height, good.codec) == (6, 128, 96, "jpg")


@pytest.mark.parametrize("settings", [{"min_frames": 0}, {"out": Path("m.txt")}, {"workers": -1}])
def test_settings_that_cannot_be(clips, settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError):
        check("folder", clips, **settings)


def test_training_and_prepare_go_by_the_manifest(broken, tmp_path, train_arguments, capsys):
    from dataclasses import replace

    from actionfusion.evaluation.evaluate import evaluate
    from actionfusion.training.train import train

    manifest = tmp_path / "m.csv"
    check("folder", broken, out=manifest, workers=0)
    flow = train_arguments["recipe"].clip.flow
    report = prepare("folder", broken, store=tmp_path / "store", flow=flow, manifest=manifest, workers=0)
    assert (report.made, report.failed) == (9, False)
    data = replace(
        train_arguments["recipe"].data, root=broken, manifest=manifest, store=tmp_path / "store", split="stratified-7:3"
    )
    run = train(**train_arguments | {"data": data, "out": tmp_path / "run"})
    assert "4 videos that the manifest says are not ok were left out" in (run / "train.log").read_text()
    assert str(tmp_path) not in (run / "config.yaml").read_text()
    # Without the manifest, and without the videos that it left out.
    figures = evaluate(run, broken, out=tmp_path / "figures.json").figures
    assert figures.top1.count == sum(",test" in line for line in (run / "split.csv").read_text().splitlines())


def test_real_clips(shared_data, tmp_path):
    report = check("folder", shared_data / "ut-interaction/set1", out=tmp_path / "m.parquet", workers=2)
    assert len(report.rows) == 60
    assert not report.faults
    # All classes share one scene, and no two clips are duplicates.
    assert not report.duplicates
