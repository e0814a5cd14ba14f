"""A whole protocol: its folds, its sums, and that stopping it anywhere changes nothing."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import actionfusion
from actionfusion.__main__ import main
from actionfusion.data.dataset import DataSettings
from actionfusion.data.listing import Listing, Split, VideoEntry
from actionfusion.errors import DatasetError, RunFolderError, SettingsError
from actionfusion.evaluation.evaluate import evaluate
from actionfusion.evaluation.folds import Fold, make_folds
from actionfusion.evaluation.pooling import FinishedFold, summarize
from actionfusion.evaluation.protocol import protocol
from actionfusion.intervals import wilson
from actionfusion.training.learner import Learner

pytestmark = pytest.mark.usefixtures("drawn_once")

RECIPE = {
    "data": {"dataset": "folder", "validation": "none", "group_pattern": r"(?P<group>p\d)_"},
    "clip": {"frames": 2, "flow_frames": 2, "flow": {"engine": "dis", "bound": 8.0, "size": 32}},
    "network": {
        "backbone": [4, "M", 8], "batch_norm": True, "conv_reduce": "max", "fc6_width": 8, "hidden": 6,
        "head": "linear",
    },
    "training": {
        "batch_size": 4, "workers": 0, "checkpoint_steps": 1,
        "stages": [{"learning_rate": 0.01, "max_epochs": 1, "patience": None}],
    },
}  # fmt: skip

# Each line of its input is a run of the command with the call at which it is killed, done by a fork.
DRIVER = """
import json, os, signal, sys
import jsonargparse
import actionfusion.evaluation.protocol as protocol
from actionfusion.__main__ import main
from actionfusion.models import FusionNetwork, FusionNetworkSettings
from actionfusion.training import checkpointing, loop
from actionfusion.training.cost import training_cost
from actionfusion.training.learner import Learner
from actionfusion.training.settings import TrainingSettings

def kill_at(owner, name, number):
    real, seen = getattr(owner, name), []
    def counted(*arguments, **options):
        seen.append(1)
        if len(seen) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    setattr(owner, name, counted)

OWNERS = {"step": (Learner, "step"), "measure": (protocol, "measure"), "train": (protocol, "train"),
          "write": (protocol, "write_atomically")}
# Found once and inherited; with shapes alone nothing is computed that a fork could stumble over.
training_cost(FusionNetwork, FusionNetworkSettings(**json.loads(sys.argv[1])), TrainingSettings(), cached=False)
loop.matrix_peak = lambda *_: 1e12  # to measure it takes half a second
checkpointing.save_curves = lambda _, path: path.write_bytes(b"drawn elsewhere")
for line in sys.stdin:
    words, where, number = json.loads(line)
    child = os.fork()
    if not child:
        if where:
            kill_at(*OWNERS[where], number)
        sys.stdout = sys.stderr = open(os.devnull, "w")
        os._exit(main(words))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture
def recipe(tmp_path, grouped_root):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE | {"data": RECIPE["data"] | {"root": str(grouped_root)}}))
    return path


def figures_of(folder):
    return json.loads((folder / "protocol.json").read_text())


@pytest.mark.slow
def test_killed_anywhere_it_ends_as_if_undisturbed(recipe, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(actionfusion.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    words = ["protocol", "leave-one-group-out", "--config", str(recipe), "--seeds", "[1]", "--out"]
    disturbed, undisturbed = str(tmp_path / "disturbed"), str(tmp_path / "undisturbed")
    killed = [("train", 1), ("step", 2), ("measure", 1), ("write", 2), ("step", 3)]
    resolved = RECIPE["network"] | {
        "num_classes": 2,
        "frames": 2,
        "image_size": 32,
        "flow_size": 32,
        "flow_channels": 4,
    }
    lines = [[[*words, disturbed], where, number] for where, number in killed]
    lines += [[[*words, disturbed], None, 0], [[*words, undisturbed], None, 0]]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(resolved)], input="".join(json.dumps(line) + "\n" for line in lines),
        capture_output=True, text=True, env=environment, check=True, timeout=300,
    )  # fmt: skip
    assert done.stdout.split() == ["-9"] * len(killed) + ["0", "0"]
    assert figures_of(Path(disturbed)) == figures_of(Path(undisturbed))
    assert figures_of(Path(disturbed))["complete"] is True
    assert sorted(path.name for path in Path(disturbed).rglob("*")) == sorted(
        path.name for path in Path(undisturbed).rglob("*")
    )


