"""Every kind of network answers in OpenVINO and ONNX Runtime as in PyTorch; and who is chosen."""

import builtins
import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from actionfusion.errors import RuntimeUnavailable, SettingsError
from actionfusion.inference.recognizer import Recognizer
from actionfusion.inference.runtimes import backend as runtimes
from actionfusion.inference.runtimes import choice, packages, prepared
from actionfusion.inference.runtimes.backend import TorchBackend, open_model
from actionfusion.inference.runtimes.onnx_file import export_onnx
from actionfusion.inference.runtimes.sub_models import SubModel, TensorSpec, clip_model
from actionfusion.models.flops import clip_flops
from actionfusion.models.fusion_network import FusionNetwork, FusionNetworkSettings
from actionfusion.run_folder import open_run
from actionfusion.video.clip import ClipSettings

CLIP = ClipSettings(2, 2)  # one of them has a past; the export takes time for every step


def _kinds():
    """Every norm with a fusion; beside them, in turn, every head, reduction and choice of branches."""
    heads = itertools.cycle(("literal", "scaled", "linear"))
    reductions = itertools.cycle(("flatten", "pool", "average", "max"))
    branches = itertools.cycle(("conv", "fc", "conv", "both"))
    norms = {"tf": "conv3d", "gates": "conv2d", "ba": "sum", "batch": "max", "none": "concat"}
    for norm, fusion in norms.items():
        yield {
            "head": next(heads),
            "norm": norm,
            "fusion": fusion,
            "conv_reduce": next(reductions),
            "branches": next(branches),
        }
    yield {"temporal_head": "mean", "head": "linear", "streams": "rgb", "norm_inputs": True}
    yield {"streams": "flow", "batch_norm": False, "merge_dim": 3}


def _name(kind):
    return "-".join(map(str, kind.values()))


def _settings(**changes):
    small = {"image_size": 16, "flow_channels": 4, "backbone": (4, "M", 6), "fc6_width": 8, "hidden": 6}
    return FusionNetworkSettings.tiny(5, **small | changes)


class _All(torch.nn.Module):
    """Networks side by side on one clip, since an export costs much the same for one as for many."""

    def __init__(self, networks):
        super().__init__()
        self.networks = torch.nn.ModuleList(networks)

    def forward(self, rgb, flow):
        clips = {"rgb": rgb, "flow": flow}
        logits = [network(**{name: clips[name] for name in network.reads}) for network in self.networks]
        return tuple(each.softmax(1) for each in logits)


