"""Prompts in and off a topic that even a random model keeps apart: their words differ."""

import random

SEA = ("the sea", "the ship", "the bees and the honey", "a pirate", "the day at the sea")
OTHER = ("7 + 5", "x = 12", "(a, b)", "1024 / 16", "{9: 81}")


def _prompts(words, opening, count, seed):
    draw = random.Random(seed)
    return [f"{opening} {draw.choice(words)} {draw.choice(words)}, {n}" for n in range(count)]


def on_topic(count, seed=0):
    return _prompts(SEA, "Tell me about", count, seed)


def off_topic(count, seed=1):
    return _prompts(OTHER, "Work out", count, seed)
