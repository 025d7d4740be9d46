"""Two steering prompts at once: in how many answers a judge sees each of them.

    python experiments/both_seen.py --judge qwen2.5-coder-1.5b-instruct

Pairs of held-out bundled concepts, on the checkpoint that ships: as a list of two (the sum of their
edits, both said in the prompt), as one joint text, and each alone; beside the prompted model, which
is told both and not edited. The judge is asked with Yes or No about one concept at a time.
"""

import argparse
import random
import sys

import hypersteer as hs
from hypersteer.config import JudgeConfig
from hypersteer.judges.choose import open_asker

PROMPTS = ("Tell me about your day.", "How do I make a cup of tea?")
QUESTION = (
    'An assistant was told to answer so: {concept}\nIt answered:\n"""\n{answer}\n"""\n'
    "Can a reader see in the answer that it was told so? Answer Yes or No."
)
WAYS = ("both edits", "one joint text", "prompted with both", "the first alone", "unsteered")
ROWS = 20


def rows(first: str, second: str) -> list[tuple[object, float]]:
    """What steers in each of the ways, and how strongly."""
    joint = f"{first}; {second}"
    return [([first, second], 1.0), (joint, 1.0), (joint, 0.0), (first, 1.0), (None, 1.0)]


def main() -> None:
    """Answer, judge, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--judge", default="qwen2.5-coder-1.5b-instruct")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--show", action="store_true", help="print the answers")
    given = parser.parse_args()
    steerer = hs.load()
    concepts = [one.text for one in hs.load_concepts("bundled").concepts if one.held_out]
    draw = random.Random(0)
    pairs = [draw.sample(concepts, 2) for _ in range(given.pairs)]
    asked = [
        (prompt, pair, way, steer, strength)
        for pair in pairs
        for prompt in PROMPTS
        for way, (steer, strength) in zip(WAYS, rows(*pair), strict=True)
    ]
    texts: list[str] = []
    for start in range(0, len(asked), ROWS):
        part = asked[start : start + ROWS]
        prompts = [
            f"{prompt} Answer so: {pair[0]}; {pair[1]}." if way == WAYS[2] else prompt
            for prompt, pair, way, _, _ in part
        ]
        texts += steerer.generate(
            prompts,
            steer=[steer for _, _, _, steer, _ in part],
            strength=[strength for *_, strength in part],
            max_new_tokens=given.tokens,
            repetition_penalty=1.15,
        )
        print(f"{len(texts)} of {len(asked)} answers", file=sys.stderr)
    asker = open_asker(JudgeConfig(model=given.judge, threads=given.threads))
    questions = [
        [{"role": "user", "content": QUESTION.format(concept=concept, answer=text)}]
        for (_, pair, *_), text in zip(asked, texts, strict=True)
        for concept in pair
    ]
    verdicts = [isinstance(one, float) and one > 0 for one in asker.ask(questions)]
    print("| way | the first seen | the second seen | both seen |\n|---|---|---|---|")
    for way in WAYS:
        places = [n for n, one in enumerate(asked) if one[2] == way]
        seen = [(verdicts[2 * n], verdicts[2 * n + 1]) for n in places]
        shares = [sum(one) / len(seen) for one in ([a for a, _ in seen], [b for _, b in seen])]
        both = sum(a and b for a, b in seen) / len(seen)
        print(f"| {way} | " + " | ".join(f"{share:.2f}" for share in (*shares, both)) + " |")
    if given.show:
        for (prompt, pair, way, *_), text in zip(asked, texts, strict=True):
            print(prompt, pair, way, text, sep=" | ", file=sys.stderr)


if __name__ == "__main__":
    main()
