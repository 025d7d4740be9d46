"""Conditions in words against other ways to tell texts apart by words, on conditions held out.

    python experiments/condition_rivals.py --embedder FOLDER --judge qwen2.5-coder-1.5b-instruct

The head that ships; cosines of the words with the text in a sentence embedding and in a bag of
words; the base LM and an independent judge, asked with Yes or No. Thresholds of scores that have
none of their own are those of the best mean F1 on the conditions that training put aside.
What is scored is kept in --out, so that an interrupted run goes on.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

import hypersteer as hs
from hypersteer.conditions.contrasts import ContrastText
from hypersteer.conditions.described import Described, read_described
from hypersteer.conditions.fit import condition_scores
from hypersteer.conditions.lessons import asked
from hypersteer.conditions.teach import ASIDE
from hypersteer.config import JudgeConfig
from hypersteer.judges.choose import open_asker
from hypersteer.progress import ProgressBar
from hypersteer.stats import Interval, auroc, bootstrap
from hypersteer.synthesis.condition_prompts import ask_holds

Score = Callable[[Described], Tensor]
"""Scores of a condition's texts, from its words."""
CHOSEN_BY = 84
"""Conditions put aside that choices are made by: those there were when the first were made."""


class Kept:
    """Scores by way and condition, in one file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[tuple[str, str], list[float]] = {}
        if path.exists():
            for line in path.read_text("utf-8").splitlines():
                way, condition, scores = json.loads(line)
                self.found[way, condition] = scores

    def scored(self, way: str, conditions: Sequence[Described], score: Score) -> dict[str, Tensor]:
        """Return the scores of conditions' texts, and keep those that are new."""
        with (
            ProgressBar(way, len(conditions)) as bar,
            self.path.open("a", encoding="utf-8") as file,
        ):
            for one in conditions:
                key = way, one.condition
                if key not in self.found:
                    self.found[key] = score(one).tolist()
                    file.write(json.dumps([*key, self.found[key]]) + "\n")
                    file.flush()
                bar.advance(1)
        return {one.condition: torch.tensor(self.found[way, one.condition]) for one in conditions}


def sorted_out() -> tuple[list[Described], list[Described], list[Described]]:
    """Bundled conditions: those not held out, which of these were put aside, and held-out ones."""
    every = read_described()
    known = [one for one in every if not one.held_out]
    return known, known[ASIDE - 1 :: ASIDE][:CHOSEN_BY], [one for one in every if one.held_out]


def labels_of(one: Described) -> Tensor:
    """Of which texts it is true."""
    return torch.arange(len(one.texts)) < len(one.inside)


def margins(lm: hs.BaseLM, made: hs.Condition, texts: Sequence[ContrastText]) -> Tensor:
    """How far texts lie above where a condition fires."""
    sign = 1 if made.fires == "above" else -1
    return sign * (condition_scores(lm, made, texts) - made.threshold)


def f1_of(scores: Tensor, labels: Tensor, threshold: float) -> float:
    """F1 of firing above a threshold."""
    fired = scores > threshold
    hits = int((fired & labels).sum())
    return 2 * hits / max(1, int(fired.sum()) + int(labels.sum()))


