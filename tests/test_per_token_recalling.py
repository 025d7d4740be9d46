"""Per-token edits with self-attention: the flow against loops, its cache, and rows in batches."""

import json
import random

import pytest
import torch

import hypersteer as hs
import tiny
from flows import C, D, random_field, turned_by_loops, velocity_by_loops
from gating import PROMPTS, condition_at
from hypersteer.checkpoint import read_hypernet, write_folder
from hypersteer.config import HypernetConfig
from hypersteer.edits import memory as memory_module
from hypersteer.edits.edit import Edit
from hypersteer.edits.kinds import act, new_memory
from hypersteer.edits.memory import Memory
from hypersteer.edits.per_token import PerTokenRecalling
from hypersteer.edits.self_attention import turned
from hypersteer.edits.sites import Site
from hypersteer.engine.batch import Batch
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import generate_ids
from hypersteer.engine.requests import as_request
from hypersteer.errors import ConfigError, SteeringError
from hypersteer.hypernet.card import read_card
from hypersteer.hypernet.network import new_hypernet
from hypersteer.lm.chat import collate
from hypersteer.lm.hooks import at_sites
from hypersteer.lm.likelihood import response_token_losses
from hypersteer.lm.writers import written
from hypersteer.training.forward import Steered, steered_losses

TEXTS = ["Hi", "Tell me about your day at the sea, about the ship and the bees.", "Why?"]
STEERS = ["sing of bees", "tell of a ship at the sea, at length", None]
SHORT = {"max_new_tokens": tiny.WINDOW}
CLOSE = {"rtol": 0.0, "atol": 1e-4}


def flowing(lm, **options):
    """A steerer whose fields move states in earnest, and whose states read each other."""
    options = {"variant": "no-context", **options}
    return tiny.steerer_of(tiny.ending_with(lm), edit="per-token", self_attention=True, **options)


def writers_of(steerer, texts, steer, strength=1.0, scope=None):
    return steerer.writers(as_request(steerer.lm, texts, steer, strength), scope)


def logits_of(steerer, texts, steer, strength=1.0, scope=None, steps=5):
    prompts = [steerer.lm.chat.prompt(text) for text in texts]
    writers = writers_of(steerer, texts, steer, strength, scope)
    return tiny.decoded(steerer.lm, prompts, writers, steps)


class Flow:
    """Rows of random states on a random field, without any model."""

    def __init__(self, rows=2, tokens=6, seed=1):
        generator = torch.Generator().manual_seed(seed)
        self.field, self.sizes = random_field(self_attention=True), torch.linspace(0.5, 4.0, D)
        self.hidden = 2 * torch.randn(rows, tokens, D, generator=generator)
        keys, values = (torch.randn(rows, C, D, generator=generator) for _ in range(2))
        present = torch.ones(rows, C, dtype=torch.bool)
        present[-1, 2:] = False
        self.params = {"keys": keys, "values": values, "present": present}
        self.mask = torch.rand(rows, tokens, generator=generator) < 0.7
        self.strength = torch.linspace(-0.5, 2.0, rows)
        self.real = torch.ones(rows, tokens, dtype=torch.bool)
        self.kind = PerTokenRecalling(self.field, lambda: self.sizes)

    def over(self, tokens, memory, rows=slice(None)):
        """Let some tokens of some rows flow."""
        params = {name: value[rows] for name, value in self.params.items()}
        hidden, mask, real = (x[rows, tokens] for x in (self.hidden, self.mask, self.real))
        return act(self.kind, hidden, params, mask & real, self.strength[rows], real, memory)

    def whole(self):
        return self.over(slice(None), Memory())


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_flow_by_loops(side):
    """Token by token, head by head; a row with padding, and tokens that no edit touches."""
    flow = Flow()
    pad = slice(0, 2) if side == "left" else slice(4, 6)
    flow.real[1, pad] = False
    flow.hidden[1, pad] = float("nan")  # whatever a model leaves there
    found = flow.whole()
    moved = 0
    for row, length in ((0, C), (1, 2)):
        read = (flow.params[name][row, :length] for name in ("keys", "values"))
        keys, values = read
        earlier = [[] for _ in range(3)]
        for position, token in enumerate(flow.real[row].nonzero().squeeze(1).tolist()):
            state, strength = flow.hidden[row, token] / flow.sizes, float(flow.strength[row])
            for step in range(3):
                time = step * strength / 3
                state = state + strength / 3 * velocity_by_loops(
                    flow.field, state, time, keys, values, earlier[step], position
                )
            if flow.mask[row, token]:
                moved += 1
                expected = state * flow.sizes
                torch.testing.assert_close(found[row, token], expected, rtol=1e-4, atol=1e-4)
            else:
                assert torch.equal(found[row, token], flow.hidden[row, token])
    assert moved > 4


