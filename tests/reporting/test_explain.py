"""The command ``explain``: everything is there, the same each time, and what is wrong is said in a line."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from actionfusion.__main__ import main
from actionfusion.data.shapes import draw_scene
from actionfusion.data.shapes_files import write_clip
from actionfusion.data.shapes_pictures import render
from actionfusion.errors import (
    ActionFusionError,
    OutputError,
    RunFolderError,
    SettingsError,
    VideoDamaged,
    VideoMissing,
)
from actionfusion.inference.recognizer import Recognizer
from actionfusion.models import FusionNetwork, FusionNetworkSettings, model_class
from actionfusion.reporting import explanation_page
from actionfusion.reporting.explain import explain
from actionfusion.reporting.filmstrip import SIDE
from actionfusion.reporting.heatmaps import GAP, LINE, weighed_frames
from actionfusion.reporting.rendering import percent
from actionfusion.run_folder import create_run
from actionfusion.video import flow
from actionfusion.video.clip import ClipSettings
from actionfusion.video.flow import FlowRecipe, flow_engine
from actionfusion.video.reading import iterate_frames, probe

FILES = ["activations_flow.png", "activations_rgb.png", "explanation.json", "index.html", "overlay.mp4", "where.png"]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A generated clip of 16 frames."""
    path = tmp_path_factory.mktemp("video") / "short.mp4"
    write_clip(render(draw_scene("binding_square_right", 5))[:16], path)
    return path


@pytest.fixture(scope="module")
def explained(tiny_run, video, tmp_path_factory):
    out = tmp_path_factory.mktemp("explained") / "new" / "out"
    assert explain(tiny_run, video, out=out) == out / "index.html"
    return out


@pytest.fixture(scope="module")
def make_run(tmp_path_factory):
    """An untrained run of the tiny network with changes."""

    def make(labels=("left", "right", "up"), **changes):
        torch.manual_seed(1)
        settings = FusionNetworkSettings.tiny(len(labels), **changes)
        network = FusionNetwork(settings)
        clip = ClipSettings(4, 4, FlowRecipe("dis", 8.0, settings.size_of("flow")), network.reads, settings.image_size)
        path = tmp_path_factory.mktemp("runs") / "run"
        run = create_run(path, model="fusion", clip=clip, network=settings, labels=labels, further={})
        run.save_weights(network)
        return path

    return make


def test_the_folder_holds_what_was_promised(explained, video, tiny_run):
    assert sorted(path.name for path in explained.iterdir()) == FILES
    assert list(explained.parent.iterdir()) == [explained]
    figures = json.loads((explained / "explanation.json").read_text())
    row = Recognizer.load(tiny_run).predict(video, top_k=8)
    assert figures["label"] == row[0].label
    for said in row:
        assert figures["probabilities"][said.label] == pytest.approx(said.probability, abs=1e-4)
    p = row[0].probability
    assert figures["log_odds"] == pytest.approx(np.log(p / (1 - p)), abs=1e-3)
    streams = figures["streams"]
    total = streams["nothing"] + streams["appearance"] + streams["motion"]
    assert total == pytest.approx(figures["log_odds"], abs=1e-3)
    assert len(figures["frames"]["drops"]) == 8
    assert figures["frames"]["running_probability"][-1] == pytest.approx(p, abs=1e-4)
    assert np.shape(figures["maps"]["grad_cam"]) == np.shape(figures["maps"]["occlusion"]) == (8, 8, 8)
    assert set(figures["gates"]) == {"conv", "fc", "last"}
    assert [layer["layer"] for layer in figures["activations"]["rgb"]] == [1, 2, 3]
    assert probe(explained / "overlay.mp4").frame_count == 16
    for name in FILES:
        if name.endswith(".png"):
            assert np.ptp(np.asarray(Image.open(explained / name))[..., :3]) > 100


def test_the_page_is_whole_and_needs_nothing_else(explained, parse):
    text = (explained / "index.html").read_text(encoding="utf-8")
    page = parse(text)
    assert page.find("script") == []
    images = page.find("img")
    assert len(images) == 3 * 8 + 1 + 2
    assert all(image.attributes["src"].startswith("data:image/") and image.attributes["alt"] for image in images)
    (player,) = page.find("video")
    assert player.attributes["src"].startswith("data:video/mp4;base64,")
    assert not re.search(r'(src|href)="(?!data:|#|overlay\.mp4)', text)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+|http-equiv", "", text)
    assert len(page.find("svg")) == 3
    assert {anchor.attributes["href"][1:] for anchor in page.find("nav")[0].find("a")} == {
        section.attributes["id"] for section in page.find("section")
    }


