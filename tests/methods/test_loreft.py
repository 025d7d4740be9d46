"""LoReFT against its equation and a plain loop, and on responses of one word."""

from contextlib import ExitStack

import pytest
import torch
from torch import nn

import tiny
from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError, DataError, ModelError, SteeringError
from hypersteer.learning.adapter_training import recipe_of
from hypersteer.learning.values import Asked
from hypersteer.lm.chat import PromptIds
from hypersteer.lm.likelihood import response_token_losses
from hypersteer.methods.loreft import Loreft, ends
from methods.cases import Untouched, alone, concepts_of, hooked
from methods.loops import check_words, trained_plainly

SHORT = Loreft(rank=2, batch_size=3, epochs=2, learning_rate=0.03)
UNTRAINED = Loreft(rank=2, batch_size=3, epochs=1, learning_rate=1e-30)


def places(one, lm, first=5, last=5):
    """Places of a row that are changed, counted by hand."""
    _, prefix, end = alone(lm, one)
    prompt = list(range(prefix, end))
    return sorted({*prompt[:first], *prompt[-last:]})


def by_the_equation(lm, one, tensors, number, strength=1.0):
    """A context in which a row is changed at its places, one state after another."""
    stack = ExitStack()
    for index, layer in enumerate(tensors["layers"].tolist()):
        R, W, b = (tensors[name][number][index] for name in ("rotations", "sources", "biases"))

        def change(hidden, R=R, W=W, b=b):
            hidden = hidden.clone()
            for place in places(one, lm):
                h = hidden[0, place]
                hidden[0, place] = h + strength * (R.T @ (W @ h + b - R @ h))
            return hidden

        stack.enter_context(hooked(tiny.module_at(lm, Site(layer)), change))
    return stack


def test_first_and_last_tokens_of_the_prompt():
    marks = [place in (2, 3, 6) for place in range(7)]
    assert ends(PromptIds([0] * 7, 2), 2, 1) == tuple(marks)
    assert ends(PromptIds([0] * 4, 2), 5, 5) == (False, False, True, True)
    assert ends(PromptIds([0] * 4, 1), 0, 1) == (False, False, False, True)


@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_it_changes_the_ends_of_the_prompt_by_its_equation(lm, strength):
    """Rows of two concepts and all lengths in one batch."""
    concepts = concepts_of(3, 2)
    method = Loreft(epochs=1, learning_rate=0.1)
    with Untouched(lm):
        learned = method.fit(lm, tiny.site_of(lm), concepts)
        rows = [(number, row) for number in (1, 0) for row in concepts[number].positives]
        asked = [Asked(concepts[number].concept, row.prompt) for number, row in rows]
        steering = method.steer(lm, tiny.site_of(lm), learned, asked)
    assert steering.lm is lm
    rotations = learned.tensors["rotations"]
    torch.testing.assert_close(
        rotations @ rotations.transpose(-1, -2), torch.eye(4).expand(2, 3, 4, 4), atol=1e-5, rtol=0
    )
    prompts = [lm.chat.prompt(row.prompt) for _, row in rows]
    answers = [lm.chat.response(row.response, ends=True) for _, row in rows]
    writers = [writer.at([strength]) for writer in steering.writers]
    found = response_token_losses(lm, prompts, answers, writers)
    plain = response_token_losses(lm, prompts, answers)
    for (number, row), losses, before in zip(rows, found, plain, strict=True):
        ids, _, end = alone(lm, row)
        with by_the_equation(lm, row, learned.tensors, number, strength), torch.no_grad():
            logits = lm.model(input_ids=ids).logits[0, end - 1 : -1]
        expected = nn.functional.cross_entropy(logits, ids[0, end:], reduction="none")
        torch.testing.assert_close(losses, expected, atol=1e-3, rtol=1e-3)
        assert not torch.allclose(losses, before, atol=1e-2)


