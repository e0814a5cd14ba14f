"""A server in this process, with a small run and small limits, and clients that behave well or badly."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

TOKEN = "a-token-of-no-secret-at-all"


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json["error"]

    @property
    def lines(self):
        return [json.loads(line) for line in self.body.splitlines()]


class Running:
    """A server and what its requests did."""

    def __init__(self, served, port, end, thread, uploads):
        self.served, self.port, self.end, self.thread, self.uploads = served, port, end, thread, uploads
        self.answers = served.answers

    def ask(self, method, path, body=None, headers=None, timeout=60):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            headers = headers or {}
            connection.request(method, path, body, headers, encode_chunked="transfer-encoding" in headers)
            return _reply(connection.getresponse())
        finally:
            connection.close()

    def get(self, path, **headers):
        return self.ask("GET", path, headers=_names(headers))

    def post(self, path, body, **headers):
        return self.ask("POST", path, body, _names(headers))

    def form(self, path, content, *, name="file", filename="clip.mp4", **headers):
        head = f'--limit\r\ncontent-disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n'.encode()
        body = head + content + b"\r\n--limit--\r\n"
        return self.post(path, body, content_type="multipart/form-data; boundary=limit", **headers)

    @contextmanager
    def line(self):
        """A connection on which a test writes what it likes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as line:
            yield line

    def raw(self, data):
        with self.line() as line:
            line.sendall(data)
            return read_all(line)


def read_all(line):
    found = b""
    while data := line.recv(65536):
        found += data
    return found


def _names(headers):
    return {name.replace("_", "-"): value for name, value in headers.items()}


def _reply(response):
    return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


@contextmanager
def _running(run, folder, *, limits=None, token=None, hosts=(), origins=(), host="127.0.0.1", change=None):
    from actionfusion.inference.recognizer import Recognizer
    from actionfusion.serving.access import Access
    from actionfusion.serving.limits import ServingLimits
    from actionfusion.serving.running import listen, prepare, run_server

    limits = limits or ServingLimits(decoders=1, batch=1)
    recognizer = Recognizer.load(run, runtime="torch", device="cpu")
    listener = listen(host, 0)
    served = prepare(run, recognizer, Access(host, token, hosts, origins), limits, folder)
    if change:
        change(served)
    ready, ends = threading.Event(), []

    def note(end):
        ends.append(end)
        ready.set()

    thread = threading.Thread(target=run_server, args=(served, listener, note), daemon=True)
    thread.start()
    assert ready.wait(60)
    running = Running(served, listener.getsockname()[1], ends[0], thread, folder)
    # The socket listens a moment after.
    for _ in range(200):
        try:
            running.get("/health/live")
            break
        except ConnectionError:
            threading.Event().wait(0.02)
    try:
        yield running
    finally:
        ends[0]()
        thread.join(60)
        assert not thread.is_alive()
        assert list(folder.iterdir()) == []


@pytest.fixture(scope="session")
def running():
    """Starts a server for a ``with`` block."""
    return _running


@pytest.fixture(scope="session")
def small_limits():
    """Limits that tests reach quickly."""
    from actionfusion.serving.limits import ServingLimits

    return replace(
        ServingLimits(), bytes=4_000_000, seconds=20.0, frames=400, pixels=640 * 480, videos_waiting=2, decoders=1,
        decoding_seconds=20.0, pause_seconds=1.0, slowest=20_000, header_bytes=4096, connections=24, cameras=1,
        picture_bytes=50_000, batch=1, ending_seconds=10.0,
    )  # fmt: skip


@pytest.fixture(scope="session")
def server(tiny_run, tmp_path_factory, small_limits) -> Iterator[Running]:
    """One server for all tests that leave it as it was."""
    with _running(tiny_run, tmp_path_factory.mktemp("uploads"), limits=small_limits) as running:
        yield running


@pytest.fixture(scope="session")
def clip(shapes_root) -> Path:
    """A generated clip."""
    return sorted(shapes_root.glob("test/*/*.mp4"))[0]


@pytest.fixture(scope="session")
def slow_video(tmp_path_factory, write_video) -> Path:
    """A video that takes a second or more to decode."""
    path = tmp_path_factory.mktemp("slow") / "slow.mp4"
    return write_video(path, count=390, width=640, height=480)


@pytest.fixture(scope="session")
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """Waits until something is so, 20 seconds at most."""

    def wait(is_so, seconds=20.0):
        pause = threading.Event()
        for _ in range(int(seconds / 0.02)):
            if is_so():
                return
            pause.wait(0.02)
        raise AssertionError("it never came")

    return wait
