"""Connections as uvicorn makes them, with a bound on their number and on how long a request's head may take."""

from __future__ import annotations

import asyncio
import json
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

from actionfusion.serving.failures import QueueFull, RequestError, SlowSender, as_json
from actionfusion.serving.limits import ServingLimits


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 of one connection; `bounded` gives its limits."""

    limits: ClassVar[ServingLimits]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Turn a connection away that is one too many, and begin to wait for a request."""
        super().connection_made(transport)
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._is_handed_over = False
        if len(self.connections) > self.limits.connections:
            self._refuse("503 Service Unavailable", QueueFull("too many connections are open", "ask again later"))
            return
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Take data; a head that has begun must be whole in time, however many pieces it comes in."""
        super().data_received(data)
        if self._is_handed_over or (self.cycle is not None and not self.cycle.response_complete):
            self._stop_timer()
        elif self._head_timer is None:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for a client that does not read, but not for long."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.limits.pause_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on, since it reads."""
        self._stop_write_timer()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that nobody uses, also one whose last bytes nobody reads."""
        super().timeout_keep_alive_handler()
        self.loop.call_later(self.limits.pause_seconds, self.transport.abort)

    def handle_websocket_upgrade(self, event: Any) -> None:
        """Hand the connection over."""
        self._is_handed_over = True
        super().handle_websocket_upgrade(event)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Answer what is no HTTP."""
        error = RequestError("the request is no HTTP/1.1, or its head is too long", "see /openapi.json")
        self._refuse("400 Bad Request", error)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.pause_seconds, self._give_up)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _give_up(self) -> None:
        self._head_timer = None
        if self.cycle is None or self.cycle.response_complete:
            self._refuse("408 Request Timeout", SlowSender("the request's head comes too slowly", "send it at once"))

    def _refuse(self, status: str, error: RequestError) -> None:
        self._stop_timer()
        if self.transport.is_closing():
            return
        body = json.dumps(as_json(error)).encode()
        lines = [
            f"HTTP/1.1 {status}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            "connection: close",
            "cache-control: no-store",
            "x-content-type-options: nosniff",
        ]
        if status.startswith("503"):
            lines.append("retry-after: 5")
        self.transport.write("\r\n".join((*lines, "", "")).encode() + body)
        self.transport.close()


def bounded(limits: ServingLimits) -> type[BoundedProtocol]:
    """Make the protocol of a server."""
    return type("Protocol", (BoundedProtocol,), {"limits": limits})
