"""The fourteen rows of what the server promises, each attacked."""

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from contextlib import ExitStack, suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import psutil
import pytest

from actionfusion.errors import SettingsError

TOKEN = "a-token-of-no-secret-at-all"
POSTS = ("/api/predict", "/api/timeline", "/api/explain")


def head_of(method, path, *lines, host="127.0.0.1"):
    return "\r\n".join((f"{method} {path} HTTP/1.1", f"host: {host}", *lines, "", "")).encode()


def status_of(answer):
    return int(answer.split(b" ", 2)[1])


# 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_row_1_any_address_but_loopback_wants_a_token(host):
    from actionfusion.serving.access import Access

    with pytest.raises(SettingsError, match="no token is set"):
        Access(host, None, (), ())
    assert Access(host, TOKEN, (), ()).wants_token


@pytest.mark.parametrize("token", ["", "short", "fifteen-letters", "a token with spaces", "a-token-with-\r\n-lines"])
def test_row_1_a_token_that_can_be_guessed_is_refused(token):
    from actionfusion.serving.access import Access

    with pytest.raises(SettingsError, match="16 letters"):
        Access("127.0.0.1", token, (), ())


@pytest.fixture(scope="module")
def guarded(running, tiny_run, tmp_path_factory, small_limits):
    """A server that all can reach, with a token, a proxy's name and a page of others."""
    with running(
        tiny_run, tmp_path_factory.mktemp("guarded"), limits=small_limits, token=TOKEN, host="0.0.0.0",
        hosts=("videos.example.org",), origins=("https://page.example.org",),
    ) as server:  # fmt: skip
        yield server


@pytest.mark.parametrize("header", [None, "", TOKEN, "Bearer", "Bearer wrong-token-entirely", f"Basic {TOKEN}", "é"])
def test_row_1_without_the_token_nothing_is_answered(guarded, clip, header):
    headers = {} if header is None else {"authorization": header.encode("latin-1")}
    for method, path in [("POST", path) for path in POSTS] + [("GET", "/api/model"), ("GET", "/metrics")]:
        reply = guarded.ask(method, path, clip.read_bytes() if method == "POST" else None, headers)
        assert (reply.status, reply.error["kind"]) == (401, "token")
        assert reply.headers["www-authenticate"] == "Bearer"
    assert guarded.post(f"/api/predict?token={TOKEN}", clip.read_bytes()).status == 401


def test_row_1_with_it_all_is(guarded, clip):
    assert guarded.post("/api/predict", clip.read_bytes(), authorization=f"Bearer {TOKEN}").status == 200
    assert guarded.get("/metrics", authorization=f"bearer {TOKEN}").status == 200
    assert guarded.get("/").status == guarded.get("/health/live").status == 200


# 2


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil", "videos.example.org"])
def test_row_2_another_host_is_refused(server, host):
    """DNS rebinding: a name that an attacker leads to 127.0.0.1."""
    reply = server.get("/api/model", host=host)
    assert (reply.status, reply.error["kind"]) == (403, "forbidden")


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1", "[::1]:80", "LOCALHOST"])
def test_row_2_its_own_hosts_are_answered(server, host):
    assert server.get("/api/model", host=host).status == 200


@pytest.mark.parametrize(
    "lines", [(), ("host: 127.0.0.1", "host: evil.example"), ("host: a@127.0.0.1",), ("host: 127.0.0.1/x",)]
)
def test_row_2_no_host_or_several_are_refused(server, lines):
    assert status_of(server.raw("\r\n".join(("GET / HTTP/1.1", "connection: close", *lines, "", "")).encode())) == 400


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost", "https://127.0.0.1.evil.example"]
)
def test_row_2_a_page_of_another_origin_cannot_post(server, clip, origin):
    for path in POSTS:
        reply = server.post(path, clip.read_bytes(), origin=origin)
        assert (reply.status, reply.error["kind"]) == (403, "forbidden")
    assert server.post("/api/predict", clip.read_bytes(), sec_fetch_site="cross-site").status == 403


def test_row_2_its_own_page_can(server, clip):
    assert server.post("/api/predict", clip.read_bytes(), origin=f"http://127.0.0.1:{server.port}").status == 200


def test_row_2_there_is_no_cors_unless_listed(server, guarded):
    ask = {"origin": "https://page.example.org", "access_control_request_method": "POST"}
    reply = server.ask("OPTIONS", "/api/predict", headers={k.replace("_", "-"): v for k, v in ask.items()})
    assert not [name for name in reply.headers if name.startswith("access-control")]
    listed = guarded.ask("OPTIONS", "/api/predict", headers={k.replace("_", "-"): v for k, v in ask.items()})
    assert listed.headers["access-control-allow-origin"] == "https://page.example.org"
    other = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in guarded.ask("OPTIONS", "/api/predict", headers=other).headers
    assert guarded.get("/health/live", host="videos.example.org").status == 200
    assert guarded.get("/health/live", host="evil.example").status == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
