"""Invariant 7: a steered call leaves no trace, after an exception too, and disturbs no other."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import torch

import tiny
from hypersteer.edits.sites import Site
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import decode
from hypersteer.errors import ModelError
from hypersteer.hypernet.trunk import trunk_blocks
from hypersteer.lm.chat import collate
from hypersteer.lm.hooks import at_input, at_output, at_sites, head_at
from hypersteer.lm.writers import vector_writer, written

PROMPT = "Tell me about your day at the sea."
STEER = "talk like a pirate"
SHORT = {"max_new_tokens": 6}


@pytest.fixture(scope="session", params=tiny.EVERY)
def lm(request):
    return tiny.lm_of(request.param)


class Broken(Exception):
    pass


def hooks(*modules):
    """Number of hooks on every sub-module."""
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for root in modules
        for module in root.modules()
    )


def fail(*_args, **_kwargs):
    raise Broken


@pytest.fixture(params=tiny.VARIANTS, scope="module")
def steerer(lm, request):
    return tiny.case_of(lm.name, request.param).steerer


def plain_logits(lm):
    with torch.no_grad():
        return lm.logits(collate([lm.chat.prompt(PROMPT)], pad_id=lm.chat.pad_id))


PLACES = ("below the site", "above the site", "trunk", "head", "later step")


@pytest.mark.parametrize("where", PLACES)
def test_7_an_exception_leaves_the_model_clean(lm, steerer, where, monkeypatch):
    network = steerer.hypernet
    before = plain_logits(lm)
    module = {
        "below the site": tiny.module_at(lm, Site(0, "mlp")),
        "above the site": tiny.module_at(lm, Site(3, "mlp")),
        "trunk": getattr(trunk_blocks(network.trunk)[0], tiny.EVERY[lm.name].mlp),
        "head": network.head[0],
        "later step": tiny.module_at(lm, Site(2, "mlp")),
    }[where]
    forward, calls = module.forward, []

    def breaks(*args, **kwargs):
        calls.append(where)
        return fail() if where != "later step" or len(calls) == 3 else forward(*args, **kwargs)

    monkeypatch.setattr(module, "forward", breaks)
    with pytest.raises(Broken):
        steerer.generate([PROMPT, "Hi"], steer=STEER, **SHORT)
    assert hooks(lm.model, network) == 0
    if where != "later step":
        with suppress(Broken):
            steerer.edit(STEER, PROMPT)
        assert hooks(lm.model, network) == 0
    monkeypatch.undo()
    assert torch.equal(plain_logits(lm), before)


def test_7_finished_abandoned_and_cut_short_calls_leave_the_model_clean(lm, steerer):
    before = plain_logits(lm)
    batch = collate([lm.chat.prompt(PROMPT)], pad_id=lm.chat.pad_id)
    steerer.generate(PROMPT, steer=STEER, **SHORT)
    steerer.edit(STEER, PROMPT)
    lm.states(batch, Site(1))
    lm.logits(batch, batch.spans.prompt)
    assert hooks(lm.model, steerer.hypernet) == 0
    pieces = steerer.stream(PROMPT, steer=STEER, max_new_tokens=20)
    next(pieces, None)
    assert hooks(lm.model, steerer.hypernet) == 0  # also between two pieces
    pieces.close()
    assert torch.equal(plain_logits(lm), before)


def test_7_every_hook_is_undone_after_an_exception(tiny_llama):
    lm = tiny_llama
    head = lm.model.get_output_embeddings()
    for context in (
        lambda: at_output(lm.blocks[0], fail),
        lambda: at_input(lm.blocks[0], fail),
        lambda: at_sites(lm.blocks, [(Site(0), fail), (Site(1, "mlp"), fail)]),
        lambda: head_at(head, torch.ones(1, 1, dtype=torch.bool)),
    ):
        with suppress(Broken), context():
            assert hooks(lm.model) > 0
            raise Broken
        assert hooks(lm.model) == 0


def test_7_a_site_that_is_not_there_is_refused_before_any_hook(tiny_llama):
    spans = collate([tiny_llama.chat.prompt(PROMPT)], pad_id=2).spans
    ones = torch.ones(1, tiny_llama.width)
    writers = [vector_writer(Site(0), ones, ["all"]), vector_writer(Site(9), ones, ["all"])]
    with pytest.raises(ModelError, match="layer 9"), written(tiny_llama.blocks, writers, spans):
        pytest.fail("hooks were placed")
    assert hooks(tiny_llama.model) == 0


def stepping(case, steer):
    """Steps of decoding one row; each token with the logits it was chosen from."""
    prompts = [case.lm.chat.prompt(PROMPT)]
    steps = decode(case.lm, prompts, case.writers([PROMPT], steer), Decoding(**SHORT))
    while True:
        with tiny.logits_seen(case.lm) as seen:
            fresh = next(steps, None)
        if fresh is None:
            return
        yield fresh[0], seen[0][0]


def test_7_two_steerers_on_one_base_lm_and_two_base_lms(lm):
    """Four calls in turn, one token each, are what they are one after the other."""
    one = tiny.case_of(lm.name, "cross-attention")
    two = tiny.Case(one.lm, tiny.steerer_of(one.lm, "no-context", "attention", seed=5), one.steer)
    other = tiny.case_of("llama" if lm.name != "llama" else "qwen3", "cross-attention")
    calls = [(one, "talk like a pirate"), (two, "mention bees"), (one, None), (other, "be terse")]
    alone = [list(stepping(case, steer)) for case, steer in calls]
    in_turn = zip(*(stepping(case, steer) for case, steer in calls), strict=True)
    for step, parts in enumerate(in_turn):
        for (token, logits), expected in zip(parts, alone, strict=True):
            assert token == expected[step][0]
            assert torch.equal(logits, expected[step][1])
    first = torch.stack([steps[0][1] for steps in alone])
    assert torch.cdist(first, first).add(torch.eye(4)).min() > 0.1


@pytest.fixture
def eager_switching():
    """Threads take turns as often as Python can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def test_7_threads_do_not_disturb_each_other(eager_switching):
    case = tiny.case_of("llama", "cross-attention")
    other = tiny.steerer_of(case.lm, "no-context", "mlp", seed=5)
    fixed = tiny.edit_of(case.lm, Site(2), 3)
    double = [PROMPT, "Hi"]

    def logits(steerer, texts, steer, strength=1.0):
        run = tiny.Case(case.lm, steerer, ())
        prompts = [case.lm.chat.prompt(text) for text in texts]
        return tiny.decoded(case.lm, prompts, run.writers(texts, steer, strength)).logits

    calls = [
        lambda: logits(case.steerer, double, ["be terse", None]),
        lambda: logits(case.steerer, double[:1], "mention bees", -1.0),
        lambda: logits(other, double, "talk like a pirate"),
        lambda: logits(case.steerer, double[:1], fixed),
        lambda: logits(case.steerer, double, None),
        lambda: case.steerer.edit("be kind", "Hi").vector,
    ]
    alone = [call() for call in calls]
    start = threading.Barrier(len(calls))

    def many(call):
        start.wait()
        return [call() for _ in range(15)]

    with ThreadPoolExecutor(len(calls)) as pool:
        for expected, results in zip(alone, pool.map(many, calls), strict=True):
            assert all(torch.equal(result, expected) for result in results)
    assert hooks(case.lm.model, case.steerer.hypernet, other.hypernet) == 0


def test_7_a_hook_removed_by_its_own_thread_while_another_runs_is_harmless(tiny_llama):
    """torch then calls a pre-hook that wants keyword arguments without them."""
    block = tiny_llama.blocks[0]
    with at_input(block, fail), ThreadPoolExecutor(1) as pool:
        [hook] = block._forward_pre_hooks.values()
        assert pool.submit(hook, block, ()).result() is None
