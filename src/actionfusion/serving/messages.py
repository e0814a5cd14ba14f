"""What the server and its decoding processes say to each other: a short JSON object, and arrays as plain bytes.

Nothing is pickled: a decoder that a video has taken over can send wrong pictures, and no code.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from actionfusion.errors import VideoError
from actionfusion.settings import parse_json
from actionfusion.video.clip import LARGEST_CLIP

Array = npt.NDArray[Any]

LENGTH = struct.Struct("<I")
LARGEST_HEADER = 1 << 16
_TYPES = {"u1": np.uint8, "i8": np.int64, "f8": np.float64}
_DEEPEST = 4


class BrokenMessage(Exception):
    """Bytes that are no message; who sent them is not trusted any more."""


def packed(header: Mapping[str, Any], arrays: Mapping[str, Array] | None = None) -> Iterator[bytes | memoryview]:
    """Give the parts of a message to be sent one after the other."""
    arrays = {name: np.ascontiguousarray(array) for name, array in (arrays or {}).items()}
    shapes = {name: [array.dtype.str[1:], *array.shape] for name, array in arrays.items()}
    head = json.dumps({**header, "arrays": shapes}).encode()
    yield LENGTH.pack(len(head)) + head
    for array in arrays.values():
        if array.size:
            yield memoryview(array).cast("B")  # type: ignore[arg-type]


def read_header(head: bytes) -> dict[str, Any]:
    """Parse the JSON object of a message.

    Raises:
        BrokenMessage: it is none.
    """
    try:
        value = parse_json(head, "message", VideoError, largest=LARGEST_HEADER)
    except VideoError as error:
        raise BrokenMessage(error.reason) from error
    if not isinstance(value, dict):
        raise BrokenMessage("no object")
    return value


def array_sizes(header: Mapping[str, Any]) -> dict[str, tuple[type[Any], tuple[int, ...], int]]:
    """Read the type, the shape and the bytes of each array that follows a header.

    Raises:
        BrokenMessage: arrays that there are not, or larger than any clip.
    """
    sizes: dict[str, tuple[type[Any], tuple[int, ...], int]] = {}
    given = header.get("arrays", {})
    if not isinstance(given, dict):
        raise BrokenMessage("no arrays")
    for name, value in given.items():
        kind, shape = (value[0], value[1:]) if isinstance(value, list) and value else (None, [])
        if kind not in _TYPES or len(shape) > _DEEPEST or not all(type(n) is int and 0 <= n < 2**31 for n in shape):
            raise BrokenMessage("no array")
        sizes[name] = _TYPES[kind], tuple(shape), math.prod(shape) * int(kind[1])
    if sum(size for _, _, size in sizes.values()) > LARGEST_CLIP:
        raise BrokenMessage("arrays that are larger than any clip")
    return sizes


def as_array(data: bytes, kind: type[Any], shape: Sequence[int]) -> Array:
    """Make an array of its bytes, which can be written, as PyTorch wants."""
    return np.frombuffer(bytearray(data), kind).reshape(shape)
