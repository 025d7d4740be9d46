"""Rows that come one by one into a running batch, against batches that wait for all of theirs.

    python benchmarks/engine.py [--requests 24] [--every 2] [--new-tokens 48] [--repeats 3]

A request comes every so many steps, each with its own vector; answers have a half to the whole of
the new tokens (no end of turn). `joined` lets each in at once; `in turn` answers batches of eight,
each begun when the last has ended; `one by one` answers request after request; `all at once` is the
floor: all requests are there from the beginning. All give the same tokens. `waits` is how many
steps of the batch a request waits for its first token on average, which no other load changes.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace

import torch

from hypersteer.data.sources import load_concepts
from hypersteer.engine.batch import Batch
from hypersteer.engine.decoding import Decoding
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds
from hypersteer.lm.load import load_lm
from hypersteer.lm.writers import Writer, vector_writer
from timing import machine, medians, table

TOGETHER = 8


class Load:
    """Requests, when they come, and how long their answers are."""

    def __init__(self, lm: BaseLM, requests: int, every: int, new_tokens: int) -> None:
        data = load_concepts("bundled")
        self.lm = replace(lm, chat=lm.chat)
        texts = [data.example(row * 7 % len(data)).prompt for row in range(requests)]
        self.prompts = [lm.chat.prompt(text) for text in texts]
        self.times = [every * row for row in range(requests)]
        sizes = [new_tokens - row * 5 % (new_tokens // 2) for row in range(requests)]
        self.decodings = [Decoding(max_new_tokens=size) for size in sizes]
        generator = torch.Generator().manual_seed(0)
        self.vectors = 3 * torch.randn(requests, lm.width, generator=generator)
        self.tokens: dict[str, dict[int, list[int]]] = {}

    def add(self, batch: Batch, rows: list[int]) -> dict[int, int]:
        """Give requests to a batch; its numbers of them."""
        writers: list[Writer] = [
            vector_writer(self.lm.site(12), self.vectors[rows], ["all"] * len(rows))
        ]
        prompts: list[PromptIds] = [self.prompts[row] for row in rows]
        numbers = batch.add(prompts, writers, [self.decodings[row] for row in rows])
        return dict(zip(numbers, rows, strict=True))

    def run(self, name: str, groups: list[list[int]], *, join: bool) -> float:
        """Answer groups of requests; how many steps one waits for its first token on average."""
        found: dict[int, list[int]] = {}
        first: dict[int, int] = {}
        clock, left = 0, list(groups)
        batch, names = Batch(self.lm), {}
        while left or batch.rows:
            while left and (join or not batch.rows):
                begins = max(self.times[row] for row in left[0])
                if begins > clock and batch.rows:
                    break
                clock = max(clock, begins)
                names |= self.add(batch, left.pop(0))
            clock += 1
            for number, token in batch.step().items():
                found.setdefault(names[number], []).append(token)
                first.setdefault(names[number], clock)
        self.tokens[name] = found
        return sum(first[row] - self.times[row] for row in first) / len(first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--every", type=int, default=2, help="steps between two requests")
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    lm = load_lm("smollm2-135m-instruct", device="cpu")
    lm = replace(lm, chat=type(lm.chat)(lm.tokenizer, ()))  # no end of turn
    load = Load(lm, args.requests, args.every, args.new_tokens)
    every = list(range(args.requests))
    singles = [[row] for row in every]
    eights = [every[start : start + TOGETHER] for start in range(0, len(every), TOGETHER)]
    waits: dict[str, float] = {}

    def way(name: str, groups: list[list[int]], *, join: bool) -> Callable[[], None]:
        return lambda: waits.__setitem__(name, load.run(name, groups, join=join))

    jobs = {
        "all at once": way("all at once", [every], join=True),
        "joined": way("joined", singles, join=True),
        "in turn": way("in turn", eights, join=False),
        "one by one": way("one by one", singles, join=False),
    }
    taken = medians(jobs, args.repeats)
    expected = load.tokens["one by one"]
    same = all(found == expected for found in load.tokens.values())
    count = sum(map(len, expected.values()))
    print(f"{machine()}; {args.requests} requests, {count} tokens; same tokens: {same}\n")
    rows = [
        [
            name,
            f"{seconds:.2f}",
            f"{count / seconds:.0f}",
            f"{taken['all at once'] / seconds:.2f}",
            f"{waits[name]:.0f}",
        ]
        for name, seconds in taken.items()
    ]
    table(["way", "seconds", "tokens/s", "floor / this", "waits"], rows)


if __name__ == "__main__":
    main()
