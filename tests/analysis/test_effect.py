"""Divergence and perplexity of steered answers against bare calls of the model; the break."""

import dataclasses
import math

import pytest
import torch

import tiny
from analysis.texts import PROMPTS, STEER
from hypersteer.analysis.effect import (
    Point,
    SteeredAnswer,
    Token,
    breaking_strength,
    median,
    point,
    steered_answers,
    whole_limit,
)
from hypersteer.analysis.perplexity import perplexities, some_examples
from hypersteer.config.analysis import AnalysisConfig
from hypersteer.engine.generate import generate_ids
from hypersteer.engine.requests import as_request
from hypersteer.lm.messages import prompted
from hypersteer.steering import Steerer

CONFIG = AnalysisConfig(max_new_tokens=5)


@torch.no_grad()
def read(lm, prompt, ids, layer=None, vector=None):
    """Log-probabilities [N, V] of an answer's tokens, with a vector added after the prefix."""
    said = lm.chat.prompt(prompt)

    def add(_module, _args, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[:, said.prefix :] += vector
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    hook = None if vector is None else lm.blocks[layer].register_forward_hook(add)
    try:
        logits = lm.model(torch.tensor([[*said.ids, *ids]])).logits[0]
    finally:
        if hook is not None:
            hook.remove()
    return logits[len(said.ids) - 1 : -1].log_softmax(-1)


def endless(subject, said=False):
    """The subject with answers that never end early, and edits that want the words said or not."""
    lm = tiny.ending_with(subject.steerer.lm)
    training = {"loss": {"prompted": said}}
    card = dataclasses.replace(subject.steerer.card, training=training)
    steerer = Steerer(lm, subject.steerer.hypernet, card, generator="test")
    return dataclasses.replace(subject, steerer=steerer)


@pytest.mark.parametrize("said", [False, True])
@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_answers_are_read_as_the_bare_model_reads_them(reading, said, strength):
    subject = endless(reading, said)
    lm = subject.steerer.lm
    found = steered_answers(subject, STEER[0], strength, CONFIG)
    assert [one.prompt for one in found] == PROMPTS
    for one in found:
        asked = prompted(one.prompt, STEER[0]) if said else one.prompt
        text = subject.steerer.generate(
            asked, steer=STEER[0], strength=strength, prompted=False, max_new_tokens=5,
            repetition_penalty=1.15,
        )  # fmt: skip
        assert one.response == text
        ids = ids_of(subject, asked, strength)
        edit = subject.steerer.edit(STEER[0], asked)
        after = read(lm, asked, ids, edit.site.layer, strength * edit.vector)
        before = read(lm, asked, ids)
        gaps = (after.exp() * (after - before)).sum(-1)
        assert [token.kl for token in one.tokens] == pytest.approx(gaps.tolist(), abs=1e-3)
        assert one.mean_kl == pytest.approx(float(gaps.mean()), abs=1e-3)
        own = before.gather(1, torch.tensor(ids)[:, None])
        assert one.perplexity == pytest.approx(float((-own.mean()).exp()), rel=1e-3)


def ids_of(subject, asked, strength):
    """Token ids of the steered answer to one prompt."""
    decoding = {"max_new_tokens": 5, "repetition_penalty": 1.15}
    request = as_request(subject.steerer.lm, asked, STEER[0], strength, decoding=decoding)
    writers = subject.steerer.writers(request)
    return generate_ids(subject.steerer.lm, request.prompts, writers, request.decodings)[0]


def test_the_limit_lies_above_what_the_base_lm_answers_itself(reading):
    subject = endless(reading)
    lm, nats = subject.steerer.lm, []
    for prompt in subject.prompts:
        ids = ids_of(subject, prompt, 0.0)
        own = read(lm, prompt, ids).gather(1, torch.tensor(ids)[:, None])
        nats.append(-float(own.mean()))
    expected = math.exp(sum(nats) / len(nats) + 1.4)
    assert whole_limit(subject, CONFIG) == pytest.approx(expected, rel=1e-3)


def answer(perplexity, repeated=0.0, kls=(1.0,), strength=1.0):
    tokens = [Token(text="a", kl=kl) for kl in kls]
    return SteeredAnswer(
        steer="x", prompt="y", strength=strength, response="a", tokens=tokens,
        perplexity=perplexity, repeated=repeated,
    )  # fmt: skip


def test_a_point_sums_up_the_answers_of_one_strength():
    found = point([answer(2, kls=(1, 3)), answer(4, kls=(5,)), answer(90, kls=(3,))], limit=10)
    assert found.mean_kl == pytest.approx((2 + 5 + 3) / 3)
    assert found.perplexity == 4
    assert found.broken == ""


@pytest.mark.parametrize(
    ("perplexity", "repeated", "broken"),
    [
        (9, 0.1, ""),
        (11, 0.1, "perplexity"),
        (9, 0.6, "repetition"),
        (float("nan"), 0, "perplexity"),
    ],
)
def test_a_text_breaks_by_perplexity_or_by_repetition(perplexity, repeated, broken):
    assert point([answer(perplexity, repeated)], limit=10).broken == broken


def test_the_text_breaks_at_the_lowest_strength_that_is_broken():
    def at(strength, broken):
        return Point(strength=strength, mean_kl=1, perplexity=1, repeated=0, broken=broken)

    assert breaking_strength([at(1, ""), at(4, "perplexity"), at(2, "repetition")]) == 2
    assert breaking_strength([at(1, ""), at(2, "")]) is None


def test_the_median_by_hand():
    assert median([3, 1, 2]) == 2
    assert median([4, 1, 3, 2]) == 2.5


def test_perplexities_are_those_of_the_bare_model(tiny_llama):
    texts = ["the sea", "the ship and the honey of the bees", "day"]
    found = perplexities(tiny_llama, PROMPTS, texts, most=4)
    for prompt, text, value in zip(PROMPTS, texts, found, strict=True):
        ids = tiny_llama.chat.response(text)[:4]
        own = read(tiny_llama, prompt, ids).gather(1, torch.tensor(ids)[:, None])
        assert value == pytest.approx(float((-own.mean()).exp()), rel=1e-3)


def test_examples_are_positive_rows_chosen_by_the_seed(data):
    found = some_examples(data, 20, seed=1)
    assert {one.category for one in found} == {"positive"}
    assert found == some_examples(data, 20, seed=1) != some_examples(data, 20, seed=2)
    assert len({(one.prompt, one.response) for one in found}) == 20
