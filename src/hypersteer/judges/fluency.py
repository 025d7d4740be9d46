"""How whole a text is, measured, beside what a judge says to a question about it.

An independent model's likelihood of the response is held against that of the plain model's own
answer to the same instruction, word by word and over all, and that of every token against how
common the token is; and repetition is counted.

Shapes: T tokens of a response, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hypersteer.judges.judge import Answer
from hypersteer.judges.lexical import echo, repetition
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import collate
from hypersteer.lm.likelihood import in_batches, response_token_losses

BATCH = 16
RAREST = 1e-9
"""Share of a token that no place expects."""
MOST_TOKENS = 192
"""Most tokens that are read of a response; what is longer is cut."""
BROKEN_NATS = 14.0
"""A word this unlikely is taken to be broken: a rare but whole word is likelier."""
WORST = 0.2
"""Share of a response's tokens that count as its worst."""
COMMON_TEXTS = 16
"""So many everyday texts tell how common tokens are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FluencySignals:
    """Signals of one response; more is better, in all of them.

    Attributes:
        likelihood: mean log-likelihood per token after the instruction, above that of the plain
            answer to it, and 0 where it is likelier than that (nats): a loop is very likely.
        whole_words: minus the share of words that are all but impossible.
        coherence: how much likelier the worst fifth of the tokens are in their place than anywhere
            (nats): rare words that fit do not count as broken (Pauls and Klein 2012, SLOR).
        novelty: minus the share of three-token sequences that were there before.
        own_words: minus the share of the response's words that are the concept's.
    """

    likelihood: float = 0.0
    whole_words: float = 0.0
    coherence: float = 0.0
    novelty: float = 0.0
    own_words: float = 0.0

    def by_name(self) -> dict[str, float]:
        """Return the signals as a mapping."""
        return asdict(self)


class _Read(NamedTuple):
    """What one reading of a text gives."""

    likelihood: float
    broken: float
    coherence: float
    repeated: float


class FluencyReader:
    """Reads the signals of answers with one model.

    Args:
        lm: the model; not the one whose answers are judged.
        texts: everyday texts, of which the first `COMMON_TEXTS` tell how common tokens are.
        usual: mean log-likelihood per token of plain answers on the whole (nats), for answers that
            come without one.
    """

    def __init__(self, lm: BaseLM, texts: Sequence[str], usual: float = 0.0) -> None:
        self._lm = lm
        self._usual = usual
        self._common = log_frequencies(lm, texts[:COMMON_TEXTS]).cpu()
        self._plain: dict[tuple[str, str], float] = {}

    def read(self, answers: Sequence[Answer]) -> list[FluencySignals]:
        """Read the signals of answers, in their order; those of an empty response are all 0."""
        pairs = [(answer.instruction, answer.plain) for answer in answers]
        new = [pair for pair in dict.fromkeys(pairs) if pair[1] and pair not in self._plain]
        full = [i for i, answer in enumerate(answers) if answer.response.strip()]
        texts = [(answers[i].instruction, answers[i].response) for i in full]
        read = self._texts([*new, *texts])
        for pair, found in zip(new, read, strict=False):
            self._plain[pair] = found.likelihood
        signals = [FluencySignals()] * len(answers)
        for i, found in zip(full, read[len(new) :], strict=True):
            plain = self._plain.get(pairs[i], self._usual)
            signals[i] = FluencySignals(
                likelihood=min(0.0, found.likelihood - plain),
                whole_words=-found.broken,
                coherence=found.coherence,
                novelty=-found.repeated,
                own_words=-echo(answers[i].response, answers[i].concept),
            )
        return signals

    def plain(self, instructions: Sequence[str], responses: Sequence[str]) -> float:
        """Return the mean log-likelihood per token of plain answers, for a calibration."""
        read = self._texts(list(zip(instructions, responses, strict=True)))
        return sum(one.likelihood for one in read) / len(read)

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
        worst = max(1, math.ceil(WORST * len(ids)))
        above = -losses.float().cpu() - self._common[torch.tensor(ids)]
        return _Read(
            likelihood=-float(losses.mean()),
            broken=sum(word > BROKEN_NATS for word in words) / len(words),
            coherence=float(above.sort().values[:worst].mean()),
            repeated=repetition(ids),
        )


@torch.no_grad()
def log_frequencies(lm: BaseLM, texts: Sequence[str]) -> Float[Tensor, " V"]:
    """Return the logarithm of how common every token is, as a model expects it on the whole.

    That is the mean of its next-token probabilities over all places in the texts, which needs far
    fewer texts than counting.

    Args:
        lm: the model.
        texts: at least one; read as what a user says.
    """
    total, places = torch.zeros(1, device=lm.device), 0
    for text in texts:
        batch = collate([lm.chat.prompt(text)], pad_id=lm.chat.pad_id).to(lm.device)
        shares = lm.logits(batch, batch.spans.real).float().softmax(-1)
        total, places = total + shares.sum(0), places + len(shares)
    return (total / places).clamp_min(RAREST).log()
