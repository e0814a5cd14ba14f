"""Runs of version 0.1 are explained as that version explained them; ``explanations.json`` was written by it."""

import json
import platform
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from actionfusion.explanation.explanation import explain_clip
from actionfusion.inference.recognizer import Recognizer

HERE = Path(__file__).parents[1] / "earlier_versions"
KEPT = json.loads((HERE / "v0_1" / "explanations.json").read_text())


def assert_near(found, before, where):
    """Both were rounded to five places."""
    if isinstance(before, dict):
        assert found.keys() == before.keys(), where
        for name, value in before.items():
            assert_near(found[name], value, f"{where} {name}")
    elif isinstance(before, list):
        assert len(found) == len(before), where
        for number, (one, other) in enumerate(zip(found, before, strict=True)):
            assert_near(one, other, f"{where} {number}")
    elif isinstance(before, float):
        assert found == pytest.approx(before, abs=1e-4), where
    else:
        assert found == before, where


@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="OpenCV rounds flow differently elsewhere")
@pytest.mark.parametrize("name", KEPT)
def test_a_run_is_explained_as_it_was(name, tmp_path):
    spec = spec_from_file_location("earlier_versions_clips", HERE / "clips.py")
    clips = module_from_spec(spec)
    spec.loader.exec_module(clips)
    video = clips.write_video(tmp_path / "video.mkv")
    recognizer = Recognizer.load(HERE / "v0_1" / name, runtime="torch", device="cpu")
    found = explain_clip(recognizer, recognizer.clip(video), hidden=KEPT[name]["maps"]["occlusion_hides"])
    before = {part: value for part, value in KEPT[name].items() if part != "video"}
    assert_near(json.loads(json.dumps(found.as_json())), before, name)
