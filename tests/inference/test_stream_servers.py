"""Servers of running video that are slow, wrong, endless, or go away; and what they may not do or learn."""

from __future__ import annotations

import base64
import io
import itertools
import json
import shutil
import socket
import ssl
import subprocess
import threading
import traceback

import av
import numpy as np
import pytest

from actionfusion.__main__ import main
from actionfusion.errors import NotAVideo, NoVideoStream, VideoError, VideoMissing
from actionfusion.inference.recognizer import Recognizer
from actionfusion.inference.streams import stream as stream_module
from actionfusion.inference.streams.capture import Capture, Captured, OutageNote, Timer
from actionfusion.inference.streams.printing import StreamSummary
from actionfusion.inference.streams.stream import StreamSession
from actionfusion.video import live
from actionfusion.video.live import Losses, open_source
from actionfusion.video.samples import FrameCollector
from actionfusion.video.sources import find_source

SIZE = 16
# Texts that lead FFmpeg to other files and addresses, unless it is kept from it.
PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n"
CONCAT = b"ffconcat version 1.0\nfile /etc/passwd\n"
SESSION = b"v=0\r\nc=IN IP4 127.0.0.1\r\nm=video 9 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"


class Pauses(list):
    """Pauses that are kept and not made; the clock stands still but for them."""

    def __init__(self):
        super().__init__()
        self.timer = Timer(lambda: float(sum(self)), lambda stop, seconds: self.append(seconds))


def capture(address, *, every=4, **options):
    return Capture(find_source(address), FrameCollector(every, 2), SIZE, **options)


def read(address):
    losses = Losses()
    with open_source(find_source(address), losses) as opened:
        return opened.says_its_length, [picture.image() for picture in opened.pictures(SIZE)], losses.frames


def test_a_clip_of_known_length_is_read_whole_and_ends(http_server, encode):
    http_server.answers = [{"body": encode(40), "length": True}] * 2
    says_its_length, pictures, lost = read(http_server.url)
    assert (says_its_length, len(pictures), lost) == (True, 40, 0)
    with capture(http_server.url) as captured:
        assert [entry.group.position for entry in captured.buffer] == list(range(3, 40, 4))
    assert captured.buffer.dropped == captured.outages == 0


def test_no_redirect_is_followed_unless_it_is_asked_for(http_server, encode):
    data = encode(12)
    target = f"{http_server.url}/elsewhere".replace("127.0.0.1", "localhost")
    away = {"status": 302, "location": target}
    http_server.answers = [away, {"body": data, "length": True}]
    with pytest.raises(VideoMissing, match="--redirects"), open_source(find_source(http_server.url), Losses()):
        pass
    assert http_server.paths == ["/"]
    http_server.answers = [away, {"body": data, "length": True}]
    with open_source(find_source(http_server.url, redirects=True), Losses()) as opened:
        assert sum(1 for _ in opened.pictures(SIZE)) == 12
    assert http_server.paths == ["/", "/", "/elsewhere"]


def test_a_server_that_dies_and_comes_back_is_waited_for(http_server, encode):
    """It sends 40 frames and hangs up, is away for three tries, and is there again."""
    data = encode(40)
    http_server.answers = [{"body": data}, {"status": 503}, {"status": 503}, {"status": 404}, {"body": data}]
    pauses = Pauses()
    with capture(f"{http_server.url}/live", wait=20, timer=pauses.timer) as captured:
        entries = iter(captured.buffer)
        with pytest.raises(VideoMissing, match="not back after 20 s"):
            list(entries)
    assert http_server.paths[:5] == ["/live"] * 5
    # Hung up; 503, 503, 404; there again; away for good: 0.5 + 1 + 2 + 4 + 8 and what is left of 20 s.
    assert pauses[:4] == [0.5, 1, 2, 4]
    assert pauses[4:] == [0.5, 1, 2, 4, 8, 4.5]
    assert captured.outages == 2


def test_what_comes_back_begins_a_new_window(http_server, encode, tiny_run, monkeypatch, capsys):
    """The command's own way, up to what it prints: answers, an outage, answers from one sample on."""
    data = encode(40)
    http_server.answers = [{"body": data}, {"status": 503}, {"body": data}]
    pauses, taken = Pauses(), threading.Event()

    def pause(stop, seconds):
        taken.wait(60)  # until an answer was printed, so that there is one of the first connection
        pauses.append(seconds)

    timer = Timer(pauses.timer.now, pause)
    monkeypatch.setattr(stream_module, "Capture", lambda *words, **options: Capture(*words, **options, timer=timer))
    make = stream_module.make_printer

    class Printer:
        def __init__(self, **options):
            self.inner = make(**options)

        def answer(self, answer):
            self.inner.answer(answer)
            taken.set()

        def outage(self, note):
            self.inner.outage(note)

        def close(self):
            self.inner.close()

    monkeypatch.setattr(stream_module, "make_printer", Printer)
    code = main(["stream", str(tiny_run), http_server.url, "--every", "8", "--json", "--wait", "1"])
    output = capsys.readouterr()
    assert code == 1
    assert "was not back after 1 s" in output.err
    entries = [json.loads(line) for line in output.out.splitlines()]
    events = [entry["event"] for entry in entries if "event" in entry]
    assert "waiting" in events
    assert "back" in events
    after = entries[[entry.get("event") for entry in entries].index("back") + 1]
    assert after["samples"] == 1
    assert after["start"] == after["time"]
    assert "2 outages" in output.err


