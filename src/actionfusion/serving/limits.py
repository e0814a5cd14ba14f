"""What a server takes at most, of one client and of all."""

from __future__ import annotations

from dataclasses import dataclass, fields

from actionfusion.errors import SettingsError

VIDEO_CODECS = frozenset(
    {
        "apng", "av1", "cinepak", "dvvideo", "ffv1", "flv", "gif", "h263", "h264", "hevc", "huffyuv", "libaom-av1",
        "libdav1d", "libvpx", "libvpx-vp9", "mjpeg", "mpeg1video", "mpeg2video", "mpeg4", "msmpeg4", "msmpeg4v1",
        "msmpeg4v2", "prores", "rawvideo", "svq1", "svq3", "theora", "vc1", "vp6", "vp6f", "vp8", "vp9", "wmv1", "wmv2",
        "wmv3",
    }
)  # fmt: skip
"""FFmpeg's names of the decoders that may read what a stranger sends: of cameras, telephones, editors and archives."""


@dataclass(frozen=True)
class ServingLimits:
    """What a server takes.

    Args:
        bytes: of a video.
        seconds: that a video may last.
        frames: of a video.
        pixels: of a picture, width times height.
        videos_waiting: that wait for their turn or are being sent, beside those at work; more are turned away.
        decoders: processes that decode, each one video at a time; none takes one a core, 4 at most.
        decoding_seconds: that decoding one video may take.
        decoding_bytes: of memory that one decoder may take.
        pause_seconds: without a byte, after which a sender is given up.
        slowest: bytes a second that a sender must keep up on average, after the first such pause.
        header_bytes: of a request's head, and of the head of a part.
        connections: open at once.
        cameras: of pages that stream at once.
        picture_bytes: of one picture of a camera.
        batch: clips that the network may answer at once; whether it pays is measured at the start.
        ending_seconds: that what runs may take to finish once the server is to end.

    Raises:
        SettingsError: a limit that is not above 0.
    """

    bytes: int = 256 * 2**20
    seconds: float = 600.0
    frames: int = 36_000
    pixels: int = 4096 * 2304
    videos_waiting: int = 16
    decoders: int | None = None
    decoding_seconds: float = 120.0
    decoding_bytes: int = 2 * 2**30
    pause_seconds: float = 10.0
    slowest: int = 8192
    header_bytes: int = 16_384
    connections: int = 128
    cameras: int = 4
    picture_bytes: int = 2 * 2**20
    batch: int = 8
    ending_seconds: float = 30.0

    def __post_init__(self) -> None:
        for part in fields(self):
            value, least = getattr(self, part.name), 0 if part.name == "videos_waiting" else 1e-9
            if value is not None and not least <= value < float("inf"):
                raise SettingsError(f"limits.{part.name}", f"{value} is no limit", "take a number above 0")
