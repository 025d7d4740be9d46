"""Questions that a model answers with Yes or No, read by the probabilities of its first token.

Not what it writes counts but how sure it is, so one token is generated and an answer has no
half-way house of wording. Whoever asks, replies are kept on disk as they come: an interrupted
judging asks nothing twice.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import torch

from hypersteer.endpoint.cache import cache_key, open_cache
from hypersteer.endpoint.endpoint import Endpoint
from hypersteer.endpoint.replies import Failed, Messages, Reply
from hypersteer.endpoint.settings import MOST_LOGPROBS, EndpointConfig
from hypersteer.files import cache_folder
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds, collate, length_batches

YES, NO = "yes", "no"
AROUND = " \t\n.,:;!?*\"'`()[]"
"""What may stand around the word in a token."""
LEAST = 1e-6
"""Probability of a word that is not among the likeliest tokens."""
SEEN = 0.01
"""Less than so much for both words together, and the model has answered something else."""
BATCH_TOKENS = 2048
"""Most tokens that a model in this process reads at once, padding included."""

Done = Callable[[int], object]


class Asker(Protocol):
    """Answers yes-or-no questions. `name` says which model it is, with its weights."""

    name: str

    def ask(self, questions: Sequence[Messages], done: Done | None = None) -> list[float | Failed]:
        """Return the log-odds of Yes against No for each question, in their order.

        Args:
            questions: chat messages each; equal ones are asked once.
            done: told how many more are answered.

        Raises:
            EndpointError: if nothing can be answered.
        """
        ...


class EndpointAsker:
    """Asks a model behind a server, or an engine of ours, that tells the likeliest tokens.

    Args:
        endpoint: asked with `reading(...)` settings.
        name: of the model; by default the one in the settings.
    """

    def __init__(self, endpoint: Endpoint, name: str | None = None) -> None:
        self.endpoint = endpoint
        self.name = name or endpoint.config.model

    def ask(self, questions: Sequence[Messages], done: Done | None = None) -> list[float | Failed]:
        """Return log-odds, in order."""
        replies = self.endpoint.complete(questions, done=done)
        return [r if isinstance(r, Failed) else log_odds(r.likely) for r in replies]


class ModelAsker:
    """Asks a Hugging Face model in this process.

    Args:
        lm: the model.
    """

    def __init__(self, lm: BaseLM) -> None:
        self._lm = lm
        self.name = f"{lm.name} {lm.fingerprint}"

    def ask(self, questions: Sequence[Messages], done: Done | None = None) -> list[float | Failed]:
        """Return log-odds, in order."""
        config = reading(EndpointConfig(model=self.name))
        keys = [cache_key(config, question, 0) for question in questions]
        distinct = dict(zip(keys, questions, strict=True))
        found: dict[str, Reply] = {}
        with open_cache(cache_folder()) as cache:
            for key in distinct:
                if (kept := cache.get(key)) is not None:
                    found[key] = kept
            left = [key for key in distinct if key not in found]
            if done is not None:
                done(len(questions) - len(left))
            prompts = {key: self._lm.chat.prompt([dict(m) for m in distinct[key]]) for key in left}
            sizes = [len(prompts[key].ids) for key in left]
            for size in sizes:
                self._lm.check_length(size, "a question to the judge")
            for part in length_batches(sizes, tokens=BATCH_TOKENS):
                batch = [left[i] for i in part]
                likely = self._likely([prompts[key] for key in batch])
                for key, shares in zip(batch, likely, strict=True):
                    found[key] = Reply(max(shares, key=shares.__getitem__), 0, 1, shares)
                    cache.put(key, found[key])
                if done is not None:
                    done(len(batch))
        return [log_odds(found[key].likely) for key in keys]

    @torch.no_grad()
    def _likely(self, prompts: Sequence[PromptIds]) -> list[dict[str, float]]:
        """Return the probabilities of the likeliest next tokens of each prompt."""
        batch = collate(prompts, pad_id=self._lm.chat.pad_id)
        last = torch.zeros_like(batch.spans.real)
        for place, prompt in enumerate(prompts):
            last[place, len(prompt.ids) - 1] = True
        on_device = batch.to(self._lm.device)
        logits = self._lm.logits(on_device, last.to(self._lm.device)).float()
        shares, tokens = logits.softmax(-1).topk(min(MOST_LOGPROBS, logits.shape[-1]))
        found = []
        for row_shares, row_tokens in zip(shares.tolist(), tokens.tolist(), strict=True):
            row: dict[str, float] = {}
            for share, token in zip(row_shares, row_tokens, strict=True):
                text = str(self._lm.tokenizer.decode([token]))
                row[text] = row.get(text, 0.0) + share
            found.append(row)
        return found


def reading(config: EndpointConfig) -> EndpointConfig:
    """Return settings that ask for the probabilities of one first token."""
    return replace(config, max_tokens=1, temperature=0.0, top_logprobs=MOST_LOGPROBS)


def log_odds(likely: Mapping[str, float]) -> float | Failed:
    """Return the log-odds of Yes against No in the probabilities of first tokens.

    A token counts for the word that it is without case, white space and punctuation.
    """
    shares = {YES: 0.0, NO: 0.0}
    for token, share in likely.items():
        word = token.strip(AROUND).casefold()
        if word in shares:
            shares[word] += share
    if shares[YES] + shares[NO] < SEEN:
        first = max(likely, key=likely.__getitem__, default="")
        return Failed(f"the model begins with {first!r} and not with Yes or No")
    return math.log(max(shares[YES], LEAST)) - math.log(max(shares[NO], LEAST))
