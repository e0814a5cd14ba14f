"""Tell damage from the beginning of a stream that was joined or cut in the middle of a group of pictures.

Its first pictures build on others that were never received.  They are left out, up to the first that can be decoded.
Transport streams and bare streams can be joined anywhere.  Other containers begin with a key frame; pictures that are
decoded after it and shown before it may build on others before it, as in an open group of pictures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# Codecs whose decoders keep pictures back until all that they build on is there; others decode on top of grey.
_DECODER_KNOWS = frozenset({"av1", "h264", "hevc", "vp8", "vp9", "vvc"})


# FFmpeg's names of containers that are made to be joined anywhere.
_JOINED_ANYWHERE = frozenset({"av1", "h264", "hevc", "m4v", "mpeg", "mpegts", "mpegvideo", "obu"})


class Beginning:
    """The beginning of one stream.

    Args:
        stream: it.
        container: FFmpeg's name of what it is in.
        live: whether it may be joined anywhere whatever the container, as what a server sends.

    Attributes:
        left_out: pictures and packets before the first picture that can be decoded.
    """

    def __init__(self, stream: VideoStream, container: str, *, live: bool = False) -> None:
        self.left_out = 0
        self._joined = live or container in _JOINED_ANYWHERE
        self._wants_key = stream.codec_context.codec.canonical_name not in _DECODER_KNOWS
        self._begun = self._has_key = False
        self._key_time: int | None = None
        self._excused: set[int | None] = set()

    def excuses(self, packet: Packet[VideoStream] | None) -> bool:
        """Decide whether what is wrong with this packet is owed to what came before the stream.

        That is so as long as no picture came, before the first key frame, and of pictures that are shown before that.
        """
        excused = not self._begun and self._is_before(None if packet is None else packet.pts)
        self.left_out += excused
        if excused and packet is not None:
            self._excused.add(packet.pts)
        return excused

    def see(self, packet: Packet[VideoStream]) -> None:
        """Take notice of a packet before it is decoded; all of them in their order."""
        if packet.is_keyframe and not self._has_key:
            self._has_key, self._key_time = True, packet.pts

    def leaves_out(self, picture: VideoFrame) -> bool:
        """Decide whether a decoded picture is one of those that miss what they build on."""
        if self._begun:
            return False
        if picture.pts is not None and picture.pts in self._excused:  # of a packet that was at fault, given later
            self.left_out += 1
            return True
        on_grey = self._wants_key and self.left_out > 0 and not picture.key_frame
        if on_grey or (picture.is_corrupt and self._is_before(picture.pts)):
            self.left_out += 1
            return True
        self._begun = True
        return False

    def _is_before(self, time: int | None) -> bool:
        if not self._has_key:
            return self._joined
        return time is not None and self._key_time is not None and time < self._key_time
