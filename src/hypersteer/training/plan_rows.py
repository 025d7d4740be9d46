"""Lengths of the rows that a planned run would see: real ones, or those taken for granted."""

from collections.abc import Sequence
from typing import NamedTuple

from hypersteer.config import PlanConfig, TrainConfig
from hypersteer.data.batches import Tokenised, TrainingBatches
from hypersteer.data.locate import is_at_hand
from hypersteer.data.showing import Showing
from hypersteer.data.sources import load_concepts
from hypersteer.data.splits import split_as
from hypersteer.hypernet.step_flops import RowLengths, as_contrasted, row_lengths
from hypersteer.lm.chat import Chat
from hypersteer.lm.skeleton import Skeleton

STEPS = 32
"""Steps whose rows are looked at, where data are at hand."""


class PlannedRows(NamedTuple):
    """Rows of some steps of a run.

    Attributes:
        steps: lengths of the rows of each step, of one process.
        told: where they come from, in words.
        rows: training rows in all; None where nobody knows.
    """

    steps: list[list[RowLengths]]
    told: str
    rows: int | None


def planned_rows(config: TrainConfig, lm: Skeleton) -> PlannedRows:
    """Return the rows of a run's first steps, or what the settings take for granted.

    Raises:
        DataError: if data that should be on this disk are not, or cannot be read.
        ConfigError: if a limit leaves nothing.
    """
    away = [source for source in config.data.source if not is_at_hand(source)]
    if away:
        return _assumed(config, f"'{away[0]}' is not on this disk")
    if lm.chat is None:
        return _assumed(config, f"no tokenizer of '{lm.name}' is on this disk")
    return _real(config, lm.chat, lm.context_window)


def _real(config: TrainConfig, chat: Chat, window: int) -> PlannedRows:
    data, loss = load_concepts(config.data.source), config.loss
    split = split_as(data, config.data, config.seed)
    tokens = Tokenised(
        data,
        chat,
        config.data.max_prompt_tokens,
        config.data.max_response_tokens,
        prompting=loss.objective in ("distillation", "activations"),
        window=window,
        together=config.hypernet.variant == "in-context",
        beside=loss.prompted,
    )
    processes, size = config.plan.processes, config.optim.batch_size
    batches = TrainingBatches(
        tokens, split.train, split.train_concepts, size * processes, config.seed, Showing.of(loss)
    )
    # Of the base LM's own answers nobody knows the lengths before they are made.
    own = [0] * (config.data.max_response_tokens if loss.needs_own_answers else 0)
    count = min(STEPS, config.optim.steps)
    steps = [
        [row_lengths(row, own) for row in batches.batch(step, (0, processes))]
        for step in range(count)
    ]
    told = f"those of the first {count} steps"
    if own:
        told += f", own answers taken to have {len(own)} tokens"
    return PlannedRows(steps, told, len(split.train))


def _assumed(config: TrainConfig, why: str) -> PlannedRows:
    """Return rows that are all alike, since padding to a few tokens more is little of a step."""
    plan, size = config.plan, config.optim.batch_size
    row = assumed_row(plan, config)
    rows = as_contrasted(
        [row._replace(texts=(("right", n), ("wrong", n))) for n in range(size)], config.loss
    )
    told = (
        f"taken for granted ({why}): {plan.prompt_tokens} of a base prompt, {row.response} of a "
        f"response, {plan.steering_tokens} of a steering prompt"
    )
    return PlannedRows([rows], told, None)


def assumed_row(plan: PlanConfig, config: TrainConfig) -> RowLengths:
    """Return the lengths of a row as the settings take them for granted."""
    plain = min(plan.prompt_tokens, config.data.max_prompt_tokens)
    prompted = plain + plan.steering_tokens
    response = min(plan.response_tokens, config.data.max_response_tokens)
    return RowLengths(
        prompt=prompted if config.loss.prompted else plain,
        response=response,
        steering=plan.steering_tokens,
        wrong=plan.steering_tokens,
        prefix=min(plan.prefix_tokens, plain - 1),
        plain=plain,
        prompted=prompted,
        own=config.data.max_response_tokens,
    )


def tokens_of(steps: Sequence[Sequence[RowLengths]]) -> float:
    """Return the mean tokens of prompts and responses of a step."""
    return sum(r.prompt + r.response for rows in steps for r in rows) / len(steps)
