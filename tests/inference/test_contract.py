"""What this room does with every model of the table: runs, answers, exports, streams and timelines, in one house."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actionfusion.__main__ import main
from actionfusion.data.shapes_files import write_clip
from actionfusion.errors import RuntimeUnavailable
from actionfusion.inference.exports.export import export
from actionfusion.inference.intervals import usual_interval
from actionfusion.inference.recognizer import Recognizer
from actionfusion.inference.runtimes.quantization import quantise
from actionfusion.inference.runtimes.sub_models import clip_model
from actionfusion.inference.speed.benchmark import benchmark
from actionfusion.inference.timelines.untrimmed import WindowSettings, see_video
from actionfusion.models import VideoModel, model_class
from actionfusion.run_folder import RunFolder, create_run, open_run
from actionfusion.video import flow
from actionfusion.video.clip import Clip, ClipSettings, cut_clip
from actionfusion.video.flow import FlowRecipe
from actionfusion.video.reading import iterate_frames
from actionfusion.video.video_source import VideoSource
from representatives import ALL, REPRESENTATIVES

LABELS = list("abcde")
NUM_FRAMES = 40
# Beside the table: other streams, frame size apart from the flow's, and clips of one frame.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in REPRESENTATIVES} | {
    "fusion of rgb": ("fusion", {"streams": "rgb"}),
    "lrcn of flow": ("lrcn", {"streams": "flow", "flow_size": 24}),
    "fusion of one frame": ("fusion", {"frames": 1}),
    "lrcn of one frame": ("lrcn", {"frames": 1}),
}
NOT_EXPORTED = [name for name in REPRESENTATIVES if not model_class(name).exportable]
EXPORTABLE = [name for name in REPRESENTATIVES if model_class(name).exportable]
# Streams of a runtime, eight bits and free batches take seconds each; of fusion other files of this room test them.
FEW = EXPORTABLE if ALL else [name for name in ("lrcn", "c3d") if name in EXPORTABLE]

Make = Callable[[str], RunFolder]
Exported = Callable[[str], Path]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("video") / "noise.mp4"
    planes = np.random.default_rng(0).integers(40, 220, (NUM_FRAMES, 3, 48, 64), dtype=np.uint8)
    write_clip(planes, path)
    return path


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, randomise: Callable[..., VideoModel]) -> Make:
    """Runs of tiny models with random weights, each made once."""
    made: dict[str, RunFolder] = {}

    def run(kind: str) -> RunFolder:
        if kind not in made:
            name, changes = KINDS[kind]
            model = model_class(name)
            small: dict[str, Any] = {"image_size": 32, "flow_channels": 4}
            if not model.fixed_frames:
                small["frames"] = 3
            settings = model.Settings.tiny(len(LABELS), **small | changes)
            clip = ClipSettings(
                settings.frames,
                2,
                FlowRecipe("dis", size=settings.size_of("flow")),
                model.streams(settings),
                settings.image_size,
                "dense" if model.fixed_frames else "spread",
                2 if model.fixed_frames else 1,
            )
            path = tmp_path_factory.mktemp("runs") / "run"
            made[kind] = create_run(path, model=name, clip=clip, network=settings, labels=LABELS, further={})
            with torch.no_grad():
                made[kind].save_weights(randomise(model(settings)))
        return made[kind]

    return run


@pytest.fixture(scope="module")
def exported(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Exports of these runs, each made once."""
    made: dict[str, Path] = {}

    def out(kind: str) -> Path:
        if kind not in made:
            made[kind] = export(make(kind).path, out=tmp_path_factory.mktemp("export") / "onnx")
        return made[kind]

    return out


@pytest.fixture
def flow_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the flow engines that were asked for, one for each flow frame."""
    calls: list[str] = []
    real = flow.flow_engine

    def counted(name: Any) -> Any:
        calls.append(name)
        return real(name)

    monkeypatch.setattr(flow, "flow_engine", counted)
    return calls


def offline(model: VideoModel, clip: Clip) -> np.ndarray:
    """The model's own answer to a clip."""
    given = {name: torch.from_numpy(array)[None] for name, array in clip.inputs(model.reads).items()}
    with torch.inference_mode():
        return np.asarray(model.scores(model(**given))[0])


