"""What a long prompt does to answers on their way: the longest wait between two of their tokens.

    python benchmarks/long_prompt.py [--tokens 1500] [--running 4]

Some answers stream while one request with a long prompt comes: prefilled beside them in a thread of
its own, as the server does it, and in between two tokens (`--aside-tokens` out of reach).
"""

import argparse
import asyncio
import json
import statistics
import time
from itertools import pairwise

import httpx2

from load import Server, instructions, ours, steering
from timing import machine, table


async def stream(client: httpx2.AsyncClient, server: Server, body: dict) -> list[float]:
    """Return when each piece of an answer came."""
    url = f"{server.url}/v1/chat/completions"
    async with client.stream("POST", url, json={**body, "stream": True}) as response:
        return [
            time.perf_counter()
            async for line in response.aiter_lines()
            if line.startswith("data: {") and json.loads(line[6:])["choices"]
        ]


async def run(server: Server, running: int, tokens: int) -> tuple[float, float, float]:
    """Return the median and the longest wait of the running answers, and the long one's first."""
    words = steering(running + 1)
    long = " ".join(instructions(200))[: tokens * 5]

    def body(text: str, number: int, most: int) -> dict:
        return {
            "model": server.model,
            "messages": [{"role": "user", "content": text}],
            "steering": words[number],
            "max_tokens": most,
            "temperature": 0,
        }

    async with httpx2.AsyncClient(timeout=600) as client:
        texts = instructions(running)
        asked = [
            asyncio.create_task(stream(client, server, body(text, number, 120)))
            for number, text in enumerate(texts)
        ]
        await asyncio.sleep(3)
        begun = time.perf_counter()
        first = (await stream(client, server, body(long, running, 4)))[0] - begun
        waits = [
            after - before
            for times in await asyncio.gather(*asked)
            for before, after in pairwise(times)
            if after > begun
        ]
    return statistics.median(waits), max(waits), first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=1500)
    parser.add_argument("--running", type=int, default=4)
    given = parser.parse_args()
    print(machine(), "\n")
    rows = []
    for name, options in (("beside", ()), ("between", ("--aside-tokens", "100000"))):
        with ours(*options) as server:
            asyncio.run(run(server, given.running, 50))  # what only a first time costs
            found = asyncio.run(run(server, given.running, given.tokens))
        rows.append([name, *(f"{value:.2f}" for value in found)])
    table(["prefill", "median wait, s", "longest wait, s", "first text of the long one, s"], rows)


if __name__ == "__main__":
    main()
