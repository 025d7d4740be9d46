"""Contrastive texts: read from files, split, tokenised, and their pooled states at all layers."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hypersteer.errors import DataError, SteeringError, nearest, one_line, short
from hypersteer.files import package_data, path_of, read_lines
from hypersteer.lm.base import BaseLM
from hypersteer.lm.beginning import Beginning
from hypersteer.lm.chat import PromptIds, collate, length_batches
from hypersteer.lm.pooling import TokenPooling, pooled_states
from hypersteer.values import json_of

ContrastText = str | tuple[str, str]
"""A prompt, or a prompt with a response."""
Watch = Callable[[int, int], None]
"""Told how many texts of how many have been read."""

LABELS = {"in": True, "out": False}
LINE = '{"prompt": text, "label": "in" or "out"}'


class Sides(NamedTuple):
    """Texts that a condition should fire for, and texts that it should not."""

    positives: list[ContrastText]
    negatives: list[ContrastText]


class Fold(NamedTuple):
    """Places of the texts that are held out, on either side."""

    positives: list[int]
    negatives: list[int]


SHIPPED, TOPICS = "bundled:", ("health",)
"""Topics with labelled prompts that ship: `bundled:health`."""


def read_prompts(path: str | Path) -> list[str]:
    """Read prompts from lines of text, or from the `prompt` of every line of a `.jsonl` file.

    Raises:
        DataError: if it cannot be read, is malformed, or holds no prompt.
    """
    path = path_of(path, "the file of prompts", DataError)
    if path.suffix == ".jsonl":
        found = [entry["prompt"] for _, entry in _entries(path)]
    else:
        found = [line.strip() for line in _lines(path) if line.strip()]
    if not found:
        raise DataError(f"'{path}' holds no prompts; expected one a line")
    return found


def read_labelled(path: str | Path, split: str | None = None) -> Sides:
    """Read prompts of a `.jsonl` file whose lines say whether they are `in` or `out` of the topic.

    Lines with other labels are passed over.

    Args:
        path: the file; `bundled:health` is the topic that ships.
        split: only lines with this `split`, where lines have one.

    Raises:
        DataError: if it cannot be read, is malformed, or one side is empty.
    """
    path = _topic(path)
    sides = Sides([], [])
    for where, entry in _entries(path):
        label = entry.get("label")
        if not isinstance(label, str):
            raise DataError(f"{where}: label is {label!r}; expected {LINE}")
        if label in LABELS and split in (None, entry.get("split", split)):
            (sides.positives if LABELS[label] else sides.negatives).append(entry["prompt"])
    for name, side in (("in", sides.positives), ("out", sides.negatives)):
        if not side:
            of = f" of split '{split}'" if split else ""
            raise DataError(f"'{path}' holds no prompts{of} with label '{name}'; expected {LINE}")
    return sides


def make_folds(positives: int, negatives: int, count: int, seed: int) -> list[Fold]:
    """Deal both sides out at random; where they are equally many, pairs stay together.

    Raises:
        DataError: if a side is too small for two texts to be left of it in every fold.
    """
    count = min(count, positives, negatives)
    if count < 2 or min(positives, negatives) - -(-min(positives, negatives) // count) < 2:
        raise DataError(
            f"{positives} in-topic and {negatives} off-topic prompts are too few to hold some out; "
            "give at least three of each"
        )
    sizes = (positives, negatives)
    seeds = (seed, seed) if positives == negatives else (2 * seed, 2 * seed + 1)
    orders = [
        random.Random(one).sample(range(size), size) for one, size in zip(seeds, sizes, strict=True)
    ]
    return [Fold(*(order[number::count] for order in orders)) for number in range(count)]


def read_states(
    lm: BaseLM,
    texts: Sequence[ContrastText],
    layers: Sequence[int],
    pooling: TokenPooling,
    *,
    batch_tokens: int = 2048,
    watch: Watch | None = None,
) -> Float[Tensor, "N L D"]:
    """Pool the states (float32) of N texts at the outputs of L blocks, in one pass over each batch.

    What all of them begin with, the chat prefix, is run once.

    Raises:
        SteeringError: for an empty text, one that does not fit the context window, or one without
            tokens to pool.
    """
    rows = [_row(lm, text, pooling) for text in texts]
    whole = torch.zeros(len(rows), len(layers), lm.width)
    done = 0
    beginning = None
    if len(rows) > 1 and pooling != "all":
        beginning = Beginning(lm, [prompt for prompt, _ in rows], max(layers))
    before = beginning.tokens if beginning else 0
    sizes = [len(prompt.ids) + len(ids) - before for prompt, ids in rows]
    for part in length_batches(sizes, tokens=batch_tokens):
        prompts, responses = zip(*(rows[place] for place in part), strict=True)
        batch = collate(prompts, responses, pad_id=lm.chat.pad_id).to(lm.device)
        whole[part] = pooled_states(lm, batch, layers, pooling, beginning).cpu()
        done += len(part)
        if watch is not None:
            watch(done, len(rows))
    return whole


def check_contrast(text: object) -> None:
    """Refuse what is neither a prompt nor a prompt with a response.

    Raises:
        SteeringError: naming it.
    """
    if not isinstance(text, str) and not (
        isinstance(text, tuple) and len(text) == 2 and all(isinstance(part, str) for part in text)
    ):
        raise SteeringError(
            f"a contrastive text is a prompt or a pair (prompt, response), not {short(text)}"
        )


def _row(lm: BaseLM, text: ContrastText, pooling: TokenPooling) -> tuple[PromptIds, list[int]]:
    check_contrast(text)
    words, response = (text, "") if isinstance(text, str) else text
    prompt = lm.chat.prompt(words)
    ids = lm.chat.response(response) if response else []
    lm.check_length(len(prompt.ids) + len(ids), "a contrastive text")
    if pooling == "response" and not ids:
        raise SteeringError(f"the text {words!r} has no response to pool; give (prompt, response)")
    return prompt, ids


def _topic(path: str | Path) -> Path:
    """Return a file of labelled prompts: the user's, or one that ships."""
    name = str(path).removeprefix(SHIPPED)
    if name == str(path):
        return path_of(path, "the file of prompts", DataError)
    if name not in TOPICS:
        raise DataError(
            f"no topic {name!r} ships{nearest(name, TOPICS)}; there is "
            f"{', '.join(SHIPPED + topic for topic in TOPICS)}, or give a file"
        )
    return package_data("data", "topics", f"{name}.jsonl")


def _entries(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Read the objects of a `.jsonl` file with a `prompt` each, and where they stand."""
    found = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entry = json_of(line)
        except ValueError as error:
            raise DataError(f"{where} is not JSON: {one_line(error)}") from error
        prompt = entry.get("prompt") if isinstance(entry, dict) else None
        if not isinstance(prompt, str) or not prompt.strip():
            raise DataError(f"{where} has no prompt; expected {LINE}")
        found.append((where, entry))
    return found


def _lines(path: Path) -> list[str]:
    try:
        return read_lines(path)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the prompts in '{path}': {one_line(error)}") from error
