"""ActAdd: the difference of a model's states on two short texts, added to the start of a prompt."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hypersteer.baselines import vectors
from hypersteer.baselines.method import Asked, ConceptExamples, Cost, Done, Learned, Steering
from hypersteer.baselines.texts import in_parts
from hypersteer.edits import Site
from hypersteer.errors import ConfigError
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds, Spans, collate
from hypersteer.lm.writers import VectorWriter, Writer


@dataclass(frozen=True, slots=True, kw_only=True)
class ActAdd:
    """Activation addition: steers with the text of a concept alone, so also with unseen ones.

    Source: Turner et al., 2023 (arXiv 2308.10248). The model reads the steering text and a counter
    text, the shorter one padded with spaces; the difference of their states, token by token, times
    a coefficient, is added to the first tokens of the prompt. Nothing is added later: generation
    reads it through the cache.

    Choices that a chat model asks for: both texts are read as the beginning of a user turn, and the
    first tokens are those of the user turn, after the chat prefix. States are those of the site (in
    the paper, what enters a block: the residual site of the block before). A prompt shorter than
    the text takes as many differences as it has tokens.

    Attributes:
        counter: the counter text. A space, as in the paper where it names no opposite.
        coefficient: at strength 1; by default 4 (the paper uses 3 to 15) at the start of the
            prompt, and everywhere 0.25, since the whole difference breaks a small model's answers.
        everywhere: add the mean difference over the text's tokens to all tokens of prompt and
            response instead, which steers longer answers.
        batch_tokens: most tokens of a forward pass, padding included.
    """

    learns: ClassVar[bool] = False
    scales: ClassVar[bool] = True

    counter: str = " "
    coefficient: float | None = None
    everywhere: bool = False
    batch_tokens: int = 4096

    def __post_init__(self) -> None:
        if self.batch_tokens < 1:
            raise ConfigError(f"batch_tokens {self.batch_tokens} is not above 0; try 2048")
        if self.coefficient == 0:
            raise ConfigError("coefficient 0 adds nothing; leave it out, or try 4")

    def fit(
        self, lm: BaseLM, site: Site, concepts: Sequence[ConceptExamples], done: Done | None = None
    ) -> Learned:
        """Read the concepts' texts; their rows are not looked at.

        `Learned.tensors` holds the `differences` of all concepts one after another, how many
        (`lengths`) each has, and the concepts' `ids`.
        """
        del done
        started = time.perf_counter()
        pairs = [self._pair(lm, entry.concept.text) for entry in concepts]
        found = self._differences(lm, site, pairs)
        count = max(1, len(concepts))
        tokens = sum(len(one.ids) for pair in pairs for one in pair)
        lengths = [len(one) for one in found]
        return Learned(
            tensors={
                "differences": torch.cat([*found, torch.zeros(0, lm.width)]),
                "lengths": torch.tensor(lengths, dtype=torch.long),
                "ids": torch.tensor([entry.concept.id for entry in concepts], dtype=torch.long),
            },
            cost=Cost(
                parameters=lm.width if self.everywhere else lm.width * sum(lengths) // count,
                flops=vectors.reading_flops(lm, site, tokens) / count,
                seconds=(time.perf_counter() - started) / count,
            ),
        )

    def steer(self, lm: BaseLM, site: Site, learned: Learned, asked: Sequence[Asked]) -> Steering:
        """Add each row's differences; the text of a concept that `fit` has not seen is read now."""
        prompts = [one.prompt for one in asked]
        known = dict(
            zip(
                learned.tensors["ids"].tolist(),
                learned.tensors["differences"].split(learned.tensors["lengths"].tolist()),
                strict=True,
            )
        )
        fresh = {one.concept.id: one.concept for one in asked if one.concept.id not in known}
        pairs = [self._pair(lm, concept.text) for concept in fresh.values()]
        known |= zip(fresh, self._differences(lm, site, pairs), strict=True)
        found = [known[one.concept.id] for one in asked]
        factor = self._coefficient()
        if self.everywhere:
            means = factor * torch.stack([one.mean(0) for one in found])
            writer: Writer = VectorWriter(site, means.to(lm.device), ["all"] * len(asked))
        else:
            writer = FrontWriter(site, [factor * one.to(lm.device) for one in found])
        return Steering(lm, prompts, [writer])

    def _coefficient(self) -> float:
        if self.coefficient is not None:
            return self.coefficient
        return 0.25 if self.everywhere else 4.0

    def _pair(self, lm: BaseLM, text: str) -> tuple[PromptIds, PromptIds]:
        """Steering text and counter text, equally long, as beginnings of a user turn."""
        chat = lm.chat
        whole = chat.prompt("1")
        prefix = whole.ids[: whole.prefix]
        space = (chat.text(" ") or [chat.pad_id])[0]
        wanted, counter = chat.text(text), chat.text(self.counter)
        size = max(len(wanted), len(counter))
        first, second = (
            PromptIds([*prefix, *ids, *[space] * (size - len(ids))], len(prefix))
            for ids in (wanted, counter)
        )
        lm.check_length(len(first.ids), f"the steering text '{text[:40]}'")
        return first, second

    @torch.no_grad()
    def _differences(
        self, lm: BaseLM, site: Site, pairs: Sequence[tuple[PromptIds, PromptIds]]
    ) -> list[Float[Tensor, "_ D"]]:
        """State on the steering text minus that on the counter text, for each token of a pair."""
        found: dict[int, Tensor] = {}
        for part in in_parts([2 * len(first.ids) for first, _ in pairs], self.batch_tokens):
            texts = [text for number in part for text in pairs[number]]
            batch = collate(texts, pad_id=lm.chat.pad_id).to(lm.device)
            hidden = lm.states(batch, site).float()
            for row, number in enumerate(part):
                span = slice(pairs[number][0].prefix, len(pairs[number][0].ids))
                found[number] = (hidden[2 * row, span] - hidden[2 * row + 1, span]).cpu()
        return [found[number] for number in range(len(pairs))]


