"""Prompts in and off a topic that even a random model keeps apart: their words differ."""

import random

from hypersteer.conditions.described import Described
from hypersteer.config.conditions import HeadConfig

SEA = ("the sea", "the ship", "the bees and the honey", "a pirate", "the day at the sea")
OTHER = ("7 + 5", "x = 12", "(a, b)", "1024 / 16", "{9: 81}")


def _prompts(words, opening, count, seed):
    draw = random.Random(seed)
    return [f"{opening} {draw.choice(words)} {draw.choice(words)}, {n}" for n in range(count)]


def on_topic(count, seed=0):
    return _prompts(SEA, "Tell me about", count, seed)


def off_topic(count, seed=1):
    return _prompts(OTHER, "Work out", count, seed)


CONFIG = HeadConfig(words_layers=(1,), layers=(0, 2), hidden=32, steps=120, conditions=4)
SEA, SUMS, ANSWER = "is about the sea", "wants a sum", "the answer lists numbers"


def described(count=16):
    sea, sums = on_topic(count, seed=3), off_topic(count, seed=4)
    half = count // 2
    return [
        Described(condition=SEA, also=("speaks of ships",), inside=sea[:half], off=sums[:half]),
        Described(condition=SUMS, inside=sums[half:], off=sea[half:]),
        Described(
            condition="lists numbers", about="answer", inside=sums[:half], off=sea[:half]
        ),
    ]  # fmt: skip
