"""A small run whose answers are spread, so that parity says something; video that runs, and servers that send it."""

from __future__ import annotations

import csv
import io
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest


@pytest.fixture(scope="session")
def randomise():
    """Gives a network random weights and statistics, as ``_randomise`` does."""
    return _randomise


def _randomise(network, seed=0):
    """Weights and batch-norm statistics of a network that has seen much, in place."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith("running_var"):
            value.copy_(0.5 + noise.abs())
        elif value.ndim > 1 and "gain" not in name and "shift" not in name:
            # He's start keeps the spread through the layers; the LSTMs get enough of it to open and shut their gates.
            value.copy_(noise * (2.0 / value[0].numel()) ** 0.5 * (3 if "weight" in name and "lstm" in name else 1))
        else:
            value.add_(0.3 * noise)
    return network.eval()


@pytest.fixture(scope="session")
def small_root(tmp_path_factory, shapes_root) -> Path:
    """Twelve training and twelve test videos; beside them `small_run_source` writes the table of their labels."""
    root = tmp_path_factory.mktemp("small_root")
    for part in ("train", "test"):
        for path in sorted((shapes_root / part).glob("*/*.mp4"))[:12]:
            target = root / path.relative_to(shapes_root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return root


@pytest.fixture(scope="session")
def small_run_source(tmp_path_factory, small_root) -> Path:
    """A run folder of a very small network, random, whose split calls the test videos what fp32 calls them."""
    import torch

    from actionfusion.data.dataset import DataSettings, open_data
    from actionfusion.data.recorded_split import write_split
    from actionfusion.inference.recognizer import Recognizer
    from actionfusion.models.fusion_network import FusionNetwork, FusionNetworkSettings
    from actionfusion.run_folder import SPLIT, create_run
    from actionfusion.settings import plain
    from actionfusion.video.clip import ClipSettings
    from actionfusion.video.flow import FlowRecipe

    settings = FusionNetworkSettings.tiny(
        5, frames=3, image_size=16, flow_channels=4, backbone=(8, "M", 16), fc6_width=16, hidden=8, norm="tf"
    )
    clip = ClipSettings(frames=3, flow_frames=2, flow=FlowRecipe("dis", 8.0, 16))
    labels = [f"class {number}" for number in range(5)]
    with torch.no_grad():
        network = _randomise(FusionNetwork(settings), seed=1)
    recognizer = Recognizer(network, clip, labels)
    paths = [path for part in ("train", "test") for path in sorted((small_root / part).glob("*/*.mp4"))]
    clips = [recognizer.clip(path) for path in paths]
    with torch.no_grad():
        # Left alone a random network calls all clips the same.
        logits = network(
            *(torch.from_numpy(np.stack([getattr(clip, name) for clip in clips])) for name in ("rgb", "flow"))
        )
        scale = 1.5 / logits.std(0)
        network.head.linear.bias.sub_(logits.mean(0)).mul_(scale)
        network.head.linear.weight.mul_(scale[:, None])
    rows = []
    for path, probabilities in zip(paths, recognizer.probabilities(clips), strict=True):
        name = path.relative_to(small_root).as_posix()
        rows.append([name, labels[probabilities.argmax()], name.split("/")[0]])
    with (small_root / "videos.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "split"], *rows])
    videos = open_data(DataSettings(small_root, "csv", "column", validation="none"))
    data = {"digest": videos.digest(), "split_name": videos.split.name} | plain(replace(videos.settings, root=None))
    folder = tmp_path_factory.mktemp("small") / "run"
    run = create_run(folder, model="fusion", clip=clip, network=settings, labels=labels, further={"data": data})
    run.save_weights(network)
    write_split(folder / SPLIT, videos)
    return folder


@pytest.fixture
def small_run(small_run_source, tmp_path) -> Path:
    """A copy of it, to write beside."""
    return Path(shutil.copytree(small_run_source, tmp_path / "run"))


@pytest.fixture
def small_clip(small_run_source) -> dict[str, np.ndarray]:
    """Random inputs of the small run's network."""
    generator = np.random.default_rng(3)
    return {
        "rgb": generator.integers(0, 256, (1, 3, 3, 16, 16)).astype(np.uint8),
        "flow": generator.integers(1, 256, (1, 3, 4, 16, 16)).astype(np.uint8),
    }