class FrontWriter:
    """Adds a vector of its own to each of the first tokens of each row's prompt, and nothing later.

    Args:
        site: where it writes.
        vectors: [P, D] for each row, P of its own.
        strengths: one for each copy of the rows, see `hypersteer.lm.writers.Writer.at`.
    """

    def __init__(
        self, site: Site, vectors: Sequence[Tensor], strengths: Sequence[float] = (1.0,)
    ) -> None:
        self.site = site
        self._vectors = list(vectors)
        self._strengths = tuple(strengths)

    def at(self, strengths: Sequence[float]) -> "FrontWriter":
        """The same for copies of its rows."""
        return FrontWriter(self.site, self._vectors, strengths)

    def prefill(self, hidden: Tensor, spans: Spans) -> Tensor:
        """Write into the states [B, T, D] of whole rows; several strengths give as many copies."""
        copies, rows = len(self._strengths), len(self._vectors)
        whole = hidden.repeat(copies, 1, 1) if len(hidden) < copies * rows else hidden.clone()
        for row, own in enumerate(self._vectors):
            places = front(spans.prompt[row], len(own)).to(whole.device)
            added = own[: len(places)].to(whole.device)
            for copy, strength in enumerate(self._strengths):
                changed = copy * rows + row
                whole[changed, places] += (strength * added).to(whole.dtype)
        return whole

    def step(self, hidden: Tensor) -> Tensor:
        """Response tokens stay as they are."""
        return hidden

    def keep_rows(self, rows: list[int]) -> None:
        """Nothing is left to be written."""
        del rows


def front(prompt: Bool[Tensor, " T"], count: int) -> Tensor:
    """Places of the first `count` tokens of a row's prompt, or of all where it has fewer."""
    return prompt.nonzero().squeeze(1)[:count]
