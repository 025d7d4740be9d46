"""Two steering prompts at once: how far a judge sees each, and whether the text stays whole.

    python experiments/both_seen.py

Pairs of held-out bundled concepts, on the checkpoint that ships: as a list of two (the sum of their
edits, both said in the prompt), the same at half the strength each, as one joint text, and the
first alone; beside the prompted model, which is told both and not edited. The local judge scores
every answer for each of the two concepts.
"""

import argparse
import random
import sys
from typing import NamedTuple

import hypersteer as hs
from hypersteer.config import JudgeConfig
from hypersteer.judges.choose import make_judge
from hypersteer.judges.judge import Answer, Judgement
from hypersteer.stats import bootstrap

PROMPTS = ("Tell me about your day.", "How do I make a cup of tea?")
PLAIN, PROMPTED = "unsteered", "prompted with both"
ROWS = 20


class Asked(NamedTuple):
    """One answer to be: the base prompt, the two concepts, and what steers how strongly."""

    prompt: str
    pair: tuple[str, str]
    way: str
    steer: str | list[str] | None
    strength: float


def asked_of(prompt: str, pair: tuple[str, str]) -> list[Asked]:
    """Return the ways in which a base prompt is answered under a pair."""
    joint = "; ".join(pair)
    told = f"{prompt} Answer so: {joint}."
    return [
        Asked(prompt, pair, "both edits", list(pair), 1.0),
        Asked(prompt, pair, "both edits at 0.5", list(pair), 0.5),
        Asked(prompt, pair, "one joint text", joint, 1.0),
        Asked(prompt, pair, "the first alone", pair[0], 1.0),
        Asked(told, pair, PROMPTED, None, 1.0),
        Asked(prompt, pair, PLAIN, None, 1.0),
    ]


def main() -> None:
    """Answer, judge, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--show", action="store_true", help="print the answers")
    given = parser.parse_args()
    steerer = hs.load()
    concepts = [one.text for one in hs.load_concepts("bundled").concepts if one.held_out]
    draw = random.Random(0)
    drawn = [draw.sample(concepts, 2) for _ in range(given.pairs)]
    asked = [
        one for first, other in drawn for text in PROMPTS for one in asked_of(text, (first, other))
    ]
    texts: list[str] = []
    for start in range(0, len(asked), ROWS):
        part = asked[start : start + ROWS]
        texts += steerer.generate(
            [one.prompt for one in part],
            steer=[one.steer for one in part],
            strength=[one.strength for one in part],
            max_new_tokens=given.tokens,
            repetition_penalty=1.15,
        )
    judge = make_judge(JudgeConfig(kind="local", threads=given.threads), steerer.lm)
    found = judge.judge(
        [
            Answer(concept, one.prompt, text)
            for one, text in zip(asked, texts, strict=True)
            for concept in one.pair
        ]
    )
    pairs = list(zip(found[::2], found[1::2], strict=True))
    print("| way | the first | the second | the one seen less | fluency |\n|---|---|---|---|---|")
    for way in dict.fromkeys(one.way for one in asked):
        both = [pairs[place] for place, one in enumerate(asked) if one.way == way]
        judged = [
            (first, other)
            for first, other in both
            if isinstance(first, Judgement) and isinstance(other, Judgement)
        ]
        columns = [
            [first.concept.score for first, _ in judged],
            [other.concept.score for _, other in judged],
            [min(one.concept.score for one in pair) for pair in judged],
            [first.fluency.score for first, _ in judged],
        ]
        cells = [bootstrap(column) for column in columns]
        told = [f"{one.mean:.2f} [{one.low:.2f}, {one.high:.2f}]" for one in cells]
        print(f"| {way} | " + " | ".join(told) + " |", flush=True)
    if given.show:
        for one, text in zip(asked, texts, strict=True):
            print(one.prompt, one.pair, one.way, text, sep=" | ", file=sys.stderr)


if __name__ == "__main__":
    main()
