"""Keep an error that nobody foresaw with the one video that it came from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from actionfusion.errors import ActionFusionError, VideoError
from actionfusion.video.threads import ReadingStopped


@contextmanager
def unforeseen_faults(video: object) -> Iterator[None]:
    """Turn what the libraries raise on one file, whatever its class, into that file's ``VideoError``."""
    try:
        yield
    except (ActionFusionError, ReadingStopped):
        raise
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise VideoError(video, f"reading it failed ({text})", "leave it out, and report this") from error
