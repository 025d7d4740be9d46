"""Signals of fluency, held against sums that are done here, with transformers alone."""

import math

import pytest
import torch

import tiny
from hypersteer.judges.fluency import FluencyReader, log_frequencies
from hypersteer.judges.judge import Answer

TEXTS = ("The cat sat on the mat and looked at the rain.", "Bring bread, salt and a little wine.")
ANSWER = Answer("the sea", "What is rain?", "Rain is water that falls from the clouds at sea.")


def next_shares(lm, ids):
    with torch.no_grad():
        return lm.model(torch.tensor([ids])).logits[0].float().softmax(-1)


def frequencies(lm):
    shares = torch.cat([next_shares(lm, lm.chat.prompt(text).ids) for text in TEXTS])
    return shares.mean(0)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_how_common_tokens_are(family):
    lm = tiny.lm_of(family)
    found = log_frequencies(lm, TEXTS)
    assert torch.allclose(found.exp(), frequencies(lm), atol=1e-6)
    assert float(found.exp().sum()) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_coherence_is_what_the_place_adds_for_the_worst_fifth(family):
    lm = tiny.lm_of(family)
    (found,) = FluencyReader(lm, TEXTS).read([ANSWER])
    prompt, ids = lm.chat.prompt(ANSWER.instruction).ids, lm.chat.response(ANSWER.response)
    shares, common = next_shares(lm, [*prompt, *ids]), frequencies(lm)
    above = sorted(
        math.log(shares[len(prompt) - 1 + place, token]) - math.log(common[token])
        for place, token in enumerate(ids)
    )
    worst = above[: math.ceil(len(ids) / 5)]
    assert found.coherence == pytest.approx(sum(worst) / len(worst), abs=1e-4)


def test_an_answer_is_read_alone_as_among_others(tiny_llama):
    reader = FluencyReader(tiny_llama, TEXTS)
    other = ANSWER._replace(response="the the the the the the of of of of of")
    together = reader.read([other, ANSWER, other._replace(response=" ")])
    (alone,) = reader.read([ANSWER])
    assert together[1].by_name() == pytest.approx(alone.by_name(), abs=1e-4)
    assert set(together[2].by_name().values()) == {0.0}