@pytest.fixture(scope="module")
def random_protocol(tmp_path_factory, quick_arguments):
    """Two draws of the paper's split under two seeds."""
    out = tmp_path_factory.mktemp("protocols") / "random"
    return protocol("random-7:3", out=out, repeats=2, seeds=(0, 5), **arguments(quick_arguments))


def arguments(quick_arguments, **changes):
    passed = {name: value for name, value in quick_arguments.items() if name not in {"out", "resume", "dry_run"}}
    return passed | changes


def test_folds_sums_and_means_are_those_of_the_folds(random_protocol):
    figures = figures_of(random_protocol.path)
    assert figures == random_protocol.figures
    assert [fold["fold"] for fold in figures["folds"]] == [
        "random-7:3-draw-0-seed-0", "random-7:3-draw-1-seed-0", "random-7:3-draw-0-seed-5", "random-7:3-draw-1-seed-5"
    ]  # fmt: skip
    assert [fold["split"] for fold in figures["folds"]] == [f"random 7:3, seed {n}, repeat 1" for n in (0, 1, 0, 1)]
    top1 = []
    for fold in figures["folds"]:
        alone = json.loads((random_protocol.path / fold["run"] / "evaluation_test.json").read_text())
        for name in ("count", "correct", "top1", "interval", "leaks", "group_interval"):
            assert fold[name] == alone[name]
        assert alone["seed"] == fold["seed"]
        assert fold["counts"]["test"] == 4
        top1.append(fold["top1"])
    draws, seeds = [fmean(top1[0::2]), fmean(top1[1::2])], [fmean(top1[:2]), fmean(top1[2:])]
    assert figures["over_splits"] == pytest.approx({"count": 2, "mean": fmean(top1), "deviation": stdev(draws)})
    assert figures["over_seeds"] == pytest.approx({"count": 2, "mean": fmean(top1), "deviation": stdev(seeds)})
    pooled = figures["pooled"]
    assert pooled["count"] == sum(fold["count"] for fold in figures["folds"]) == 16
    assert pooled["correct"] == sum(fold["correct"] for fold in figures["folds"])
    assert pooled["interval"] == pytest.approx(wilson(pooled["correct"], 16))
    assert pooled["videos"] <= 8
    assert figures["leaks"]["group"] == sum(fold["leaks"]["group"] for fold in figures["folds"]) > 0


def test_the_same_seed_gives_what_train_alone_gives(random_protocol, quick_arguments, grouped_root, tmp_path):
    from actionfusion.evaluation.evaluate import evaluate
    from actionfusion.training.train import train

    data = replace(quick_arguments["recipe"].data, split="random-7:3", seed=1)
    run = train(**quick_arguments | {"data": data, "seed": 5, "out": tmp_path / "run"})
    alone = evaluate(run, grouped_root).as_json()
    fold = random_protocol.path / random_protocol.figures["folds"][3]["run"]
    assert json.loads((fold / "evaluation_test.json").read_text()) == alone


def test_what_is_finished_is_not_done_again_and_more_seeds_are_added(
    random_protocol, quick_arguments, tmp_path, monkeypatch, capsys
):
    out = shutil.copytree(random_protocol.path, tmp_path / "protocol")
    monkeypatch.setattr(Learner, "step", lambda *_: pytest.fail("a finished fold was trained again"))
    again = protocol("random-7:3", out=out, repeats=2, seeds=(0, 5), **arguments(quick_arguments))
    assert again.figures == random_protocol.figures
    captured = capsys.readouterr()
    assert "4 of 4 folds are done already" in captured.err
    assert "of 16 tests" in captured.out
    monkeypatch.undo()
    more = protocol("random-7:3", out=out, repeats=1, seeds=(0, 7), **arguments(quick_arguments))
    assert [fold["seed"] for fold in more.figures["folds"]] == [0, 7]
    assert more.figures["folds"][0] == random_protocol.figures["folds"][0]


