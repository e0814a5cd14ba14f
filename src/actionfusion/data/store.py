"""Write and read the prepared store: each video as a zip file of JPEGs, all frames and flow at the network's size.

``<store>/<relative path of the video>.zip`` holds, uncompressed and each with a CRC-32, in the order of decoding::

    rgb/00000000.jpg    frame 0                         (JPEG, colour)
    rgb/00000001.jpg    frame 1
    flow/0000000.jpg    flow from frame 0 to frame 1    (JPEG, grey: the codes of u above those of v)
    rgb/00000002.jpg    ...
    clip.json           format, recipe, number of frames, times, source, JPEG quality

Any zip tool opens it.  The same video gives the same bytes.  All N frames and N - 1 flow frames are there, so that
clips of any T, L and interval can be cut.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Self, overload

import cv2
import numpy as np
import numpy.typing as npt

from actionfusion.errors import DatasetError, NoFrames, SettingsError, VideoError
from actionfusion.settings import build_each, parse_json
from actionfusion.storage import AnyPath, PathLike, local_copy, open_end_first, read_ranges, to_path
from actionfusion.video.clip import ClipSettings
from actionfusion.video.flow import LARGEST_SIZE, FlowRecipe, encoded_field, grey_picture
from actionfusion.video.pictures import resized
from actionfusion.video.still_pictures import decode_picture, picture_size

if TYPE_CHECKING:  # Reading a store needs no decoder.
    from actionfusion.video.reading import Frame

UInt8Array = npt.NDArray[np.uint8]

FORMAT = 2
SUFFIX = ".zip"
DEFAULT_QUALITY = 95
_INDEX_NAME = "clip.json"
_LONGEST_NAME = 255
# OpenCV would halve the colour's resolution; on a picture that has just been scaled down that shows.
_FULL_COLOUR = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
_PREPARE_AGAIN = "run prepare again, which makes it anew"


@dataclass(frozen=True)
class Contents:
    """What an entry holds of a video.

    Args:
        flow: engine, bound and size of the flow.
        frame_size: height and width of the frames in pixels.
        has_flow: whether flow is there at all; without it none is computed.
    """

    flow: FlowRecipe
    frame_size: int
    has_flow: bool = True

    @classmethod
    def of_clip(cls, clip: ClipSettings) -> Self:
        """Return what such clips are cut from."""
        return cls(clip.flow, clip.frame_size, clip.reads_flow)

    @classmethod
    def of_flow(cls, recipe: FlowRecipe) -> Self:
        """Return this flow, and frames of the flow's size."""
        return cls(recipe, recipe.size)

    @property
    def decoded_size(self) -> int:
        """Height and width that videos are decoded at."""
        return max(self.frame_size, self.flow.size) if self.has_flow else self.frame_size

    def __str__(self) -> str:
        return f"frames of {self.frame_size} px, {f'flow by {self.flow}' if self.has_flow else 'no flow'}"


@dataclass(frozen=True)
class SourceIdentity:
    """The source file of an entry.

    Args:
        name: the video's path within its data set, with forward slashes.
        size: bytes.
        sha256: of its bytes, as hexadecimal digits.
    """

    name: str
    size: int
    sha256: str


# What is read of clip.json beside its format and the times, which NumPy looks at: there may be many.
_INDEX: Mapping[str, Any] = {
    "recipe": FlowRecipe,
    "frame_size": int,
    "has_flow": bool,
    "frames": int,
    "source": SourceIdentity,
    "quality": int,
}
_LARGEST_INDEX = 64 << 20


@overload
def entry_path(store: Path, name: str, suffix: str = SUFFIX) -> Path: ...
@overload
def entry_path(store: AnyPath, name: str, suffix: str = SUFFIX) -> AnyPath: ...
def entry_path(store: AnyPath, name: str, suffix: str = SUFFIX) -> AnyPath:
    """Give the path of a video in the store.

    Args:
        store: the store's folder.
        name: the video's path within its data set, with forward slashes.
        suffix: of the entry.

    Returns:
        ``store / (name + suffix)``; a file name that would get too long for file systems is cut and a hash of it
        added.

    Raises:
        DatasetError: the name would leave the store.
    """
    relative = PurePosixPath(name)
    if not relative.name or relative.is_absolute() or ".." in relative.parts or "\0" in name:
        raise DatasetError(repr(name), "no path within a data set", "give it relative to the data set's folder")
    file_name = relative.name + suffix
    encoded = file_name.encode("utf-8", "surrogateescape")
    if len(encoded) > _LONGEST_NAME:
        digest = hashlib.sha256(encoded).hexdigest()[:16]
        file_name = encoded[:200].decode("utf-8", "ignore") + "~" + digest + suffix
    return store / relative.with_name(file_name)


