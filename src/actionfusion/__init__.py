"""Recognise human actions in video by fusing what is seen with how it moves, pixel by pixel.

Every command of the command line is a function here, of the same name and arguments::

    from actionfusion import Recognizer, predict, train

``report`` alone is found in its room, which has that name: ``actionfusion.report.run_report.report``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from actionfusion.version import __version__

if TYPE_CHECKING:
    from actionfusion.data.check import check
    from actionfusion.data.prepare_dataset import prepare
    from actionfusion.demo import demo
    from actionfusion.errors import ActionFusionError, VideoError
    from actionfusion.evaluation.evaluate import evaluate
    from actionfusion.inference.exports.export import export
    from actionfusion.inference.predict import predict
    from actionfusion.inference.recognizer import Prediction, Recognizer
    from actionfusion.inference.streams.stream import stream
    from actionfusion.report.comparison_page import report_comparison
    from actionfusion.training.train import train

_HOMES = {
    "ActionFusionError": "actionfusion.errors",
    "Prediction": "actionfusion.inference.recognizer",
    "Recognizer": "actionfusion.inference.recognizer",
    "VideoError": "actionfusion.errors",
    "check": "actionfusion.data.check",
    "demo": "actionfusion.demo",
    "evaluate": "actionfusion.evaluation.evaluate",
    "export": "actionfusion.inference.exports.export",
    "predict": "actionfusion.inference.predict",
    "prepare": "actionfusion.data.prepare_dataset",
    "report_comparison": "actionfusion.report.comparison_page",
    "stream": "actionfusion.inference.streams.stream",
    "train": "actionfusion.training.train",
}

__all__ = [
    "ActionFusionError",
    "Prediction",
    "Recognizer",
    "VideoError",
    "__version__",
    "check",
    "demo",
    "evaluate",
    "export",
    "predict",
    "prepare",
    "report_comparison",
    "stream",
    "train",
]


def __getattr__(name: str) -> Any:
    # Names are fetched when they are asked for: whoever only predicts never waits for the training code.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
