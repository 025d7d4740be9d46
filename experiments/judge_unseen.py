"""Hold judges, as they ship, to labelled answers that nothing about them was chosen or fitted on.

    python experiments/judge_unseen.py

What a model is asked is kept on disk, so that an interrupted run repeats nothing.
"""

import argparse
import sys
import time
from collections.abc import Sequence

from judge_agreement import by_likelihood
from judge_tables import Scores, table_of_answers, table_of_methods, table_of_readers

from hypersteer.config import JudgeConfig
from hypersteer.judges.choose import make_judge
from hypersteer.judges.gold import GoldAnswer, gold_answers
from hypersteer.judges.judge import DIMENSIONS, Judgement
from hypersteer.lm.bfloat16 import bf16_is_faster
from hypersteer.lm.load import load_lm


def judged(gold: Sequence[GoldAnswer], config: JudgeConfig) -> Scores:
    """The scores of the local judge, made anew for each base LM as evaluations make it."""
    scores: Scores = {name: [0.0] * len(gold) for name in DIMENSIONS}
    for name in dict.fromkeys(one.lm for one in gold):
        places = [i for i, one in enumerate(gold) if one.lm == name]
        lm = load_lm(name, dtype="bfloat16" if bf16_is_faster() else None)
        found = make_judge(config, lm).judge([gold[i].answer for i in places])
        for i, one in zip(places, found, strict=True):
            if not isinstance(one, Judgement):
                sys.exit(f"answer {gold[i].id} could not be judged: {one.error}")
            for dimension in DIMENSIONS:
                scores[dimension][i] = getattr(one, dimension).score
    return scores


def main() -> None:
    """Judge, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=None)
    given = parser.parse_args()
    gold = gold_answers(unseen=True)
    began = time.monotonic()
    local = judged(gold, JudgeConfig(kind="local", threads=given.threads))
    print(f"local: {(time.monotonic() - began) / len(gold):.2f} s an answer", file=sys.stderr)
    judges = {"local": local, "likelihood": by_likelihood(gold)}
    table_of_readers(gold)
    table_of_answers(gold, judges)
    table_of_methods(gold, judges)


if __name__ == "__main__":
    main()