@pytest.mark.slow
def test_both_runtimes_agree_with_pytorch_on_every_kind_and_the_export_is_silent(randomise, tmp_path, capfd):
    kinds = {_name(kind): _settings(**kind) for kind in _kinds()}
    networks = [randomise(FusionNetwork(settings)) for settings in kinds.values()]
    inputs = clip_model(lambda: networks[0], FusionNetwork, networks[0].settings, CLIP).inputs
    sub_model = SubModel("all", lambda: _All(networks), inputs, tuple(kinds))
    export_onnx(sub_model, tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")
    content = (tmp_path / "model.onnx").read_bytes()
    assert b".py" not in content, "a path of this machine is written"
    assert str(tmp_path.parts[1]).encode() + b"/" not in content
    others = [
        open_model(tmp_path / "model.onnx", name, "fp32", inputs, sub_model.outputs) for name in ("openvino", "onnx")
    ]
    for seed in range(3):
        clip = sub_model.example(seed)
        made = [other.run(clip) for other in others]
        for name, network in zip(kinds, networks, strict=True):
            with torch.inference_mode():
                logits = network(**{name: torch.from_numpy(clip[name]) for name in network.reads})
            wanted = torch.softmax(logits.double(), 1).numpy()
            assert np.ptp(wanted) > 0.01, f"{name}: the probabilities are too even to show a difference"
            for other, answers in zip(others, made, strict=True):
                np.testing.assert_allclose(answers[name], wanted, atol=1e-5, err_msg=f"{name} in {other.name}")


def test_a_part_of_several_inputs_outputs_and_types(tmp_path):
    class Step(torch.nn.Module):
        def forward(self, frame, state):
            new = state * 0.5 + frame.float().mean((2, 3))
            return new.softmax(1), new

    specs = (TensorSpec("frame", (1, 3, 4, 4), "uint8"), TensorSpec("state", (1, 3), "float32"))
    sub_model = SubModel("step", Step, specs, ("probabilities", "state_after"))
    export_onnx(sub_model, tmp_path / "step.onnx")
    inputs = sub_model.example(1)
    wanted = TorchBackend(sub_model, "fp32", torch.device("cpu")).run(inputs)
    for name in ("openvino", "onnx"):
        made = open_model(tmp_path / "step.onnx", name, "fp32", specs, sub_model.outputs).run(inputs)
        assert list(made) == ["probabilities", "state_after"]
        for output in sub_model.outputs:
            np.testing.assert_allclose(made[output], wanted[output], rtol=1e-5)


@pytest.mark.parametrize("name", ["openvino", "onnx"])
def test_inputs_that_do_not_fit_are_named(name, prepared_run, small_clip):
    recognizer = Recognizer.load(prepared_run, runtime=name)
    with pytest.raises(SettingsError, match=r"flow: .*\[1, 2, 4, 16, 16\], wanted uint8 \[1, 3, 4, 16, 16\]"):
        recognizer._backends.open("clip").run(small_clip | {"flow": small_clip["flow"][:, :2]})
    with pytest.raises(SettingsError, match="rgb: float32"):
        recognizer._backends.open("clip").run(small_clip | {"rgb": small_clip["rgb"].astype(np.float32)})
    with pytest.raises(SettingsError, match="rgb: this input is missing"):
        recognizer._backends.open("clip").run({"flow": small_clip["flow"]})


@pytest.mark.parametrize("name", ["openvino", "onnx"])
def test_a_batch_goes_through_one_by_one(name, prepared_run, small_clip):
    generator = np.random.default_rng(0)
    batch = {
        key: generator.integers(0, 256, (3, *value.shape[1:])).astype(np.uint8) for key, value in small_clip.items()
    }
    wanted = Recognizer.load(prepared_run, runtime="torch").scores(batch)
    made = Recognizer.load(prepared_run, runtime=name).scores(batch)
    assert len(np.unique(wanted.round(3), axis=0)) == 3
    np.testing.assert_allclose(made, wanted, atol=1e-5)


def test_bf16_is_near_and_not_the_same(small_run, small_clip):
    exact, half = (
        Recognizer.load(small_run, runtime="torch", precision=precision)._backends.open("clip").run(small_clip)
        for precision in ("fp32", "bf16")
    )
    exact, half = exact["probabilities"], half["probabilities"]
    assert 0 < np.abs(half - exact).max() < 0.1


def test_bf16_on_a_cpu_without_it_is_refused(small_run, monkeypatch):
    class Core:
        def get_property(self, *_):
            return ["FP32", "INT8"]

    monkeypatch.setattr(runtimes, "openvino_core", Core)
    with pytest.raises(RuntimeUnavailable, match="bf16: this CPU has no bfloat16"):
        Recognizer.load(small_run, runtime="openvino", precision="bf16")


@pytest.mark.parametrize(
    ("runtime", "package"), [("openvino", "openvino"), ("onnx", "onnxruntime"), ("openvino", "onnxscript")]
)
def test_a_missing_package_names_the_extra(runtime, package, small_run, monkeypatch):
    present = packages.is_installed
    for module in (packages, runtimes, choice):
        monkeypatch.setattr(module, "is_installed", lambda name: name != package and present(name))
    with pytest.raises(RuntimeUnavailable, match=rf"{package}: is not installed; pip install 'actionfusion\[\w+\]'"):
        Recognizer.load(small_run, runtime=runtime)


def _without(package):
    real = builtins.__import__

    def fail(name, *arguments, **named):
        if name == package:
            raise ImportError("libtbb.so.12: cannot open shared object file")
        return real(name, *arguments, **named)

    return fail


@pytest.fixture
def exported_before(prepared_run, gives, monkeypatch):
    """What is exported of the small run is what was exported of it before."""
    monkeypatch.setattr(prepared, "export_onnx", gives(prepared_run / "prepared/clip-onnx-fp32/model.onnx"))


@pytest.mark.usefixtures("exported_before")
def test_openvino_that_cannot_be_imported(small_run, monkeypatch):
    monkeypatch.setattr(
        runtimes, "openvino_core", runtimes.openvino_core.__wrapped__
    )  # as in a process that has not used it yet
    monkeypatch.setattr("builtins.__import__", _without("openvino"))
    with pytest.raises(RuntimeUnavailable, match=r"openvino: cannot be imported \(libtbb.so.12"):
        Recognizer.load(small_run, runtime="openvino")


# The first of two to come is the first to go.
SIGNALLED = """
import signal, sys
from pathlib import Path
from actionfusion.inference.runtimes.backend import compile_openvino, read_openvino

first, second = (compile_openvino(read_openvino(Path(sys.argv[1])), "fp32") for _ in range(2))
del first
del second
signal.signal(signal.SIGINT, lambda *_: print("handled", flush=True))
signal.raise_signal(signal.SIGINT)
"""


def test_signals_are_handled_after_two_models_have_gone(prepared_run):
    """OpenVINO left a stack for handlers behind that was gone, and the process with the next signal."""
    model = next(prepared_run.rglob("*.onnx"))
    done = subprocess.run([sys.executable, "-c", SIGNALLED, model], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"runtime": "tensorrt"}, "'tensorrt' is none; choose auto, torch"),
        ({"precision": "fp8"}, "'fp8' is none"),
        (
            {"runtime": "torch", "precision": "int8"},
            "int8 is not offered by runtime torch; choose fp32 or bf16, or open",
        ),
        ({"runtime": "onnx", "precision": "bf16"}, "bf16 is not offered by runtime onnx"),
        ({"runtime": "onnx", "device": "cuda"}, "runs on the CPU, not on cuda"),
        ({"device": "cuda", "precision": "int8"}, "int8 is for CPUs, not for cuda|this machine has no 'cuda'"),
    ],
)
def test_things_that_do_not_go_together(arguments, message, small_run):
    with pytest.raises(SettingsError, match=message):
        Recognizer.load(small_run, **arguments)


