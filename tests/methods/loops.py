"""Training spelled out: one concept, row by row, Hugging Face's loss; and concepts of one word."""

import math
from contextlib import nullcontext

import numpy as np
import torch

from hypersteer.concepts import Concept
from hypersteer.learning.values import Asked, ConceptExamples
from hypersteer.lm.likelihood import response_token_losses
from methods.cases import alone, example


def row_loss(model, lm, one):
    """The mean loss of an unpadded row's response."""
    ids, _, end = alone(lm, one)
    labels = ids.clone()
    labels[0, :end] = -100
    return model(input_ids=ids, labels=labels).loss


def trained_plainly(model, lm, entry, recipe, parameters, during=lambda one: nullcontext()):
    """Train parameters in place; `during(row)` is a context in which the row runs."""
    parameters, rows = list(parameters), entry.positives
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0)
    per_epoch = math.ceil(len(rows) / recipe.batch_size)
    for step in range(per_epoch * recipe.epochs):
        epoch, within = divmod(step, per_epoch)
        order = np.random.default_rng([recipe.seed, entry.concept.id, epoch])
        chosen = order.permutation(len(rows))[within * recipe.batch_size :][: recipe.batch_size]
        optimizer.zero_grad()
        for index in chosen:
            with during(rows[index]):
                (row_loss(model, lm, rows[index]) / len(chosen)).backward()
        if recipe.max_norm:
            torch.nn.utils.clip_grad_norm_(parameters, recipe.max_norm)
        optimizer.param_groups[0]["lr"] = recipe.learning_rate * (
            1 - step / (per_epoch * recipe.epochs)
        )
        optimizer.step()


SAID = ("b", "k")
"""One token each."""


def concepts_of_one_word() -> list[ConceptExamples]:
    """Two concepts: whatever the prompt is, the response is the concept's word."""
    return [
        ConceptExamples(
            Concept(id=3 + number, text=f"say {word}"),
            [example(f"Tell me {n} things", word, 3 + number, complete=False) for n in range(8)],
            [],
        )
        for number, word in enumerate(SAID)
    ]


def chances(lm, site, method, learned, concept=None) -> list[float]:
    """How likely each word is, as the whole answer to a prompt that was never seen."""
    asked, words, found = "Why is the sky blue?", [lm.chat.response(w) for w in SAID], []
    for word in words:
        if concept is None:
            (losses,) = response_token_losses(lm, [lm.chat.prompt(asked)], [word])
        else:
            steering = method.steer(lm, site, learned, [Asked(concept, asked)])
            prompts = [steering.lm.chat.prompt(prompt) for prompt in steering.prompts]
            (losses,) = response_token_losses(steering.lm, prompts, [word], steering.writers)
        found.append(math.exp(-float(losses.sum())))
    return found


def check_words(lm, site, method):
    """Each concept's word becomes the answer under that concept, and only there."""
    concepts = concepts_of_one_word()
    learned = method.fit(lm, site, concepts)
    assert max(chances(lm, site, method, learned)) < 0.01
    for number, entry in enumerate(concepts):
        found = chances(lm, site, method, learned, entry.concept)
        assert found[number] > 0.5, found
        assert found[1 - number] < 0.05, found
