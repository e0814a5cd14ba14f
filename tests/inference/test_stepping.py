"""A stream says what the network says of a clip of the same samples, step by step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actionfusion.inference.recognizer import Recognizer
from actionfusion.inference.stepping import ExactStepper, StreamState
from actionfusion.models import FusionNetwork
from actionfusion.models.fusion import FusionName
from actionfusion.models.layer_norm_lstm import NormName
from actionfusion.run_folder import create_run
from actionfusion.video.clip import ClipSettings, cut_clip
from actionfusion.video.flow import FlowRecipe
from actionfusion.video.reading import Frame
from actionfusion.video.samples import FrameCollector, Sample
from actionfusion.video.sampling import evenly_spaced

SIZE = 16
LAYOUT = (6, "M", 8, "M", 8)


def _network(**changes: Any) -> FusionNetwork:
    """A random network whose answers are far apart, batch norm included."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "image_size": SIZE,
        "backbone": LAYOUT,
        "fc6_width": 12,
        "hidden": 10,
        "flow_channels": 4,
    }
    network = FusionNetwork.tiny(5, **settings | changes)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in network.named_buffers():
            if name.endswith("running_mean"):
                value.copy_(torch.randn(value.shape, generator=generator))
            elif name.endswith("running_var"):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        for parameter in network.parameters():
            parameter.mul_(1.5).add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def _stepper(network: FusionNetwork, clip: ClipSettings) -> ExactStepper:
    return Recognizer(network, clip, list("abcde")).stepper


def _samples(count: int, seed: int = 0) -> list[Sample]:
    generator = np.random.default_rng(seed)
    return [
        Sample(
            place,
            place / 10,
            generator.integers(0, 256, (3, SIZE, SIZE), dtype=np.uint8),
            generator.integers(1, 256, (4, SIZE, SIZE), dtype=np.uint8),
        )
        for place in range(count)
    ]


def _offline(network: FusionNetwork, samples: list[Sample]) -> np.ndarray:
    rgb = torch.from_numpy(np.stack([sample.rgb for sample in samples]))[None]
    flow = torch.from_numpy(np.stack([sample.flow for sample in samples]))[None]
    with torch.inference_mode():
        return network(rgb, flow).softmax(1)[0].numpy()