def test_row_2_a_websocket_of_another_origin_is_refused(server, origin):
    lines = (
        "connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13",
        "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==", f"origin: {origin}",
    )  # fmt: skip
    assert status_of(server.raw(head_of("GET", "/api/stream", *lines))) == 403


# 3 and 4


def test_row_3_an_address_is_no_input(server):
    """A server of ours must never be asked for anything, whatever a client calls its video."""
    with socket.create_server(("127.0.0.1", 0)) as trap:
        address = f"http://127.0.0.1:{trap.getsockname()[1]}/x.mp4"
        for body in (address.encode(), json.dumps({"url": address}).encode(), f"file {address}".encode()):
            reply = server.post("/api/predict", body, content_type="application/json")
            assert (reply.status, reply.error["kind"]) == (415, "not_a_video")
        assert server.post(f"/api/predict?url={address}&video={address}", b"").status == 400
        assert server.form("/api/predict", b"x", filename=address).status == 415
        assert server.form("/api/predict", address.encode(), name="url").status == 400
        trap.settimeout(0.2)
        with pytest.raises(TimeoutError):
            trap.accept()


@pytest.mark.parametrize("name", ["/etc/passwd", "../../../../etc/passwd", "..\\..\\x", "a\0b", "con", "x" * 2000])
def test_row_4_no_path_of_a_client_is_used(server, clip, tmp_path, name):
    # What h11 and the parser refuse is answered too; nothing is written beside the folder, and nothing is left in it.
    reply = server.form("/api/predict", clip.read_bytes(), filename=name)
    assert reply.status in (200, 400)
    assert list(server.uploads.iterdir()) == []


@pytest.mark.parametrize("path", ["../index.html", "..%2fapp.py", "%2e%2e/app.py", "/etc/passwd", "index.html", "x"])
def test_row_4_only_the_files_of_the_page_are_served(server, path):
    assert server.get(f"/assets/{path}").status == 404


# 5


@pytest.mark.parametrize("path", [*POSTS, "/", "/health/live", "/api/model", "/metrics", "/nowhere"])
def test_row_5_a_body_that_says_it_is_too_large_is_refused_at_once(server, path):
    head = head_of("POST", path, "content-length: 99999999999", "expect: 100-continue")
    assert status_of(server.raw(head)) == 413


@pytest.mark.parametrize("path", POSTS)
def test_row_5_bytes_are_counted_while_they_stream(server, path):
    """Without a length, only counting finds the end; what is refused is not kept."""
    sent = 0
    with server.line() as line:
        line.sendall(head_of("POST", path, "transfer-encoding: chunked"))
        chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        try:
            while sent < 60_000_000:
                line.sendall(chunk)
                sent += 0x10000
                line.settimeout(0)
                try:
                    answer = line.recv(65536)
                    break
                except BlockingIOError:
                    line.settimeout(30)
        except OSError:
            line.settimeout(5)
            answer = line.recv(65536)
    assert status_of(answer) == 413
    assert sent < 20_000_000
    assert list(server.uploads.iterdir()) == []


def test_row_5_a_form_is_counted_likewise(server):
    assert server.form("/api/predict", bytes(4_000_001)).status == 413
    reply = server.form("/api/predict", bytes(4_000_000))
    assert reply.status == 415


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
def test_row_5_a_compressed_body_is_no_way_around(server, coding):
    bomb = zlib.compress(bytes(50_000_000))
    assert server.post("/api/predict", bomb, content_encoding=coding).status == 415


# 6


def test_row_6_a_slow_head_is_given_up(server):
    began = time.monotonic()
    with server.line() as line:
        line.settimeout(10)
        line.sendall(b"GET / HT")
        answer = b""
        try:
            for letter in b"TP/1.1\r\nhost: 127.0.0.1\r\nx: " + b"y" * 100:
                line.sendall(bytes([letter]))
                time.sleep(0.05)
                line.settimeout(0)
                try:
                    answer = line.recv(1000)
                    break
                except BlockingIOError:
                    line.settimeout(10)
        except OSError:
            pass
    assert answer == b"" or status_of(answer) == 408
    assert time.monotonic() - began < 5


