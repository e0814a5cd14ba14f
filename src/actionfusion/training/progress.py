"""What a person sees while the network trains: a bar in a terminal, a line an epoch elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from types import TracebackType
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from actionfusion.terminal import Console
from actionfusion.training.throughput import Speed

log = logging.getLogger("actionfusion.training")


class Progress(Protocol):
    """Listens to the training loop."""

    def epoch_started(self, stage: int, epoch: int, max_epochs: int, *, steps: int, done: int) -> None:
        """Take note of an epoch of so many steps, some of them done already; stages and epochs count from 1."""

    def step_done(self, loss: float, accuracy: float) -> None:
        """Take note of a step; the figures are means over the epoch so far."""

    def epoch_ended(self, row: Mapping[str, object]) -> None:
        """Take note of an epoch by its row of ``metrics.csv``."""


class ConsoleProgress:
    """Progress on standard error: a bar with loss, accuracy and time left, and a line an epoch.

    Used as a context manager, so that the bar leaves the terminal clean however the training ends.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}  accuracy {task.fields[accuracy]:.1%}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, loss=0.0, accuracy=0.0)

    def __enter__(self) -> ConsoleProgress:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        self._bar.stop()

    def epoch_started(self, stage: int, epoch: int, max_epochs: int, *, steps: int, done: int) -> None:
        """Start the bar anew."""
        description = f"stage {stage}, epoch {epoch}/{max_epochs}"
        self._bar.reset(self._task, total=steps, completed=done, description=description, loss=0.0, accuracy=0.0)

    def step_done(self, loss: float, accuracy: float) -> None:
        """Move the bar."""
        self._bar.update(self._task, advance=1, loss=loss, accuracy=accuracy)

    def epoch_ended(self, row: Mapping[str, object]) -> None:
        """Print and log the epoch's line."""
        line = f"epoch {row['epoch']:>3}  stage {row['session']}  train loss {row['train_loss']:.4f}"
        if row["train_accuracy"] != "":
            line += f" accuracy {row['train_accuracy']:.1%}"
        if row["val_accuracy"] != "":
            line += f"  validation loss {row['val_loss']:.4f} accuracy {row['val_accuracy']:.1%}"
        line += f"  {row['seconds']:.1f} s"
        reached = Speed(*(row[part.name] for part in fields(Speed)))  # type: ignore[arg-type]
        log.info("%s", line)
        log.info("speed: %s", reached)
        self._console.print(line, f"        {reached}", sep="\n", highlight=False, soft_wrap=True)


@contextmanager
def features_progress(
    *, shown: bool, title: str = "features", lines: bool = True
) -> Iterator[Callable[[int, int], None]]:
    """Show a bar for the clips whose features are computed; a line for each tenth where there is no terminal.

    Args:
        shown: whether this process is the one that talks.
        title: of the bar.
        lines: whether there are lines where there is no terminal.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, disable=not (shown and console.is_terminal), transient=True) as bar:
        task = bar.add_task(title, total=None, visible=False)

        def clip_done(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=True)
            if shown and lines and not console.is_terminal and 10 * done // total > 10 * (done - 1) // total:
                console.print(f"{title}: {done} of {total} clips computed", highlight=False)

        yield clip_done


class SilentProgress:
    """For the processes beside the main one."""

    def epoch_started(self, stage: int, epoch: int, max_epochs: int, *, steps: int, done: int) -> None:
        """Say nothing."""

    def step_done(self, loss: float, accuracy: float) -> None:
        """Say nothing."""

    def epoch_ended(self, row: Mapping[str, object]) -> None:
        """Say nothing."""