CHANGES: list[dict[str, Any]] = [
    *({"fusion": name} for name in get_args(FusionName)),
    {"fusion_time_kernel": 1},
    {"fusion_space_kernel": 1},
    {"fusion_relu": False, "batch_norm": False},
    *({"norm": name} for name in get_args(NormName)),
    {"temporal_head": "mean"},
    {"branches": "conv"},
    {"branches": "fc"},
    {"conv_reduce": "flatten", "norm_inputs": True, "merge_dim": 7},
    {"fusion": "concat", "branches": "conv", "temporal_head": "mean", "head": "linear", "norm_streams": True},
    {"streams": "rgb"},
    {"streams": "flow"},
    {"head": "literal"},
    {"head": "scaled"},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_each_answer_is_the_offline_one_of_the_window(changes: dict[str, Any]) -> None:
    network = _network(**changes)
    samples = _samples(7)
    stepper = _stepper(network, ClipSettings(4, 2, FlowRecipe("dis", size=SIZE)))
    state = stepper.start()
    spread = []
    for place, sample in enumerate(samples):
        (answer,), state = stepper.answer([sample], state)
        window = samples[max(0, place - 3) : place + 1]
        expected = _offline(network, window)
        np.testing.assert_allclose(answer.probabilities, expected, atol=1e-5)
        assert (answer.samples, answer.start, answer.time) == (len(window), window[0].time, sample.time)
        spread.append(expected)
    # The answers differ from window to window by far more than they may differ from the offline ones.
    assert np.ptp(np.stack(spread), axis=0).max() > 1e-3


@pytest.mark.parametrize("changes", [{}, {"fusion": "sum", "norm": "ba"}], ids=str)
def test_other_runtimes_answer_the_same(
    tmp_path: Path, changes: dict[str, Any], gives: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, samples = _network(**changes), _samples(6)
    clip = ClipSettings(4, 2, FlowRecipe("dis", size=SIZE))
    for runtime, package in (("openvino", "openvino"), ("onnx", "onnxruntime")):
        pytest.importorskip(package)
        run = create_run(
            tmp_path / runtime, model="fusion", clip=clip, network=network.settings, labels=list("abcde"), further={}
        )
        run.save_weights(network)
        recognizer = Recognizer.load(run, runtime=runtime, first="step")  # type: ignore[arg-type]
        assert recognizer.runtime.name == runtime
        answers, _ = recognizer.stepper.answer(samples, recognizer.stepper.start())
        for place, answer in enumerate(answers):
            expected = _offline(network, samples[max(0, place - 3) : place + 1])
            np.testing.assert_allclose(answer.probabilities, expected, atol=1e-4)
        prepared = [path.name for path in (run.path / "prepared").iterdir() if path.is_dir()]
        assert prepared == [f"step-{runtime}-fp32"]
        exported = run.path / "prepared" / f"step-{runtime}-fp32" / "model.onnx"
        monkeypatch.setattr("actionfusion.inference.runtimes.prepared.export_onnx", gives(exported))


@given(st.integers(1, 5), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_samples_may_come_together(frames: int, chunks: list[int]) -> None:
    network, samples = _network(), _samples(sum(chunks))
    stepper = _stepper(network, ClipSettings(frames, 2, FlowRecipe("dis", size=SIZE)))
    state, answers = stepper.start(), []
    for end, count in zip(np.cumsum(chunks), chunks, strict=True):
        several, state = stepper.answer(samples[end - count : end], state)
        answers += several
    for place, answer in enumerate(answers):
        expected = _offline(network, samples[max(0, place + 1 - frames) : place + 1])
        np.testing.assert_allclose(answer.probabilities, expected, atol=1e-5)


def test_the_state_is_a_value_that_a_stream_can_go_back_to() -> None:
    network, samples = _network(), _samples(6)
    stepper = _stepper(network, ClipSettings(4, 2, FlowRecipe("dis", size=SIZE)))
    _, state = stepper.answer(samples[:3], stepper.start())
    (one, *_), _ = stepper.answer(samples[3:4], state)
    stepper.answer(samples[4:], state)
    (again, *_), _ = stepper.answer(samples[3:4], state)
    np.testing.assert_array_equal(one.probabilities, again.probabilities)


class _Source:
    """Pictures in memory, as ``cut_clip`` reads them."""

    def __init__(self, pictures: np.ndarray, recipe: FlowRecipe) -> None:
        self.pictures, self.recipe, self.num_frames, self.frame_size = pictures, recipe, len(pictures), SIZE

    def read(self, frames: list[int], fields: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        from actionfusion.video.flow import compute_flow

        codes = compute_flow(self.pictures, fields, self.recipe)
        return self.pictures[frames], codes, np.array(frames) / 25


@given(st.integers(1, 40), st.integers(1, 6), st.sampled_from([2, 4]))
def test_a_stream_of_frames_ends_with_the_answer_to_the_whole_video(num_frames: int, frames: int, length: int) -> None:
    recipe = FlowRecipe("dis", size=SIZE)
    settings = ClipSettings(frames, length, recipe)
    pictures = np.random.default_rng(num_frames).integers(0, 256, (num_frames, SIZE, SIZE, 3), dtype=np.uint8)
    network = _network(flow_channels=2 * length)
    every = max(num_frames // frames, 1)
    stepper = _stepper(network, settings)
    state = StreamState(FrameCollector(every, length), stepper.start())
    answers = []
    for index, picture in enumerate(pictures):
        answer, state = stepper.push(Frame(index, index / 25, picture), state)
        answers += [answer] if answer else []
    answers += stepper.finish(state)
    positions = evenly_spaced(num_frames, frames)
    if num_frames < frames:  # a clip repeats the last frame then, which a stream has no reason to
        assert len(answers) == num_frames
        return
    clip = cut_clip(_Source(pictures, recipe), settings)  # type: ignore[arg-type]
    with torch.inference_mode():
        expected = network(torch.from_numpy(clip.rgb[None]), torch.from_numpy(clip.flow[None])).softmax(1)[0].numpy()
    answer = answers[frames - 1]
    assert round(answer.time * 25) == positions[-1]
    np.testing.assert_allclose(answer.probabilities, expected, atol=1e-5)


@given(st.integers(1, 12), st.sampled_from([2, 4, 6]), st.integers(1, 60))
def test_frames_that_are_not_wanted_can_be_left_out(every: int, length: int, num_frames: int) -> None:
    def groups(*, all_frames: bool) -> list[tuple[int, tuple[int, ...], list[int]]]:
        collector, found = FrameCollector(every, length), []
        for index in range(num_frames):
            if all_frames or collector.wants(index) or index == num_frames - 1:
                collector, group = collector.push(Frame(index, index / 25, np.full((2, 2, 3), index, np.uint8)))
                found += [group] if group else []
            assert len(collector.frames) <= length + every + 2
        found += collector.finish()
        return [(each.position, each.fields, sorted(each.pictures)) for each in found]

    assert groups(all_frames=False) == groups(all_frames=True)
    assert [position for position, *_ in groups(all_frames=True)] == list(range(every - 1, num_frames, every))