def test_an_endless_server_and_a_slow_reader(http_server, encode, tiny_run):
    """The reader looks once in 200 frames or more; the server is never held up by it."""
    data = encode(200)
    http_server.more.set()
    http_server.answers = [{"endless": data}]
    recognizer = Recognizer.load(tiny_run, device="cpu")
    clip = recognizer.clip_settings
    captured = Capture(find_source(http_server.url), FrameCollector(4, clip.flow_length), clip.decoded_size, wait=0)
    session = StreamSession(recognizer, captured, StreamSummary())
    answers = session.answers()
    for _ in range(3):
        seen = captured.frames
        answer = next(answers)
        while captured.frames < seen + 200 and captured._thread.is_alive():
            threading.Event().wait(0.005)
        waiting = captured.frames // 4
        after = next(answers)
        # What comes next is not older than what was there when it was asked for.
        assert 25 * after.answer.time / 4 >= waiting - 2
        assert after.answer.time > answer.answer.time
    assert session.summary.dropped > 100
    assert after.dropped_share > 0.9
    http_server.more.clear()
    with pytest.raises(VideoMissing):
        list(answers)


def test_a_jpeg_camera_over_http_is_read_by_the_times_of_arrival(http_server, monkeypatch):
    """``multipart/x-mixed-replace``, as IP cameras send it, states no times; here a picture comes each 0.3 s."""
    moments = itertools.count()
    monkeypatch.setattr(live, "monotonic", lambda: 0.3 * next(moments))
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mpjpeg") as out:
        stream = out.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for index in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * index, np.uint8)).reformat(format="yuvj420p")
            frame.pts = index
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    kind = "multipart/x-mixed-replace;boundary=ffmpeg"
    http_server.answers = [{"body": buffer.getvalue(), "kind": kind}]
    found = []
    with open_source(find_source(http_server.url), Losses()) as opened, pytest.raises(VideoMissing):
        found.extend((picture.time, picture.image().mean()) for picture in opened.pictures(SIZE))
    assert [time for time, _ in found] == pytest.approx([0.3 * n for n in range(12)])
    assert [mean for _, mean in found] == pytest.approx([20 * n for n in range(12)], abs=4)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ({"status": 404}, VideoMissing, "404 Not Found"),
        ({"status": 401}, VideoMissing, "401 Unauthorized"),
        ({"status": 503}, VideoMissing, "Server Error"),
        ({"body": b"<html>hello</html>" * 99, "length": True}, NotAVideo, "no video was recognised"),
        ({"body": b"", "length": True}, VideoError, "http://"),
        (
            {"body": PLAYLIST, "length": True, "kind": "application/x-mpegurl"},
            NotAVideo,
            "playlists (m3u8, sdp) are not",
        ),
        ({"body": CONCAT, "length": True}, NotAVideo, "playlists (m3u8, sdp)"),
        ({"body": SESSION, "length": True, "kind": "application/sdp"}, NotAVideo, "playlists (m3u8, sdp)"),
        ({"status": 302, "location": "file:///etc/passwd"}, VideoError, "http://"),
        ({"status": 302, "location": "concat:/etc/passwd|/etc/hosts"}, VideoError, "http://"),
    ],
)
def test_a_server_of_something_else_is_an_error_at_once(http_server, answer, error, message):
    http_server.answers = [answer] * 3
    with pytest.raises(error) as failure, capture(http_server.url) as captured:
        list(captured.buffer)
    assert message in str(failure.value)


def test_a_server_of_sound_is_an_error(http_server, encode):
    http_server.answers = [{"body": encode(sound=True), "length": True}]
    with pytest.raises(NoVideoStream, match="only sound"):
        read(http_server.url)


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.parametrize("scheme", ["http", "rtsp", "rtmp", "tcp"])
def test_a_refused_connection_is_said_without_the_password(tiny_run, scheme, capsys):
    address = f"{scheme}://admin:s3cret@127.0.0.1:{_free_port()}/live?token=s3cret"
    assert main(["stream", str(tiny_run), address]) == 1
    output = capsys.readouterr()
    assert "Connection refused" in output.err
    assert "s3cret" not in output.err + output.out
    assert output.err.count("\n") == 1
    with pytest.raises(VideoMissing) as failure:
        main(["stream", str(tiny_run), address, "--debug"])
    assert "s3cret" not in "".join(traceback.format_exception(failure.value))
    assert failure.value.__context__ is None


