"""How a network learns: every setting of the training loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from actionfusion.errors import SettingsError
from actionfusion.training.stages import PAPER_STAGES, Stage

PrecisionName = Literal["float32", "bfloat16", "float16"]
OptimizerKernelName = Literal["auto", "fused", "foreach", "loop"]
PRECISIONS: dict[PrecisionName, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class TrainingSettings:
    """How the network learns.

    Args:
        stages: one after the other, each from the best weights of the one before.
        batch_size: clips that are in memory at once, in each process.
        accumulate: batches that make one step of the optimiser, with the mean over all their clips; batch norm still
            sees one batch at a time.
        backbone_rate_scale: learning rate of the layers that pretrained weights exist for (the backbones but
            the flow's first layer, however that starts, and VGG-16's fc6) over that of the stage, which the new
            layers have; 1 is the paper's single rate, 0 leaves them as they are.
        weight_decay: decoupled, as in AdamW, on weight matrices and kernels alone; 0 is the paper's plain Adam.
        clip_norm: largest norm of all gradients together; none clips nothing.
        label_smoothing: share of the target that is spread over all classes, 0 to below 1.
        precision: of the multiplications: float32, or bfloat16 or float16 by autocast; weights stay float32.
        channels_last: lay the convolutions' kernels and maps out with channels last, which tensor cores like.
        compile: let torch.compile make one program of the network; takes a minute or more at the start.
        optimizer_kernel: fused (one pass over all weights, which NVIDIA GPUs and CPUs have), foreach, loop, or auto:
            fused on NVIDIA GPUs, loop elsewhere.
        workers: processes that read videos ahead; none takes one less than there are cores, at most 8.
        checkpoint_steps: a checkpoint is written after every epoch (of epochs that take seconds, at least once in half
            a minute), and within an epoch after so many steps; none writes them after epochs alone.
        explosion: a batch whose loss is more than so many times that of guessing (ln K, or 1 for two classes) stops the
            training, as a loss that is no number does.
        tensorboard: write each epoch's figures for TensorBoard too, into the run's folder ``tensorboard``; the names of
            its files carry the machine's.  Needs the extra of that name.
        freeze: the backbones' layers up to this stage, such as conv4_3, stay as they are, or all of them with
            ``all``; none trains them.
        recompute_frames: activation checkpointing: the backbones' activations of so many frames are in memory at a
            time, and all are computed a second time in the backward pass; none keeps those of all frames.
        check_memory: refuse a batch size that by estimate does not fit into the memory that is free.

    Raises:
        SettingsError: a value outside its range.
    """

    stages: tuple[Stage, ...] = PAPER_STAGES
    batch_size: int = 4
    accumulate: int = 1
    backbone_rate_scale: float = 1.0
    weight_decay: float = 0.0
    clip_norm: float | None = None
    label_smoothing: float = 0.0
    precision: PrecisionName = "float32"
    channels_last: bool = False
    compile: bool = False
    optimizer_kernel: OptimizerKernelName = "auto"
    workers: int | None = None
    checkpoint_steps: int | None = 500
    explosion: float = 20.0
    tensorboard: bool = False
    freeze: str | None = None
    recompute_frames: int | None = None
    check_memory: bool = True

    def __post_init__(self) -> None:
        if not self.stages:
            raise SettingsError("training.stages", "there is none", "give at least one stage")
        for name in ("batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise SettingsError(f"training.{name}", f"{getattr(self, name)}", "take 1 or more")
        for name, kind in (("precision", PrecisionName), ("optimizer_kernel", OptimizerKernelName)):
            if getattr(self, name) not in get_args(kind):
                remedy = f"choose one of {', '.join(get_args(kind))}"
                raise SettingsError(f"training.{name}", f"{getattr(self, name)!r} is no choice", remedy)
        self._check_learning()

    def _check_learning(self) -> None:
        if not 0 <= self.backbone_rate_scale <= 1:
            raise SettingsError("training.backbone_rate_scale", f"{self.backbone_rate_scale}", "take 0 to 1")
        if self.weight_decay < 0:
            raise SettingsError("training.weight_decay", f"{self.weight_decay}", "take 0 or more")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise SettingsError("training.clip_norm", f"{self.clip_norm}", "take a positive norm, or null")
        if not 0 <= self.label_smoothing < 1:
            raise SettingsError("training.label_smoothing", f"{self.label_smoothing}", "take 0 to below 1")
        if self.workers is not None and self.workers < 0:
            raise SettingsError("training.workers", f"{self.workers}", "take 0 or more, or null")
        if self.checkpoint_steps is not None and self.checkpoint_steps < 1:
            raise SettingsError("training.checkpoint_steps", f"{self.checkpoint_steps}", "take 1 or more, or null")
        if self.recompute_frames is not None and self.recompute_frames < 1:
            raise SettingsError("training.recompute_frames", f"{self.recompute_frames}", "take 1 or more, or null")
        if not self.explosion > 1:
            raise SettingsError("training.explosion", f"{self.explosion}", "take more than 1")
