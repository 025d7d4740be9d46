"""Invariants 3 and 4: exactly the scope's tokens change at exactly the site, cached or not.

What is expected is worked out by hand from lengths, and written by hooks of the tests' own.
"""

import random

import pytest
import torch
from torch import Tensor

import tiny
from hypersteer.edits.sites import Site
from hypersteer.lm.chat import collate
from hypersteer.lm.edited import edit_writers
from hypersteer.lm.writers import vector_writer, written

SCOPES = ("all", "prompt", "response", "last_prompt", "mask", "prompt_ends", "everywhere")
PROMPTS = (
    "Tell me about your day at the sea, about the ship and all the bees, and say why.",
    "Hi",
    "Why is the sky blue?",
    "Talk like a bee, and say why.",
    "the honey",
    "Say why the ship is blue.",
    "Talk of the sky and of the bees.",
)


@pytest.fixture(scope="session", params=tiny.EVERY)
def lm(request):
    return tiny.lm_of(request.param)


def explicit(length):
    """A mask over prefix and prompt that touches some of both."""
    return tuple(random.Random(length).random() < 0.5 for _ in range(length))


def touched(scope, prompt, total):
    """Which of a row's `total` real tokens its scope touches."""
    prefix, end = prompt.prefix, len(prompt.ids)
    named = {
        "all": lambda at: at >= prefix,
        "everywhere": lambda at: True,
        "prompt": lambda at: prefix <= at < end,
        "response": lambda at: at >= end,
        "last_prompt": lambda at: at == end - 1,
        "prompt_ends": lambda at: at in (prefix, prefix + 1, end - 2, end - 1),
        "mask": lambda at: at < end and explicit(end)[at],
    }
    return torch.tensor([named[scope](at) for at in range(total)])


def scope_of(scope, prompt):
    return explicit(len(prompt.ids)) if scope == "mask" else scope


def first(output):
    return output if isinstance(output, Tensor) else output[0]


def watched(lm, batch):
    """What leaves every site [layer][kind], as hooks of the test see it."""
    sites = [Site(layer, kind) for layer in range(lm.depth) for kind in tiny.KINDS]
    seen = {}

    def watch(site):
        return lambda _m, _a, output: seen.__setitem__(site, first(output).clone())

    hooks = [tiny.module_at(lm, site).register_forward_hook(watch(site)) for site in sites]
    with torch.no_grad():
        lm.forward(batch)
    for hook in hooks:
        hook.remove()
    return seen


def precedes(one, site):
    """Whether site `one` is computed before `site`."""
    order = ("attention", "mlp", "residual")
    return (one.layer, order.index(one.kind)) < (site.layer, order.index(site.kind))


@pytest.fixture(scope="module")
def prompts(lm):
    return [lm.chat.prompt(text) for text in PROMPTS]


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_3_a_vector_changes_its_site_by_itself_and_nothing_below(lm, prompts, kind, side):
    site = tiny.site_of(lm, kind, layer=2)
    texts = ("Arr!", "Aye, the day.", "So", "Blue", "No", "The sea", "Why")
    responses = [lm.chat.response(text) for text in texts]
    batch = collate(prompts, responses, pad_id=lm.chat.pad_id, side=side)
    edits = [
        tiny.edit_of(lm, site, seed, scope_of(scope, prompt))
        for seed, (scope, prompt) in enumerate(zip(SCOPES, prompts, strict=True))
    ]
    before = watched(lm, batch)
    with written(lm.blocks, edit_writers(lm, edits, [1.0] * len(SCOPES)), batch.spans):
        after = watched(lm, batch)

    expected = before[site].clone()
    for row, (scope, prompt, response) in enumerate(zip(SCOPES, prompts, responses, strict=True)):
        total = len(prompt.ids) + len(response)
        start = expected.shape[1] - total if side == "left" else 0
        marked = touched(scope, prompt, total)
        assert marked.any()
        expected[row, start : start + total][marked] += edits[row].vector
    assert torch.equal(after[site], expected)
    for other in before:
        if precedes(other, site):
            assert torch.equal(after[other], before[other])
    above = Site(3, "residual")
    assert (after[above] - before[above]).abs().amax((1, 2)).min() > 0.1


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_3_what_is_read_is_the_site_before_the_write(lm, prompts, kind):
    site = tiny.site_of(lm, kind)
    batch = collate(prompts, pad_id=lm.chat.pad_id, side="left")
    read = []

    def make(hidden, spans):
        assert spans is batch.spans
        read.append(hidden)
        return torch.ones(len(hidden), lm.width)

    plain = watched(lm, batch)[site]
    with written(lm.blocks, [vector_writer(site, make, ["all"] * len(PROMPTS))], batch.spans):
        after = watched(lm, batch)[site]
    assert len(read) == 1
    assert torch.equal(read[0], plain)
    assert torch.equal(after[batch.spans.prompt], plain[batch.spans.prompt] + 1)
    with torch.no_grad():
        assert torch.equal(lm.states(batch, site), plain)


