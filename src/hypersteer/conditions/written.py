"""Conditions from words alone: read by the base LM's lower blocks, written by a head."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import nn

from hypersteer.conditions.condition import Condition
from hypersteer.conditions.contrasts import ContrastText, check_contrast
from hypersteer.conditions.described import About
from hypersteer.conditions.head import ABOUT, ConditionHead, head_for
from hypersteer.conditions.lessons import POOLING, read_words
from hypersteer.conditions.score import check_words
from hypersteer.conditions.sharpen import MOST, NONE, Examples, read_examples, sharpened
from hypersteer.config.reading import check_choice
from hypersteer.errors import ConfigError, SteeringError, shown
from hypersteer.lm.base import BaseLM
from hypersteer.values import as_real

ANSWER = "the answer "
"""What words about the answer begin with in a rule."""
MOST_KEPT = 256
"""Conditions that are kept for a base LM, so that a rule's are made once."""

_Key = tuple[str, str, Path, float, float | None, Examples]
_kept: WeakKeyDictionary[nn.Module, OrderedDict[_Key, Condition]] = WeakKeyDictionary()


def condition(
    words: str,
    *,
    lm: BaseLM,
    about: About | None = None,
    above: float = 0.5,
    false_positives: float | None = None,
    inside: Sequence[ContrastText] = (),
    outside: Sequence[ContrastText] = (),
    head: str | Path | None = None,
) -> Condition:
    """Make a condition from words, with no examples or a few.

    It costs one pass of the base LM's lower blocks over the words, and over the examples. What it
    says of a text is a probability, `Condition.probabilities`.

    Args:
        words: when it holds, such as "asks about health" or "the answer has begun to list things".
        lm: the base LM whose states it will read.
        about: whether the words are about the `prompt`, or about the `answer` as far as it is
            written; by default the answer where they begin with "the answer".
        above: the probability above which it fires; a guard that should rather fire once too often
            has a low one, such as 0.2.
        false_positives: share of texts of many kinds on which it may fire at most, such as 0.02,
            for a condition that is rarely true; the threshold is raised as far as that needs.
        inside: a few texts of which it is true: prompts; of a condition about the answer, answers
            or pairs of prompt and answer. They sharpen it, see `hypersteer.conditions.sharpen`.
        outside: a few texts of which it is not true, likewise.
        head: file of the head that writes it; by default the one that ships for this base LM.

    Raises:
        SteeringError: for words that say nothing, examples that cannot be read or are more than
            32, or a share that the head cannot keep to.
        ConfigError: for a probability or a share that is not between 0 and 1.
        CheckpointError: if the head cannot be read, is not for this base LM, or none ships for it.
    """
    check_words(words)
    above = check_share("above", above)
    if false_positives is not None:
        false_positives = check_share("false_positives", false_positives)
    told, about = split_about(words, about)
    examples = check_examples(inside, outside)
    path, writes = head_for(lm, head)
    kept = _kept.setdefault(lm.model, OrderedDict())
    key = told, about, path, above, false_positives, examples
    if key not in kept:
        made = write_condition(writes, told, lm, about, name=words.strip(), examples=examples)
        kept[key] = _within(_firing(made, above), writes, about, false_positives)
        if len(kept) > MOST_KEPT:
            kept.popitem(last=False)
    kept.move_to_end(key)
    return kept[key]


@torch.no_grad()
def write_condition(
    head: ConditionHead,
    words: str,
    lm: BaseLM,
    about: About,
    *,
    name: str = "",
    examples: Examples = NONE,
) -> Condition:
    """Return the condition that a head writes, and examples sharpen; see `condition`."""
    written = head(read_words(lm, [words], head.config).to(head.means.device))
    note = f"written from the words {words!r}"
    if count := len(examples.inside) + len(examples.outside):
        states = read_examples(lm, examples, head, about)
        written = sharpened(
            head, written, states, torch.arange(count) < len(examples.inside), about
        )
        note += f" and {count} examples"
    kind, slope, offset = ABOUT.index(about), float(written.slopes[0]), float(written.offsets[0])
    layers = head.config.layers
    return Condition(
        name=name or words,
        directions=written.directions[0],
        means=head.means[kind],
        scales=head.scales[kind],
        fitted=layers,
        layers=layers,
        joined="mean",
        threshold=-offset / slope,
        calibration=(slope, offset),
        pooling=POOLING[about],  # type: ignore[arg-type]
        base_lm=str(lm.identity),
        note=note,
    )


def split_about(words: str, about: About | None = None) -> tuple[str, About]:
    """Return words without "the answer" before them, and what they are about.

    Raises:
        ConfigError: if that is neither the prompt nor the answer.
    """
    told = words.strip()
    named = told.lower().startswith(ANSWER)
    if about is None:
        about = "answer" if named else "prompt"
    check_choice("about", about, About)
    return (told[len(ANSWER) :] if named and about == "answer" else told), about


def check_share(name: str, value: float) -> float:
    """Return a probability or a share of texts, checked.

    Raises:
        ConfigError: if it is not between 0 and 1.
    """
    share = as_real(value)
    if share is None or not 0 < share < 1:
        kind, such = ("share", 0.02) if name == "false_positives" else ("probability", 0.5)
        raise ConfigError(f"{name} {shown(value)} is not a {kind} between 0 and 1; try {such}")
    return share


def check_examples(
    inside: Sequence[ContrastText] = (), outside: Sequence[ContrastText] = ()
) -> Examples:
    """Return a few examples of a condition, checked as far as can be without a model.

    Raises:
        SteeringError: for one text in place of a list, too many, or one that is on both sides.
    """
    for name, texts in (("inside", inside), ("outside", outside)):
        if isinstance(texts, str):
            raise SteeringError(f"{name} is one text, {shown(texts)}; give a list of texts")
        for text in texts:
            check_contrast(text)
    count = len(inside) + len(outside)
    if count > MOST:
        raise SteeringError(
            f"{count} examples are more than the {MOST} that sharpen words; with so many, "
            "fit_condition learns the condition from them alone"
        )
    if both := [text for text in inside if text in outside]:
        raise SteeringError(f"the example {shown(both[0])} is inside and outside; leave one")
    return Examples(tuple(inside), tuple(outside))


def _firing(made: Condition, above: float) -> Condition:
    """Return a condition that fires above a probability; as it is written, that is a half."""
    if above == 0.5 or made.calibration is None:
        return made
    slope, offset = made.calibration
    threshold = (math.log(above / (1 - above)) - offset) / slope
    return replace(made, threshold=threshold, note=f"{made.note}; above {above:g}")


def _within(
    made: Condition, head: ConditionHead, about: About, false_positives: float | None
) -> Condition:
    """Return a condition that fires on at most a share of texts of many kinds."""
    if false_positives is None:
        return made
    limit = head.budget(made.directions.to(head.means.device), about, false_positives)
    note = f"{made.note}; on at most {false_positives:g} of texts of many kinds"
    return replace(made, threshold=max(made.threshold, limit), note=note)
