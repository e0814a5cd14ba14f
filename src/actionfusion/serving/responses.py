"""Answers that take a while: what was sent goes when the answer has, and the work ends when the client does."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from actionfusion.errors import ActionFusionError
from actionfusion.serving.answers import Tell
from actionfusion.serving.failures import Ending, as_json, fault_of, status_of

LINES = "application/x-ndjson"


class WorkResponse(Response):
    """Does the work of a request, and answers it at once or line by line.

    Args:
        work: makes the answer; what it tells on the way is a line each.
        held: what the request holds; closed at the end.
        lines: whether to answer line by line.
        cut: set when the server can wait no longer.
        failed: told of the error that the work ended in.
    """

    def __init__(
        self,
        work: Callable[[Tell], Awaitable[Response]],
        held: AsyncExitStack,
        *,
        lines: bool,
        cut: asyncio.Event,
        failed: Callable[[ActionFusionError], object],
    ) -> None:
        super().__init__()
        self._work, self._held, self._lines, self._cut, self._failed = work, held, lines, cut, failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, unless the client goes before that."""
        told: asyncio.Queue[Mapping[str, Any] | None] = asyncio.Queue()
        work = asyncio.ensure_future(self._do(told.put_nowait))
        gone, cut = asyncio.ensure_future(_until_gone(receive)), asyncio.ensure_future(self._cut.wait())
        work.add_done_callback(lambda _: told.put_nowait(None))
        for end in (gone, cut):
            end.add_done_callback(lambda _: work.cancel())
        try:
            if self._lines:
                await self._send_lines(send, told, work, gone)
            else:
                await asyncio.wait([work])
                if not gone.done():
                    await _answer(work, self._failed)[0](scope, receive, send)
        finally:
            for task in (work, gone, cut):
                task.cancel()
            await asyncio.gather(work, gone, cut, return_exceptions=True)
            await self._held.aclose()

    async def _do(self, tell: Tell) -> Response:
        async with self._held:  # what was sent is gone before the answer is
            return await self._work(tell)

    async def _send_lines(
        self,
        send: Send,
        told: asyncio.Queue[Mapping[str, Any] | None],
        work: asyncio.Future[Response],
        gone: asyncio.Future[None],
    ) -> None:
        headers = [(b"content-type", LINES.encode()), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while (line := await told.get()) is not None:
            await send({"type": "http.response.body", "body": _line(line), "more_body": True})
        if gone.done():
            return
        last = _answer(work, self._failed)[1]
        await send({"type": "http.response.body", "body": _line(last), "more_body": False})


def _answer(
    work: asyncio.Future[Response], failed: Callable[[ActionFusionError], object]
) -> tuple[Response, Mapping[str, Any]]:
    """Give the answer of finished work, as a response and as a last line."""
    if work.cancelled():
        error: BaseException | None = Ending("the server is about to end", "ask again in a minute", retry_after=60)
    else:
        error = work.exception()
    if error is not None:
        answered = error if isinstance(error, ActionFusionError) else fault_of(error)
        failed(answered)
        return error_response(answered), as_json(answered)
    response = work.result()
    body = bytes(response.body)
    if isinstance(response, JSONResponse):
        return response, {"result": json.loads(body)}
    if response.media_type == "image/png":
        return response, {"result": {"image": f"data:image/png;base64,{base64.b64encode(body).decode()}"}}
    return response, {"result": body.decode()}


def error_response(error: ActionFusionError) -> JSONResponse:
    """Answer with an error."""
    after = getattr(error, "retry_after", None)
    headers = {} if after is None else {"retry-after": str(after)}
    if error.kind == "token":
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(as_json(error), status_of(error), headers)


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
