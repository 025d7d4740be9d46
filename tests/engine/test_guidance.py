"""Guided decoding against its equation, and against plain decoding where nothing guides."""

import math

import torch

import tiny
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import generate_ids
from hypersteer.engine.guidance import PLAUSIBLE, guided_ids, guided_logits

PROMPTS = ["Why is the sky blue?", "Tell me of jam and figs and bees", "Go"]


def some(seed, rows=4, vocab=50):
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))


def test_guided_logits_are_what_the_equation_says():
    prompted, plain = some(0), some(1)
    ours = guided_logits(prompted, plain, 1.5).double()
    p, q = prompted.double().softmax(-1), plain.double().softmax(-1)
    for row in range(4):
        for token in range(50):
            if p[row, token] < PLAUSIBLE * p[row].max():
                assert ours[row, token] == -math.inf
            else:
                wanted = math.log(p[row, token] ** 2.5 / q[row, token] ** 1.5)
                assert abs(float(ours[row, token]) - wanted) < 1e-5


def test_without_guidance_greedy_answers_are_the_plain_ones(lm):
    asked = [lm.chat.prompt(text) for text in PROMPTS]
    beside = [lm.chat.prompt(text) for text in reversed(PROMPTS)]
    decoding = Decoding(max_new_tokens=6)
    assert guided_ids(lm, asked, beside, decoding, 0.0) == generate_ids(lm, asked, [], decoding)


def test_guided_answers_do_not_depend_on_the_other_rows():
    lm = tiny.lm_of("llama")
    asked = [lm.chat.prompt(text) for text in PROMPTS]
    beside = [lm.chat.prompt("Hm")] * len(PROMPTS)
    decoding = Decoding(max_new_tokens=8, temperature=1.0, seed=(3, 4, 5))
    together = guided_ids(lm, asked, beside, decoding, 0.8)
    for row in range(len(PROMPTS)):
        alone = Decoding(max_new_tokens=8, temperature=1.0, seed=(3 + row,))
        assert guided_ids(lm, [asked[row]], [beside[row]], alone, 0.8) == [together[row]]


def test_guidance_moves_away_from_the_plain_prompt():
    """Guided tokens are likelier under the prompt, against the plain one, than unguided ones."""
    prompted, plain = some(2, 40), some(3, 40)
    lift = prompted.log_softmax(-1) - plain.log_softmax(-1)

    def mean_lift(guidance):
        return float((guided_logits(prompted, plain, guidance).softmax(-1) * lift).sum(-1).mean())

    assert mean_lift(0.0) < mean_lift(0.5) < mean_lift(2.0)
