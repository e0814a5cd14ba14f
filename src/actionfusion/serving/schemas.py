"""The shapes of what is answered, for OpenAPI."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

Score = Annotated[float, Field(ge=0, le=1.0001)]


class PredictionModel(BaseModel):
    """A class, and how probable the network holds it."""

    label: str
    score: Score


class SegmentModel(BaseModel):
    """A part of a video, in seconds; without a label where no class reached the threshold."""

    start: float
    end: float
    label: str | None
    score: Score | None


class ErrorModel(BaseModel):
    """What is wrong and what to do about it; kinds are those of the command line, and those of requests."""

    kind: str
    message: str
    remedy: str


class ErrorAnswer(BaseModel):
    """How every error is answered."""

    error: ErrorModel


class TimelineModel(BaseModel):
    """What happens when; with an error where the video could not be read to its end."""

    seconds: float
    segments: list[SegmentModel]
    method: Literal["exact state", "window again"] | None
    error: ErrorModel | None = None


class LimitsModel(BaseModel):
    """What the server takes."""

    bytes: int
    seconds: float
    frames: int
    pixels: int
    videos_waiting: int


class ModelAnswer(BaseModel):
    """What is served."""

    name: str
    model: str
    version: str
    labels: list[str]
    streams: list[Literal["rgb", "flow"]]
    frames: int
    runtime: str
    precision: str
    limits: LimitsModel
    token: bool
    streaming: Literal["exact state", "window again"] | None
    explains: bool


class HealthAnswer(BaseModel):
    """Whether the server lives, or is ready for a video."""

    status: Literal["ok", "not ready"]


_VIDEO: dict[str, Any] = {"type": "string", "format": "binary"}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The video itself, of any content type, or a form with one part named file.",
        "content": {
            "application/octet-stream": {"schema": _VIDEO},
            "video/mp4": {"schema": _VIDEO},
            "multipart/form-data": {"schema": {"type": "object", "properties": {"file": _VIDEO}, "required": ["file"]}},
        },
    }
}
"""The body of the routes that take a video."""

PREDICTIONS = [{"label": "JumpingJack", "score": 0.91}, {"label": "Lunges", "score": 0.05}]
TIMELINE = {
    "seconds": 4.0,
    "segments": [
        {"start": 0.0, "end": 2.4, "label": "Lunges", "score": 0.83},
        {"start": 2.4, "end": 4.0, "label": "JumpingJack", "score": 0.78},
    ],
    "method": "exact state",
    "error": None,
}
ERROR = {
    "error": {
        "kind": "not_a_video",
        "message": "no video container was recognised in it",
        "remedy": "give a video file",
    }
}
LINES = (
    '{"stage": "waiting", "ahead": 1}\n{"stage": "decoding", "done": 40, "of": 164}\n{"stage": "network"}\n'
    '{"result": [{"label": "JumpingJack", "score": 0.91}]}\n'
)


def answers(example: object, *, lines: bool = False, **others: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """Describe the answers of a route: an example of the good one, and the errors.

    Args:
        example: of the JSON that is answered with 200.
        lines: whether it is also answered line by line.
        others: further content types of the good answer, ``__`` for the slash.
    """
    content: dict[str, Any] = {"application/json": {"example": example}} if example is not None else {}
    if lines:
        content["application/x-ndjson"] = {"schema": {"type": "string"}, "example": LINES}
    content |= {name.replace("__", "/"): value for name, value in others.items()}
    errors = {
        400: "a request that is not well formed",
        401: "no token, or a wrong one",
        403: "a host or an origin that is not answered",
        405: "another method",
        408: "the sender is too slow",
        413: "more bytes, pixels, frames or seconds than are taken",
        415: "no video, or one of a kind that is not taken",
        422: "a video that cannot be read, or settings that make no sense",
        429: "too many videos wait; see Retry-After",
        503: "the server is about to end; see Retry-After",
    }
    found: dict[int | str, dict[str, Any]] = {
        status: {
            "model": ErrorAnswer,
            "description": meaning,
            "content": {"application/json": {"example": ERROR}},
        }
        for status, meaning in errors.items()
    }
    return {200: {"content": content}} | found