def best_threshold(aside: Sequence[Described], scores: dict[str, Tensor]) -> float:
    """The threshold of the best mean F1 over conditions."""
    every = torch.cat(list(scores.values())).unique()

    def mean(threshold: float) -> float:
        f1 = [f1_of(scores[one.condition], labels_of(one), threshold) for one in aside]
        return sum(f1) / len(f1)

    return max((every[:: max(1, len(every) // 400)]).tolist(), key=mean)


def row(way: str, conditions: Sequence[Described], scores: dict[str, Tensor], above: float) -> None:
    """Print one line of the table of words."""
    found: dict[str, list[float]] = {name: [] for name in ("auroc", "f1", "near", "off")}
    for one in conditions:
        values, labels = scores[one.condition], labels_of(one)
        found["auroc"].append(float(auroc(values[labels], values[~labels])))
        found["f1"].append(f1_of(values, labels, above))
        fired = (values > above).float()
        first, last = len(one.inside), len(one.inside) + len(one.near)
        if one.near:
            found["near"].append(float(fired[first:last].mean()))
        found["off"].append(float(fired[last:].mean()))
    near, off = (sum(found[name]) / len(found[name]) for name in ("near", "off"))
    cells = [told(bootstrap(found["auroc"])), told(bootstrap(found["f1"])), f"{near:.2f}"]
    print("| " + " | ".join([way, *cells, f"{off:.2f}"]) + " |", flush=True)


def told(value: Interval) -> str:
    """An interval as a cell."""
    return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"


def embedded(folder: str) -> Score:
    """Cosines in a sentence embedding: mean of the last states, as all-MiniLM-L6-v2 is used."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder)

    @torch.no_grad()
    def score(one: Described) -> Tensor:
        batch = tokenizer([one.condition, *one.texts], padding=True, return_tensors="pt")
        mask = batch["attention_mask"][..., None]
        states = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
        vectors = F.normalize(states, dim=-1)
        return vectors[1:] @ vectors[0]

    return score


def bag(known: Sequence[Described]) -> TfidfVectorizer:
    """A bag of words whose weights are of the conditions that are not held out."""
    texts = [text for one in known for text in (*one.wordings, *one.texts)]
    return TfidfVectorizer(sublinear_tf=True, stop_words="english").fit(texts)


def counts(words: TfidfVectorizer, texts: Sequence[str]) -> Tensor:
    """Weighted counts of the words of texts, of unit length."""
    found: Any = words.transform(texts)
    return torch.tensor(found.toarray()).float()


def asking(name: str) -> Score:
    """Log-odds of Yes that a model gives, asked about one text at a time."""
    asker = open_asker(JudgeConfig(model=name))

    def score(one: Described) -> Tensor:
        questions = [ask_holds(text, one.condition, one.about) for text in one.texts]
        found = asker.ask(questions)
        unclear = [value for value in found if not isinstance(value, float)]
        if unclear:
            print(f"{name}: {len(unclear)} answered neither way, {unclear[0]}", file=sys.stderr)
        return torch.tensor([value if isinstance(value, float) else 0.0 for value in found])

    return score


def main() -> None:
    """Score, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/condition_rivals"))
    parser.add_argument("--embedder", help="folder of all-MiniLM-L6-v2; left out without it")
    parser.add_argument("--judge", help="a model that is asked; left out without it")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    known, aside, held_out = sorted_out()
    lm = hs.load_lm("smollm2-135m-instruct")
    kept, words = Kept(given.out / "scores.jsonl"), bag(known)

    def ours(one: Described) -> Tensor:
        made = hs.condition(one.condition, lm=lm, about=one.about)
        return margins(lm, made, asked(one.texts, one.about))

    def counted(one: Described) -> Tensor:
        vectors = counts(words, [one.condition, *one.texts])
        return vectors[1:] @ vectors[0]

    ways: dict[str, Score] = {"the head that ships": ours, "bag of words": counted}
    if given.embedder:
        ways["sentence embedding"] = embedded(given.embedder)
    ways["base LM, asked"] = asking("smollm2-135m-instruct")
    if given.judge:
        ways[f"{given.judge}, asked"] = asking(given.judge)
    print("| words only | AUROC | F1 | near misses that fire | others that fire |")
    print("|---" * 5 + "|")
    for way, score in ways.items():
        own = way == "the head that ships" or way.startswith(given.judge or "\n")
        above = 0.0 if own else best_threshold(aside, kept.scored(way, aside, score))
        row(way, held_out, kept.scored(way, held_out, score), above)


if __name__ == "__main__":
    sys.exit(main())
