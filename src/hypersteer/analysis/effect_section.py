"""The section on effect: divergence token by token, and effect against strength."""

from dataclasses import asdict
from typing import Any

import pyarrow as pa

from hypersteer.analysis.effect import (
    EXCESS_NATS,
    PROMPTS,
    REPEATED,
    Point,
    SteeredAnswer,
    breaking_strength,
    point,
    steered_answers,
    whole_limit,
)
from hypersteer.analysis.effect_figures import draw_strengths, draw_tokens
from hypersteer.analysis.section import Drawing, Listing, Section
from hypersteer.analysis.subject import Subject
from hypersteer.config.analysis import AnalysisConfig
from hypersteer.progress import ProgressBar


def effect_section(subject: Subject, config: AnalysisConfig) -> Section:
    """Measure what the edit of each steering prompt does, strength by strength."""
    limit = whole_limit(subject, config)
    answers: dict[str, list[SteeredAnswer]] = {}
    curves: dict[str, list[Point]] = {}
    steps = [(text, strength) for text in subject.steer for strength in sorted(config.strengths)]
    with ProgressBar("steering", len(steps), transient=True) as bar:
        for text, strength in steps:
            found = steered_answers(subject, text, strength, config)
            answers.setdefault(text, []).extend(found)
            curves.setdefault(text, [])
            if found:
                curves[text].append(point(found, limit))
            bar.advance(1)
    kept = {text: curve for text, curve in curves.items() if curve}
    every = [one for own in answers.values() for one in own]
    if not every:
        note = "Every steered answer was empty, so there is nothing to measure."
        return Section(name="effect", title="Effect of an edit", notes=[note])
    shown = min(every, key=lambda one: abs(one.strength - 1))
    return Section(
        name="effect",
        title="Effect of an edit",
        notes=_notes(subject, limit),
        drawings=[
            Drawing("effect_strengths", *draw_strengths(kept, limit)),
            Drawing("effect_tokens", *draw_tokens(shown)),
        ],
        listings=[_listing(kept), _samples(every, shown.prompt)],
        numbers={
            "limit_of_perplexity": limit,
            "limit_of_repetition": REPEATED,
            "curves": {text: [asdict(one) for one in curve] for text, curve in kept.items()},
            "breaks_at": {text: breaking_strength(curve) for text, curve in kept.items()},
        },
        tables={"effect_tokens": _table(every)},
    )


def _notes(subject: Subject, limit: float) -> list[str]:
    asked = min(PROMPTS, len(subject.prompts))
    rule = (
        f"{asked} base prompts are answered greedily at each strength. A text counts as broken "
        f"where its median perplexity under the unsteered base LM is above {limit:.1f}, which is "
        f"{EXCESS_NATS:g} nats a token more than in the base LM's own answers, or where more than "
        f"{100 * REPEATED:.0f} % of its three-token sequences were there before. Such limits take "
        "70 % of the answers that readers called broken, 29 % of the flawed and 10 % of the whole."
    )
    notes = [rule]
    if subject.steerer.card.prompted:
        notes.append(
            "The checkpoint's edits act beside prompts that say the steering prompt. It is said "
            "with the edit and without, so the divergence is the edit's alone."
        )
    return notes


def _listing(curves: dict[str, list[Point]]) -> Listing:
    rows = [
        [
            text,
            f"{one.strength:g}",
            f"{one.mean_kl:.3f}",
            f"{one.perplexity:.1f}",
            f"{100 * one.repeated:.0f} %",
            one.broken or "-",
        ]
        for text, curve in curves.items()
        for one in curve
    ]
    columns = ["steering prompt", "strength", "mean KL", "perplexity", "repeated", "broken by"]
    return Listing("Effect by strength", columns, rows)


def _samples(answers: list[SteeredAnswer], prompt: str) -> Listing:
    rows = [
        [one.steer, f"{one.strength:g}", one.response] for one in answers if one.prompt == prompt
    ]
    title = f"Answers to \u201c{prompt}\u201d"
    return Listing(title, ["steering prompt", "strength", "answer"], rows)


def _table(answers: list[SteeredAnswer]) -> pa.Table:
    """Return one row per token of every steered answer."""
    rows: list[dict[str, Any]] = [
        {
            "steer": one.steer,
            "prompt": one.prompt,
            "strength": one.strength,
            "perplexity": one.perplexity,
            "repeated": one.repeated,
            "place": place,
            "token": token.text,
            "kl": token.kl,
        }
        for one in answers
        for place, token in enumerate(one.tokens)
    ]
    return pa.Table.from_pylist(rows)
