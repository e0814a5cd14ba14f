"""Folders of pictures that are one video: which of the pictures count, and in what order."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from actionfusion.data.check import check
from actionfusion.data.layouts.table import open_table
from actionfusion.data.layouts.tree import frame_files
from actionfusion.data.source_videos import PictureFolderSource
from actionfusion.errors import VideoError
from actionfusion.video.flow import FlowRecipe

COUNT = 6


def pictures(folder: Path, *patterns: str, numbers: range = range(1, COUNT + 1), red: int = 200) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in patterns:
        for number in numbers:
            picture = np.full((24, 32, 3), (0, 10 * number, red), np.uint8)
            assert cv2.imwrite(str(folder / pattern.format(number)), picture)
    return folder


@pytest.mark.parametrize(
    "flow",
    [
        ("flow_x_{:05d}.jpg", "flow_y_{:05d}.jpg"),
        ("x_{:05d}.jpg", "y_{:05d}.jpg"),
        ("{:05d}_u.png", "{:05d}_v.png"),
        ("Flow_{:05d}.png",),
    ],
)
def test_flow_beside_the_frames_is_left_out_and_said(tmp_path, flow):
    """Two-stream code keeps both in one folder; read together, two thirds of a video would be no pictures of it."""
    pictures(pictures(tmp_path / "jump", "img_{:05d}.jpg"), *flow, red=0)
    pictures(tmp_path / "run", "img_{:05d}.jpg")
    (tmp_path / "l.csv").write_text("path,label\njump,jump\nrun,run\n")
    assert open_table(tmp_path / "l.csv").notes == (
        "pictures of flow beside the frames were left out in 1 folders: 'jump'",
    )
    source = PictureFolderSource(tmp_path / "jump", FlowRecipe(size=16, engine="dis"))
    assert source.num_frames == COUNT
    rgb, _, _ = source.read(list(range(COUNT)), [])
    assert rgb[..., 0].mean() == pytest.approx(200, abs=3)
    report = check("csv", tmp_path / "l.csv", out=tmp_path / "m.csv", workers=0)
    assert [(row.frames, row.status) for row in report.rows] == [(COUNT, "ok")] * 2


@pytest.mark.parametrize(
    ("patterns", "named"),
    [
        (("left_{:04d}.jpg", "right_{:04d}.jpg"), "'left_*.jpg', 'right_*.jpg'"),
        (("cam1_{:04d}.jpg", "cam2_{:04d}.jpg"), "'cam1_*.jpg', 'cam2_*.jpg'"),
        (("{:04d}_left.jpg", "{:04d}_right.jpg"), "'*_left.jpg', '*_right.jpg'"),
        (("img_{:04d}.jpg", "img_{:04d}.png"), "'img_*.jpg', 'img_*.png'"),
        (("img_{:04d}.jpg", "mask_{:04d}.jpg", "flow_x_{:04d}.jpg"), "'img_*.jpg', 'mask_*.jpg'"),
        (("flow_x_{:04d}.jpg", "flow_y_{:04d}.jpg"), "'flow_x_*.jpg', 'flow_y_*.jpg'"),
    ],
)
def test_several_series_are_refused_by_name(tmp_path, patterns, named):
    pictures(tmp_path / "jump", *patterns)
    with pytest.raises(VideoError, match="several series of pictures") as caught:
        frame_files(tmp_path / "jump")
    assert caught.value.reason == f"several series of pictures: {named}"
    (tmp_path / "l.csv").write_text("path,label\njump,jump\n")
    report = check("csv", tmp_path / "l.csv", out=tmp_path / "m.csv", workers=0)
    assert [(row.status, row.reason) for row in report.rows] == [("video", caught.value.reason)]


def test_a_cover_beside_the_frames_is_no_frame(tmp_path):
    pictures(pictures(tmp_path, "img_{:04d}.jpg"), "cover.jpg", numbers=range(1))
    with pytest.raises(VideoError, match=r"several series of pictures: 'cover\.jpg', 'img_\*\.jpg'"):
        frame_files(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ["a.jpg", "b.jpg", "c.png"],
        ["4475-6_79.jpg", "4475-6_799.jpg", "4475-6_7100.jpg"],
        ["12-59-58.jpg", "12-59-59.jpg", "13-00-00.jpg", "13-00-01.jpg", "13-00-02.jpg"],
        ["shot1_1.jpg", "shot1_2.jpg", "shot2_3.jpg", "shot2_4.JPG"],
    ],
)
def test_one_series_may_have_several_numbers_or_none(tmp_path, names):
    for name in names:
        (tmp_path / name).touch()
    assert [file.name for file in frame_files(tmp_path)] == names
