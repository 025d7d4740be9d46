"""What a few examples add to the words of a condition, on conditions held out.

    python experiments/condition_examples.py --widths
    python experiments/condition_examples.py
    python experiments/condition_examples.py --health

The words sharpened by examples, beside the words alone and what is learnt from the same examples
alone: fit_condition, CAST's recipe, a bag of words; each tested on the texts that are left.
`--widths` tries widths of the sharpening's prior on the conditions that training put aside;
`--health` has more examples, of the bundled topic.
"""

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from condition_rivals import bag, counts, f1_of, labels_of, margins, sorted_out, told
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor

import hypersteer as hs
from hypersteer.conditions import sharpen
from hypersteer.conditions.contrasts import ContrastText, read_labelled
from hypersteer.conditions.described import Described
from hypersteer.conditions.head import BUNDLED, ConditionHead, load_head
from hypersteer.conditions.lessons import Lesson, asked, read_lessons
from hypersteer.errors import DataError
from hypersteer.progress import ProgressBar
from hypersteer.stats import auroc, bootstrap

COUNTS = (1, 4, 16)
"""Examples beside the words; of one it is true, else of half of them."""
LEAST = 2
"""Texts that must be left on either side to test with."""
TURNS, SHIFTS = (0.05, 0.1, 0.2, 0.4), (0.3, 1.0, 2.0)

ON_HEALTH, HEALTH = (4, 16, 100), "asks about health"
"""Examples of the bundled topic, half of either side."""

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
    """Print mean AUROC and F1 of every way and number of examples, on held-out conditions."""
    found = Found()
    with ProgressBar("with examples", len(held_out), quarters=True) as bar:
        for one in held_out:
            alone = hs.condition(one.condition, lm=lm, about=one.about)
            plain = margins(lm, alone, asked(one.texts, one.about))
            for count in COUNTS:
                for some, left in splits(one, count, draws):
                    found.add(
                        one, count, {"words alone": plain} | scored(lm, one, some, words), left
                    )
            bar.advance(1)
    found.show(COUNTS)


def on_health(lm: hs.BaseLM, words: TfidfVectorizer, draws: int) -> None:
    """Print the same of the bundled topic, with more examples, on its test prompts."""
    found = Found()
    learnt, tested = (read_labelled("bundled:health", split) for split in ("train", "test"))
    alone = hs.condition(HEALTH, lm=lm)
    for count in ON_HEALTH:
        for number in range(draws):
            draw, half = random.Random(f"{count} {number}"), count // 2
            inside, outside = (draw.sample(side, half) for side in learnt)
            one = Described(
                condition=HEALTH,
                inside=tuple(map(str, (*inside, *tested.positives))),
                off=tuple(map(str, (*outside, *tested.negatives))),
            )
            second = len(one.inside)
            some = [*range(half), *range(second, second + half)]
            left = [place for place in range(len(one.texts)) if place not in some]
            plain = margins(lm, alone, list(one.texts))
            found.add(one, count, {"words alone": plain} | scored(lm, one, some, words), left)
    found.show(ON_HEALTH)


class Found:
    """AUROC and F1 by way and number of examples."""

    def __init__(self) -> None:
        self._found: dict[str, dict[int, list[tuple[float, float]]]] = {}

    def add(
        self, one: Described, count: int, scores: dict[str, Tensor], left: Sequence[int]
    ) -> None:
        """Note how well scores tell the texts that are left."""
        labels = labels_of(one)[left]
        for way, values in scores.items():
            inside, outside = values[left][labels], values[left][~labels]
            figures = float(auroc(inside, outside)), f1_of(values[left], labels, 0.0)
            self._found.setdefault(way, {}).setdefault(count, []).append(figures)

    def show(self, counts: Sequence[int]) -> None:
        """Print a table of them."""
        print("| way | " + " | ".join(f"AUROC; F1, {n} examples" for n in counts) + " |")
        print("|---" * (len(counts) + 1) + "|")
        for way, by_count in self._found.items():
            cells = [way]
            for count in counts:
                figures = by_count.get(count, [])
                areas = [area for area, _ in figures]
                f1 = sum(value for _, value in figures) / max(1, len(figures))
                cells.append(f"{told(bootstrap(areas))}; {f1:.3f}" if figures else "")
            print("| " + " | ".join(cells) + " |")


def scored(
    lm: hs.BaseLM, one: Described, some: list[int], words: TfidfVectorizer
) -> dict[str, Tensor]:
    """Scores of all texts by what some of them teach, above 0 where they fire."""
    texts, labels = asked(one.texts, one.about), labels_of(one)
    inside = [texts[place] for place in some if labels[place]]
    outside = [texts[place] for place in some if not labels[place]]
    found = {}
    if len(some) <= sharpen.MOST:
        few = hs.condition(one.condition, lm=lm, about=one.about, inside=inside, outside=outside)
        found["words and examples"] = margins(lm, few, texts)
    if not outside:
        return found
    tokens = counts(words, one.texts)
    signs = torch.where(labels[some], 1.0, -1.0)
    found["bag of words, examples alone"] = tokens @ tokens[some].T @ signs
    for way, config in (("fit_condition", hs.ConditionConfig()), ("CAST's recipe", CAST)):
        fitted = fit(lm, one, inside, outside, config)
        if fitted is not None:
            found[f"{way}, examples alone"] = margins(lm, fitted, texts)
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
    parser.add_argument("--health", action="store_true", help="the bundled topic, more examples")
    parser.add_argument("--draws", type=int, default=3, help="of examples, for each condition")
    parser.add_argument("--dtype", help="arithmetic of the base LM; by default float32")
    given = parser.parse_args()
    known, aside, held_out = sorted_out()
    lm = hs.load_lm("smollm2-135m-instruct", dtype=given.dtype)
    if given.widths:
        choose_widths(lm, aside, given.draws)
    elif given.health:
        on_health(lm, bag(known), given.draws)
    else:
        with_examples(lm, held_out, bag(known), given.draws)


if __name__ == "__main__":
    sys.exit(main())
