"""What is prepared beside a run: used as long as it fits, made anew when it does not, whatever has happened to it."""

import json
import shutil
import threading
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from actionfusion.errors import RuntimeUnavailable, WeightsError
from actionfusion.inference.recognizer import Recognizer
from actionfusion.inference.runtimes import backend, prepared

FOLDER = "prepared/clip-openvino-fp32"


@pytest.fixture
def run(prepared_run, tmp_path):
    """A copy of the prepared run, whose files are in other places of the disk than ``prepared.json`` says."""
    return shutil.copytree(prepared_run, tmp_path / "copied")


@pytest.fixture
def exports(monkeypatch, prepared_run):
    """Counts exports, and saves their time: they give what was exported before of the same weights."""
    done = []

    def counted(sub_model, path):
        done.append(sub_model.name)
        shutil.copyfile(prepared_run / FOLDER / "model.onnx", path)

    monkeypatch.setattr(prepared, "export_onnx", counted)
    return done


def _answer(run, clip, runtime="openvino"):
    return Recognizer.load(run, runtime=runtime)._backends.open("clip").run(clip)["probabilities"]


def test_a_copied_run_is_used_as_it_is_and_its_weights_are_not_loaded(run, exports, monkeypatch, small_clip):
    wanted = _answer(run, small_clip, "torch")

    def no_weights(*_):
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr("actionfusion.run_folder.RunFolder.load_network", no_weights)
    np.testing.assert_allclose(_answer(run, small_clip), wanted, atol=1e-5)
    assert exports == []


def test_files_are_read_for_their_hash_once_after_a_copy_and_then_not(run, monkeypatch):
    read = []
    real = prepared.hashlib.file_digest

    def counted(file, name):
        read.append(file.name)
        return real(file, name)

    monkeypatch.setattr(prepared.hashlib, "file_digest", counted)
    Recognizer.load(run, runtime="openvino")
    assert len(read) == 3  # weights, model, compiled model
    Recognizer.load(run, runtime="openvino")
    assert len(read) == 3


def test_the_network_is_there_when_it_is_asked_for(run):
    recognizer = Recognizer.load(run, runtime="openvino")
    assert recognizer.network.settings.image_size == 16
    assert not recognizer.network.training
    assert recognizer.network is recognizer.network


def test_other_weights_are_prepared_anew(run, capsys, small_clip):
    before = _answer(run, small_clip)
    tensors = load_file(run / "model.safetensors")
    save_file({name: tensor * 1.5 for name, tensor in tensors.items()}, run / "model.safetensors")
    after = _answer(run, small_clip)
    assert "again, since the weights have changed" in capsys.readouterr().err
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(after, _answer(run, small_clip, "torch"), atol=1e-5)


def _truncate(file):
    file.write_bytes(file.read_bytes()[:-100])


def _flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("prepared.json", _truncate, "it is damaged"),
        ("prepared.json", lambda file: file.write_text('{"format": 2}'), "it was made with another part"),
        ("compiled.blob", _truncate, "its compiled.blob is damaged"),
        ("model.onnx", _flip, "its model.onnx is damaged"),
        ("compiled.blob", lambda file: file.unlink(), "it is damaged"),
    ],
)
def test_damaged_files_are_made_anew(name, damage, said, run, exports, capsys, small_clip):
    damage(run / FOLDER / name)
    np.testing.assert_allclose(_answer(run, small_clip), _answer(run, small_clip, "torch"), atol=1e-5)
    assert exports == ["clip"]
    assert f"again, since {said}" in capsys.readouterr().err
    assert sorted(path.name for path in (run / "prepared").iterdir()) == [
        ".lock",
        "clip-onnx-fp32",
        "clip-openvino-fp32",
    ]


def test_a_file_that_fits_its_hash_and_cannot_be_loaded_is_made_anew(run, exports, capsys, small_clip, monkeypatch):
    real, tries = backend.import_openvino, []

    def once_damaged(path, precision):
        # Not OpenVINO's own refusal of other bytes: what it does with them is not said to be safe for the process.
        tries.append(path)
        if len(tries) == 1:
            raise RuntimeError("no model of OpenVINO")
        return real(path, precision)

    monkeypatch.setattr(backend, "import_openvino", once_damaged)
    np.testing.assert_allclose(_answer(run, small_clip), _answer(run, small_clip, "torch"), atol=1e-5)
    assert exports == ["clip"]
    assert len(tries) == 2
    assert "again, since it cannot be loaded" in capsys.readouterr().err