def test_positions_turn_pairs_and_only_distances_count():
    x = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    found = turned(x, torch.tensor([[0, 37]]))
    assert torch.equal(found[0, 0], x[0, 0])
    expected = turned_by_loops(x[0, 1].flatten(), 37)
    torch.testing.assert_close(found[0, 1].flatten(), expected, rtol=1e-5, atol=1e-5)
    near, far = (turned(x, torch.tensor([[start, start + 5]])) for start in (0, 90))
    products = [(both[0, 0] * both[0, 1]).sum(-1) for both in (near, far)]
    torch.testing.assert_close(*products, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("parts", [[1] * 6, [3, 1, 1, 1], [2, 4], [5, 1]])
def test_tokens_one_by_one_are_one_pass(parts, monkeypatch):
    monkeypatch.setattr(memory_module, "ROOM", 1)
    flow, memory = Flow(), Memory()
    flow.real[1, :2] = False
    ends = torch.tensor(parts).cumsum(0).tolist()
    found = [flow.over(slice(end - n, end), memory) for n, end in zip(parts, ends, strict=True)]
    torch.testing.assert_close(torch.cat(found, 1), flow.whole(), rtol=1e-5, atol=1e-5)


def test_a_state_reads_those_before_it_and_no_other():
    flow = Flow(rows=1)
    flow.mask[:] = True
    before = flow.whole()
    flow.hidden[:, 3] += 1.0
    changed = (flow.whole() - before).abs().amax(-1)[0] > 1e-4
    assert changed.tolist() == [False] * 3 + [True] * 3


def test_rows_leave_and_join_a_memory_whatever_their_lengths():
    """Right after padding was given back, too; beside rows of which nothing is known."""
    flow = Flow(rows=4)
    flow.mask[:] = True
    flow.real[1, :3] = False
    expected = flow.whole()
    one, other = Memory(), Memory()
    flow.over(slice(0, 5), one, slice(0, 2))
    flow.over(slice(0, 3), other, slice(2, 4))
    one.keep_rows([1])
    assert one._real.shape == (1, 2)
    flow.over(slice(3, 5), other, slice(2, 4))
    one.extend(other, 1, 2)  # row 0 anew, then 1, 2 and 3
    assert one._real.sum(1).tolist() == [0, 2, 5, 5]
    found = flow.over(slice(5, 6), one)
    torch.testing.assert_close(found[1:], expected[1:, 5:], rtol=1e-5, atol=1e-5)
    assert bool(found.isfinite().all())
    one.extend(None, 0, 1)
    one.keep_rows([4, 2])
    assert one._real.sum(1).tolist() == [0, 6]
    one.keep_rows([])
    assert len(one._real) == 0


def test_rows_of_which_nothing_is_known_are_kept_apart_by_zeros():
    memory = Memory()
    memory.begin(torch.ones(1, 2, dtype=torch.bool))
    memory.grown("x", torch.ones(1, 2, 3))
    memory.extend(None, 1, 1)
    memory.begin(torch.tensor([[False], [True], [False]]))
    assert torch.equal(
        memory.grown("x", torch.full((3, 1, 3), 2.0))[0, :, 0], torch.tensor([0.0, 0, 2])
    )
    assert memory.coming.readable[:, 0].tolist() == [
        [False, False, True],
        [True, True, True],
        [False, False, True],
    ]
    assert memory.coming.positions.tolist() == [[0], [2], [0]]


@pytest.mark.parametrize("variant", ["no-context", "cross-attention"])
def test_a_row_is_answered_alike_alone_in_a_batch_and_streamed(lm, variant):
    """Beside rows with longer steering prompts, other strengths, and none; at two sites."""
    steerer = flowing(lm, more_layers=(2,), variant=variant)
    strengths = [0.7, -0.5, 1.0]
    alone = [
        steerer.generate(text, steer=steer, strength=strength, **SHORT)
        for text, steer, strength in zip(TEXTS, STEERS, strengths, strict=True)
    ]
    assert steerer.generate(TEXTS, steer=STEERS, strength=strengths, **SHORT) == alone
    for row, text in enumerate(TEXTS):
        pieces = steerer.stream(text, steer=STEERS[row], strength=strengths[row], **SHORT)
        assert "".join(pieces) == alone[row]
    together = logits_of(steerer, TEXTS, STEERS, strengths).logits
    for row, text in enumerate(TEXTS):
        own = logits_of(steerer, [text], [STEERS[row]], strengths[row]).logits
        torch.testing.assert_close(together[:, row], own[:, 0], **CLOSE)


def test_strength_0_and_no_edit_are_the_plain_model(lm):
    steerer = flowing(lm)
    prompts = [steerer.lm.chat.prompt(text) for text in TEXTS]
    plain = tiny.decoded(steerer.lm, prompts, steps=5).logits
    still = logits_of(steerer, TEXTS, "sing of bees", 0.0).logits
    assert torch.equal(still, plain)
    mixed = logits_of(steerer, TEXTS, ["sing of bees", None, "sing of bees"], [1.0, 1.0, 0.0])
    close = {"rtol": 0, "atol": 1e-5} if lm.name == "mixtral" else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(mixed.logits[:, 1:], plain[:, 1:], **close)
    assert (mixed.logits[:, 0] - plain[:, 0]).abs().amax(-1).min() > 1e-2


def test_what_states_read_of_each_other_is_felt(tiny_llama):
    steerer = flowing(tiny_llama)
    whole = logits_of(steerer, TEXTS, "sing of bees").logits
    own = steerer.hypernet.fields[0].own
    kept = own.after.weight.clone()
    try:
        own.after.weight.zero_()
        assert (logits_of(steerer, TEXTS, "sing of bees").logits - whole).abs().max() > 0.1
    finally:
        own.after.weight.copy_(kept)


@pytest.mark.parametrize("scope", ["all", "prompt", "response", "last_prompt", "prompt_ends"])
def test_scopes_hold_under_the_cache(lm, scope):
    """Cached decoding gives the logits of one pass, padded left or right; context is all tokens."""
    steerer = flowing(lm)
    lm, steers = steerer.lm, ["sing of bees", "tell of a ship", "of honey"]
    prompts = [lm.chat.prompt(text) for text in TEXTS]
    run = logits_of(steerer, TEXTS, steers, 0.8, scope)
    for side in ("left", "right"):
        batch = collate(prompts, run.ids, pad_id=lm.chat.pad_id, side=side)
        writers = writers_of(steerer, TEXTS, steers, 0.8, scope)
        with torch.no_grad(), written(lm.blocks, writers, batch.spans):
            whole = lm.logits(batch)
        for row, prompt in enumerate(prompts):
            first = int(batch.spans.real[row].long().argmax()) + len(prompt.ids) - 1
            expected = whole[row, first : first + 5]
            torch.testing.assert_close(run.logits[:, row], expected, **CLOSE)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_several_strengths_at_once_are_each_apart(lm, kind):
    """The prefill below the site is shared, what flows is not; rows that run already join."""
    steerer = flowing(lm, kind=kind)
    lm, strengths, steers = steerer.lm, (0.0, 1.0, -0.7), ["sing of bees", "of honey"]
    prompts = [lm.chat.prompt(text) for text in TEXTS[:2]]
    decoding = Decoding(max_new_tokens=6)
    writers = writers_of(steerer, TEXTS[:2], steers)
    with tiny.logits_seen(lm) as seen:
        together = generate_ids(lm, prompts, writers, decoding, strengths)
    found = torch.stack(seen[-6:]).unflatten(1, (3, 2))
    for number, strength in enumerate(strengths):
        apart = logits_of(steerer, TEXTS[:2], steers, strength, steps=6)
        torch.testing.assert_close(found[:, number], apart.logits, **CLOSE)
        assert together[2 * number : 2 * number + 2] == apart.ids
    batch, answers = Batch(lm), {}
    first = writers_of(steerer, TEXTS[2:], "sing of bees")
    batch.add([lm.chat.prompt(TEXTS[2])], first, [Decoding(max_new_tokens=12)])
    take(batch, answers)
    numbers = batch.add(prompts, writers, [decoding] * 6, strengths=strengths)
    take(batch, answers, to_the_end=True)
    assert [answers[number] for number in numbers] == together
    assert answers[0] == logits_of(steerer, TEXTS[2:], "sing of bees", steps=12).ids[0]


def take(batch, answers, to_the_end=False):
    for row, token in batch.step().items():
        answers.setdefault(row, []).append(token)
    if to_the_end and batch.rows:
        take(batch, answers, to_the_end)


@pytest.mark.parametrize("seed", range(3))
def test_any_coming_and_going(lm, seed, monkeypatch):
    """Random arrivals and departures, scopes, strengths and slots, each row as alone."""
    monkeypatch.setattr(memory_module, "ROOM", 2)
    steerer, chance = flowing(lm, more_layers=(2,)), random.Random(seed)
    lm, batch, answers, given = steerer.lm, Batch(steerer.lm), {}, {}
    vector = tiny.edit_of(lm, Site(1), 3)
    kinds = ["sing of bees", None, ["of honey", vector], ["of honey", "of a ship"], vector]
    while len(given) < 6 or batch.rows:
        if len(given) < 6 and chance.random() < 0.5:
            count, scope = chance.choice([1, 1, 2]), chance.choice(["all", "prompt", "response"])
            own = [
                (chance.choice(TEXTS), chance.choice(kinds), chance.choice([1.0, 0.0, -0.6]))
                for _ in range(count)
            ]
            texts, steers, strengths = map(list, zip(*own, strict=True))
            steps = [chance.choice([4, 10]) for _ in own]
            numbers = batch.add(
                [lm.chat.prompt(text) for text in texts],
                writers_of(steerer, texts, steers, strengths, scope),
                [Decoding(max_new_tokens=most) for most in steps],
            )
            given |= zip(
                numbers, [(*o, scope, n) for o, n in zip(own, steps, strict=True)], strict=True
            )
        take(batch, answers)
        if batch.rows and chance.random() < 0.15:
            gone = chance.choice(batch.rows)
            batch.drop([gone])
            given[gone] = None
    for row, own in given.items():
        if own is not None:
            text, steer, strength, scope, steps = own
            alone = logits_of(steerer, [text], [steer], strength, scope, steps)
            assert answers[row] == alone.ids[0], (row, own)


def test_logits_of_joined_rows_are_those_of_each_alone(lm):
    steerer = flowing(lm)
    lm, steers = steerer.lm, ["sing of bees", "tell of a ship", "of honey"]
    batch, found = Batch(lm), {row: [] for row in range(3)}
    with tiny.logits_seen(lm) as seen:
        for text, steer in zip(TEXTS, steers, strict=True):
            writers = writers_of(steerer, [text], steer)
            batch.add([lm.chat.prompt(text)], writers, [Decoding(max_new_tokens=8)])
            seen.clear()
            batch.step()
            for number, logits in enumerate(one for part in seen for one in part):
                found[number].append(logits)
        while batch.rows:
            seen.clear()
            live, numbers = batch.rows, list(batch._running.state.numbers)
            batch.step()
            for number, logits in zip(numbers, seen[0], strict=True):
                if number in live:
                    found[number].append(logits)
    for row, text in enumerate(TEXTS):
        alone = logits_of(steerer, [text], steers[row], steps=8).logits[:, 0]
        torch.testing.assert_close(torch.stack(found[row]), alone, **CLOSE)


def test_a_batch_that_never_empties_keeps_no_more(tiny_llama):
    steerer = flowing(tiny_llama)
    prompt, batch = steerer.lm.chat.prompt("Hi"), Batch(steerer.lm)
    answers, sizes = {}, []
    for number in range(30):
        steer = "sing of bees" if number % 3 else None
        batch.add([prompt], writers_of(steerer, ["Hi"], steer), [Decoding(max_new_tokens=6)])
        take(batch, answers)
        held = [writer._memory for writer in batch._running.state._writers]
        sizes += [memory._real.shape[1] for memory in held]
    assert max(sizes) <= len(prompt.ids) + 6
    room = max(value.shape[1] for memory in held for value in memory._held.values())
    assert room <= len(prompt.ids) + 6 + memory_module.ROOM


class Blinking:
    """A switch that turns edits on and off as a table [B, 1 + response tokens] says."""

    rechecks = True

    def __init__(self, table):
        self.table = table

    def start(self, copies, finished=()):
        self.rows, self.token = list(range(len(self.table))) * copies, 0

    def look_ahead(self, batch):
        pass

    def readers(self, spans, ids=None):
        self.token = 0 if spans else self.token + 1
        return []

    def open(self, slot):
        return self.table[self.rows, self.token]

    def keep_rows(self, rows):
        self.rows = [self.rows[row] for row in rows]


def test_turned_on_and_off_it_is_one_pass_under_that_mask(lm):
    """Tokens that no edit touches are read by later ones, wherever they are."""
    steerer, steps = flowing(lm), 8
    lm, prompts = steerer.lm, [steerer.lm.chat.prompt(text) for text in TEXTS]
    table = torch.rand(3, 1 + steps, generator=torch.Generator().manual_seed(2)) < 0.5
    table[:, 0] = torch.tensor([True, False, False])
    table[:, 1], table[:, -1] = False, True
    writers = [w.switched(Blinking(table), 0) for w in writers_of(steerer, TEXTS, "of bees")]
    run = tiny.decoded(lm, prompts, writers, steps)
    batch = collate(prompts, run.ids, pad_id=lm.chat.pad_id)
    mask, real = batch.spans.prompt & table[:, :1], batch.spans.real
    mask[batch.spans.response] = table[:, 1:].flatten()
    made = steerer._maker.params(["of bees"] * 3, prompts)[0]
    kind = steerer.hypernet.kinds[0]

    def write(hidden):
        return act(kind, hidden, made, mask, torch.ones(3), real, new_memory(kind))

    with torch.no_grad(), at_sites(lm.blocks, [(steerer.hypernet.sites[0], write)]):
        whole = lm.logits(batch)
    for row, prompt in enumerate(prompts):
        expected = whole[row, len(prompt.ids) - 1 :][:steps]
        torch.testing.assert_close(run.logits[:, row], expected, **CLOSE)


@pytest.mark.parametrize("layer", [1, 3])
@pytest.mark.parametrize("check", ["prompt", "token", 2])
def test_rows_under_rules_are_answered_as_alone(lm, check, layer):
    """All at once, and one by one beside rows without rules."""
    steerer = flowing(lm)
    lm, texts, steps = steerer.lm, list(PROMPTS), 10
    conditions = {"a": condition_at(lm, layer, 1, "prompt" if check == "prompt" else "last")}
    rules = hs.rules("if a then x", conditions=conditions, edits={"x": "sing of bees"}, check=check)
    alone = [logits_of(steerer, [text], rules, steps=steps).ids[0] for text in texts]
    assert logits_of(steerer, texts, rules, steps=steps).ids == alone
    batch, answers = Batch(lm), {}
    for number, text in enumerate(texts):
        own = writers_of(steerer, [text], rules if number % 2 else "of honey")
        batch.add([lm.chat.prompt(text)], own, [Decoding(max_new_tokens=steps)])
        take(batch, answers)
    take(batch, answers, to_the_end=True)
    assert [answers[1], answers[3]] == [alone[1], alone[3]]


def test_training_is_the_pass_that_decoding_takes_apart(lm):
    """Losses of rows in a batch, of each alone, and of what generation scores are the same."""
    steerer = flowing(lm, scope="response")
    lm, net = steerer.lm, steerer.hypernet
    setup = Steered(lm, net, net.config, net.sites, "response")
    prompts = [lm.chat.prompt(text) for text in TEXTS]
    responses = [lm.chat.response(text) for text in ("the sea", "the bees and the honey", "a")]
    steering = [[lm.chat.text(text) for text in ("of bees", "of a ship at the sea", "why")]]
    steering += [steering[0][::-1]]
    strengths = [1.0, -0.5, 2.0]
    with torch.no_grad():
        losses = steered_losses(setup, prompts, responses, steering, None, strengths)
        for row in range(3):
            own = [[one[row]] for one in steering]
            part = slice(row, row + 1)
            alone = steered_losses(
                setup, prompts[part], responses[part], own, None, strengths[part]
            )
            torch.testing.assert_close(losses[:, part], alone, **CLOSE)
    texts = ["of bees", "of a ship at the sea", "why"]
    writers = writers_of(steerer, TEXTS, texts, strengths, "response")
    scored = response_token_losses(lm, prompts, responses, writers)
    found = torch.stack([one.mean() for one in scored])
    torch.testing.assert_close(losses[0], found, **CLOSE)


def test_gradients_reach_earlier_states_also_in_half_precision(tiny_llama):
    config = HypernetConfig(blocks=1, edit="per-token", variant="no-context", self_attention=True)
    net = new_hypernet(tiny_llama, config, Site(1), seed=0)
    own = net.fields[0].own
    assert not own.after.weight.any()
    assert float(own.factor[0].detach()) == pytest.approx(0.1)
    torch.nn.init.ones_(own.after.weight)
    with torch.autocast("cpu", torch.bfloat16):
        loss = next(iter(tiny.losses_while_learning(tiny_llama, net, TEXTS)))
    assert loss == loss
    for name, parameter in own.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all())
        assert parameter.grad.abs().max() > 0, name


