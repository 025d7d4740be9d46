"""The distinct texts that methods learn from, and their hidden states at a site, read once.

Concepts share their negatives (in AxBench 72 texts for all concepts of a genre), so texts are
numbered, and a concept is a list of numbers. Shapes: M distinct texts, N concepts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from hypersteer.config import check_choices
from hypersteer.data.schema import Example
from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError, DataError
from hypersteer.learning.values import ConceptExamples
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds, Spans, TokenBatch, collate, length_batches
from hypersteer.lm.flops import LMFlops, place

MAX_TOKENS = 1024
"""Longest text in tokens, unless the context window is shorter (AxBench's limit). Longer
responses are cut; a prompt that leaves no room for a response is no usable text."""


class CorpusText(NamedTuple):
    """A tokenised prompt with its response, which is empty for a bare prompt."""

    prompt: PromptIds
    response: list[int]

    @property
    def size(self) -> int:
        """Tokens of prompt and response."""
        return len(self.prompt.ids) + len(self.response)


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """The texts of several concepts.

    Attributes:
        texts: M distinct texts.
        positives: numbers of the texts that show each of N concepts.
        negatives: numbers of those that do not.
    """

    texts: list[CorpusText]
    positives: list[list[int]]
    negatives: list[list[int]]

    @property
    def rows(self) -> list[list[int]]:
        """Numbers of all texts of each concept, positives first."""
        return [p + n for p, n in zip(self.positives, self.negatives, strict=True)]


def text_of(lm: BaseLM, example: Example) -> CorpusText:
    """Tokenise an example; the response is cut at the limit, perhaps to nothing."""
    prompt = lm.chat.prompt(example.prompt)
    room = min(MAX_TOKENS, lm.context_window) - len(prompt.ids)
    response = lm.chat.response(example.response, ends=example.complete)
    return CorpusText(prompt, response[: max(room, 0)])


def checked_texts(lm: BaseLM, examples: Sequence[Example]) -> list[CorpusText]:
    """Tokenise texts in which concepts are to be detected.

    Raises:
        SteeringError: if one does not fit the context window.
    """
    texts = [text_of(lm, example) for example in examples]
    for text in texts:
        lm.check_length(text.size, "a text to detect concepts in")
    return texts


def make_corpus(lm: BaseLM, concepts: Sequence[ConceptExamples]) -> Corpus:
    """Tokenise what concepts are learnt from, each distinct text once."""
    texts: list[CorpusText] = []
    numbers: dict[tuple[str, str, bool], int | None] = {}

    def number(example: Example) -> int | None:
        key = (example.prompt, example.response, example.complete)
        if key not in numbers:
            text = text_of(lm, example)
            numbers[key] = len(texts) if text.response else None
            texts.extend([text] if text.response else [])
        return numbers[key]

    def usable(examples: Sequence[Example]) -> list[int]:
        return [n for n in map(number, examples) if n is not None]

    return Corpus(
        texts,
        [usable(entry.positives) for entry in concepts],
        [usable(entry.negatives) for entry in concepts],
    )


def need_rows(
    corpus: Corpus, concepts: Sequence[ConceptExamples], *, method: str, negatives: bool
) -> None:
    """Refuse concepts that nothing can be learnt from.

    Args:
        corpus: their usable texts.
        concepts: the same concepts.
        method: its name in the message.
        negatives: whether texts without the concept are needed as well.

    Raises:
        DataError: naming the concept and what it lacks.
    """
    for entry, shows, lacks in zip(concepts, corpus.positives, corpus.negatives, strict=True):
        missing = "positive" if not shows else "negative" if negatives and not lacks else ""
        if missing:
            raise DataError(
                f"{method} cannot learn concept {entry.concept.id} ('{entry.concept.text}'): it "
                f"has no usable {missing} rows; give some, or leave the concept out"
            )


def batch_of(lm: BaseLM, texts: Sequence[CorpusText]) -> TokenBatch:
    """Return the texts as one batch, padded on the right, on the base LM's device."""
    batch = collate(
        [text.prompt for text in texts], [text.response for text in texts], pad_id=lm.chat.pad_id
    )
    return batch.to(lm.device)


def after_prefix(spans: Spans) -> Tensor:
    """Mark [B, T] the tokens that vectors read and write: all but chat prefix and padding."""
    return spans.prompt | spans.response


def check_fields(method: Any) -> None:
    """Refuse a method's `batch_tokens` and `cache_bytes` that leave nothing, and unknown choices.

    Raises:
        ConfigError: naming the field.
    """
    check_choices(method)
    if method.batch_tokens < 1:
        raise ConfigError(f"batch_tokens {method.batch_tokens} is not above 0; try 2048")
    if getattr(method, "cache_bytes", 0) < 0:
        raise ConfigError(f"cache_bytes {method.cache_bytes} is negative; 0 keeps nothing")


@runtime_checkable
class Limits(Protocol):
    """The fields of a method that limit what it holds in memory.

    Attributes:
        batch_tokens: most tokens of a forward pass, padding included.
        cache_bytes: most bytes of hidden states kept in memory.
    """

    @property
    def batch_tokens(self) -> int: ...  # noqa: D102

    @property
    def cache_bytes(self) -> int: ...  # noqa: D102


class States:
    """Hidden states of texts at a site, without gradient; as many as fit are kept in memory.

    What is kept is chosen beforehand: the texts used most often first, so that shared negatives
    are the last to be computed anew.

    Attributes:
        flops: operations of the blocks up to the site so far, see `hypersteer.lm.flops`.

    Args:
        lm: the base LM.
        site: where to read; the blocks above it do not run.
        texts: M texts.
        uses: how often each is going to be read; those read once are not kept.
        batch_tokens: most tokens of a forward pass, padding included.
        cache_bytes: most bytes of states to keep, in the base LM's dtype.
    """

    def __init__(
        self,
        lm: BaseLM,
        site: Site,
        texts: Sequence[CorpusText],
        uses: Sequence[int],
        *,
        batch_tokens: int,
        cache_bytes: int,
    ) -> None:
        self.flops = 0
        self._passes = LMFlops.of_lm(lm)
        self._lm, self._site, self._texts = lm, site, texts
        self._batch_tokens = batch_tokens
        self._kept: dict[int, Tensor] = {}
        self._wanted: set[int] = set()
        for number in sorted(range(len(texts)), key=lambda n: -uses[n]):
            cache_bytes -= texts[number].size * lm.width * lm.dtype.itemsize
            if cache_bytes < 0 or uses[number] < 2:
                break
            self._wanted.add(number)

    def batch(self, numbers: Sequence[int]) -> TokenBatch:
        """Return these texts as one batch, padded on the right."""
        return batch_of(self._lm, [self._texts[number] for number in numbers])

    def read(self, numbers: Sequence[int]) -> Float[Tensor, "B T D"]:
        """Return the states of these texts, padded as `batch` pads; padding holds anything."""
        missing = sorted({number for number in numbers if number not in self._kept})
        fresh = dict(zip(missing, self._run(missing), strict=True)) if missing else {}
        self._kept.update({n: rows.cpu().clone() for n, rows in fresh.items() if n in self._wanted})
        found = [fresh[n] if n in fresh else self._kept[n] for n in numbers]
        width = max(len(rows) for rows in found)
        whole = torch.zeros(
            len(found), width, self._lm.width, dtype=found[0].dtype, device=self._lm.device
        )
        for row, states in zip(whole, found, strict=True):
            row[: len(states)] = states
        return whole

    def walk(self, numbers: Sequence[int]) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Yield texts of similar length together: numbers, states [B, T, D] and marks [B, T]."""
        sizes = [self._texts[number].size for number in numbers]
        for part in length_batches(sizes, tokens=self._batch_tokens):
            chosen = [numbers[position] for position in part]
            yield chosen, self.read(chosen), after_prefix(self.batch(chosen).spans)

    @torch.no_grad()
    def _run(self, numbers: Sequence[int]) -> list[Tensor]:
        """Return the states [T, D] of each text, padding cut off."""
        sizes = [self._texts[number].size for number in numbers]
        self.flops += self._passes.forward(len(numbers), max(sizes), place(self._site))
        hidden = self._lm.states(self.batch(numbers), self._site)
        return [row[:size] for row, size in zip(hidden, sizes, strict=True)]
