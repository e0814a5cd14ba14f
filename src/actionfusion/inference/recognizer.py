"""A trained run that names the action in a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from actionfusion.errors import RecipeMismatch, SettingsError
from actionfusion.inference.stepping import Answer, Stepper, StreamState
from actionfusion.models.fusion_network import FusionNetwork
from actionfusion.run_folder import RunFolder, open_run
from actionfusion.video.clip import Clip, ClipSettings, cut_clip
from actionfusion.video.pictures import scaled_picture
from actionfusion.video.reading import Frame
from actionfusion.video.samples import FrameCollector
from actionfusion.video.video_source import VideoSource

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
        network: trained, on the device that it is to run on.
        clip: what is cut from a video for it.
        labels: class names in the network's order.
    """

    def __init__(self, network: FusionNetwork, clip: ClipSettings, labels: Sequence[str]) -> None:
        self.network = network.eval()
        self.clip_settings = clip
        self.labels = tuple(labels)

    @classmethod
    def load(cls, run: str | Path | RunFolder, *, device: str | None = None) -> Recognizer:
        """Load a run folder.

        Args:
            run: the folder that ``train`` wrote.
            device: cpu, cuda, cuda:1, mps; none takes a GPU where there is one.

        Raises:
            RunFolderError: not a run folder.
            WeightsError: weights missing, damaged, or of another network.
        """
        folder = run if isinstance(run, RunFolder) else open_run(run)
        network = folder.load_network().to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return cls(network, folder.clip, folder.labels)

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
        rgb = torch.from_numpy(np.stack([clip.rgb for clip in clips]))
        flow = torch.from_numpy(np.stack([clip.flow for clip in clips]))
        return self.scores(rgb, flow)

    def scores(self, rgb: torch.Tensor, flow: torch.Tensor) -> npt.NDArray[np.float32]:
        """Class probabilities ``[B, K]`` of a batch ``[B, T, 3, H, W]``, ``[B, T, 2L, H, W]`` of one recipe."""
        device = next(self.network.parameters()).device
        with torch.inference_mode():
            logits = self.network(rgb.to(device), flow.to(device))
            result: npt.NDArray[np.float32] = logits.float().softmax(1).cpu().numpy()
        return result

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

    @cached_property
    def stepper(self) -> Stepper:
        """What answers a stream sample by sample."""
        return Stepper(self.network, self.clip_settings, device=next(self.network.parameters()).device)

    def start(self, every: int) -> StreamState:
        """The state before the first frame of a stream.

        Args:
            every: frames from one sample to the next.

        Raises:
            SettingsError: ``every`` is under 1.
        """
        return StreamState(FrameCollector(every, self.clip_settings.flow_fields), self.stepper.start())

    def step(
        self, frame: Frame | npt.NDArray[np.uint8], state: StreamState, time: float | None = None
    ) -> tuple[Answer | None, StreamState]:
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
        size = self.clip_settings.flow.size
        if not isinstance(frame, Frame):
            seconds = state.num_frames / _NOMINAL_RATE if time is None else time
            frame = Frame(state.num_frames, seconds, scaled_picture(frame, size))
        if frame.image.shape != (size, size, 3):
            reason = f"a picture of shape {frame.image.shape}, where the run wants {(size, size, 3)}"
            raise SettingsError("frame", reason, "give the picture itself as an array, which is scaled")
        return self.stepper.push(frame, state)
