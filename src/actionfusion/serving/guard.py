"""What stands before every route: access, bounded and timely bodies, safe headers, and no fault that says too much."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actionfusion.errors import ActionFusionError
from actionfusion.serving.access import Access, bearer
from actionfusion.serving.failures import BodyTooLarge, RequestError, SlowSender, fault_of
from actionfusion.serving.limits import ServingLimits
from actionfusion.serving.responses import error_response

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src blob:; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", POLICY.encode()),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
]
# Of a form around the video.
_FORM_BYTES = 1 << 16
_SMALL_BODY = 1 << 16
# What is still read of a body that is refused, so that the client sees the answer before the connection closes.
_DRAINED_BYTES, _DRAINED_SECONDS = 4 << 20, 2.0
_OPEN_ROUTES = ("/", "/openapi.json")
Finished = Callable[[str, int, float], object]


class Guard:
    """Wraps the application.

    Args:
        app: it.
        access: who is answered.
        limits: of the server.
        finished: called with the route, the status and the seconds of each answer.
        failed: called with each error that is answered here.
    """

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        limits: ServingLimits,
        finished: Finished,
        failed: Callable[[ActionFusionError], object],
    ) -> None:
        self._app, self._access, self._limits = app, access, limits
        self._finished, self._failed = finished, failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = _Answer(send)
        body = _Body(receive, scope, self._limits)
        answer.before = body.drain
        began = time.monotonic()
        try:
            try:
                self._check(scope, scope["method"])
                body.check_length()
                await self._app(scope, body.receive, answer.send)
            except ActionFusionError as error:
                await self._refuse(error, answer, scope)
            except ClientDisconnect:
                answer.status = 0
            except Exception as error:  # noqa: BLE001  One request's fault ends no server.
                await self._refuse(fault_of(error), answer, scope)
        finally:
            self._finished(_route(scope), answer.status, time.monotonic() - began)

    async def _refuse(self, error: ActionFusionError, answer: _Answer, scope: Scope) -> None:
        self._failed(error)
        if not answer.status:
            await error_response(error)(scope, _nothing, answer.send)

    def _check(self, scope: Scope, method: str) -> None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > self._limits.header_bytes:
            raise RequestError("the request's head is too long", "send fewer and shorter headers")
        host = self._access.check_host(scope["headers"])
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self._access.check_origin(method, headers, host)
        path = scope["path"]
        wants = path.startswith("/api/") or path == "/metrics"
        if wants and method not in ("OPTIONS", "WEBSOCKET"):  # a browser asks first without a token
            self._access.check_token(bearer(headers.get("authorization")))

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope, "WEBSOCKET")
        except ActionFusionError as error:
            self._failed(error)
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: answered with 403
            return
        try:
            await self._app(scope, receive, send)
        except Exception as error:  # noqa: BLE001
            self._failed(fault_of(error))


class _Answer:
    """Sends an answer with the headers that all have."""

    def __init__(self, send: Send) -> None:
        self.status = 0
        self.before: Callable[[], Any] | None = None
        self._send = send

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = {name.lower() for name, _ in message.get("headers", ())}
            message = {**message, "headers": [*message.get("headers", ()), *(h for h in HEADERS if h[0] not in own)]}
            if self.before is not None and await self.before():
                message["headers"].append((b"connection", b"close"))
        await self._send(message)


class _Body:
    """Counts a body while it comes, and gives up a sender that is too slow."""

    def __init__(self, receive: Receive, scope: Scope, limits: ServingLimits) -> None:
        self._receive, self._limits = receive, limits
        takes_videos = scope["method"] == "POST" and scope["path"].startswith("/api/")
        self._most = limits.bytes + _FORM_BYTES if takes_videos else _SMALL_BODY
        headers = dict(scope["headers"])
        self._length = headers.get(b"content-length")
        self._waits = b"expect" in headers  # for our word, or we have waited long enough
        self._is_whole = self._length in (None, b"0") and b"transfer-encoding" not in headers
        self._count = 0
        self._began = time.monotonic()

    def check_length(self) -> None:
        """Refuse a body that says itself that it is too large."""
        # h11 has refused lengths that are no number.
        if self._length is not None and int(self._length) > self._most:
            raise self._too_large()

    async def receive(self) -> Message:
        if self._is_whole:
            return await self._receive()
        slack = self._limits.pause_seconds
        left = self._began + slack + self._count / self._limits.slowest - time.monotonic()
        try:
            async with asyncio.timeout(min(max(left, 0), slack)):
                message = await self._receive()
        except TimeoutError:
            self._waits = True
            raise SlowSender("the body comes too slowly", "send it over a faster line") from None
        self._waits = False
        self._count += len(message.get("body", b""))
        if self._count > self._most:
            raise self._too_large()
        self._is_whole = not message.get("more_body", False)
        return message

    async def drain(self) -> bool:
        """Read a little of what is still to come, and tell whether more is."""
        if self._waits or self._is_whole:
            return not self._is_whole
        try:
            async with asyncio.timeout(_DRAINED_SECONDS):
                drained = 0
                while drained < _DRAINED_BYTES:
                    message = await self._receive()
                    drained += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        self._is_whole = True
                        return False
        except TimeoutError:
            pass
        return True

    def _too_large(self) -> RequestError:
        return BodyTooLarge(f"the body has over {self._most} bytes", "send a shorter or smaller video")


def _route(scope: Scope) -> str:
    """Name a request's route, by the table and not by what was asked for."""
    return getattr(scope.get("route"), "path", "other")


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
