"""Tokens per second and time to the first token of our server, steered and not, and of two others.

    python benchmarks/serving.py [--new-tokens 48] [--requests 64] [--repeats 3] [--rivals]

Clients ask as fast as they are answered, greedily, for answers of half to one and a half times so
many tokens, real instructions and steering prompts. The lengths are the same in all settings and
differ from request to request, since requests that end at one step share their next prefill; an
answer may end earlier by itself. The settings take turns, so that a busy machine hits all alike.
Steering by a text says it in the prompt as well, which is longer then: "the same words said" has
as many tokens. `--rivals` adds llama.cpp's server (the same model in its four-bit GGUF, which is
not what the others run) and `transformers serve`, both unsteered. `--pairs N` only holds steered
runs against unsteered ones of as many prompt tokens, N times in turn: the machine's own swings are
larger than the difference, so what counts is the median of the ratios.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from hypersteer.endpoint.local_server import EngineSettings, LocalServer
from hypersteer.lm.fetch import gguf_file
from hypersteer.lm.messages import prompted
from hypersteer.lm.stored import converted_folder
from load import Asked, Server, free_port, instructions, ours, started, steering, together
from timing import machine, table

MODEL = "smollm2-135m-instruct"


@contextmanager
def llama() -> Generator[Server]:
    """Run llama.cpp's own server on the model that ships with the package."""
    engine = LocalServer(gguf_file(MODEL), EngineSettings(parallel=16, context=512))
    reached = engine.start()
    try:
        yield Server(reached.url.removesuffix("/v1"), MODEL, key=reached.key)
    finally:
        engine.stop()


@contextmanager
def transformers_serve() -> Generator[Server]:
    """Run `transformers serve` on the folder of the same weights."""
    port, folder = free_port(), str(converted_folder(gguf_file(MODEL)))
    command = [
        str(Path(sys.executable).with_name("transformers")), "serve", "--port", str(port),
        "--continuous-batching", "--device", "cpu",
    ]  # fmt: skip
    with started(command, port, folder) as server:
        yield server


def rivals(
    rows: list[list[str]], asked: list[dict], given: argparse.Namespace, texts: list[str]
) -> None:
    """Add what the others do with the same requests, unsteered, each by itself on the machine."""
    for name, running in (("llama.cpp, Q4_1", llama), ("transformers serve", transformers_serve)):
        with running() as server:
            together(server, 2, 4, asked, texts)
            for clients in (1, 16):
                taken = [
                    together(server, clients, max(4, clients * 2), asked, texts)
                    for _ in range(given.repeats)
                ]
                speed = statistics.median(rate(*one) for one in taken)
                first = statistics.median(one.first for _, found in taken for one in found)
                tokens = statistics.mean(one.tokens for _, found in taken for one in found)
                label = f"{name}, {clients} clients"
                rows.append([label, f"{speed:.1f}", "", f"{first:.3f}", f"{tokens:.0f}"])


PAIRS = {
    "64 edits alone, 16 clients": "unsteered, 16 clients",
    "64 steering prompts, 16 clients": "the same words said, unsteered, 16 clients",
    "1 steering prompt, 16 clients": "the same word said, unsteered, 16 clients",
    "steered, 1 client": "the same word said, unsteered, 1 client",
}
"""Steered settings, and the unsteered ones with as many prompt tokens."""


