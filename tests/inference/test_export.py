"""An export is enough by itself: read back, run elsewhere, and refused where it is not whole."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from actionfusion.__main__ import main
from actionfusion.errors import ExportError, RunFolderError, RuntimeUnavailable, SettingsError, WeightsError
from actionfusion.inference.exports import export as export_module
from actionfusion.inference.exports.export import export
from actionfusion.inference.exports.synthetic import SyntheticVideo
from actionfusion.inference.recognizer import Recognizer
from actionfusion.inference.runtimes import prepared, quantization
from actionfusion.video.clip import ClipSettings
from actionfusion.video.flow import FlowRecipe

EXAMPLE = Path(__file__).parents[2] / "examples" / "node"


@pytest.fixture(scope="module")
def exports(prepared_run, tmp_path_factory, shapes_root) -> dict[str, Path]:
    """The prepared run in both formats, checked by a video."""
    out = tmp_path_factory.mktemp("exports")
    video = next((shapes_root / "test" / "motion_up").glob("*.mp4"))
    return {name: export(prepared_run, format=name, out=out / name, video=video) for name in ("onnx", "openvino")}


@pytest.fixture
def copied(exports, tmp_path) -> Path:
    """An ONNX export to damage."""
    return Path(shutil.copytree(exports["onnx"], tmp_path / "export"))


def _about(folder):
    return json.loads((folder / "model.json").read_text())


def _check(folder):
    """The check clip and what is expected of it, by model.json alone."""
    about = _about(folder)
    expected = json.loads((folder / about["check"]).read_text())
    inputs = {
        item["name"]: np.fromfile(folder / "check" / expected[item["name"]], item["dtype"]).reshape(item["shape"])
        for item in about["inputs"]
    }
    return about, inputs, expected


def test_onnx_runtime_alone_gives_the_expected_answer(exports):
    import onnxruntime

    about, inputs, expected = _check(exports["onnx"])
    session = onnxruntime.InferenceSession(exports["onnx"] / about["model"], providers=["CPUExecutionProvider"])
    (probabilities,) = session.run([about["output"]["name"]], inputs)
    np.testing.assert_allclose(probabilities[0], expected["probabilities"], atol=1e-6)
    assert about["labels"][probabilities.argmax()] == expected["label"]


def test_openvino_alone_gives_the_expected_answer(exports):
    import openvino

    about, inputs, expected = _check(exports["openvino"])
    compiled = openvino.Core().compile_model(
        exports["openvino"] / about["model"], "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    probabilities = compiled(inputs)[about["output"]["name"]]
    np.testing.assert_allclose(probabilities[0], expected["probabilities"], atol=1e-6)


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_the_expected_answer_is_the_runs_in_pytorch(name, exports, prepared_run, shapes_root):
    recognizer = Recognizer.load(prepared_run, runtime="torch")
    video = next((shapes_root / "test" / "motion_up").glob("*.mp4"))
    _, inputs, expected = _check(exports[name])
    clip = recognizer.clip(video)
    np.testing.assert_array_equal(inputs["rgb"][0], clip.rgb)
    np.testing.assert_array_equal(inputs["flow"][0], clip.flow)
    wanted = recognizer.probabilities([clip])[0]
    np.testing.assert_allclose(expected["probabilities"], wanted, atol=1e-5)
    assert expected["label"] == recognizer.labels[wanted.argmax()]
    assert expected["source"] == video.name


@pytest.mark.parametrize(
    ("name", "runtime"), [("onnx", "auto"), ("onnx", "onnx"), ("onnx", "openvino"), ("openvino", "auto")]
)
def test_an_export_predicts_as_its_run_without_the_run(name, runtime, exports, prepared_run, shapes_root):
    video = next((shapes_root / "test" / "order_left_right").glob("*.mp4"))
    wanted = Recognizer.load(prepared_run, runtime="torch").predict(video)
    recognizer = Recognizer.load(exports[name], runtime=runtime)
    assert recognizer.runtime.name == (runtime if runtime != "auto" else "openvino")
    made = recognizer.predict(video)
    assert [item.label for item in made] == [item.label for item in wanted]
    np.testing.assert_allclose([x.probability for x in made], [x.probability for x in wanted], atol=1e-5)


def test_the_description_says_how_a_clip_is_cut(exports, prepared_run):
    about = _about(exports["onnx"])
    settings = Recognizer.load(prepared_run, runtime="torch").clip_settings
    assert about["flow_recipe"] == {"engine": "dis", "bound": 8.0, "size": 16}
    assert (about["sampling"]["frames"], about["sampling"]["flow_fields"]) == (settings.frames, settings.flow_frames)
    assert [(item["name"], item["shape"], item["range"]) for item in about["inputs"]] == [
        ("rgb", [1, 3, 3, 16, 16], [0, 255]),
        ("flow", [1, 3, 4, 16, 16], [1, 255]),
    ]
    assert about["inputs"][1]["channels"] == ["u of field 1", "v of field 1", "u of field 2", "v of field 2"]
    assert (
        about["weights_sha256"]
        == prepared.hashlib.sha256((prepared_run / "model.safetensors").read_bytes()).hexdigest()
    )


@pytest.mark.parametrize("count", [1, 2, 9, 40])
def test_the_formulas_of_the_description_are_what_the_code_does(exports, count):
    """Evaluated as a reader would."""
    from math import floor

    from actionfusion.video.flow import flow_window
    from actionfusion.video.sampling import evenly_spaced

    about = _about(exports["onnx"])
    rule = about["sampling"]["formula"].split(" = ")[1].split(" for ")[0]
    names = {"min": min, "max": max, "floor": floor, "N": count, "T": about["sampling"]["frames"]}
    positions = [eval(rule, names | {"k": k}) for k in range(1, names["T"] + 1)]
    assert positions == evenly_spaced(count, names["T"]).tolist()
    assert "t - 1 .. t + 0, each clamped to 0 .. N - 2" in about["sampling"]["flow_window"]
    for at in positions if count > 1 else []:
        assert flow_window(at, 2, count) == [min(max(start, 0), count - 2) for start in (at - 1, at)]
    recipe = FlowRecipe(**about["flow_recipe"])
    code, pixels = np.arange(1, 256), np.linspace(-10, 10, 301)
    decoded = eval(about["flow"]["decode"].split(" = ")[1], {"code": code, "bound": recipe.bound})
    np.testing.assert_allclose(decoded, recipe.decode(code.astype(np.uint8)), rtol=1e-6)
    encode = about["flow"]["encode"].split(" = ")[1].split(", halves")[0]
    coded = eval(encode, {"round": np.rint, "clip": np.clip, "pixels": pixels, "bound": recipe.bound})
    np.testing.assert_array_equal(coded, recipe.encode(pixels.astype(np.float32)))


def test_int8_says_what_it_cost(prepared_run, gives, tmp_path, small_root, monkeypatch):
    import onnx

    run = shutil.copytree(prepared_run, tmp_path / "run")
    monkeypatch.setattr(prepared, "export_onnx", gives(prepared_run / "prepared/clip-onnx-fp32/model.onnx"))
    monkeypatch.setattr(prepared, "quantise", lambda path, *_: onnx.load(path))
    out = export(run, format="onnx", precision="int8", root=small_root, out=tmp_path / "out")
    about = _about(out)
    assert about["precision"] == "int8"
    assert (about["int8"]["clips"], about["int8"]["agreeing"]) == (12, 12)
    recognizer = Recognizer.load(out, runtime="onnx")
    assert recognizer.runtime.precision == "int8"
    with pytest.raises(SettingsError, match="is int8, not fp32"):
        Recognizer.load(out, precision="fp32")
    kept = Recognizer.load(run, runtime="onnx", precision="int8")  # without root: it is kept beside the run
    assert kept.runtime.precision == "int8"
    monkeypatch.setattr(quantization, "GATE_CLIPS", 0)
    export(run, format="onnx", precision="int8", out=tmp_path / "again")


def _edit(folder, **changes):
    (folder / "model.json").write_text(json.dumps(_about(folder) | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: _edit(folder, export_format=3),
            r"is of export format 3, .*this reads 1 to 2; export the run again",
        ),
        (lambda folder: (folder / "model.json").write_text("{"), r"model\.json: is damaged"),
        (lambda folder: (folder / "model.json").write_text("[]"), r"model\.json: is damaged"),
        (lambda folder: _edit(folder, files={}), "does not say what the model is"),
        (lambda folder: _edit(folder, clip={}), "misses something"),
        (lambda folder: (folder / "model.onnx").unlink(), r"model\.onnx: is missing; copy the whole folder"),
        (lambda folder: (folder / "model.onnx").write_bytes(b"x"), r"model\.onnx: has 1 bytes, not \d+"),
        (
            lambda folder: (folder / "model.onnx").write_bytes(b"x" * (folder / "model.onnx").stat().st_size),
            r"model\.onnx: cannot be loaded",
        ),
    ],
)
def test_an_export_that_is_not_whole_is_refused(damage, message, copied):
    damage(copied)
    with pytest.raises(ExportError, match=message):
        Recognizer.load(copied)


def test_an_export_whose_runtime_is_missing(copied, exports, monkeypatch):
    from actionfusion.inference.runtimes import backend as runtimes
    from actionfusion.inference.runtimes import packages

    for module in (packages, runtimes):
        monkeypatch.setattr(module, "is_installed", lambda name: name not in {"openvino", "onnxruntime"})
    for folder in (copied, exports["openvino"]):
        with pytest.raises(RuntimeUnavailable, match=r"openvino: is not installed, .*pip install 'actionfusion\[openv"):
            Recognizer.load(folder)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("openvino", {"runtime": "onnx"}, "onnx does not read openvino; choose openvino"),
        ("onnx", {"runtime": "torch"}, "torch does not read onnx"),
        ("onnx", {"device": "cuda"}, "an export runs on the CPU"),
        ("onnx", {"precision": "int8"}, "is fp32, not int8"),
    ],
)
def test_what_an_export_cannot_do(name, arguments, message, exports):
    with pytest.raises(SettingsError, match=message):
        Recognizer.load(exports[name], **arguments)


def test_an_export_has_no_network(exports):
    with pytest.raises(WeightsError, match="is an export, without weights for PyTorch"):
        _ = Recognizer.load(exports["onnx"]).network


def test_the_command_and_its_refusals(prepared_run, tmp_path, capsys):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    assert main(["export", str(prepared_run), "--out", str(tmp_path / "taken")]) == 1
    assert "taken: exists already and is not empty" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["file"]
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "new")]) == 1
    assert "is no run folder" in capsys.readouterr().err
    assert main(["export", str(prepared_run), "--out", str(tmp_path / "new"), "--video", str(tmp_path / "no.mp4")]) == 1
    assert "no.mp4" in capsys.readouterr().err
    assert main(["export", str(prepared_run), "--out", str(tmp_path / "new"), "--format", "tflite"]) == 2
    assert not (tmp_path / "new").exists()
    capsys.readouterr()
    assert main(["export", str(prepared_run), "--out", str(tmp_path / "new"), "--format", "onnx"]) == 0
    assert "off the run's own probabilities" in capsys.readouterr().err
    with pytest.raises(RunFolderError):
        Recognizer.load(tmp_path)


def test_a_model_that_answers_otherwise_is_not_exported(prepared_run, tmp_path, monkeypatch):
    from actionfusion.inference.exports import export as module

    real = module.TorchBackend.run
    monkeypatch.setattr(
        module.TorchBackend, "run", lambda self, inputs: {name: row + 2e-4 for name, row in real(self, inputs).items()}
    )
    with pytest.raises(RuntimeUnavailable, match="off PyTorch's"):
        export(prepared_run, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_made_up_video_moves_as_it_says():
    recipe = FlowRecipe("dis", 8.0, 64)
    _, codes, times = SyntheticVideo(ClipSettings(flow=recipe), 8).read([0, 3], [2, 3])
    middle = recipe.decode(codes)[:, 16:-16, 16:-16].mean((1, 2))
    np.testing.assert_allclose(middle, [[2, 1], [2, 1]], atol=0.2)
    assert times.tolist() == [0, 0.12]


def _node(folder):
    return subprocess.run(
        ["node", "index.mjs", str(folder)], cwd=EXAMPLE, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def node_package():
    if shutil.which("node") is None or not (EXAMPLE / "node_modules" / "onnxruntime-node").is_dir():
        pytest.skip("wants node, and `npm install --ignore-scripts` in examples/node")


@pytest.mark.usefixtures("node_package")
def test_another_language_gives_the_same_label(exports, copied):
    done = _node(exports["onnx"])
    _, _, expected = _check(exports["onnx"])
    assert (done.returncode, done.stderr) == (0, "")
    label, probability, difference = done.stdout.splitlines()
    assert label == f"label: {expected['label']}"
    assert float(probability.split()[-1]) == pytest.approx(max(expected["probabilities"]), abs=1e-5)
    assert float(difference.split()[2]) < 1e-5
    flow = copied / "check" / "flow.bin"
    flow.write_bytes(bytes(128 for _ in range(flow.stat().st_size)))
    wrong = _node(copied)
    assert wrong.returncode == 1
    assert "does not answer as it did" in wrong.stderr
    assert _node(exports["openvino"]).returncode == 1


@pytest.fixture(scope="module")
def batched(prepared_run, tmp_path_factory, gives) -> dict[str, Path]:
    """The run in both formats for any number of clips at a time."""
    out = tmp_path_factory.mktemp("batched")
    made = {"onnx": export(prepared_run, format="onnx", out=out / "onnx", dynamic_batch=True)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_module, "export_onnx", gives(made["onnx"] / "model.onnx"))
        return made | {"openvino": export(prepared_run, format="openvino", out=out / "openvino", dynamic_batch=True)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_dynamic_batch_gives_each_clip_its_own_answer(name, batched, prepared_run, shapes_root, monkeypatch):
    assert [item["shape"][0] for item in _about(batched[name])["inputs"]] == [-1, -1]
    assert _about(batched[name])["dynamic_batch"] is True
    own, exported = Recognizer.load(prepared_run, runtime="torch"), Recognizer.load(batched[name], runtime=name)
    clips = [own.clip(video) for video in sorted((shapes_root / "test").glob("*/*.mp4"))[:5]]
    wanted = np.concatenate([own.probabilities([clip]) for clip in clips])
    runs = []
    backend = exported._backends.open("clip")
    run = backend.run
    monkeypatch.setattr(backend, "run", lambda inputs: runs.append(len(inputs["rgb"])) or run(inputs))
    np.testing.assert_allclose(exported.probabilities(clips), wanted, atol=1e-5)
    np.testing.assert_allclose(exported.probabilities(clips[:1]), wanted[:1], atol=1e-5)
    np.testing.assert_allclose(exported.probabilities(clips[2:4]), wanted[2:4], atol=1e-5)
    assert runs == [5, 1, 2]
    given = {"rgb": np.stack([clip.rgb for clip in clips]), "flow": np.stack([clip.flow for clip in clips])}
    with pytest.raises(SettingsError, match="rgb"):
        exported.scores({**given, "rgb": given["rgb"][..., :-1]})


def test_onnx_runtime_alone_takes_a_dynamic_batch(batched):
    import onnxruntime

    about = _about(batched["onnx"])
    expected = json.loads((batched["onnx"] / about["check"]).read_text())
    session = onnxruntime.InferenceSession(batched["onnx"] / about["model"], providers=["CPUExecutionProvider"])
    one = {
        item["name"]: np.fromfile(batched["onnx"] / "check" / expected[item["name"]], "uint8").reshape(
            (1, *item["shape"][1:])
        )
        for item in about["inputs"]
    }
    for count in (1, 4):
        batch = {key: np.concatenate([value] * count) for key, value in one.items()}
        (probabilities,) = session.run([about["output"]["name"]], batch)
        np.testing.assert_allclose(probabilities, [expected["probabilities"]] * count, atol=1e-5)


def test_a_dynamic_batch_that_answers_otherwise_is_not_written(prepared_run, batched, gives, tmp_path, monkeypatch):
    from actionfusion.inference.runtimes.backend import OnnxBackend

    run = OnnxBackend.run

    def mixed(self, inputs):
        return {name: value[::-1] for name, value in run(self, inputs).items()}

    monkeypatch.setattr(export_module, "export_onnx", gives(batched["onnx"] / "model.onnx"))
    monkeypatch.setattr(OnnxBackend, "run", mixed)
    with pytest.raises(RuntimeUnavailable, match="2 clips at a time"):
        export(prepared_run, out=tmp_path / "out", dynamic_batch=True)
    assert not (tmp_path / "out").exists()
    with pytest.raises(SettingsError, match="one clip at a time"):
        export(prepared_run, out=tmp_path / "out", dynamic_batch=True, precision="int8")
