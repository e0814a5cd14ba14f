"""Which model a page is about, where it comes from, and the figures that were published for it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple, Self

from actionfusion.models.model_settings import ModelSettings, Source
from actionfusion.reporting.findings import accuracy_headline
from actionfusion.reporting.tables import Evaluation
from actionfusion.run_folder import RunFolder
from actionfusion.settings import plain


class PublishedFigure(NamedTuple):
    """An accuracy from the literature.

    Attributes:
        dataset: name of the data set.
        figure: the accuracy with the protocol that it was measured under.
        here: this run's on the same data set, with its own protocol; empty where it was measured on another.
    """

    dataset: str
    figure: str
    here: str


@dataclass(frozen=True)
class ModelFacts:
    """What a page says of a model.

    Attributes:
        name: in the table of models.
        source: where it comes from.
        published: figures from the literature beside those of the run.
        chosen: settings of the run that are not the model's defaults, in words.
    """

    name: str
    source: Source
    published: tuple[PublishedFigure, ...] = ()
    chosen: str = ""

    @classmethod
    def of(cls, folder: RunFolder, evaluation: Evaluation) -> Self:
        """Collect the facts of a run's model."""
        source, dataset = folder.model_class.source, evaluation["dataset"]
        _, value, note = accuracy_headline(evaluation)
        here = f"{value} ({note}; {len(folder.labels)} classes, split {evaluation['split']})"
        figures = (
            PublishedFigure(name, figure, here if name == dataset else "") for name, figure in source.published.items()
        )
        return cls(folder.model, source, tuple(figures), chosen_settings(folder.network))

    @property
    def on_this_data(self) -> PublishedFigure | None:
        """The figure published for the data set of the run; None where there is none."""
        return next((figure for figure in self.published if figure.here), None)


def chosen_settings(network: ModelSettings) -> str:
    """Name the settings of a network that are not its model's defaults, but for what its clips and classes decide."""
    given = {"num_classes", "frames", "image_size", "flow_size", "flow_channels", "members"}
    values = {field.name: (getattr(network, field.name), field.default) for field in fields(network)}
    return ", ".join(
        f"{name} {plain(value)}" for name, (value, default) in values.items() if name not in given and value != default
    )