@pytest.mark.parametrize(("change", "said"), [("versions", "versions"), ("network", "network"), ("format", "format")])
def test_other_versions_and_settings_are_prepared_anew(change, said, run, exports, capsys):
    path = run / "prepared/clip-onnx-fp32/prepared.json"
    about = json.loads(path.read_text())
    about[change] = 0 if change == "format" else about[change] | {"torch": "1.0", "hidden": 7}
    path.write_text(json.dumps(about))
    Recognizer.load(run, runtime="onnx")
    assert exports == ["clip"]
    assert f"again, since it was made with another {said}" in capsys.readouterr().err


def test_on_another_cpu_the_model_is_compiled_anew_from_what_is_there(run, exports, small_clip):
    path = run / FOLDER / "prepared.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"machine": "another CPU"}))
    np.testing.assert_allclose(_answer(run, small_clip), _answer(run, small_clip, "torch"), atol=1e-5)
    assert exports == []


def test_where_nothing_can_be_written_it_is_prepared_for_the_process(small_run, exports, capsys, small_clip, scratch):
    (small_run / "prepared").write_text("in the way")
    recognizer = Recognizer.load(small_run, runtime="onnx")
    assert "cannot be written" in capsys.readouterr().err
    assert list(scratch.glob("actionfusion-scratch-*"))
    wanted = _answer(small_run, small_clip, "torch")
    np.testing.assert_allclose(recognizer._backends.open("clip").run(small_clip)["probabilities"], wanted, atol=1e-5)
    del recognizer
    assert not list(scratch.glob("actionfusion-scratch-*"))


def test_of_two_at_once_one_prepares_and_the_other_takes_it(small_run, exports, monkeypatch, small_clip):
    counted, waiting = prepared.export_onnx, threading.Event()

    def slow(sub_model, path):
        waiting.wait(30)
        counted(sub_model, path)

    def say(line):
        if line.endswith(": waiting"):
            waiting.set()

    monkeypatch.setattr(prepared, "export_onnx", slow)
    monkeypatch.setattr(prepared, "_say", say)
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(_answer(small_run, small_clip, "onnx"))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    assert waiting.is_set()
    assert exports == ["clip"]
    np.testing.assert_array_equal(*answers)


def test_a_loser_without_locks_takes_what_the_winner_made(run, monkeypatch, exports):
    """Both find nothing; one is done while the other still works."""
    winner = run.with_name("winner")
    (run / FOLDER).rename(winner)

    def meanwhile(kind, model):
        shutil.copytree(winner, run / FOLDER)
        return 0.0, {}, 0.0

    monkeypatch.setattr(prepared, "_difference", meanwhile)
    monkeypatch.setattr(prepared.shutil, "rmtree", lambda *_, **__: None)
    Recognizer.load(run, runtime="openvino")
    assert exports == ["clip"]
    assert json.loads((run / FOLDER / "prepared.json").read_text())["difference"] > 0  # the winner's


def test_a_runtime_that_answers_otherwise_is_refused(small_run, exports, monkeypatch):
    real = prepared.open_model

    def wrong(*arguments, **named):
        runtime = real(*arguments, **named)
        run = runtime.run
        monkeypatch.setattr(runtime, "run", lambda inputs: {name: value + 2e-4 for name, value in run(inputs).items()})
        return runtime

    monkeypatch.setattr(prepared, "open_model", wrong)
    with pytest.raises(RuntimeUnavailable, match=r"its answers are 0\.0002 off PyTorch's"):
        Recognizer.load(small_run, runtime="onnx")
    assert [path.name for path in (small_run / "prepared").iterdir()] == [".lock"]


def test_a_run_without_weights(run):
    (run / "model.safetensors").unlink()
    for runtime in ("auto", "openvino", "torch"):
        with pytest.raises(WeightsError, match=r"model\.safetensors: the run has no weights"):
            Recognizer.load(run, runtime=runtime, device="cpu")


def test_weights_that_are_not_finite_are_refused(small_run):
    tensors = load_file(small_run / "model.safetensors")
    tensors["fc6.bias"][0] = torch.nan
    save_file(tensors, small_run / "model.safetensors")
    with pytest.raises(WeightsError, match="not finite"):
        Recognizer.load(small_run, runtime="onnx")
