"""Rows 7 to 14 of what the server promises, each attacked: what a video may do, what is kept, and how it ends."""

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import psutil
import pytest

from actionfusion.serving.children import Decoder
from raw_requests import POSTS, TOKEN, head_of, read, status_of

# 7


def test_row_7_playlists_lead_nowhere(server, tmp_path):
    """Each names a file of the server, or an address, in a way that FFmpeg would follow if it were let."""
    with socket.create_server(("127.0.0.1", 0)) as trap:
        address = f"http://127.0.0.1:{trap.getsockname()[1]}/x.ts"
        secret = tmp_path / "secret"
        secret.write_text("secret")
        for playlist in (
            f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n",
            f"#EXTM3U\n#EXTINF:1,\nfile://{secret}\n",
            f"#EXTM3U\n#EXTINF:1,\nconcat:{address}|file://{secret}\n",
            f"ffconcat version 1.0\nfile {secret}\n",
            f'<?xml version="1.0"?><MPD><Period><BaseURL>{address}</BaseURL></Period></MPD>',
            f"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video {trap.getsockname()[1]} RTP/AVP 96\n",
            f"[playlist]\nFile1={address}\n",
            "#!/bin/sh\nreboot\n",
        ):
            reply = server.post("/api/predict", playlist.encode())
            assert (reply.status, reply.error["kind"]) == (415, "not_a_video")
            assert b"secret" not in reply.body
        trap.settimeout(0.2)
        with pytest.raises(TimeoutError):
            trap.accept()


@pytest.mark.parametrize(("codec", "pixel_format"), [("qtrle", "rgb24"), ("rpza", "rgb555le")])
def test_row_7_a_codec_that_is_not_listed_is_not_run(server, write_video, tmp_path, codec, pixel_format):
    video = write_video(tmp_path / "odd.mov", codec=codec, pixel_format=pixel_format)
    reply = server.post("/api/predict", video.read_bytes())
    assert (reply.status, reply.error["kind"]) == (415, "codec")


@pytest.mark.parametrize(
    "body", [b"plain text", b"%PDF-1.7", b"\x89PNG\r\n\x1a\n" + bytes(100), b"PK\3\4" + bytes(50), bytes(1000)]
)
def test_row_7_what_is_no_video_is_named_so(server, body):
    reply = server.post("/api/predict", body)
    assert (reply.status, reply.error["kind"]) == (415, "not_a_video")


# 8


def test_row_8_pixels_frames_and_seconds_are_limited(server, write_video, tmp_path):
    for name, video in (
        ("pixels", write_video(tmp_path / "large.mp4", count=2, width=656, height=480)),
        ("frames", write_video(tmp_path / "many.mp4", count=401)),
        ("seconds", write_video(tmp_path / "long.mp4", count=30, times=[800 * index for index in range(30)])),
    ):
        for path in POSTS:
            reply = server.post(path, video.read_bytes())
            assert (reply.status, reply.error["kind"]) == (413, "too_large"), (name, path)
            assert name in reply.error["message"]


def test_row_8_a_picture_that_grows_within_the_stream_is_limited(server, tmp_path):
    import av
    import numpy as np

    path = tmp_path / "grows.m4v"
    with path.open("wb") as file:
        for width, height in ((64, 48), (800, 640)):
            encoder = av.CodecContext.create("mpeg4", "w")
            encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = (
                width,
                height,
                "yuv420p",
                Fraction(1, 25),
            )
            frame = av.VideoFrame.from_ndarray(np.zeros((height, width, 3), np.uint8)).reformat(format="yuv420p")
            for index in range(3):
                frame.pts = index
                for packet in encoder.encode(frame):
                    file.write(bytes(packet))
    reply = server.post("/api/predict", path.read_bytes())
    assert reply.status in (413, 422)


def test_row_8_decoding_that_takes_too_long_is_ended(server, monkeypatch, slow_video, clip):
    pid = pid_of(server)
    with monkeypatch.context() as changed:
        changed.setattr(server.answers, "limits", replace(server.answers.limits, decoding_seconds=0.02))
        reply = server.post("/api/predict", slow_video.read_bytes())
    assert (reply.status, reply.error["kind"]) == (413, "too_large")
    assert "too long" in reply.error["message"]
    assert server.post("/api/predict", clip.read_bytes()).status == 200
    assert not psutil.pid_exists(pid)


def pid_of(server):
    (decoder,) = server.answers.decoders._all
    return decoder.process.pid


@pytest.mark.skipif(sys.platform != "linux", reason="other systems bound memory in other ways")
def test_row_8_memory_files_and_dumps_of_a_decoder_are_limited(server):
    limits = Path(f"/proc/{pid_of(server)}/limits").read_text()

    def soft(name):
        return re.search(rf"^{name} +(\S+)", limits, re.MULTILINE)[1]

    assert soft("Max file size") == soft("Max core file size") == "0"
    assert int(soft("Max open files")) == 64
    assert 2 * 2**30 < int(soft("Max address space")) < 6 * 2**30


