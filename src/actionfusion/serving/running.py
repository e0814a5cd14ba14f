"""A server from its listening socket to its end."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from actionfusion.errors import SettingsError
from actionfusion.inference.exports.exported import is_export
from actionfusion.inference.intervals import PAPER_INTERVAL, usual_interval
from actionfusion.inference.recognizer import Recognizer
from actionfusion.process import on_stop
from actionfusion.run_folder import open_run
from actionfusion.serving.access import Access
from actionfusion.serving.answers import Answers
from actionfusion.serving.app import Served, make_app
from actionfusion.serving.connection import bounded
from actionfusion.serving.limits import ServingLimits
from actionfusion.serving.metrics import Metrics
from actionfusion.serving.schemas import LimitsModel, ModelAnswer
from actionfusion.serving.uploads import Uploads
from actionfusion.version import __version__

_KEEP_ALIVE = 15
# Beyond the time for what runs: an answer that says so must still be sent.
_LAST_WORDS = 5

# What it would say of malformed requests, anybody could fill a log with.
logging.getLogger("uvicorn").addHandler(logging.NullHandler())
logging.getLogger("uvicorn").propagate = False


def listen(host: str, port: int) -> socket.socket:
    """Bind a socket; nobody can connect before the server runs.

    Raises:
        SettingsError: the address cannot be had.
    """
    if not 0 <= port <= 65535:
        raise SettingsError("--port", f"{port} is no port", "take 1 to 65535, or 0 for a free one")
    listener: socket.socket | None = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, _, _, address = found[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        if listener is not None:
            listener.close()
        reason = f"cannot be listened at ({error.strerror or error})"
        raise SettingsError(f"{host}:{port}", reason, "take another --host or --port; 0 takes a free port") from error
    return listener


def prepare(run: Path, recognizer: Recognizer, access: Access, limits: ServingLimits, uploads: Path) -> Served:
    """Load all that any route needs, so that none loads anything.

    Args:
        run: the folder.
        recognizer: of it.
        access: who is answered.
        limits: of the server.
        uploads: a folder for what is sent.
    """
    folder = None if is_export(run) else open_run(run)
    every = PAPER_INTERVAL if folder is None else usual_interval(folder)
    if folder is not None:
        _ = recognizer.network, recognizer.stepper
    answers = Answers(recognizer, every, limits, explains=folder is not None)
    answers.network.open(limits.batch)
    about = ModelAnswer(
        name=run.resolve().name,
        model="export" if folder is None else folder.model,
        version=__version__,
        labels=list(recognizer.labels),
        streams=list(recognizer.clip_settings.streams),
        frames=recognizer.clip_settings.frames,
        runtime=recognizer.runtime.name,
        precision=recognizer.runtime.precision,
        limits=LimitsModel(**{name: getattr(limits, name) for name in LimitsModel.model_fields}),
        token=access.wants_token,
        streaming=None if folder is None else recognizer.stepper.method,
        explains=answers.explains,
    )
    received = Uploads(uploads, limits.bytes, limits.header_bytes)
    return Served(answers, received, access, Metrics(), about, asyncio.Event())


def run_server(served: Served, listener: socket.socket, ready: Callable[[Callable[[], None]], object]) -> None:
    """Serve until the process is asked to end, and let what runs finish within its bound.

    Args:
        served: what the routes answer by.
        listener: bound.
        ready: called when requests are about to be answered, with a function that ends the server.

    Raises:
        RuntimeUnavailable: the decoding processes cannot be started.
    """
    asyncio.run(_run(served, listener, ready))


async def _run(served: Served, listener: socket.socket, ready: Callable[[Callable[[], None]], object]) -> None:
    answers, limits, loop = served.answers, served.answers.limits, asyncio.get_running_loop()
    server = _Server(
        uvicorn.Config(
            make_app(served),
            http=bounded(limits),
            ws="websockets-sansio",
            ws_max_size=limits.picture_bytes + 64,
            ws_per_message_deflate=False,  # JPEG does not get smaller, and a small message could become a large one
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=int(limits.ending_seconds) + _LAST_WORDS,
            h11_max_incomplete_event_size=limits.header_bytes,
        )
    )

    def end() -> None:
        answers.is_ending = server.should_exit = True
        if loop.is_closed():
            return
        loop.call_soon_threadsafe(lambda: loop.call_later(limits.ending_seconds, served.cut.set))

    with on_stop(end):
        try:
            await answers.decoders.open()
            listener.listen(limits.connections)  # who connects from here on waits until uvicorn accepts
            ready(end)
            await server.serve(sockets=[listener])
        finally:
            await answers.decoders.close()
            answers.network.close()


class _Server(uvicorn.Server):
    """Leaves signals to ``process``."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield
