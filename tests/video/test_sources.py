"""What a word means as a source, and what FFmpeg may do for it."""

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actionfusion.errors import SettingsError
from actionfusion.video.sources import find_source, without_secrets


def test_a_word_is_a_pipe_a_camera_an_address_or_a_path(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    kinds = {
        "-": "pipe",
        str(tmp_path / "pipe"): "pipe",
        "0": "camera",
        "/dev/video3": "camera",
        "rtsp://host/live": "server",
        "HTTPS://host/live": "server",
        "udp://@:5000": "server",
        "clip.mp4": "file",
        "2024.mp4": "file",
        "./0": "file",
        "concat:a.mp4|b.mp4": "file",
        "file:clip.mp4": "file",
        "pipe:0": "file",
        "http:clip.mp4": "file",
    }
    assert {word: find_source(word, platform="linux").kind for word in kinds} == kinds
    assert find_source(0, platform="linux").address == "/dev/video0"
    assert find_source(tmp_path / "clip.mp4").name == str(tmp_path / "clip.mp4")


@pytest.mark.parametrize(
    ("platform", "device", "address"),
    [("linux", "v4l2", "/dev/video2"), ("darwin", "avfoundation", "2:none"), ("win32", "dshow", "2")],
)
def test_each_system_has_its_cameras(platform, device, address):
    source = find_source("2", platform=platform)
    assert (source.format, source.address, source.name) == (device, address, "camera 2")
    assert device in source.options["format_whitelist"]


def test_a_system_without_cameras_says_so():
    with pytest.raises(SettingsError, match="camera"):
        find_source("0", platform="emscripten")


@pytest.mark.parametrize(
    "address",
    ["file:///etc/passwd", "concat://a", "ftp://host/a.mp4", "data://x", "subfile://a", "crypto+file://a", "s3://b/c"],
)
def test_other_addresses_are_refused_by_name(address):
    with pytest.raises(SettingsError, match=f"{address.partition(':')[0].replace('+', '.')}:// is no address"):
        find_source(address)


@pytest.mark.parametrize("address", ["rtsp://", "http:///path", "tcp://?x=1"])
def test_an_address_without_a_host_is_refused(address):
    with pytest.raises(SettingsError, match="names no host"):
        find_source(address)


@pytest.mark.parametrize("scheme", ["rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "srt", "udp", "tcp"])
def test_no_server_may_lead_to_a_file(scheme):
    """Nor elsewhere, unless that is asked for."""
    assert (find_source(f"{scheme}://host/x").options.get("max_redirects") == "0") == scheme.startswith("http")
    assert "max_redirects" not in find_source(f"{scheme}://host/x", redirects=True).options
    options = find_source(f"{scheme}://host/x").options
    assert not {"file", "concat", "crypto", "data", "pipe", "subfile"} & set(options["protocol_whitelist"].split(","))
    assert not {"hls", "dash", "concat", "image2", "sdp", "tty"} & set(options["format_whitelist"].split(","))
    assert (options.get("tls_verify") == "1") == (scheme in ("rtsps", "rtmps", "https"))


_WORDS = st.text(st.characters(codec="ascii", categories=("L", "N"), include_characters="-_."), min_size=1, max_size=9)
_SECRET = st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S")), min_size=1, max_size=9).map(
    lambda text: f"s3cret{text}s3cret"
)


@given(_WORDS, _SECRET, _WORDS, _SECRET)
@example("user", "s3cret@/s3cret", "host", "s3crets3cret")
@example("user", "s3cret?#/:@s3cret", "host", "s3cret@/?s3cret")
def test_no_user_password_or_query_is_ever_shown(user, password, host, key):
    address = f"rtsp://{user}:{password}@{host}:554/live?key={key}"
    source = find_source(address)
    assert source.address == address
    for shown in (source.name, repr(source), without_secrets(address)):
        assert "s3cret" not in shown
    assert source.name.startswith("rtsp://***")


def test_what_is_no_secret_is_shown():
    assert without_secrets("rtsp://admin:pw@10.0.0.7:554/a/b") == "rtsp://***@10.0.0.7:554/a/b"
    assert without_secrets("http://[::1]:80/a/b?x=1") == "http://[::1]:80/a/b?***"
    assert without_secrets("udp://@:5000?fifo_size=9") == "udp://@:5000?***"
    assert without_secrets("clip@home.mp4") == "clip@home.mp4"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://host/live;token=s3cret", "rtsp://host/live;***"),
        ("http://host/live#token=s3cret", "http://host/live#***"),
        ("http://host/live;s3cret?a=s3cret#s3cret", "http://host/live;***"),
        ("http:/user:s3cret@host/a.mp4", "http:/***@host/a.mp4"),
        ("https:/host/a.mp4?key=s3cret", "https:/host/a.mp4?***"),
        ("rtmp://host/app/s3cret", "rtmp://host/***"),
        ("RTMPS://user:s3cret@host:99/app/s3cret?s3cret", "RTMPS://***@host:99/***"),
        ("rtmp://host", "rtmp://host"),
        ("C:/films/a;b#c.mp4", "C:/films/a;b#c.mp4"),
        ("films/a;b#c@d.mp4", "films/a;b#c@d.mp4"),
    ],
)
def test_keys_and_passwords_of_every_form_are_hidden(address, shown):
    assert without_secrets(address) == shown


def test_what_may_be_a_secret_is_not_shown():
    assert without_secrets("http://host/a@b/c") == "http://***"
    assert without_secrets("rtsp://user:pass/word@host/live") == "rtsp://***"
    assert without_secrets("rtsp://user:pass@word@host/live") == "rtsp://***"
    assert without_secrets("rtsp://user:pw@host/live?key=a@b") == "rtsp://***"
