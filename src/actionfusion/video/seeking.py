"""Read chosen frames of a long video without decoding all between them.

The packets are looked through once, undecoded: their presentation times in order give each frame's index.  Decoding
then begins at the key frame before each group of frames that is wanted.

It is done only where it gives what decoding everything gives: in containers that state presentation times, for codecs
whose packets hold one picture each, and where no packet is out of the ordinary.  While decoding, each picture must come
in its turn, known by its time; else ``SeekingFailed`` says that everything has to be decoded.  What it cannot know is
what only decoding shows of the parts left out: damage, or a packet that gives no picture after all.
"""

from __future__ import annotations

from array import array
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from os import fspath
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from actionfusion.errors import ActionFusionError
from actionfusion.video.containers import LocalPath, find_structure_fault, open_video
from actionfusion.video.error_log import ErrorLog
from actionfusion.video.pictures import PictureConverter
from actionfusion.video.reading import Frame, iterate_packets, packet_faults, strict_decoder
from actionfusion.video.threads import ReadingStopped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

SMALLEST_SAVING = 2**26
"""Pixels whose decoding must be saved, else the whole file is decoded, which finds damage too: about 0.1 s of it."""

# FFmpeg's names of the containers whose presentation times are the file's own; in the others it makes some up.
_TIMED_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
# Not VP8, whose hidden pictures have packets of their own, nor codecs that put fields into packets.
_ONE_PICTURE_A_PACKET = frozenset({"av1", "ffv1", "h264", "hevc", "mjpeg", "mpeg4", "prores", "vp9"})
_VOP_START = b"\0\0\1\xb6"
_LONGEST_EMPTY_VOP = 8  # bytes after the start code where vop_coded = 0: ISO/IEC 14496-2, section 6.2.5
_IDR_SLICE = 5  # nal_unit_type: ITU-T H.264, table 7-1
_MOST_REORDERED = 16  # H.264 and HEVC keep at most 16 pictures back


class SeekingFailed(Exception):
    """Frames do not come as the packets promised; the caller decodes from the start instead."""


@dataclass(frozen=True, eq=False)
class PacketIndex:
    """Positions of a stream's frames, by its packets.

    Attributes:
        stamps: ``[N]`` presentation times in the stream's unit, ascending; a frame's index is its place here.
        order: ``[N]`` each frame's place in the order of decoding.
        keys: ``[K]`` frames that decoding can begin with, ascending; the first is frame 0.
        delay: packets that the decoder takes before it gives a picture, beside that picture's own.
        pixels: of a picture.
    """

    stamps: npt.NDArray[np.int64]
    order: npt.NDArray[np.int64]
    keys: npt.NDArray[np.int64]
    delay: int
    pixels: int

    @property
    def num_frames(self) -> int:
        """N."""
        return len(self.stamps)

    def rank(self, stamp: int | None) -> int:
        """Give the index of the frame that is shown at that time.

        Raises:
            SeekingFailed: there is none.
        """
        place = -1 if stamp is None else int(np.searchsorted(self.stamps, stamp))
        if not 0 <= place < self.num_frames or self.stamps[place] != stamp:
            raise SeekingFailed(f"no packet has the time {stamp}")
        return place

    def stretches(self, frames: Sequence[int]) -> list[range]:
        """Choose stretches to decode for these frames (ascending): each begins with a key frame, the first with 0."""
        found = [range(1)]  # the first picture gives the size, the way up and the beginning of time
        for frame in frames:
            key = int(self.keys[np.searchsorted(self.keys, frame, side="right") - 1])
            last = found[-1]
            if key > last.stop:
                found.append(range(key, frame + 1))
            else:
                found[-1] = range(last.start, max(frame + 1, last.stop))
        return found

    def pays(self, frames: Sequence[int]) -> bool:
        """Decide whether seeking to these frames (ascending) saves half of the decoding, and enough time."""
        stretches = self.stretches(frames)
        cost = sum(len(stretch) + self.delay for stretch in stretches)
        return 2 * cost <= self.num_frames and (self.num_frames - cost) * self.pixels >= SMALLEST_SAVING


