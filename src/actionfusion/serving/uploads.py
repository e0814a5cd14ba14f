"""A request's body becomes a temporary file of our own naming; nothing that a client says is a path."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from actionfusion.serving.failures import BodyTooLarge, RequestError, WrongContent

_CHUNK = 1 << 20
_MOST_HEADERS = 16
_ONE_PART = "send the video as the raw body, or as one part named file"


class Uploads:
    """Receives videos into a folder.

    Args:
        folder: of this server alone, which goes with it.
        most: bytes of a video.
        header_bytes: of the head of a part.
    """

    def __init__(self, folder: Path, most: int, header_bytes: int) -> None:
        self._folder, self._most, self._header_bytes = folder, most, header_bytes

    @contextmanager
    def place(self) -> Iterator[Path]:
        """Give the path of a new file, which is gone when the block ends, however it ends."""
        path = self._folder / uuid4().hex
        try:
            path.touch(0o600, exist_ok=False)
            yield path
        finally:
            path.unlink(missing_ok=True)

    async def receive(self, receive: Receive, headers: dict[str, str], path: Path) -> None:
        """Write the video of a body into a file, as it comes.

        Args:
            receive: gives the body; it counts all bytes and bounds the time.
            headers: of the request.
            path: of the file.

        Raises:
            RequestError: no video, a form that is none, or one of another shape.
            ClientDisconnect: the client has gone.
        """
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise WrongContent("the body is compressed", "send it as it is")
        kind, options = parse_options_header(headers.get("content-type", ""))
        with path.open("wb", buffering=0) as file:
            sink = _Sink(file, self._most)
            if kind == b"multipart/form-data":
                await self._form(receive, options.get(b"boundary", b""), sink)
            else:
                async for data in _body(receive):
                    await sink.write(data)
            await sink.flush()
        if not sink.count:
            raise RequestError("the body holds no video", _ONE_PART)

    async def _form(self, receive: Receive, boundary: bytes, sink: _Sink) -> None:
        if not 1 <= len(boundary) <= 70:  # RFC 2046, section 5.1.1
            raise RequestError("the form has no proper boundary", _ONE_PART)
        form = _Form(sink, self._header_bytes)
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.part,
                "on_header_field": form.field,
                "on_header_value": form.value,
                "on_header_end": form.header,
                "on_headers_finished": form.headers,
                "on_part_data": form.data,
                "on_end": form.end,
            },
            max_header_count=_MOST_HEADERS,
            max_header_size=self._header_bytes,
        )
        try:
            async for data in _body(receive):
                parser.write(data)
                await sink.flush_if_full()
            parser.finalize()
        except FormParserError as error:
            raise RequestError("the form is not well formed", _ONE_PART) from error
        if not form.is_whole:
            raise RequestError("the form ends before its last part does", "send it again")


class _Sink:
    """Writes in larger pieces, outside the event loop."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self.count = 0
        self._file, self._most = file, most
        self._held = bytearray()

    def add(self, data: bytes | memoryview) -> None:
        self.count += len(data)
        if self.count > self._most:
            raise BodyTooLarge(f"the video has over {self._most} bytes", "send a shorter or smaller one")
        self._held += data

    async def write(self, data: bytes) -> None:
        self.add(data)
        await self.flush_if_full()

    async def flush_if_full(self) -> None:
        if len(self._held) >= _CHUNK:
            await self.flush()

    async def flush(self) -> None:
        if self._held:
            held, self._held = self._held, bytearray()
            await asyncio.to_thread(self._file.write, held)


class _Form:
    """Takes the one part ``file`` of a form."""

    def __init__(self, sink: _Sink, header_bytes: int) -> None:
        self.is_whole = False
        self._sink, self._header_bytes = sink, header_bytes
        self._parts = self._bytes = 0
        self._name, self._value = bytearray(), bytearray()
        self._is_file = False

    def part(self) -> None:
        self._parts += 1
        self._bytes, self._is_file = 0, False
        if self._parts > 1:
            raise RequestError("the form has several parts", _ONE_PART)

    def field(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._name += data[start:end]

    def value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._value += data[start:end]

    def header(self) -> None:
        name, value = bytes(self._name).lower(), bytes(self._value)
        if name == b"content-disposition":
            # The name of the part alone; what the client calls the file is of no account.
            self._is_file = parse_options_header(value)[1].get(b"name") == b"file"
        elif name == b"content-transfer-encoding" and value.lower() not in (b"binary", b"8bit"):
            raise WrongContent("the part is encoded", "send it as it is")
        self._name.clear()
        self._value.clear()

    def headers(self) -> None:
        if not self._is_file:
            raise RequestError("the form's part is not named file", _ONE_PART)

    def data(self, data: bytes, start: int, end: int) -> None:
        self._sink.add(memoryview(data)[start:end])

    def end(self) -> None:
        self.is_whole = True

    def _count(self, more: int) -> None:
        self._bytes += more
        if self._bytes > self._header_bytes:
            raise RequestError("the head of the form's part is too long", _ONE_PART)


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        if body := message.get("body", b""):
            yield body
        if not message.get("more_body", False):
            return