def test_another_recipe_is_refused_by_the_name_of_what_differs(random_protocol, quick_arguments, tmp_path):
    out = shutil.copytree(random_protocol.path, tmp_path / "protocol")
    training = replace(quick_arguments["recipe"].training, batch_size=3)
    with pytest.raises(SettingsError, match=r"training\.batch_size is 4 in the run and 3 now"):
        protocol("random-7:3", out=out, repeats=2, **arguments(quick_arguments, training=training))
    with pytest.raises(SettingsError, match="protocol is random-7:3 in the run and leave-one-out now"):
        protocol("leave-one-out", out=out, **arguments(quick_arguments))
    other = tmp_path / "other"
    other.mkdir()
    (other / "holiday.jpg").write_bytes(b"")
    with pytest.raises(RunFolderError, match="is not empty"):
        protocol("random-7:3", out=other, **arguments(quick_arguments))


def test_a_folder_of_an_earlier_version_goes_on(random_protocol, quick_arguments, tmp_path):
    out = shutil.copytree(random_protocol.path, tmp_path / "protocol")
    recipe = yaml.safe_load((out / "protocol.yaml").read_text())
    # As version 0.1 wrote it: no format and no model, and settings by their names of then.
    assert (recipe.pop("format"), recipe.pop("model")) == (2, "fusion")
    for name in ("size", "sampling", "stride"):
        del recipe["clip"][name]
    for section, after, before in (
        ("network", "backbone", "tower"), ("training", "stages", "sessions"), ("training", "freeze", "freeze_towers"),
    ):  # fmt: skip
        recipe[section][before] = recipe[section].pop(after)
    text = yaml.safe_dump(recipe, sort_keys=False)
    (out / "protocol.yaml").write_text(text)
    given = quick_arguments["recipe"]
    with pytest.raises(SettingsError, match=r"training\.batch_size is 4 in the run and 3 now"):
        protocol("random-7:3", given, out=out, repeats=2, training=replace(given.training, batch_size=3))
    assert (out / "protocol.yaml").read_text() == text
    (out / random_protocol.figures["folds"][1]["run"] / "evaluation_test.json").unlink()
    again = protocol("random-7:3", given, out=out, repeats=2, seeds=(0, 5))
    assert again.figures == random_protocol.figures


def test_a_recipe_that_no_fold_was_begun_with_can_be_mended(quick_arguments, tmp_path):
    out = tmp_path / "protocol"
    wrong = replace(quick_arguments["recipe"].training, freeze="conv99")
    with pytest.raises(SettingsError, match="conv99"):
        protocol("random-7:3", out=out, **arguments(quick_arguments, training=wrong))
    assert not protocol("random-7:3", out=out, **arguments(quick_arguments)).failed
    for text, fault in (("- 1\n", "is no recipe"), ("format: 2\n", "has no model")):
        (out / "protocol.yaml").write_text(text)
        with pytest.raises(RunFolderError, match=rf"protocol\.yaml: {fault}.*; choose another --out"):
            protocol("random-7:3", out=out, **arguments(quick_arguments))


def test_figures_of_several_views_are_not_mixed_with_those_of_one(random_protocol, quick_arguments, tmp_path):
    out = shutil.copytree(random_protocol.path, tmp_path / "protocol")
    fold = out / random_protocol.figures["folds"][1]["run"]
    evaluate(fold, quick_arguments["recipe"].data.root, views=2)
    with pytest.raises(RunFolderError, match=r"evaluation_test\.json: is of several views .*; remove that file"):
        protocol("random-7:3", out=out, repeats=2, seeds=(0, 5), **arguments(quick_arguments))
    (fold / "evaluation_test.json").unlink()
    again = protocol("random-7:3", out=out, repeats=2, seeds=(0, 5), **arguments(quick_arguments))
    assert again.figures == random_protocol.figures


def test_what_the_start_has_seen_is_said_of_all_folds(random_protocol, quick_arguments, tmp_path, capsys):
    start = random_protocol.path / random_protocol.figures["folds"][0]["run"]
    other = replace(quick_arguments["recipe"].data, seed=1)
    found = protocol(
        "random-7:3", out=tmp_path / "out", **arguments(quick_arguments, data=other, pretrained=str(start))
    )
    ((doubt,),) = (fold["start_doubts"] for fold in found.figures["folds"])
    assert "test videos have the names of videos that the run it starts from was trained" in doubt
    assert f"note: fold random-7:3-draw-1-seed-0: {doubt}" in capsys.readouterr().out
    assert {tuple(fold["start_doubts"]) for fold in random_protocol.figures["folds"]} == {()}


