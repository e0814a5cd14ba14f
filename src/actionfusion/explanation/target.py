"""The attribution target: why does this model give this clip this class?

It is measured in log-odds of the class, ln(p / (1 - p)): how much the model prefers it to all others together.  Unlike
p they do not saturate where the model is sure, and unlike the class's own logit they fall when another class gains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from actionfusion.data.listing import match_names
from actionfusion.errors import SettingsError
from actionfusion.inference.recognizer import Recognizer
from actionfusion.models.model import Clips, Features, VideoModel
from actionfusion.models.normalizer import FLOW_ZERO
from actionfusion.streams import StreamName
from actionfusion.video.clip import Clip

FloatArray = npt.NDArray[np.float32]

# Values of features held for one batch of changed clips: 64 MiB in single precision.
_BATCH_VALUES = 2**24
# Without a backbone, a model's first layers turn pictures into about so many times as many values.
_FIRST_LAYERS = 32


def log_odds(log_scores: Tensor, index: int) -> Tensor:
    """Compute ln(p / (1 - p)) of a class, ``[B]``, from log-probabilities or logits ``[B, K]``."""
    others = torch.cat((log_scores[:, :index], log_scores[:, index + 1 :]), dim=1)
    return log_scores[:, index] - others.logsumexp(dim=1)


def find_label(labels: Sequence[str], label: str) -> int:
    """Find the index of a class.

    Raises:
        SettingsError: no such class.
    """
    if found := match_names([label], labels):
        return labels.index(found[label])
    near = get_close_matches(label, labels, 1)
    remedy = f"take {near[0]}, or another of its labels.txt" if near else "take one of its labels.txt"
    raise SettingsError("label", f"{label!r} is no class of this run", remedy)


def fitting(values: int) -> int:
    """Compute how many times so many values fit into one batch, at least once."""
    return max(1, _BATCH_VALUES // values)


def no_maps() -> SettingsError:
    """Make the error that a model has no maps to explain by."""
    return SettingsError("hide", "the model has no feature maps that explain works on", "hide parts of the input")


@dataclass(frozen=True, eq=False)
class AttributionTarget:
    """A model, a clip and a class.

    Attributes:
        model: in evaluation mode.
        clips: by stream that the model reads ``[1, T, C, H, W]``, floating point, 0..255, on the model's device.
        index: of the class.
    """

    model: VideoModel
    clips: Clips
    index: int

    @classmethod
    def of(cls, recognizer: Recognizer, clip: Clip, label: str | None = None) -> AttributionTarget:
        """Make the target of a clip.

        Args:
            recognizer: the trained model.
            clip: cut with its settings.
            label: the class; the most probable one where None.

        Raises:
            RecipeMismatch: a clip of another flow recipe, or without the flow that the model reads.
            SettingsError: a class that the run does not have.
            WeightsError: probabilities that are no finite numbers.
        """
        index = None if label is None else find_label(recognizer.labels, label)
        probabilities = recognizer.probabilities([clip])[0]
        model = recognizer.network
        parameter = next(model.parameters())
        clips = {name: torch.from_numpy(part).to(parameter)[None] for name, part in clip.inputs(model.reads).items()}
        best = recognizer.best(probabilities, 1)[0].label
        return cls(model, clips, recognizer.labels.index(best) if index is None else index)

    @property
    def streams(self) -> tuple[StreamName, ...]:
        """The streams that the model reads."""
        return self.model.reads

    @property
    def num_frames(self) -> int:
        """T."""
        return self.clips[self.streams[0]].shape[1]

    @cached_property
    def features(self) -> Features:
        """Features of the clip, ``[1, T, ...]`` by stream, without gradients."""
        with torch.no_grad():
            return self.model.features(self.clips)

    @cached_property
    def log_odds(self) -> float:
        """Log-odds of the class."""
        return self.log_odds_of(self.features).item()

    def log_odds_of(self, features: Features) -> Tensor:
        """Compute log-odds of the class ``[B]`` for changed features ``[B, T, ...]``, without gradients."""
        with torch.no_grad():
            return log_odds(self.model.log_scores(self.model.classify(features)), self.index)

    def blank(self) -> dict[StreamName, Tensor]:
        """Make a frame in which nothing is seen: the clip's mean colour everywhere, and no motion.

        The mean colour is nearer to what the model knows than black; it leaves the clip's tint to be seen.

        Returns:
            ``[1, 1, C, H, W]`` by stream, as in ``clips``.
        """
        made = {name: torch.full_like(values[:, :1], FLOW_ZERO) for name, values in self.clips.items()}
        if "rgb" in made:
            colour = self.clips["rgb"].mean(dim=(0, 1, 3, 4)).view(1, 1, 3, 1, 1)
            made["rgb"] = colour.expand_as(made["rgb"])
        return made

    def frame_features(self, frames: Clips) -> Features:
        """Compute features ``[N, n, ...]`` of frames ``[N, n, C, H, W]``, without gradients.

        Frames do not see each other there, so a model that takes clips of T frames alone is given them in clips of T.
        """
        with torch.no_grad():
            if not self.model.fixed_frames:
                return self.model.features(frames)
            length = self.num_frames
            shape = next(iter(frames.values())).shape[:2]
            count = math.prod(shape)
            whole = {}
            for name, pictures in frames.items():
                filling = pictures.new_zeros(-count % length, *pictures.shape[2:])
                whole[name] = torch.cat((pictures.flatten(0, 1), filling)).reshape(-1, length, *pictures.shape[2:])
            made = self.model.features(whole)
            return {
                name: values.flatten(0, 1)[:count].reshape(*shape, *values.shape[2:]) for name, values in made.items()
            }

    def replaced(self, start: int, changed: Features) -> Features:
        """Replace the clip's frames from ``start`` on by ``changed [N, n, ...]``: features ``[N, T, ...]``."""
        made = {}
        for name, values in self.features.items():
            frames = changed[name]
            many = values.repeat(len(frames), *[1] * (values.ndim - 1))
            many[:, start : start + frames.shape[1]] = frames
            made[name] = many
        return made

    def batch(self) -> int:
        """Compute how many changed clips fit into one batch."""
        values = sum(
            part.numel() * (_FIRST_LAYERS if self.model.backbone(name) is None else 1)
            for name, part in self.features.items()
        )
        return fitting(values)

    @contextmanager
    def changed_maps(self, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Let ``change`` replace what the model's explained layer gives, whenever the model classifies.

        Raises:
            SettingsError: a model without such a layer.
        """
        if self.model.explained_layer is None:
            raise no_maps()
        layer = self.model.get_submodule(self.model.explained_layer)
        hook = layer.register_forward_hook(lambda _module, _given, output: change(output))
        try:
            yield
        finally:
            hook.remove()

    @cached_property
    def map_shape(self) -> tuple[int, int, int, int] | None:
        """``(t, C, h, w)`` of the explained layer's maps, t steps over the clip; None where the model has none."""
        if self.model.explained_layer is None:
            return None
        shapes: list[tuple[int, int, int, int]] = []

        def look(output: Tensor) -> Tensor:
            _, steps, channels, height, width = self.model.explained_maps(output).shape
            shapes.append((steps, channels, height, width))
            return output

        with self.changed_maps(look):
            self.log_odds_of(self.features)
        return shapes[-1]
