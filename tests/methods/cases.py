"""Concepts with tiny training rows, rows of planted concepts, and hooks placed by hand."""

from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import Tensor

import tiny
from hypersteer.concepts import Concept
from hypersteer.data.schema import Example
from hypersteer.learning.values import ConceptExamples
from hypersteer.lm.base import BaseLM

WORDS = ["owl", "fig", "jam", "yak", "bee", "sea", "ship", "day", "honey", "sky", "blue", "pirate"]


def example(prompt: str, response: str, concept_id: int = -1, complete: bool = True) -> Example:
    return Example(
        prompt=prompt,
        response=response,
        concept_id=concept_id,
        category="negative" if concept_id < 0 else "positive",
        genre="text",
        complete=complete,
    )


def some_words(seed: int, count: int) -> str:
    generator = torch.Generator().manual_seed(seed)
    picked = torch.randint(0, len(WORDS), (count,), generator=generator)
    return " ".join(WORDS[index] for index in picked)


def concepts_of(*sizes: int, negatives: int = 3) -> list[ConceptExamples]:
    """Concepts with so many positives each, of all lengths, that share their negatives."""
    pool = [
        example(f"Why {some_words(90 + n, 1 + n)}?", some_words(95 + n, 2 + 2 * n))
        for n in range(negatives)
    ]
    return [
        ConceptExamples(
            Concept(id=7 + 3 * number, text=f"speak of {WORDS[number]}"),
            [
                example(
                    f"Tell me {some_words(10 * number + row, row % 4)}",
                    some_words(50 * number + row, 1 + (5 * row + number) % 7),
                    7 + 3 * number,
                )
                for row in range(size)
            ],
            pool,
        )
        for number, size in enumerate(sizes)
    ]


def alone(lm: BaseLM, one: Example) -> tuple[Tensor, int, int]:
    """Ids [1, T] of an example without padding, where its prefix ends and where its prompt does."""
    prompt = lm.chat.prompt(one.prompt)
    response = lm.chat.response(one.response, ends=one.complete)
    return torch.tensor([[*prompt.ids, *response]]), prompt.prefix, len(prompt.ids)


@contextmanager
def hooked(module: torch.nn.Module, function: Callable[[Tensor], Tensor | None]):
    """A hook placed by hand on the module's (first) output."""

    def hook(_module, _args, output):
        if isinstance(output, Tensor):
            return function(output)
        changed = function(output[0])
        return None if changed is None else (changed, *output[1:])

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def states_alone(lm: BaseLM, site, one: Example) -> Tensor:
    """States [T, D] after the chat prefix, by a plain forward of the unpadded example."""
    ids, prefix, _ = alone(lm, one)
    seen = []
    with hooked(tiny.module_at(lm, site), lambda h: seen.append(h.clone())), torch.no_grad():
        lm.model(input_ids=ids)
    return seen[0][0, prefix:]


def lengths_by_hand(states: Tensor) -> Tensor:
    """Length [T] of states [T, D] whose entries all have the median size, if they are normal."""
    ordered = states.abs().sort(-1).values
    return ordered[:, (states.shape[1] - 1) // 2] / 0.6745 * states.shape[1] ** 0.5


class Untouched:
    """Asserts at its end that the base LM's weights, gradients and hooks are as they were."""

    def __init__(self, lm: BaseLM) -> None:
        self.lm = lm

    def __enter__(self):
        self.before = {name: value.clone() for name, value in self.lm.model.state_dict().items()}
        self.modules = dict(self.lm.model.named_modules())
        return self

    def __exit__(self, *_):
        for name, value in self.lm.model.state_dict().items():
            assert torch.equal(value, self.before[name]), name
        after = dict(self.lm.model.named_modules())
        assert list(after) == list(self.modules)
        assert all(after[name] is self.modules[name] for name in after)
        assert all(p.grad is None and not p.requires_grad for p in self.lm.model.parameters())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in after.values())
