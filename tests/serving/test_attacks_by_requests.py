"""Rows 1 to 6 of what the server promises, each attacked: who is answered, and what a request may be."""

import json
import socket
import time
import zlib
from contextlib import suppress
from dataclasses import replace

import pytest

from actionfusion.errors import SettingsError
from raw_requests import POSTS, TOKEN, head_of, read, status_of

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
