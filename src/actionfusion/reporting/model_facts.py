"""Which model a page is about, where it comes from, and the figures that were published for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

from actionfusion.models.model_settings import Source
from actionfusion.reporting.findings import accuracy_headline
from actionfusion.reporting.tables import Evaluation
from actionfusion.run_folder import RunFolder


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
    """

    name: str
    source: Source
    published: tuple[PublishedFigure, ...] = ()

    @classmethod
    def of(cls, folder: RunFolder, evaluation: Evaluation) -> Self:
        """Collect the facts of a run's model."""
        source, dataset = folder.model_class.source, evaluation["dataset"]
        _, value, note = accuracy_headline(evaluation)
        here = f"{value} ({note}; split {evaluation['split']})"
        figures = (
            PublishedFigure(name, figure, here if name == dataset else "") for name, figure in source.published.items()
        )
        return cls(folder.model, source, tuple(figures))

    @property
    def on_this_data(self) -> PublishedFigure | None:
        """The figure published for the data set of the run; None where there is none."""
        return next((figure for figure in self.published if figure.here), None)
