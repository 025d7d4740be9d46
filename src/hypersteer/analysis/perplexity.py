"""How likely the base LM finds the answers that hypernetworks learn from, source by source.

The paper compares the answers of a stronger model with the base LM's own (its figures 7 and 8).
Every answer is read after its plain base prompt, as in training.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from hypersteer.config.analysis import AnalysisConfig
from hypersteer.config.reading import LARGEST_SEED
from hypersteer.data.schema import Example
from hypersteer.data.sources import ConceptData
from hypersteer.lm.base import BaseLM
from hypersteer.lm.likelihood import in_batches, response_token_losses
from hypersteer.lm.messages import prompted
from hypersteer.progress import ProgressBar

BATCH = 16
ASKED, UNASKED = "the base LM's own, asked for the concept", "the base LM's own, not asked for it"


class Answers(NamedTuple):
    """Answers of one source, with what each says and what it answers."""

    source: str
    prompts: list[str]
    concepts: list[str]
    responses: list[str]


def some_examples(data: ConceptData, count: int, seed: int) -> list[Example]:
    """Return positive rows of a source, chosen at random, at most so many."""
    rows = np.concatenate([data.rows(concept.id) for concept in data.concepts])
    chosen = np.random.default_rng(seed).permutation(rows)[:count]
    return data.examples(np.sort(chosen))


def perplexities(
    lm: BaseLM, prompts: Sequence[str], responses: Sequence[str], most: int
) -> list[float]:
    """Return each answer's perplexity under the base LM; NaN for one without a token.

    Args:
        lm: the base LM.
        prompts: what is answered.
        responses: the answers.
        most: tokens that are read of each.

    Raises:
        SteeringError: if one does not fit the context window.
    """
    asked = [lm.chat.prompt(prompt) for prompt in prompts]
    ids = [lm.chat.response(response)[:most] for response in responses]
    lengths = [len(prompt.ids) + len(own) for prompt, own in zip(asked, ids, strict=True)]

    def run(part: list[int]) -> list[torch.Tensor]:
        losses = response_token_losses(lm, [asked[i] for i in part], [ids[i] for i in part])
        return [loss.mean() for loss in losses]

    return [float(value.exp()) for value in in_batches(lengths, BATCH, run)]


def own_answers(
    lm: BaseLM, examples: Sequence[Example], concepts: Sequence[str], config: AnalysisConfig
) -> list[Answers]:
    """Return what the base LM itself answers, sampled, with the concept in the prompt and without.

    Args:
        lm: the base LM.
        examples: whose base prompts are answered.
        concepts: the steering prompt of each.
        config: length and seed.
    """
    plain = [example.prompt for example in examples]
    asking = [prompted(one, text) for one, text in zip(plain, concepts, strict=True)]
    found = []
    with ProgressBar("answering", 2 * len(plain), transient=True) as bar:
        for source, prompts in ((ASKED, asking), (UNASKED, plain)):
            texts: list[str] = []
            for start in range(0, len(prompts), BATCH):
                part = prompts[start : start + BATCH]
                made = lm.generate(
                    part,
                    max_new_tokens=config.max_new_tokens,
                    temperature=1.0,
                    seed=[(config.seed + start + i) % LARGEST_SEED for i in range(len(part))],
                )
                texts += made
                bar.advance(len(part))
            found.append(Answers(source, plain, list(concepts), texts))
    return found
