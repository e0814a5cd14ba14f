"""What runs the parts of a network for a recogniser: one runtime, its parts opened when they are first asked for."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from actionfusion.errors import RuntimeUnavailable
from actionfusion.inference.exports.exported import Export, open_export
from actionfusion.inference.runtimes.choice import RuntimeChoice, choose
from actionfusion.inference.runtimes.parts import Part, clip_flops, clip_part
from actionfusion.inference.runtimes.prepared import Kind, open_part
from actionfusion.inference.runtimes.running import (
    PRECISIONS,
    EngineName,
    PrecisionName,
    Runtime,
    RuntimeName,
    TorchRuntime,
)
from actionfusion.inference.runtimes.step_part import StepRun, step_part
from actionfusion.inference.stepping import ExactStepper, Stepper, WindowStepper
from actionfusion.models.model import ModelSettings, VideoModel
from actionfusion.run_folder import RunFolder
from actionfusion.storage import PathLike
from actionfusion.video.clip import ClipSettings

PartName = Literal["clip", "step"]


class Engines:
    """The runtimes of a network's parts.

    Args:
        choice: which runtime it is, and why.
        openers: opens each part.
        clip: T, L and the flow recipe.
        network: gives the network in PyTorch.
        memory: gives the network of which a stream needs the LSTMs and the head alone.
    """

    def __init__(
        self,
        choice: RuntimeChoice,
        openers: Mapping[PartName, Callable[[], Runtime]],
        clip: ClipSettings,
        network: Callable[[], VideoModel],
        memory: Callable[[], VideoModel],
    ) -> None:
        self.choice = choice
        self.network = network
        self._openers = openers
        self._clip = clip
        self._memory = memory
        self._opened: dict[PartName, Runtime] = {}

    @classmethod
    def of_network(cls, network: VideoModel, clip: ClipSettings, choice: RuntimeChoice | None = None) -> Self:
        """PyTorch, on the device where the network is."""
        device = next(network.parameters()).device
        choice = choice or RuntimeChoice("torch", "fp32", "a network was given", str(device))
        parts = _parts(lambda: network, type(network), network.settings, clip)
        openers = {name: lambda part=part: TorchRuntime(part, choice.precision, device) for name, part in parts.items()}
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
        first: PartName,
    ) -> Self:
        """What answers for a run; arguments and errors as for `Recognizer.load`."""
        parts = _parts(run.load_network, run.model_class, run.network, run.clip)
        first = first if first in parts else "clip"

        def kind_of(name: EngineName, wanted: PrecisionName, part: PartName = first) -> Kind:
            return Kind(run, parts[part], name, wanted, root, store)

        choice = choose(
            runtime,
            precision,
            device,
            kind_of=kind_of,
            flops=lambda: clip_flops(run.model_class, run.network, run.clip),
        )
        if choice.name != "torch":
            try:
                return cls._prepared(run, choice, kind_of, tuple(parts), first)
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
        kind_of: Callable[[EngineName, PrecisionName, PartName], Kind],
        parts: Sequence[PartName],
        first: PartName,
    ) -> Self:
        keep = ExitStack()

        def opener(part: PartName) -> Callable[[], Runtime]:
            return lambda: open_part(kind_of(choice.name, choice.precision, part), keep=keep)

        openers = {part: opener(part) for part in parts}
        engines = cls(choice, openers, run.clip, cache(run.load_network), lambda: run.load_network().keep_only_memory())
        weakref.finalize(engines, keep.close)
        engines.open(first)
        return engines

    @classmethod
    def of_export(
        cls, folder: Path, *, runtime: RuntimeName, precision: PrecisionName | None, device: str | None
    ) -> tuple[Export, Self]:
        """The model of an export; arguments and errors as for `Recognizer.load`."""
        export = open_export(folder)
        engine, choice = export.open(runtime, precision, device)
        return export, cls(choice, {"clip": lambda: engine}, export.clip, export.no_network, export.no_network)

    def open(self, part: PartName) -> Runtime:
        """The runtime of a part; of a model that is not read sample by sample, the clip part is its step part too."""
        part = part if part in self._openers else "clip"
        if part not in self._opened:
            self._opened[part] = self._openers[part]()
        return self._opened[part]

    def stepper(self) -> Stepper[Any]:
        """What answers a stream."""
        engine = self.open("step")
        if "step" not in self._openers:
            return WindowStepper(self._clip, engine.run)
        network = self._memory()
        shape = network.stream_shape(network.settings)
        assert shape is not None
        step = StepRun(engine.run, shape, takes_batches=engine.takes_batches)
        return ExactStepper(network, shape, self._clip, step, device=self.choice.device)


def _parts(
    make_network: Callable[[], VideoModel], kind: type[VideoModel], settings: ModelSettings, clip: ClipSettings
) -> dict[PartName, Part]:
    parts: dict[PartName, Part] = {"clip": clip_part(make_network, kind, settings, clip)}
    if (shape := kind.stream_shape(settings)) is not None:
        parts["step"] = step_part(make_network, kind, settings, clip, shape)
    return parts
