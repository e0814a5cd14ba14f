"""A trained run, or an exported model, that names the action in a video."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from actionfusion.errors import RecipeMismatch, RuntimeUnavailable, SettingsError
from actionfusion.inference.choice import RuntimeChoice, choose
from actionfusion.inference.exported import is_export, open_export
from actionfusion.inference.parts import Array, clip_flops, clip_part
from actionfusion.inference.prepared import Kind, open_part
from actionfusion.inference.runtimes import (
    PRECISIONS,
    EngineName,
    PrecisionName,
    Runtime,
    RuntimeName,
    TorchRuntime,
)
from actionfusion.models.fusion_network import FusionNetwork
from actionfusion.run_folder import RunFolder, open_run
from actionfusion.video.clip import Clip, ClipSettings, cut_clip
from actionfusion.video.video_source import VideoSource


@dataclass(frozen=True)
class Prediction:
    """A class and how probable the network holds it, 0 to 1."""

    label: str
    probability: float


class Recognizer:
    """Names the action in videos.

    Make one with ``Recognizer.load(run)``.

    Args:
        network: trained, on the device that it is to run on; or what gives it, called when it is first asked for.
        clip: what is cut from a video for it.
        labels: class names in the network's order.
        engine: runs the network; PyTorch where none is given.
        runtime: which that is, and why.

    Attributes:
        runtime: what answers: its name, its precision, and why it was taken.
    """

    def __init__(
        self,
        network: FusionNetwork | Callable[[], FusionNetwork],
        clip: ClipSettings,
        labels: Sequence[str],
        *,
        engine: Runtime | None = None,
        runtime: RuntimeChoice | None = None,
    ) -> None:
        self._network = network.eval() if isinstance(network, FusionNetwork) else None
        self._make_network = network
        self.clip_settings = clip
        self.labels = tuple(labels)
        if engine is None:
            made = self.network
            device = next(made.parameters()).device
            engine = TorchRuntime(clip_part(lambda: made, made.settings, clip.frames), "fp32", device)
            runtime = RuntimeChoice("torch", "fp32", "a network was given", str(device))
        assert runtime is not None
        self.runtime = runtime
        self._engine = engine

    @classmethod
    def load(
        cls,
        run: str | Path | RunFolder,
        *,
        runtime: RuntimeName = "auto",
        precision: PrecisionName | None = None,
        device: str | None = None,
        root: Path | None = None,
    ) -> Recognizer:
        """Load a run folder, or a folder that ``export`` wrote.

        A runtime other than PyTorch is prepared when it is first asked for, and kept in the run folder.

        Args:
            run: the folder that ``train`` or ``export`` wrote.
            runtime: torch, openvino, onnx, or auto: PyTorch on a GPU; on a CPU what is prepared already, else the
                fastest there is if the network is large enough for that to pay.
            precision: fp32 (where None is given), bf16 or int8; of an export its own.
            device: cpu, cuda, cuda:1, mps; none takes a GPU where there is one.
            root: folder of the run's videos, for int8 to be prepared with.

        Raises:
            RunFolderError: not a run folder.
            ExportError: an export that is not whole, or of another version.
            WeightsError: weights missing, damaged, or of another network.
            SettingsError: runtime, precision and device do not go together, or int8 finds no videos.
            RuntimeUnavailable: the runtime is not installed, or not for this machine.
            QuantizationRefused: int8 costs more than a point of accuracy.
        """
        if not isinstance(run, RunFolder) and is_export(Path(run)):
            return cls._of_export(Path(run), runtime, precision, device)
        folder = run if isinstance(run, RunFolder) else open_run(run)
        part = clip_part(folder.load_network, folder.network, folder.clip.frames)

        def kind_of(name: EngineName, wanted: PrecisionName) -> Kind:
            return Kind(folder, part, name, wanted, root)

        choice = choose(
            runtime,
            precision or "fp32",
            device,
            kind_of=kind_of,
            flops=lambda: clip_flops(folder.network, folder.clip.frames),
        )
        if choice.name != "torch":
            keep = ExitStack()
            try:
                engine = open_part(kind_of(choice.name, choice.precision), keep=keep)
            except RuntimeUnavailable as error:
                if runtime != "auto" or choice.precision not in PRECISIONS["torch"]:
                    raise
                choice = replace(choice, name="torch", reason=f"{error.subject}: {error.reason}")
            else:
                recognizer = cls(folder.load_network, folder.clip, folder.labels, engine=engine, runtime=choice)
                weakref.finalize(recognizer, keep.close)
                return recognizer
        return cls._in_pytorch(folder, choice)

    @classmethod
    def _in_pytorch(cls, folder: RunFolder, choice: RuntimeChoice) -> Recognizer:
        network = folder.load_network().to(choice.device)
        part = clip_part(lambda: network, folder.network, folder.clip.frames)
        engine = TorchRuntime(part, choice.precision, torch.device(choice.device))
        return cls(network, folder.clip, folder.labels, engine=engine, runtime=choice)

    @classmethod
    def _of_export(
        cls, folder: Path, runtime: RuntimeName, precision: PrecisionName | None, device: str | None
    ) -> Recognizer:
        export = open_export(folder)
        engine, choice = export.open(runtime, precision, device)
        return cls(export.no_network, export.clip, export.labels, engine=engine, runtime=choice)

    @property
    def network(self) -> FusionNetwork:
        """The network in PyTorch, in evaluation mode; loaded when it is first asked for.

        Raises:
            WeightsError: weights missing, damaged, or of another network; an export has none.
        """
        if self._network is None:
            assert not isinstance(self._make_network, FusionNetwork)
            self._network = self._make_network().eval()
        return self._network

    def clip(self, video: str | Path) -> Clip:
        """The clip that the network sees of a video: T frames by eqs 13-14, with the flow around each.

        Raises:
            VideoError: the video cannot be read.
        """
        return cut_clip(VideoSource(Path(video), self.clip_settings.flow), self.clip_settings)

    def probabilities(self, clips: Sequence[Clip]) -> npt.NDArray[np.float32]:
        """Class probabilities ``[len(clips), K]`` of clips, in the order of ``labels``.

        Raises:
            RecipeMismatch: a clip's flow was made by another recipe than the run's.
        """
        for clip in clips:
            if clip.recipe != self.clip_settings.flow:
                reason = f"flow made by {clip.recipe}, the run was trained on {self.clip_settings.flow}"
                raise RecipeMismatch("clip", reason, "cut it with the run's own settings")
        return self._scores(np.stack([clip.rgb for clip in clips]), np.stack([clip.flow for clip in clips]))

    def scores(self, rgb: torch.Tensor, flow: torch.Tensor) -> npt.NDArray[np.float32]:
        """Class probabilities ``[B, K]`` of a batch ``[B, T, 3, H, W]``, ``[B, T, 2L, H, W]`` of one recipe."""
        return self._scores(rgb.cpu().numpy(), flow.cpu().numpy())

    def _scores(self, rgb: Array, flow: Array) -> npt.NDArray[np.float32]:
        size = len(rgb) if self._engine.takes_batches else 1
        rows = [
            self._engine.run({"rgb": rgb[start : start + size], "flow": flow[start : start + size]})["probabilities"]
            for start in range(0, len(rgb), size)
        ]
        return np.concatenate(rows).astype(np.float32, copy=False)

    def predict(self, video: str | Path, top_k: int = 5) -> list[Prediction]:
        """The most probable classes of a video, best first.

        Args:
            video: a video file.
            top_k: how many classes; all of them if there are fewer.

        Raises:
            VideoError: the video cannot be read.
            SettingsError: ``top_k`` is under 1.
        """
        if top_k < 1:
            raise SettingsError("top_k", f"{top_k} classes cannot be shown", "take 1 or more")
        return self.best(self.probabilities([self.clip(video)])[0], top_k)

    def best(self, probabilities: npt.NDArray[np.float32], top_k: int) -> list[Prediction]:
        """The ``top_k`` most probable classes of one row ``[K]``, best first; ties in the order of ``labels``."""
        order = np.argsort(-probabilities, kind="stable")[:top_k]
        return [Prediction(self.labels[index], float(probabilities[index])) for index in order]