def recomputed(lm, ids, site, delta):
    """Logits [T, V] of one whole row with no cache, no padding, and `delta` [T, D] at the site."""

    def add(_module, _args, output):
        changed = first(output) + delta
        return changed if isinstance(output, Tensor) else (changed, *output[1:])

    hook = tiny.module_at(lm, site).register_forward_hook(add)
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    hook.remove()
    return logits


def assert_decoded_as_recomputed(lm, run, row, prompt, scope, site, vector):
    """The cached decoding of one row against one forward pass over all its tokens."""
    ids = [*prompt.ids, *run.ids[row][:-1]]
    delta = touched(scope, prompt, len(ids))[:, None] * vector
    last = len(prompt.ids) - 1
    logits = recomputed(lm, ids, site, delta)[last:]
    torch.testing.assert_close(run.logits[:, row], logits, rtol=0, atol=1e-4)
    assert logits.argmax(-1).tolist() == run.ids[row]
    without = recomputed(lm, ids, site, torch.zeros_like(delta))[last:]
    moved = (logits - without).abs().amax(-1)
    if scope == "response":  # the token before the first generated one is the prompt's
        assert moved[0] < 1e-5
        assert moved[1] > 0.1
    elif scope in ("all", "everywhere", "prompt", "prompt_ends", "last_prompt"):
        assert moved[0] > 0.1


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_4_scopes_hold_under_the_cache(lm, prompts, kind):
    """Past the sliding window, which is 16 tokens in the families that have one."""
    lm, site = tiny.ending_with(lm), tiny.site_of(lm, kind)
    edits = [
        tiny.edit_of(lm, site, seed, scope_of(scope, prompt))
        for seed, (scope, prompt) in enumerate(zip(SCOPES, prompts, strict=True))
    ]
    run = tiny.decoded(
        lm, prompts, edit_writers(lm, edits, [1.0] * len(SCOPES)), steps=tiny.WINDOW + 4
    )
    for row, (scope, prompt) in enumerate(zip(SCOPES, prompts, strict=True)):
        assert_decoded_as_recomputed(lm, run, row, prompt, scope, site, edits[row].vector)


@pytest.mark.parametrize("scope", [scope for scope in SCOPES if scope != "mask"])
def test_4_scopes_hold_for_written_edits(lm, scope):
    case = tiny.case_of(lm.name, "cross-attention")
    texts = list(PROMPTS[:2])
    prompts = [lm.chat.prompt(text) for text in texts]
    steer = list(case.steer)
    run = tiny.decoded(case.lm, prompts, case.writers(texts, steer, scope=scope), steps=6)
    for row, edit in enumerate(case.steerer.edit(steer, texts)):
        assert_decoded_as_recomputed(lm, run, row, prompts[row], scope, edit.site, edit.vector)


def test_4_rows_may_have_different_sites(lm, prompts):
    lm = tiny.ending_with(lm)
    sites = [Site(2, "mlp"), Site(1, "residual"), Site(2, "mlp"), Site(-1, "residual")]
    edits = [*(tiny.edit_of(lm, site, seed) for seed, site in enumerate(sites)), *[None] * 3]
    run = tiny.decoded(lm, prompts, edit_writers(lm, edits, [1.0] * len(SCOPES)))
    for row, edit in enumerate(edits[:4]):
        site = lm.site(edit.site.layer, edit.site.kind)
        assert_decoded_as_recomputed(lm, run, row, prompts[row], "all", site, edit.vector)
    plain = tiny.decoded(lm, prompts)
    torch.testing.assert_close(run.logits[:, 4], plain.logits[:, 4], rtol=0, atol=1e-5)
