"""What every model of the table promises; a new model is tested by its line there, with its own ``Settings.tiny``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionfusion.errors import SettingsError, WeightsError
from actionfusion.models import MODELS, ModelSettings, VideoModel, model_class
from actionfusion.models.layer_norm_lstm import LayerNormLSTM
from actionfusion.models.solving import DescribedClips
from actionfusion.models.streaming import StreamShape
from actionfusion.run_folder import misfitting_tensors
from actionfusion.streams import STREAMS, StreamName

CLASSES = 5
FRAMES = 3  # where a model takes any number

pytestmark = pytest.mark.parametrize("name", MODELS)


def make(name: str, **changes: Any) -> VideoModel:
    kind = model_class(name)
    return kind(kind.Settings.tiny(CLASSES, **changes))


def frames_of(model: VideoModel) -> int:
    return model.settings.frames if model.fixed_frames else FRAMES


def clips_of(model: VideoModel, clips: int = 2, frames: int | None = None) -> dict[StreamName, Tensor]:
    """Random uint8 clips of the streams that a model reads."""
    steps, settings = frames or frames_of(model), model.settings

    def clip(stream: StreamName) -> Tensor:
        shape = (clips, steps, settings.channels_of(stream), settings.size_of(stream), settings.size_of(stream))
        return torch.randint(0, 256, shape, dtype=torch.uint8)

    return {stream: clip(stream) for stream in model.reads}


def every_loss(model: VideoModel, clips: dict[StreamName, Tensor], targets: Tensor) -> Tensor:
    """What all stages of a training learn by, together."""
    loss = model.loss(model(**clips), targets)
    return loss + model(**clips, unlabelled=True) if model.unlabelled_epochs(model.settings) else loss


def test_logits_have_a_place_for_each_class(name: str) -> None:
    model = make(name).eval()
    for frames in {frames_of(model), frames_of(model) if model.fixed_frames else 1}:
        logits = model(**clips_of(model, frames=frames))

        assert (logits.shape[0], logits.shape[-1]) == (2, CLASSES)
        assert logits.ndim in {2, 3}
        assert logits.isfinite().all()


def test_other_lengths_are_refused_where_the_length_is_fixed(name: str) -> None:
    model = make(name).eval()
    clips = clips_of(model, frames=frames_of(model) + 1)
    if model.fixed_frames:
        with pytest.raises(SettingsError, match=f"wanted {frames_of(model)}"):
            model(**clips)
    else:
        model(**clips)


def test_folded_it_answers_the_same_and_shares_the_rest(name: str) -> None:
    model = make(name).train()
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean, -1, 1)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    model.eval()
    clips, names = clips_of(model), list(model.state_dict())
    folded = model.folded()
    with torch.inference_mode():
        torch.testing.assert_close(folded.scores(folded(**clips)), model.scores(model(**clips)), atol=1e-5, rtol=1e-4)
    assert list(model.state_dict()) == names
    own = {id(parameter) for parameter in model.parameters()}
    rest = [key for key, parameter in folded.named_parameters() if id(parameter) not in own]
    assert all(key.startswith("backbones.") for key in rest)


def test_the_default_settings_build(name: str) -> None:
    kind = model_class(name)
    with torch.device("meta"):
        model = kind(kind.Settings(num_classes=CLASSES)).eval()
        clips = {stream: values.to("meta") for stream, values in clips_of(model, 1).items()}
        assert model(**clips).shape[-1] == CLASSES


def test_uint8_and_float_agree(name: str) -> None:
    model = make(name).eval()
    clips = clips_of(model)

    assert torch.equal(model(**clips), model(**{stream: clip.float() for stream, clip in clips.items()}))


def test_clips_of_a_batch_do_not_see_each_other(name: str) -> None:
    model = make(name).eval()
    clips = clips_of(model, 3)
    alone = model(**{stream: clip[1:2] for stream, clip in clips.items()})

    torch.testing.assert_close(model(**clips)[1:2], alone, rtol=1e-4, atol=1e-5)


def test_evaluation_is_deterministic(name: str) -> None:
    model = make(name).eval()
    clips = clips_of(model)

    assert torch.equal(model(**clips), model(**clips))


def test_features_and_classify_make_up_forward(name: str) -> None:
    model = make(name).eval()
    clips = clips_of(model)
    features = model.features(clips)

    assert features.keys() == set(model.reads)
    assert torch.equal(model.classify(features), model(**clips))
    assert torch.equal(model(features=features), model(**clips))
    halves = {stream: values.half() for stream, values in features.items()}
    assert model(features=halves).dtype == torch.float32


def test_features_of_a_clip_are_those_of_its_frames(name: str) -> None:
    model = make(name).eval()
    model.fixed_frames = False  # type: ignore[misc]  # one frame alone
    clips = clips_of(model, frames=4)
    features = model.features(clips)
    for step in range(4):
        alone = model.features({stream: clip[:, step : step + 1] for stream, clip in clips.items()})
        for stream, values in alone.items():
            torch.testing.assert_close(features[stream][:, step : step + 1], values, rtol=1e-4, atol=1e-5)


class _Guarded(Mapping[StreamName, Tensor]):
    """Clips of both streams; to touch one that the model does not read fails."""

    def __init__(self, clips: dict[StreamName, Tensor]) -> None:
        self.clips = clips

    def __getitem__(self, stream: StreamName) -> Tensor:
        return self.clips[stream]

    def __iter__(self) -> Iterator[StreamName]:
        return iter(STREAMS)

    def __len__(self) -> int:
        return len(STREAMS)

    def __contains__(self, stream: object) -> bool:
        return stream in STREAMS


def test_a_stream_that_is_not_read_is_never_touched(name: str) -> None:
    model = make(name).eval()
    clips = clips_of(model)
    others = {stream: torch.zeros(0) for stream in STREAMS if stream not in model.reads}

    assert torch.equal(model.classify(model.features(_Guarded(clips))), model(**clips))
    assert torch.equal(model(**clips, **others), model(**clips))
    assert torch.equal(model(**{**dict.fromkeys(STREAMS), **clips}), model(**clips))
    assert set(model.normalizers) == set(model.reads) >= set(model.backbones)
    assert model.reads == tuple(stream for stream in STREAMS if stream in model.reads)


def test_a_missing_stream_is_named(name: str) -> None:
    model = make(name).eval()
    for stream in model.reads:
        rest = {other: clip for other, clip in clips_of(model).items() if other != stream}
        with pytest.raises(SettingsError, match=f"{stream}: this stream is missing"):
            model(**rest)


def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = make(name).train()
    if not model.exportable:
        return  # PyTorch does not compute what comes before the layers that are solved
    every_loss(model, clips_of(model, 4), torch.arange(4)).backward()  # type: ignore[no-untyped-call]

    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    # Batch norm takes the bias before it away again.
    assert [n for n, p in model.named_parameters() if p.ndim > 1 and p.grad is not None and not p.grad.any()] == []


def test_scores_are_probabilities(name: str) -> None:
    model = make(name).eval()
    logits = model(**clips_of(model))
    scores = model.scores(logits)

    assert scores.shape == (2, CLASSES)
    torch.testing.assert_close(scores.sum(1), torch.ones(2))
    torch.testing.assert_close(model.log_scores(logits).exp(), scores)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_not_knowing_is_ln_k_a_clip(smoothing: float, name: str) -> None:
    model = make(name).eval()
    logits = torch.zeros_like(model(**clips_of(model, 3)))

    loss = model.loss(logits, torch.tensor([0, 2, 4]), smoothing)
    assert loss.item() == pytest.approx(3 * math.log(CLASSES))


def _distinct_clips(model: VideoModel) -> dict[StreamName, Tensor]:
    """Two clips of smooth patterns that no one would take for each other, the one moving right, the other down."""
    clips = clips_of(model)
    for clip in clips.values():
        frames, size = clip.shape[1], clip.shape[-1]
        room = size + 2 * frames
        patterns = F.interpolate(torch.rand(2, clip.shape[2], room // 6, room // 6), size=room, mode="bilinear")
        for step in range(frames):
            at = room - size - 2 * step
            clip[0, step] = (255 * patterns[0, :, :size, at : at + size]).to(torch.uint8)
            clip[1, step] = (255 * patterns[1, :, at : at + size, :size]).to(torch.uint8)
    return clips


def test_two_clips_are_learned_by_heart(name: str) -> None:
    model = make(name)
    clips, targets = _distinct_clips(model), torch.tensor([3, 1])
    if model.solved:
        with torch.no_grad():
            values = model.describe(model.eval().features(clips))
            report = model.solve(DescribedClips(values, targets, ("one", "other"), (None, None)))
            torch.testing.assert_close(model.answer_described(values), model(**clips))
            assert model(**clips).argmax(1).tolist() == [3, 1]
        assert report.count == 0
        return
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    right = torch.zeros(2)
    for step in range(60):
        model.train()
        optimizer.zero_grad()
        model.loss(model(**clips), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % 10 == 9:
            with torch.no_grad():
                right = model.eval().scores(model(**clips))[[0, 1], targets]
            if right.min() > 0.5:
                break

    assert right.min() > 0.5


def test_what_is_solved_comes_back(name: str) -> None:
    """Whatever rows it has for each training clip; without them, or with others, it does not fit."""
    first, second = make(name).eval(), make(name).eval()
    if not first.solved:
        assert first.rows == ()
        return
    clips = clips_of(first, 7)
    with torch.no_grad():
        values = first.describe(first.features(clips))
        first.solve(DescribedClips(values, torch.arange(7) % 2, tuple("abcdefg"), tuple("aabbccd")))
    saved = first.state_dict()
    second.make_rows(saved)
    assert misfitting_tensors(saved, second.state_dict()) == ""
    second.load_state_dict(saved)
    assert torch.equal(first(**clips), second(**clips))
    for row in first.rows:
        assert len(saved[row]) == 7
        for other in (saved[row][None], saved[row][:-1], saved[row][:0], torch.tensor(1.0)):
            third, wrong = make(name), {**saved, row: other}
            third.make_rows(wrong)
            assert misfitting_tensors(wrong, third.state_dict())


def _window(given: tuple[Tensor, ...], shape: StreamShape, first: int, last: int) -> dict[str, Tensor]:
    """Readings of a window of the samples from ``first`` to ``last``, ``[1, n, F]`` by branch."""

    def of(readings: Tensor) -> Tensor:
        if not shape.looks_ahead:
            return readings[first : last + 1, 0]
        before = [readings[first + 1, 1]] if last > first else []
        within = [readings[place + 1, 0] for place in range(first + 1, last)]
        return torch.stack([*before, *within, readings[last, 2]])

    return {name: of(readings).unsqueeze(0) for name, readings in zip(shape.branches, given, strict=True)}


@torch.no_grad()
def test_windows_of_a_stream_are_answered_exactly(name: str) -> None:
    model = make(name).eval()
    shape = model.stream_shape(model.settings)
    if shape is None:
        with pytest.raises(NotImplementedError):
            model.sample_reader()
        return
    samples = {stream: clip[0] for stream, clip in clips_of(model, 1, frames=6).items()}
    reader, opened = model.sample_reader(), torch.zeros(shape.opened)
    parts: list[tuple[Tensor, ...]] = []
    for start, stop in ((0, 1), (1, 4), (4, 6)):
        opened, *readings = reader({stream: clip[start:stop] for stream, clip in samples.items()}, opened)
        parts.append(tuple(readings))
    given = tuple(torch.cat(each) for each in zip(*parts, strict=True))
    windows = [(0, 0), (0, 3), (1, 2), (2, 5)]
    expected = [
        model.scores(model(**{stream: clip[None, first : last + 1] for stream, clip in samples.items()}))
        for first, last in windows
    ]
    model.keep_only_memory()

    for (first, last), scores in zip(windows, expected, strict=True):
        torch.testing.assert_close(model.answer_window(_window(given, shape, first, last)), scores)


def test_backbones_freeze_by_stages(name: str) -> None:
    model = make(name)
    if not model.backbones:
        with pytest.raises(SettingsError, match="no backbone"):
            model.freeze_backbones("all")
        with pytest.raises(WeightsError, match="no backbone"):
            model.load_pretrained("imagenet")
        return

    def frozen() -> set[str]:
        return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}

    model.freeze_backbones("all")
    assert frozen() == {name for name, _ in model.named_parameters() if name.startswith("backbones.")}
    for backbone in model.all_backbones().values():
        backbone.freeze(backbone.stages[0])
    some = frozen()
    assert some
    if not model.exportable:
        return  # no gradient reaches it
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items() if name.startswith("backbones")}
    every_loss(model, clips_of(model), torch.tensor([0, 1])).backward()  # type: ignore[no-untyped-call]
    assert {n for n, p in model.named_parameters() if p.grad is None} == some
    layers = {name.rpartition(".")[0] for name in some}
    kept = {name for name in before if name.rpartition(".")[0] in layers}
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in kept)
    model.freeze_backbones(None)
    assert frozen() == set()


def test_pretrained_parameters_are_the_models_own(name: str) -> None:
    model = make(name)

    assert model.pretrained_parameters() <= set(model.state_dict())


def test_a_saved_model_comes_back(name: str) -> None:
    first, second = make(name).eval(), make(name).eval()
    clips = clips_of(first)
    assert not torch.equal(first(**clips), second(**clips))

    second.load_state_dict(first.state_dict())

    assert torch.equal(first(**clips), second(**clips))
    assert all(value.is_contiguous() for value in first.state_dict().values())  # as safetensors wants it


def test_half_precision_gives_nearly_the_same(name: str) -> None:
    model = make(name).eval()
    clips = clips_of(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model.scores(model(**clips))

    torch.testing.assert_close(half, model.scores(model(**clips)), rtol=0.2, atol=0.1)


def test_the_explained_layer_gives_maps(name: str) -> None:
    model = make(name).eval()
    if model.explained_layer is None:
        return
    seen: list[Tensor] = []
    model.get_submodule(model.explained_layer).register_forward_hook(lambda _, __, output: seen.append(output))
    model(**clips_of(model))
    maps = model.explained_maps(seen[0])

    assert maps.ndim == 5
    assert maps.shape[0] == 2
    assert maps.shape[1] <= frames_of(model)
    assert maps.shape[3] == maps.shape[4]
    assert maps.untyped_storage().data_ptr() == seen[0].untyped_storage().data_ptr()


def test_what_a_model_names_is_there(name: str) -> None:
    model = make(name)

    assert all(isinstance(model.get_submodule(layer), nn.Linear) for layer in model.quantized_layers)
    assert all(isinstance(memory, LayerNormLSTM) for memory in model.memories.values())
    assert model.source.citation
    assert model.source.kept
    assert all("%" in figures and "(" in figures for figures in model.source.published.values())


def test_every_setting_is_described_and_has_a_default(name: str) -> None:
    settings = model_class(name).Settings
    assert issubclass(settings, ModelSettings)
    described = {  # a subclass describes what it adds
        line.split(":")[0].strip()
        for kind in settings.__mro__
        for line in (kind.__doc__ or "").splitlines()
        if ":" in line
    }

    assert {field.name for field in dataclasses.fields(settings)} <= described
    assert settings(**dataclasses.asdict(settings.tiny(CLASSES))) == settings.tiny(CLASSES)
    assert settings.tiny(CLASSES, flow_channels=4).flow_channels == 4


def test_settings_out_of_range_are_refused_by_name(name: str) -> None:
    settings = model_class(name).Settings
    wrong: dict[str, Any] = {least: settings.LEAST[least] - 1 for least in settings.LEAST}
    wrong |= dict.fromkeys(settings.SHARES, 1.0) | {"flow_size": 0}

    for setting, value in wrong.items():
        with pytest.raises(SettingsError) as error:
            settings.tiny(**{"num_classes": CLASSES, setting: value})
        assert error.value.subject == f"network.{setting}"