@pytest.mark.skipif(sys.platform != "linux", reason="other systems bound memory in other ways")
def test_row_8_a_video_that_wants_more_memory_is_an_error(running, tiny_run, tmp_path, write_video, small_limits, clip):
    video = write_video(tmp_path / "wide.avi", count=1, width=7680, height=4320, codec="mjpeg", pixel_format="yuvj420p")
    limits = replace(small_limits, decoding_bytes=40 * 2**20, pixels=2**26)
    folder = tmp_path / "uploads"
    folder.mkdir()
    with running(tiny_run, folder, limits=limits) as server:
        reply = server.post("/api/predict", video.read_bytes())
        assert reply.status == 422
        assert server.post("/api/predict", clip.read_bytes()).status == 200


def begin(server, video, *lines):
    """Send a video and hang on."""
    line = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    body = video.read_bytes()
    line.sendall(head_of("POST", "/api/predict", f"content-length: {len(body)}", *lines) + body)
    return line


def test_row_8_a_client_that_goes_ends_its_decoding(server, slow_video, wait_until, clip):
    for way in ("plain", "lines", "reset"):
        pid = pid_of(server)
        line = begin(server, slow_video, *(["accept: application/x-ndjson"] if way == "lines" else []))
        wait_until(lambda: server.answers.decoders.busy == 1)
        if way == "reset":
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        line.close()
        wait_until(lambda pid=pid: not psutil.pid_exists(pid), 2)
        wait_until(lambda: server.answers.decoders.alive == 1 and server.answers.admitted == 0)
    assert server.post("/api/predict", clip.read_bytes()).status == 200


def test_row_8_a_decoder_that_dies_costs_at_most_its_own_video(server, slow_video, wait_until, clip, monkeypatch):
    """Killed once, the video is tried again; killed each time, it is an error."""
    before = server.answers.decoders.replaced
    line = begin(server, slow_video)
    wait_until(lambda: server.answers.decoders.busy == 1)
    os.kill(pid_of(server), signal.SIGSEGV)
    assert status_of(line.recv(65536)) == 200
    line.close()
    assert server.answers.decoders.replaced == before + 1
    killed, receive = set(), Decoder.receive

    async def killed_at_work(decoder):
        decoder.kill()
        killed.add(decoder.process.pid)
        return await receive(decoder)

    with monkeypatch.context() as patch:
        patch.setattr(
            Decoder, "receive", lambda decoder: receive(decoder) if decoder.is_free else killed_at_work(decoder)
        )
        line = begin(server, slow_video)
        answer = line.recv(65536)
        line.close()
    assert status_of(answer) == 422
    assert len(killed) == 2
    wait_until(lambda: server.answers.decoders.alive == 1)
    assert server.post("/api/predict", clip.read_bytes()).status == 200


def test_row_8_a_decoder_that_dies_at_rest_is_replaced(server, clip, wait_until):
    os.kill(pid_of(server), signal.SIGKILL)
    assert server.post("/api/predict", clip.read_bytes()).status == 200


def test_row_8_a_decoder_that_lies_is_not_believed(running, tiny_run, tmp_path, monkeypatch, small_limits, clip):
    """One that a video has taken over sends arrays of another shape, or no message at all."""
    from actionfusion.serving import children

    with running(tiny_run, tmp_path, limits=small_limits) as server:
        true = children.Decoder._read

        async def wrong_shape(self):
            message = await true(self)
            return children.Message(message.header, {name: array[:1] for name, array in message.arrays.items()})

        async def nonsense(self):
            message = await true(self)
            if message.kind == "clip":
                children.read_header(b"[" * 60_000)
            return message

        for lie in (wrong_shape, nonsense):
            monkeypatch.setattr(children.Decoder, "_read", lie)
            reply = server.post("/api/predict", clip.read_bytes())
            monkeypatch.setattr(children.Decoder, "_read", true)
            assert (reply.status, reply.error["kind"]) == (422, "video")
            assert "nonsense" in reply.error["message"]


# 9