@dataclass(frozen=True, eq=False)
class PacketScan:
    """Facts from the packets of a video.

    Attributes:
        num_frames: as ``count_frames`` has it.
        index: None where frames can be found only by decoding.
    """

    num_frames: int
    index: PacketIndex | None


def scan_packets(path: LocalPath) -> PacketScan:
    """Scan the packets of a video without decoding them; takes 24 bytes of memory a frame.

    Raises:
        VideoError: the file cannot be opened as a video, or a packet cannot be read; see ``open_video``.
    """
    stamps, keys = array("q"), array("q")
    count = 0
    log = ErrorLog()
    with open_video(path, log) as (container, stream), packet_faults(fspath(path)), log.heard():
        codec = stream.codec_context
        name = codec.codec.canonical_name
        fits = container.format.name in _TIMED_CONTAINERS and name in _ONE_PICTURE_A_PACKET
        setup = codec.extradata or b""
        for packet in iterate_packets(container, stream):
            count += not packet.is_discard
            fits = fits and _is_ordinary(packet, name)
            if fits and packet.pts is not None:
                if packet.is_keyframe and (name != "h264" or _is_idr(bytes(packet), setup)):
                    keys.append(len(stamps))
                stamps.append(packet.pts)
        # FFmpeg's MPEG-4 decoder always keeps one back where there are B-frames, and does not say so.
        delay, pixels = max(codec.reorder_depth, int(name == "mpeg4")), codec.width * codec.height
    # A container that is cut off or does not fit together is found here too, so that decoding can say so.
    is_odd = log.at_opening or log.take(of_container=True) or find_structure_fault(path)
    if not fits or not keys or keys[0] or is_odd:
        return PacketScan(count, None)
    order = _Order.of(np.array(stamps, np.int64), delay)
    if order is None:
        return PacketScan(count, None)
    usable = order.key_frames(np.array(keys, np.int64))
    return PacketScan(count, PacketIndex(order.stamps, order.order, usable, delay, pixels))


def seek_frames(path: LocalPath, index: PacketIndex, frames: Sequence[int], size: int) -> Generator[Frame, None, None]:
    """Yield the chosen frames as ``iterate_frames`` gives them.

    Args:
        path: the file.
        index: of its packets.
        frames: indices, ascending, without repeats.
        size: scale to ``size`` x ``size`` pixels, the aspect not kept.

    Raises:
        SeekingFailed: the pictures do not come as the index says; frames given before may be wrong then.
        VideoError: the file cannot be opened; see ``open_video``.
    """
    wanted = frozenset(frames)
    convert: PictureConverter | None = None
    log = ErrorLog()
    with open_video(path, log) as (container, stream), _anything_odd():
        if stream.time_base is None:
            raise SeekingFailed("its times have no unit")
        unit = float(stream.time_base)
        origin = int(index.stamps[0]) * unit
        strict_decoder(stream)
        for stretch in index.stretches(frames):
            with closing(_decode_stretch(container, stream, index, stretch, log)) as pictures:
                for frame, picture in zip(stretch, pictures, strict=True):
                    convert = convert or PictureConverter(picture, size)
                    if frame in wanted:
                        yield Frame(frame, int(index.stamps[frame]) * unit - origin, convert(picture))


@contextmanager
def _anything_odd() -> Iterator[None]:
    try:
        yield
    except (ActionFusionError, ReadingStopped, SeekingFailed):
        raise
    except Exception as error:
        raise SeekingFailed(str(error)) from error


def _decode_stretch(
    container: InputContainer, stream: VideoStream, index: PacketIndex, stretch: range, log: ErrorLog
) -> Generator[VideoFrame, None, None]:
    codec = stream.codec_context
    if stretch.start:
        container.seek(int(index.stamps[stretch.start]), stream=stream)
        codec.reorder_depth = max(codec.reorder_depth, index.delay)  # FFmpeg may start to guess it anew
    given = stretch.start
    with closing(_packets_from(container, stream, index, stretch.start)) as packets:
        for packet in chain(packets, [None]):
            with log.heard():
                pictures = codec.decode(packet)
            if (fault := log.take()) is not None:
                raise SeekingFailed(fault)
            for picture in pictures:
                # A container may call a picture a key frame that is none; the decoder knows.
                if index.rank(picture.pts) != given or picture.is_corrupt:
                    raise SeekingFailed(f"frame {given} was expected, one of time {picture.pts} came")
                if given == stretch.start and not picture.key_frame:
                    raise SeekingFailed(f"frame {given} is no key frame")
                yield picture
                given += 1
                if given == stretch.stop:
                    return
    raise SeekingFailed(f"the stream ended before frame {given}")