@pytest.fixture(scope="session")
def gives() -> Callable[[Path], Callable[[object, Path], object]]:
    """Makes an ``export_onnx`` that saves its time: it gives what was exported before of the same weights."""
    return lambda exported: lambda _, path: shutil.copyfile(exported, path)


@pytest.fixture(scope="session")
def prepared_run(small_run_source, tmp_path_factory, gives) -> Path:
    """Another copy, prepared for OpenVINO and ONNX Runtime in fp32; not to be changed."""
    from actionfusion.inference.recognizer import Recognizer
    from actionfusion.inference.runtimes import prepared

    folder = shutil.copytree(small_run_source, tmp_path_factory.mktemp("prepared") / "run")
    Recognizer.load(folder, runtime="openvino")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared, "export_onnx", gives(folder / "prepared/clip-openvino-fp32/model.onnx"))
        Recognizer.load(folder, runtime="onnx")
    return folder


def _picture(index: int, width: int, height: int) -> np.ndarray:
    """A bright square that moves over noise which stands still."""
    picture = np.random.default_rng(5).integers(0, 90, (height, width, 3), dtype=np.uint8)
    left = 2 * index % (width - 16)
    picture[8:24, left : left + 16] = (250, 210, 40)
    return picture


def _encode(
    count: int = 40,
    *,
    container: str = "mpegts",
    codec: str = "mpeg4",
    sizes: tuple[tuple[int, int], ...] = ((64, 48),),
    sound: bool = False,
    options: dict[str, str] | None = None,
) -> bytes:
    """``count`` frames in a container; one after the other of each of the ``sizes``, if there are several."""
    data = b""
    formats = {"mjpeg": "yuvj420p"}
    for width, height in sizes:
        buffer = io.BytesIO()
        with av.open(buffer, "w", format=container, options=options or {}) as out:
            if sound:
                voice = out.add_stream("mp2", rate=16000, layout="mono")
                tone = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.int16), format="s16", layout="mono")
                tone.sample_rate = 16000
                out.mux([*voice.encode(tone), *voice.encode(None)])
            else:
                stream = out.add_stream(codec, rate=25)
                stream.width, stream.height = width, height
                stream.pix_fmt = formats.get(codec, "yuv420p")
                stream.codec_context.gop_size, stream.codec_context.thread_count = 8, 1
                for index in range(count):
                    frame = av.VideoFrame.from_ndarray(_picture(index, width, height)).reformat(format=stream.pix_fmt)
                    frame.pts = index
                    out.mux(stream.encode(frame))
                out.mux(stream.encode(None))
        data += buffer.getvalue()
    return data


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """See ``_encode``."""
    return _encode