def at(video: Path, clip: ClipSettings, positions: list[int]) -> Clip:
    """The clip of chosen frames."""
    source = VideoSource(video, clip.flow, frame_size=clip.frame_size)
    return cut_clip(source, replace(clip, frames=len(positions)), lambda _: np.array(positions))


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_folder_answers_as_its_model(kind: str, make: Make, video: Path) -> None:
    run = make(kind)
    again = open_run(run.path)
    assert (again.model, again.network, again.clip, again.labels) == (run.model, run.network, run.clip, run.labels)
    recognizer = Recognizer.load(run.path, runtime="torch", device="cpu")
    expected = offline(run.load_network(), recognizer.clip(video))
    found = {item.label: item.probability for item in recognizer.predict(video, top_k=9)}
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose([found[label] for label in LABELS], expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_each_answer_to_a_stream_is_the_offline_one_of_its_last_samples(kind: str, make: Make, video: Path) -> None:
    run = make(kind)
    clip, model = run.clip, run.load_network()
    recognizer = Recognizer.load(run, runtime="torch", device="cpu", first="step")
    exact = recognizer.stepper.method == "exact state"
    assert exact == (model.stream_shape(run.network) is not None)
    every = 2
    state, answers, frames = recognizer.start(every), [], list(iterate_frames(video, size=clip.decoded_size))
    for frame in frames:
        answer, state = recognizer.step(frame, state)
        answers += [answer] if answer else []
    answers += recognizer.stepper.finish(state)
    positions = list(range(every - 1, NUM_FRAMES, every))
    assert [answer.time for answer in answers] == [frames[position].time for position in positions]
    for number, answer in enumerate(answers[: clip.frames + 2], 1):
        window = positions[max(0, number - clip.frames) : number]
        assert (answer.samples, answer.start) == (len(window), frames[window[0]].time)
        if not exact:
            window += window[-1:] * (clip.frames - len(window))
        np.testing.assert_allclose(answer.probabilities, offline(model, at(video, clip, window)), atol=1e-5)
    assert np.ptp([answer.probabilities for answer in answers], axis=0).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_each_window_of_a_timeline_is_the_offline_clip(kind: str, make: Make, video: Path) -> None:
    run = make(kind)
    model = run.load_network()
    recognizer = Recognizer.load(run, runtime="torch", device="cpu", first="step")
    stride = min(run.clip.frames, 3)
    seen = see_video(video, recognizer.stepper, run.clip, WindowSettings(2, stride))
    last = len(seen.times) - run.clip.frames
    assert [window.first for window in seen.windows] == sorted({*range(0, last + 1, stride), last})
    for window in seen.windows[-2:]:
        positions = [1 + 2 * number for number in range(window.first, window.last + 1)]
        np.testing.assert_allclose(window.probabilities, offline(model, at(video, run.clip, positions)), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_commands_say_how_windows_are_answered(
    kind: str, make: Make, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make(kind)
    method = "window again" if run.model_class.stream_shape(run.network) is None else "exact state"
    every = usual_interval(run)
    assert every == (run.clip.stride if run.clip.sampling == "dense" else 6)
    words = ["--runtime=torch", "--device=cpu"]
    assert main(["stream", str(run.path), str(video), "--json", *words]) == 0
    output = capsys.readouterr()
    lines = [json.loads(line) for line in output.out.splitlines()]
    assert len(lines) == NUM_FRAMES // every
    assert {line["method"] for line in lines} == {method}
    assert method in output.err
    # Only flow needs frames that come after the sample.
    assert (lines[0]["delay"] > 0) == run.clip.reads_flow
    assert main(["predict", str(run.path), str(video), "--segments", "--every=2", "--json", *words]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)[0]["method"] == method
    assert method in output.err


@pytest.mark.parametrize("kind", KINDS)
def test_flow_is_computed_for_those_alone_that_read_it(
    kind: str, make: Make, video: Path, flow_calls: list[str]
) -> None:
    run = make(kind)
    words = ["--runtime=torch", "--device=cpu"]
    for command in (
        ["predict", str(run.path), str(video), *words],
        ["predict", str(run.path), str(video), "--segments", "--every=2", *words],
        ["stream", str(run.path), str(video), "--every=2", *words],
    ):
        flow_calls.clear()
        assert main(command) == 0
        assert bool(flow_calls) == run.clip.reads_flow, command


@pytest.mark.parametrize("name", FEW)
def test_a_prepared_runtime_answers_a_stream(name: str, make: Make, video: Path) -> None:
    run = make(name)
    exact = run.model_class.stream_shape(run.network) is not None
    states = []
    for runtime in ("torch", "onnx"):
        recognizer = Recognizer.load(run, runtime=runtime, device="cpu", first="step")  # type: ignore[arg-type]
        states.append(see_video(video, recognizer.stepper, run.clip, WindowSettings(2)).windows)
    for one, other in zip(*states, strict=True):
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)
    assert len(states[0]) == 21 - run.clip.frames
    kept = {path.name for path in (run.path / "prepared").iterdir() if path.is_dir()}
    assert kept == {f"{'step' if exact else 'clip'}-onnx-fp32"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FEW)
def test_an_export_with_a_dynamic_batch(kind: str, make: Make, video: Path, tmp_path: Path) -> None:
    run = make(kind)
    model, frames = run.load_network(), run.clip.frames
    export(run.path, out=tmp_path / "out", dynamic_batch=True)
    clips = [at(video, run.clip, [start + row for row in range(frames)]) for start in range(3)]
    expected = [offline(model, clip) for clip in clips]
    for runtime in ("onnx", "openvino"):
        recognizer = Recognizer.load(tmp_path / "out", runtime=runtime)  # type: ignore[arg-type]
        np.testing.assert_allclose(recognizer.probabilities(clips), expected, atol=1e-5)
        np.testing.assert_allclose(recognizer.probabilities(clips[:1]), expected[:1], atol=1e-5)


@pytest.mark.parametrize("name", EXPORTABLE)
def test_an_export_is_enough_by_itself(
    name: str, make: Make, exported: Exported, video: Path, flow_calls: list[str]
) -> None:
    run = make(name)
    model = run.load_network()
    out = exported(name)
    assert bool(flow_calls) == run.clip.reads_flow
    about = json.loads((out / "model.json").read_text())
    assert (about["export_format"], about["model_name"]) == (2, name)
    assert [item["name"] for item in about["inputs"]] == list(model.reads)
    assert about["frames"]["size"] == [32, 32]
    assert ("flow_recipe" in about) == ("flow_window" in about["sampling"]) == run.clip.reads_flow
    for runtime in ("onnx", "openvino"):
        recognizer = Recognizer.load(out, runtime=runtime)  # type: ignore[arg-type]
        assert recognizer.clip_settings == run.clip
        clip = recognizer.clip(video)
        np.testing.assert_allclose(recognizer.probabilities([clip])[0], offline(model, clip), atol=1e-5)
    # An export knows whole clips, so a stream of it runs them again.
    state = recognizer.start(2)
    for frame in iterate_frames(video, size=run.clip.decoded_size):
        answer, state = recognizer.step(frame, state)
        if answer and answer.samples == run.clip.frames:
            break
    expected = at(video, run.clip, list(range(1, 2 * run.clip.frames, 2)))
    assert answer is not None
    np.testing.assert_allclose(answer.probabilities, offline(model, expected), atol=1e-5)


@pytest.mark.parametrize("name", [name for name in REPRESENTATIVES if name not in EXPORTABLE])
def test_what_only_pytorch_runs_is_refused_elsewhere(name: str, make: Make, tmp_path: Path) -> None:
    run = make(name)
    assert Recognizer.load(run).runtime.name == "torch"
    for attempt in (
        lambda: Recognizer.load(run, runtime="onnx"),
        lambda: Recognizer.load(run, runtime="openvino"),
        lambda: export(run.path, out=tmp_path / "out"),
    ):
        with pytest.raises(RuntimeUnavailable, match="which cannot be exported"):
            attempt()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [1, 20, 31, 40])
def test_the_formula_of_dense_sampling_is_what_the_code_does(count: int, make: Make) -> None:
    from math import floor

    from actionfusion.inference.exports.description import describe

    run = make("c3d")
    sub_model = clip_model(run.load_network, run.model_class, run.network, run.clip)
    sampling = describe(run, sub_model, "onnx", "fp32", "")["sampling"]
    rule = sampling["formula"].split(" = ")[1].split(" for ")[0]
    names = {"min": min, "max": max, "floor": floor, "N": count, "T": sampling["frames"], "S": sampling["stride"]}
    positions = [eval(rule, names | {"k": k}) for k in range(1, names["T"] + 1)]
    assert positions == run.clip.positions(count).tolist()


@pytest.mark.parametrize("name", FEW)
def test_eight_bits_hold_the_layers_that_the_model_names(name: str, make: Make, exported: Exported) -> None:
    import onnx

    run = make(name)
    sub_model = clip_model(run.load_network, run.model_class, run.network, run.clip)
    path = exported(name) / "model.onnx"
    small = quantise(path, sub_model, [sub_model.example(seed) for seed in range(3)], "onnx")
    plain = onnx.load(path)
    dequantised = {output for node in small.graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    held = [node.op_type for node in small.graph.node if len(node.input) > 1 and node.input[1] in dequantised]
    convolutions = sum(node.op_type == "Conv" for node in plain.graph.node)
    assert held.count("Conv") == convolutions > 0
    assert len(held) - convolutions == len(run.model_class.quantized_layers)


@pytest.mark.parametrize("kind", ["probe", "fusion of rgb", "lrcn of flow", *NOT_EXPORTED[: None if ALL else 1]])
def test_the_benchmark_measures_it(kind: str, make: Make, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actionfusion.inference.speed.benchmark.machine_peaks", lambda _: {"fp32": 1e11, "bf16": 1e11})
    run = make(kind)
    found = benchmark(run.path, video, runtime="torch", repetitions=2, most_seconds=0.01).as_json()
    assert [row["precision"] for row in found["rows"]] == ["fp32", "bf16"]
    assert ("flow" in found["cutting_seconds"]) == run.clip.reads_flow
    assert (found["tflop_a_clip"] is None) == (not run.model_class.exportable)
    if not run.model_class.exportable:
        left = benchmark(run.path, video, runtime="onnx", repetitions=2, most_seconds=0.01).left_out
        assert all("cannot be exported" in reason for _, reason in left)
