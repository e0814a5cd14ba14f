"""A model that was put in the place of another, whatever is written beside it, is not believed."""

import json
import shutil

import numpy as np
import onnx
import pytest
from safetensors.torch import load_file, save_file

from actionfusion.errors import ExportError, RuntimeUnavailable
from actionfusion.inference.exports.export import export
from actionfusion.inference.exports.exported import open_export
from actionfusion.inference.recognizer import Recognizer
from actionfusion.inference.runtimes import prepared
from actionfusion.run_folder import WEIGHTS

FOLDER = "prepared/clip-onnx-fp32"


def _answer(run, clip, runtime="onnx"):
    return Recognizer.load(run, runtime=runtime)._backends.open("clip").run(clip)["probabilities"]


@pytest.fixture(scope="module")
def runs(prepared_run, tmp_path_factory):
    """Two runs of other weights, each prepared for ONNX Runtime."""
    folder = tmp_path_factory.mktemp("runs")
    ours, other = (shutil.copytree(prepared_run, folder / name) for name in ("ours", "other"))
    weights = load_file(other / WEIGHTS)
    save_file({name: value.flip(0) if value.ndim > 1 else value for name, value in weights.items()}, other / WEIGHTS)
    for run in (ours, other):
        Recognizer.load(run, runtime="onnx")
    return ours, other


@pytest.fixture
def swapped(runs, gives, tmp_path, monkeypatch):
    """Our run with the other one's prepared folder; what is exported of it again is what was exported of ours."""
    ours, other = runs
    monkeypatch.setattr(prepared, "export_onnx", gives(ours / FOLDER / "model.onnx"))
    run = shutil.copytree(ours, tmp_path / "run")
    shutil.rmtree(run / FOLDER)
    shutil.copytree(other / FOLDER, run / FOLDER)
    return run


def _believed(run, changes):
    """Write down that what lies there is of our weights, with hashes that are right."""
    path = run / FOLDER / "prepared.json"
    about = json.loads(path.read_text()) | changes
    about["weights"] = prepared._identity(run / WEIGHTS)
    about["files"] = {name: prepared._identity(run / FOLDER / name) for name in about["files"]}
    path.write_text(json.dumps(about))
    return about, path


@pytest.mark.slow
def test_what_was_prepared_of_other_weights(runs, swapped, small_clip, capsys):
    wanted = _answer(swapped, small_clip, "torch")
    assert np.abs(wanted - _answer(runs[1], small_clip, "torch")).max() > 0.01
    np.testing.assert_allclose(_answer(swapped, small_clip), wanted, atol=1e-5)
    assert "again, since the weights have changed" in capsys.readouterr().err


def test_whose_weights_are_said_to_be_ours(swapped, small_clip, capsys):
    _believed(swapped, {})
    wanted = _answer(swapped, small_clip, "torch")
    np.testing.assert_allclose(_answer(swapped, small_clip), wanted, atol=1e-5)
    assert "again, since it is not of one piece" in capsys.readouterr().err


def test_under_our_own_answers_and_hashes(runs, swapped, small_clip, capsys):
    ours = json.loads((runs[0] / FOLDER / "prepared.json").read_text())
    about, path = _believed(swapped, {"answers": ours["answers"]})
    path.write_text(json.dumps(about | {"seal": prepared._seal(about)}))
    wanted = _answer(swapped, small_clip, "torch")
    np.testing.assert_allclose(_answer(swapped, small_clip), wanted, atol=1e-5)
    assert "again, since it does not answer as it did" in capsys.readouterr().err


def test_answers_that_are_no_numbers_are_not_prepared(prepared_run, gives, tmp_path, monkeypatch):
    run = shutil.copytree(prepared_run, tmp_path / "run")
    weights = load_file(run / WEIGHTS)
    save_file({name: value * 1e30 for name, value in weights.items()}, run / WEIGHTS)
    real = prepared.export_onnx

    def export_once(sub_model, path):
        real(sub_model, path)
        shutil.copyfile(path, tmp_path / "model.onnx")
        monkeypatch.setattr(prepared, "export_onnx", gives(tmp_path / "model.onnx"))

    monkeypatch.setattr(prepared, "export_onnx", export_once)
    for runtime in ("onnx", "openvino"):
        with pytest.raises(RuntimeUnavailable, match="nan off PyTorch's"):
            Recognizer.load(run, runtime=runtime)


@pytest.fixture(scope="module")
def exported(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    return [export(run, out=folder / run.name) for run in runs]


def test_an_export_with_the_model_of_another(exported, tmp_path):
    folder = shutil.copytree(exported[0], tmp_path / "export")
    Recognizer.load(folder, runtime="onnx")
    (name,) = [name for name in open_export(folder).about["files"] if name.endswith(".onnx")]
    shutil.copyfile(exported[1] / name, folder / name)
    with pytest.raises(ExportError, match=r"expected\.json: the model does not answer its clip"):
        Recognizer.load(folder, runtime="onnx")


@pytest.mark.parametrize("fault", ["no folder", "no clip", "short clip", "other answer", "wide tolerance", "no number"])
def test_an_export_whose_check_is_not_whole(exported, tmp_path, fault):
    folder = shutil.copytree(exported[0], tmp_path / "export")
    path = folder / "check" / "expected.json"
    expected = json.loads(path.read_text())
    if fault == "no folder":
        shutil.rmtree(folder / "check")
    elif fault == "no clip":
        (folder / "check" / "rgb.bin").unlink()
    elif fault == "short clip":
        (folder / "check" / "rgb.bin").write_bytes(b"x")
    else:
        wrong = {"other answer": 2.0, "wide tolerance": 0.4, "no number": "x"}[fault]
        values = expected["probabilities"]
        values[0] = wrong if isinstance(wrong, str) else values[0] + wrong
        tolerance = 1e9 if fault == "wide tolerance" else expected["tolerance"]
        path.write_text(json.dumps(expected | {"tolerance": tolerance}))
    with pytest.raises(ExportError, match="check"):
        Recognizer.load(folder, runtime="onnx")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda labels: labels[:-1], r"has \d+ labels for the model's \d+ answers"),
        (lambda labels: [*labels, "one more"], r"has \d+ labels for the model's \d+ answers"),
        (lambda labels: [*labels[1:], labels[0]], "its labels are not the model's"),
    ],
)
def test_an_export_with_the_labels_of_another(change, said, exported, tmp_path):
    folder = shutil.copytree(exported[0], tmp_path / "export")
    about = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(about | {"labels": change(about["labels"])}))
    with pytest.raises(ExportError, match=said):
        Recognizer.load(folder, runtime="onnx")


def test_an_export_that_is_changed_by_a_little(exported, tmp_path):
    """One weight of the model, as a bad disk would change it; the size of the file stays."""
    folder = shutil.copytree(exported[0], tmp_path / "export")
    (name,) = [name for name in open_export(folder).about["files"] if name.endswith(".onnx")]
    model = onnx.load(folder / name)
    (last,) = [tensor for tensor in model.graph.initializer if tensor.name.endswith("head.linear.bias")]
    values = onnx.numpy_helper.to_array(last).copy()
    values[0] += 3
    last.CopyFrom(onnx.numpy_helper.from_array(values, last.name))
    (folder / name).write_bytes(model.SerializeToString())
    with pytest.raises(ExportError):
        Recognizer.load(folder, runtime="onnx")
