"""What holds for every kind of edit there is, on every family: a new kind is tested as it comes."""

import pytest
import torch

import hypersteer as hs
import tiny
from hypersteer.checkpoint import read_hypernet, write_folder
from hypersteer.config import HypernetConfig
from hypersteer.edits.edit import Edit
from hypersteer.edits.edit_set import parts_of
from hypersteer.edits.kinds import joined, stacked
from hypersteer.edits.registry import KINDS
from hypersteer.edits.sites import Site
from hypersteer.engine.batch import Batch
from hypersteer.engine.decoding import Decoding
from hypersteer.errors import ConfigError, SteeringError
from hypersteer.hypernet.card import read_card
from hypersteer.hypernet.network import new_hypernet
from hypersteer.lm.edited import edit_writers

TEXTS = ["Hi", "Tell me about your day at the sea, about the ship and the bees.", "Why?"]
SHORT = {"max_new_tokens": tiny.WINDOW}
each_kind = pytest.mark.parametrize("kind", list(KINDS))


def random_edit(lm, kind, seed=0, rank=2, site=None, scope="all", size=1.0):
    """An edit of the kind with random parameters, of the size of ordinary hidden states."""
    generator = torch.Generator().manual_seed(seed)
    shapes = KINDS[kind].shapes(lm.width, rank)
    params = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    unit = torch.tensor(size)
    return Edit(
        kind=KINDS[kind],
        params=KINDS[kind].in_units(params, unit, torch.ones(lm.width)),
        site=site or Site(1),
        scope=scope,
        base_lm=str(lm.identity),
        steering_prompt=f"{kind} {seed}",
    )


@each_kind
@pytest.mark.parametrize("params", [0, None, "up", [("vector", torch.ones(3))], {}])
def test_parameters_that_are_none_are_refused(kind, params):
    with pytest.raises(SteeringError, match=r"^params .* is no mapping|has the parameters"):
        Edit(kind=KINDS[kind], params=params, site=Site(1))


@each_kind
def test_save_and_load_are_exact(tiny_llama, kind, tmp_path):
    edit = random_edit(tiny_llama, kind, scope="response", site=Site(2, "mlp"))
    read = hs.load_edit(edit.save(tmp_path / "edit.safetensors"))
    assert read.kind is edit.kind
    for name in ("site", "scope", "base_lm", "steering_prompt", "generator"):
        assert getattr(read, name) == getattr(edit, name)
    assert read.params.keys() == edit.params.keys()
    for name, value in edit.params.items():
        assert torch.equal(read.params[name], value)
    assert read.width == tiny.WIDTH


@each_kind
def test_strength_0_is_the_plain_model_and_any_other_is_felt(lm, kind):
    lm = tiny.ending_with(lm)
    prompts = [lm.chat.prompt(text) for text in TEXTS]
    edit = random_edit(lm, kind)
    plain = tiny.decoded(lm, prompts).logits
    still = tiny.decoded(lm, prompts, edit_writers(lm, [edit] * 3, [0.0] * 3)).logits
    assert torch.equal(still, plain)
    for strength in (1.0, -1.0):
        moved = tiny.decoded(lm, prompts, edit_writers(lm, [edit] * 3, [strength] * 3)).logits
        assert (moved - plain).abs().amax((0, 2)).min() > 1e-2
    mixed = tiny.decoded(lm, prompts, edit_writers(lm, [edit, None, edit], [1.0, 1.0, 0.0])).logits
    close = {"rtol": 0, "atol": 1e-5} if lm.name == "mixtral" else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(mixed[:, 1:], plain[:, 1:], **close)


@each_kind
def test_a_row_is_answered_alike_alone_in_a_batch_streamed_and_joined(lm, kind):
    """Beside rows of other kinds and other ranks, whose parameters are stacked with its own."""
    lm = tiny.ending_with(lm)
    two = [tiny.edit_of(lm, Site(1)), random_edit(lm, kind, 3, site=Site(2), scope="prompt")]
    edits = [random_edit(lm, kind, 1, rank=1), two, random_edit(lm, kind, 2, 3)]
    strengths = [1.0, -1.0, 0.5]
    alone = [
        lm.generate(text, edit=[edit], strength=strength, **SHORT)
        for text, edit, strength in zip(TEXTS, edits, strengths, strict=True)
    ]
    assert lm.generate(TEXTS, edit=edits, strength=strengths, **SHORT) == alone
    for row, text in enumerate(TEXTS):
        own = edits[row] if isinstance(edits[row], list) else [edits[row]]
        pieces = lm.stream(text, edits=own, strength=strengths[row], **SHORT)
        assert "".join(pieces) == alone[row]
    batch, answers = Batch(lm), {}
    for row, text in enumerate(TEXTS):
        writers = edit_writers(lm, [edits[row]], [strengths[row]])
        batch.add([lm.chat.prompt(text)], writers, [Decoding(**SHORT)])
        for number, token in batch.step().items():
            answers.setdefault(number, []).append(token)
    while batch.rows:
        for number, token in batch.step().items():
            answers.setdefault(number, []).append(token)
    assert [lm.chat.decode(answers[row]) for row in range(3)] == alone


