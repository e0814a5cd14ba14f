"""Networks in 8 bits: what is measured, what is kept, and what is refused."""

import json
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import yaml

from actionfusion.data.dataset import DataSettings, open_data
from actionfusion.data.prepare_dataset import prepare
from actionfusion.data.recorded_split import write_split
from actionfusion.errors import DatasetError, QuantizationRefused, RuntimeUnavailable, SettingsError
from actionfusion.evaluation.evaluate import evaluate
from actionfusion.inference.recognizer import Recognizer
from actionfusion.inference.runtimes import packages, prepared, quantization
from actionfusion.inference.runtimes.quantization import Int8Accuracy
from actionfusion.run_folder import open_run
from actionfusion.video.reading import iterate_frames
from actionfusion.video.samples import Sample

LIMIT = 3  # clips to calibrate on: enough to see that it works


@pytest.fixture
def run(prepared_run, gives, tmp_path, monkeypatch):
    """A copy of the small run, which exports what was exported before, and where int8 may cost what it likes."""
    monkeypatch.setattr(prepared, "export_onnx", gives(prepared_run / "prepared/clip-onnx-fp32/model.onnx"))
    monkeypatch.setattr(quantization, "CALIBRATION_CLIPS", LIMIT)
    monkeypatch.setattr(quantization, "LARGEST_LOSS", 1.0)
    return shutil.copytree(prepared_run, tmp_path / "run", ignore=shutil.ignore_patterns("prepared"))


def _split(run, part):
    lines = (run / "split.csv").read_text().splitlines()[1:]
    return [line.split(",")[:2] for line in lines if line.endswith(part)]


@pytest.mark.parametrize(("runtime", "sign"), [("openvino", b"FakeQuantize"), ("onnx", b"DequantizeLinear")])
def test_int8_is_in_8_bits_and_its_figures_are_those_of_its_answers(runtime, sign, run, small_root):
    int8 = Recognizer.load(run, runtime=runtime, precision="int8", root=small_root)
    fp32 = Recognizer.load(run, runtime="torch")
    folder = run / f"prepared/clip-{runtime}-int8"
    model = {"openvino": "model.xml", "onnx": "int8.onnx"}[runtime]
    assert sign in (folder / model).read_bytes()
    if runtime == "onnx":  # two convolutions of either backbone, the fusion, and fc6
        assert _in_8_bits(folder / model) == ["Conv"] * 5 + ["MatMul"]
    videos = _split(run, "test")
    assert len(videos) == 12
    answers = {"fp32": [], "int8": []}
    rows = {"fp32": [], "int8": []}
    for name, recognizer in (("fp32", fp32), ("int8", int8)):
        for path, _ in videos:
            row = recognizer.probabilities([recognizer.clip(small_root / path)])[0]
            rows[name].append(row)
            answers[name].append(recognizer.labels[row.argmax()])
    difference = np.abs(np.subtract(rows["fp32"], rows["int8"]))
    assert difference.max() > 1e-4
    assert difference.mean() < 0.05
    figures = json.loads((folder / "prepared.json").read_text())["int8"]
    truth = [label for _, label in videos]
    hits = {name: sum(map(str.__eq__, truth, given)) for name, given in answers.items()}
    assert figures == {
        "part": "test",
        "clips": 12,
        "available": 12,
        "unreadable": 0,
        "correct_fp32": hits["fp32"],
        "correct_int8": hits["int8"],
        "agreeing": sum(map(str.__eq__, answers["fp32"], answers["int8"])),
        "calibration_clips": LIMIT,
        "kept_fp32": 0,
        "top1_fp32": hits["fp32"] / 12,
        "top1_int8": hits["int8"] / 12,
    }
    again = Recognizer.load(run, runtime=runtime, precision="int8")  # the videos are not needed any more
    np.testing.assert_array_equal(again.probabilities([again.clip(small_root / videos[0][0])])[0], rows["int8"][0])


def test_what_evaluate_found_is_not_computed_again(run, small_root, monkeypatch):
    evaluate(run, small_root, device="cpu")
    digest, found = prepared.weights_digest(open_run(run)), run / "evaluation_test.json"
    kept = quantization.kept_labels(open_run(run), "test", digest)
    assert len(kept) == 12
    assert not quantization.kept_labels(open_run(run), "test", "other weights")
    assert not quantization.kept_labels(open_run(run), "val", digest)

    def figures():
        shutil.rmtree(run / "prepared", ignore_errors=True)
        Recognizer.load(run, runtime="onnx", precision="int8", root=small_root)
        return json.loads((run / "prepared/clip-onnx-int8/prepared.json").read_text())["int8"]

    first = figures()
    assert first["kept_fp32"] == 12 - quantization.CHECKED_LABELS
    content = json.loads(found.read_text())
    # A label that the network does not give is found among the first, and none is believed.
    row = next(row for row in content["videos"] if row["video"] == _split(run, "test")[0][0])
    row["predicted"] = next(label for label in content["labels"] if label != row["predicted"])
    found.write_text(json.dumps(content))
    assert figures() == first | {"kept_fp32": 0}
    # Nor are those that are means of several clips.
    evaluate(run, small_root, flip=True, device="cpu")
    assert figures() == first | {"kept_fp32": 0}


