"""Change bytes of a file at random, as disks, networks and strangers do."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

_EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63, 2**64 - 1)
_WORDS = (
    b"null", b"true", b"NaN", b"Infinity", b"1e999", b"-1", b"0", b"1e-300", b"99999999999999999999", b'""', b"[]",
    b"{}", b"'", b'"', b",", b"\n", b"\r", b"\0", b"\x1b[31m", b"=1+1", b"../../etc/passwd", b"/dev/zero", b"\xff\xfe",
    b"&a *a", b"!!python/name:os.system", "\u2028".encode(), b"[" * 2000, b"1" * 5000, b"class_path: os.X", b"<script>",
)  # fmt: skip


def mutate(data: bytes, chance: random.Random, *, text: bool) -> bytes:
    """Change a file in one to four places, or leave its end out.

    Args:
        data: the file.
        chance: decides; the same state makes the same file.
        text: whether words of a text are put in too.
    """
    changes = (*_CHANGES, *(_TEXT_CHANGES * 2 if text else ()))
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        if data:
            data = chance.choice(changes)(data, chance)
    return data


def _bits(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8, 32))):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _head_bits(data: bytes, chance: random.Random) -> bytes:
    place = min(chance.choice((64, 512, 4096)), len(data))
    return _bits(data[:place], chance) + data[place:]


def _number(data: bytes, chance: random.Random) -> bytes:
    """Write an extreme number where a header may have one."""
    width, order = chance.choice((1, 2, 4, 8)), chance.choice(("little", "big"))
    place = chance.randrange(min(len(data), chance.choice((64, 512, 4096, len(data)))))
    number = chance.choice(_EXTREMES) & (1 << 8 * width) - 1
    return data[:place] + number.to_bytes(width, order) + data[place + width :]


def _overwrite(data: bytes, chance: random.Random) -> bytes:
    place, length = chance.randrange(len(data)), chance.choice((4, 16, 100, 1000))
    fill = chance.choice((bytes(length), b"\xff" * length, chance.randbytes(length)))
    return (data[:place] + fill + data[place + length :])[: len(data)]


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def _swap(data: bytes, chance: random.Random) -> bytes:
    """Exchange two pieces; of a container often two of its blocks."""
    first, middle, last, end = sorted(chance.choices(_places(data, chance), k=4))
    return data[:first] + data[middle:last] + data[first:middle] + data[last:end] + data[end:]


def _repeat(data: bytes, chance: random.Random) -> bytes:
    start, end = sorted(chance.choices(_places(data, chance), k=2))
    return data[:end] + data[start:end] * chance.choice((1, 1, 2, 20)) + data[end:]


def _leave_out(data: bytes, chance: random.Random) -> bytes:
    start, end = sorted(chance.choices(_places(data, chance), k=2))
    return data[:start] + data[end:]


_STARTS = (
    b"moov",
    b"mdat",
    b"trak",
    b"stbl",
    b"moof",
    b"LIST",
    b"00dc",
    b"idx1",
    b"OggS",
    b"\x1f\x43\xb6\x75",
    b"\xa3",
)
_STARTS += (b"\0\0\1", b"\x47", b"fcTL", b"IDAT", b"\x2c", b"\x21", b"\n", b",", b"{", b"rgb/", b"PK")


def _places(data: bytes, chance: random.Random) -> Sequence[int]:
    """Find places where a block may begin: after one kind of mark, or anywhere."""
    mark = chance.choice(_STARTS)
    found, place = [], data.find(mark)
    while place >= 0 and len(found) < 64:
        found.append(place)
        place = data.find(mark, place + 1)
    return found if len(found) > 3 else [chance.randrange(len(data) + 1) for _ in range(4)]


def _word(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data) + 1)
    return data[:place] + chance.choice(_WORDS) + data[place + chance.choice((0, 0, 1, 5)) :]


def _value(data: bytes, chance: random.Random) -> bytes:
    """Put a word in the place of a value, between separators."""
    ends = [place for place, byte in enumerate(data[:100_000]) if byte in b":,\n[ "]
    if len(ends) < 2:
        return _word(data, chance)
    place = chance.randrange(len(ends) - 1)
    return data[: ends[place] + 1] + chance.choice(_WORDS) + data[ends[place + 1] :]


Change = Callable[[bytes, random.Random], bytes]
_CHANGES: tuple[Change, ...] = (
    _bits,
    _bits,
    _head_bits,
    _number,
    _number,
    _overwrite,
    _cut,
    _swap,
    _repeat,
    _leave_out,
)
_TEXT_CHANGES: tuple[Change, ...] = (_word, _value)