def test_the_same_again_gives_the_same_bytes(explained, tiny_run, video, tmp_path):
    explain(tiny_run, video, out=tmp_path)  # an empty folder will do
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (explained / name).read_bytes(), name


def test_another_class_can_be_asked_for(tiny_run, video, explained, tmp_path, parse):
    given = json.loads((explained / "explanation.json").read_text())
    other = min(given["probabilities"], key=given["probabilities"].get)
    page = explain(tiny_run, video, out=tmp_path / "out", label=other, layers=(4,), channels=2, hide="map")
    figures = json.loads((page.parent / "explanation.json").read_text())
    assert figures["label"] == other
    assert figures["log_odds"] < given["log_odds"]
    assert figures["maps"]["occlusion_hides"] == "map"
    assert [(one["layer"], len(one["channels"])) for one in figures["activations"]["flow"]] == [(4, 2)]
    assert f"the prediction is {given['label']}" in parse(page.read_text(encoding="utf-8")).text


@pytest.mark.parametrize(("stream", "said"), [("flow", "motion alone"), ("rgb", "appearance alone")])
def test_a_run_of_one_stream_says_so(make_run, video, tmp_path, parse, stream, said):
    run = make_run(streams=stream, temporal_head="mean" if stream == "rgb" else "lstm")
    page = explain(run, video, out=tmp_path / "out")
    assert sorted(path.name for path in page.parent.glob("activations_*")) == [f"activations_{stream}.png"]
    tree = parse(page.read_text(encoding="utf-8"))
    assert said in tree.text
    assert "this model reads no other" in tree.text
    assert bool(tree.find("section", id="memory")) == (stream == "flow")


def test_flow_is_computed_only_for_a_model_that_reads_it(make_run, video, tmp_path, parse, monkeypatch):
    computed = []

    def counted(name):
        computed.append(name)
        return flow_engine(name)

    monkeypatch.setattr(flow, "flow_engine", counted)
    pages = {
        stream: explain(make_run(streams=stream), video, out=tmp_path / stream, hide="map")
        for stream in ("rgb", "flow")
    }
    rows = {}
    for stream, page in pages.items():
        root = parse(page.read_text(encoding="utf-8"))
        rows[stream] = [name.text for name in root.find("div", class_="name")][:3]
        assert len(root.find("div", class_="wheel")) == (stream == "flow")
        assert probe(page.parent / "overlay.mp4").frame_count == 16
    assert rows == {
        "rgb": ["Grad-CAM", "occlusion", "log-odds lost without it"],
        "flow": ["Grad-CAM", "occlusion", "flow to the next frame"],
    }
    assert computed
    computed.clear()
    explain(make_run(streams="rgb"), video, out=tmp_path / "again", hide="map")
    assert computed == []


def test_frames_may_have_another_size_than_the_flow(make_run, video, tmp_path):
    run = make_run(image_size=64, flow_size=32, streams="flow")
    page = explain(run, video, out=tmp_path / "out")
    figures = json.loads((page.parent / "explanation.json").read_text())
    assert np.shape(figures["maps"]["grad_cam"]) == (4, 4, 4)


def test_names_from_outside_are_text(make_run, video, tmp_path, parse):
    odd = "<b>“wëird” & very long, so long that no line of any video could ever hold it</b>"
    run = make_run(labels=(odd, "b", "c"))
    clip = tmp_path / "<i>clip&.mp4"
    clip.write_bytes(video.read_bytes())
    page = parse(explain(run, clip, out=tmp_path / "out", label=odd).read_text(encoding="utf-8"))
    assert odd in page.find("h1")[0].text
    assert "<i>clip&.mp4" in page.text


def test_a_real_clip_is_explained_in_its_own_shape(make_run, shared_data, tmp_path):
    video = min((shared_data / "UCF-101").glob("*/*.avi"), key=lambda path: path.stat().st_size)
    out = explain(make_run(), video, out=tmp_path / "out", hide="map").parent
    before, after = list(iterate_frames(video)), list(iterate_frames(out / "overlay.mp4"))
    np.testing.assert_allclose([frame.time for frame in after], [frame.time for frame in before], atol=2e-3)
    assert after[0].image.shape == (392 - 24, 2 * 320 + 48, 3)  # 320 x 240 twice, and a bar for each of three classes


