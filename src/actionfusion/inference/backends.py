"""The backends of a recogniser's sub-models, each opened when it is first used."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from actionfusion.allocator import keep_freed_memory
from actionfusion.errors import RuntimeUnavailable
from actionfusion.inference.exports.exported import Export, open_export
from actionfusion.inference.runtimes.backend import (
    PRECISIONS,
    Backend,
    BackendName,
    PrecisionName,
    RuntimeName,
    TorchBackend,
)
from actionfusion.inference.runtimes.choice import RuntimeChoice, choose
from actionfusion.inference.runtimes.prepared import Artifact, open_artifact
from actionfusion.inference.runtimes.step_model import StepRun, step_model
from actionfusion.inference.runtimes.sub_models import SubModel, clip_model
from actionfusion.inference.stepping import ExactStepper, Stepper, WindowStepper
from actionfusion.models.model import VideoModel
from actionfusion.models.model_settings import ModelSettings
from actionfusion.run_folder import RunFolder
from actionfusion.storage import PathLike
from actionfusion.video.clip import ClipSettings

SubModelName = Literal["clip", "step"]


class Backends:
    """Hold the backends of a model's sub-models.

    Args:
        choice: which runtime it is, and why.
        openers: opens each sub-model.
        clip: T, L and the flow recipe.
        network: gives the network in PyTorch.
        memory: gives the network of which a stream needs only the LSTMs and the head.
    """

    def __init__(
        self,
        choice: RuntimeChoice,
        openers: Mapping[SubModelName, Callable[[], Backend]],
        clip: ClipSettings,
        network: Callable[[], VideoModel],
        memory: Callable[[], VideoModel],
    ) -> None:
        self.choice = choice
        self.network = network
        self._openers = openers
        self._clip = clip
        self._memory = memory
        self._opened: dict[SubModelName, Backend] = {}

    @classmethod
    def of_network(cls, network: VideoModel, clip: ClipSettings, choice: RuntimeChoice | None = None) -> Self:
        """Run a network by PyTorch, on the device where it is.

        With a choice it is a run's, whose weights stay as they are: it answers with its batch norms folded.
        """
        device = next(network.parameters()).device
        answering = network
        if choice is None:
            choice = RuntimeChoice("torch", "fp32", "a network was given", str(device))
        else:
            answering = network.folded()
            if device.type == "cpu":
                keep_freed_memory()
        sub_models = _sub_models(lambda: answering, type(network), network.settings, clip)
        openers = {
            name: lambda sub_model=sub_model: TorchBackend(sub_model, choice.precision, device)
            for name, sub_model in sub_models.items()
        }
        return cls(choice, openers, clip, lambda: network, lambda: network)

    @classmethod
    def of_run(
        cls,
        run: RunFolder,
        *,
        runtime: RuntimeName,
        precision: PrecisionName,
        device: str | None,
        root: PathLike | None,
        store: PathLike | None = None,
        first: SubModelName,
    ) -> Self:
        """Choose the runtime for a run; arguments and errors as for `Recognizer.load`."""
        sub_models = _sub_models(run.load_network, run.model_class, run.network, run.clip)
        first = first if first in sub_models else "clip"

        def artifact_of(name: BackendName, wanted: PrecisionName, sub_model: SubModelName = first) -> Artifact:
            return Artifact(run, sub_models[sub_model], name, wanted, root, store)

        choice = choose(
            runtime,
            precision,
            device,
            artifact_of=artifact_of,
            flops=lambda: run.flops,
            exportable=run.model_class.exportable,
        )
        if choice.name != "torch":
            try:
                return cls._prepared(run, choice, artifact_of, tuple(sub_models), first)
            except RuntimeUnavailable as error:
                if runtime != "auto" or choice.precision not in PRECISIONS["torch"]:
                    raise
                choice = replace(choice, name="torch", reason=f"{error.subject}: {error.reason}")
        return cls.of_network(run.load_network().to(choice.device), run.clip, choice)

    @classmethod
    def _prepared(
        cls,
        run: RunFolder,
        choice: RuntimeChoice,
        artifact_of: Callable[[BackendName, PrecisionName, SubModelName], Artifact],
        sub_models: Sequence[SubModelName],
        first: SubModelName,
    ) -> Self:
        keep = ExitStack()

        def opener(sub_model: SubModelName) -> Callable[[], Backend]:
            return lambda: open_artifact(artifact_of(choice.name, choice.precision, sub_model), keep=keep)

        openers = {sub_model: opener(sub_model) for sub_model in sub_models}
        backends = cls(
            choice, openers, run.clip, cache(run.load_network), lambda: run.load_network().keep_only_memory()
        )
        weakref.finalize(backends, keep.close)
        backends.open(first)
        return backends

    @classmethod
    def of_export(
        cls, folder: Path, *, runtime: RuntimeName, precision: PrecisionName | None, device: str | None
    ) -> tuple[Export, Self]:
        """Open the model of an export; arguments and errors as for `Recognizer.load`."""
        export = open_export(folder)
        backend, choice = export.open(runtime, precision, device)
        return export, cls(choice, {"clip": lambda: backend}, export.clip, export.no_network, export.no_network)

    def open(self, sub_model: SubModelName) -> Backend:
        """Open a sub-model; where a model is not read sample by sample, clip is used for step too."""
        sub_model = sub_model if sub_model in self._openers else "clip"
        if sub_model not in self._opened:
            self._opened[sub_model] = self._openers[sub_model]()
        return self._opened[sub_model]

    def stepper(self) -> Stepper[Any]:
        """Make the stepper that answers a stream."""
        backend = self.open("step")
        if "step" not in self._openers:
            return WindowStepper(self._clip, backend.run)
        network = self._memory()
        shape = network.stream_shape(network.settings)
        assert shape is not None
        step = StepRun(backend.run, shape, takes_batches=backend.takes_batches)
        return ExactStepper(network, shape, self._clip, step, device=self.choice.device)


def _sub_models(
    make_network: Callable[[], VideoModel], model_class: type[VideoModel], settings: ModelSettings, clip: ClipSettings
) -> dict[SubModelName, SubModel]:
    sub_models: dict[SubModelName, SubModel] = {"clip": clip_model(make_network, model_class, settings, clip)}
    if (shape := model_class.stream_shape(settings)) is not None:
        sub_models["step"] = step_model(make_network, model_class, settings, clip, shape)
    return sub_models
