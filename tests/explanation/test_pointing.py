"""The pointing benchmark: perfect maps win, blind ones get chance, and what is recorded stands above it."""

import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from actionfusion.data.shapes import SHAPE_CLASSES, draw_scene
from actionfusion.data.shapes_pictures import actor_boxes
from actionfusion.explanation.localization import grad_cam, occlusion
from actionfusion.inference.recognizer import Recognizer

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
POSITIONS = np.arange(7, 64, 8)


@pytest.fixture(scope="module")
def pointing():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield import_module("pointing")
    finally:
        sys.path.remove(str(BENCHMARKS))


def _seen(pointing, maps_of):
    """Ten clips a class, with maps made from the boxes."""
    for seed in range(10):
        for label in SHAPE_CLASSES:
            scene = draw_scene(label, seed)
            boxes, wide = (actor_boxes(scene, margin)[POSITIONS] for margin in (0, 4))
            maps = dict.fromkeys(pointing.WAYS, maps_of(boxes))
            yield pointing.Seen(label, right=True, maps=maps, boxes=boxes, wide=wide)


def test_maps_of_the_boxes_themselves_win_and_agree(pointing):
    perfect = list(_seen(pointing, lambda boxes: boxes.reshape(8, 8, 8, 8, 8).mean(axis=(2, 4), dtype=np.float32)))
    figures = pointing._figures("all", perfect, 0)
    for way in figures["ways"].values():
        assert way["hits"] == {"mean": 1.0, "interval": [1.0, 1.0]}
        assert way["within_boxes"] > 0.7
        assert way["hits_on_another_clip"] < 0.6
    for pair in figures["rank_agreement"].values():
        assert pair["mean"] == pytest.approx(1)
    for pair in figures["same_place"].values():
        assert pair["frames"]["mean"] == 1
        assert pair["with_another_clip"] < 0.5


def test_maps_that_know_nothing_get_chance(pointing):
    generator = np.random.default_rng(0)
    blind = list(_seen(pointing, lambda _: generator.random((8, 8, 8), np.float32)))
    figures = pointing._figures("all", blind, 0)
    for way in figures["ways"].values():
        low, high = way["hits"]["interval"]
        assert low < figures["chance"] < high
        assert way["within_boxes"] == pytest.approx(figures["area"], abs=0.02)


def test_a_quick_round_of_the_whole(pointing, tiny_run, tmp_path, monkeypatch):
    # The same ways on coarser grids, which take a few seconds.
    ways = {
        "grad_cam": grad_cam,
        "occlusion_input": lambda asked: occlusion(asked, cells=2),
        "occlusion_map": lambda asked: occlusion(asked, hidden="map", cells=2),
    }
    monkeypatch.setattr(pointing, "WAYS", ways)
    result = pointing.measure(Recognizer.load(tiny_run, device="cpu"), tmp_path, 2, 0)
    assert result["clips"] == 16
    assert [group["clips"] for group in result["groups"]] == [16, 4, 4, 4, 4]
    assert result["before_training"]["clips"] == 16
    for group in result["groups"]:
        assert 0.1 < group["area"] < group["chance"] < 0.6
        assert set(group["ways"]) == set(ways)
    json.dumps(result, allow_nan=False)


def test_what_is_recorded_is_above_chance_and_learned():
    record = json.loads((BENCHMARKS / "results" / "pointing.json").read_text())
    everything, before = record["groups"][0], record["before_training"]
    assert everything["group"] == "all"
    for way, figures in everything["ways"].items():
        assert figures["hits"]["interval"][0] > everything["chance"]
        assert figures["hits"]["interval"][0] > before["ways"][way]["hits"]["interval"][1]
        assert figures["within_boxes"] > everything["area"]
    for pair in everything["same_place"].values():
        assert pair["frames"]["interval"][0] > pair["with_another_clip"]
