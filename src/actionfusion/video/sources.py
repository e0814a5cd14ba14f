"""Resolve the name of a live source, and limit what FFmpeg may do for it.

A file or a pipe is handed to FFmpeg as an open file, never as a name.  Cameras and servers have to be opened by name,
so each gets the demuxers and the protocols that it needs and no other: no playlist, session description or redirection
can lead to a local file.
"""

from __future__ import annotations

import os
import re
import ssl
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from actionfusion.errors import SettingsError, VideoMissing
from actionfusion.video.containers import PIXEL_LIMIT, VIDEO_DEMUXERS, LocalPath

SourceKind = Literal["file", "pipe", "camera", "server"]

STANDARD_INPUT = "-"

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_ADDRESS_OR_PATH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/+")
# IP cameras send JPEG pictures over HTTP, as parts of one endless answer or one after the other.
_SERVER_DEMUXERS = (*VIDEO_DEMUXERS, "live_flv", "mjpeg", "mpjpeg")
_ENCRYPTED = ("rtsps", "rtmps", "https")
# The protocols that FFmpeg may use for an address.  HTTP may lead on to HTTPS and back, where that is asked for.
_PROTOCOLS: Mapping[str, tuple[str, ...]] = {
    "rtsp": ("tcp",),
    "rtsps": ("tls", "tcp"),
    "rtmp": ("rtmp", "tcp"),
    "rtmps": ("rtmps", "tls", "tcp"),
    "http": ("http", "https", "httpproxy", "tls", "tcp"),
    "https": ("http", "https", "httpproxy", "tls", "tcp"),
    "srt": ("srt",),
    "udp": ("udp",),
    "tcp": ("tcp",),
}
# How a camera is opened by its number: FFmpeg's device, and the name that it gives to that number.
_CAMERAS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}


@dataclass(frozen=True)
class Source:
    """Source of a live video.

    Attributes:
        kind: of source.
        name: for messages; an address by `without_secrets`.
        address: a path, or what FFmpeg opens; for a camera of Windows its number.
        format: FFmpeg's demuxer or device, None where FFmpeg finds it out.
        options: FFmpeg's, with what it may use.
    """

    kind: SourceKind
    name: str
    address: str = field(repr=False)
    format: str | None = None
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def is_live(self) -> bool:
        """Whether the source runs at its own pace, and can go away and come back."""
        return self.kind in ("camera", "server")


def find_source(given: LocalPath | int, *, redirects: bool = False, platform: str = sys.platform) -> Source:
    """Resolve a word from the command line.

    Args:
        given: ``-`` for standard input; a number or ``/dev/video0`` for a camera; an address; else the path of a file
            or a named pipe.
        redirects: follow a server of HTTP that leads to another address, on another host too.
        platform: as ``sys.platform``.

    Raises:
        SettingsError: an address of a kind that is not opened, or without a host; a camera on a system that has none.
    """
    text = os.fspath(given) if not isinstance(given, int) else str(given)
    if text == STANDARD_INPUT:
        return Source("pipe", "standard input", text)
    if re.fullmatch(r"[0-9]{1,3}", text):
        return _camera(text, platform)
    if platform == "linux" and text.startswith("/dev/v"):
        return _camera(text, platform)
    if _ADDRESS.match(text):
        return _server(text, redirects=redirects)
    return Source("pipe" if _is_pipe(text) else "file", text, text)


def without_secrets(address: str) -> str:
    """Remove user, password, query, parameters and fragment, which may hold a key, and the whole path of RTMP.

    A password may hold any sign, unescaped too.  Where it is not plain which @ ends it, only the scheme is shown.  An
    address that has lost a slash, as one does that is taken for a path, is one all the same.
    """
    found = _ADDRESS_OR_PATH.match(address)
    if found is None:
        return address
    head, rest = found[0], address[found.end() :]
    host = re.split(r"[/?#;]", rest, maxsplit=1)[0]
    if rest.count("@") != host.count("@") or host.count("@") > 1:
        return f"{head}***"
    secret, at, public = rest.rpartition("@")
    if head.lower().startswith("rtmp"):  # what the server knows a sender or viewer by
        host, slash, _ = public.partition("/")
        public = f"{host}{slash}{'***' if slash else ''}"
    shown, *hidden = re.split(r"(?<=[?#;])", public, maxsplit=1)
    return f"{head}{'***@' if secret else at}{shown}{'***' if hidden else ''}"


def _is_pipe(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)  # noqa: PTH116 - Path refuses no less, and has no fspath of bytes
    except (OSError, ValueError):
        return False


def _camera(text: str, platform: str) -> Source:
    device = _CAMERAS.get(platform)
    if device is None:
        raise SettingsError(text, f"cameras of {platform} cannot be opened", "let FFmpeg read it and pipe to -")
    name = f"camera {text}" if text.isdigit() else text
    address = {"linux": f"/dev/video{text}", "darwin": f"{text}:none", "win32": text}[platform]
    names = "video4linux2,v4l2" if device == "v4l2" else device
    options = {"format_whitelist": names, "protocol_whitelist": "none", **PIXEL_LIMIT}
    return Source("camera", name, address if text.isdigit() else text, device, options)


def _server(address: str, *, redirects: bool) -> Source:
    name = without_secrets(address)
    scheme = address.partition("://")[0].lower()
    if scheme not in _PROTOCOLS:
        known = ", ".join(f"{each}://" for each in _PROTOCOLS)
        raise SettingsError(name, f"{scheme}:// is no address of a stream", f"give {known}, or the path of a file")
    if not re.match(r"[^/?#]", address.partition("://")[2]):
        raise SettingsError(name, "the address names no host", f"write {scheme}://host/path")
    is_rtsp = scheme.startswith("rtsp")
    demuxers = ("rtsp",) if is_rtsp else _SERVER_DEMUXERS
    options = {
        "format_whitelist": ",".join(demuxers),
        "protocol_whitelist": ",".join(_PROTOCOLS[scheme]),
        # What FFmpeg looks at before the first picture, in microseconds of the stream; it would take up to 90 s.
        "analyzeduration": "5000000",
        **PIXEL_LIMIT,
    }
    if scheme.startswith("http") and not redirects:
        options["max_redirects"] = "0"
    if is_rtsp:
        options |= {"rtsp_transport": "tcp", "allowed_media_types": "video"}
    if scheme in _ENCRYPTED:
        # FFmpeg checks no certificates by default, and could send a password to the wrong server.
        authorities = ssl.get_default_verify_paths().cafile
        options |= {"tls_verify": "1"} | ({"ca_file": authorities} if authorities else {})
    # Scheme in small letters: FFmpeg compares it letter by letter.
    return Source("server", name, scheme + address[len(scheme) :], "rtsp" if is_rtsp else None, options)


def refuse_terminal(source: Source) -> None:
    """Raise VideoMissing if standard input is a keyboard or closed."""
    if source.address == STANDARD_INPUT and (sys.stdin is None or sys.stdin.isatty()):
        raise VideoMissing(source.name, "nothing is piped into it", "write `... | actionfusion stream RUN -`")