def test_auto_takes_pytorch_for_a_small_network(small_run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    recognizer = Recognizer.load(small_run)
    assert (recognizer.runtime.name, recognizer.runtime.precision) == ("torch", "fp32")
    assert "answers at once" in recognizer.runtime.reason
    assert not (small_run / "prepared").exists()


@pytest.mark.usefixtures("exported_before")
def test_auto_prepares_for_a_large_network_and_then_takes_what_is_there(small_run, monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    _say_that_it_takes(small_run, 10**12)
    with caplog.at_level("INFO", "actionfusion.inference"):
        assert Recognizer.load(small_run).runtime.name == "openvino"
    assert "openvino fp32 (the network takes 1,000 GFLOP a clip" in caplog.text
    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    again = Recognizer.load(small_run)
    assert (again.runtime.name, again.runtime.reason) == ("openvino", "it is prepared beside the run")


def test_auto_falls_back_where_nothing_can_be_prepared(small_run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    _say_that_it_takes(small_run, 10**12)

    def cannot(sub_model, path):
        raise RuntimeUnavailable("sub-model 'clip'", "cannot be exported", "take runtime torch")

    monkeypatch.setattr("actionfusion.inference.runtimes.prepared.export_onnx", cannot)
    recognizer = Recognizer.load(small_run)
    assert (recognizer.runtime.name, recognizer.runtime.reason) == ("torch", "sub-model 'clip': cannot be exported")
    with pytest.raises(RuntimeUnavailable, match="cannot be exported"):
        Recognizer.load(small_run, runtime="openvino")


def test_auto_on_a_gpu_is_pytorch(small_run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = choice.choose("auto", "bf16", None, artifact_of=None, flops=None)
    assert (found.name, found.device, found.reason) == ("torch", "cuda", "there is a GPU")


def test_the_count_of_operations():
    settings = _settings(frames=3, streams="rgb", branches="fc", temporal_head="mean", batch_norm=False)
    first = 2 * 16 * 16 * 4 * 3 * 9
    second = 2 * 8 * 8 * 6 * 4 * 9
    fc6 = 2 * 6 * 4 * 4 * 8
    assert clip_flops("fusion", settings) == 3 * (first + second + fc6) + 2 * 8 * 5
    assert clip_flops("fusion", FusionNetworkSettings.faithful()) == pytest.approx(1.148e12, rel=1e-3)


def test_a_run_keeps_the_count_of_operations(small_run):
    counted = open_run(small_run).flops
    _say_that_it_takes(small_run, 5 * counted)
    assert open_run(small_run).flops == 5 * counted
    _say_that_it_takes(small_run, None)
    assert open_run(small_run).flops == counted


def test_predicting_of_a_small_network_does_not_import_the_compiler(small_run):
    program = f"""
import sys
from actionfusion import Recognizer
assert Recognizer.load({str(small_run)!r}).runtime.name == "torch"
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})


def _say_that_it_takes(run, flops):
    config = yaml.safe_load((run / "config.yaml").read_text()) | {"flops": flops}
    (run / "config.yaml").write_text(yaml.safe_dump({name: each for name, each in config.items() if each is not None}))


def test_predict_says_which_runtime_and_takes_one(prepared_run, shapes_root, capsys):
    from actionfusion.inference.predict import predict

    video = next((shapes_root / "test").glob("*/*.mp4"))
    plain = predict(prepared_run, [video], json=True, runtime="torch")
    assert "runtime: torch fp32" in capsys.readouterr().err
    other = predict(prepared_run, [video], json=True, runtime="onnx")
    out, err = capsys.readouterr()
    assert "runtime: onnx fp32 (as asked)" in err
    assert json.loads(out)[0]["predictions"][0]["label"] == plain[0].predictions[0].label
    for one, two in zip(plain[0].predictions, other[0].predictions, strict=True):
        assert one.probability == pytest.approx(two.probability, abs=1e-5)
