"""Shared by the server's benchmarks: a server in a process of its own, and clients that ask it."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from hypersteer.data.sources import load_concepts


@dataclass(frozen=True, slots=True)
class Asked:
    """What one request took.

    Attributes:
        first: seconds to its first piece of text.
        whole: seconds to its end.
        tokens: of its answer.
        text: of its answer.
    """

    first: float
    whole: float
    tokens: int
    text: str


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server answers, under which model's name, in which process, and its key."""

    url: str
    model: str
    pid: int = 0
    key: str = ""

    @property
    def megabytes(self) -> float:
        """Its resident memory."""
        lines = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines()
        kilobytes = next(line for line in lines if line.startswith("VmRSS"))
        return int(kilobytes.split()[1]) / 1024


@contextmanager
def started(command: Sequence[str], port: int, model: str) -> Generator[Server]:
    """Run a server's command until the context ends."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(list(command), stdout=log, stderr=log, start_new_session=True)
        try:
            url = f"http://127.0.0.1:{port}"
            begun = time.monotonic()
            while not _answers(url):
                if process.poll() is not None or time.monotonic() - begun > 300:
                    log.seek(0)
                    raise SystemExit(f"{command[0]} does not serve: {log.read()[-600:]}")
                time.sleep(0.1)
            yield Server(url, model, process.pid)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


def _answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/v1/models", timeout=2).status_code in (200, 401)
    except httpx2.HTTPError:
        return False


PLAIN = ("--repetition-penalty", "1")
"""As `Steerer.generate` decodes, which answers are held against."""


@contextmanager
def ours(*options: str) -> Generator[Server]:
    """Run `hypersteer serve` with the checkpoint that ships."""
    port = free_port()
    command = [sys.executable, "-m", "hypersteer", "serve", "--port", str(port), *PLAIN, *options]
    with started(command, port, "smollm2-135m-instruct") as server:
        yield server


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def instructions(count: int) -> list[str]:
    """Return real instructions."""
    data = load_concepts("bundled")
    return [data.example(row * 7 % len(data)).prompt for row in range(count)]


def steering(count: int) -> list[str]:
    """Return distinct real steering prompts."""
    return [concept.text for concept in load_concepts("bundled").concepts[:count]]


async def ask(client: httpx2.AsyncClient, server: Server, text: str, **more: Any) -> Asked:
    """Send a chat, read the answer as it streams, and time both."""
    body = {
        "model": server.model,
        "messages": [{"role": "user", "content": text}],
        "stream": True,
        "temperature": 0,
        **more,
    }
    begun, first, pieces, tokens = time.perf_counter(), 0.0, [], 0
    headers = {"authorization": f"Bearer {server.key}"} if server.key else {}
    url = f"{server.url}/v1/chat/completions"
    async with client.stream("POST", url, json=body, headers=headers) as response:
        if response.status_code != 200:
            raise RuntimeError(f"{response.status_code}: {(await response.aread())[:300]!r}")
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
            for choice in event["choices"]:
                piece = choice["delta"].get("content") or ""
                if piece and not first:
                    first = time.perf_counter() - begun
                pieces.append(piece)
    return Asked(first, time.perf_counter() - begun, tokens, "".join(pieces))


def together(
    server: Server,
    clients: int,
    requests: int,
    options: Sequence[Mapping[str, Any]],
    texts: Sequence[str],
) -> tuple[float, list[Asked]]:
    """Let clients ask requests as fast as they are answered; return seconds and what they took."""

    async def run() -> tuple[float, list[Asked]]:
        limits = httpx2.Limits(max_connections=clients)
        async with httpx2.AsyncClient(timeout=600, limits=limits) as client:
            gate = asyncio.Semaphore(clients)

            async def one(number: int) -> Asked:
                async with gate:
                    more = options[number % len(options)]
                    return await ask(client, server, texts[number % len(texts)], **more)

            begun = time.perf_counter()
            found = await asyncio.gather(*(one(number) for number in range(requests)))
            return time.perf_counter() - begun, list(found)

    return asyncio.run(run())
