"""The run folder: all that prediction needs, and nothing of the machine it came from.

``config.yaml`` (``format``, ``model``, and every setting as resolved, with the flow recipe and the split),
``labels.txt`` (a class a line, in the network's order), ``split.csv`` (which video was on which side),
``model.safetensors``, ``metrics.csv`` (a row an epoch) with ``curves.png``, and ``train.log``.  Each file is replaced
whole, so that a run stopped at any moment is a run that predicts.  ``checkpoint.safetensors`` is for training to go on
from; nothing else reads it.  ``probe.safetensors`` is the linear probe beside a run on cached features.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from actionfusion.errors import ActionFusionError, RunFolderError, SettingsError, WeightsError
from actionfusion.files import (
    is_left_over,
    refuse_unwritable,
    release_and_remove,
    replacing,
    take_lock,
    write_atomically,
)
from actionfusion.models import model_class
from actionfusion.models.flops import clip_flops
from actionfusion.models.model import VideoModel
from actionfusion.models.model_settings import ModelSettings
from actionfusion.settings import build, build_each, plain, read_yaml
from actionfusion.upgrade import FORMAT, tensor_name, upgraded
from actionfusion.video.clip import ClipSettings
from actionfusion.video.rates import FrameRates

Settings = TypeVar("Settings")

CONFIG, LABELS, WEIGHTS, METRICS, LOG = "config.yaml", "labels.txt", "model.safetensors", "metrics.csv", "train.log"
CHECKPOINT, CURVES, SPLIT = "checkpoint.safetensors", "curves.png", "split.csv"
PROBE = "probe.safetensors"
LOCAL = "resume.json"  # where this machine has what a training needs, until it is finished
LOCK = ".lock"
_RESTORE = "train the run again, or copy the whole run folder"
# What else is read of ``config.yaml`` where it is there; training has the types of what is in these sections.
_FURTHER: Mapping[str, Any] = {
    "data": Mapping[str, Any],
    "augmentation": Mapping[str, Any] | None,
    "training": Mapping[str, Any],
    "features": Mapping[str, Any] | None,
    "versions": Mapping[str, Any],
    "seed": int,
    "pretrained": str | None,
    "pretrained_fc6": str,
    "flow_start": str,
    "start": Mapping[str, Any],
    "start_doubts": tuple[str, ...],
    "rates": FrameRates | None,
    "flops": int,
}


@dataclass(frozen=True)
class RunFolder:
    """A trained run.

    Attributes:
        path: the folder.
        model: its name in the table of models.
        clip: what is cut from a video for this model, with the flow recipe.
        network: the model's settings as resolved.
        labels: class names in the network's order.
        config: the whole of ``config.yaml`` as plain values, with ``data``, ``training`` and ``versions``.
    """

    path: Path
    model: str
    clip: ClipSettings
    network: ModelSettings
    labels: tuple[str, ...]
    config: Mapping[str, Any] = field(repr=False)

    def save_weights(self, network: VideoModel) -> None:
        """Put the network's weights in place of those that are there.

        Raises:
            RunFolderError: they cannot be written; those that were there are still whole.
        """
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
        with writing(self.path / WEIGHTS), replacing(self.path / WEIGHTS) as temporary:
            save_file(tensors, temporary)

    def read_weights(self) -> dict[str, torch.Tensor]:
        """Read the tensors of ``model.safetensors``.

        Raises:
            WeightsError: no weights, a damaged file, or values that are not finite.
        """
        path = self.path / WEIGHTS
        if not is_there(path, WeightsError):
            raise WeightsError(path, "the run has no weights", _RESTORE)
        try:
            tensors = {tensor_name(name): tensor for name, tensor in load_file(path).items()}
        except (SafetensorError, OSError) as error:
            raise WeightsError(path, f"cannot be read ({error})", _RESTORE) from error
        unusable = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
        if unusable:
            raise WeightsError(path, f"{unusable[0]} holds values that are not finite", _RESTORE)
        return tensors

    @property
    def rates(self) -> FrameRates | None:
        """The frame rates of its training videos; None where they are not known, as of runs of version 0.1.

        Raises:
            RunFolderError: they are no rates.
        """
        found = self.config.get("rates")
        return None if found is None else typed(FrameRates, found, self.path / CONFIG, "rates")

    @property
    def flops(self) -> int:
        """Floating point operations of one clip, forward; counted where an earlier version did not keep them."""
        return int(self.config.get("flops") or clip_flops(self.model, self.network))

    @property
    def model_class(self) -> type[VideoModel]:
        """The class of the model."""
        return model_class(self.model)

    def load_network(self) -> VideoModel:
        """Load the trained model, in evaluation mode, on the CPU.

        Raises:
            WeightsError: as ``read_weights``, or tensors that do not fit the settings (named).
        """
        tensors = self.read_weights()
        network = self.model_class(self.network)
        network.make_rows(tensors)
        if misfits := misfitting_tensors(tensors, network.state_dict()):
            raise WeightsError(self.path / WEIGHTS, f"does not fit {CONFIG}: {misfits}", _RESTORE)
        network.load_state_dict(tensors)
        return network.eval()

    def write_metrics(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Write ``metrics.csv`` from all rows so far; the first row's keys are the columns.

        Raises:
            RunFolderError: it cannot be written; what was there is still whole.
        """
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        with writing(self.path / METRICS):
            write_atomically(self.path / METRICS, text.getvalue())

    def read_metrics(self) -> list[dict[str, float | None]]:
        """Read the rows of ``metrics.csv`` as numbers, None where a cell is empty; no rows if no epoch has ended."""
        path = self.path / METRICS
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return [{name: float(cell) if cell else None for name, cell in row.items()} for row in csv.DictReader(file)]


