"""Whether the maps of ``explain`` point at what moves: the pointing game on generated clips, against chance.

    python benchmarks/pointing.py [--run RUN]

Without a run, the tiny recipe is trained first, on 100 generated clips a class.  Every test clip is explained for its
true class, right or wrong, in three ways: Grad-CAM on the feature map, occlusion of the input, occlusion of the map.  A
sampled frame counts as hit where the largest value of its map lies within an actor's box or at most half a cell of the
map outside it.  Chance is the share of the picture that this covers.  Beside it stand two controls: the same maps held
against the boxes of another clip of the class, and the maps of the network before training.  Two ways agree on a frame
where their largest values are less than an actor's width, 24 pixels, apart; by ranks they are compared over all cells.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from actionfusion.data.shapes import RADIUS, SHAPE_CLASSES, SHAPE_GROUPS, SIZE, draw_scene
from actionfusion.data.shapes_files import make_shapes, scene_seed, write_clip
from actionfusion.data.shapes_pictures import actor_boxes, render
from actionfusion.explanation.localization import (
    enlarged,
    grad_cam,
    occlusion,
    pointing_hits,
    rank_agreement,
    share_within,
)
from actionfusion.explanation.target import AttributionTarget, FloatArray
from actionfusion.files import write_atomically
from actionfusion.inference.recognizer import Recognizer
from actionfusion.models import VideoModel
from actionfusion.training.recipe import load_recipe
from actionfusion.training.train import train
from actionfusion.version import __version__

RESULTS = Path(__file__).parent / "results" / "pointing.json"
TRAIN_PER_CLASS, TEST_PER_CLASS = 100, 10
RESAMPLES = 2000
BoolArray = npt.NDArray[np.bool_]
WAYS: Mapping[str, Callable[[AttributionTarget], FloatArray]] = {
    "grad_cam": grad_cam,
    "occlusion_input": occlusion,
    "occlusion_map": lambda target: occlusion(target, hidden="map"),
}
PAIRS = (("grad_cam", "occlusion_input"), ("grad_cam", "occlusion_map"))
NEAR_PX = 2 * RADIUS


@dataclass(frozen=True, eq=False)
class Seen:
    """What the ways said of one clip.

    Attributes:
        label: its class.
        right: whether the network named it.
        maps: by way, ``[T, h, w]``.
        boxes: ``[T, 64, 64]``, the actors'.
        wide: the same with what is tolerated around them.
    """

    label: str
    right: bool
    maps: Mapping[str, FloatArray]
    boxes: BoolArray
    wide: BoolArray


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run trained on generated clips")
    parser.add_argument("--per-class", type=int, default=TEST_PER_CLASS, help="test clips of each class, 2 or more")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = arguments.run or _trained(Path(folder), arguments.seed)
        result = measure(Recognizer.load(run, device="cpu"), Path(folder), arguments.per_class, arguments.seed)
    words = "" if arguments.run is None else " --run RUN"
    record = {"command": f"python benchmarks/pointing.py{words}", **_about(arguments.seed), **result}
    write_atomically(arguments.out, json.dumps(record, indent=1) + "\n")


def measure(recognizer: Recognizer, folder: Path, per_class: int, seed: int) -> dict[str, Any]:
    """The figures of a network, and of one with its settings that has learned nothing.

    Args:
        recognizer: trained on generated clips.
        folder: for one clip at a time.
        per_class: clips of each class, drawn as test clips.
        seed: of the clips, the untrained weights and the bootstrap.

    Raises:
        ValueError: a model for frames of another size than the boxes are known at, or without maps; or one clip a
            class, which has no other beside it.
    """
    if per_class < 2:
        raise ValueError(f"{per_class} clips of a class: there is no other clip to hold its maps against")
    if recognizer.network.settings.image_size != SIZE:
        raise ValueError(f"the boxes are known at {SIZE} pixels, the run's frames have another size")
    torch.manual_seed(seed)
    model = type(recognizer.network)(recognizer.network.settings)
    untrained = Recognizer(model, recognizer.clip_settings, recognizer.labels)
    margin = SIZE // _map_side(recognizer.network) // 2
    seen = list(_look(recognizer, folder, per_class, seed, margin))
    before = list(_look(untrained, folder, per_class, seed, margin))
    groups = {"all": SHAPE_CLASSES, **SHAPE_GROUPS}
    return {
        "clips": len(seen),
        "clips_per_class": per_class,
        "frames_per_clip": recognizer.clip_settings.frames,
        "tolerance_px": margin,
        "same_place_px": NEAR_PX,
        "groups": [
            _figures(name, [clip for clip in seen if clip.label in labels], seed) for name, labels in groups.items()
        ],
        "before_training": _figures("all", before, seed),
    }


def _map_side(model: VideoModel) -> int:
    settings = model.settings
    clips = {
        stream: torch.zeros(1, settings.frames, settings.channels_of(stream), *[settings.size_of(stream)] * 2)
        for stream in model.reads
    }
    shape = AttributionTarget(model.eval(), clips, 0).map_shape
    if shape is None:
        raise ValueError("the model has no maps that could point at anything")
    return shape[-1]


def _trained(folder: Path, seed: int) -> Path:
    clips = make_shapes(folder / "clips", train_per_class=TRAIN_PER_CLASS, val_per_class=0, test_per_class=1, seed=seed)
    recipe = load_recipe("tiny")
    data = replace(recipe.data, dataset="folder", root=clips, split="folders", validation="none")
    return train(recipe.changed(data=data, seed=seed), out=folder / "run")


def _look(recognizer: Recognizer, folder: Path, per_class: int, seed: int, margin: int) -> Iterator[Seen]:
    path = folder / "clip.mp4"
    for index in range(per_class):
        for label in SHAPE_CLASSES:
            scene = draw_scene(label, scene_seed(seed, "test", index))
            write_clip(render(scene), path)
            clip = recognizer.clip(path)
            target = AttributionTarget.of(recognizer, clip, label)
            yield Seen(
                label,
                right=recognizer.best(recognizer.probabilities([clip])[0], 1)[0].label == label,
                maps={name: way(target) for name, way in WAYS.items()},
                boxes=actor_boxes(scene)[clip.positions],
                wide=actor_boxes(scene, margin)[clip.positions],
            )


def _figures(name: str, seen: Sequence[Seen], seed: int) -> dict[str, Any]:
    # Another clip of the same class: of as many actors, and never the twin, whose actors are in the same places.
    classes = {label: [clip for clip in seen if clip.label == label] for label in SHAPE_CLASSES}
    other = {id(clip): clips[place - 1] for clips in classes.values() for place, clip in enumerate(clips)}
    return {
        "group": name,
        "clips": len(seen),
        "right": sum(clip.right for clip in seen),
        "chance": _mean([clip.wide.mean() for clip in seen]),
        "area": _mean([clip.boxes.mean() for clip in seen]),
        "ways": {
            way: {
                "hits": _spread([pointing_hits(clip.maps[way], clip.wide).mean() for clip in seen], seed),
                "hits_on_another_clip": _mean(
                    [pointing_hits(clip.maps[way], other[id(clip)].wide).mean() for clip in seen]
                ),
                "within_boxes": _mean([_finite(share_within(clip.maps[way], clip.boxes)) for clip in seen]),
            }
            for way in WAYS
        },
        "rank_agreement": {
            f"{first} and {second}": _agreement([rank_agreement(clip.maps[first], clip.maps[second]) for clip in seen])
            for first, second in PAIRS
        },
        "same_place": {
            f"{first} and {second}": {
                "frames": _spread([same_place(clip.maps[first], clip.maps[second]).mean() for clip in seen], seed),
                "with_another_clip": _mean(
                    [same_place(clip.maps[first], other[id(clip)].maps[second]).mean() for clip in seen]
                ),
            }
            for first, second in PAIRS
        },
    }


def same_place(first: FloatArray, second: FloatArray) -> BoolArray:
    """Whether the largest values of two ways' maps are less than an actor's width apart, for each frame."""
    places = [
        np.stack(np.unravel_index(enlarged(maps, SIZE, SIZE).reshape(len(maps), -1).argmax(axis=1), (SIZE, SIZE)))
        for maps in (first, second)
    ]
    near: BoolArray = np.linalg.norm(places[0] - places[1], axis=0) < NEAR_PX
    return near


def _finite(values: npt.NDArray[np.float64]) -> float:
    """The mean over the frames in which anything speaks for the class."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if np.isfinite(value)]
    return round(float(np.mean(known)), 4) if known else None


def _agreement(values: Sequence[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    return {
        "mean": _mean(known),
        "tenth": round(float(np.quantile(known, 0.1)), 4) if known else None,
        "clips_without_ranks": len(values) - len(known),
    }


def _spread(values: Sequence[float], seed: int) -> dict[str, Any]:
    """Mean over clips with its 95 % interval by bootstrap: the frames of a clip are not independent, its clips are."""
    drawn = np.random.default_rng(seed).choice(np.array(values), (RESAMPLES, len(values))).mean(axis=1)
    return {"mean": _mean(values), "interval": [round(float(at), 4) for at in np.quantile(drawn, (0.025, 0.975))]}


def _about(seed: int) -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU",
        "versions": {"actionfusion": __version__, "python": platform.python_version(), "torch": torch.__version__},
        "seed": seed,
    }


if __name__ == "__main__":
    main()
