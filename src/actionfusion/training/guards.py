"""What is refused before the first step, and what stops a training: each with a name and a remedy."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from torch.distributed import DistError

from actionfusion.data.dataset import LabelledVideos
from actionfusion.data.listing import some
from actionfusion.data.loading import EpochLoader
from actionfusion.errors import DatasetError, RunFolderError, SettingsError, TrainingError
from actionfusion.models.model import VideoModel
from actionfusion.models.model_settings import ModelSettings
from actionfusion.plain_progress import giga
from actionfusion.training.cost import StepCost

# PyTorch has an error of its own for a GPU alone; on a CPU its allocator says one of these.
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Read timeout", "Timed out waiting")


def refuse_unlearnable(videos: LabelledVideos) -> None:
    """See that each class has a training video, whatever validation and the split took away.

    Raises:
        DatasetError: naming the classes that have none.
    """
    counts = Counter(videos.listing.entries[index].label for index in videos.split.train)
    missing = [label for label in videos.listing.labels if not counts[label]]
    if missing:
        reason = f"leaves {len(missing)} classes without a training video: {some(missing)}"
        raise DatasetError(f"split {videos.split.name!r}", reason, "choose another split, or take these classes out")


def refuse_targets_out_of_range(num_classes: int, *loaders: EpochLoader | None) -> None:
    """See that each class number is one that the network has an output for.

    Raises:
        DatasetError: naming the first video whose number it has not.
    """
    for source in (source for loader in loaders if loader for source in loader.dataset.sources):
        if not 0 <= source.target < num_classes:
            reason = f"has class number {source.target}, the network has 0 to {num_classes - 1}"
            raise DatasetError(source.name, reason, "correct its label, or the network's num_classes")


def refuse_too_large(cost: StepCost, batch_size: int, available: int | None) -> None:
    """See that a step fits into memory.

    Args:
        cost: of a step.
        batch_size: clips that are in memory at once.
        available: bytes; none where it is not known.

    Raises:
        SettingsError: naming the largest batch that would fit.
    """
    if available is not None and cost.memory(batch_size) > available:
        reason = f"{batch_size} clips at once need about {giga(cost.memory(batch_size))}, {giga(available)} are free"
        raise SettingsError("training.batch_size", reason, fitting_batch(cost, batch_size, available))


def fitting_batch(cost: StepCost, batch_size: int, available: int | None) -> str:
    """Say what to do about a batch that does not fit, as a clause."""
    # What ran out of memory does not fit, whatever the estimate says.
    largest = min(cost.largest_batch(available), batch_size - 1) if available is not None else batch_size // 2
    if largest < 1:
        return "one clip is too much: take fewer or smaller frames, a smaller network, or a machine with more memory"
    return f"take --training.batch_size {largest} (--training.accumulate makes up for it)"


def refuse_wrong_gradients(kind: type[VideoModel], network: ModelSettings, precision: str, device: str) -> None:
    """See that PyTorch can differentiate the model in that precision; see `VideoModel.wrong_in_bfloat16`.

    Raises:
        SettingsError: it cannot.
    """
    if device == "cpu" and precision == "bfloat16" and kind.wrong_in_bfloat16(network):
        reason = "bfloat16 on a CPU gives wrong gradients where a 3-D convolution sees two frames"
        raise SettingsError("training.precision", reason, "take float32, or another clip.frames")


def refuse_full_disk(out: Path, size: int) -> None:
    """See that weights and checkpoint fit onto the disk, each beside the one that it replaces.

    Args:
        out: the run folder, which need not exist.
        size: bytes of both.

    Raises:
        RunFolderError: there is less space.
    """
    existing = next((folder for folder in (out, *out.absolute().parents) if folder.is_dir()), Path())
    needed, free = 2 * size, shutil.disk_usage(existing).free
    if needed > free:
        reason = f"weights and checkpoint need up to {giga(needed)}, {giga(free)} are free"
        raise RunFolderError(out, reason, "free some space, or choose another --out")


def refuse_bad_loss(loss: float, num_classes: int, explosion: float, names: Sequence[str]) -> None:
    """See that a batch's loss is a number, and not exploded.

    Args:
        loss: mean cross-entropy of the batch.
        num_classes: K; guessing costs ln K.
        explosion: how many times that is too much.
        names: the videos of the batch.

    Raises:
        TrainingError: naming the videos.
    """
    limit = explosion * max(math.log(num_classes), 1.0)
    if math.isfinite(loss) and loss <= limit:
        return
    reason = (
        f"is {loss:.4g}"
        if not math.isfinite(loss)
        else f"has exploded to {loss:.4g} (guessing costs 1/{explosion:g} of {limit:.3g})"
    )
    raise _stopped("the loss", reason, names)


def refuse_bad_gradients(norm: float, names: Sequence[str]) -> None:
    """See that a gradient is finite, before it goes into the weights.

    Raises:
        TrainingError: naming the videos of the batch.
    """
    if not math.isfinite(norm):
        raise _stopped("the gradient", f"has norm {norm:.4g}", names)


def _stopped(subject: str, reason: str, names: Sequence[str]) -> TrainingError:
    remedy = (
        "look at these videos, or train anew with a lower learning rate or a training.clip_norm; the weights from "
        "before are kept"
    )
    return TrainingError(subject, f"{reason} on the batch of {some(names, most=8)}", remedy)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether PyTorch ran out of memory, on whichever device."""
    return isinstance(error, RuntimeError | MemoryError) and any(sign in str(error).lower() for sign in _NO_MEMORY)


def is_lost_connection(error: BaseException) -> bool:
    """Tell whether another process of the training has gone, as the backends of torch.distributed say it."""
    return isinstance(error, DistError) or any(sign in str(error) for sign in _LOST)


def is_lost_reader(error: BaseException) -> bool:
    """Tell whether a process that read videos has been ended, as PyTorch's loader says it."""
    return isinstance(error, RuntimeError) and "DataLoader worker (pid" in str(error)
