"""Mixed traffic for minutes: memory stays flat, nothing hangs, no answer is wrong.

    python benchmarks/soak.py [--minutes 10] [--clients 24]

Clients ask at random: steered by a text, by several parts, by a stored edit or not at all, sampled
or greedy, one answer or three, short or long; some leave in the middle of an answer, some send
garbage, some make, send back and delete edits of their own. Every tenth greedy answer is held
against `Steerer.generate` at the end, in float32, where texts do not depend on their neighbours.
Memory is read once the first minute has filled the caches.
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections import Counter
from typing import Any

import httpx2

import hypersteer as hs
from hypersteer.lm.messages import prompted
from load import Server, ask, instructions, ours, steering
from timing import machine

GARBAGE = (
    b"",
    b"{",
    b"\xff\xfe\x00",
    b'{"model": 3}',
    b'{"model": "smollm2-135m-instruct", "messages": "no list"}',
    b'{"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "x"}], "n": 1e9}',
    b"[" * 5000,
)


STORED = 8
"""Edits that all clients may name."""


class Soak:
    """The traffic, and what came of it."""

    def __init__(self, server: Server, seconds: float) -> None:
        self.server, self.ends = server, time.monotonic() + seconds
        self.counts: Counter[str] = Counter()
        self.kept: list[tuple[str, Any, int, str]] = []
        self.memory: list[tuple[float, float]] = []
        self.texts, self.words = instructions(200), steering(200)
        self.greedy = 0

    async def client(self, number: int) -> None:
        """Ask until the time is over."""
        random_ = random.Random(number)
        async with httpx2.AsyncClient(timeout=120) as client:
            while time.monotonic() < self.ends:
                kind = random_.choices(["answer", "leave", "garbage", "store"], [78, 12, 7, 3])[0]
                try:
                    if kind == "store":
                        await self._store(client, f"own-{number}", random_.choice(self.words))
                    else:
                        await getattr(self, f"_{kind}")(client, random_)
                except httpx2.TimeoutException:
                    self.counts["hung"] += 1
                except RuntimeError as error:
                    self.counts[str(error)[:3]] += 1
                    await asyncio.sleep(0.5)

    def _options(self, random_: random.Random) -> tuple[str, Any, int, dict[str, Any]]:
        text, tokens = random_.choice(self.texts), random_.choice([4, 16, 40, 80])
        word, other = random_.sample(self.words, 2)
        stored = {"edit": f"stored-{random_.randrange(STORED)}"}
        steer = random_.choice([None, word, [word, {"text": other, "strength": -0.5}], stored])
        more: dict[str, Any] = {"max_tokens": tokens}
        if steer is not None:
            more["steering"] = steer
        return text, steer, tokens, more

    async def _answer(self, client: httpx2.AsyncClient, random_: random.Random) -> None:
        text, steer, tokens, more = self._options(random_)
        greedy = random_.random() < 0.6
        if not greedy:
            more |= {"temperature": 1.0, "n": random_.choice([1, 1, 3]), "top_p": 0.9}
        found = await ask(client, self.server, text, **more)
        self.counts["answered"] += 1
        self.greedy += greedy
        if greedy and self.greedy % 10 == 0:
            self.kept.append((text, steer, tokens, found.text))

    async def _leave(self, client: httpx2.AsyncClient, random_: random.Random) -> None:
        text, _, _, more = self._options(random_)
        body = {
            "model": self.server.model,
            "messages": [{"role": "user", "content": text}],
            **more,
            "stream": True,
            "max_tokens": 400,
        }
        url = f"{self.server.url}/v1/chat/completions"
        async with client.stream("POST", url, json=body) as response:
            async for _ in response.aiter_lines():
                if random_.random() < 0.2:
                    break
        self.counts["left"] += 1

    async def _garbage(self, client: httpx2.AsyncClient, random_: random.Random) -> None:
        response = await client.post(
            f"{self.server.url}/v1/chat/completions",
            content=random_.choice(GARBAGE),
            headers={"content-type": "application/json"},
        )
        told = response.status_code == 400 and "message" in response.json()["error"]
        self.counts["garbage refused" if told else "garbage taken"] += 1
        await asyncio.sleep(0.2)

    async def _store(self, client: httpx2.AsyncClient, name: str, text: str) -> None:
        """Make an edit, read its file, send it back under the same name, and delete it."""
        edits = f"{self.server.url}/v1/edits"
        answers = [await client.post(edits, json={"name": name, "text": text})]
        answers.append(await client.get(f"{edits}/{name}/file"))
        answers.append(await client.put(f"{edits}/{name}/file", content=answers[-1].content))
        answers.append(await client.delete(f"{edits}/{name}"))
        told = [one.status_code for one in answers]
        self.counts["stored" if told == [201, 200, 201, 200] else f"storing failed {told}"] += 1

    def prepare(self) -> None:
        """Make the edits that all clients may name."""
        for number, text in enumerate(self.words[:STORED]):
            body = {"name": f"stored-{number}", "text": text}
            httpx2.post(f"{self.server.url}/v1/edits", json=body, timeout=60).raise_for_status()

    async def watch(self) -> None:
        """Read the server's memory now and then."""
        begun = time.monotonic()
        while time.monotonic() < self.ends:
            self.memory.append((time.monotonic() - begun, self.server.megabytes))
            await asyncio.sleep(2)

    async def run(self, clients: int) -> None:
        """Let clients ask until the time is over."""
        await asyncio.gather(self.watch(), *(self.client(number) for number in range(clients)))


