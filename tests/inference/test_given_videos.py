"""What ``predict`` takes: files, folders of videos, folders of pictures; and no addresses."""

import json
import shutil
import subprocess
import sys

import cv2
import pytest

from actionfusion.__main__ import main
from actionfusion.errors import DatasetError, VideoError
from actionfusion.inference.predict import predict
from actionfusion.inference.recognizer import Recognizer
from actionfusion.video.reading import iterate_frames


@pytest.fixture(scope="module")
def clips(tmp_path_factory, shapes_root):
    """Four videos in two folders, one of them hidden, and a note."""
    root = tmp_path_factory.mktemp("clips")
    for number, video in enumerate(sorted((shapes_root / "test").glob("motion_*/*.mp4"))):
        target = root / ("b", "a", ".hidden", "a/deep")[number] / video.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, target)
    (root / "notes.txt").write_text("no video")
    return root


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, clips):
    """The first of them as PNG pictures."""
    folder = tmp_path_factory.mktemp("pictures") / "film"
    folder.mkdir()
    for frame in iterate_frames(next((clips / "b").glob("*.mp4"))):
        cv2.imwrite(str(folder / f"{frame.index}.png"), cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
    return folder


def test_a_folder_of_videos_is_its_videos(tiny_run, clips, capsys):
    rows = predict(tiny_run, [clips, *sorted(clips.glob("b/*.mp4"))], runtime="torch")
    videos = [path for pattern in ("a/*.mp4", "a/deep/*.mp4", "b/*.mp4", "b/*.mp4") for path in clips.glob(pattern)]
    assert [row.video for row in rows] == [str(path) for path in videos]
    recognizer = Recognizer.load(tiny_run, runtime="torch")
    assert [list(row.predictions) for row in rows] == [recognizer.predict(path) for path in videos]
    assert f"{clips}: 3 videos\n" in capsys.readouterr().err


def test_one_video_may_be_given_alone(tiny_run, clips):
    video = str(next(clips.glob("b/*.mp4")))
    assert [row.video for row in predict(tiny_run, video, runtime="torch")] == [video]


def test_a_run_is_no_folder_of_pictures(tiny_run, clips, tmp_path):
    shutil.copytree(clips, tmp_path / "root" / "clips")
    shutil.copytree(tiny_run, tmp_path / "root" / "runs" / "mine")
    assert (tmp_path / "root" / "runs" / "mine" / "curves.png").is_file()
    assert all("clips" in row.video for row in predict(tiny_run, [tmp_path / "root"], runtime="torch"))


def test_a_folder_of_pictures_is_one_video(tiny_run, clips, pictures):
    (row,) = predict(tiny_run, [pictures], runtime="torch")
    (video,) = predict(tiny_run, list(clips.glob("b/*.mp4")), runtime="torch")
    assert row.video == str(pictures)
    assert row.error is None
    # PNG has no loss; the two ways to scale differ by little.
    found, wanted = ({item.label: item.probability for item in each.predictions} for each in (row, video))
    assert found == pytest.approx(wanted, abs=0.02)


def test_folders_of_pictures_among_videos_and_timelines_of_them(tiny_run, clips, pictures, tmp_path, capsys):
    root = shutil.copytree(pictures.parent, tmp_path / "root")
    shutil.copy(next(clips.glob("b/*.mp4")), root / "film.mp4")
    shutil.copytree(pictures, root / "other")
    rows = predict(tiny_run, [root], segments=True, every=2, runtime="torch", out=tmp_path / "out")
    assert [row.video for row in rows] == [str(root / name) for name in ("film.mp4", "film", "other")]
    assert "3 videos, of them 2 as folders of pictures" in capsys.readouterr().err
    assert not rows.failed
    assert [row.segments for row in rows][1] == [row.segments for row in rows][2]
    assert rows[1].segments[-1].end == pytest.approx(rows[0].segments[-1].end, abs=0.05)
    assert {path.name for path in (tmp_path / "out").glob("*.csv")} == {"film.csv", "film-2.csv", "other.csv"}


@pytest.mark.parametrize("segments", [False, True])
def test_an_address_is_refused_in_words_and_without_its_password(tiny_run, clips, segments, capsys):
    video = next(clips.glob("b/*.mp4"))
    addresses = ["https://me:secret@host/a.mp4?key=secret", "s3://bucket/clips"]
    rows = predict(tiny_run, [*addresses, video], segments=segments, runtime="torch", json=True)
    assert [row.error and row.error.kind for row in rows] == ["missing", "missing", None]
    captured = capsys.readouterr()
    assert captured.err.count("is an address; videos are taken from files, folders of videos and folders of pict") == 2
    assert captured.err.count("or let `actionfusion stream` read it") == 1  # which does not read s3
    assert "secret" not in captured.out + captured.err
    assert json.loads(captured.out)[1]["video"] == "s3://bucket/clips"


def test_a_folder_without_either_is_said(tiny_run, tmp_path):
    (tmp_path / "empty").mkdir()
    (row,) = predict(tiny_run, [tmp_path / "empty"], runtime="torch")
    assert "not one that holds one video as pictures" in row.error.reason
    with pytest.raises(VideoError, match="not one that holds one video as pictures"):
        Recognizer.load(tiny_run, runtime="torch").predict(tmp_path)


def test_a_folder_that_may_not_be_read_hides_no_other(tiny_run, clips, monkeypatch):
    from actionfusion.data.layouts import tree

    scan = tree.scan

    def refused(folder, left_out):
        if folder.name == "b":
            raise DatasetError(folder, "cannot be read (Permission denied)", "ask its owner for the right to")
        return scan(folder, left_out)

    monkeypatch.setattr(tree, "scan", refused)
    rows = predict(tiny_run, [clips], runtime="torch")
    assert [row.error.reason for row in rows if row.error] == ["cannot be read (Permission denied)"]
    assert len(rows) == 3


def test_links_that_lead_back_end(tiny_run, clips, tmp_path):
    root = shutil.copytree(clips, tmp_path / "root")
    (root / "a" / "back").symlink_to(root)
    assert len(predict(tiny_run, [root], runtime="torch")) == 3


def test_who_predicts_a_file_loads_no_data_sets(tiny_run, clips):
    code = (
        "import sys; from actionfusion.inference.predict import predict;"
        "predict(sys.argv[1], [sys.argv[2]], runtime='torch');"
        "assert not [name for name in sys.modules if name.startswith('actionfusion.data')]"
    )
    video = next(clips.glob("b/*.mp4"))
    subprocess.run([sys.executable, "-c", code, str(tiny_run), str(video)], check=True, capture_output=True)


def test_explain_takes_one_file(tiny_run, pictures, tmp_path, capsys):
    words = ["explain", str(tiny_run), str(pictures), "--out", str(tmp_path / "out")]
    assert main(words) == 1
    assert "this is a folder; give one video file" in capsys.readouterr().err
    words[2] = "https://host/a.mp4"
    assert main(words) == 1
    assert "is an address" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_words_without_a_flag_may_stand_anywhere(tiny_run, clips, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    video = next(clips.glob("b/*.mp4"))
    shutil.copy(video, "-film.mp4")
    shutil.copy(video, "film.mp4")
    for words in (
        ["run", "film.mp4", "--top_k", "1", "film.mp4", "--json"],
        ["--json", "run", "film.mp4", "--top_k", "1", "--", "-film.mp4"],
        ["run", "--json", "--top_k=1", "--", "film.mp4", "-film.mp4"],
        ["--top_k", "1", "--json", "--", "run", "-film.mp4", "film.mp4"],
    ):
        given = [str(tiny_run) if word == "run" else word for word in words]
        assert main(["predict", "--runtime=torch", *given]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [len(entry["predictions"]) for entry in found] == [1, 1], words
        assert [entry["video"] for entry in found] == [word for word in words if word.endswith("film.mp4")]
    assert main(["predict", str(tiny_run), "film.mp4", "--", "--json"]) == 2
    assert "--json: stands behind --, where no word is an argument" in capsys.readouterr().err
    assert main(["predict", str(tiny_run), "film.mp4", "-film.mp4"]) == 2