def refuse_foreign_entry(path: AnyPath) -> None:
    """Refuse to replace a file that has an entry's name and begins as none does; what cannot be read passes.

    Raises:
        DatasetError: it does.
    """
    first = _frame_name(0).encode()
    start = b""
    with suppress(OSError):
        if path.exists():
            with closing(read_ranges(path, [0], [_LOCAL_HEADER_LENGTH + len(first)])) as parts:
                start = next(parts)
    if start and not (start.startswith(b"PK\3\4") and start.endswith(first)):
        raise DatasetError(path, "is there already, and is no entry of a store", "choose another store, or move it")


def check_quality(quality: int) -> None:
    """Raise SettingsError unless it is a JPEG quality."""
    if not 1 <= quality <= 100:
        raise SettingsError("store.quality", f"{quality} is no JPEG quality", "95 is a good one, 100 the highest")


def write_stored_video(
    stream: IO[bytes], frames: Iterable[Frame], contents: Contents, source: SourceIdentity, quality: int
) -> int:
    """Compute the flow of a video and write the whole entry, holding two frames at a time.

    Args:
        stream: an empty file that can seek.
        frames: all frames in order, images ``[size, size, 3]`` RGB of ``contents.decoded_size``.
        contents: what is written of them.
        source: what the frames come from.
        quality: JPEG quality of frames and flow, 1..100.

    Returns:
        Number of frames.

    Raises:
        NoFrames: ``frames`` is empty.
        OSError: the stream cannot be written.
    """
    recipe = contents.flow
    times: list[float] = []
    last_grey: UInt8Array | None = None
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for number, frame in enumerate(frames):
            bgr = cv2.cvtColor(resized(frame.image, contents.frame_size), cv2.COLOR_RGB2BGR)
            archive.writestr(_zip_info(_frame_name(number)), _jpeg(bgr, quality))
            times.append(float(frame.time))
            if not contents.has_flow:
                continue
            grey = grey_picture(resized(frame.image, recipe.size), recipe.size)
            if last_grey is not None:
                codes = encoded_field(last_grey, grey, recipe)
                planes = np.concatenate((codes[..., 0], codes[..., 1]))
                archive.writestr(_zip_info(_flow_name(number - 1)), _jpeg(planes, quality))
            last_grey = grey
        if not times:
            raise NoFrames(source.name, "not one frame in it", "leave it out")
        index = {
            "format": FORMAT,
            "recipe": asdict(recipe),
            "frame_size": contents.frame_size,
            "has_flow": contents.has_flow,
            "quality": quality,
            "source": asdict(source),
            "frames": len(times),
            "times": times,
        }
        archive.writestr(_zip_info(_INDEX_NAME), json.dumps(index))
    return len(times)


def _frame_name(number: int) -> str:
    return f"rgb/{number:08d}.jpg"


def _flow_name(start: int) -> str:
    return f"flow/{start:07d}.jpg"


def _zip_info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)  # dated 1980, whenever it is made
    info.create_system = 3
    info.external_attr = 0o644 << 16
    return info


def _jpeg(picture: npt.NDArray[Any], quality: int) -> bytes:
    done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality, *_FULL_COLOUR])
    assert done
    return data.tobytes()