def test_a_data_set_that_has_changed_is_refused(random_protocol, quick_arguments, grouped_root, tmp_path):
    out = shutil.copytree(random_protocol.path, tmp_path / "protocol")
    root = shutil.copytree(grouped_root, tmp_path / "root")
    for name in ("p0_a.mp4", "p1_a.mp4", "p2_a.mp4"):
        shutil.copy(next((root / "motion_up").glob("*.mp4")), root / "motion_up" / name)
    data = replace(quick_arguments["recipe"].data, root=root)
    with pytest.raises(DatasetError, match="no longer split as fold-random"):
        protocol("random-7:3", out=out, repeats=2, seeds=(0, 5), **arguments(quick_arguments, data=data))


def test_a_fold_that_fails_is_counted_and_the_finished_ones_stay(quick_arguments, grouped_root, tmp_path, capsys):
    """A broken video: the fold that tests it counts it apart, the folds that would learn from it fail."""
    root = shutil.copytree(grouped_root, tmp_path / "root")
    broken = sorted((root / "motion_up").glob("p1*.mp4"))[0]
    whole = broken.read_bytes()
    broken.write_bytes(b"no video")
    data = replace(quick_arguments["recipe"].data, root=root, validation="none")
    given = arguments(quick_arguments, data=data)
    result = protocol("leave-one-group-out", out=tmp_path / "protocol", **given)
    assert result.failed
    figures = figures_of(tmp_path / "protocol")
    assert [fold["fold"] for fold in figures["folds"]] == ["leave-one-group-out:p1-seed-0"]
    assert (figures["folds"][0]["count"], figures["folds"][0]["failed"], figures["pooled"]["failed"]) == (3, 1, 1)
    assert [item["fold"] for item in figures["failed_folds"]] == [
        f"leave-one-group-out:{g}-seed-0" for g in ("p0", "p2")
    ]
    assert all(broken.name in item["message"] for item in figures["failed_folds"])
    assert figures["complete"] is False
    told = capsys.readouterr().out
    assert "1 of 3 folds done" in told
    assert told.count("failed and is not counted") == 2
    broken.write_bytes(whole)
    mended = protocol("leave-one-group-out", out=tmp_path / "protocol", **given)
    assert not mended.failed
    assert mended.figures["complete"] is True
    assert mended.figures["folds"][1] == figures["folds"][0]