def _packets_from(
    container: InputContainer, stream: VideoStream, index: PacketIndex, key: int
) -> Generator[Packet[VideoStream], None, None]:
    """Yield the packets of a key frame and of all that is shown after it."""
    begun = False
    with closing(iterate_packets(container, stream)) as packets:
        for packet in packets:
            rank = index.rank(packet.pts)
            if not begun and index.order[rank] > index.order[key]:
                raise SeekingFailed(f"the container leads past frame {key}")
            begun = begun or rank == key
            # Pictures that follow a key frame and are shown before it may build on those before both.
            if begun and rank >= key:
                yield packet


def _is_ordinary(packet: Packet[VideoStream], codec: str) -> bool:
    """Check whether a packet surely gives the one picture of its time, with the stream's one set of parameters."""
    if packet.pts is None or packet.is_discard or packet.is_corrupt:
        return False
    if packet.has_sidedata("new_extradata") or packet.has_sidedata("param_change"):
        return False
    if codec != "mpeg4":
        return True
    # DivX put two pictures into one packet and none into the next.
    data = bytes(packet)
    return data.count(_VOP_START) == 1 and len(data) - data.find(_VOP_START) - len(_VOP_START) > _LONGEST_EMPTY_VOP


def _is_idr(packet: bytes, setup: bytes) -> bool:
    """Check whether an H.264 packet holds a picture that makes the decoder forget those before it.

    FFmpeg decodes from other key frames too, but reports damage if frames that they discard were never decoded.

    Args:
        packet: units of the network abstraction layer, each after its length: ISO/IEC 14496-15, section 5.3.
        setup: the stream's decoder configuration record, which says how long the lengths are.
    """
    if len(setup) < 5 or setup[0] != 1:  # units between start codes, as in transport streams
        return False
    width = (setup[4] & 3) + 1
    place = 0
    while place + width < len(packet):
        if packet[place + width] & 31 == _IDR_SLICE:
            return True
        place += width + int.from_bytes(packet[place : place + width], "big")
    return False


@dataclass(frozen=True, eq=False)
class _Order:
    """Packets in the order of decoding and in that of presentation.

    Attributes:
        stamps: ``[N]`` presentation times, ascending.
        order: ``[N]`` place in the order of decoding of each of them.
        rank: ``[N]`` the inverse: place in the order of presentation of each packet as it is decoded.
    """

    stamps: npt.NDArray[np.int64]
    order: npt.NDArray[np.int64]
    rank: npt.NDArray[np.int64]

    @classmethod
    def of(cls, stamps: npt.NDArray[np.int64], delay: int) -> _Order | None:
        """Make it from presentation times ``[N]`` in decoding order; None if a decoder may see another order in them.

        Args:
            stamps: presentation times.
            delay: pictures that the decoder keeps back.
        """
        order = np.argsort(stamps, kind="stable")
        places = np.arange(len(order))
        rank = np.empty_like(order)
        rank[order] = places
        ordered = stamps[order]
        if not np.all(np.diff(ordered) > 0) or rank[0] or np.abs(rank - places).max() > _MOST_REORDERED:
            return None
        # Packets that come before one and are shown after it: a decoder that keeps fewer back drops the picture.
        kept_back = np.zeros(len(rank), np.int8)
        for lag in range(1, min(2 * _MOST_REORDERED + 1, len(rank))):
            kept_back[lag:] += rank[:-lag] > rank[lag:]
        return cls(ordered, order, rank) if kept_back.max() <= delay else None

    def key_frames(self, keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Give ranks of the key frames among packets ``[K]`` after which nothing from before them is shown."""
        latest_before = np.maximum.accumulate(np.concatenate(([-1], self.rank)))[keys]
        ranks = self.rank[keys]
        return ranks[latest_before < ranks]