class Plain(nn.Module):
    """The equation with parameters, from untrained matrices; Gram and Schmidt spelled out."""

    def __init__(self, rotation, source, bias):
        super().__init__()
        self.free, self.source, self.bias = map(nn.Parameter, (rotation, source, bias))

    def rotation(self):
        rows = []
        for row in self.free:
            for other in rows:
                row = row - (row @ other) * other
            rows.append(row / row.norm())
        return torch.stack(rows)

    def forward(self, h):
        R = self.rotation()
        return h + R.T @ (self.source @ h + self.bias - R @ h)


@pytest.mark.parametrize("layers", [(), (2,), (0, 3)])
def test_all_at_once_equals_the_recipe_one_after_another(tiny_llama, layers):
    lm, concepts, site = tiny_llama, concepts_of(5, 2), tiny.site_of(tiny_llama)
    start, found = (
        Loreft(rank=2, batch_size=3, epochs=one.epochs, layers=layers,
               learning_rate=one.learning_rate).fit(lm, site, concepts).tensors
        for one in (UNTRAINED, SHORT)
    )  # fmt: skip
    names = ("rotations", "sources", "biases")
    for number, entry in enumerate(concepts):
        parts = [
            Plain(*(start[name][number][index].clone() for name in names))
            for index in range(len(start["layers"]))
        ]

        def during(one, parts=parts):
            stack = ExitStack()
            for part, layer in zip(parts, start["layers"].tolist(), strict=True):

                def change(hidden, part=part):
                    rows = list(hidden[0])
                    for place in places(one, lm):
                        rows[place] = part(rows[place])
                    return torch.stack(rows)[None]

                stack.enter_context(hooked(tiny.module_at(lm, Site(layer)), change))
            return stack

        parameters = [p for part in parts for p in part.parameters()]
        trained_plainly(lm.model, lm, entry, recipe_of(SHORT), parameters, during)
        for index, part in enumerate(parts):
            expected = (part.rotation(), part.source, part.bias)
            for name, tensor in zip(names, expected, strict=True):
                learnt = found[name][number][index]
                torch.testing.assert_close(learnt, tensor.detach(), atol=1e-3, rtol=0)
                assert not torch.allclose(learnt, start[name][number][index], atol=2e-2)


@pytest.mark.parametrize("limits", [{"batch_tokens": 50}, {"cache_bytes": 0}])
def test_batches_and_cache_change_nothing(tiny_llama, limits):
    site, concepts = tiny.site_of(tiny_llama), concepts_of(4, 2)
    first, second = (
        Loreft(batch_size=3, epochs=1, **some).fit(tiny_llama, site, concepts).tensors
        for some in ({}, limits)
    )
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-4, rtol=1e-4)


def test_each_concept_answers_with_its_word(tiny_llama):
    method = Loreft(epochs=20, batch_size=8, learning_rate=0.03)
    check_words(tiny_llama, tiny.site_of(tiny_llama), method)


def test_cost_and_bad_settings(tiny_llama):
    site, (entry,) = tiny.site_of(tiny_llama), concepts_of(2)
    cost = SHORT.fit(tiny_llama, site, [entry]).cost
    assert cost.parameters == 3 * (2 * 2 * tiny.WIDTH + 2)
    assert cost.flops > 0
    assert cost.seconds > 0
    with pytest.raises(DataError, match=r"LoReFT cannot learn concept 7.*positive"):
        SHORT.fit(tiny_llama, site, [entry._replace(positives=[])])
    with pytest.raises(ConfigError, match="rank 0"):
        Loreft(rank=0)
    with pytest.raises(ConfigError, match="rank 33 is more than the width 32"):
        Loreft(rank=33).fit(tiny_llama, site, [entry])
    with pytest.raises(ConfigError, match="leave no tokens"):
        Loreft(first=0, last=0)
    with pytest.raises(ModelError, match="layer 9 is out of range"):
        Loreft(layers=(9,)).fit(tiny_llama, site, [entry])
    learned = SHORT.fit(tiny_llama, site, [entry])
    with pytest.raises(SteeringError, match="concept 10"):
        SHORT.steer(tiny_llama, site, learned, [Asked(concepts_of(1, 1)[1].concept, "Why")])
