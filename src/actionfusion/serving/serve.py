"""The command ``serve``: a page and an HTTP API that name the action in videos."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from actionfusion.errors import printable
from actionfusion.files import remove_scratch_of_the_dead, scratch_folder
from actionfusion.hub import local_run
from actionfusion.inference.recognizer import Recognizer
from actionfusion.inference.runtimes.backend import PrecisionName, RuntimeName
from actionfusion.inference.runtimes.packages import needed
from actionfusion.serving.limits import ServingLimits
from actionfusion.storage import PathLike
from actionfusion.terminal import Console, Text

TOKEN = "ACTIONFUSION_TOKEN"  # noqa: S105  The name of a variable.


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
        run: the folder that ``train`` or ``export`` wrote, or the name of a run on the hub.
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
    from actionfusion.serving.running import listen, prepare, run_server  # noqa: PLC0415

    run = local_run(run)
    access = Access(host, token or os.environ.get(TOKEN) or None, allowed_hosts, cors_origins)
    with listen(host, port) as listener:
        recognizer = Recognizer.load(run, runtime=runtime, precision=precision, device=device, root=root, store=store)
        remove_scratch_of_the_dead()
        with scratch_folder() as uploads:
            served = prepare(run, recognizer, access, limits, uploads)
            at_once = served.answers.network.batch
            Console(stderr=True).print(Text(f"runtime: {recognizer.runtime}; clips at once: {at_once}"), soft_wrap=True)
            shown = f"[{host}]" if ":" in host else host
            address = f"http://{shown}:{listener.getsockname()[1]}"
            run_server(served, listener, lambda _: _say(f"serving {served.about.name} at {address}"))


def _say(text: str) -> None:
    sys.stdout.write(f"{printable(text)}\n")
    sys.stdout.flush()
