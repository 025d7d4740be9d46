"""One attempt at one request through the `openai` client, the only place that knows it."""

import asyncio
import hashlib
import json
import math
import os
import time
from email.utils import mktime_tz, parsedate_tz
from types import ModuleType, TracebackType
from typing import Any

from hypersteer.endpoint.replies import Messages, Reply, Trouble, read_reply
from hypersteer.endpoint.settings import OPENAI, EndpointConfig
from hypersteer.errors import EndpointError, one_line

LONGEST_WAIT_S = 120.0
"""A server that asks for a longer pause than this is taken to be out of reach."""
PASSING = (408, 409, 429)
"""Statuses, besides 5xx, after which the same request may succeed."""


class Connection:
    """An open client. Every `ask` is one HTTP request: who calls decides about retries.

    Args:
        config: which model, where, and how to ask.
        key: of the server, instead of the one in the environment.

    Raises:
        EndpointError: if the `openai` package or the key is missing.
    """

    def __init__(self, config: EndpointConfig, key: str | None = None) -> None:
        self._config = config
        self._openai = _package()
        self._key = _key(config) if key is None else key
        self._client = self._openai.AsyncOpenAI(
            api_key=self._key or "none",
            base_url=config.url,
            timeout=config.timeout_s,
            max_retries=0,
        )

    async def __aenter__(self) -> "Connection":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.close()

    async def ask(self, messages: Messages, sample: int) -> Reply | Trouble:
        """Send one request."""
        config, openai = self._config, self._openai
        try:
            async with asyncio.timeout(config.timeout_s):
                raw = await self._client.chat.completions.with_raw_response.create(
                    **_body(config, messages, sample)
                )
            return read_reply(raw.text, config.max_tokens, config.top_logprobs)
        except openai.APIStatusError as error:
            return self._refused(error)
        except (TimeoutError, openai.APITimeoutError):
            return Trouble(f"no reply from {config.url} in {config.timeout_s:g} s", retry=True)
        except openai.APIConnectionError as error:
            return self._unreached(error)
        except (openai.OpenAIError, UnicodeError) as error:
            return Trouble(f"the request cannot be sent: {self._hidden(one_line(error))}")

    def _unreached(self, error: Exception) -> Trouble:
        """Say that no answer came; refused and unknown hosts stay so, dropped lines may not."""
        cause = error.__cause__ or error
        hopeless = "Connect" in type(cause).__name__
        return Trouble(
            f"cannot reach {self._config.url} ({self._hidden(one_line(cause))}): see that the "
            "server runs and that base_url is right",
            retry=True,
            hopeless=hopeless,
        )

    def _refused(self, error: Any) -> Trouble:
        """Say that an HTTP status other than success came."""
        config, status, said = self._config, error.status_code, self._said(error)
        where = f"{config.url} ({status}: {said})"
        if status in (401, 403):
            way = f"set {config.api_key_env} to a valid key" if self._key else self._needs_key()
            return Trouble(f"no access to {where}: {way}", hopeless=True)
        if status == 404:
            return Trouble(
                f"no model '{config.model}' at {where}: check model, and "
                "base_url, which most often ends in /v1",
                hopeless=True,
            )
        if error.code == "insufficient_quota":
            return Trouble(f"no credit left at {where}: add some, then go on", hopeless=True)
        if status not in PASSING and status < 500:
            return Trouble(f"refused by {where}")
        wait_s = asked_wait(error.response.headers)
        if wait_s is not None and wait_s > LONGEST_WAIT_S:
            asks = f"and asks to wait {wait_s:.0f} s: go on later"
            return Trouble(f"turned away by {where}, {asks}", hopeless=True)
        return Trouble(f"turned away by {where}", retry=True, wait_s=wait_s)

    def _needs_key(self) -> str:
        name = self._config.api_key_env
        return f"{name} is not set; put the key there, or name its variable in api_key_env"

    def _said(self, error: Any) -> str:
        """Return the server's own words."""
        body = error.body
        said = body.get("message") if isinstance(body, dict) else None
        return self._hidden(one_line(said or body or error, 200))

    def _hidden(self, text: str) -> str:
        """Remove the key from a text that may quote it."""
        return text.replace(self._key, "***") if self._key else text


def asked_wait(headers: Any) -> float | None:
    """Return the seconds that a `Retry-After` header asks to wait; None without one."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) / unit
        except ValueError:
            date = parsedate_tz(value)
            seconds = mktime_tz(date) - time.time() if date else math.nan
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None


def _body(config: EndpointConfig, messages: Messages, sample: int) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": config.model,
        "messages": [dict(message) for message in messages],
        config.token_limit: config.max_tokens,
    }
    if config.temperature is not None:
        body["temperature"] = config.temperature
    if config.top_logprobs:
        body |= {"logprobs": True, "top_logprobs": config.top_logprobs}
    if config.seed is not None:
        own = _own_seed(config.seed, messages, sample) if config.own_seeds else None
        body["seed"] = config.seed + sample if own is None else own
    return body


def _own_seed(seed: int, messages: Messages, sample: int) -> int:
    """Return a seed of 31 bits, which every server takes."""
    what = json.dumps([seed, sample, [dict(message) for message in messages]])
    return int.from_bytes(hashlib.sha256(what.encode()).digest()[:4]) >> 1


def _package() -> ModuleType:
    try:
        import openai
    except ModuleNotFoundError as error:
        raise EndpointError(
            'asking an endpoint needs the openai package: pip install "hypersteer[endpoint]"'
        ) from error
    return openai


def _key(config: EndpointConfig) -> str:
    """Return the key, or "" for a server that may need none."""
    name = config.api_key_env
    key = os.environ.get(name, "").strip()
    if not key and config.url == OPENAI:
        raise EndpointError(
            f"{config.url} needs a key and {name} is not set: put the key there, or name its "
            "variable in api_key_env"
        )
    if not (key.isascii() and key.isprintable()):
        raise EndpointError(f"the key in {name} holds characters that no key has: set it again")
    return key
