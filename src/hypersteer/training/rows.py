"""The rows of a run: open concept data, split them by concept, tokenise, lay out batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hypersteer.config import DataConfig, LossConfig
from hypersteer.data.batches import Tokenised, TrainingBatches, ValidationRow, validation_rows
from hypersteer.data.showing import Showing
from hypersteer.data.sources import ConceptData, load_concepts
from hypersteer.data.splits import Split, split_as
from hypersteer.errors import one_line
from hypersteer.lm.base import BaseLM

NAMED = 5
"""So few held-out concepts are named where a run is summed up."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a run.

    Attributes:
        data: where they come from.
        batches: training batches by step.
        validation: `held_in` and `held_out` rows; a kind without rows is absent.
        concepts: steering prompts trained on.
        held_out: steering prompts never trained on.
        summary: one line about all this.
    """

    data: ConceptData
    batches: TrainingBatches
    validation: dict[str, list[ValidationRow]]
    concepts: tuple[str, ...]
    held_out: tuple[str, ...]
    summary: str


def prepare_rows(
    config: DataConfig,
    loss: LossConfig,
    lm: BaseLM,
    *,
    seed: int,
    batch_size: int,
    share: tuple[int, int] = (0, 1),
    together: bool = False,
) -> Rows:
    """Open the data, split them by concept, tokenise them, and lay out batches.

    Args:
        config: sources and limits.
        loss: what is minimised, which says what training rows carry.
        lm: the base LM, whose templates and context window count.
        seed: of the split and the batches.
        batch_size: rows of a step and process.
        share: this process's number and the number of processes.
        together: whether the hypernetwork reads steering prompt and base prompt as one.

    Raises:
        DataError: if the data cannot be read or leave nothing to train on.
        ConfigError: if a limit leaves nothing.
        SteeringError: if a limit or a concept is too long for the base LM.
    """
    lm.check_length(
        config.max_prompt_tokens + config.max_response_tokens,
        "data.max_prompt_tokens + data.max_response_tokens",
    )
    data = load_concepts(config.source)
    split = split_as(data, config, seed)
    tokens = Tokenised(
        data,
        lm.chat,
        config.max_prompt_tokens,
        config.max_response_tokens,
        prompting=loss.objective in ("distillation", "activations"),
        window=lm.context_window,
        together=together,
        beside=loss.prompted,
    )
    _check_concepts(tokens, split, lm)
    batches = TrainingBatches(
        tokens,
        split.train,
        split.train_concepts,
        batch_size * share[1],
        seed,
        Showing.of(loss),
    )
    batches.batch(0, share)  # so that rows of which none fits are told here
    validation, left_out = _validation(tokens, split, config.max_validation_rows, seed)
    return Rows(
        data=data,
        batches=batches,
        validation={name: rows for name, rows in validation.items() if rows},
        concepts=tuple(data.concept(id_).text for id_ in split.train_concepts),
        held_out=tuple(data.concept(id_).text for id_ in split.held_out_concepts),
        summary=(
            f"{data.summary()}; training on {len(split.train):,} rows of "
            f"{len(split.train_concepts)} concepts, validating on "
            f"{len(validation['held_in']):,} held-in and {len(validation['held_out']):,} held-out "
            f"rows ({_named(data, split.held_out_concepts)})"
            + (f"; {left_out:,} more that do not fit are left out" if left_out else "")
        ),
    )


def _named(data: ConceptData, ids: Sequence[int]) -> str:
    """Return how many concepts these are, and where they are few, which."""
    count = f"{len(ids)} concept{'' if len(ids) == 1 else 's'}"
    texts = ", ".join(repr(one_line(data.concept(id_).text, 60)) for id_ in ids)
    return f"{count}: {texts}" if 0 < len(ids) <= NAMED else count


def _check_concepts(tokens: Tokenised, split: Split, lm: BaseLM) -> None:
    """Refuse a concept that does not fit the context window."""
    for id_ in (*split.train_concepts, *split.held_out_concepts):
        lm.check_length(
            tokens.read_alone(id_), f"concept {id_}, {one_line(tokens.text(id_), 60)!r},"
        )


def _validation(
    tokens: Tokenised, split: Split, limit: int | None, seed: int
) -> tuple[dict[str, list[ValidationRow]], int]:
    """Return the validation rows, held in and held out, and how many were left out."""
    held_in, unseen = _spread(split.held_in, limit), _spread(split.held_out, limit)
    held_out = split.held_out_concepts
    # A single held-out concept has no other of its kind to be wrong with.
    wrong = held_out if len(held_out) > 1 else (*held_out, *split.train_concepts)
    kept = {
        "held_in": validation_rows(tokens, held_in, split.train_concepts, seed),
        "held_out": validation_rows(tokens, unseen, wrong, seed),
    }
    return kept, len(held_in) + len(unseen) - sum(map(len, kept.values()))


def _spread(rows: np.ndarray, limit: int | None) -> np.ndarray:
    """Return at most `limit` rows, evenly from all, so that every concept keeps its share."""
    if limit is None or limit >= len(rows):
        return rows
    return rows[np.linspace(0, len(rows) - 1, limit).round().astype(int)]
