"""Many connections at once on a short queue: each is answered or turned away, and none hangs.

python benchmarks/crowd.py [--connections 500] [--queue 64]
"""

import argparse
import asyncio
import statistics
import time
from collections import Counter

import httpx2

from load import Server, instructions, ours, steering
from timing import machine

LONGEST = 300.0
"""Seconds after which a connection counts as one that hangs."""


async def crowd(server: Server, connections: int) -> tuple[Counter[str], list[float], list[float]]:
    """Ask from so many connections at once; return what came, and seconds to either outcome."""
    words, texts = steering(64), instructions(64)
    counts: Counter[str] = Counter()
    answered: list[float] = []
    turned: list[float] = []
    limits = httpx2.Limits(max_connections=connections)

    async with httpx2.AsyncClient(timeout=LONGEST, limits=limits) as client:

        async def one(number: int) -> None:
            body = {
                "model": server.model,
                "messages": [{"role": "user", "content": texts[number % len(texts)]}],
                "steering": words[number % len(words)],
                "max_tokens": 24,
                "temperature": 0,
            }
            begun = time.perf_counter()
            try:
                reply = await client.post(f"{server.url}/v1/chat/completions", json=body)
            except httpx2.TimeoutException:
                counts["hung"] += 1
                return
            except httpx2.HTTPError as error:
                counts[type(error).__name__] += 1
                return
            took = time.perf_counter() - begun
            if reply.status_code == 200 and reply.json()["choices"][0]["message"]["content"]:
                counts["answered"] += 1
                answered.append(took)
            elif reply.status_code == 429 and int(reply.headers["retry-after"]) > 0:
                counts["429 with Retry-After"] += 1
                turned.append(took)
            else:
                counts[f"{reply.status_code}: {reply.text[:80]}"] += 1

        await asyncio.gather(*(one(number) for number in range(connections)))
    return counts, answered, turned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=500)
    parser.add_argument("--queue", type=int, default=64)
    given = parser.parse_args()
    print(machine())
    with ours("--max-queue", str(given.queue)) as server:
        counts, answered, turned = asyncio.run(crowd(server, given.connections))
        after = httpx2.get(f"{server.url}/health", timeout=10).json()["status"]
    print(dict(counts), "and then:", after)
    for name, times in (("answered", answered), ("turned away", turned)):
        if times:
            print(f"{name}: after {statistics.median(times):.1f} s in the median, "
                  f"{max(times):.1f} s at most")  # fmt: skip


if __name__ == "__main__":
    main()
