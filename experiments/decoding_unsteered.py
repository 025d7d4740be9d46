"""Choose how answers are decoded on the unsteered base LM: how often do they go round in circles?

    python experiments/decoding_unsteered.py --lm smollm2-135m-instruct

Prints, for each repetition penalty, the share of answers that say some four words in a row three
times or more, the share of distinct word pairs, and the mean judged instruction and fluency.
"""

import argparse
from collections import Counter
from itertools import pairwise

from rich.console import Console
from rich.table import Table

from hypersteer.config import JudgeConfig
from hypersteer.judges.choose import make_judge
from hypersteer.judges.judge import Answer, Judgement
from hypersteer.lm.bfloat16 import bf16_is_faster
from hypersteer.lm.load import load_lm
from hypersteer.synthesis.pools import load_pool

NO_CONCEPT = "a helpful answer"


def circles(text: str) -> bool:
    """Whether some four words in a row come three times or more."""
    words = text.lower().split()
    counts = Counter(zip(*(words[k:] for k in range(4)), strict=False))
    return max(counts.values(), default=0) >= 3


def distinct_pairs(text: str) -> float:
    """Share of the pairs of neighbouring words that are distinct."""
    pairs = list(pairwise(text.lower().split()))
    return len(set(pairs)) / max(1, len(pairs))


def main() -> None:
    """Answer under each penalty, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lm", default="smollm2-135m-instruct")
    parser.add_argument("--penalties", type=float, nargs="+", default=[1.0, 1.05, 1.1, 1.15, 1.3])
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--judge", action="store_true", help="judge them, too: about 2 s an answer")
    given = parser.parse_args()
    lm = load_lm(given.lm, dtype="bfloat16" if bf16_is_faster() else None)
    pool = load_pool("bundled", 42)
    prompts = [one.text for one in pool.draw("test", "text", given.prompts, 42, 0)]
    judge = make_judge(JudgeConfig(kind="local"), lm) if given.judge else None
    table = Table("penalty", "circles", "distinct pairs", "words", "instruction", "fluency")
    for penalty in given.penalties:
        texts = lm.generate(
            prompts, max_new_tokens=given.tokens, temperature=0.0, repetition_penalty=penalty
        )
        row = [f"{penalty:g}", f"{sum(map(circles, texts)) / len(texts):.2f}"]
        row += [f"{sum(map(distinct_pairs, texts)) / len(texts):.3f}"]
        row += [f"{sum(len(text.split()) for text in texts) / len(texts):.0f}"]
        if judge is not None:
            asked = [Answer(NO_CONCEPT, p, t) for p, t in zip(prompts, texts, strict=True)]
            found = [one for one in judge.judge(asked) if isinstance(one, Judgement)]
            for name in ("instruction", "fluency"):
                row.append(f"{sum(getattr(one, name).score for one in found) / len(found):.3f}")
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
