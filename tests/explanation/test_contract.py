"""Every model of the table is explained: what it has is finite and adds up, and what it lacks is left out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from actionfusion.errors import SettingsError
from actionfusion.explanation.contributions import running_probabilities
from actionfusion.explanation.explanation import explain_clip
from actionfusion.explanation.localization import grad_cam, occlusion
from actionfusion.explanation.target import AttributionTarget
from actionfusion.inference.recognizer import Recognizer
from actionfusion.models import model_class
from actionfusion.models.model import VideoModel
from actionfusion.models.model_settings import ModelSettings, Source
from actionfusion.video.clip import Clip, ClipSettings
from actionfusion.video.flow import FlowRecipe
from representatives import REPRESENTATIVES

LABELS = ("wave", "run", "jump")
SIZE, FLOW_SIZE = 32, 16


class Small(VideoModel):
    """Reads RGB as it is, takes clips of just six frames, answers at each of three steps, and has no backbone."""

    Settings = ModelSettings
    source = Source("nobody", "nothing")
    fixed_frames = True
    explained_layer = "conv"

    def __init__(self, settings):
        super().__init__(settings)
        self.conv = nn.Conv3d(3, 5, 3, stride=(2, 4, 4), padding=1)
        self.head = nn.Linear(5, settings.num_classes)

    def classify(self, features):
        maps = F.relu(self.conv(features["rgb"].transpose(1, 2)), inplace=True)
        return self.head(maps.mean((-2, -1)).transpose(1, 2))

    def explained_maps(self, output):
        return output.transpose(1, 2)


class Mapless(Small):
    """The same with any number of frames of both streams, of two sizes, and without maps."""

    fixed_frames = False
    explained_layer = None

    @classmethod
    def streams(cls, settings):
        return ("rgb", "flow")

    def classify(self, features):
        moving = features["flow"].abs().mean((-3, -2, -1), keepdim=True)
        return super().classify({"rgb": features["rgb"] + moving})


def make_model(kind):
    torch.manual_seed(3)
    if isinstance(kind, str):
        found = model_class(kind)
        fewer = {} if found.fixed_frames else {"frames": 6}
        if kind in {"cho", "dense_trajectories"}:
            fewer = {"frames": 4}  # the least; they take a tenth of a second for each part that is hidden
        return found(found.Settings.tiny(len(LABELS), **fewer)).eval()
    return kind(ModelSettings(len(LABELS), 6, SIZE, FLOW_SIZE)).eval()


def make_recognizer(model):
    settings = model.settings
    recipe = FlowRecipe("dis", 8.0, settings.size_of("flow"))
    clip = ClipSettings(settings.frames, settings.flow_channels // 2, recipe, model.reads, settings.image_size)
    return Recognizer(model, clip, LABELS)


def make_clip(settings: ClipSettings, frames: int) -> Clip:
    generator = np.random.default_rng(5)
    rgb = generator.integers(0, 256, (frames, 3, settings.frame_size, settings.frame_size), np.uint8)
    size = settings.flow.size
    moved = generator.integers(64, 193, (frames, settings.flow_channels, size, size), np.uint8)
    return Clip(rgb, moved if settings.reads_flow else None, np.arange(frames) / 8, np.arange(frames), settings.flow)


KINDS = [pytest.param(name, id=name) for name in REPRESENTATIVES] + [Small, Mapless]


@pytest.fixture(scope="module", params=KINDS)
def explained(request):
    """A model and its explanation of noise."""
    model = make_model(request.param)
    recognizer = make_recognizer(model)
    return model, explain_clip(recognizer, make_clip(recognizer.clip_settings, model.settings.frames))


def test_every_frame_has_finite_values(explained):
    model, found = explained
    frames = model.settings.frames
    maps = [found.occluded] + ([] if found.cam is None else [found.cam])
    assert {len(part) for part in (*maps, found.drops, found.running)} == {frames}
    for part in (*maps, found.drops, found.running):
        assert np.isfinite(part).all()
    assert (found.cam is None) == (model.explained_layer is None)
    assert np.ptp(found.occluded) > 0


def test_probabilities_end_as_the_model_predicts(explained):
    model, found = explained
    recognizer = make_recognizer(model)
    said = recognizer.probabilities([found.clip])[0]
    np.testing.assert_allclose(found.probabilities, said, atol=1e-5)
    np.testing.assert_allclose(found.running.sum(1), 1, atol=1e-5)
    p = float(said[found.target])
    assert found.target == said.argmax()
    assert found.log_odds == pytest.approx(np.log(p / (1 - p)), abs=1e-3)


def test_the_streams_add_up_to_the_log_odds(explained):
    model, found = explained
    parts = {"rgb": found.streams.appearance, "flow": found.streams.motion}
    assert {stream for stream, value in parts.items() if value is not None} == set(model.reads)
    total = found.streams.nothing + sum(value for value in parts.values() if value is not None)
    assert total == pytest.approx(found.log_odds, abs=1e-4)


def test_what_a_model_lacks_is_left_out_of_the_figures(explained):
    model, found = explained
    figures = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert ("grad_cam" in figures["maps"]) == ("rank_agreement" in figures["maps"]) == (found.cam is not None)
    assert set(figures.get("activations", {})) - {"frame"} == set(model.all_backbones())
    assert ("activations" in figures) == bool(model.all_backbones())
    assert set(figures["gates"]) == set(model.memories)
    assert set(figures.get("attention", {})) == set(found.attention)


def test_weights_are_of_the_frames_or_their_places_and_sum_to_one(explained):
    model, found = explained
    for weights in found.attention.values():
        assert weights.shape[0] == model.settings.frames
        assert weights.ndim in {1, 3}
        assert (weights >= 0).all()
        sums = weights.sum() if weights.ndim == 1 else weights.sum((1, 2))
        np.testing.assert_allclose(sums, 1, atol=1e-5)


def test_hiding_on_the_map_agrees_with_maps_changed_one_by_one(explained):
    """So the layers behind the explained one take the number of clips from what it gives, as hiding relies on."""
    model, found = explained
    if model.explained_layer is None:
        pytest.skip("it has no maps")
    target = AttributionTarget.of(make_recognizer(model), found.clip)
    steps, _, side, _ = target.map_shape
    cells = min(side, 2)
    drops = occlusion(target, hidden="map", cells=cells)
    before, width = target.log_odds, side / cells
    for step, row, column in [(0, 0, 0), (steps - 1, cells - 1, 0)]:
        down, across = (slice(max(int((at - 0.5) * width), 0), -int(-(at + 1.5) * width // 1)) for at in (row, column))

        def cover(_module, _given, output, step=step, down=down, across=across):
            changed = output.clone()
            model.explained_maps(changed)[:, step, :, down, across] = 0
            return changed

        hook = model.get_submodule(model.explained_layer).register_forward_hook(cover)
        after = target.log_odds_of(target.features).item()
        hook.remove()
        frame = 0 if step == 0 else len(drops) - 1  # where interpolation over time leaves a step's own value
        assert drops[frame, row, column] == pytest.approx(before - after, abs=1e-4)


def target_of(kind, frames=6):
    model = make_model(kind)
    recognizer = make_recognizer(model)
    return AttributionTarget.of(recognizer, make_clip(recognizer.clip_settings, frames))


def test_steps_of_a_map_are_stretched_over_the_frames():
    target = target_of(Small)
    model, kept = target.model, []
    assert target.map_shape == (3, 5, 8, 8)
    # The ReLU behind the layer works in place: on a copy, so that what is kept stays.
    hook = model.conv.register_forward_hook(lambda *call: kept.append(call[-1]) or kept[-1].clone())
    probability = model.scores(model(**target.clips))[0, target.index]
    hook.remove()
    (gradient,) = torch.autograd.grad(probability, kept[0])
    gradient = gradient / (probability * (1 - probability))
    steps = F.relu((gradient.mean((-2, -1), keepdim=True) * kept[0]).sum(1))[0].detach().numpy()
    cam = grad_cam(target)
    assert cam.max() > 0
    # Steps are centred between frames 0 and 1, 2 and 3, 4 and 5.
    np.testing.assert_allclose(cam[[0, 5]], steps[[0, 2]], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(cam[1], 0.75 * steps[0] + 0.25 * steps[1], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(cam[3], 0.75 * steps[1] + 0.25 * steps[2], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("kind", "together"), [(Small, 2), (Mapless, 1)])
def test_hiding_in_the_input_agrees_with_clips_covered_by_hand(kind, together):
    """For as many frames as a step of the map stands for, at the same place in pictures of any size."""
    target = target_of(kind)
    drops = occlusion(target, cells=4)
    covered = {stream: clip.clone() for stream, clip in target.clips.items()}
    for stream, clip in covered.items():
        eighth = clip.shape[-1] // 8
        rest = target.clips["rgb"].mean((0, 1, 3, 4))[:, None, None] if stream == "rgb" else 128
        clip[0, :together, :, 3 * eighth : 7 * eighth, : 3 * eighth] = rest
    with torch.no_grad():
        after = target.log_odds_of(target.model.features(covered)).item()
    assert drops[0, 2, 0] == pytest.approx(target.log_odds - after, abs=1e-4)


def test_a_model_of_six_frames_sees_the_last_one_again_in_place_of_those_to_come():
    target = target_of(Small)
    rows = running_probabilities(target)
    rgb = target.clips["rgb"]
    for seen in (1, 4):
        stopped = torch.cat((rgb[:, :seen], rgb[:, seen - 1 : seen].expand(-1, 6 - seen, -1, -1, -1)), 1)
        with torch.no_grad():
            expected = target.model.scores(target.model(stopped))[0]
        np.testing.assert_allclose(rows[seen - 1], expected, atol=1e-5)


def test_a_clip_of_one_frame_is_explained():
    model = make_model("fusion")
    recognizer = make_recognizer(model)
    for each in (recognizer, make_recognizer(make_model(Mapless))):
        found = explain_clip(each, make_clip(each.clip_settings, 1))
        for part in (found.occluded, found.drops, found.running):
            assert part.shape[0] == 1
            assert np.isfinite(part).all()


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"hidden": "map"}, "no feature maps that explain works on; hide parts of the input"),
        ({"layers": (1,)}, "no backbone whose stages could be shown"),
    ],
)
def test_what_a_model_lacks_is_refused_in_a_line(wish, message):
    recognizer = make_recognizer(make_model(Mapless))
    with pytest.raises(SettingsError, match=message) as caught:
        explain_clip(recognizer, make_clip(recognizer.clip_settings, 6), **wish)
    assert "\n" not in str(caught.value)
