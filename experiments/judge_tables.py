"""Tables of how far judges' scores agree with the labels of the answers."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from judge_calibration import area

from hypersteer.judges.agreement import kendall_tau, ordered_alike, spearman, weighted_kappa
from hypersteer.judges.gold import GoldAnswer
from hypersteer.judges.judge import DIMENSIONS, harmonic_mean

Scores = dict[str, list[float]]
"""Scores by dimension, one for each answer."""


def overall(scores: Scores) -> list[float]:
    """Harmonic means of the three dimensions."""
    return [harmonic_mean(row) for row in zip(*(scores[d] for d in DIMENSIONS), strict=True)]


def means(
    gold: Sequence[GoldAnswer], scores: Sequence[float], key: Callable[[GoldAnswer], Hashable]
) -> list[float]:
    """Mean scores of groups of answers, in the order in which the groups begin."""
    groups: dict[Hashable, list[float]] = {}
    for one, score in zip(gold, scores, strict=True):
        groups.setdefault(key(one), []).append(score)
    return [float(np.mean(group)) for group in groups.values()]


def table_of_methods(gold: Sequence[GoldAnswer], judges: dict[str, Scores]) -> None:
    """Print mean overall scores by base LM and method, and how far their orders agree."""
    readers = overall({d: [float(one.labels[d]) for one in gold] for d in DIMENSIONS})
    columns = {"readers": readers, **{name: overall(scores) for name, scores in judges.items()}}
    places = dict.fromkeys((one.lm, one.method) for one in gold)
    rows = zip(*(means(gold, c, lambda g: (g.lm, g.method)) for c in columns.values()), strict=True)
    print(f"\n| base LM | method | answers | {' | '.join(columns)} |")
    print(f"|---|---|{'---|' * (len(columns) + 1)}")
    for (lm, method), row in zip(places, rows, strict=True):
        count = sum((one.lm, one.method) == (lm, method) for one in gold)
        print(f"| {lm} | {method} | {count} | {' | '.join(f'{mean:.2f}' for mean in row)} |")
    names = (*DIMENSIONS, "overall")
    print(f"\n| order of {len(places)} methods: tau (pairs) | {' | '.join(names)} |\n|{'---|' * 5}")
    labels = {d: [float(one.labels[d]) for one in gold] for d in DIMENSIONS} | {"overall": readers}
    for judge, scores in judges.items():
        own = scores | {"overall": columns[judge]}
        pairs = [
            [means(gold, x[d], lambda g: (g.lm, g.method)) for x in (labels, own)] for d in names
        ]
        cells = [f"{kendall_tau(*pair):.2f} ({ordered_alike(*pair):.0%})" for pair in pairs]
        print(f"| {judge} | {' | '.join(cells)} |")


def table_of_answers(gold: Sequence[GoldAnswer], judges: dict[str, Scores]) -> None:
    """Print the rank correlations with the labels, and what tells whole text from broken."""
    apart = " | ".join(f"{name}: 2 from 0" for name in ("concept", "fluency"))
    print(f"\n| judge | {' | '.join(DIMENSIONS)} | overall | {apart} |\n|{'---|' * 7}")
    labels = {d: [float(one.labels[d]) for one in gold] for d in DIMENSIONS}
    for name, scores in judges.items():
        found = [spearman(labels[d], scores[d]) for d in DIMENSIONS]
        found.append(spearman(overall(labels), overall(scores)))
        for d in ("concept", "fluency"):
            apart = [
                [s for s, x in zip(scores[d], labels[d], strict=True) if x == want]
                for want in (2, 0)
            ]
            found.append(area(*apart))
        print(f"| {name} | {' | '.join(f'{one:.3f}' for one in found)} |")


def table_of_readers(gold: Sequence[GoldAnswer]) -> None:
    """Print how far two readings agree."""
    twice = [(one.labels, one.second) for one in gold if one.second is not None]
    print(f"\n| {len(twice)} answers read twice | weighted kappa | same label |\n|---|---|---|")
    for d in DIMENSIONS:
        first, second = [a[d] for a, _ in twice], [b[d] for _, b in twice]
        same = np.mean([a == b for a, b in zip(first, second, strict=True)])
        print(f"| {d} | {weighted_kappa(first, second):.2f} | {same:.0%} |")