def wrong(soak: Soak) -> list[str]:
    """Return those kept answers that `Steerer.generate` does not give."""
    steerer, found = hs.load(dtype="float32"), []
    for text, steer, tokens, answer in soak.kept:
        given, said = steer, steer if isinstance(steer, str) else None
        if isinstance(steer, dict):
            given = steerer.edit(soak.words[int(steer["edit"].removeprefix("stored-"))])
        elif isinstance(steer, list):
            # What is weakened is not said: the server says the words of parts above 0 only.
            said, other = steer[0], steer[1]
            given = [(said, 1.0), (other["text"], other["strength"])]
        prompt = prompted(text, said) if said else text
        own = steerer.generate([prompt], steer=[given], max_new_tokens=tokens, prompted=False)[0]
        if own != answer:
            found.append(f"{text!r} under {steer!r}: {answer!r}, not {own!r}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=24)
    given = parser.parse_args()
    print(machine())
    limits = ("--max-rows", "16", "--max-queue", "8", "--dtype", "float32")
    with tempfile.TemporaryDirectory() as edits, ours("--edits", edits, *limits) as server:
        soak = Soak(server, 60 * given.minutes)
        soak.prepare()
        asyncio.run(soak.run(given.clients))
        time.sleep(2)
        idle = httpx2.get(f"{server.url}/metrics", timeout=10).text
    print(dict(soak.counts))
    early = [size for when, size in soak.memory if 60 <= when <= 120] or [soak.memory[0][1]]
    late = [size for _, size in soak.memory[-20:]]
    first, last = statistics.median(early), statistics.median(late)
    print(f"memory: {first:.0f} MB in the second minute, {last:.0f} MB at the end "
          f"({100 * (last / first - 1):+.1f} %)")  # fmt: skip
    minutes = range(int(soak.memory[-1][0] // 60) + 1)
    sizes = [[size for when, size in soak.memory if when // 60 == minute] for minute in minutes]
    print("MB in each minute:", *(f"{statistics.median(one):.0f}" for one in sizes if one))
    gauges = [
        line
        for line in idle.splitlines()
        if line.startswith(("hypersteer_answers_running", "hypersteer_requests_waiting"))
    ]
    print("afterwards:", "; ".join(gauges))
    faults = wrong(soak)
    print(f"{len(soak.kept)} answers held against Steerer.generate, {len(faults)} differ", *faults)


if __name__ == "__main__":
    main()
