"""Gated edits on every family: decisions worked out by hand, and DESIGN's invariants."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import hypersteer as hs
import tiny
from gating import CHATS, LONG, PROMPTS, condition_at, fires_by_hand, score_by_hand
from hypersteer.answering import Answerer
from hypersteer.edits.sites import Site
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import generate_ids
from hypersteer.engine.requests import as_request
from hypersteer.errors import CheckpointError, ModelError, SteeringError
from hypersteer.lm.chat import collate
from hypersteer.lm.hooks import at_sites
from hypersteer.lm.writers import written

STEPS = 4
SHORT = {"max_new_tokens": STEPS}
CLOSE = {"rtol": 0.0, "atol": 1e-4}


@pytest.fixture(scope="module")
def endless(lm):
    return tiny.ending_with(lm)


def edits_of(lm):
    return {"x": tiny.edit_of(lm, Site(1), 1), "y": tiny.edit_of(lm, Site(2, "mlp"), 2)}


def rules_of(lm, text="if a and not b then x, y; if b then y", layer=1, **options):
    conditions = {"a": condition_at(lm, layer, 1), "b": condition_at(lm, 0, 2)}
    return hs.rules(text, conditions=conditions, edits=edits_of(lm), **options)


def writers_of(lm, prompts, steer, strengths=None, log=None):
    strengths = strengths or [1.0] * len(prompts)
    request = as_request(lm, list(prompts), steer, strengths)
    return Answerer(lm).writers(request, decisions=log)


def decoded(lm, prompts, steer, log=None, steps=STEPS):
    rows = [lm.chat.prompt(prompt) for prompt in prompts]
    return tiny.decoded(lm, rows, writers_of(lm, prompts, steer, log=log), steps)


def same(lm, one, other):
    """Bit for bit, but for a mixture of experts, whose rows share products."""
    if lm.name == "mixtral":
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    else:
        assert torch.equal(one, other)


WAYS = {
    "at the site": {"layer": 1},
    "above the sites": {"layer": 3},
    "every token": {"layer": 1, "check": "token"},
    "above, every token": {"layer": 3, "check": "token"},
    "above, every other token": {"layer": 3, "check": 2},
}


AT_ALL = ("above the sites", "every token", "above, every token")
ALL = [(family, way) for family in tiny.FAMILIES for way in AT_ALL]
LLAMA = [("llama", way) for way in WAYS]


def endless_of(family):
    return tiny.ending_with(tiny.lm_of(family))


@pytest.mark.parametrize(("family", "way"), [*ALL, ("llama", "at the site")])
def test_1_and_5_rows_alone_batched_streamed_decide_and_answer_alike(family, way):
    lm = endless_of(family)
    rules = rules_of(lm, **WAYS[way])
    other = rules_of(lm, "if not a then x", layer=0)
    steer = [rules, rules, other, rules]
    log = hs.Decisions()
    together = decoded(lm, PROMPTS, steer, log)
    for row, prompt in enumerate(PROMPTS):
        own = hs.Decisions()
        alone = decoded(lm, [prompt], steer[row], own)
        assert alone.ids[0] == together.ids[row]
        torch.testing.assert_close(alone.logits[:, 0], together.logits[:, row], **CLOSE)
        for mine, theirs in zip(log.rows[row], own.rows[0], strict=True):
            assert mine[2:] == theirs[2:]
            assert mine.scores == pytest.approx(theirs.scores, abs=1e-5)
    streamed = hs.Decisions()
    pieces = lm.stream(prompt, edit=steer[-1], decisions=streamed, **SHORT)
    assert ("".join(pieces), streamed.rows) == (lm.chat.decode(alone.ids[0]), own.rows)
    texts = lm.generate(list(PROMPTS), edit=steer, **SHORT)
    assert texts == [lm.chat.decode(ids) for ids in together.ids]
    assert len({check.edits for row in log.rows for check in row}) > 1


def test_decisions_are_those_worked_out_by_hand(endless):
    lm = endless
    for layer in (0, 3):
        rules, log = rules_of(lm, layer=layer), hs.Decisions()
        lm.generate(list(PROMPTS), edit=rules, decisions=log, max_new_tokens=1)
        for prompt, (check,) in zip(PROMPTS, log.rows, strict=True):
            fired = {name: fires_by_hand(lm, prompt, c) for name, c in rules.conditions.items()}
            assert check.conditions == tuple(name for name in "ab" if fired[name])
            x = fired["a"] and not fired["b"]
            assert check.edits == (("x",) if x else ()) + (("y",) if x or fired["b"] else ())
            assert check.token == 0


@pytest.mark.parametrize(("family", "way"), [*ALL, ("llama", "at the site")])
def test_2_a_closed_gate_is_the_plain_model_and_an_open_one_the_plain_edit(family, way):
    """Bit for bit, in one batch with rows that are steered and rows that are not."""
    lm = endless_of(family)
    rules = rules_of(lm, "if a then x", **WAYS[way])
    edit, log = rules.edits["x"], hs.Decisions()
    prompts = [*PROMPTS, "Hi", LONG]
    gated = decoded(lm, prompts, [*[rules] * 4, None, edit], log)
    opened = [[bool(check.edits) for check in row] for row in log.rows]
    always = [all(row) and bool(row) for row in opened]
    never = [not any(row) for row in opened]
    if "check" not in WAYS[way]:
        assert 0 < sum(always[:4]) < 4
        assert 0 < sum(never[:4]) < 4
    plain = decoded(lm, prompts, [None] * 6)
    steered = decoded(lm, prompts, [edit] * 5 + [edit])
    mixed = [edit if always[row] or row == 5 else None for row in range(6)]
    beside = decoded(lm, prompts, mixed)
    for row in range(6):
        if never[row] and row < 5:
            same(lm, gated.logits[:, row], plain.logits[:, row])
        elif always[row] or row == 5:
            same(lm, gated.logits[:, row], beside.logits[:, row])
            torch.testing.assert_close(gated.logits[:, row], steered.logits[:, row], **CLOSE)
            assert (gated.logits[0, row] - plain.logits[0, row]).abs().max() > 0.1


def by_hand_token_by_token(lm, text, condition, edit, response, every):
    """Open or not at every check of the response, from uncached passes of the plain model."""
    prompt = lm.chat.prompt(text)
    fired, decided = False, {}
    for token in range(len(response)):
        if token == 0 or token % every == 0:
            part = response[:token]
            (direction,), (layer,) = condition.directions, condition.layers
            score = score_by_hand(lm, prompt, direction, layer, condition.pooling, part)
            limit = condition.release if fired and condition.release is not None else None
            fired = score > (condition.threshold if limit is None else limit)
        decided[token] = fired
    return decided


@pytest.mark.parametrize(
    ("family", "every", "pooling", "hysteresis", "layer"),
    [
        *((family, "token", "last", 0.15, 1) for family in tiny.FAMILIES),
        *((family, 2, "turn", 0.0, layer) for family in tiny.FAMILIES for layer in (1, 3)),
        ("llama", "token", "last", 0.0, 1),
        ("llama", "token", "last", 0.0, 3),
        ("llama", 3, "prompt", 0.0, 1),
        ("llama", 3, "prompt", 0.0, 2),
        ("llama", "token", "all", 0.01, 1),
        ("llama", "token", "all", 0.01, 2),
    ],
)
def test_4_checks_in_the_response_hold_under_the_cache(family, every, pooling, hysteresis, layer):
    """Decisions and logits of cached decoding against uncached passes over all tokens.

    A condition above the edit, at block 1, reads what the plain model makes of the answer.
    """
    lm, steps = endless_of(family), 7
    prompts = CHATS if pooling == "turn" else PROMPTS
    condition = condition_at(lm, layer, 3, pooling, prompts)
    condition = replace(condition, release=condition.threshold - hysteresis)
    edit = tiny.edit_of(lm, Site(1), 1)
    rules = hs.rules("if a then x", conditions={"a": condition}, edits={"x": edit}, check=every)
    log = hs.Decisions()
    run = decoded(lm, prompts, rules, log, steps)
    number = 1 if every == "token" else every
    for row, text in enumerate(prompts):
        prompt, response = lm.chat.prompt(text), run.ids[row]
        decided = by_hand_token_by_token(lm, text, condition, edit, response, number)
        checks = {token: decided[token] for token in decided if token % number == 0}
        assert {check.token: bool(check.edits) for check in log.rows[row]} == checks
        delta = torch.zeros(len(prompt.ids) + steps - 1, lm.width)
        if decided[0]:
            delta[prompt.prefix : len(prompt.ids)] = edit.vector
        for token in range(1, steps):
            if decided[token]:
                delta[len(prompt.ids) + token - 1] = edit.vector
        logits = recomputed(lm, [*prompt.ids, *response[:-1]], edit.site, delta)
        torch.testing.assert_close(run.logits[:, row], logits[len(prompt.ids) - 1 :], **CLOSE)


def recomputed(lm, ids, site, delta):
    """Logits of one whole row without a cache, with `delta` added at a site by a plain hook."""

    def add(_module, _args, output):
        if isinstance(output, Tensor):
            return output + delta
        return (output[0] + delta, *output[1:])

    hook = tiny.module_at(lm, site).register_forward_hook(add)
    with torch.no_grad():
        logits = lm.model(torch.tensor([ids]), use_cache=False).logits[0]
    hook.remove()
    return logits


def test_checks_change_their_mind_in_the_tests_above(tiny_llama):
    """Else they would show nothing."""
    lm, log = tiny.ending_with(tiny_llama), hs.Decisions()
    condition = condition_at(lm, 1, 3, "last")
    edits = {"x": tiny.edit_of(lm, Site(1), 1)}
    rules = hs.rules("if a then x", conditions={"a": condition}, edits=edits, check="token")
    decoded(lm, PROMPTS, rules, log, tiny.WINDOW + 2)
    assert any(len({check.edits for check in row}) == 2 for row in log.rows)


@pytest.mark.parametrize(
    ("family", "way"), [*LLAMA, *((family, "above the sites") for family in tiny.FAMILIES)]
)
def test_6_several_strengths_share_the_decision_on_the_prompt(family, way):
    lm = endless_of(family)
    rules, other = rules_of(lm, **WAYS[way]), tiny.edit_of(lm, Site(0), 3)
    rows = [lm.chat.prompt(prompt) for prompt in PROMPTS]
    steer, strengths = [rules, rules, other, rules], (0.0, 1.0, -0.5)
    log = hs.Decisions()
    writers = writers_of(lm, PROMPTS, steer, log=log)
    together = generate_ids(lm, rows, writers, Decoding(**SHORT), strengths)
    for copy, strength in enumerate(strengths):
        own = hs.Decisions()
        apart = writers_of(lm, PROMPTS, steer, [strength] * 4, log=own)
        assert generate_ids(lm, rows, apart, Decoding(**SHORT)) == together[4 * copy : 4 * copy + 4]
        for mine, theirs in zip(log.rows[4 * copy : 4 * copy + 4], own.rows, strict=True):
            assert [check[2:] for check in mine] == [check[2:] for check in theirs]
    plain = generate_ids(lm, rows, [], Decoding(**SHORT))
    assert together[:4] == plain
    assert together[4:8] != plain


@pytest.mark.parametrize(("layer", "every"), [(1, "token"), (3, "token"), (3, 3)])
def test_rows_that_end_take_their_checks_with_them(tiny_llama, layer, every):
    """Rows leave the batch one after the other; decisions follow the rest."""
    lm = tiny_llama
    endless = tiny.ending_with(lm)
    rules = rules_of(endless, layer=layer, check=every)
    ids = decoded(endless, PROMPTS, rules, steps=16).ids
    ending = tiny.ending_with(lm, ids[0][1], ids[1][9], ids[2][4])
    log = hs.Decisions()
    texts = ending.generate(list(PROMPTS), edit=rules, decisions=log, max_new_tokens=16)
    for row, prompt in enumerate(PROMPTS):
        own = hs.Decisions()
        assert ending.generate(prompt, edit=rules, decisions=own, max_new_tokens=16) == texts[row]
        assert [c[2:] for c in own.rows[0]] == [c[2:] for c in log.rows[row]]
        assert [c.token for c in own.rows[0]] == [c.token for c in log.rows[row]]
    assert len({len(row) for row in log.rows}) > 1


def test_rows_whose_rules_are_read_and_checked_in_other_ways(endless):
    """Above the edits or at them, on the prompt, at every token or at every third: as alone."""
    lm = endless
    ways = ((3, "prompt"), (3, "token"), (1, 3), (3, 3), (1, "prompt"))
    steer = [rules_of(lm, layer=layer, check=check) for layer, check in ways]
    steer.insert(2, None)
    prompts, log = [*PROMPTS, "Hi", LONG], hs.Decisions()
    together = decoded(lm, prompts, steer, log, steps=8)
    for row, (prompt, own) in enumerate(zip(prompts, steer, strict=True)):
        alone = hs.Decisions()
        assert decoded(lm, [prompt], [own], alone, steps=8).ids[0] == together.ids[row]
        assert [one[2:] for one in log.rows[row]] == [one[2:] for one in alone.rows[0]]
        assert [one.token for one in log.rows[row]] == [one.token for one in alone.rows[0]]
    assert [len(row) for row in log.rows] == [1, 8, 0, 3, 3, 1]


@pytest.mark.parametrize(
    ("family", "variant"),
    [
        *(("llama", variant) for variant in tiny.VARIANTS[1:]),
        *((family, "cross-attention") for family in tiny.FAMILIES),
    ],
)
def test_steering_prompts_behind_gates(family, variant):
    """What a hypernetwork writes is what it writes without a gate, beside another edit too."""
    case = tiny.case_of(family, variant)
    conditions = {"a": condition_at(case.lm, 1, 1)}
    edits = {
        "x": case.steer[0],
        "y": case.steer[1],
        "z": tiny.edit_of(case.lm, case.steerer.card.site),
    }
    rules = hs.rules("if a then z, x; if not a then y", conditions=conditions, edits=edits)
    fired = [fires_by_hand(case.lm, prompt, conditions["a"]) for prompt in PROMPTS]
    assert 0 < sum(fired) < 4
    wanted = []
    for prompt, fires in zip(PROMPTS, fired, strict=True):
        edit = case.steerer.edit(case.steer[0 if fires else 1], prompt)
        wanted.append(edit + edits["z"] if fires else edit)
    log = hs.Decisions()
    texts = case.steerer.generate(list(PROMPTS), steer=rules, decisions=log, **SHORT)
    assert texts == case.lm.generate(list(PROMPTS), edit=wanted, **SHORT)
    assert [row[0].edits for row in log.rows] == [("z", "x") if f else ("y",) for f in fired]
    assert "".join(case.steerer.stream(LONG, steer=rules, **SHORT)) == texts[1]
    with pytest.raises(SteeringError, match="is not an edit"):
        case.lm.generate("Hi", edit=rules)


def test_a_gate_on_a_writer_that_is_no_vector(tiny_llama):
    lm = tiny.ending_with(tiny_llama)
    rules = rules_of(lm, "if a then x")
    site = rules.edits["x"].site
    rows = [lm.chat.prompt(prompt) for prompt in PROMPTS]

    (gated,) = writers_of(lm, PROMPTS, rules)
    run = tiny.decoded(lm, rows, [tiny.scaled_writer(site, -0.5, 4, switch=gated.switch)])
    ungated = tiny.decoded(lm, rows, [tiny.scaled_writer(site, -0.5, 4)])
    plain = tiny.decoded(lm, rows)
    for row, prompt in enumerate(PROMPTS):
        other = ungated if fires_by_hand(lm, prompt, rules.conditions["a"]) else plain
        assert torch.equal(run.logits[:, row], other.logits[:, row])


def test_3_whole_rows_in_one_pass_and_padding_on_either_side(endless):
    lm = endless
    rules = rules_of(lm, "if a then x")
    fired = [fires_by_hand(lm, prompt, rules.conditions["a"]) for prompt in PROMPTS]
    site = rules.edits["x"].site
    for side in ("left", "right"):
        batch = collate([lm.chat.prompt(p) for p in PROMPTS], pad_id=lm.chat.pad_id, side=side)
        before = lm.states(batch, site)
        seen = []
        with written(lm.blocks, writers_of(lm, PROMPTS, rules), batch.spans):  # noqa: SIM117
            with torch.no_grad(), at_sites(lm.blocks, [(site, seen.append)]):
                lm.forward(batch)
        expected = before.clone()
        for row, fires in enumerate(fired):
            if fires:
                expected[row][batch.spans.prompt[row]] += rules.edits["x"].vector
        assert torch.equal(seen[0], expected)
    above = rules_of(lm, "if a then x", layer=3)
    with pytest.raises(SteeringError, match=r"layers \[3\] lie above"):  # noqa: SIM117
        with written(lm.blocks, writers_of(lm, PROMPTS, above), batch.spans):
            pytest.fail("the prompt was not read")


def hooks(lm):
    modules = list(lm.model.modules())
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


@pytest.mark.parametrize("call", [1, 2, 4])
def test_7_an_exception_in_any_pass_leaves_the_model_clean(tiny_llama, call, monkeypatch):
    """While the prompt is read beforehand, in the prefill, and later."""
    lm = tiny.ending_with(tiny_llama)
    module, calls = tiny.module_at(lm, Site(1, "mlp")), []
    forward = module.forward

    def breaks(*args, **kwargs):
        calls.append(call)
        if len(calls) == call:
            raise ZeroDivisionError
        return forward(*args, **kwargs)

    rules = rules_of(lm, "if a then x", layer=3)
    before = decoded(lm, PROMPTS, rules)
    monkeypatch.setattr(module, "forward", breaks)
    with pytest.raises(ZeroDivisionError):
        lm.generate(list(PROMPTS), edit=rules, **SHORT)
    assert hooks(lm) == 0
    monkeypatch.undo()
    assert torch.equal(decoded(lm, PROMPTS, rules).logits, before.logits)


def test_7_calls_in_turn_do_not_disturb_each_other(tiny_llama):
    """The same rules in two streams, a token each, and nothing of it stays with the rules."""
    lm = tiny.ending_with(tiny_llama)
    rules = rules_of(lm, check="token")
    logs = [hs.Decisions(), hs.Decisions()]
    streams = [
        lm.stream(prompt, edit=rules, decisions=log, max_new_tokens=8)
        for prompt, log in zip(PROMPTS[1:3], logs, strict=True)
    ]
    texts, running = ["", ""], [0, 1]
    while running:
        for number in list(running):
            piece = next(streams[number], None)
            texts[number] += piece or ""
            if piece is None:
                running.remove(number)
    for prompt, text, log in zip(PROMPTS[1:3], texts, logs, strict=True):
        own = hs.Decisions()
        assert lm.generate(prompt, edit=rules, decisions=own, max_new_tokens=8) == text
        assert own.rows == log.rows


def passes(lm, act):
    """How often each block runs, and the hooks that stand on the model, per forward pass."""
    runs, hooks = [], []

    def count(_module, _args):
        hooks.append(sum(len(block._forward_hooks) for block in lm.blocks))

    handles = [
        block.register_forward_pre_hook(lambda _m, _a, n=n: runs.append(n))
        for n, block in enumerate(lm.blocks)
    ]
    handles.append(lm.model.register_forward_pre_hook(count))
    act()
    for handle in handles:
        handle.remove()
    return runs, hooks


def test_what_a_gate_costs(tiny_llama):
    """Nothing is read after the prompt, and no pass is added for conditions below their edits."""
    lm = tiny.ending_with(tiny_llama)
    blocks = list(range(lm.depth))
    for layer, ahead in ((1, []), (3, blocks), (2, [0, 1, 2])):
        rules = rules_of(lm, "if a then x", layer=layer)
        runs, hooks = passes(lm, lambda r=rules: lm.generate(list(PROMPTS), edit=r, **SHORT))
        assert runs == [*ahead, *blocks * STEPS]
        assert hooks[-STEPS + 1 :] == [1] * (STEPS - 1)  # the edit itself
    rules = rules_of(lm, "if a then x", check="token")
    _, hooks = passes(lm, lambda: lm.generate(list(PROMPTS), edit=rules, **SHORT))
    assert hooks[-1] == 2
    for every, ahead in ((1, [1, 1, 1]), (2, [0, 1, 0])):  # the tokens between go along
        rules = rules_of(lm, "if a then x", layer=2, check=every)
        runs, _ = passes(lm, lambda r=rules: lm.generate(list(PROMPTS), edit=r, **SHORT))
        steps = [part for does in ahead for part in (*([0, 1, 2] * does), *blocks)]
        assert runs == [0, 1, 2, *blocks, *steps]


def cast_by_hand(lm, text, vectors, layers, mode):
    """CAST's scores, from the input of each condition layer as a pre-hook sees it."""
    blocks = lm.model.get_submodule(tiny.FAMILIES[lm.name].blocks)
    seen = {}

    def look(layer):
        return lambda _m, args, kwargs: seen.update(
            {layer: args[0] if args else kwargs["hidden_states"]}
        )

    hooks = [
        blocks[layer].register_forward_pre_hook(look(layer), with_kwargs=True) for layer in layers
    ]
    with torch.no_grad():
        lm.model(torch.tensor([lm.chat.prompt(text).ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    scores = []
    for layer in layers:
        h, c = seen[layer][0], vectors[layer]
        h = h.mean(0) if mode == "mean" else h[-1]
        squashed = torch.tanh(torch.outer(c, c) @ h / (c @ c))
        scores.append(float(h @ squashed / (h.norm() * squashed.norm())))
    return scores


@pytest.mark.parametrize("comparator", ["larger", "smaller"])
@pytest.mark.parametrize("mode", ["mean", "last"])
def test_casts_decisions_are_reproduced(endless, comparator, mode):
    """In CAST's own numbering; its threshold is `larger` than the score, or `smaller`."""
    lm, layers = endless, [1, 3]
    generator = torch.Generator().manual_seed(7)
    vectors = {n: 3 * torch.randn(lm.width, generator=generator) for n in range(lm.depth)}
    edit, outcomes = tiny.edit_of(lm, Site(2), 1), []
    scores = [cast_by_hand(lm, prompt, vectors, layers, mode) for prompt in PROMPTS]
    ordered = sorted(score for row in scores for score in row)
    for place in (0, 1, 3, 5, 6):
        threshold = (ordered[place] + ordered[place + 1]) / 2
        condition = hs.cast_condition(
            vectors, layers=layers, threshold=threshold, comparator=comparator, mode=mode
        )
        rules = hs.rules("if c then x", conditions={"c": condition}, edits={"x": edit})
        log = hs.Decisions()
        lm.generate(list(PROMPTS), edit=rules, decisions=log, max_new_tokens=1)
        larger = comparator == "larger"
        by_hand = [any(s < threshold if larger else s > threshold for s in row) for row in scores]
        assert [bool(row[0].conditions) for row in log.rows] == by_hand
        outcomes += by_hand
    assert 0 < sum(outcomes) < len(outcomes)


def test_what_cannot_be_decided_is_refused_before_any_model_work(tiny_llama, monkeypatch):
    lm = tiny_llama

    def refused(error, told, steer, **more):
        with pytest.raises(error, match=told) as caught:
            lm.generate("Hi", edit=steer, **more)
        assert "\n" not in str(caught.value)

    foreign = rules_of(tiny.lm_of("qwen3"))
    own = condition_at(lm, 1)
    high = replace(own, fitted=(9,), layers=(9,))
    wide = replace(own, directions=torch.ones(1, 5), means=torch.ones(1, 5))
    monkeypatch.setattr(lm.model, "forward", lambda *a, **k: pytest.fail("the model ran"))
    refused(CheckpointError, "condition 'a' was fitted for the base LM", foreign)
    edits = edits_of(lm)
    for condition, error, told in (
        (high, ModelError, "layer 9 is out of range"),
        (wide, SteeringError, "condition 'a' has width 5"),
    ):
        rules = hs.rules("if a then x", conditions={"a": condition}, edits=edits)
        refused(error, told, rules)
