"""The checkpoint of a run: all that a training needs to go on as if nothing had happened.

``checkpoint.safetensors`` holds the tensors (weights, the optimiser's moments, random number generators) and, as JSON
in its header, where the training stands.  It is one file so that it is replaced whole or not at all; nothing in it can
run code.  Python's and NumPy's global generators are not in it: no part of a training draws from them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from actionfusion.errors import RunFolderError
from actionfusion.files import replacing
from actionfusion.models.model import VideoModel
from actionfusion.run_folder import CHECKPOINT, LOG, RunFolder, is_there, misfitting_tensors, writing
from actionfusion.settings import build_each, parse_json
from actionfusion.training.distributed import Processes
from actionfusion.training.learner import Learner
from actionfusion.training.measuring import Totals
from actionfusion.training.stages import Plateau
from actionfusion.upgrade import tensor_name

FORMAT = 2
_STATE = "state"
_AGAIN = "train the run again under another --out"
_COUNTS = ("stage", "epoch", "step", "log_size")
_STATE_KINDS: Mapping[str, Any] = dict.fromkeys(_COUNTS, int) | {"rows": tuple[Mapping[str, Any], ...]}
_LARGEST_STATE = 64 << 20


@dataclass
class TrainingState:
    """Where a training stands.

    Attributes:
        stage: number of the stage, from 0; as many as there are when the training is finished.
        epoch: epochs of that stage that are done.
        step: steps of the current epoch that are done.
        totals: running sums of the current epoch.
        plateau: what the stage knows of its best epoch.
        seconds: that the current epoch has taken so far.
        waited: those of them in which the network waited for clips.
        rows: of ``metrics.csv``, one for each epoch of all stages.
    """

    stage: int = 0
    epoch: int = 0
    step: int = 0
    totals: Totals = field(default_factory=Totals)
    plateau: Plateau = field(default_factory=Plateau)
    seconds: float = 0.0
    waited: float = 0.0
    rows: list[dict[str, object]] = field(default_factory=list)

    def end_epoch(self, row: dict[str, object]) -> None:
        """Write an epoch down and stand before the next."""
        self.rows.append(row)
        self.epoch, self.step, self.totals = self.epoch + 1, 0, Totals()
        self.seconds = self.waited = 0.0

    def end_stage(self) -> None:
        """Stand before the next stage."""
        self.stage, self.epoch, self.plateau = self.stage + 1, 0, Plateau()


def save_checkpoint(run: RunFolder, learner: Learner, state: TrainingState) -> None:
    """Replace the run's checkpoint; all processes call it, and the main one writes.

    Raises:
        RunFolderError: it cannot be written, for example because the disk is full; the one before it is whole.
    """
    random = _random_numbers(learner.processes)
    if not learner.processes.main:
        return
    path, log = run.path / CHECKPOINT, run.path / LOG
    plain = asdict(state) | {"format": FORMAT, "log_size": log.stat().st_size if log.is_file() else 0}
    with writing(path), replacing(path) as temporary:
        save_file(learner.tensors() | random, temporary, metadata={_STATE: json.dumps(plain)})


def load_checkpoint(run: RunFolder, learner: Learner) -> TrainingState:
    """Put network, optimiser and random numbers back, and say where the training stands.

    Raises:
        RunFolderError: there is no checkpoint, it is damaged, or it is another network's.
    """
    path = run.path / CHECKPOINT
    plain = read_state(run.path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {tensor_name(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        learner.restore(tensors)
        _restore_random_numbers(tensors, learner.processes.share.rank)
        return TrainingState(
            stage=plain["stage"],
            epoch=plain["epoch"],
            step=plain["step"],
            totals=Totals(**plain["totals"]),
            plateau=Plateau(**plain["plateau"]),
            seconds=plain["seconds"],
            waited=plain["waited"],
            rows=plain["rows"],
        )
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RunFolderError(path, f"does not fit this run ({_line(error)})", _AGAIN) from error


def read_network(run: RunFolder) -> dict[str, Tensor]:
    """Read the weights in a run's checkpoint, which are never those of a training gone wrong.

    Raises:
        RunFolderError: as ``read_state``.
    """
    read_state(run.path)
    with safe_open(run.path / CHECKPOINT, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith("network.")]  # noqa: SIM118
        return {tensor_name(name).removeprefix("network."): file.get_tensor(name) for name in names}


def load_network(run: RunFolder, network: VideoModel) -> None:
    """Put the weights of a run's checkpoint into a network, and nothing else.

    Raises:
        RunFolderError: as ``read_state``, or the checkpoint is another network's.
    """
    weights = read_network(run)
    network.make_rows(weights)
    if misfits := misfitting_tensors(weights, network.state_dict()):
        raise RunFolderError(run.path / CHECKPOINT, f"does not fit this run ({misfits})", _AGAIN)
    network.load_state_dict(weights)


def read_state(folder: Path) -> Mapping[str, Any]:
    """Read what a run's checkpoint says of itself, without its tensors.

    Raises:
        RunFolderError: there is none, or it is damaged.
    """
    path = folder / CHECKPOINT
    if not is_there(path, RunFolderError):
        raise RunFolderError(folder, f"has no {CHECKPOINT} to go on from", _AGAIN)
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {})[_STATE]
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise RunFolderError(path, f"is damaged ({_line(error)})", _AGAIN) from error
    plain = parse_json(text, path, RunFolderError, _AGAIN, largest=_LARGEST_STATE, finite=False)
    if isinstance(plain, dict) and plain.get("format") == 1:  # of version 0.1
        plain = {"stage" if name == "session" else name: value for name, value in plain.items()} | {"format": FORMAT}
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        found = plain.get("format") if isinstance(plain, dict) else None
        raise RunFolderError(path, f"has format {found!r:.20}, this version reads 1 to {FORMAT}", _AGAIN)
    known = build_each(_STATE_KINDS, {name: plain.get(name) for name in _STATE_KINDS}, path, RunFolderError, _AGAIN)
    if min(known[name] for name in _COUNTS) < 0 or len({tuple(row) for row in known["rows"]}) > 1:
        raise RunFolderError(path, "is damaged (a count below 0, or epochs of several kinds)", _AGAIN)
    return plain


def _random_numbers(processes: Processes) -> dict[str, Tensor]:
    """Collect the state of each process's generators, as ``random.<kind>.<rank>``."""
    states = {"cpu": torch.get_rng_state()}
    if processes.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(processes.device)
    return {
        f"random.{kind}.{rank}": tensor
        for kind, state in states.items()
        for rank, tensor in enumerate(processes.gather(state))
    }


def _restore_random_numbers(tensors: Mapping[str, Tensor], rank: int) -> None:
    torch.set_rng_state(tensors[f"random.cpu.{rank}"])
    if torch.cuda.is_available() and f"random.cuda.{rank}" in tensors:
        torch.cuda.set_rng_state(tensors[f"random.cuda.{rank}"])


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
