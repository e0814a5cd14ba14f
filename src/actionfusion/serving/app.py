"""The routes."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.websockets import WebSocket

from actionfusion.errors import ActionFusionError, SettingsError
from actionfusion.inference.timelines.files import as_webvtt
from actionfusion.inference.timelines.timeline import TimelineRules
from actionfusion.inference.timelines.untrimmed import VideoTimeline, WindowSettings
from actionfusion.serving import schemas
from actionfusion.serving.access import Access
from actionfusion.serving.answers import Answers, Tell
from actionfusion.serving.camera import serve_camera
from actionfusion.serving.failures import Failed, NotFound, RequestError, WrongMethod, as_json
from actionfusion.serving.guard import Guard
from actionfusion.serving.metrics import Metrics
from actionfusion.serving.responses import LINES, WorkResponse, error_response
from actionfusion.serving.uploads import Uploads
from actionfusion.version import __version__

PAGE = Path(__file__).parent / "page"
_INDEX = "index.html"
_VTT = "text/vtt"
TopK = Annotated[int, Query(ge=1, le=10_000, description="Classes that are answered; all of them if there are fewer.")]
Every = Annotated[
    int | None, Query(ge=1, le=1_000_000, description="Frames from one sampled frame to the next; else the run's own.")
]
Stride = Annotated[int, Query(ge=1, le=10_000, description="Sampled frames from one window to the next.")]
Threshold = Annotated[float, Query(ge=0, le=1, description="Probability under which a moment has no label.")]
Shortest = Annotated[float, Query(ge=0, le=1e6, description="Seconds under which a segment is given to a neighbour.")]


@dataclass(frozen=True)
class Served:
    """What the routes answer by.

    Args:
        answers: the run at work.
        uploads: where videos are received.
        access: who is answered.
        metrics: the counters.
        about: what ``/api/model`` says.
        cut: set when the server can wait no longer for what runs.
    """

    answers: Answers
    uploads: Uploads
    access: Access
    metrics: Metrics
    about: schemas.ModelAnswer
    cut: asyncio.Event


def make_app(served: Served) -> Guard:
    """Make the application of a server."""
    answers, gauge = served.answers, served.metrics.gauge
    gauge("videos_waiting", "Videos that wait for a decoder.", lambda: answers.decoders.waiting)
    gauge("videos_admitted", "Videos that are received or worked on.", lambda: answers.admitted)
    gauge("cameras", "Pages that stream.", lambda: answers.cameras)
    gauge("decoders_replaced", "Decoders that died or were ended.", lambda: answers.decoders.replaced)
    app = FastAPI(
        title="actionfusion",
        summary="Names the action in videos.",
        version=__version__,
        docs_url=None,  # these pages would load scripts from others
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    _add_pages(app)
    _add_state(app, served)
    _add_videos(app, served)
    _add_errors(app, served)
    if served.access.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(served.access.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "accept"],
        )
    return Guard(app, served.access, served.answers.limits, _counter(served), _errors_counter(served))


def _counter(served: Served) -> Callable[[str, int, float], None]:
    def count(route: str, status: int, seconds: float) -> None:
        served.metrics.requests.labels(route, str(status) if status else "gone").inc()
        served.metrics.seconds.labels(route).observe(seconds)

    return count


def _errors_counter(served: Served) -> Callable[[ActionFusionError], None]:
    return lambda error: served.metrics.errors.labels(error.kind).inc()


def _add_pages(app: FastAPI) -> None:
    # Read once: no request names a file.
    page = (PAGE / _INDEX).read_bytes()
    assets = {file.name: file.read_bytes() for file in PAGE.iterdir() if file.is_file() and file.name != _INDEX}

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return Response(page, media_type="text/html; charset=utf-8")

    @app.get("/assets/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        if name not in assets:
            raise NotFound("there is no such file", "see /")
        kind = "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0]
        return Response(assets[name], media_type=kind or "application/octet-stream")


def _add_state(app: FastAPI, served: Served) -> None:
    health: dict[int | str, dict[str, Any]] = {
        200: {"model": schemas.HealthAnswer},
        503: {"model": schemas.HealthAnswer},
    }

    @app.get("/health/live", responses=health, summary="Whether the server lives.", tags=["state"])
    async def live() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @app.get("/health/ready", responses=health, summary="Whether it can answer a video.", tags=["state"])
    async def ready() -> JSONResponse:
        answers = served.answers
        is_ready = answers.decoders.alive > 0 and not answers.is_ending
        return JSONResponse({"status": "ok" if is_ready else "not ready"}, 200 if is_ready else 503)

    @app.get(
        "/metrics",
        summary="Counters in Prometheus' text format.",
        tags=["state"],
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        return Response(served.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.websocket("/api/stream")
    async def stream(socket: WebSocket) -> None:
        await serve_camera(socket, served.answers, served.access, served.metrics)

    @app.get("/api/model", summary="What is served.", tags=["model"])
    async def model() -> schemas.ModelAnswer:
        return served.about


def _add_videos(app: FastAPI, served: Served) -> None:
    answers = served.answers

    async def respond(request: Request, work: Callable[[Path, Tell], Awaitable[Response]]) -> Response:
        """Receive the video of a request, and answer it."""
        async with AsyncExitStack() as held:
            held.enter_context(answers.admission())
            path = held.enter_context(served.uploads.place())
            await served.uploads.receive(request.receive, dict(request.headers), path)
            return WorkResponse(
                lambda tell: work(path, tell),
                held.pop_all(),
                lines=_wants(request, LINES),
                cut=served.cut,
                failed=_errors_counter(served),
            )
        raise AssertionError

    @app.post(
        "/api/predict",
        summary="Name the action in a video.",
        tags=["videos"],
        response_model=list[schemas.PredictionModel],
        responses=schemas.answers(schemas.PREDICTIONS, lines=True),
        openapi_extra=schemas.BODY,
    )
    async def predict(request: Request, top_k: TopK = 5) -> Response:
        async def work(path: Path, tell: Tell) -> Response:
            return JSONResponse(await answers.predict(path, tell, top_k))

        return await respond(request, work)

    @app.post(
        "/api/timeline",
        summary="Find what happens when in a long video.",
        tags=["videos"],
        response_model=schemas.TimelineModel,
        responses=schemas.answers(schemas.TIMELINE, lines=True, text__vtt={"schema": {"type": "string"}}),
        openapi_extra=schemas.BODY,
    )
    async def timeline(
        request: Request, every: Every = None, stride: Stride = 1, threshold: Threshold = 0.0, shortest: Shortest = 0.0
    ) -> Response:
        async def work(path: Path, tell: Tell) -> Response:
            windows, rules = WindowSettings(every or answers.every, stride), TimelineRules(threshold, shortest)
            found = await answers.timeline(path, tell, windows, rules)
            if _wants(request, _VTT):
                return Response(as_webvtt(found), media_type=_VTT)
            return JSONResponse(_timeline_json(found))

        return await respond(request, work)

    @app.post(
        "/api/explain",
        summary="Draw the film strip of a video, with its flow and where the network looked.",
        tags=["videos"],
        response_class=Response,
        responses=schemas.answers(None, lines=True, image__png={"schema": {"type": "string", "format": "binary"}}),
        openapi_extra=schemas.BODY,
    )
    async def explain(request: Request) -> Response:
        async def work(path: Path, tell: Tell) -> Response:
            return Response(await answers.explain(path, tell), media_type="image/png")

        return await respond(request, work)


def _timeline_json(timeline: VideoTimeline) -> dict[str, Any]:
    segments = [
        {"start": round(part.start, 3), "end": round(part.end, 3), "label": part.label, "score": part.probability}
        for part in timeline.segments
    ]
    end = segments[-1]["end"] if segments else 0.0
    fault = None if timeline.error is None else as_json(timeline.error)["error"]
    return {"seconds": end, "segments": segments, "method": timeline.method, "error": fault}


def _wants(request: Request, kind: str) -> bool:
    return any(part.partition(";")[0].strip() == kind for part in request.headers.get("accept", "").split(","))


def _add_errors(app: FastAPI, served: Served) -> None:
    count = _errors_counter(served)

    async def answer(_: Request, error: Exception) -> Response:
        if isinstance(error, RequestValidationError):
            where = ", ".join(sorted({str(each["loc"][-1]) for each in error.errors()}))
            error = SettingsError("request", f"{where}: a value that it cannot have", "see /openapi.json")
        elif isinstance(error, HTTPException):
            error = _as_ours(error)
        elif not isinstance(error, ActionFusionError):
            error = Failed("the server has a fault", "report it, with the video if you may")
        assert isinstance(error, ActionFusionError)
        if not isinstance(error, Failed):  # which the guard meets again, and counts
            count(error)
        return error_response(error)

    for kind in (ActionFusionError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)


def _as_ours(error: HTTPException) -> RequestError:
    if error.status_code == 404:
        return NotFound("there is no such route", "see /openapi.json")
    if error.status_code == 405:
        return WrongMethod("this route is asked in another way", "see /openapi.json")
    return RequestError("the request is not well formed", "see /openapi.json")