class HttpServer:
    """Answers each request with the next of ``answers``: a status, or bytes that are sent with or without a length.

    Attributes:
        answers: what is to come; with none left the server refuses to speak (503).
        paths: what was asked for.
        more: while set, a stream goes on with its ``endless`` bytes again and again.
    """

    def __init__(self, encryption: ssl.SSLContext | None = None) -> None:
        self.answers: list[dict] = []
        self.paths: list[str] = []
        self.more = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                outer.paths.append(self.path)
                answer = outer.answers.pop(0) if outer.answers else {"status": 503}
                with suppress(ConnectionError):
                    outer.send(self, **answer)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if encryption:
            self._server.socket = encryption.wrap_socket(self._server.socket, server_side=True)
            self._server.handle_error = lambda *_: None  # a client that refuses the certificate is no fault
        self.url = f"http{'s' if encryption else ''}://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def send(
        self, handler: BaseHTTPRequestHandler, status: int = 200, body: bytes = b"", length: bool = False,
        location: str = "", endless: bytes = b"", kind: str = "video/mp2t",
    ) -> None:  # fmt: skip
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Connection", "close")
        handler.close_connection = True
        if location:
            handler.send_header("Location", location)
        if length:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
        while endless and self.more.is_set():
            handler.wfile.write(endless)

    def close(self) -> None:
        self.more.clear()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def make_http_server() -> Iterator[Callable[..., HttpServer]]:
    """Makes servers of video over HTTP, encrypted or not."""
    servers: list[HttpServer] = []

    def make(encryption: ssl.SSLContext | None = None) -> HttpServer:
        servers.append(HttpServer(encryption))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def http_server(make_http_server) -> HttpServer:
    """One that is not encrypted."""
    return make_http_server()


def _rtp_packets(count: int) -> list[bytes]:
    """What FFmpeg's RTP muxer sends for ``count`` frames of MPEG-4."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(5)
        packets = []
        with av.open(f"rtp://127.0.0.1:{receiver.getsockname()[1]}?pkt_size=1200", "w", format="rtp") as out:
            stream = out.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.codec_context.gop_size, stream.codec_context.thread_count = 5, 1
            for index in range(count):
                frame = av.VideoFrame.from_ndarray(_picture(index, 64, 48)).reformat(format="yuv420p")
                frame.pts = index
                for packet in stream.encode(frame):
                    out.mux(packet)
                    marked = False
                    while not marked:  # the marker bit ends a frame: RFC 3550, section 5.1
                        data = receiver.recv(65536)
                        if data[1] & 0x7F == 96:
                            packets.append(data)
                            marked = bool(data[1] & 0x80)
        return packets


class RtspServer:
    """Enough of RFC 2326 to play one stream, RTP within the connection (section 10.12), as often as it is asked.

    Attributes:
        requests: first lines of what was asked, with the headers.
        status: answered to DESCRIBE.
        password: wanted as ``Authorization: Basic``, if any.
    """

    _SDP = (
        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
        "m=video 0 RTP/AVP 96\r\na=rtpmap:96 MP4V-ES/90000\r\na=control:track\r\n"
    )

    def __init__(self, packets: list[bytes]) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.status, self.password = "200 OK", ""
        self._packets = packets
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, suppress(ConnectionError):
                    self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        lines = connection.makefile("rb")
        while line := lines.readline():
            headers = {}
            while text := lines.readline().decode().strip():
                name, _, value = text.partition(": ")
                headers[name.lower()] = value
            self.requests.append((line.decode().strip(), headers))
            method = line.split()[0].decode()
            status, extra, body = "200 OK", "", ""
            if self.password and method == "DESCRIBE" and headers.get("authorization") != f"Basic {self.password}":
                status, extra = "401 Unauthorized", 'WWW-Authenticate: Basic realm="camera"\r\n'
            elif method == "DESCRIBE":
                status, extra, body = self.status, "Content-Type: application/sdp\r\n", self._SDP
            elif method == "SETUP":
                extra = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
            head = f"RTSP/1.0 {status}\r\nCSeq: {headers['cseq']}\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
            connection.sendall((head + body).encode())
            if method == "PLAY":
                for packet in self._packets:
                    connection.sendall(b"$\0" + len(packet).to_bytes(2, "big") + packet)
                return

    def close(self) -> None:
        self._listener.close()


@pytest.fixture(scope="session")
def rtp_packets() -> list[bytes]:
    """40 frames as RTP packets."""
    return _rtp_packets(40)


@pytest.fixture
def rtsp_server(rtp_packets) -> Iterator[RtspServer]:
    """A server that plays 40 frames to each client, and hangs up."""
    server = RtspServer(rtp_packets)
    yield server
    server.close()