@each_kind
@pytest.mark.parametrize(
    "scope", ["all", "everywhere", "prompt", "response", "last_prompt", "prompt_ends"]
)
def test_scopes_hold_under_the_cache(lm, kind, scope):
    """Cached decoding gives the logits of one pass over prompt and response."""
    lm = tiny.ending_with(lm)
    prompts = [lm.chat.prompt(text) for text in TEXTS]
    edit = random_edit(lm, kind, scope=scope)
    run = tiny.decoded(lm, prompts, edit_writers(lm, [edit] * 3, [1.0] * 3), steps=5)
    from hypersteer.lm.chat import collate
    from hypersteer.lm.writers import written

    batch = collate(prompts, run.ids, pad_id=lm.chat.pad_id)
    writers = edit_writers(lm, [edit] * 3, [1.0] * 3)
    with torch.no_grad(), written(lm.blocks, writers, batch.spans):
        whole = lm.logits(batch)
    for row, prompt in enumerate(prompts):
        first = len(prompt.ids) - 1
        expected = whole[row, first : first + 5]
        torch.testing.assert_close(run.logits[:, row], expected, rtol=0, atol=1e-4)


@each_kind
def test_stacked_and_joined_rows_do_what_each_does(tiny_llama, kind):
    lm, kind = tiny_llama, KINDS[kind]
    own = [random_edit(lm, kind.name, seed, rank=seed).params for seed in (1, 3, 2)]
    hidden = torch.randn(4, 5, lm.width, generator=torch.Generator().manual_seed(9))
    mask = torch.rand(4, 5, generator=torch.Generator().manual_seed(8)) < 0.7
    strength = torch.tensor([1.0, -2.0, 0.5, 1.0])
    whole = kind.apply(hidden, stacked([own[0], None, own[1], own[2]]), mask, strength)
    halves = joined(stacked([own[0], None]), stacked([own[1], own[2]]))
    torch.testing.assert_close(kind.apply(hidden, halves, mask, strength), whole)
    assert torch.equal(whole[1], hidden[1])
    assert torch.equal(whole[~mask], hidden[~mask])
    for row, params in ((0, own[0]), (2, own[1]), (3, own[2])):
        part = slice(row, row + 1)
        alone = kind.apply(hidden[part], stacked([params]), mask[part], strength[part])
        torch.testing.assert_close(whole[part], alone)


@each_kind
def test_a_hypernetwork_writes_it(lm, kind):
    """In the prefill as beforehand, for every row of a batch; at several sites too."""
    for more in ((), (2, 3)):
        steerer = tiny.steerer_of(tiny.ending_with(lm), edit=kind, more_layers=more)
        made = steerer.edit("sing of bees", TEXTS)
        each = [list(parts_of(one)) for one in made]
        assert [edit.site.layer for edit in each[0]] == [1, *more]
        assert all(edit.kind is KINDS[kind] for edits in each for edit in edits)
        texts = steerer.generate(TEXTS, steer="sing of bees", strength=0.7, **SHORT)
        assert texts == steerer.lm.generate(TEXTS, edit=each, strength=0.7, **SHORT)
        assert texts == steerer.lm.generate(TEXTS, edit=made, strength=0.7, **SHORT)
        assert texts != steerer.lm.generate(TEXTS, **SHORT)


@each_kind
def test_a_hypernetwork_learns_to_write_it(tiny_llama, kind, tmp_path):
    """Gradients reach all of it and nothing else, losses fall, and it is kept exactly."""
    lm, site = tiny_llama, Site(1)
    config = HypernetConfig(blocks=1, edit=kind, rank=2, more_layers=(3,))
    net = new_hypernet(lm, config, site, seed=0)
    losses = []
    for loss in tiny.losses_while_learning(lm, net, TEXTS):
        losses.append(loss)
        for parameter in net.head.parameters():
            assert parameter.grad.abs().max() > 0
    assert losses[-1] < losses[0] - 0.01
    assert all(parameter.grad is None for parameter in lm.model.parameters())
    card = tiny.steerer_of(lm).card
    from dataclasses import replace

    write_folder(tmp_path, net.eval().state_dict(), replace(card, hypernet=config))
    again = hs.Steerer(lm, read_hypernet(tmp_path, read_card(tmp_path), lm), read_card(tmp_path))
    first = hs.Steerer(lm, net, replace(card, hypernet=config))
    for one, other in zip(
        first.edit("sing of bees", "Hi"), again.edit("sing of bees", "Hi"), strict=True
    ):
        assert all(torch.equal(one.params[name], other.params[name]) for name in one.params)


def test_wrong_parameters_are_told(tiny_llama):
    for name, kind in KINDS.items():
        good = dict(random_edit(tiny_llama, name).params)
        first = next(iter(good))
        for bad in (
            {},
            {**good, "other": torch.ones(3)},
            {**good, first: torch.full_like(good[first], float("nan"))},
            {**good, first: torch.ones(2, 2, 2)},
            {**good, first: "text"},
        ):
            with pytest.raises(SteeringError) as caught:
                Edit(kind=kind, params=bad, site=Site(1))
            assert "\n" not in str(caught.value)
    with pytest.raises(SteeringError, match="no kind of edit"):
        Edit(kind="vector", params={}, site=Site(1))
    with pytest.raises(ConfigError, match="unknown kind of edit 'vectr'; did you mean 'vector'"):
        new_hypernet(tiny_llama, HypernetConfig(blocks=1, edit="vectr"), Site(1), 0)


def test_sites_above_the_first_must_ascend(tiny_llama):
    for more in ((1,), (3, 2), (0,)):
        with pytest.raises(ConfigError, match="must ascend"):
            new_hypernet(tiny_llama, HypernetConfig(blocks=1, more_layers=more), Site(1), 0)
    with pytest.raises(SteeringError, match="layer 9"):
        new_hypernet(tiny_llama, HypernetConfig(blocks=1, more_layers=(9,)), Site(1), 0)
