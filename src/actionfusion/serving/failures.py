"""What goes wrong with a request, and how HTTP says it."""

from __future__ import annotations

import sys
import traceback
from typing import ClassVar

from actionfusion.errors import (
    ActionFusionError,
    CodecRefused,
    NotAVideo,
    NoVideoStream,
    SettingsError,
    VideoError,
    VideoTooLarge,
    printable,
)


class RequestError(ActionFusionError):
    """A request that is not answered.

    Args:
        reason: what is wrong with it.
        remedy: what to do about it.
        retry_after: seconds after which it may be tried again, where that is known.
    """

    kind = "request"
    status: ClassVar[int] = 400

    def __init__(self, reason: str, remedy: str, *, retry_after: int | None = None) -> None:
        super().__init__("request", reason, remedy)
        self.retry_after = retry_after


class TokenWanted(RequestError):
    """No token, or another one."""

    kind, status = "token", 401


class Forbidden(RequestError):
    """A host or an origin that the server does not answer to."""

    kind, status = "forbidden", 403


class NotFound(RequestError):
    """There is no such route."""

    kind, status = "not_found", 404


class WrongMethod(RequestError):
    """A route that is there, and is asked in another way."""

    kind, status = "method", 405


class SlowSender(RequestError):
    """A client that sends too slowly, or has stopped."""

    kind, status = "slow", 408


class BodyTooLarge(RequestError):
    """More bytes than are taken."""

    kind, status = "too_large", 413


class WrongContent(RequestError):
    """A body that is wrapped in a way that is not taken."""

    kind, status = "content", 415


class QueueFull(RequestError):
    """Too many videos wait already."""

    kind, status = "busy", 429


class Ending(RequestError):
    """The server is about to end."""

    kind, status = "ending", 503


class Failed(RequestError):
    """A fault of the server itself."""

    kind, status = "internal", 500


class DecoderLost(VideoError):
    """A decoding process that ended, or was ended, over a video."""


def status_of(error: ActionFusionError) -> int:
    """Choose the HTTP status for an error."""
    if isinstance(error, RequestError):
        return error.status
    if isinstance(error, NotAVideo | NoVideoStream | CodecRefused):
        return 415
    if isinstance(error, VideoTooLarge):
        return 413
    return 422 if isinstance(error, VideoError | SettingsError) else 500


def as_json(error: ActionFusionError) -> dict[str, dict[str, str]]:
    """Make the one object that every error is answered with; it names no file of the server's."""
    return {"error": {"kind": error.kind, "message": printable(error.reason), "remedy": printable(error.remedy)}}


def fault_of(error: BaseException) -> Failed:
    """Make the answer to a fault of the server, and write where it arose to standard error, without what was sent."""
    places = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-4:]]
    sys.stderr.write(f"fault: {type(error).__name__} at {', '.join(places)}\n")
    return Failed("the server has a fault", "report it, with the video if you may")
