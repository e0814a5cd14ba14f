"""A trained run, or an exported model, that names the action in a video."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from actionfusion.errors import RecipeMismatch, SettingsError, WeightsError
from actionfusion.hub import local_run
from actionfusion.inference.backends import Backends, SubModelName
from actionfusion.inference.exports.exported import is_export
from actionfusion.inference.given_videos import cut_paced, open_given
from actionfusion.inference.runtimes.backend import PrecisionName, RuntimeName
from actionfusion.inference.runtimes.choice import RuntimeChoice
from actionfusion.inference.runtimes.sub_models import Array
from actionfusion.inference.stepping import Stepper, StreamPrediction, StreamState
from actionfusion.models.model import Features, VideoModel
from actionfusion.run_folder import RunFolder, open_run
from actionfusion.storage import PathLike
from actionfusion.streams import StreamName
from actionfusion.video.clip import Clip, ClipSettings, stacked_inputs
from actionfusion.video.pictures import scaled_picture
from actionfusion.video.rates import FrameRates, Pace
from actionfusion.video.reading import Frame
from actionfusion.video.samples import FrameCollector

# Frames a second where nothing says when they were taken.
_NOMINAL_RATE = 25.0


@dataclass(frozen=True)
class Prediction:
    """A class and how probable the network holds it, 0 to 1."""

    label: str
    probability: float


class Recognizer:
    """Names the action in videos.

    Make one with ``Recognizer.load(run)``.

    Args:
        network: trained, on the device that it is to run on; or a function that gives it, called on first use.
        clip: what is cut from a video for it.
        labels: class names in the network's order.
        backends: that run the network; PyTorch where none are given.
        rates: frame rates of the videos it was trained on, where they are known.
    """

    def __init__(
        self,
        network: VideoModel | Callable[[], VideoModel],
        clip: ClipSettings,
        labels: Sequence[str],
        *,
        backends: Backends | None = None,
        rates: FrameRates | None = None,
    ) -> None:
        self._network = network.eval() if isinstance(network, VideoModel) else None
        self._make_network = network
        self.clip_settings = clip
        self.labels = tuple(labels)
        self.rates = rates
        self._backends = backends or Backends.of_network(self.network, clip)

    @classmethod
    def load(
        cls,
        run: str | Path | RunFolder,
        *,
        runtime: RuntimeName = "auto",
        precision: PrecisionName | None = None,
        device: str | None = None,
        root: PathLike | None = None,
        store: PathLike | None = None,
        first: SubModelName = "clip",
        revision: str | None = None,
        token: str | None = None,
        cache: Path | None = None,
        offline: bool | None = None,
    ) -> Recognizer:
        """Load a run folder, a folder that ``export`` wrote, or a run of the Hugging Face hub.

        A runtime other than PyTorch is prepared on first use, and kept in the run folder.

        Args:
            run: the folder that ``train`` or ``export`` wrote; or, where there is no such folder, a run's name on the
                hub: user/name, user/name@revision or hf://user/name.
            runtime: torch, openvino, onnx, or auto: PyTorch on a GPU; on a CPU what is prepared already, else the
                fastest there is if the network is large enough for that to pay.
            precision: fp32 (where None is given), bf16 or int8; of an export its own.
            device: cpu, cuda, cuda:1, mps; none takes a GPU where there is one.
            root: folder of the run's data set, or its address, for int8 to be prepared with.
            store: folder of its prepared clips, or its address, likewise; none reads the videos themselves.
            first: what is opened at once: clip, for whole clips, or step, for streams; the other when it is first used.
            revision: branch, tag or commit on the hub; none is that after the ``@``, or the main branch.
            token: for a private run of the hub; none takes that of ``HF_TOKEN`` or ``hf auth login``.
            cache: folder for runs of the hub; none takes the hub's own, below ``HF_HOME``.
            offline: take a run of the hub only if it was fetched before; none is so where ``HF_HUB_OFFLINE`` is set.

        Raises:
            RunFolderError: not a run folder.
            HubError: a run of the hub that is not there, may not be read, cannot be reached, or is refused.
            ExportError: an export that is incomplete, of another version, or without what a stream needs.
            WeightsError: weights missing, damaged, or of another network.
            SettingsError: runtime, precision and device do not go together, or int8 is given no videos.
            DatasetError: videos for int8 that are not those of the run.
            RuntimeUnavailable: the runtime is not installed, or not for this machine.
            QuantizationRefused: int8 costs more than a point of accuracy.
        """
        if not isinstance(run, RunFolder):
            run = local_run(run, revision=revision, token=token, cache=cache, offline=offline)
        if not isinstance(run, RunFolder) and is_export(run):
            export, backends = Backends.of_export(run, runtime=runtime, precision=precision, device=device)
            recognizer = cls(export.no_network, export.clip, export.labels, backends=backends, rates=export.rates)
        else:
            folder = run if isinstance(run, RunFolder) else open_run(run)
            backends = Backends.of_run(
                folder,
                runtime=runtime,
                precision=precision or "fp32",
                device=device,
                root=root,
                store=store,
                first=first,
            )
            recognizer = cls(backends.network, folder.clip, folder.labels, backends=backends, rates=folder.rates)
        backends.open(first)
        return recognizer

    @property
    def runtime(self) -> RuntimeChoice:
        """The runtime in use: its name, its precision, and why it was chosen."""
        return self._backends.choice

    @property
    def network(self) -> VideoModel:
        """The network in PyTorch, in evaluation mode; loaded on first use.

        Raises:
            WeightsError: weights missing, damaged, or of another network; an export has none.
        """
        if self._network is None:
            assert not isinstance(self._make_network, VideoModel)
            self._network = self._make_network().eval()
        return self._network

    def clip(self, video: str | Path) -> Clip:
        """Cut the clip that the network sees of a video: T frames by eqs 13-14, with the flow around each.

        Of a long video only the parts around these frames are decoded where that gives the same (``VideoSource``).  Of
        one whose frame rate is far above that of the run's training videos, frames are left out (``FrameRates``).

        Args:
            video: a video file, or a folder of pictures in the order of their names.

        Raises:
            VideoError: the video cannot be read.
        """
        return self.paced_clip(video)[0]

    def paced_clip(self, video: str | Path) -> tuple[Clip, Pace]:
        """Do the same, and tell how the video's frames were taken."""
        source, pace = open_given(video, self.clip_settings, self.rates)
        return cut_paced(source, pace, self.clip_settings), pace

    def probabilities(self, clips: Sequence[Clip]) -> npt.NDArray[np.float32]:
        """Compute class probabilities ``[len(clips), K]`` of clips, in the order of ``labels``.

        Raises:
            RecipeMismatch: a clip's flow was made by another recipe than the run's.
        """
        return self.scores(self._inputs(clips))

    def features(self, clips: Sequence[Clip]) -> Features:
        """Compute what the backbones make of clips, by PyTorch whatever the runtime; `network` classifies them.

        Raises:
            RecipeMismatch: as `probabilities`.
        """
        device = next(self.network.parameters()).device
        with torch.inference_mode():
            given = {stream: torch.from_numpy(array).to(device) for stream, array in self._inputs(clips).items()}
            return self.network.features(given)

    def _inputs(self, clips: Sequence[Clip]) -> Mapping[StreamName, npt.NDArray[np.uint8]]:
        """Stack clips by stream, and see that they are of the run's own recipe."""
        for clip in clips:
            if self.clip_settings.reads_flow and clip.recipe != self.clip_settings.flow:
                reason = f"flow made by {clip.recipe}, the run was trained on {self.clip_settings.flow}"
                raise RecipeMismatch("clip", reason, "cut it with the run's own settings")
        return stacked_inputs(clips, self.clip_settings.streams)

    def scores(self, batch: Mapping[StreamName, Array]) -> npt.NDArray[np.float32]:
        """Compute probabilities ``[B, K]`` of a batch by stream ``[B, T, C, H, W]``, cut with the run's settings."""
        backend = self._backends.open("clip")
        count = len(next(iter(batch.values())))
        size = count if backend.takes_batches else 1
        rows = [
            backend.run({name: clips[start : start + size] for name, clips in batch.items()})["probabilities"]
            for start in range(0, count, size)
        ]
        return np.concatenate(rows).astype(np.float32, copy=False)

    def predict(self, video: str | Path, top_k: int = 5) -> list[Prediction]:
        """Name the most probable classes of a video, best first.

        Args:
            video: a video file, or a folder of pictures.
            top_k: how many classes; all of them if there are fewer.

        Raises:
            VideoError: the video cannot be read.
            SettingsError: ``top_k`` is under 1.
        """
        if top_k < 1:
            raise no_classes(top_k)
        return self.best(self.probabilities([self.clip(video)])[0], top_k)

    def best(self, probabilities: npt.NDArray[np.float32], top_k: int) -> list[Prediction]:
        """Pick the ``top_k`` most probable classes of one row ``[K]``, best first; ties in the order of ``labels``.

        Raises:
            WeightsError: a probability that is no finite number.
        """
        if not np.isfinite(probabilities).all():
            reason = "the network's probabilities are no finite numbers"
            raise WeightsError("run", reason, "train it again with a lower learning rate or in float32")
        order = np.argsort(-probabilities, kind="stable")[:top_k]
        return [Prediction(self.labels[index], float(probabilities[index])) for index in order]

    @cached_property
    def stepper(self) -> Stepper[Any]:
        """The stepper that answers a stream sample by sample, by the same runtime.

        Raises:
            ActionFusionError: as of ``load``.
        """
        return self._backends.stepper()

    def start(self, every: int) -> StreamState[Any]:
        """Make the state before the first frame of a stream.

        Args:
            every: frames from one sample to the next.

        Raises:
            SettingsError: ``every`` is under 1.
        """
        return StreamState(FrameCollector(every, self.clip_settings.flow_length), self.stepper.start())

    def step(
        self, frame: Frame | npt.NDArray[np.uint8], state: StreamState[Any], time: float | None = None
    ) -> tuple[StreamPrediction | None, StreamState[Any]]:
        """Take the next frame of a stream.

        Args:
            frame: at the recipe's size; or an RGB picture ``[H, W, 3]`` uint8 of any size, which is scaled as video is.
            state: of ``start``, or of the last step; it can be stepped from again.
            time: of a picture, in seconds from the first one; where None, as if 25 came in a second.

        Returns:
            The answer, if the frame completes a sample (frames after it are needed for its flow), and the new state.

        Raises:
            SettingsError: a picture of another shape or type.
        """
        size = self.clip_settings.decoded_size
        if not isinstance(frame, Frame):
            seconds = state.num_frames / _NOMINAL_RATE if time is None else time
            frame = Frame(state.num_frames, seconds, scaled_picture(frame, size))
        if frame.image.shape != (size, size, 3):
            reason = f"a picture of shape {frame.image.shape}, where the run wants {(size, size, 3)}"
            raise SettingsError("frame", reason, "give the picture itself as an array, which is scaled")
        return self.stepper.push(frame, state)


def no_classes(top_k: int) -> SettingsError:
    """Make the error for a ``top_k`` under 1."""
    return SettingsError("top_k", f"{top_k} classes cannot be shown", "take 1 or more")
