"""ActAdd: the difference of a model's states on two short texts, added to the start of a prompt."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hypersteer.edits.kinds import Params, plus, stacked
from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError
from hypersteer.learning import vectors
from hypersteer.learning.values import Asked, ConceptExamples, Cost, Done, Learned, Steering, ids_of
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds, collate, length_batches
from hypersteer.lm.writers import Writer, vector_writer


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
        """Read the concepts' texts; their rows are not used.

        `Learned.tensors` holds the `differences` of all concepts one after another, how many
        (`lengths`) each has, and the concepts' `ids`.
        """
        del done
        started = time.perf_counter()
        pairs = [self._pair(lm, entry.concept.text) for entry in concepts]
        found = self._differences(lm, site, pairs)
        count = max(1, len(concepts))
        sizes = [len(one.ids) for pair in pairs for one in pair]
        lengths = [len(one) for one in found]
        return Learned(
            tensors={
                "differences": torch.cat([*found, torch.zeros(0, lm.width)]),
                "lengths": torch.tensor(lengths, dtype=torch.long),
                "ids": ids_of(concepts),
            },
            cost=Cost.of_each(
                len(concepts),
                started=started,
                parameters=lm.width if self.everywhere else lm.width * sum(lengths) // count,
                flops=vectors.reading_flops(lm, site, sizes, self.batch_tokens),
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
            writer = vector_writer(site, means.to(lm.device), ["all"] * len(asked))
        else:
            params = stacked(
                [{"vectors": factor * one, "real": torch.ones(len(one))} for one in found]
            )
            held = {name: value.to(lm.device) for name, value in params.items()}
            writer = Writer(site, LEADING, held, ["prompt"] * len(asked))
        return Steering(lm, prompts, [writer])

    def _coefficient(self) -> float:
        if self.coefficient is not None:
            return self.coefficient
        return 0.25 if self.everywhere else 4.0

    def _pair(self, lm: BaseLM, text: str) -> tuple[PromptIds, PromptIds]:
        """Tokenise steering text and counter text, equally long, as beginnings of a user turn."""
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
        """Subtract states on the counter text from those on the steering text, token by token."""
        found: dict[int, Tensor] = {}
        sizes = [2 * len(first.ids) for first, _ in pairs]
        for part in length_batches(sizes, tokens=self.batch_tokens):
            texts = [text for number in part for text in pairs[number]]
            batch = collate(texts, pad_id=lm.chat.pad_id).to(lm.device)
            hidden = lm.states(batch, site).float()
            for row, number in enumerate(part):
                span = slice(pairs[number][0].prefix, len(pairs[number][0].ids))
                found[number] = (hidden[2 * row, span] - hidden[2 * row + 1, span]).cpu()
        return [found[number] for number in range(len(pairs))]


class Leading:
    """A vector of its own for each of the first tokens of a row's scope.

    Its parameters are the `vectors` [B, P, D], and which of them are `real` [B, P] (1 or 0).
    """

    added: ClassVar[tuple[str, ...]] = ("vectors",)

    def apply(
        self,
        hidden: Float[Tensor, "B T D"],
        params: Params,
        mask: Bool[Tensor, "B T"],
        strength: Float[Tensor, " B"],
    ) -> Float[Tensor, "B T D"]:
        """Add `strength` times the vector of its place to each of the first marked tokens."""
        vectors, count = params["vectors"], params["real"].sum(1, keepdim=True)
        place = mask.long().cumsum(1) - 1
        first = mask & (place < count)
        index = place.clamp(0, vectors.shape[1] - 1)[..., None].expand(-1, -1, vectors.shape[2])
        return plus(hidden, vectors.gather(1, index), first, strength)


LEADING = Leading()