def in_pairs(
    server: Server, given: argparse.Namespace, settings: dict[str, Any], texts: list[str]
) -> None:
    """Print ratios of steered to unsteered runs that follow each other."""
    rows = []
    for steered, plain in PAIRS.items():
        speeds: list[float] = []
        firsts: list[float] = []
        for turn in range(given.pairs):
            taken = {}
            for name in (steered, plain)[:: 1 if turn % 2 else -1]:
                clients, options = settings[name]
                count = given.requests if clients > 1 else max(4, given.requests // 16)
                asked = lengths(given.new_tokens, options)
                taken[name] = together(server, clients, count, asked, texts)
            speeds.append(rate(*taken[steered]) / rate(*taken[plain]))
            middle = {
                name: statistics.median(one.first for one in found)
                for name, (_, found) in taken.items()
            }
            firsts.append(middle[steered] / middle[plain])
        cells = [f"{statistics.median(speeds):.3f} ({min(speeds):.2f} to {max(speeds):.2f})"]
        cells += [f"{statistics.median(firsts):.2f} ({min(firsts):.2f} to {max(firsts):.2f})"]
        rows.append([steered, plain, *cells])
    table(["steered", "unsteered", "tokens/s, ratio", "first text, ratio"], rows)


def lengths(new_tokens: int, options: list[dict]) -> list[dict]:
    """Return 64 options in turn, each with a length of its own."""
    return [
        {
            **options[turn % len(options)],
            "max_tokens": new_tokens // 2 + new_tokens * (turn * 13 % 64) // 63,
        }
        for turn in range(64)
    ]


def rate(seconds: float, found: list[Asked]) -> float:
    return sum(one.tokens for one in found) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rivals", action="store_true")
    parser.add_argument("--pairs", type=int, default=0)
    given = parser.parse_args()
    print(machine(), "\n")
    words, texts = steering(64), instructions(64)
    fixed = {
        "max_tokens": given.new_tokens,
        "stream_options": {"include_usage": True},
    }
    spoken, one_said = (
        [
            {**fixed, "messages": [{"role": "user", "content": prompted(text, one)}]}
            for text, one in zip(texts, said, strict=True)
        ]
        for said in (words, words[:1] * len(texts))
    )
    settings = {
        "unsteered, 1 client": (1, [fixed]),
        "steered, 1 client": (1, [{**fixed, "steering": words[0]}]),
        "unsteered, 16 clients": (16, [fixed]),
        "1 steering prompt, 16 clients": (16, [{**fixed, "steering": words[0]}]),
        "the same words said, unsteered, 16 clients": (16, spoken),
        "the same word said, unsteered, 16 clients": (16, one_said),
        "the same word said, unsteered, 1 client": (1, one_said),
        "16 steering prompts, 16 clients": (16, [{**fixed, "steering": one} for one in words[:16]]),
        "64 steering prompts, 16 clients": (16, [{**fixed, "steering": one} for one in words]),
        "64 edits alone, 16 clients": (
            16,
            [{**fixed, "steering": {"text": one, "prompted": False}} for one in words],
        ),
    }
    if given.pairs:
        with ours() as server:
            in_pairs(server, given, settings, texts)
        return
    with ExitStack() as running:
        begun = time.perf_counter()
        server = running.enter_context(ours())
        ready = time.perf_counter() - begun
        _, (answer,) = together(server, 1, 1, [fixed], texts)
        print(
            f"from the command: ready after {ready:.1f} s, first text of the first answer after "
            f"{ready + answer.first:.1f} s, all {answer.tokens} tokens after "
            f"{ready + answer.whole:.1f} s\n"
        )
        rates: dict[str, list[float]] = {name: [] for name in settings}
        firsts: dict[str, list[float]] = {name: [] for name in settings}
        counts: dict[str, float] = {}
        for _ in range(given.repeats):
            for name, (clients, options) in settings.items():
                count = max(4, given.requests // 16) if clients == 1 else given.requests
                asked = lengths(given.new_tokens, options)
                seconds, found = together(server, clients, count, asked, texts)
                rates[name].append(rate(seconds, found))
                firsts[name].append(statistics.median(one.first for one in found))
                counts[name] = statistics.mean(one.tokens for one in found)
        middle = {name: statistics.median(values) for name, values in rates.items()}
        base = middle["unsteered, 1 client"]
        rows = [
            [
                name,
                f"{middle[name]:.1f}",
                f"{middle[name] / base:.2f}",
                f"{statistics.median(firsts[name]):.3f}",
                f"{counts[name]:.0f}",
            ]
            for name in settings
        ]
    if given.rivals:
        rivals(rows, lengths(given.new_tokens, [fixed]), given, texts)
    heads = ["setting", "tokens/s", "times one client", "first text, s", "tokens an answer"]
    table(heads, rows)


if __name__ == "__main__":
    main()