def _ruined(model, sub_model, samples, runtime):
    """A model that calls everything the same."""
    import onnx

    ruined = onnx.load(model)
    bias = next(item for item in ruined.graph.initializer if item.name.endswith("head.linear.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([90, 0, 0, 0, 0], np.float32), bias.name))
    return ruined


def test_more_than_a_point_less_is_refused_and_nothing_kept(run, small_root, monkeypatch):
    monkeypatch.setattr(quantization, "LARGEST_LOSS", 0.01)
    monkeypatch.setattr(prepared, "quantise", _ruined)
    truth = [label for _, label in _split(run, "test")]
    left = truth.count("class 0")
    assert left < 10, "the run calls most of them class 0 itself"
    with pytest.raises(QuantizationRefused, match=f"top-1 {left} of 12 in int8, 12 in fp32, {left} labels the same"):
        Recognizer.load(run, runtime="onnx", precision="int8", root=small_root)
    assert [path.name for path in (run / "prepared").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("clips", "lost", "refused"), [(12, 1, True), (50, 1, True), (96, 1, False), (96, 2, True), (400, 4, False)]
)
def test_a_point_is_counted_in_whole_clips(clips, lost, refused, monkeypatch):
    monkeypatch.setattr(quantization, "LARGEST_LOSS", 0.01)
    found = Int8Accuracy("test", clips, clips, 0, clips, clips - lost, clips - lost, 38)
    assert found.is_too_dear is refused


def test_a_quantiser_that_changes_nothing_loses_nothing(run, small_root, monkeypatch):
    import onnx

    monkeypatch.setattr(quantization, "LARGEST_LOSS", 0.01)
    monkeypatch.setattr(prepared, "quantise", lambda model, *_: onnx.load(model))
    Recognizer.load(run, runtime="onnx", precision="int8", root=small_root)
    figures = json.loads((run / "prepared/clip-onnx-int8/prepared.json").read_text())["int8"]
    assert (figures["correct_fp32"], figures["correct_int8"], figures["agreeing"]) == (12, 12, 12)


def _split_anew(run, root):
    """Give a run the split that the table of a folder holds."""
    videos = open_data(DataSettings(root, "csv", "column", validation="none"))
    write_split(run / "split.csv", videos)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["digest"] = videos.digest()
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def test_the_validation_part_is_asked_where_there_is_one(run, small_root, tmp_path, monkeypatch):
    import onnx

    monkeypatch.setattr(prepared, "quantise", lambda model, *_: onnx.load(model))
    root = shutil.copytree(small_root, tmp_path / "videos")
    rows = (root / "videos.csv").read_text().splitlines()
    (root / "videos.csv").write_text("\n".join([*rows[:-5], *(row.replace(",test", ",val") for row in rows[-5:])]))
    _split_anew(run, root)
    Recognizer.load(run, runtime="onnx", precision="int8", root=root)
    figures = json.loads((run / "prepared/clip-onnx-int8/prepared.json").read_text())["int8"]
    assert (figures["part"], figures["clips"]) == ("val", 5)


def _in_a_store(run, root, shelf):
    prepare("csv", root, store=shelf / "store", flow=open_run(run).clip.flow, workers=0)
    for number, video in enumerate(sorted(root.glob("*/*/*.mp4"))):
        video.write_bytes(b"no video %d" % number)
    return {"root": root, "store": str(shelf / "store")}


def _behind_an_address(run, root, shelf):
    shutil.move(root, shelf / "data")
    return {"root": "shelf://data"}


def _as_pictures(run, root, shelf):
    for video in root.glob("*/*/*.mp4"):
        folder = video.with_suffix("")
        folder.mkdir()
        for frame in iterate_frames(video, size=16):
            cv2.imwrite(str(folder / f"{frame.index:03d}.png"), frame.image[..., ::-1])
        video.unlink()
    table = root / "videos.csv"
    table.write_text(table.read_text().replace(".mp4", ""))
    _split_anew(run, root)
    return {"root": root}


@pytest.mark.parametrize("arrange", [_in_a_store, _behind_an_address, _as_pictures])
def test_the_videos_are_found_wherever_training_reads_them(arrange, run, small_root, tmp_path, shelf, monkeypatch):
    import onnx

    monkeypatch.setattr(prepared, "quantise", lambda model, *_: onnx.load(model))
    places = arrange(run, shutil.copytree(small_root, tmp_path / "videos"), shelf)
    Recognizer.load(run, runtime="onnx", precision="int8", **places)
    figures = json.loads((run / "prepared/clip-onnx-int8/prepared.json").read_text())["int8"]
    assert (figures["clips"], figures["unreadable"], figures["calibration_clips"]) == (12, 0, LIMIT)
    assert figures["correct_int8"] == figures["correct_fp32"] > 9, "what was read are the run's own videos"


def test_videos_that_cannot_be_read_are_counted(run, small_root, tmp_path, monkeypatch):
    import onnx

    monkeypatch.setattr(prepared, "quantise", lambda model, *_: onnx.load(model))
    root = shutil.copytree(small_root, tmp_path / "videos")
    for path, _ in _split(run, "test")[:2]:
        (root / path).write_bytes(b"no video")
    Recognizer.load(run, runtime="onnx", precision="int8", root=root)
    figures = json.loads((run / "prepared/clip-onnx-int8/prepared.json").read_text())["int8"]
    assert (figures["clips"], figures["unreadable"], figures["available"]) == (10, 2, 12)


def test_a_limit_spreads_the_clips_evenly(run, small_root):
    clips = quantization.RunClips(open_run(run), small_root)
    targets = [item.target for item in clips.cut("test", 4)]
    truth = [label for _, label in _split(run, "test")]
    assert targets == [int(truth[place][-1]) for place in (0, 4, 7, 11)]


def test_without_the_videos_it_says_how_to_prepare(run, tmp_path, small_root):
    with pytest.raises(SettingsError, match=r"root: nothing is prepared.*--precision int8 --root DATA"):
        Recognizer.load(run, precision="int8", device="cpu")
    shutil.copytree(small_root / "train", tmp_path / "fewer" / "train")
    rows = (small_root / "videos.csv").read_text().splitlines()
    (tmp_path / "fewer" / "videos.csv").write_text("\n".join(row for row in rows if not row.startswith("test/")))
    with pytest.raises(DatasetError, match=r"12 of the 12 test videos of the run's split are not there: 'test/"):
        Recognizer.load(run, precision="int8", root=tmp_path / "fewer", device="cpu")
    (run / "split.csv").unlink()
    with pytest.raises(SettingsError, match=r"has no split\.csv to calibrate by"):
        Recognizer.load(run, precision="int8", root=small_root, device="cpu")


def test_prediction_without_int8_loads_nothing_that_knows_data_sets(small_run, small_root):
    video = next(small_root.glob("test/*/*.mp4"))
    script = (
        "import sys\n"
        "from actionfusion.inference.predict import predict\n"
        "predict(sys.argv[1], sys.argv[2:], runtime='torch', precision='fp32', device='cpu')\n"
        "above = ('actionfusion.data', 'actionfusion.training', 'actionfusion.evaluation')\n"
        "print([name for name in sys.modules if name.startswith(above)], file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", script, small_run, video]
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    assert "class " in done.stdout
    assert done.stderr.splitlines()[-1] == "[]"


def test_without_nncf_it_names_the_extra(run, small_root, monkeypatch):
    present = packages.is_installed
    monkeypatch.setattr(packages, "is_installed", lambda name: name != "nncf" and present(name))
    with pytest.raises(RuntimeUnavailable, match=r"nncf: is not installed; pip install 'actionfusion\[int8\]'"):
        Recognizer.load(run, runtime="openvino", precision="int8", root=small_root)


def _in_8_bits(path):
    """Kinds of the nodes of an ONNX model whose weights are dequantised, in alphabetical order."""
    import onnx

    graph = onnx.load(path).graph
    dequantised = {output for node in graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    return sorted(node.op_type for node in graph.node if len(node.input) > 1 and node.input[1] in dequantised)


def test_a_stream_has_its_own_eight_bits(small_run, small_root, monkeypatch):
    monkeypatch.setattr(quantization, "CALIBRATION_FRAMES", LIMIT * open_run(small_run).clip.frames - 1)
    monkeypatch.setattr(quantization, "LARGEST_LOSS", 1.0)
    recognizer = Recognizer.load(small_run, runtime="openvino", precision="int8", root=small_root, first="step")
    figures = json.loads((small_run / "prepared/step-openvino-int8/prepared.json").read_text())["int8"]
    assert (figures["clips"], figures["correct_fp32"], figures["calibration_clips"]) == (12, 12, LIMIT)
    assert recognizer.runtime.precision == "int8"
    exact = Recognizer.load(small_run, runtime="torch").stepper
    clip = recognizer.clip(sorted((small_root / "test").glob("*/*.mp4"))[0])
    pictures = enumerate(zip(clip.rgb, clip.flow, strict=True))
    samples = [Sample(place, float(place), rgb, flow) for place, (rgb, flow) in pictures]
    answers, wanted = (each.answer(samples, each.start())[0] for each in (recognizer.stepper, exact))
    difference = max(
        np.abs(one.probabilities - other.probabilities).max() for one, other in zip(answers, wanted, strict=True)
    )
    assert 0 < difference < 0.3