def test_a_fold_without_a_readable_test_video_has_no_accuracy(quick_arguments, grouped_root, tmp_path, capsys):
    root = tmp_path / "root"
    for video in sorted(grouped_root.glob("*/p[01]*.mp4")):
        (root / video.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(video, root / video.parent.name)
    result = _protocol_with_unreadable_test(root, quick_arguments, tmp_path)
    fold = next(fold for fold in result.figures["folds"] if not fold["count"])
    assert fold["failed"] == 4
    assert result.figures["over_splits"]["count"] == 0
    assert "0/0" in capsys.readouterr().out


def _protocol_with_unreadable_test(root, quick_arguments, tmp_path):
    for video in root.glob("*/p0*.mp4"):
        video.write_bytes(f"no video {video.name}".encode())
    data = replace(quick_arguments["recipe"].data, root=root, validation="none")
    return protocol("leave-one-group-out", out=tmp_path / "protocol", **arguments(quick_arguments, data=data))


def test_a_fold_of_doubles_is_marked_and_stops_nothing(quick_arguments, grouped_root, tmp_path, capsys):
    root = tmp_path / "root"
    for video in sorted(grouped_root.glob("*/p[01]*.mp4")):
        (root / video.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(video, root / video.parent.name)
        if video.name.startswith("p0"):
            shutil.copy(video, root / video.parent.name / video.name.replace("p0", "p2"))
    data = replace(quick_arguments["recipe"].data, root=root, validation="none")
    result = protocol("leave-one-group-out", out=tmp_path / "protocol", **arguments(quick_arguments, data=data))
    assert [fold["trained_on"] for fold in result.figures["folds"]] == [True, False, True]
    assert result.figures["leaks"] == {"group": 0, "double": 8}
    assert "8 of videos with a duplicate there" in " ".join(capsys.readouterr().out.split())


def test_trained_weights_without_a_checkpoint_are_not_thrown_away(random_protocol, quick_arguments, tmp_path):
    out = shutil.copytree(random_protocol.path, tmp_path / "protocol")
    fold = out / random_protocol.figures["folds"][0]["run"]
    for name in ("evaluation_test.json", "checkpoint.safetensors"):
        (fold / name).unlink()
    with pytest.raises(RunFolderError, match="has weights"):
        protocol("random-7:3", out=out, repeats=2, seeds=(0, 5), **arguments(quick_arguments))
    assert (fold / "model.safetensors").is_file()


def test_weights_that_are_no_numbers_fail_their_fold_alone(random_protocol, quick_arguments, tmp_path):
    from safetensors.torch import load_file, save_file

    out = shutil.copytree(random_protocol.path, tmp_path / "protocol")
    fold = out / random_protocol.figures["folds"][1]["run"]
    tensors = load_file(fold / "model.safetensors")
    tensors["backbones.rgb.features.0.weight"].fill_(float("nan"))
    save_file(tensors, fold / "model.safetensors")
    (fold / "evaluation_test.json").unlink()
    result = protocol("random-7:3", out=out, repeats=2, seeds=(0, 5), **arguments(quick_arguments))
    assert [(item["run"], item["kind"]) for item in result.figures["failed_folds"]] == [(fold.name, "weights")]
    others = [item for item in random_protocol.figures["folds"] if item["run"] != fold.name]
    assert result.figures["folds"] == others


def test_the_command_takes_a_recipe_and_says_what_it_came_to(recipe, tmp_path, capsys):
    out = tmp_path / "protocol"
    out.mkdir()
    for ending in ("partial", "lock"):  # what is left by a kill while the first file was written
        (out / f".{0:032x}.{ending}").touch()
    assert main(["protocol", "grouped-7:3", "--config", str(recipe), "--out", str(out)]) == 0
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]
    told = capsys.readouterr().out
    assert "folder, grouped-7:3: 1 of 1 folds done" in told
    assert figures_of(out)["leaks"] == {"group": 0, "double": 0}
    assert main(["protocol", "grouped-8:2", "--config", str(recipe), "--out", str(out)]) == 2
    assert main(["protocol", "official", "--config", str(recipe), "--out", str(tmp_path / "none")]) == 1
    assert "makes no split 'official'" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_one_class_alone_is_refused_before_anything_is_written(quick_arguments, grouped_root, tmp_path):
    shutil.copytree(grouped_root / "motion_up", tmp_path / "root" / "motion_up")
    recipe = quick_arguments["recipe"]
    with pytest.raises(DatasetError, match="videos of one class alone, 'motion_up'"):
        protocol(
            "stratified-7:3", recipe.changed(data=replace(recipe.data, root=tmp_path / "root")), out=tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


def test_several_processes_are_refused(quick_arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match="runs in one process"):
        protocol("random-7:3", out=tmp_path / "protocol", **arguments(quick_arguments))


def listing(**official):
    entries = tuple(VideoEntry(f"{label}/g{n}/x.avi", label, f"{label}/g{n}") for label in "ab" for n in range(3))
    splits = {name: Split(name, (0, 1, 3, 4), (2, 5)) for name in official}
    return Listing("ucf101", Path("root"), entries, ("a", "b"), splits)


def test_folds_of_each_protocol():
    known = listing(**{"official-2": 1, "official-1": 1, "column": 1})
    names = {
        protocol_name: [fold.split_name for fold in make_folds(known, protocol_name, 3, repeats, (0,))]
        for protocol_name, repeats in (("official", 1), ("column", 1), ("random-7:3", 2), ("leave-one-group-out", 1))
    }
    assert names == {
        "official": ["official-1", "official-2"],
        "column": ["column"],
        "random-7:3": ["random-7:3-draw-3", "random-7:3-draw-4"],
        "leave-one-group-out": [f"leave-one-group-out:g{n}" for n in range(3)],
    }
    assert len(make_folds(known, "leave-one-out", 0, 1, (0, 1))) == 12
    for wrong in ({"repeats": 0}, {"repeats": 2}, {"seeds": ()}, {"seeds": (1, 1)}, {"seeds": (-1,)}):
        with pytest.raises(SettingsError, match=r"repeats|seeds"):
            make_folds(known, "official", 0, **({"repeats": 1, "seeds": (0,)} | wrong))
    with pytest.raises(DatasetError, match="makes no split 'folders'"):
        make_folds(known, "folders", 0, 1, (0,))


@given(st.lists(st.text(min_size=1, max_size=120), min_size=2, max_size=6, unique=True))
def test_folders_of_folds_differ_and_fit_any_file_system(paths):
    folders = [Fold(f"leave-one-out:{path}", 0, 0, drawn=False).folder for path in paths]
    assert len({folder.lower() for folder in folders}) == len(paths)
    assert all(len(folder) < 120 and folder.replace("fold-", "", 1).isascii() for folder in folders)
    assert all(not set(folder) & set('/\\:*?"<>| ') for folder in folders)


evaluations = st.lists(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=8), min_size=1, max_size=5)


def _finished(fold, rows):
    videos = [
        {"video": str(name), "label": "ac"[name % 2], "predicted": "ac"[name % 2] if right else "b", "group": None}
        for name, right in rows
    ]
    correct = sum(right for _, right in rows)
    evaluation = dict.fromkeys(("split", "counts", "interval", "groups", "group_interval", "mean_class_accuracy"))
    evaluation |= dict.fromkeys(("missing_classes", "trained_on", "selected_on_part", "views"))
    evaluation |= {"count": len(rows), "correct": correct, "top1": correct / max(len(rows), 1), "failed": []}
    return FinishedFold(fold, evaluation | {"leaks": {"group": 1, "double": 2}, "videos": videos})


def test_what_a_seed_found_is_counted_over_folds_of_any_size():
    folds = [[(1, True), (2, True), (3, False), (4, False), (5, False)], [(6, True)]]
    finished = [_finished(Fold("column", number, 7, drawn=False), rows) for number, rows in enumerate(folds)]
    assert summarize(finished, [], [item.fold for item in finished])["by_seed"] == [
        {
            "seed": 7,
            "count": 2,
            "mean": 0.7,
            "deviation": pytest.approx(stdev([0.4, 1])),
            "predictions": 6,
            "correct": 3,
        }
    ]


@given(evaluations)
def test_pooled_counts_are_the_sums(answered):
    finished = [_finished(Fold("column", 0, seed, drawn=False), rows) for seed, rows in enumerate(answered)]
    figures = summarize(finished, [], [item.fold for item in finished])
    rows = [row for part in answered for row in part]
    assert figures["pooled"]["count"] == len(rows)
    assert figures["pooled"]["correct"] == sum(right for _, right in rows)
    assert figures["pooled"]["videos"] == len({name for name, _ in rows})
    by_class = figures["pooled"]["by_class"]
    assert by_class == {
        label: {"correct": sum(of), "count": len(of)}
        for label, of in (("ac"[odd], [right for name, right in rows if name % 2 == odd]) for odd in (0, 1))
        if of
    }
    assert figures["leaks"] == {"group": len(answered), "double": 2 * len(answered)}
    shares = [fmean(right for _, right in part) for part in answered if part]
    assert figures["over_seeds"]["count"] == len(shares)
    if shares:
        assert figures["over_seeds"]["mean"] == pytest.approx(fmean(shares))
    interval = figures["pooled"]["group_interval"]
    if len({name for name, _ in rows}) == len(rows):
        assert interval is None
    elif interval is not None:
        low, high = wilson(figures["pooled"]["correct"], len(rows))
        assert interval[0] <= low + 1e-12
        assert interval[1] >= high - 1e-12


def test_the_folders_own_parts_and_what_ended_the_sessions(quick_arguments, shapes_root, tmp_path, capsys):
    data = DataSettings(root=shapes_root, validation="test")
    result = protocol("folders", out=tmp_path / "protocol", **arguments(quick_arguments, data=data))
    assert result.figures["pooled"]["count"] == 16
    assert result.figures["folds"][0]["selected_on_part"] is True
    assert "these figures flatter" in capsys.readouterr().out