def test_row_9_the_queue_is_bounded(server, wait_until, clip):
    os.kill(pid_of(server), signal.SIGSTOP)  # the first video takes until it is given up
    with ExitStack() as held:
        lines = []
        for waiting in range(3):
            lines.append(held.enter_context(begin(server, clip, "accept: application/x-ndjson")))
            wait_until(lambda: server.answers.decoders.busy and server.answers.decoders.waiting == waiting)  # noqa: B023
        for path in POSTS:
            began = time.monotonic()
            reply = server.post(path, clip.read_bytes())
            assert (reply.status, reply.error["kind"]) == (429, "busy")
            assert int(reply.headers["retry-after"]) > 0
            assert time.monotonic() - began < 2
        # Before the body is read: who is polite enough to ask need not send it.
        head = head_of("POST", "/api/predict", "content-length: 300000", "expect: 100-continue")
        assert status_of(server.raw(head)) == 429
        lines.pop(0).close()
        answers = [read_lines(line) for line in lines]
    for answer in answers:
        assert b'"ahead": ' in answer
        assert b'"result"' in answer
    assert b'"ahead": 1' in answers[1]
    assert b'"ahead": 0' in answers[1]
    wait_until(lambda: server.answers.admitted == 0)
    assert server.post("/api/predict", clip.read_bytes()).status == 200


def read_lines(line):
    found = b""
    while b'"result"' not in found and b'"error"' not in found:
        data = line.recv(65536)
        assert data, found
        found += data
    line.close()
    return found


# 10


def test_row_10_uploads_are_deleted_after_an_answer_an_error_and_an_abort(server, clip, slow_video, wait_until):
    for path in POSTS:
        assert server.post(path, clip.read_bytes()).status == 200
        assert list(server.uploads.iterdir()) == []
        assert server.post(path, clip.read_bytes()[:500]).status in (415, 422)
        assert list(server.uploads.iterdir()) == []
    line = begin(server, slow_video)
    wait_until(lambda: len(list(server.uploads.iterdir())) == 1)
    (name,) = server.uploads.iterdir()
    assert re.fullmatch(r"[0-9a-f]{32}", name.name)
    assert name.stat().st_mode & 0o077 == 0
    line.close()
    wait_until(lambda: not list(server.uploads.iterdir()))
    with server.line() as line:
        line.sendall(head_of("POST", "/api/predict", "content-length: 300000") + bytes(1000))
        wait_until(lambda: len(list(server.uploads.iterdir())) == 1)
    wait_until(lambda: not list(server.uploads.iterdir()))


# 11


