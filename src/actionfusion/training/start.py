"""What the weights of a new training start from: random numbers, pretrained backbones, or an earlier run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from actionfusion.data.layouts.table import read_rows
from actionfusion.errors import RunFolderError, SettingsError, WeightsError
from actionfusion.models.model import VideoModel
from actionfusion.models.model_settings import ModelSettings
from actionfusion.models.weights import Checkpoint, LoadReport, by_module, file_sha256, modules_line
from actionfusion.run_folder import CONFIG, SPLIT, WEIGHTS, RunFolder, open_run
from actionfusion.settings import build, plain
from actionfusion.training.recipe import Recipe


@dataclass(frozen=True)
class StartRecord:
    """The section ``start`` of ``config.yaml``; parameters are counted by module.

    Attributes:
        source: name of the file without its folder, or the hub's name for it; None where all weights are random.
        sha256: of the file.
        loaded: parameters that are the source's.
        averaged: those of them that are the mean of its RGB filters.
        random: the others.
        seen_in_test: test videos whose names are those of videos that the source, a run, was trained or validated on.
        started_from_a_run: whether the source, a run, started from a run itself, whose videos are not known here.
    """

    source: str | None
    sha256: str | None
    loaded: Mapping[str, int]
    averaged: Mapping[str, int]
    random: Mapping[str, int]
    seen_in_test: int = 0
    started_from_a_run: bool = False


@dataclass(frozen=True)
class Start:
    """What a training starts from.

    Attributes:
        lines: for the user: what was loaded from where, what stayed random, and what of that stays so.
        record: what the run keeps of it.
    """

    lines: tuple[str, ...]
    record: StartRecord


def start_from(network: VideoModel, given: Recipe, labels: Sequence[str], tested: Collection[str] = ()) -> Start:
    """Put the weights that a recipe starts from into a new network.

    Args:
        network: of the recipe, its weights random, its layers frozen as they are to be.
        given: the recipe, resolved.
        labels: classes that are to be learned.
        tested: names of the videos that it is to be tested on.

    Raises:
        DatasetError: the run's table of its videos is damaged.
        WeightsError: the weights are missing, damaged or of another backbone.
        RunFolderError: a folder that is no run.
    """
    notes: list[str] = []
    source, seen, before = given.pretrained, 0, False
    if source is None:
        report = LoadReport("", "", (), tuple(name for name, _ in network.named_parameters()))
        first = "all weights start at random"
        if given.flow_start != "random":
            first += f"; flow_start {given.flow_start} has no effect"
    else:
        if source != "imagenet" and Path(source).is_dir():
            run = open_run(source)
            report, notes = _load_run(network, run, given), _run_notes(run, given, labels)
            seen, before = len(_seen_by(run) & set(tested)), _began_from_a_run(run)
            notes += [f"note: {doubt}" for doubt in _doubts(seen, before)]
        else:
            report = network.load_pretrained(source, fc6=given.pretrained_fc6, flow_start=given.flow_start)
        first = str(report)
    counts = {name: by_module(getattr(report, name)) for name in ("loaded", "averaged", "random")}
    record = StartRecord(
        report.source or None, report.sha256 or None, **counts, seen_in_test=seen, started_from_a_run=before
    )
    return Start((first, *notes, *_frozen_notes(network, given, report)), record)


def _load_run(network: VideoModel, run: RunFolder, given: Recipe) -> LoadReport:
    path = run.path / WEIGHTS
    tensors = run.read_weights()
    checkpoint = Checkpoint(str(path), f"{given.pretrained_name}/{WEIGHTS}", file_sha256(path), tensors)
    report = network.load_fitting(checkpoint, fc6=given.pretrained_fc6)
    start = "backbones." if network.backbones else ""
    if not any(name.startswith(start) for name in report.loaded):
        there, here = _described(run.model, run.network), _described(given.model, given.network)
        reason = f"it is of {there}, of which {'no backbone' if start else 'nothing'} fits {here}"
        raise WeightsError(run.path, reason, "take that model and backbone, or other weights")
    return report


def _described(model: str, settings: ModelSettings) -> str:
    backbone = getattr(settings, "backbone", None)
    return f"model {model}" if backbone is None else f"model {model} with backbone {plain(backbone)}"


def _run_notes(run: RunFolder, given: Recipe, labels: Sequence[str]) -> list[str]:
    """Say how what the run has seen differs from what it is to see."""
    notes = []
    if run.clip.reads_flow and given.clip.reads_flow and run.clip.flow != given.clip.flow:
        notes.append(f"note: the weights have learned from flow by {run.clip.flow}; now it is {given.clip.flow}")
    if len(run.labels) == len(labels) and run.labels != tuple(labels):
        notes.append("note: the run tells as many classes apart, but others or in another order")
    return notes


def _began_from_a_run(run: RunFolder) -> bool:
    start = read_start(run)
    # ImageNet's weights from the hub are in a file of that name too.
    if start is None or start.source is None or run.config.get("pretrained") == "imagenet":
        return False
    return start.source.endswith(f"/{WEIGHTS}")


def _seen_by(run: RunFolder) -> set[str]:
    if not (run.path / SPLIT).is_file():
        return set()
    rows = read_rows(run.path / SPLIT, ("path", "part"))
    return {row.cells["path"] for row in rows if row.cells["part"] != "test"}


def _doubts(seen: int, started_from_a_run: bool) -> tuple[str, ...]:
    doubts = []
    if seen:
        doubts.append(
            f"{seen} test videos have the names of videos that the run it starts from was trained or validated on; if "
            "they are the same, the accuracy flatters"
        )
    if started_from_a_run:
        doubts.append(
            "the run it starts from started from a run itself, whose videos are not known here; if test videos are "
            "among them, the accuracy flatters"
        )
    return tuple(doubts)


def _frozen_notes(network: VideoModel, given: Recipe, report: LoadReport) -> list[str]:
    """Say which of the backbones' layers do not learn, and which of them stay random."""
    cached = given.features.folder is not None
    frozen = "all" if cached or network.solved else given.training.freeze
    if frozen is None:
        return []
    if not network.backbones:
        fixed = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
        notes = ["the plain clip of each video is read, without augmentation"]
        if random := [name for name in report.random if name in fixed]:
            notes.append(f"note: these start at random, and stay so: {modules_line(by_module(random))}")
        return notes
    layers = "the backbones" if frozen == "all" else f"the backbones' layers up to {frozen}"
    notes = [f"{layers} stay as they are"]
    if cached:
        views, seed = given.features.views, given.features.seed
        taken = f"{views} augmented views of --features.seed {seed} in turn" if views else "no augmented views"
        notes[0] += f", and their features are read: {taken}, where training end to end draws new ones each epoch"
    elif network.solved:
        notes[0] += ", and the plain clip of each video is read, without augmentation"
    if frozen != given.training.freeze and given.training.freeze is not None:
        notes.append(f"note: training.freeze {given.training.freeze} has no effect")
    kept = {
        name
        for name, parameter in network.named_parameters()
        if name.startswith("backbones.") and (frozen == "all" or not parameter.requires_grad)
    }
    random = [name for name in report.random if name in kept]
    if given.pretrained is None:
        notes.append(f"note: {layers} start at random, and stay so")
    elif random:
        notes.append(f"note: among them these start at random, and stay so: {modules_line(by_module(random))}")
    return notes