def test_a_large_video_is_named_and_not_held(make_run, video, tmp_path, parse, monkeypatch):
    monkeypatch.setattr(explanation_page, "MOST_INLINED_BYTES", 10)
    page = explain(make_run(), video, out=tmp_path / "out")
    (player,) = parse(page.read_text(encoding="utf-8")).find("video")
    assert player.attributes["src"] == "overlay.mp4"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"label": "binding_square_rigt"}, "no class of this run; take binding_square_right, or another"),
        ({"label": "Zzz"}, "labels.txt"),
        ({"layers": (1, 9)}, "there is no stage 9, the run's backbones have 4"),
        ({"channels": 0}, "0 channels"),
    ],
)
def test_wrong_words_are_named_and_leave_nothing(tiny_run, video, tmp_path, wrong, message):
    with pytest.raises(SettingsError, match=message):
        explain(tiny_run, video, out=tmp_path / "out", **wrong)
    assert list(tmp_path.iterdir()) == []


def test_videos_that_cannot_be_read_leave_nothing(tiny_run, video, tmp_path):
    content = video.read_bytes()
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(content[: len(content) // 3] + bytes(len(content) // 3) + content[len(content) // 3 * 2 :])
    with pytest.raises(VideoDamaged, match=r"broken\.mp4"):
        explain(tiny_run, broken, out=tmp_path / "out")
    with pytest.raises(VideoMissing, match=r"absent\.mp4"):
        explain(tiny_run, tmp_path / "absent.mp4", out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == [broken]


def test_a_video_that_fails_while_it_is_drawn_leaves_nothing(tiny_run, video, tmp_path, monkeypatch):
    def fail(*_):
        raise VideoDamaged(video, "it broke", "copy it again")

    monkeypatch.setattr("actionfusion.reporting.explain.write_overlay", fail)
    with pytest.raises(VideoDamaged):
        explain(tiny_run, video, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_taken_or_cannot_be_written(tiny_run, video, tmp_path, capsys):
    kept = tmp_path / "taken" / "kept.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    for out in (kept.parent, kept):
        with pytest.raises(RunFolderError, match="not empty"):
            explain(tiny_run, video, out=out)
    with pytest.raises(OutputError, match="cannot be written"):
        explain(tiny_run, video, out=kept / "below")
    assert kept.read_text() == "mine"
    assert list(kept.parent.iterdir()) == [kept]
    capsys.readouterr()
    assert main(["explain", str(tiny_run), str(video), "--out", str(kept)]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error:")
    assert message.count("\n") == 1


def test_a_full_disk_is_said(tiny_run, video, small_disk):
    disk = small_disk("size=200k")
    with pytest.raises(ActionFusionError, match="cannot be written"):
        explain(tiny_run, video, out=disk / "out")
    assert list(disk.iterdir()) == []


def test_the_command_takes_layers_as_a_list(tiny_run, video, tmp_path, capsys):
    words = [
        "explain",
        str(tiny_run),
        str(video),
        "--out",
        str(tmp_path / "out"),
        "--layers",
        "[2, 4]",
        "--channels",
        "3",
    ]
    assert main(words) == 0
    assert "now open" in capsys.readouterr().err
    figures = json.loads((tmp_path / "out" / "explanation.json").read_text())
    assert [layer["name"] for layer in figures["activations"]["rgb"]] == ["conv2_1", "conv4_1"]


@pytest.mark.parametrize(
    ("name", "row", "bars"), [("soft_attention", "attention, rgb", 0), ("adascan", "weight, flow", 2 * 4)]
)
def test_a_models_own_weights_are_drawn(name, row, bars, video, tmp_path):
    """Places as a row of pictures, frames as a row of bars; in the sheet both are pictures."""
    kind = model_class(name)
    settings = kind.Settings.tiny(2, frames=4, image_size=32)
    clip = ClipSettings(4, 4, FlowRecipe("dis", 8.0, 32), kind.streams(settings), 32)
    run = create_run(tmp_path / "run", model=name, clip=clip, network=settings, labels=("left", "right"), further={})
    run.save_weights(kind(settings))
    page = explain(run.path, video, out=tmp_path / "out").read_text()

    figures = json.loads((tmp_path / "out" / "explanation.json").read_text())["attention"]
    assert f'<div class="name">{row}</div>' in page
    assert page.count('<div class="weight">') == bars
    assert len(figures[row]) == 4
    if bars:
        assert all(f"<span>{percent(weight)}</span>" in page for weight in figures[row])
    with Image.open(tmp_path / "out" / "where.png") as sheet:
        pictures = 3 + (len(kind.streams(settings)) - 1) + len(figures)
        assert sheet.height == pictures * (SIDE + GAP + LINE)


def test_frames_are_as_bright_as_their_weights():
    frames = [np.full((4, 4, 3), 200, np.uint8)] * 3
    drawn = weighed_frames(frames, np.array([0.1, 0.4, 0.0], np.float32))
    assert [int(frame[0, 0, 0]) for frame in drawn] == [50, 200, 0]
