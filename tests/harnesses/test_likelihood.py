"""Likelihoods under edits, against runs of the Hugging Face model with hooks of torch's own."""

import pytest
import torch

from hypersteer.answering import Answerer
from hypersteer.harnesses.likelihood import Continuation, score
from hypersteer.harnesses.steered import Steered
from hypersteer.lm.chat import PromptIds
from tiny import EVERY, WIDTH, case_of, edit_of, lm_of, module_at, site_of

TEXTS = [
    ("Tell me about", " the sea"),
    ("the bees", " and"),
    ("the bees", " honey"),
    ("a", "b c d"),
]


def alone(lm, prompt, ids, vector=None, site=None, scope="all"):
    """One row, no padding, no cache: the sum of log-probabilities, and whether all are greedy."""
    whole = torch.tensor([[*prompt.ids, *ids]])
    start = len(prompt.ids) if scope == "response" else prompt.prefix

    def add(_module, _args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        hidden = hidden.clone()
        hidden[:, start:] += vector
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    hook = None if vector is None else module_at(lm, site).register_forward_hook(add)
    try:
        with torch.no_grad():
            logits = lm.model(whole).logits[0, len(prompt.ids) - 1 : -1]
    finally:
        if hook is not None:
            hook.remove()
    found = logits.float().log_softmax(-1)
    total = sum(float(row[token]) for row, token in zip(found, ids, strict=True))
    return total, found.argmax(-1).tolist() == list(ids)


def rows_of(lm, steer):
    return [
        Continuation(PromptIds(lm.chat.prefix + lm.chat.text(a), len(lm.chat.prefix)),
                     lm.chat.text(b), steer)
        for a, b in TEXTS
    ]  # fmt: skip


@pytest.mark.parametrize("scope", ["all", "response"])
@pytest.mark.parametrize("family", EVERY)
def test_scores_under_an_edit_are_those_of_a_run_alone(family, scope):
    lm = lm_of(family)
    site = site_of(lm)
    edit = edit_of(lm, site, scope=scope)
    steered = Steered(who=Answerer(lm), steer=edit, strength=0.5)
    asked = rows_of(lm, edit)
    found = score(steered, asked, 3)
    for one, row in zip(found, asked, strict=True):
        total, greedy = alone(lm, row.prompt, row.ids, 0.5 * edit.vector, site, scope)
        assert one.logprob == pytest.approx(total, abs=1e-3)
        assert one.greedy is greedy


@pytest.mark.parametrize("variant", ["no-context", "in-context", "cross-attention"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_scores_under_a_steering_prompt_are_those_under_its_edit(family, variant):
    """The edit is made ahead, from the prompt's ids alone, and added by hand."""
    case = case_of(family, variant)
    lm, maker = case.lm, case.steerer._maker
    steered = Steered(who=case.steerer, strength=0.7, prompted=False)
    asked = [row._replace(steer=case.steer[n % 2]) for n, row in enumerate(rows_of(lm, None))]
    found = score(steered, asked, 4)
    plain = score(steered, rows_of(lm, None), 4)
    for one, row, without in zip(found, asked, plain, strict=True):
        (made,) = maker.edits([row.steer], [row.prompt], "all")[0]
        total, greedy = alone(lm, row.prompt, row.ids, 0.7 * made.vector, made.site)
        assert one.logprob == pytest.approx(total, abs=1e-3)
        assert one.greedy is greedy
        assert abs(one.logprob - without.logprob) > 0.01


def test_strength_0_is_the_plain_model_and_batches_change_nothing():
    case = case_of("llama", "cross-attention")
    steered = Steered(who=case.steerer, steer="sing of bees", strength=0.0)
    asked = rows_of(case.lm, "sing of bees")
    for size in (1, 2, 8):
        found = score(steered, asked, size)
        for one, row in zip(found, asked, strict=True):
            total, greedy = alone(case.lm, row.prompt, row.ids)
            assert one.logprob == pytest.approx(total, abs=1e-4)
            assert one.greedy is greedy


def test_continuations_that_differ_in_their_last_token_share_a_row(tiny_llama, monkeypatch):
    steered = Steered(who=Answerer(tiny_llama))
    prompt = PromptIds(tiny_llama.chat.text("the sea"), 0)
    asked = [Continuation(prompt, [7, token]) for token in range(10, 16)]
    asked.append(Continuation(prompt, [8, 10]))
    run = type(tiny_llama).logits
    sizes = []

    def counted(self, batch, wanted=None):
        sizes.append(len(batch.ids))
        return run(self, batch, wanted)

    monkeypatch.setattr(type(tiny_llama), "logits", counted)
    told = []
    found = score(steered, asked, 8, told.append)
    assert sizes == [2]
    assert sum(told) == len(asked)
    for one, row in zip(found, asked, strict=True):
        assert one.logprob == pytest.approx(alone(tiny_llama, prompt, row.ids)[0], abs=1e-4)


@pytest.mark.parametrize("variant", ["no-context", "cross-attention"])
def test_the_token_that_begins_a_text_is_never_edited(variant):
    case = case_of("llama", variant)
    lm, reads = case.lm, variant == "cross-attention"
    steered = Steered(who=case.steerer, steer="sing", prompted=False)
    prompt = PromptIds(lm.chat.lead, 0 if reads else 1)
    ids = lm.chat.text("the sea and the bees")
    (one,) = score(steered, [Continuation(prompt, ids, "sing", bare=True)], 1)
    (made,) = case.steerer._maker.edits(["sing"], [PromptIds(lm.chat.lead, 0)], "all")[0]
    assert made.vector.shape == (WIDTH,)
    total, _ = alone(lm, prompt, ids, made.vector, made.site, "response")
    assert one.logprob == pytest.approx(total, abs=1e-3)


def test_what_does_not_fit_is_refused(tiny_llama):
    long = Continuation(PromptIds([5] * 250, 0), [6] * 8)
    with pytest.raises(Exception, match="context and continuation needs 257 tokens"):
        score(Steered(who=Answerer(tiny_llama)), [long], 1)
    fits = long._replace(ids=[6] * 7)
    assert score(Steered(who=Answerer(tiny_llama)), [fits], 1)[0].logprob < 0