def test_row_6_a_connection_that_says_nothing_is_closed(server):
    with server.line() as line:
        line.settimeout(10)
        assert status_of(read(line)) == 408


def read(line):
    found = b""
    while data := line.recv(65536):
        found += data
    return found


@pytest.mark.parametrize("pace", [0.0, 0.1])
def test_row_6_a_slow_body_is_given_up(server, pace):
    """One that stops, and one that sends a byte now and then."""
    began = time.monotonic()
    with server.line() as line:
        line.sendall(head_of("POST", "/api/predict", "content-length: 100000") + b"abc")
        answer = b""
        while not answer and time.monotonic() - began < 8:
            try:
                if pace:
                    line.sendall(b"x")
                line.settimeout(pace or 8)
                answer = line.recv(65536)
            except TimeoutError:
                pass
        line.settimeout(8)
        with suppress(ConnectionResetError):  # the server has closed what it no longer reads, and the body may be lost
            answer += read(line)
    assert status_of(answer) == 408
    body = answer.partition(b"\r\n\r\n")[2]
    assert (pace and not body) or json.loads(body)["error"]["kind"] == "slow"
    assert time.monotonic() - began < 8
    assert server.answers.admitted == 0


def test_row_6_heads_are_bounded(server):
    assert status_of(server.raw(head_of("GET", "/", "connection: close", "x: " + "y" * 6000))) == 400
    many = [f"x{number}: y" for number in range(1000)]
    assert status_of(server.raw(head_of("GET", "/", "connection: close", *many))) == 400


def test_row_6_parts_are_bounded(server):
    def form(*parts):
        body = b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"
        return server.post("/api/predict", body, content_type="multipart/form-data; boundary=b").status

    name = b'content-disposition: form-data; name="file"\r\n'
    assert form(name + b"x: " + b"y" * 5000 + b"\r\n\r\nabc") == 400
    assert form(name + b"".join(b"x%d: y\r\n" % number for number in range(100)) + b"\r\nabc") == 400
    assert form(*[name + b"\r\nabc"] * 2) == 400
    assert form(*[b'content-disposition: form-data; name="other"\r\n\r\nabc'] * 1000) == 400
    assert form(b"\r\nabc") == 400
    assert form(name + b"content-transfer-encoding: base64\r\n\r\nabc") == 415


@pytest.mark.parametrize("boundary", ["", "; boundary=", "; boundary=" + "x" * 500])
@pytest.mark.parametrize("body", [b"", b"--x", b"--b\r\n\r\n", bytes(range(256)) * 4])
def test_row_6_what_is_no_form_is_a_bad_request(server, boundary, body):
    assert server.post("/api/predict", body, content_type=f"multipart/form-data{boundary}").status == 400
    assert server.post("/api/predict", body, content_type="multipart/form-data; boundary=b").status == 400


def test_row_6_connections_are_bounded(running, tiny_run, tmp_path, small_limits):
    with running(tiny_run, tmp_path, limits=replace(small_limits, connections=3, pause_seconds=20.0)) as server:
        held = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
        answer = server.raw(b"")
        for line in held:
            line.close()
    assert status_of(answer) == 503
    assert b"retry-after: 5" in answer


def test_row_6_a_client_that_does_not_read_is_given_up(server):
    """It asks again and again and reads nothing, until the answers fill every buffer; then it is cut off."""
    ask = head_of("GET", "/openapi.json") * 50
    with server.line() as line:
        line.settimeout(8)
        with pytest.raises(ConnectionError):
            send_for_ever(line, ask)
    assert server.get("/health/live").status == 200


def send_for_ever(line, data):
    for _ in range(100_000):
        line.sendall(data)


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


def test_row_8_a_decoder_that_dies_costs_at_most_its_own_video(server, slow_video, wait_until, clip):
    """Killed once, the video is tried again; killed each time, it is an error."""
    before = server.answers.decoders.replaced
    line = begin(server, slow_video)
    wait_until(lambda: server.answers.decoders.busy == 1)
    os.kill(pid_of(server), signal.SIGSEGV)
    assert status_of(line.recv(65536)) == 200
    line.close()
    assert server.answers.decoders.replaced == before + 1
    line, killed = begin(server, slow_video), set()
    line.settimeout(0.05)
    answer = b""
    for _ in range(400):
        for decoder in [each for each in server.answers.decoders._all if each not in server.answers.decoders._free]:
            if decoder.process.pid not in killed:
                killed.add(decoder.process.pid)
                decoder.process.kill()
        try:
            answer = line.recv(65536)
            break
        except TimeoutError:
            pass
    line.close()
    assert status_of(answer) == 422
    assert len(killed) == 2
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