def test_an_address_that_this_ffmpeg_does_not_open_is_said():
    def opener(*words, **options):
        raise av.error.ProtocolNotFoundError(0, "Protocol not found", "srt://u:s3cret@host")

    with pytest.raises(NotAVideo, match=r"let another program read it and pipe to -\.$") as failure:  # noqa: SIM117
        with open_source(find_source("srt://u:s3cret@host"), Losses(), opener=opener):
            pass
    assert "s3cret" not in str(failure.value)


def test_an_encrypted_server_must_show_a_certificate_that_is_known(make_http_server, encode, tmp_path, monkeypatch):
    if not shutil.which("openssl"):
        pytest.skip("needs openssl to make a certificate")
    monkeypatch.chdir(tmp_path)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem",
         "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("cert.pem", "key.pem")
    server = make_http_server(context)
    server.answers = [{"body": encode(40), "length": True}] * 2
    with pytest.raises(VideoMissing, match="SSL_CERT_FILE"):
        read(server.url)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    assert len(read(server.url)[1]) == 40


def test_a_server_that_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(live, "OPEN_TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for scheme in ("http", "rtsp", "tcp"):
            with pytest.raises(VideoMissing, match=r"no answer within 0\.3 s"):
                read(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/x")


def test_a_server_that_falls_silent_is_called_so(monkeypatch, encode):
    monkeypatch.setattr(live, "READ_TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def send():
            connection, _ = server.accept()
            held.append(connection)
            connection.sendall(encode(400))

        sender = threading.Thread(target=send)
        sender.start()
        with pytest.raises(VideoMissing, match=r"it sent nothing for 0\.3 s"):
            read(f"tcp://127.0.0.1:{server.getsockname()[1]}")
        sender.join(10)
        held[0].close()


def test_rtsp_is_read_within_one_connection(rtsp_server):
    says_its_length, pictures, lost = read(f"rtsp://127.0.0.1:{rtsp_server.port}/live")
    assert (says_its_length, len(pictures), lost) == (False, 40, 0)
    setup = next(headers for line, headers in rtsp_server.requests if line.startswith("SETUP"))
    assert setup["transport"].startswith("RTP/AVP/TCP")


def test_rtsp_gets_its_password_and_nobody_else_does(rtsp_server, tiny_run, capsys):
    rtsp_server.password = base64.b64encode(b"admin:s3cret").decode()
    address = f"rtsp://admin:s3cret@127.0.0.1:{rtsp_server.port}/live"
    assert main(["stream", str(tiny_run), address, "--wait", "0", "--every", "8"]) == 1
    output = capsys.readouterr()
    assert f"rtsp://***@127.0.0.1:{rtsp_server.port}/live: it " in output.err
    assert "sample" in output.err
    assert "s3cret" not in output.err + output.out
    assert main(["stream", str(tiny_run), address.replace("s3cret", "s3cre"), "--wait", "0"]) == 1
    assert "401 Unauthorized" in capsys.readouterr().err


def test_rtsp_that_hangs_up_is_reached_again(rtsp_server):
    pauses = Pauses()
    with capture(f"rtsp://127.0.0.1:{rtsp_server.port}/live", timer=pauses.timer) as captured:
        notes, last = [], 0
        for entry in captured.buffer:
            if isinstance(entry, OutageNote):
                notes.append(entry)
            elif isinstance(entry, Captured):
                last = entry.connection
            if last >= 3:
                break
    assert captured.outages >= 2
    assert set(pauses) == {0.5}
    assert any(note.next_try is None for note in notes)


def test_rtsp_without_such_a_stream_says_so(rtsp_server):
    rtsp_server.status = "404 Not Found"
    with pytest.raises(VideoMissing, match="404 Not Found"):
        read(f"rtsp://127.0.0.1:{rtsp_server.port}/nothing")


def test_udp_is_read(encode):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    stop, data = threading.Event(), encode(40)

    def send():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not stop.is_set():
                for place in range(0, len(data), 7 * 188):
                    sender.sendto(data[place : place + 7 * 188], ("127.0.0.1", port))
                stop.wait(0.02)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        with capture(f"udp://127.0.0.1:{port}") as captured:
            groups = [entry for _, entry in zip(range(5), captured.buffer, strict=False)]
        assert len(groups) == 5
    finally:
        stop.set()
        thread.join()