def test_row_11_every_answer_has_safe_headers(server, clip):
    for reply in (
        server.get("/"), server.get("/nowhere"), server.get("/api/model"), server.get("/metrics"),
        server.get("/api/model", host="evil.example"), server.post("/api/predict", clip.read_bytes()),
        server.post("/api/predict", b"x"), server.post("/api/predict", b"x", accept="application/x-ndjson"),
        server.ask("DELETE", "/api/predict"), server.post("/api/predict?top_k=0", b"x"),
    ):  # fmt: skip
        policy = dict(part.strip().partition(" ")[::2] for part in reply.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == "'self'"
        assert "unsafe" not in str(policy)
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert reply.headers["cache-control"] == "no-store"
        assert "server" not in reply.headers


def test_row_11_the_page_has_no_script_of_its_own_and_no_other_site(server):
    page = server.get("/").body.decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+\s*=|javascript:|<style|\sstyle=", page, re.IGNORECASE)
    for link in re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)""", page):
        assert not re.match(r"[a-z]+:|//", link, re.IGNORECASE), link


def test_row_11_what_a_client_sends_is_not_sent_back(server):
    mark = "<img src=x onerror=alert(1)>"
    for reply in (
        server.form("/api/predict", b"x", filename=mark),
        server.form("/api/predict", b"x", name=mark),
        server.get("/%3Cimg%20src=x%20onerror=alert(1)%3E"),
        server.post("/api/predict?top_k=%3Cimg%20src=x%20onerror=alert(1)%3E", b"x"),
    ):
        assert reply.headers["content-type"] == "application/json"
        assert b"onerror" not in reply.body


def test_row_11_labels_are_escaped_in_subtitles(running, tiny_run, tmp_path, small_limits, clip):
    def change(served):
        served.answers.recognizer.labels = tuple(f"<b>{n}</b> --> \u2028" for n in range(8))

    with running(tiny_run, tmp_path, limits=small_limits, change=change) as server:
        text = server.post("/api/timeline?every=2", clip.read_bytes(), accept="text/vtt").body.decode()
    cues = text.split("\n")[3::3]
    assert cues
    assert all("<" not in cue and "-->" not in cue and "\u2028" not in cue for cue in cues)


# 12


def test_row_12_no_route_loads_a_model_or_a_pickle(server, clip, monkeypatch):
    """With every way to read a model or a pickle in this process shut, every route still answers."""
    import pickle

    import safetensors.torch
    import torch

    from actionfusion import run_folder
    from actionfusion.inference.recognizer import Recognizer

    def refuse(*_, **__):
        raise AssertionError("a model or a pickle is read")

    for place, name in (
        (pickle, "loads"), (pickle, "load"), (pickle, "Unpickler"), (torch, "load"), (torch.jit, "load"),
        (safetensors.torch, "load_file"), (run_folder, "load_file"), (Recognizer, "load"), (run_folder, "open_run"),
    ):  # fmt: skip
        monkeypatch.setattr(place, name, refuse)
    for path in POSTS:
        assert server.post(path, clip.read_bytes()).status == 200
    for body in (pickle.dumps(os.system), b"\x80\x04."):
        assert server.post("/api/predict", body).status == 415
    document = json.loads(server.get("/openapi.json").body)
    assert not [path for path in document["paths"] if "model" in path and "post" in document["paths"][path]]


def test_row_12_what_a_decoder_sends_is_never_unpickled():
    import inspect

    from actionfusion.serving import children, decoder, messages

    for module in (children, decoder, messages):
        source = inspect.getsource(module)
        assert not re.search(r"^\s*(import|from) (pickle|multiprocessing|marshal|shelve)", source, re.MULTILINE)
        assert "allow_pickle" not in source


# 13 and 14


@pytest.fixture
def process(tiny_run, tmp_path):
    """Starts `actionfusion serve` itself."""
    import actionfusion

    started = []

    def start(*words, **environment):
        source = str(Path(actionfusion.__file__).parents[1])
        own = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path), **environment}
        command = [sys.executable, "-m", "actionfusion", "serve", str(tiny_run), "--port", "0", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=own, **pipes))
        line = started[-1].stdout.readline()
        found = re.fullmatch(r"serving tiny at http://127\.0\.0\.1:(\d+)\n", line)
        assert found, line + started[-1].stderr.read()
        return started[-1], int(found[1])

    yield start
    for each in started:
        each.kill()
        each.wait()
        each.stdout.close()
        each.stderr.close()


def test_row_13_and_14_a_process_logs_no_secret_calls_nobody_and_ends_cleanly(process, clip, slow_video, tmp_path):
    """SIGTERM in the middle of a video: it is answered, then the process ends with 0 and nothing of it is left."""
    scratch = tmp_path / f"actionfusion-scratch-{'0' * 32}"
    scratch.mkdir()
    (scratch / "upload").write_bytes(b"of a server that was killed")
    (tmp_path / f"{scratch.name}.lock").touch()
    server, port = process("--limits.pause_seconds", "5", ACTIONFUSION_TOKEN=TOKEN)
    assert not scratch.exists(), "what a killed server has left goes at the start"
    own = psutil.Process(server.pid)
    assert TOKEN not in " ".join(own.cmdline())
    assert all("ACTIONFUSION_TOKEN" not in child.environ() for child in own.children())

    def ask(*lines, body=b"", path="/api/predict", method="POST"):
        line = socket.create_connection(("127.0.0.1", port), timeout=60)
        line.sendall(head_of(method, path, f"content-length: {len(body)}", *lines) + body)
        return line

    token = f"authorization: Bearer {TOKEN}"
    for line in (
        ask(token, "connection: close", body=clip.read_bytes()),
        ask("authorization: Bearer wrong-secret-of-a-client", "connection: close"),
        ask("cookie: secret=of-a-client", "connection: close", path="/secret-of-a-client?secret=of-a-client"),
    ):
        with line:
            assert status_of(read(line)) in (200, 401, 404)
    for each in (own, *own.children()):
        others = [at for at in each.net_connections("inet") if at.raddr and not at.raddr.ip.startswith("127.")]
        assert others == []
    working = ask(token, body=slow_video.read_bytes())
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob("actionfusion-scratch-*/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    children = own.children()
    server.send_signal(signal.SIGTERM)
    answer = read(working)
    working.close()
    assert status_of(answer) == 200
    assert server.wait(20) == 0
    assert not any(child.is_running() for child in children)
    assert [path for path in tmp_path.iterdir() if path.name.startswith("actionfusion-")] == []
    printed = server.stdout.read() + server.stderr.read()
    assert "secret" not in printed
    assert TOKEN not in printed
    assert "Traceback" not in printed


def test_row_14_what_does_not_finish_in_time_is_told_so(
    running, tiny_run, tmp_path, slow_video, small_limits, wait_until
):
    with running(tiny_run, tmp_path, limits=replace(small_limits, ending_seconds=0.2)) as server:
        line = begin(server, slow_video)
        wait_until(lambda: server.answers.decoders.busy == 1)
        server.end()
        answer = line.recv(65536)
        line.close()
        assert status_of(answer) in (200, 503)
        server.thread.join(15)
        assert not server.thread.is_alive()


def test_row_14_new_videos_are_refused_while_it_ends(server, clip):
    server.answers.is_ending = True
    try:
        reply = server.post("/api/predict", clip.read_bytes())
        assert (reply.status, reply.error["kind"]) == (503, "ending")
        assert "retry-after" in reply.headers
        assert server.get("/health/ready").status == 503
        assert server.get("/health/live").status == 200
    finally:
        server.answers.is_ending = False
    assert server.get("/health/ready").status == 200