class StoredVideo:
    """A video in the prepared store; a ``ClipSource``.

    Only the chosen frames are read, also from a remote file.  Every picture is checked against its checksum.

    Args:
        path: the entry, as ``entry_path`` gives it, or its address.

    Raises:
        DatasetError: no such entry, a damaged one, or one of a newer format.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = to_path(path)
        try:
            with open_end_first(self.path) as (size, read):
                self._pictures, index = _read_directory(size, read)
            self._take(parse_json(index, self.path, largest=_LARGEST_INDEX))
        except DatasetError:
            raise
        except FileNotFoundError:
            raise DatasetError(self.path, "not in the prepared store", "run prepare for it") from None
        except OSError as error:
            raise self._unreadable(error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise self._fault("no whole entry of a prepared store") from error

    def _take(self, index: dict[str, Any]) -> None:
        if index["format"] == 1:  # of version 0.1, always with flow
            index = {"frame_size": index["recipe"]["size"], "has_flow": True} | index | {"format": FORMAT}
        if index["format"] != FORMAT:
            reason = f"an entry of format {index['format']!r:.20}, where this version reads 1 to {FORMAT}"
            raise DatasetError(self.path, reason, "prepare it with this version")
        known = build_each(_INDEX, {name: index[name] for name in _INDEX}, self.path)
        if not 1 <= known["frame_size"] <= LARGEST_SIZE:
            raise ValueError("no size of frames")
        self.contents = Contents(known["recipe"], known["frame_size"], known["has_flow"])
        self._num_frames: int = known["frames"]
        self.source: SourceIdentity = known["source"]
        self.quality: int = known["quality"]
        self.times: npt.NDArray[np.float64] = np.asarray(index["times"], np.float64)
        if self.times.ndim != 1 or not np.isfinite(self.times).all():
            raise ValueError("times are no list of numbers")
        if (np.diff(self.times) < 0).any():
            raise ValueError("times decrease")
        pictures = 2 * self._num_frames - 1 if self.contents.has_flow else self._num_frames
        if self._num_frames < 1 or len(self.times) != self._num_frames or len(self._pictures.sizes) != pictures:
            raise ValueError("numbers of pictures, times and frames differ")

    def _fault(self, reason: str) -> DatasetError:
        return DatasetError(self.path, reason, _PREPARE_AGAIN)

    def _unreadable(self, error: OSError) -> DatasetError:
        remedy = _PREPARE_AGAIN if isinstance(self.path, Path) else "check the connection and your rights"
        return DatasetError(self.path, f"cannot be read ({error.strerror or error})", remedy)

    @property
    def recipe(self) -> FlowRecipe:
        """The recipe of the stored flow."""
        return self.contents.flow

    @property
    def frame_size(self) -> int:
        """Height and width of the stored frames."""
        return self.contents.frame_size

    @property
    def num_frames(self) -> int:
        """Frames stored, at least 1."""
        return self._num_frames

    def read(
        self, frames: Sequence[int], fields: Sequence[int]
    ) -> tuple[UInt8Array, UInt8Array, npt.NDArray[np.float64]]:
        """Read pictures and flow; see ``ClipSource.read``.

        Raises:
            DatasetError: a picture is damaged, the file has gone, or flow is wanted and was not prepared.
            IndexError: a frame or flow frame that the video does not have.
        """
        if fields and not self.contents.has_flow:
            raise DatasetError(self.path, "was prepared without flow", "run prepare with a recipe that reads flow")
        side, size = self.contents.frame_size, self.contents.flow.size
        rgb = np.empty((len(frames), side, side, 3), np.uint8)
        flow = np.empty((len(fields), size, size, 2), np.uint8)
        rows = [*map(self._frame_row, frames), *map(self._flow_row, fields)]
        starts, sizes = ([int(column[row]) for row in rows] for column in (self._pictures.starts, self._pictures.sizes))
        try:
            with closing(read_ranges(self.path, starts, sizes)) as parts:
                for at, number in enumerate(frames):
                    bgr = self._picture(next(parts), rows[at], _frame_name(number), (side, side, 3))
                    cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=rgb[at])
                for at, start in enumerate(fields):
                    planes = self._picture(next(parts), rows[len(frames) + at], _flow_name(start), (2 * size, size))
                    cv2.merge((planes[:size], planes[size:]), dst=flow[at])
        except OSError as error:
            raise self._unreadable(error) from error
        return rgb, flow, self.times[list(frames)]

    def _frame_row(self, number: int) -> int:
        if not 0 <= number < self._num_frames:
            raise IndexError(f"frame {number} of {self._num_frames}")
        return max(2 * number - 1, 0) if self.contents.has_flow else number

    def _flow_row(self, start: int) -> int:
        if not 0 <= start < self._num_frames - 1:
            raise IndexError(f"flow frame {start} of {self._num_frames - 1}")
        return 2 * start + 2

    def _picture(self, data: bytes, row: int, name: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """Decode the picture of a row of the directory, if its name, checksum and shape are as expected."""
        pictures = self._pictures
        if pictures.names[row] == name.encode() and zlib.crc32(data) == pictures.checksums[row]:
            flags = cv2.IMREAD_COLOR if len(shape) == 3 else cv2.IMREAD_GRAYSCALE
            if picture_size(data) == (shape[1], shape[0]):
                with suppress(VideoError):
                    picture = decode_picture(data, name, flags)
                    if picture.shape == shape:
                        return picture
        raise self._fault(f"{name} in it is damaged")

    def verify(self) -> None:
        """Read the whole entry and check every part against its checksum.

        Raises:
            DatasetError: something in it is damaged.
        """
        try:
            with local_copy(self.path) as path, zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
        except VideoError as error:
            raise self._fault(error.reason) from error
        except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
            raise self._fault(f"damaged ({error})") from error
        if damaged:
            raise self._fault(f"{damaged} in it is damaged")


# zipfile writes entries but does not read them: it builds an object for each of the 2N - 1 pictures of a file that it
# opens.  All records have one length, so that NumPy reads them as a table.  With zipfile instead, clips/s of 67-frame
# videos fell to 0.73 of it at 64 pixels (T 8, L 2), 0.94 at 112 (T 16, L 4) and 1.00 at 224 (T 17, L 4), CPU time.
_PICTURE_NAME_LENGTH = len(_frame_name(0))
_RECORD = [
    ("signature", "S4"),
    ("versions_flags", "<u2", 3),
    ("method", "<u2"),
    ("time_date", "<u2", 2),
    ("checksum", "<u4"),
    ("stored_size", "<u4"),
    ("size", "<u4"),
    ("name_length", "<u2"),
    ("extra_length", "<u2"),
    ("comment_disk_attributes", "<u2", 5),
    ("offset", "<u4"),
    ("name", f"S{_PICTURE_NAME_LENGTH}"),
]
_SHORT = np.dtype(_RECORD)
# Beyond 2 GiB into the file, zipfile adds a zip64 field to a record.
_EXTRA_LENGTH = 12
_LONG = np.dtype([*_RECORD, ("extra", f"V{_EXTRA_LENGTH}")])
_INDEX_RECORD_LENGTH = _SHORT.itemsize - _PICTURE_NAME_LENGTH + len(_INDEX_NAME)
_LOCAL_HEADER_LENGTH = 30
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_LENGTH = 20
_END_LENGTH = _END64.size + _LOCATOR_LENGTH + _END.size


@dataclass(frozen=True)
class _Pictures:
    """Positions of the pictures in the file, in its order: ``[2N - 1]`` names, first bytes, sizes, CRC-32."""

    names: npt.NDArray[np.bytes_]
    starts: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    checksums: npt.NDArray[np.uint32]


def _read_directory(file_size: int, read: Callable[[int, int], bytes]) -> tuple[_Pictures, bytes]:
    """Find the pictures and read ``clip.json``.

    Args:
        file_size: bytes of the file.
        read: reads from a first byte to before an end.

    Raises:
        ValueError: the file is not what ``write_stored_video`` writes.
    """
    count, length, start = _read_end(read(max(file_size - _END_LENGTH, 0), file_size), file_size)
    directory = read(start, start + length)
    extended, odd = divmod(length - (count - 1) * _SHORT.itemsize - _INDEX_RECORD_LENGTH, _EXTRA_LENGTH)
    if odd or not 0 <= extended <= count or len(directory) != length or count < 2:
        raise ValueError("not a directory of one frame, flow, frame, ...")
    # clip.json is the last record, so it is the first to get the zip64 field.
    num_long = max(extended - 1, 0)
    num_short = count - 1 - num_long
    pictures = _pictures(
        np.frombuffer(directory, _SHORT, num_short),
        np.frombuffer(directory, _LONG, num_long, num_short * _SHORT.itemsize),
    )
    index_start = int(pictures.starts[-1] + pictures.sizes[-1]) + _LOCAL_HEADER_LENGTH + len(_INDEX_NAME)
    index = read(index_start, start)
    record = directory[num_short * _SHORT.itemsize + num_long * _LONG.itemsize :]
    if zlib.crc32(index) != int.from_bytes(record[16:20], "little"):
        raise ValueError("clip.json is damaged")
    return pictures, index


def _pictures(*parts: npt.NDArray[np.void]) -> _Pictures:
    def column(name: str) -> npt.NDArray[Any]:
        return np.concatenate([part[name] for part in parts])

    if np.any(column("name_length") != _PICTURE_NAME_LENGTH) or np.any(column("method") != zipfile.ZIP_STORED):
        raise ValueError("not written by prepare")
    sizes = column("size").astype(np.int64)
    ends = np.cumsum(sizes + (_LOCAL_HEADER_LENGTH + _PICTURE_NAME_LENGTH))
    return _Pictures(column("name"), ends - sizes, sizes, column("checksum"))


def _read_end(tail: bytes, file_size: int) -> tuple[int, int, int]:
    """Take the number of records, the bytes and the first byte of the directory from the end of the file."""
    tail = tail.rjust(_END_LENGTH, b"\0")
    if tail.startswith(b"PK\6\6") and tail[_END64.size :].startswith(b"PK\6\7"):
        *_, count, size, start = _END64.unpack_from(tail)
    else:
        signature, *_, count, size, start, _ = _END.unpack_from(tail, _END_LENGTH - _END.size)
        if signature != b"PK\5\6":
            raise ValueError("no end record: cut off, or no zip file")
    if start + size > file_size:
        raise ValueError("its directory reaches over its end")
    return count, size, start
