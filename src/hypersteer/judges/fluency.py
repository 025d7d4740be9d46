"""How whole a text is, measured: a yes-or-no question about it would not do.

Small judges say that garbled text reads well, so nothing is asked. An independent model's
likelihood of the response is held against that of the plain model's own answer to the same
instruction, word by word and over all; and repetition is counted.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

from torch import Tensor

from hypersteer.judges.judge import Answer
from hypersteer.judges.lexical import echo, repetition
from hypersteer.lm.base import BaseLM
from hypersteer.lm.likelihood import in_batches, response_token_losses

BATCH = 16
MOST_TOKENS = 192
"""Most tokens that are read of a response; what is longer is cut."""
BROKEN_NATS = 14.0
"""A word this unlikely is taken to be broken: a rare but whole word is likelier."""
WORST = 0.2
"""Share of a response's words whose likelihood counts as its worst."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FluencySignals:
    """Signals of one response; more is better, in all of them.

    Attributes:
        likelihood: mean log-likelihood per token after the instruction, above that of the plain
            answer to it, and 0 where it is likelier than that (nats): a loop is very likely.
        worst: the same of the least likely fifth of the words, per word.
        whole_words: minus the share of words that are all but impossible.
        novelty: minus the share of three-token sequences that were there before.
        own_words: minus the share of the response's words that are the concept's.
    """

    likelihood: float = 0.0
    worst: float = 0.0
    whole_words: float = 0.0
    novelty: float = 0.0
    own_words: float = 0.0

    def by_name(self) -> dict[str, float]:
        """Return the signals as a mapping."""
        return asdict(self)


class Plain(NamedTuple):
    """How likely plain answers are: what a response is compared with (nats)."""

    likelihood: float
    worst: float


class _Read(NamedTuple):
    """What one reading of a text gives."""

    likelihood: float
    worst: float
    broken: float
    repeated: float


class FluencyReader:
    """Reads the signals of answers with one model.

    Args:
        lm: the model; not the one whose answers are judged.
        usual: of plain answers on the whole, for answers that come without one.
    """

    def __init__(self, lm: BaseLM, usual: Plain | None = None) -> None:
        self._lm = lm
        self._usual = usual
        self._plain: dict[tuple[str, str], Plain] = {}

    def read(self, answers: Sequence[Answer]) -> list[FluencySignals]:
        """Read the signals of answers, in their order; those of an empty response are all 0."""
        pairs = [(answer.instruction, answer.plain) for answer in answers]
        new = [pair for pair in dict.fromkeys(pairs) if pair[1] and pair not in self._plain]
        full = [i for i, answer in enumerate(answers) if answer.response.strip()]
        texts = [(answers[i].instruction, answers[i].response) for i in full]
        read = self._texts([*new, *texts])
        for pair, found in zip(new, read, strict=False):
            self._plain[pair] = Plain(found.likelihood, found.worst)
        signals = [FluencySignals()] * len(answers)
        for i, found in zip(full, read[len(new) :], strict=True):
            signals[i] = self._signals(answers[i], found, self._plain_of(pairs[i]))
        return signals

    def plain(self, instructions: Sequence[str], responses: Sequence[str]) -> Plain:
        """Return the mean over plain answers, for a calibration."""
        read = self._texts(list(zip(instructions, responses, strict=True)))
        count = len(read)
        return Plain(sum(r.likelihood for r in read) / count, sum(r.worst for r in read) / count)

    def _plain_of(self, pair: tuple[str, str]) -> Plain:
        if pair[1]:
            return self._plain[pair]
        return self._usual or Plain(0.0, 0.0)

    @staticmethod
    def _signals(answer: Answer, found: _Read, plain: Plain) -> FluencySignals:
        return FluencySignals(
            likelihood=min(0.0, found.likelihood - plain.likelihood),
            worst=min(0.0, found.worst - plain.worst),
            whole_words=-found.broken,
            novelty=-found.repeated,
            own_words=-echo(answer.response, answer.concept),
        )

    def _texts(self, texts: Sequence[tuple[str, str]]) -> list[_Read]:
        """Read responses after their instructions."""
        chat = self._lm.chat
        prompts = [chat.prompt(instruction) for instruction, _ in texts]
        ids = [(chat.response(text) or chat.text(" "))[:MOST_TOKENS] for _, text in texts]
        lengths = [len(p.ids) + len(row) for p, row in zip(prompts, ids, strict=True)]

        def run(part: list[int]) -> list[Tensor]:
            return response_token_losses(
                self._lm, [prompts[i] for i in part], [ids[i] for i in part]
            )

        losses = in_batches(lengths, BATCH, run)
        return [self._of_tokens(row, loss) for row, loss in zip(ids, losses, strict=True)]

    def _of_tokens(self, ids: list[int], losses: Tensor) -> _Read:
        """Put the losses of a response's tokens together, word by word."""
        words: list[float] = []
        for token, loss in zip(ids, losses.tolist(), strict=True):
            piece = str(self._lm.tokenizer.decode([token]))
            if not words or piece[:1].isspace() or not piece[:1].isalnum():
                words.append(0.0)
            words[-1] += loss
        worst = sorted(words)[-max(1, math.ceil(WORST * len(words))) :]
        return _Read(
            likelihood=-float(losses.mean()),
            worst=-sum(worst) / len(worst),
            broken=sum(word > BROKEN_NATS for word in words) / len(words),
            repeated=repetition(ids),
        )
