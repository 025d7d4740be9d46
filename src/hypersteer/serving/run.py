"""Start a server and let it run until it is told to stop."""

import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from hypersteer.config.serving import ServeConfig
from hypersteer.errors import ConfigError
from hypersteer.serving.app import new_app
from hypersteer.serving.metrics import Metrics
from hypersteer.serving.served import known_of, open_models


def serve(
    config: ServeConfig,
    *,
    lm: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    ready: Callable[[str], Any] = print,
) -> None:
    """Serve until interrupted; answers that run are finished first.

    Args:
        config: what is served, and its limits.
        lm: base LM to use in place of the checkpoints' own.
        device: where to load base LMs.
        dtype: of the base LMs.
        ready: called with the server's address once it answers.

    Raises:
        SteeringError: if something cannot be loaded, or the address is taken; before a model loads.
    """
    key = config.api_key()
    known = known_of(config)
    listening = _listen(config)
    with listening:
        metrics = Metrics()
        served = open_models(config, metrics, lm=lm, device=device, dtype=dtype)
        app = new_app(config, served, known, metrics, key)
        settings = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=max(1, round(config.drain_seconds)),
            server_header=False,
        )
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        server = _Server(settings, lambda: ready(f"http://{shown}:{port}"))
        server.run([listening])


class _Server(uvicorn.Server):
    """Tells when it answers.

    Inherits since that is how uvicorn lets one look at its start.
    """

    def __init__(self, config: uvicorn.Config, ready: Callable[[], Any]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        if self.started:
            self._ready()


def _listen(config: ServeConfig) -> socket.socket:
    """Return a socket at the settings' address, before anything is loaded.

    Raises:
        ConfigError: if the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((config.host, config.port))
        found.listen(2048)
    except OSError as error:
        found.close()
        raise ConfigError(
            f"cannot listen at {config.host}:{config.port}: {error.strerror}; take another --port"
        ) from error
    return found
