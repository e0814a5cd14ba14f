"""The contract of every model: a clip's streams become features, features become scores.

    clips    rgb [B, T, 3, H, W], flow [B, T, 2L, H, W]     uint8 or floating point, 0..255
    features what the backbones make of each frame          [B, T, ...] for each stream
    logits   [B, K], or [B, n, K] of a model with several answers, at each step or of each stream

A model is one file with a settings dataclass, a class and its facts, and one line in ``models.MODELS``.  All rooms
above (training, cached features, prediction, streaming, export, explanation) know no model by name, and of
this room only the contract, the table, the shapes of a stream and the names of an LSTM's gates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionfusion.allocator import keep_freed_memory
from actionfusion.errors import SettingsError, WeightsError
from actionfusion.models.backbones.backbone import Backbone
from actionfusion.models.layer_norm_lstm import LayerNormLSTM
from actionfusion.models.model_settings import ModelSettings, Source
from actionfusion.models.normalizer import Normalizer
from actionfusion.models.streaming import SampleReader, StreamShape
from actionfusion.models.weights import Checkpoint, Fc6Start, FlowStart, LoadReport
from actionfusion.streams import STREAMS, StreamName

if TYPE_CHECKING:
    from actionfusion.models.solving import DescribedClips, SolveReport

Clips = Mapping[StreamName, Tensor]
Features = Mapping[StreamName, Tensor]


class VideoModel(nn.Module):
    """A model that recognises the action in a clip.

    **A clip goes in as it was cut, its values 0..255**, uint8 or floating point: RGB frames, and 8-bit flow codes in
    which 128 is no motion.  The model normalises them itself.

    A subclass sets the class attributes, calls ``super().__init__(settings, backbones)``, and defines `classify`;
    everything else has a default.

    Args:
        settings: of the subclass's ``Settings``.
        backbones: by stream; a stream without one reaches `classify` as normalised pictures.

    Attributes:
        Settings: its settings dataclass.
        source: where it comes from.
        recipe: that it is trained by where there is none of its own name, but for the section ``network``.
        variants: settings for `compare` that differ from the defaults, by name; the model itself has an empty one.
        solved: whether no gradient trains it: its backbones stay as they are, and `solve` finds all other weights from
            the training clips at once.
        fixed_frames: whether it takes clips of exactly ``settings.frames`` frames.
        explained_layer: module whose output Grad-CAM and `explain --hide map` work on; None has no such maps.  What
            `classify` runs after it takes the number of clips from that output, not from the features.
        quantized_layers: linear layers that int8 may hold in 8 bits; all convolutions are.
        exportable: whether PyTorch computes all of it, so that other runtimes can; what only `describe` computes
            elsewhere has no gradient either.
    """

    Settings: ClassVar[type[ModelSettings]]
    source: ClassVar[Source]
    recipe: ClassVar[str] = "small"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    solved: ClassVar[bool] = False
    fixed_frames: ClassVar[bool] = False
    explained_layer: ClassVar[str | None] = None
    quantized_layers: ClassVar[tuple[str, ...]] = ()
    exportable: ClassVar[bool] = True

    def __init__(self, settings: ModelSettings, backbones: Mapping[StreamName, Backbone] | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.backbones = nn.ModuleDict(cast("dict[str, nn.Module]", dict(backbones or {})))
        self.normalizers = nn.ModuleDict()
        for stream in self.streams(settings):
            facts = (settings.channels_of(stream), settings.size_of(stream))
            backbone = self.backbone(stream)
            of_backbone = () if backbone is None else (backbone.mean, backbone.std)
            self.normalizers[stream] = Normalizer(stream, *facts, *of_backbone)

    @classmethod
    def streams(cls, settings: ModelSettings) -> tuple[StreamName, ...]:
        """Name the streams that the model reads; of a stream that is not among them nothing is ever computed."""
        del settings
        return ("rgb",)

    @classmethod
    def wrong_in_bfloat16(cls, settings: ModelSettings) -> bool:
        """Return whether PyTorch computes wrong gradients of the model in bfloat16 on CPUs.

        That of a Conv3d whose kernel is three frames long is garbage, up to 1e35, for two frames; one frame, three or
        more, and float16 are right (measured with PyTorch 2.13 and AVX-512 bfloat16).
        """
        del settings
        return False

    @property
    def reads(self) -> tuple[StreamName, ...]:
        """The streams that this model reads."""
        return self.streams(self.settings)

    def backbone(self, stream: StreamName) -> Backbone | None:
        """Return the backbone of a stream, typed; None where the stream has none."""
        return cast("Backbone", self.backbones[stream]) if stream in self.backbones else None

    def all_backbones(self) -> dict[StreamName, Backbone]:
        """Return the backbones by stream, RGB first."""
        return {stream: found for stream in STREAMS if (found := self.backbone(stream)) is not None}

    def features(self, clips: Clips) -> Features:
        """Normalise clips and run each stream's backbone over all B x T frames at once.

        Frames do not see each other here, so the features of a clip are those of its frames, and can be cached.

        Args:
            clips: ``[B, T, C, H, W]`` by stream, 0..255; streams that the model does not read are ignored.

        Returns:
            ``[B, T, D, h, w]`` by stream; normalised pictures of a stream without a backbone.

        Raises:
            SettingsError: a stream is missing, or has another shape than the settings say.
        """
        if missing := [stream for stream in self.reads if stream not in clips]:
            raise SettingsError(missing[0], "this stream is missing", f"give {' and '.join(self.reads)}")
        made = {stream: self.stream_features(stream, clips[stream]) for stream in self.reads}
        _check_lengths(made, self.settings.frames if self.fixed_frames else None)
        return made

    def stream_features(self, stream: StreamName, pictures: Tensor) -> Tensor:
        """Make the features ``[B, T, ...]`` of one stream's pictures ``[B, T, C, H, W]``; see `features`."""
        normalized: Tensor = self.normalizers[stream](pictures)
        backbone = self.backbone(stream)
        if backbone is None:
            return normalized
        maps: Tensor = backbone(normalized.flatten(0, 1))
        return maps.reshape(*normalized.shape[:2], *maps.shape[1:])

    def folded(self) -> Self:
        """Make a model that answers the same, faster: its backbones' batch norms are folded, and all else is shared."""
        made = copy(self)
        made._modules = dict(self._modules)
        made.backbones = nn.ModuleDict({stream: each.folded() for stream, each in self.all_backbones().items()})
        return made

    @contextmanager
    def evaluating(self) -> Iterator[Self]:
        """Be in evaluation mode with the backbones' batch norms folded, which is faster; afterwards as before."""
        keep_freed_memory()
        was_training, modules = self.training, self._modules
        self._modules = self.folded()._modules
        self.eval()
        try:
            with torch.inference_mode():
                yield self
        finally:
            self._modules = modules
            self.train(was_training)

    def classify(self, features: Features) -> Tensor:
        """Make logits ``[B, K]``, or ``[B, n, K]``, of features; raise SettingsError for other shapes."""
        raise NotImplementedError

    def forward(
        self,
        rgb: Tensor | None = None,
        flow: Tensor | None = None,
        *,
        features: Features | None = None,
        unlabelled: bool = False,
    ) -> Tensor:
        """Classify a batch of clips, or of features that were computed before.

        Args:
            rgb: ``[B, T, 3, H, W]``, 0..255, uint8 or floating point.
            flow: ``[B, T, 2L, H, W]``, flow codes 0..255 (128 is no motion).
            features: as `features` gave them, of any precision, in place of clips.
            unlabelled: compute `unlabelled_loss` in place of logits.

        Returns:
            Logits ``[B, K]``, or ``[B, n, K]`` of a model with several answers.

        Raises:
            SettingsError: a stream is missing, or shapes do not fit the settings or each other.
        """
        if features is None:
            given: dict[StreamName, Tensor | None] = {"rgb": rgb, "flow": flow}
            features = self.features({name: clip for name, clip in given.items() if clip is not None})
        else:
            dtype = next(self.parameters()).dtype
            features = {name: values.to(dtype) for name, values in features.items()}
        return self.unlabelled_loss(features) if unlabelled else self.classify(features)

    def loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Sum the clips' cross-entropies; with several answers, a clip's is the mean over them.

        Args:
            logits: as `classify` gives them.
            targets: ``[B]`` class numbers.
            smoothing: share of the target that is spread over all classes.
        """
        steps = 1 if logits.ndim == 2 else logits.shape[1]
        if logits.ndim == 3:
            logits, targets = logits.flatten(0, 1), targets.repeat_interleave(steps)
        return F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="sum") / steps

    def further_loss(self) -> Tensor | None:
        """Give what training adds to the loss of the batch just classified, summed over its clips; mostly nothing.

        The learner asks once after each batch.  The figures of a training leave it out.
        """
        return None

    @classmethod
    def unlabelled_epochs(cls, settings: ModelSettings) -> int:
        """Return the epochs of a first stage that learns by `unlabelled_loss`; mostly there is none."""
        del settings
        return 0

    def unlabelled_loss(self, features: Features) -> Tensor:
        """Sum the clips' losses without their classes; only where `unlabelled_epochs` is not 0."""
        raise NotImplementedError

    def log_scores(self, logits: Tensor) -> Tensor:
        """Compute log-probabilities ``[B, K]``; of several answers, of the mean of their probabilities."""
        each = logits.float().log_softmax(-1)
        return each if each.ndim == 2 else each.logsumexp(1) - torch.tensor(float(each.shape[1])).log()

    def scores(self, logits: Tensor) -> Tensor:
        """Compute probabilities ``[B, K]``; of several answers, their mean."""
        each = logits.float().softmax(-1)
        return each if each.ndim == 2 else each.mean(1)

    def explained_maps(self, output: Tensor) -> Tensor:
        """Show what ``explained_layer`` gives as maps ``[B, t, C, h, w]``, a view of it, with t steps over the clip."""
        return output

    def describe(self, features: Features) -> Tensor:
        """Make what `solve` needs of each clip, ``[B, F]``, of features; only where ``solved``."""
        raise NotImplementedError

    def answer_described(self, values: Tensor) -> Tensor:
        """Make logits ``[B, K]`` of described clips ``[B, F]``, as `classify` does; only where ``solved``."""
        raise NotImplementedError

    def solve(self, clips: DescribedClips) -> SolveReport:
        """Find the weights from all training clips at once, and say how well that does; only where ``solved``.

        The same clips give the same weights.  What is chosen is chosen within these clips.

        Raises:
            DatasetError: clips that nothing can be learned from.
        """
        raise NotImplementedError

    def attention(self, features: Features) -> dict[str, Tensor]:
        """Give the weights by which the model reads clips, by a short name, for `explain` to draw; mostly none.

        Returns:
            ``[B, T]`` of frames, or ``[B, T, h, w]`` of places in them, 0 or more.
        """
        del features
        return {}

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of tensors with a row for each clip that `solve` was given, as of a kernel between clips."""
        return ()

    def make_rows(self, saved: Mapping[str, Tensor]) -> None:
        """Give the tensors of `rows` as many rows as saved ones have, so that these can be loaded."""
        counts = {len(saved[name]) if name in saved and saved[name].ndim else 0 for name in self.rows}
        if len(counts) != 1 or 0 in counts:
            return  # they do not go together, and will not fit
        for name in self.rows:
            path, _, last = name.rpartition(".")
            module, own = self.get_submodule(path), self.state_dict()[name]
            made = own.new_zeros(len(saved[name]), *own.shape[1:])
            setattr(module, last, nn.Parameter(made) if last in module._parameters else made)

    @property
    def memories(self) -> dict[str, LayerNormLSTM]:
        """The LSTMs whose gates `explain` plots, by a short name."""
        return {}

    @classmethod
    def stream_shape(cls, settings: ModelSettings) -> StreamShape | None:
        """Describe how a stream is read sample by sample; None where each answer runs the whole window again."""
        del settings
        return None

    def sample_reader(self) -> SampleReader:
        """Make the module that reads new samples of a stream; only where `stream_shape` is not None."""
        raise NotImplementedError

    def answer_window(self, readings: Mapping[str, Tensor]) -> Tensor:
        """Make probabilities ``[B, K]`` of a window's readings ``[B, n, F]``; only where `stream_shape` is not None."""
        raise NotImplementedError

    def keep_only_memory(self) -> Self:
        """Free the weights that `answer_window` does not use; the model can do nothing else then."""
        for backbone in self.all_backbones().values():
            backbone.to("meta")
        return self

    def freeze_backbones(self, through: str | None) -> None:
        """Keep all backbones' layers up to a stage as they are; what comes after them learns.

        Args:
            through: the last frozen stage, ``all``, or None to freeze nothing.

        Raises:
            SettingsError: no such stage, or no backbone to freeze.
        """
        if through is not None and not self.backbones:
            reason = "the model has no backbone that could be frozen"
            raise SettingsError("training.freeze", reason, "leave it out")
        for backbone in self.all_backbones().values():
            backbone.freeze(through)

    def recompute_backbones(self, frames: int | None) -> None:
        """Trade time for memory: keep the backbones' activations of so many frames at a time, compute the rest twice.

        Loss and gradients stay as they are, to float error.

        Args:
            frames: frames a chunk, of the B x T of a batch; None keeps everything.

        Raises:
            SettingsError: less than one frame, or backbones with batch norm that learns, whose statistics are over all
                frames at once.
        """
        if frames is not None and frames < 1:
            raise SettingsError("recompute_frames", f"{frames} frames", "take 1 or more, or null")
        for backbone in self.all_backbones().values():
            backbone.set_recompute(frames)

    def load_pretrained(
        self, source: str | Path, *, fc6: Fc6Start = "file", flow_start: FlowStart = "random"
    ) -> LoadReport:
        """Put pretrained weights into all backbones, in place; nothing is changed if anything does not fit.

        Args:
            source: ``imagenet``, or a file of weights for the backbones.
            fc6: ``file`` takes what the source has for `beside_backbones` too, if its shape fits; ``random`` does not.
            flow_start: of the first layer of pictures of other than three channels; `Backbone.pretrained_values`.

        Raises:
            WeightsError: no backbone; no file or network; a file that is unsafe, damaged, or of other names or shapes.
        """
        backbones = self.all_backbones()
        if not backbones:
            raise WeightsError(str(source), "the model has no backbone to put weights into", "take --pretrained null")
        given = next(iter(backbones.values())).checkpoint(source)
        state, averaged = self.state_dict(), set[str]()
        beside = self.beside_backbones(given) if fc6 == "file" else {}
        fits = all(value.shape == state[name].shape for name, value in beside.items())
        values = dict(beside) if fits else {}
        for stream, backbone in backbones.items():
            own = backbone.pretrained_values(given, flow_start)
            values |= {f"backbones.{stream}.{name}": value for name, value in own.items()}
            if flow_start == "mean" and backbone.in_channels != 3:
                averaged.add(f"backbones.{stream}.{backbone.first_layer()}.weight")
        return self._take(given, values, averaged, misfits=set() if fits else set(beside))

    def load_fitting(self, given: Checkpoint, *, fc6: Fc6Start = "file") -> LoadReport:
        """Put in, in place, all tensors of a checkpoint of a whole model whose names and shapes fit this one.

        Args:
            given: such as the weights of an earlier run; what it lacks or has in another shape stays as it is.
            fc6: ``random`` leaves fc6 as it is, too.
        """
        state = self.state_dict()
        same = {
            name: value
            for name, value in given.tensors.items()
            if name in state and not (fc6 == "random" and name.startswith("fc6."))
        }
        values = {name: value for name, value in same.items() if value.shape == state[name].shape}
        return self._take(given, values, misfits=same.keys() - values.keys())

    def _take(
        self, given: Checkpoint, values: Mapping[str, Tensor], averaged: Set[str] = frozenset(), *, misfits: Set[str]
    ) -> LoadReport:
        state = self.state_dict(keep_vars=True)
        with torch.no_grad():
            for name, value in values.items():
                if not value.float().isfinite().all():
                    raise WeightsError(
                        given.source, f"its tensor for {name} holds nan or infinity", "give other weights"
                    )
            for name, value in values.items():
                state[name].copy_(value)
        learned = [name for name, value in state.items() if isinstance(value, nn.Parameter)]
        return LoadReport(
            given.name,
            given.sha256,
            loaded=tuple(name for name in learned if name in values),
            random=tuple(name for name in learned if name not in values),
            averaged=tuple(name for name in learned if name in averaged),
            misfits=tuple(name for name in learned if name in misfits),
        )

    def beside_backbones(self, given: Checkpoint) -> dict[str, Tensor]:
        """Pick values for further parameters out of a checkpoint of the backbones, by the model's own names.

        They are taken if all of them have the model's shapes.
        """
        del given
        return {}

    def pretrained_parameters(self) -> set[str]:
        """Name the parameters that pretrained weights exist for, which fine-tuning moves more slowly than new ones."""
        return {
            f"backbones.{stream}.{name}"
            for stream, backbone in self.all_backbones().items()
            for name in backbone.pretrained_parameters()
        }


def _check_lengths(features: Features, frames: int | None) -> None:
    shapes = {stream: list(values.shape[:2]) for stream, values in features.items()}
    if len(shapes) > 1 and shapes["rgb"] != shapes["flow"]:
        came = f"{shapes['flow']} clips and frames where rgb has {shapes['rgb']}"
        raise SettingsError("flow", came, "give both streams of the same clips")
    for stream, shape in shapes.items():
        if frames is not None and shape[1] != frames:
            raise SettingsError(
                stream, f"{shape[1]} frames, wanted {frames}", "cut clips with the model's own settings"
            )
