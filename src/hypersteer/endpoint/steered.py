"""A client of our own server: what `hypersteer chat --server` talks to."""

import json
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx2

from hypersteer.config.serving import KEY_VARIABLE
from hypersteer.errors import ConfigError, EndpointError, SteeringError, one_line, short

SECONDS = 300.0
"""Longest time without a byte of an answer."""


class SteeredServer:
    """A running `hypersteer serve`.

    Args:
        url: its address, with or without `/v1`.
        model: which of its checkpoints; by default the first.
        key: its API key; by default what HYPERSTEER_API_KEY holds.

    Attributes:
        url: its address.
        model: the checkpoint's name.

    Raises:
        ConfigError: if the address is none, or the checkpoint is not served there.
        EndpointError: if nothing answers there.
    """

    def __init__(self, url: str, model: str | None = None, key: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ConfigError(f"--server {short(url)} is no address; try http://127.0.0.1:8000")
        self.url = url.rstrip("/").removesuffix("/v1")
        token = os.environ.get(KEY_VARIABLE, "") if key is None else key
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._client = httpx2.Client(base_url=self.url, headers=headers, timeout=SECONDS)
        try:
            names = [one["id"] for one in self._json("GET", "/v1/models")["data"]]
            if model is not None and model not in names:
                raise ConfigError(f"{self.url} serves no '{model}', but {', '.join(names)}")
        except SteeringError:
            self.close()
            raise
        self.model = model or names[0]

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def stream(
        self,
        messages: Sequence[Mapping[str, Any]],
        steering: Any,
        decoding: Mapping[str, Any],
        told: Callable[[Any], object] | None = None,
    ) -> Generator[str]:
        """Yield an answer piece by piece.

        Args:
            messages: the conversation.
            steering: the request's field; None for none.
            decoding: fields of `hypersteer.engine.decoding.Decoding`.
            told: given what steered, as the server tells it with the end of an answer.

        Raises:
            EndpointError: if the server refuses, or ends in the middle.
        """
        body = {**self._body(messages, steering, decoding), "stream": True}
        try:
            with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != httpx2.codes.OK:
                    response.read()
                    raise self._refused(response)
                for line in response.iter_lines():
                    if line.startswith("data: {"):
                        event = json.loads(line.removeprefix("data: "))
                        yield self._piece(event)
                        if told is not None and event.get("steering"):
                            told(event["steering"])
        except httpx2.HTTPError as error:
            raise self._unreached(error) from error

    def edit_file(self, text: str) -> bytes:
        """Return the safetensors file of a steering prompt's edit; the server keeps nothing.

        Raises:
            EndpointError: if the server refuses.
        """
        name = f"chat-{os.getpid()}"
        made = {"name": name, "text": text, "model": self.model}
        self._json("POST", "/v1/edits", made)
        try:
            return self.stored_file(name)
        finally:
            self.delete(name)

    def store(self, name: str, file: bytes) -> None:
        """Let the server keep an edit under a name.

        Raises:
            EndpointError: if the server refuses.
        """
        self._send("PUT", f"/v1/edits/{name}/file", content=file)

    def stored_file(self, name: str) -> bytes:
        """Return the safetensors file of a stored edit.

        Raises:
            EndpointError: if the server refuses.
        """
        return self._send("GET", f"/v1/edits/{name}/file").content

    def delete(self, name: str) -> None:
        """Delete a stored edit.

        Raises:
            EndpointError: if the server refuses.
        """
        self._send("DELETE", f"/v1/edits/{name}")

    def _body(
        self, messages: Sequence[Mapping[str, Any]], steering: Any, decoding: Mapping[str, Any]
    ) -> dict[str, Any]:
        found = {
            "model": self.model,
            "messages": list(messages),
            **decoding,
            "max_tokens": decoding["max_new_tokens"],
            "stop": list(decoding.get("stop", ())) or None,
            "steering": steering,
        }
        del found["max_new_tokens"]
        return {name: value for name, value in found.items() if value is not None}

    def _piece(self, event: Mapping[str, Any]) -> str:
        if "error" in event:
            raise EndpointError(f"{self.url}: {event['error']['message']}")
        return "".join(choice["delta"].get("content") or "" for choice in event["choices"])

    def _json(self, method: str, path: str, body: Any = None) -> Any:
        try:
            return self._send(method, path, body).json()
        except ValueError as error:
            raise EndpointError(f"{self.url} is no hypersteer server: {one_line(error)}") from error

    def _send(
        self, method: str, path: str, body: Any = None, content: bytes | None = None
    ) -> httpx2.Response:
        try:
            response = self._client.request(method, path, json=body, content=content)
        except httpx2.HTTPError as error:
            raise self._unreached(error) from error
        if not response.is_success:
            raise self._refused(response)
        return response

    def _refused(self, response: httpx2.Response) -> EndpointError:
        try:
            told = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            told = f"status {response.status_code}"
        return EndpointError(f"{self.url}: {told}")

    def _unreached(self, error: Exception) -> EndpointError:
        return EndpointError(
            f"cannot reach {self.url} ({one_line(error)}); 'hypersteer serve' starts a server"
        )
