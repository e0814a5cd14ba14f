"""Recognise human actions in video by fusing what is seen with how it moves, pixel by pixel.

Every command of the command line is a function here, of the same name and arguments::

    from actionfusion import Recognizer, load_recipe, predict, train
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actionfusion.commands import COMMANDS
from actionfusion.version import __version__

if TYPE_CHECKING:
    from actionfusion.data.check import check
    from actionfusion.data.dataset import DataSettings
    from actionfusion.data.prepare_dataset import prepare
    from actionfusion.demonstration import demo
    from actionfusion.errors import ActionFusionError, VideoError
    from actionfusion.evaluation.average import average
    from actionfusion.evaluation.evaluate import evaluate
    from actionfusion.evaluation.protocol import protocol
    from actionfusion.evaluation.versus import versus
    from actionfusion.inference.exports.export import export
    from actionfusion.inference.predict import predict
    from actionfusion.inference.recognizer import Prediction, Recognizer
    from actionfusion.inference.speed.benchmark import benchmark
    from actionfusion.inference.streams.stream import stream
    from actionfusion.reporting.compare import compare
    from actionfusion.reporting.explain import explain
    from actionfusion.reporting.push import push
    from actionfusion.reporting.run_report import report
    from actionfusion.reporting.several_runs_page import report_comparison
    from actionfusion.serving.serve import serve
    from actionfusion.training.recipe import Recipe, load_recipe
    from actionfusion.training.train import train

_HOMES = {name: command.module for name, command in COMMANDS.items()} | {
    "ActionFusionError": "actionfusion.errors",
    "DataSettings": "actionfusion.data.dataset",
    "Prediction": "actionfusion.inference.recognizer",
    "Recipe": "actionfusion.training.recipe",
    "Recognizer": "actionfusion.inference.recognizer",
    "VideoError": "actionfusion.errors",
    "load_recipe": "actionfusion.training.recipe",
}

__all__ = [
    "ActionFusionError",
    "DataSettings",
    "Prediction",
    "Recipe",
    "Recognizer",
    "VideoError",
    "__version__",
    "average",
    "benchmark",
    "check",
    "compare",
    "demo",
    "evaluate",
    "explain",
    "export",
    "load_recipe",
    "predict",
    "prepare",
    "protocol",
    "push",
    "report",
    "report_comparison",
    "serve",
    "stream",
    "train",
    "versus",
]


def __getattr__(name: str) -> Any:
    # Names are imported when they are asked for, so that prediction never waits for the training code.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_HOMES[name]), name)
    return _taking_text(found) if name in COMMANDS else found


def _taking_text(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command take text for a path, as the command line does."""
    signature = inspect.signature(command)
    paths = {name for name, one in signature.parameters.items() if one.annotation in ("Path", "Path | None")}

    @wraps(command)
    def called(*values: Any, **named: Any) -> Any:
        given = signature.bind(*values, **named)
        for name in paths & given.arguments.keys():
            if isinstance(given.arguments[name], str):
                given.arguments[name] = Path(given.arguments[name])
        return command(*given.args, **given.kwargs)

    return called
