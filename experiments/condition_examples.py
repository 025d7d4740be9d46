"""What a few examples add to the words of a condition, on conditions held out.

    python experiments/condition_examples.py --widths
    python experiments/condition_examples.py

The words sharpened by examples, beside the words alone and what is learnt from the same examples
alone: fit_condition, CAST's recipe, a bag of words; each tested on the texts that are left.
`--widths` tries widths of the sharpening's prior on the conditions that training put aside.
"""

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from condition_rivals import bag, counts, f1_of, labels_of, sorted_out, told
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor

import hypersteer as hs
from hypersteer.conditions import sharpen
from hypersteer.conditions.contrasts import ContrastText
from hypersteer.conditions.described import Described
from hypersteer.conditions.fit import condition_scores
from hypersteer.conditions.head import BUNDLED, ConditionHead, load_head
from hypersteer.conditions.lessons import Lesson, asked, read_lessons
from hypersteer.errors import DataError
from hypersteer.progress import ProgressBar
from hypersteer.stats import auroc, bootstrap

COUNTS = (1, 4, 12)
"""Examples beside the words; of one it is true, else of half of them."""
LEAST = 2
"""Texts that must be left on either side to test with."""
TURNS, SHIFTS = (0.05, 0.1, 0.2, 0.4), (0.3, 1.0, 2.0)

CAST = hs.ConditionConfig(method="paired", scorer="legacy", pooling="all")


def splits(one: Described, count: int, draws: int) -> Iterator[tuple[list[int], list[int]]]:
    """Places of examples, and of the texts that are left, which test; several draws of them."""
    labels = labels_of(one)
    inside = labels.nonzero().squeeze(1).tolist()
    outside = (~labels).nonzero().squeeze(1).tolist()
    draw = random.Random(f"{one.condition} {count}")
    take = (1, 0) if count == 1 else (count // 2, count - count // 2)
    if len(inside) - take[0] < LEAST or len(outside) - take[1] < LEAST:
        return
    for _ in range(draws):
        some = draw.sample(inside, take[0]) + draw.sample(outside, take[1])
        yield some, [place for place in range(len(labels)) if place not in some]


def with_examples(
    lm: hs.BaseLM, held_out: Sequence[Described], words: TfidfVectorizer, draws: int
) -> None:
    """Print the mean AUROC of every way and number of examples."""
    found: dict[str, dict[int, list[float]]] = {}
    with ProgressBar("with examples", len(held_out), quarters=True) as bar:
        for one in held_out:
            alone = hs.condition(one.condition, lm=lm, about=one.about)
            plain = condition_scores(lm, alone, asked(one.texts, one.about))
            for count in COUNTS:
                for some, left in splits(one, count, draws):
                    scores = {"words alone": plain, **scored(lm, one, some, words)}
                    labels = labels_of(one)[left]
                    for way, values in scores.items():
                        area = float(auroc(values[left][labels], values[left][~labels]))
                        found.setdefault(way, {}).setdefault(count, []).append(area)
            bar.advance(1)
    print("| way | " + " | ".join(f"AUROC, {n} examples" for n in COUNTS) + " |")
    print("|---" * (len(COUNTS) + 1) + "|")
    for way, by_count in found.items():
        cells = [told(bootstrap(by_count[n])) if n in by_count else "" for n in COUNTS]
        print("| " + " | ".join([way, *cells]) + " |")


def scored(
    lm: hs.BaseLM, one: Described, some: list[int], words: TfidfVectorizer
) -> dict[str, Tensor]:
    """Scores of all texts by what some of them teach."""
    texts, labels = asked(one.texts, one.about), labels_of(one)
    inside = [texts[place] for place in some if labels[place]]
    outside = [texts[place] for place in some if not labels[place]]
    few = hs.condition(one.condition, lm=lm, about=one.about, inside=inside, outside=outside)
    found = {"words and examples": condition_scores(lm, few, texts)}
    if not outside:
        return found
    tokens = counts(words, one.texts)
    signs = torch.where(labels[some], 1.0, -1.0)
    found["bag of words, examples alone"] = tokens @ tokens[some].T @ signs
    for way, config in (("fit_condition", hs.ConditionConfig()), ("CAST's recipe", CAST)):
        fitted = fit(lm, one, inside, outside, config)
        if fitted is not None:
            sign = 1 if fitted.fires == "above" else -1
            found[f"{way}, examples alone"] = sign * condition_scores(lm, fitted, texts)
    return found


def fit(
    lm: hs.BaseLM,
    one: Described,
    inside: Sequence[ContrastText],
    outside: Sequence[ContrastText],
    config: hs.ConditionConfig,
) -> hs.Condition | None:
    """A condition of the examples alone; None where they are too few for the way."""
    folds = max(2, min(config.folds, len(inside), len(outside)))
    pooling = "response" if one.about == "answer" else config.pooling
    try:
        return hs.fit_condition(
            lm, inside, outside, config=replace(config, folds=folds, pooling=pooling)
        )
    except DataError:
        return None


def choose_widths(lm: hs.BaseLM, aside: Sequence[Described], draws: int) -> None:
    """Print mean AUROC and F1 by the words, and sharpened at each width of the prior."""
    head = load_head(BUNDLED)
    lessons = read_lessons(lm, aside, head.config)
    print("| turn | shift | " + " | ".join(f"AUROC; F1 with {n}" for n in COUNTS) + " |")
    print("|---" * (2 + len(COUNTS)) + "|")
    for turn in TURNS:
        for shift in SHIFTS:
            sharpen.TURN, sharpen.SHIFT = turn, shift
            cells = [at_widths(head, lessons, count, draws) for count in COUNTS]
            print("| " + " | ".join([f"{turn:g}", f"{shift:g}", *cells]) + " |", flush=True)


def at_widths(head: ConditionHead, lessons: Sequence[Lesson], count: int, draws: int) -> str:
    """Mean AUROC and F1 without and with so many examples, on the texts that are left."""
    found: list[list[float]] = [[], [], [], []]
    for one in lessons:
        about, written = one.described.about, head(one.words[:1])
        for some, left in splits(one.described, count, draws):
            made = sharpen.sharpened(head, written, one.texts[some], one.inside[some], about)
            rest, labels = one.texts[left], one.inside[left]
            for place, condition in enumerate((written, made)):
                logits = head.logits(condition, rest, about)
                found[place].append(float(auroc(logits[labels], logits[~labels])))
                found[2 + place].append(f1_of(logits, labels, 0.0))
    by_words, sharp, f1_words, f1_sharp = (sum(one) / len(one) for one in found)
    return f"{by_words:.3f} to {sharp:.3f}; {f1_words:.3f} to {f1_sharp:.3f}"


def main() -> None:
    """Choose, or measure; print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", action="store_true", help="try widths of the prior, and end")
    parser.add_argument("--draws", type=int, default=3, help="of examples, for each condition")
    parser.add_argument("--dtype", help="arithmetic of the base LM; by default float32")
    given = parser.parse_args()
    known, aside, held_out = sorted_out()
    lm = hs.load_lm("smollm2-135m-instruct", dtype=given.dtype)
    if given.widths:
        choose_widths(lm, aside, given.draws)
    else:
        with_examples(lm, held_out, bag(known), given.draws)


if __name__ == "__main__":
    sys.exit(main())
