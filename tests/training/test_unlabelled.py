"""A first stage without labels, and what a model adds to its loss."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
import torch
import yaml

from actionfusion.data.loading import Batch, Step
from actionfusion.errors import SettingsError
from actionfusion.models.systems.adascan import AdaScan, AdaScanSettings
from actionfusion.models.systems.composite_lstm import CompositeLSTM, CompositeLSTMSettings
from actionfusion.training.distributed import Processes
from actionfusion.training.learner import Learner
from actionfusion.training.plan import make_plan
from actionfusion.training.recipe import Recipe
from actionfusion.training.resume import recorded_recipe, refuse_contradictions
from actionfusion.training.settings import TrainingSettings
from actionfusion.training.stages import Stage
from actionfusion.training.train import train

SMALL = {"frames": 4, "image_size": 32, "backbone": (4, "M", 6), "batch_norm": False, "streams": "rgb"}


def a_step(count: int = 4) -> Step:
    generator = torch.Generator().manual_seed(1)
    rgb = torch.randint(0, 256, (count, 4, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Step((Batch({"rgb": rgb}, torch.arange(count) % 3, tuple(map(str, range(count)))),), count)


def changed_by_a_step(learner: Learner, *, labels: bool) -> set[str]:
    before = {name: value.clone() for name, value in learner.network.named_parameters()}
    learner.step(a_step(), 1e-3, labels=labels)
    return {name for name, value in learner.network.named_parameters() if not torch.equal(value, before[name])}


def test_both_stages_teach_the_encoder_and_each_its_own_part():
    network = CompositeLSTM(CompositeLSTMSettings.tiny(3, **SMALL))
    names = {name for name, _ in network.named_parameters()}
    decoders, answer = ({name for name in names if part in name} for part in ("decoders", "answer"))

    assert changed_by_a_step(Learner(network, TrainingSettings()), labels=False) == names - answer
    assert changed_by_a_step(Learner(network, TrainingSettings()), labels=True) == names - decoders
    totals = Learner(network, TrainingSettings()).step(a_step(), 1e-9, labels=False)
    features = network.features(a_step().batches[0].inputs)
    assert totals.loss == pytest.approx(network.unlabelled_loss(features).item(), rel=1e-5)
    assert (totals.correct, totals.count) == (0, 4)


def test_what_a_model_adds_to_its_loss_is_learned_by_and_not_counted():
    def learned(peak: float) -> tuple[float, torch.Tensor]:
        torch.manual_seed(0)
        network = AdaScan(AdaScanSettings.tiny(3, **SMALL, peak=peak))
        totals = Learner(network, TrainingSettings()).step(a_step(), 1e-9)
        return totals.loss, network.towers["rgb"].weigh[0].weight.grad

    (plain, gradient), (peaked, other) = learned(0.0), learned(100.0)
    assert plain == peaked
    assert (other - gradient).abs().max() > gradient.abs().max()


def test_the_run_has_the_stage_and_no_accuracy_of_it(train_arguments, tmp_path, capsys):
    given = train_arguments["recipe"]
    network = CompositeLSTMSettings.tiny(8, **SMALL, unlabelled_epochs=2)
    run = train(given.changed(model="composite_lstm", network=network), out=tmp_path / "run", device="cpu")

    assert "stage 1 of composite_lstm learns without labels, 2 epochs\n" in capsys.readouterr().err
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["session"], bool(row["train_accuracy"]), bool(row["val_accuracy"])) for row in rows] == [
        ("1", False, False),
        ("1", False, False),
        ("2", True, True),
    ]
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert [(stage["labels"], stage["max_epochs"]) for stage in config["training"]["stages"]] == [(False, 2), (True, 1)]
    recipe, _ = recorded_recipe(run)
    assert recipe.fitted(8) == recipe  # it has the stage already
    older = {**config, "training": {**config["training"], "stages": [
        {name: value for name, value in stage.items() if name != "labels" or not value}
        for stage in config["training"]["stages"]
    ]}}  # fmt: skip
    refuse_contradictions(older, config, run)


def test_a_run_stopped_in_its_labelled_stage_is_not_finished(train_arguments, tmp_path, monkeypatch):
    given = train_arguments["recipe"].changed(
        model="composite_lstm", network=CompositeLSTMSettings.tiny(8, **SMALL, unlabelled_epochs=1)
    )
    assert len(given.training.stages) == 1  # that without labels is the model's own
    whole = train(given, out=tmp_path / "whole", device="cpu")

    with monkeypatch.context() as patch:
        step = Learner.step

        def stopped(learner, given, rate, *, labels=True):
            if labels:
                raise KeyboardInterrupt
            return step(learner, given, rate, labels=labels)

        patch.setattr(Learner, "step", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(given, out=tmp_path / "stopped", device="cpu")
    resumed = train(given, out=tmp_path / "stopped", device="cpu", resume=True)
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_stage_without_labels_is_refused_where_there_is_none(train_arguments):
    recipe = train_arguments["recipe"]
    unlabelled = replace(recipe.training, stages=(Stage(labels=False), Stage()))
    with pytest.raises(SettingsError, match=r"training\.stages: fusion learns nothing without labels"):
        recipe.changed(training=unlabelled).fitted(8)


def test_several_processes_do_not_learn_without_labels(train_arguments, tmp_path):
    processes = Processes("cpu")
    processes.share = replace(processes.share, processes=2)
    recipe: Recipe = train_arguments["recipe"].changed(model="composite_lstm")
    with pytest.raises(SettingsError, match="learns without labels first, in one process; start it without torchrun"):
        make_plan(recipe, processes).check(tmp_path / "run")
