"""What stands before every request: the key, the size, the host; and the count of answers."""

import hmac
import time
from collections.abc import MutableMapping
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hypersteer.config.serving import ServeConfig
from hypersteer.serving.errors import Refused, body_of
from hypersteer.serving.metrics import Metrics

OPEN = ("/health",)
"""Paths that need no key, for what only asks whether the server lives."""
PAGES = ("/ui", "/favicon.ico")
"""Paths of the page: it holds nothing of worth, and asks for the key itself."""
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
FILES = "/file"
"""End of the paths that take the file of an edit."""
FILE_FACTOR = 10
"""Such files may be so many times as large as other requests."""


class Guard:
    """An ASGI application around another.

    Args:
        app: what is guarded.
        config: limits.
        metrics: what is counted.
        key: what clients must send; empty for none.
    """

    def __init__(self, app: ASGIApp, config: ServeConfig, metrics: Metrics, key: str) -> None:
        self._app, self._config, self._metrics = app, config, metrics
        self._key = key.encode()
        self._local = config.host in ("127.0.0.1", "localhost", "::1")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.monotonic(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        async def sending_unless_cut(message: Message) -> None:
            if not limited.over:  # else what is said of a body that was cut off means nothing
                await sending(message)

        limited = _Limited(receive, self._limit(scope["path"]))
        try:
            self._check(scope)
            await self._app(scope, limited, sending_unless_cut)
            if limited.over:
                raise _too_large(self._limit(scope["path"]))
        except Refused as error:
            response = JSONResponse(body_of(error), error.status, error.headers)
            await response(scope, receive, sending)
        finally:
            route = scope.get("route")
            path = getattr(route, "path", "other")
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.whole.observe(time.monotonic() - begun)

    def _check(self, scope: Scope) -> None:
        """Refuse a request without the key, from a page elsewhere, or that says to be too large."""
        headers = {name.lower(): value for name, value in scope["headers"]}
        path = scope["path"]
        self._check_host(headers)
        free = path in OPEN or path.startswith(PAGES) or scope["method"] == "OPTIONS"
        if self._key and not free:
            given = headers.get(b"authorization", b"")
            token = given[7:] if given[:7].lower() == b"bearer " else b""
            if not hmac.compare_digest(token, self._key):
                raise Refused(
                    "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'",
                    401,
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > self._limit(path):
            raise _too_large(self._limit(path))

    def _check_host(self, headers: MutableMapping[bytes, bytes]) -> None:
        """Refuse names that are not this machine's where only it may ask (DNS rebinding)."""
        if not self._local:
            return
        host = headers.get(b"host", b"").decode("latin-1")
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if name.lower() not in LOOPBACK:
            raise Refused(
                f"this server answers to {', '.join(LOOPBACK)} only, not to '{host[:80]}'; start "
                "it with --host to serve others",
                403,
                code="foreign_host",
            )

    def _limit(self, path: str) -> int:
        return self._config.max_body_bytes * (FILE_FACTOR if path.endswith(FILES) else 1)


class _Limited:
    """Passes what is received on, up to a number of bytes.

    Attributes:
        over: whether there were more.
    """

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self._limit, self._taken = receive, limit, 0
        self.over = False

    async def __call__(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        self._taken += len(message.get("body", b""))
        if self._taken > self._limit:
            self.over = True
            raise _too_large(self._limit)
        return message


def _too_large(limit: int) -> Refused:
    return Refused(
        f"the request is larger than {limit:,} bytes; send less, or start the server with a larger "
        "--max-body-bytes",
        413,
        code="request_too_large",
    )