def test_checkpoints_without_the_setting_are_those_without_it(tiny_llama, tmp_path):
    steerer = tiny.steerer_of(tiny_llama, "no-context", edit="per-token")
    assert not [name for name in steerer.hypernet.state_dict() if ".own." in name]
    write_folder(tmp_path, steerer.hypernet.state_dict(), steerer.card)
    config = tmp_path / "config.json"
    kept = json.loads(config.read_text(encoding="utf-8"))
    del kept["hypernet"]["self_attention"]
    config.write_text(json.dumps(kept), encoding="utf-8")
    card = read_card(tmp_path)
    assert card.hypernet == steerer.card.hypernet
    again = hs.Steerer(tiny_llama, read_hypernet(tmp_path, card, tiny_llama), card)
    texts = [s.generate(TEXTS, steer="of bees", **SHORT) for s in (steerer, again)]
    assert texts[0] == texts[1]


def test_what_it_cannot_do_is_told(tiny_llama):
    steerer = flowing(tiny_llama)
    with pytest.raises(SteeringError, match="per-token edits act through the hypernetwork"):
        steerer.edit("sing of bees", "Hi")
    kind = steerer.hypernet.kinds[0]
    with pytest.raises(SteeringError, match="is no kind of edit"):
        Edit(kind=kind, params={}, site=Site(1))
    with pytest.raises(SteeringError), steerer.lm.edited("sing of bees"):
        pass
    for options, told in (
        ({"edit": "gated"}, "hypernet.edit is 'gated'; leave it out, or set the edit"),
        ({"edit": "per-token", "cross_heads": 32}, "32 heads of width 32 have 1 each; set"),
    ):
        config = HypernetConfig(blocks=1, variant="no-context", self_attention=True, **options)
        with pytest.raises(ConfigError, match=told) as caught:
            new_hypernet(tiny_llama, config, Site(1), 0)
        assert "\n" not in str(caught.value)