def create_run(
    path: Path,
    *,
    model: str,
    clip: ClipSettings,
    network: ModelSettings,
    labels: Sequence[str],
    further: Mapping[str, object],
) -> RunFolder:
    """Start a run folder: everything but the weights and the metrics.

    Args:
        path: a folder that does not exist yet, or is empty.
        model: its name in the table of models.
        clip: as resolved.
        network: as resolved.
        labels: class names in the network's order.
        further: more sections of ``config.yaml``; dataclasses become plain values.

    Raises:
        RunFolderError: the folder holds something already, or cannot be written.
    """
    refuse_taken(path)
    if fault := fault_of_labels(labels):
        raise RunFolderError(path, fault, "rename the class")
    config = {"format": FORMAT, "model": model, "clip": plain(clip), "network": plain(network)}
    config |= {name: plain(part) for name, part in further.items()}
    if model_class(model).exportable:
        config["flops"] = clip_flops(model, network)
    try:
        write_atomically(path / LABELS, "".join(f"{label}\n" for label in labels))
        write_atomically(path / CONFIG, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    except OSError as error:
        raise RunFolderError(path, f"cannot be written ({error.strerror})", "choose another --out") from error
    return RunFolder(path, model, clip, network, tuple(labels), config)


def fault_of_labels(labels: Sequence[str]) -> str | None:
    """Say what is wrong with class names, if one is empty, spans lines or is there twice; None if all are good."""
    for number, label in enumerate(labels, 1):
        if not label.strip():
            return f"the name of class {number} is empty"
        if "\n" in label or "\r" in label:
            return f"the name of class {number} spans lines, {label!r}"
    twice = [label for label, count in Counter(labels).items() if count > 1]
    return f"class {twice[0]!r} is there twice" if twice else None


def evaluation_path(run: Path, part: str) -> Path:
    """Return the path of a run's figures on one part of its split."""
    return run / f"evaluation_{part}.json"


def report_path(run: Path, part: str) -> Path:
    """Return the path of the page that shows them."""
    return run / f"report_{part}.html"


def names_in(folder: Path) -> set[str]:
    """Name what a folder holds, but for its lock and what a kill left of files that were being written."""
    return {item.name for item in folder.iterdir() if item.name != LOCK and not is_left_over(item.name)}


def refuse_taken(path: Path) -> None:
    """Raise a RunFolderError if a run folder holds something already, or is a file."""
    if path.exists() and (not path.is_dir() or names_in(path)):
        if is_unfinished(path):
            remedy = f"go on with it by train --resume --out {path}, or choose another --out"
            raise RunFolderError(path, "is a training that has not come to its end", remedy)
        raise RunFolderError(path, "exists already and is not empty", "choose another --out or remove it")


def is_unfinished(path: Path) -> bool:
    """Tell whether a folder is that of a training that was stopped, or is still at work."""
    return (path / LOCAL).is_file()


@contextmanager
def at_work(path: Path) -> Iterator[None]:
    """Keep other processes from working in a folder, which is made if need be, while the block lasts.

    Raises:
        OutputError: the folder cannot be written.
        RunFolderError: another process is at work in it.
    """
    refuse_unwritable(path / CONFIG)
    lock, missing = None, [folder for folder in (path, *path.parents) if not folder.exists()]
    with suppress(OSError):  # a disk without locks
        path.mkdir(parents=True, exist_ok=True)
        lock = take_lock(path / LOCK)
        if lock is None:
            raise RunFolderError(path, "another process is at work in it", "wait for it, or choose another --out")
    try:
        yield
    finally:
        if lock is not None:
            release_and_remove(lock)
        with suppress(OSError):  # nothing came of it
            for folder in missing:
                folder.rmdir()


def open_run(path: str | Path) -> RunFolder:
    """Open a run folder.

    Raises:
        RunFolderError: a file is missing, or is not what a run folder holds.
    """
    path = Path(path)
    for name in (CONFIG, LABELS):
        if not is_there(path / name, RunFolderError):
            raise RunFolderError(path, f"is no run folder: there is no {name}", "give the folder that train wrote")
    remedy = "copy the whole run folder again"
    config = upgraded(read_yaml(path / CONFIG, RunFolderError, remedy))
    if config["format"] != FORMAT:
        reason = f"has format {config['format']!r:.20}, this version reads 1 to {FORMAT}"
        raise RunFolderError(path / CONFIG, reason, "use the version that wrote it, or a later one")
    try:
        # Not splitlines, which also splits at signs that names may hold, such as U+2028.
        labels = tuple((path / LABELS).read_text(encoding="utf-8").removesuffix("\n").split("\n"))
    except (UnicodeDecodeError, OSError) as error:
        raise RunFolderError(path / LABELS, f"cannot be read ({error})", remedy) from error
    if not {"model", "clip", "network"} <= config.keys():
        raise RunFolderError(path / CONFIG, "holds no model, clip and network settings", remedy)
    try:
        model = build(str, config["model"], path / CONFIG, RunFolderError, remedy, within="model")
        settings = model_class(model).Settings
    except SettingsError as error:
        reason = f"names a model that this version does not have: {config['model']!r:.60}"
        raise RunFolderError(path / CONFIG, reason, "use a later version") from error
    clip = typed(ClipSettings, config["clip"], path / CONFIG, "clip")
    network = typed(settings, config["network"], path / CONFIG, "network")
    further = {name: value for name, value in config.items() if name in _FURTHER}
    build_each(_FURTHER, further, path / CONFIG, RunFolderError, remedy)
    if len(labels) != network.num_classes:
        raise RunFolderError(path / LABELS, f"{len(labels)} labels for {network.num_classes} classes", remedy)
    if fault := fault_of_labels(labels):
        raise RunFolderError(path / LABELS, fault, remedy)
    return RunFolder(path, model, clip, network, labels, config)


def is_there(path: Path, error: type[ActionFusionError]) -> bool:
    """Tell whether there is such a file, and see that it may be read: libraries call one that may not missing.

    Raises:
        ActionFusionError: ``error``, with the reason that the system gives.
    """
    try:
        if not path.is_file():
            return False
        with path.open("rb"):
            return True
    except OSError as fault:
        raise error(path, f"cannot be read ({fault.strerror or fault})", "ask its owner for the right to") from fault


def misfitting_tensors(tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> str:
    """Name in one line the tensors that are missing, misshapen or of another network; empty if all fit."""
    wrong = [
        f"{name} {list(tensors[name].shape) if name in tensors else 'missing'}, wanted {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name not in tensors or tensors[name].shape != tensor.shape
    ]
    wrong += [f"{name} is not of this network" for name in tensors if name not in expected]
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return ", ".join(wrong[:3]) + more


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of writing a file of a run into one line."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        remedy = "free some space or repair the folder, then train with --resume; what was there is whole"
        raise RunFolderError(path, f"cannot be written ({reason})", remedy) from error


def typed(kind: type[Settings], values: object, path: Path, name: str) -> Settings:
    """Build settings from plain values.

    Args:
        kind: their dataclass.
        values: as ``plain`` gives them.
        path: the file that they are from, for the error.
        name: of the section that they are.

    Raises:
        RunFolderError: a value that the dataclass does not take.
    """
    try:
        return build(kind, values, path, within=name)
    except SettingsError as error:
        reason = f"holds settings of another version ({error.reason}; {error.remedy})"
        raise RunFolderError(path, reason, "use that version, or train again") from error