def refuse_other_start(run: RunFolder, start: Start) -> None:
    """See that a training that begins again starts from the weights that it was begun with.

    Raises:
        RunFolderError: the record of the run is damaged.
        SettingsError: it starts from others, though they may have the same name.
    """
    before, now = read_start(run), start.record
    if before is not None and before.sha256 != now.sha256:
        found = [f"{each.source} (SHA-256 {str(each.sha256)[:12]})" for each in (before, now)]
        remedy = "say where the weights are: --pretrained PATH, or train anew under another --out"
        raise SettingsError(run.path, f"was begun from {found[0]}, and this is {found[1]}", remedy)


def read_start(run: RunFolder) -> StartRecord | None:
    """Read what a run records of its start; None where it is of a version that recorded nothing.

    Raises:
        RunFolderError: the record is damaged.
    """
    if "start" not in run.config:
        return None
    return build(StartRecord, run.config["start"], run.path / CONFIG, RunFolderError, within="start")


def start_doubts(run: RunFolder) -> tuple[str, ...]:
    """Say where the test part may not be new to what the training started from, or that of a run in an average.

    Raises:
        RunFolderError: the record is damaged.
    """
    start = read_start(run)
    own = () if start is None else _doubts(start.seen_in_test, start.started_from_a_run)
    return (*own, *run.config.get("start_doubts", ()))


def start_line(run: RunFolder) -> str | None:
    """Write what a run records of its start as a line; None where it is of a version that recorded nothing.

    Raises:
        RunFolderError: the record is damaged.
    """
    start = read_start(run)
    if start is None:
        return None
    if start.source is None:
        return "all weights at random"
    line = f"{start.source} (SHA-256 {str(start.sha256)[:12]})"
    if run.config.get("pretrained") == "imagenet":
        line = f"imagenet: {line}"
    if start.averaged:
        line += f", the first layer of {', '.join(start.averaged)} by the mean of the RGB filters"
    return f"{line}, random: {', '.join(start.random) or 'nothing'}"
