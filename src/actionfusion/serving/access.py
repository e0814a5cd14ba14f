"""Who is answered: by the host that a request names, the page that it comes from, and the token that it brings."""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from urllib.parse import urlsplit

from actionfusion.errors import SettingsError
from actionfusion.serving.failures import Forbidden, RequestError, TokenWanted

SHORTEST_TOKEN = 16
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class Access:
    """Decides about requests.

    Args:
        host: address that the server is bound to.
        token: that is wanted; none on loopback alone.
        hosts: further names by which the server is reached.
        origins: pages of others that may ask, such as ``https://example.org``.

    Raises:
        SettingsError: an address that others can reach and no token; a token that is too short; an origin that is none.
    """

    def __init__(self, host: str, token: str | None, hosts: Sequence[str], origins: Sequence[str]) -> None:
        self.is_local = is_loopback(host)
        if token is None and not self.is_local:
            reason = f"{host} can be reached by others, and no token is set"
            raise SettingsError("--token", reason, "set ACTIONFUSION_TOKEN to a long random text, or take 127.0.0.1")
        if token is not None and (len(token) < SHORTEST_TOKEN or not _TOKEN.fullmatch(token)):
            reason = f"a token has {SHORTEST_TOKEN} letters, digits or ._~+/=- at least"
            raise SettingsError("--token", reason, "make one with `openssl rand -hex 32`")
        for origin in origins:
            parts = urlsplit(origin)
            if parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}":
                raise SettingsError("--cors_origins", f"{origin} is no origin", "write https://example.org")
        self.origins = frozenset(origins)
        self._digest = None if token is None else sha256(token.encode()).digest()
        self._hosts = {name.lower().strip("[]") for name in (*hosts, host)} | {"localhost"}

    @property
    def wants_token(self) -> bool:
        """Whether a token is wanted."""
        return self._digest is not None

    def check_host(self, headers: Sequence[tuple[bytes, bytes]]) -> str:
        """Return the one host that a request names, if the server answers to it.

        Names that anybody can lead to this address (DNS rebinding) are refused; an address is nobody's name.

        Raises:
            RequestError: no host, several, or one that is none.
            Forbidden: another one.
        """
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        found = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if found is None:
            raise RequestError("the request names no proper host", "send one Host header")
        name = found[1].lower().strip("[]")
        if name in self._hosts or is_loopback(name) or (not self.is_local and _is_address(name)):
            return hosts[0].lower()
        raise Forbidden("the server does not answer to this host", "name it with --allowed_hosts at the start")

    def check_origin(self, method: str, headers: Mapping[str, str], host: str) -> None:
        """Refuse what another page has a browser send; without a browser there is no origin.

        Args:
            method: of the request; WEBSOCKET of a WebSocket.
            headers: of the request.
            host: that it names.

        Raises:
            Forbidden: it comes from a page that is neither the server's own nor listed.
        """
        if method in _SAFE:
            return
        origin = headers.get("origin")
        if origin is None:
            if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
                return
        elif origin in self.origins or origin.lower() in (f"http://{host}", f"https://{host}"):
            return
        raise Forbidden("the request comes from a page of another origin", "list it with --cors_origins at the start")

    def check_token(self, given: str | None) -> None:
        """Compare a token, in a time that says nothing of it.

        Raises:
            TokenWanted: it is another one, or none.
        """
        if self._digest is None:
            return
        if given is None or not hmac.compare_digest(sha256(given.encode()).digest(), self._digest):
            raise TokenWanted("the token is missing or wrong", "send it as `Authorization: Bearer TOKEN`")


def bearer(header: str | None) -> str | None:
    """Take the token out of an ``Authorization`` header."""
    scheme, _, token = (header or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
