"""The average of runs against the mean of what each of them says, and what cannot be averaged."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from actionfusion import average, evaluate, export, report, train
from actionfusion.__main__ import main
from actionfusion.errors import RunFolderError, SettingsError
from actionfusion.inference.recognizer import Recognizer
from actionfusion.models import model_class
from actionfusion.run_folder import open_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory, quick_arguments):
    """Train a run with other settings of the recipe, by the name of its section."""
    folder, recipe = tmp_path_factory.mktemp("members"), quick_arguments["recipe"]

    def run(name, **sections):
        changes = {
            section: replace(getattr(recipe, section), **change) if isinstance(change, dict) else change
            for section, change in sections.items()
        }
        return train(recipe.changed(**changes), out=folder / name)

    return run


@pytest.fixture(scope="module")
def streams(trained):
    return [trained(stream, network={"streams": stream}) for stream in ("rgb", "flow")]


def answers(run, videos, **options):
    recognizer = Recognizer.load(run, **{"runtime": "torch", "device": "cpu"} | options)
    return np.array([[item.probability for item in by_label(recognizer.predict(video, 2))] for video in videos])


def by_label(predictions):
    return sorted(predictions, key=lambda item: item.label)


def test_what_flatters_a_member_flatters_the_average(trained, grouped_root, tmp_path):
    runs = [trained("unseen", seed=1), trained("flattered", seed=2)]
    config = yaml.safe_load((runs[1] / "config.yaml").read_text())
    config["data"]["validation"] = "test"
    config["start"] |= {"source": "old/model.safetensors", "sha256": "0", "seen_in_test": 3}
    (runs[1] / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    for number, order in enumerate((runs, runs[::-1])):
        found = evaluate(average(order, out=tmp_path / str(number)), grouped_root)
        assert found.selected_on_part
        assert sum("3 test videos have the names of videos" in note for note in found.notes) == 1


def test_it_answers_with_the_mean_of_its_members(streams, trained, grouped_root, tmp_path):
    videos = sorted(grouped_root.rglob("*.mp4"))[::4]
    runs = [*streams, trained("seed", seed=5)]
    weights = (1.0, 1.5, 2.0)

    made = average(runs, out=tmp_path / "average", weights=weights)

    expected = sum(weight * answers(run, videos) for weight, run in zip(weights, runs, strict=True)) / sum(weights)
    assert answers(made, videos) == pytest.approx(expected, abs=1e-6)
    assert open_run(made).clip.streams == ("rgb", "flow")
    assert len({tuple(row) for row in expected}) > 1


def test_every_command_takes_it_like_another_run(streams, grouped_root, tmp_path, capsys):
    made = tmp_path / "average"
    assert main(["average", *map(str, streams), "--out", str(made)]) == 0
    video = min(grouped_root.rglob("*.mp4"))

    measured = evaluate(made, grouped_root)
    each = [evaluate(run, grouped_root) for run in streams]
    assert measured.probabilities == pytest.approx(sum(run.probabilities for run in each) / 2, abs=1e-6)
    assert report(made, root=grouped_root, out=tmp_path / "page.html").is_file()
    assert main(["predict", str(made), str(video), "--json"]) == 0
    assert main(["explain", str(made), str(video), "--out", str(tmp_path / "explained")]) == 0
    assert main(["train", "--resume", "--out", str(made)]) == 1
    assert "does not say how the run was trained" in capsys.readouterr().err

    exported = export(made, format="onnx", out=tmp_path / "exported")
    assert answers(exported, [video], runtime="onnx", device=None) == pytest.approx(answers(made, [video]), abs=1e-4)


def test_an_average_can_be_averaged_again(streams, grouped_root, tmp_path):
    inner = average(streams, out=tmp_path / "inner")
    outer = average([inner, streams[0]], out=tmp_path / "outer")
    video = [min(grouped_root.rglob("*.mp4"))]
    assert answers(outer, video) == pytest.approx((answers(inner, video) + answers(streams[0], video)) / 2, abs=1e-6)


def test_its_members_are_folded_like_other_networks(streams, tmp_path):
    made = open_run(average(streams, out=tmp_path / "average")).load_network()
    modes = [module.training for module in made.modules()]
    clip = {
        name: torch.randint(0, 256, (1, 2, channels, 32, 32), dtype=torch.uint8)
        for name, channels in (("rgb", 3), ("flow", 4))
    }
    with torch.inference_mode():
        plain = made.scores(made(**clip))
    with made.evaluating():
        assert made.scores(made(**clip)).numpy() == pytest.approx(plain.numpy(), abs=1e-5)
    assert [module.training for module in made.modules()] == modes


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"data": {"split": "stratified-7:3"}}, "was trained on another split"),
        ({"data": {"seed": 3}}, "was trained on another split"),
        ({"clip": {"frames": 3}}, "reads other clips than .*: frames 3, not 2"),
        (
            {"clip": {"size": 48}, "network": {"streams": "rgb"}},
            "reads other clips than .*: decoded at 48, not 32, size 48, not 32",
        ),
    ],
)
def test_runs_that_do_not_go_together_are_refused(changes, why, streams, trained, tmp_path):
    with pytest.raises(RunFolderError, match=why):
        average([streams[0], trained(str(tmp_path.name), **changes)], out=tmp_path / "average")
    assert not (tmp_path / "average").exists()


def test_other_classes_are_refused(streams, tiny_run, tmp_path):
    with pytest.raises(RunFolderError, match=r"has other classes than .*rgb \(appearance_"):
        average([streams[0], tiny_run], out=tmp_path / "average")


def test_a_flow_of_another_kind_is_refused_only_where_both_read_flow(streams, trained, tmp_path):
    clip = {"flow_frames": 4}
    other = trained("longer_flow", network={"streams": "flow"}, clip=clip)
    with pytest.raises(RunFolderError, match="flow_frames 4, not 2"):
        average([streams[1], other], out=tmp_path / "average")
    assert open_run(average([streams[0], other], out=tmp_path / "average")).clip.flow_frames == 4


@pytest.mark.parametrize(
    ("count", "weights", "why"),
    [(1, None, "one run has no average"), (2, (1.0,), "1 for 2 runs"), (2, (1.0, 0.0), "0.0 is no share"),
     (2, (1.0, float("nan")), "nan is no share")],
)  # fmt: skip
def test_numbers_that_make_no_sense_are_refused(count, weights, why, streams, tmp_path):
    with pytest.raises(SettingsError, match=why):
        average(streams[:count], out=tmp_path / "average", weights=weights)


def test_no_run_is_written_over(streams, tmp_path):
    with pytest.raises(RunFolderError, match="exists already"):
        average(streams, out=streams[0])


def test_nothing_trains_it_by_its_name():
    with pytest.raises(SettingsError, match="make one of runs"):
        model_class("average").Settings()


def test_a_changed_config_is_refused_in_one_line(streams, tmp_path):
    made = average(streams, out=tmp_path / "average")
    config = yaml.safe_load((made / "config.yaml").read_text())
    for change, why in (
        ({"model": "dense_trajectories"}, "works outside PyTorch|settings of another version"),
        ({"weight": -1}, "-1 is no share"),
        ({"model": ["fusion"]}, "settings of another version"),
    ):
        changed = json.loads(json.dumps(config))
        changed["network"]["members"][0] |= change
        (made / "config.yaml").write_text(yaml.safe_dump(changed))
        with pytest.raises(RunFolderError, match=why):
            open_run(made)
