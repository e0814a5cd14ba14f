"""The command ``serve``: a page and an HTTP API that name the action in videos."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from actionfusion.errors import SettingsError
from actionfusion.files import remove_scratch_of_the_dead, scratch_folder
from actionfusion.inference.exports.exported import is_export
from actionfusion.inference.intervals import PAPER_INTERVAL, usual_interval
from actionfusion.inference.recognizer import Recognizer
from actionfusion.inference.runtimes.backend import PrecisionName, RuntimeName
from actionfusion.inference.runtimes.packages import needed
from actionfusion.process import on_stop
from actionfusion.run_folder import RunFolder, open_run
from actionfusion.serving.limits import ServingLimits
from actionfusion.storage import PathLike
from actionfusion.terminal import Console
from actionfusion.version import __version__

if TYPE_CHECKING:
    from actionfusion.serving.access import Access
    from actionfusion.serving.answers import Answers
    from actionfusion.serving.app import Served
    from actionfusion.serving.schemas import ModelAnswer

TOKEN = "ACTIONFUSION_TOKEN"  # noqa: S105  The name of a variable.
_KEEP_ALIVE = 15


def serve(
    run: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    allowed_hosts: tuple[str, ...] = (),
    cors_origins: tuple[str, ...] = (),
    limits: ServingLimits = ServingLimits(),
    device: str | None = None,
    runtime: RuntimeName = "auto",
    precision: PrecisionName | None = None,
    root: PathLike | None = None,
    store: PathLike | None = None,
) -> None:
    """Serve a web page and an HTTP API that name the action in videos, until it is stopped.

    Ctrl-C or SIGTERM lets what runs finish within limits.ending_seconds, and ends with 0. What is sent is decoded in
    processes of its own with bounded memory and time, and is deleted with the answer. docs/serving.md has the API.

    Args:
        run: the folder that ``train`` or ``export`` wrote.
        host: address to listen at; any other than loopback wants a token.
        port: to listen at; 0 takes a free one. The address is printed.
        token: that requests must bring, 16 letters or more; none takes that of the variable ACTIONFUSION_TOKEN, which
            no list of processes shows.
        allowed_hosts: further names by which the server is reached, such as that of a proxy.
        cors_origins: pages of others that may use the API, such as https://example.org.
        limits: what is taken at most.
        device: cpu, cuda, cuda:1, mps; none takes a GPU where there is one.
        runtime: auto, torch, openvino or onnx; auto takes the fastest there is and says which.
        precision: fp32, bf16 or int8; none is fp32, or what an export has.
        root: folder of the data set that the run was trained on, or its address, for int8 to be prepared with.
        store: folder of its prepared clips, or its address, likewise; none reads the videos themselves.

    Raises:
        RuntimeUnavailable: the extra ``serve`` is not installed.
        SettingsError: an address without a token, or that cannot be listened at; limits that make no sense.
        ActionFusionError: as for ``Recognizer.load``.
    """
    needed("fastapi", "uvicorn", "prometheus_client", "python_multipart", "websockets", extra="serve")
    from actionfusion.serving.access import Access  # noqa: PLC0415  The extra may be missing.
    from actionfusion.serving.app import Served  # noqa: PLC0415
    from actionfusion.serving.metrics import Metrics  # noqa: PLC0415
    from actionfusion.serving.uploads import Uploads  # noqa: PLC0415

    access = Access(host, token or os.environ.get(TOKEN) or None, allowed_hosts, cors_origins)
    listener = _listen(host, port)
    with listener:
        recognizer = Recognizer.load(run, runtime=runtime, precision=precision, device=device, root=root, store=store)
        folder = None if is_export(run) else open_run(run)
        answers = _answers(recognizer, folder, limits)
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listener.getsockname()[1]}"
        console = Console(stderr=True)
        console.print(Text(f"runtime: {recognizer.runtime}; clips at once: {answers.network.batch}"), soft_wrap=True)
        remove_scratch_of_the_dead()
        with scratch_folder() as uploads:
            received = Uploads(uploads, limits.bytes, limits.header_bytes)
            served = Served(answers, received, access, Metrics(), _about(run, folder, answers, access), asyncio.Event())
            asyncio.run(_serve(served, listener, address))


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise SettingsError("--port", f"{port} is no port", "take 1 to 65535, or 0 for a free one")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        reason = f"cannot be listened at ({error.strerror or error})"
        raise SettingsError(f"{host}:{port}", reason, "take another --host or --port; 0 takes a free port") from error
    return listener


def _answers(recognizer: Recognizer, folder: RunFolder | None, limits: ServingLimits) -> Answers:
    """Load all that any route needs, so that none loads anything."""
    from actionfusion.serving.answers import Answers  # noqa: PLC0415

    every = PAPER_INTERVAL if folder is None else usual_interval(folder)
    if folder is not None:
        _ = recognizer.network, recognizer.stepper
    answers = Answers(recognizer, every, limits, explains=folder is not None)
    answers.network.open(limits.batch)
    return answers


def _about(run: Path, folder: RunFolder | None, answers: Answers, access: Access) -> ModelAnswer:
    from actionfusion.serving.schemas import LimitsModel, ModelAnswer  # noqa: PLC0415

    recognizer, limits = answers.recognizer, answers.limits
    return ModelAnswer(
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


async def _serve(served: Served, listener: socket.socket, address: str) -> None:
    import uvicorn  # noqa: PLC0415

    from actionfusion.serving.app import make_app  # noqa: PLC0415
    from actionfusion.serving.connection import Server, bounded  # noqa: PLC0415

    answers, limits, loop = served.answers, served.answers.limits, asyncio.get_running_loop()
    config = uvicorn.Config(
        make_app(served),
        http=bounded(limits),
        ws="websockets-sansio",
        ws_max_size=limits.picture_bytes + 64,
        ws_per_message_deflate=False,  # JPEG does not get smaller, and a small message can become a large one
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=int(limits.ending_seconds) + 5,
        h11_max_incomplete_event_size=limits.header_bytes,
    )
    server = Server(config)

    def end() -> None:
        answers.is_ending = server.should_exit = True
        loop.call_soon_threadsafe(lambda: loop.call_later(limits.ending_seconds, served.cut.set))

    with on_stop(end):
        try:
            await answers.decoders.open()
            sys.stdout.write(f"serving {served.about.name} at {address}\n")
            sys.stdout.flush()
            await server.serve(sockets=[listener])
        finally:
            await answers.decoders.close()
            answers.network.close()
