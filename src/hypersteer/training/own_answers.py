"""What the unsteered base LM answers to the prompts of a run, and how likely it finds responses.

Made once, before the first step, and kept in the run's folder, so that every part of a run that is
cut off sees the same numbers.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from hypersteer.data.batches import TrainingRow
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import generate_ids
from hypersteer.errors import CheckpointError
from hypersteer.files import is_file, read_json, to_json, write_text
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds
from hypersteer.lm.likelihood import in_batches, response_token_losses
from hypersteer.progress import ProgressBar

NAME = "own_answers.json"
PENALTY = 1.15
"""Repetition penalty of the answers: greedy text of small models goes round in circles."""

Key = tuple[int, ...]


class OwnAnswers(NamedTuple):
    """The unsteered base LM's part in a run.

    Attributes:
        answers: token ids of its answer to each base prompt, by the prompt's ids.
        likelihoods: summed log-likelihood of each response, by the ids of prompt and response.
    """

    answers: dict[Key, list[int]]
    likelihoods: dict[tuple[Key, Key], float]

    def answer(self, row: TrainingRow) -> list[int]:
        """Return its answer to the row's base prompt, which nothing is said beside."""
        return self.answers[tuple(row.plain.ids)]

    def likelihood(self, row: TrainingRow, response: Sequence[int]) -> float:
        """Return the log-likelihood, in nats, of a response to the row's base prompt."""
        return self.likelihoods[tuple(row.plain.ids), tuple(response)]


def make_own_answers(
    lm: BaseLM,
    rows: Iterable[TrainingRow],
    folder: Path,
    *,
    tokens: int,
    batch_size: int,
    likelihoods: bool,
) -> None:
    """Answer the prompts of all rows, and write that to the run's folder, unless it is there.

    A command that is cut off goes on behind the last whole batch of answers.

    Args:
        lm: the base LM.
        rows: training rows.
        folder: of the run.
        tokens: most tokens of an answer.
        batch_size: most prompts answered together.
        likelihoods: whether those of responses and answers are wanted as well.
    """
    path = folder / NAME
    found = read_own_answers(folder) if is_file(path) else OwnAnswers({}, {})
    listed = list(rows)
    prompts = {tuple(row.plain.ids): row.plain for row in listed}
    left = sorted((key for key in prompts if key not in found.answers), key=len)
    with ProgressBar("the base LM's own answers", len(left), quarters=True) as bar:
        for start in range(0, len(left), batch_size):
            part = left[start : start + batch_size]
            told = Decoding(max_new_tokens=tokens, repetition_penalty=PENALTY)
            for key, ids in zip(
                part, generate_ids(lm, [prompts[key] for key in part], [], told), strict=True
            ):
                # What ends by itself says so, as written responses do.
                ends = lm.chat.end_of_turn[:1] if len(ids) < tokens else ()
                found.answers[key] = [*ids, *ends]
            _write(path, found)
            bar.advance(len(part))
    if likelihoods and _add_likelihoods(lm, listed, found, batch_size):
        _write(path, found)


def _add_likelihoods(
    lm: BaseLM, rows: Sequence[TrainingRow], found: OwnAnswers, batch_size: int
) -> bool:
    """Measure every response and every answer that is not measured yet; return whether any was."""
    wanted: dict[tuple[Key, Key], tuple[PromptIds, Sequence[int]]] = {}
    for row in rows:
        key = tuple(row.plain.ids)
        for response in (row.response, found.answers[key]):
            wanted[key, tuple(response)] = row.plain, response
    left = [key for key in wanted if key not in found.likelihoods]
    pairs = [wanted[key] for key in left]
    lengths = [len(prompt.ids) + len(response) for prompt, response in pairs]
    with ProgressBar("reference likelihoods", len(left), quarters=True) as bar:

        def run(part: list[int]) -> list:
            given = [pairs[number] for number in part]
            losses = response_token_losses(lm, [p for p, _ in given], [r for _, r in given])
            bar.advance(len(part))
            return [-one.sum() for one in losses]

        sums = in_batches(lengths, batch_size, run)
    found.likelihoods.update(zip(left, (float(one) for one in sums), strict=True))
    return bool(left)


def read_own_answers(folder: Path) -> OwnAnswers:
    """Read what `make_own_answers` wrote.

    Raises:
        CheckpointError: if the file is damaged.
    """
    path = folder / NAME
    try:
        raw = read_json(path)
        answers = {tuple(prompt): list(answer) for prompt, answer in raw["answers"]}
        likelihoods = {
            (tuple(prompt), tuple(response)): float(value)
            for prompt, response, value in raw["likelihoods"]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"'{path}' is damaged; delete it, and it is made anew") from error
    return OwnAnswers(answers, likelihoods)


def _write(path: Path, found: OwnAnswers) -> None:
    raw = {
        "answers": list(found.answers.items()),
        "likelihoods": [(*key, value) for key, value in found.likelihoods.items()],
    }
    write_text(path, to_json(raw))
