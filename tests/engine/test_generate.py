"""Cached decoding against transformers' own; sampling; rows that end early; streams."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, GenerationConfig

import tiny
from hypersteer.edits.sites import Site
from hypersteer.engine import running as rows_module
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import decode, generate_ids, join_pieces
from hypersteer.engine.sampling import Sampler
from hypersteer.errors import ConfigError, SteeringError
from hypersteer.lm import cache as cache_module
from hypersteer.lm.cache import RoomyLayer, new_cache
from hypersteer.lm.chat import collate
from hypersteer.lm.edited import edit_writers

PROMPTS = ("Hi", "Tell me about your day at the sea, about the ship and the bees.", "Why?", "the")


def prompts_of(lm, texts=PROMPTS):
    return [lm.chat.prompt(text) for text in texts]


def test_decoding_equals_transformers_generate(lm):
    """Left-padded batch, past the sliding window of the families that have one."""
    lm, steps = tiny.ending_with(lm), tiny.WINDOW + 4
    batch = collate(prompts_of(lm), pad_id=lm.chat.pad_id, side="left")
    theirs = lm.model.generate(
        batch.ids,
        attention_mask=batch.spans.real.long(),
        generation_config=GenerationConfig(
            max_new_tokens=steps,
            do_sample=False,
            pad_token_id=lm.chat.pad_id,
            return_dict_in_generate=True,
            output_logits=True,
        ),
    )
    ours = tiny.decoded(lm, prompts_of(lm), steps=steps)
    assert ours.ids == theirs.sequences[:, batch.ids.shape[1] :].tolist()
    torch.testing.assert_close(ours.logits, torch.stack(theirs.logits), rtol=0, atol=1e-4)


def test_roomy_cache_equals_transformers_cache(lm, monkeypatch):
    """With so little room that it grows twice."""
    lm = tiny.ending_with(lm)
    monkeypatch.setattr(cache_module, "CHUNK", 3)
    roomy = tiny.decoded(lm, prompts_of(lm), steps=9)
    assert any(isinstance(layer, RoomyLayer) for layer in new_cache(lm.model).layers) or (
        lm.name == "mistral"  # which has sliding windows only
    )
    config = lm.model.config.get_text_config(decoder=True)
    monkeypatch.setattr(rows_module, "new_cache", lambda _model: DynamicCache(config=config))
    theirs = tiny.decoded(lm, prompts_of(lm), steps=9)
    assert roomy.ids == theirs.ids
    assert torch.equal(roomy.logits, theirs.logits)


def test_roomy_layer_holds_what_was_put_in(monkeypatch):
    monkeypatch.setattr(cache_module, "CHUNK", 4)
    layer, parts = RoomyLayer(), []
    for count in (5, 1, 1, 6, 1):
        part = torch.randn(3, 2, count, 8)
        parts.append(part)
        keys, values = layer.update(part, -part)
        whole = torch.cat(parts, 2)
        assert torch.equal(keys, whole)
        assert torch.equal(values, -whole)
        assert layer.get_seq_length() == whole.shape[2]
        if count == 6:
            layer.reorder_cache(torch.tensor([2, 0]))
            parts = [p[[2, 0]] for p in parts]
            monkeypatch.setattr(torch, "randn", lambda _b, *s, make=torch.randn: make(2, *s))


def endless_ids(lm, writers, decoding):
    return generate_ids(tiny.ending_with(lm), prompts_of(lm), writers, decoding)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_rows_that_finish_do_not_change_the_others(lm, temperature, monkeypatch):
    """Rows leave the batch one after the other; cache, seeds and edits follow the rest."""
    kept = []
    keep_rows = rows_module.RunningRows.keep_rows
    monkeypatch.setattr(
        rows_module.RunningRows,
        "keep_rows",
        lambda state, rows: (kept.append(rows), keep_rows(state, rows)),
    )
    edits = [tiny.edit_of(lm, Site(1), 1), None, tiny.edit_of(lm, Site(2, "mlp"), 2, "prompt")]
    edits.append(tiny.edit_of(lm, Site(1), 3, "response"))

    def run(model, steps=14):
        decoding = Decoding(max_new_tokens=steps, temperature=temperature, seed=(5, 6, 7, 8))
        writers = edit_writers(model, edits, [1.0, 1.0, -1.0, 0.5])
        return generate_ids(model, prompts_of(model), writers, decoding)

    whole = run(tiny.ending_with(lm))
    ends = {whole[0][2], whole[1][5], whole[2][8]}
    expected = [
        ids[: next((at for at, token in enumerate(ids) if token in ends), len(ids))]
        for ids in whole
    ]
    kept.clear()
    assert run(tiny.ending_with(lm, *ends)) == expected
    lengths = sorted(map(len, expected))
    if lengths[1] < min(lengths[3], 13):
        assert kept


def test_dropped_rows_leave_the_logits_of_the_rest(tiny_llama):
    """A finished row goes at once where that halves the batch."""
    lm = tiny.ending_with(tiny_llama)
    prompts, edits = prompts_of(lm), [tiny.edit_of(lm, Site(1), seed) for seed in range(4)]
    whole = tiny.decoded(lm, prompts, edit_writers(lm, edits, [1.0] * 4), steps=8)
    order = sorted(range(4), key=lambda row: len(set(whole.ids[row])))
    for last in order:
        ends = {ids[2] for row, ids in enumerate(whole.ids) if row != last}
        if not ends & set(whole.ids[last]):
            break
    else:
        pytest.fail("no row outlives the others: choose another seed")
    ending = tiny.ending_with(lm, *ends)
    with tiny.logits_seen(ending) as seen:
        ids = generate_ids(
            ending, prompts, edit_writers(lm, edits, [1.0] * 4), Decoding(max_new_tokens=8)
        )
    assert ids[last] == whole.ids[last]
    assert {len(logits) for logits in seen} >= {4, 1}
    for step, logits in enumerate(seen):
        row = last if len(logits) == 4 else -1
        torch.testing.assert_close(logits[row], whole.logits[step, last], rtol=0, atol=1e-4)


def test_the_end_of_turn_is_not_part_of_the_response(tiny_llama):
    prompts = prompts_of(tiny_llama, ["Hi"])
    decoding = Decoding(max_new_tokens=5)
    ids = generate_ids(tiny.ending_with(tiny_llama), prompts, [], decoding)[0]
    assert len(ids) == 5
    ending = tiny.ending_with(tiny_llama, ids[0])
    assert list(decode(ending, prompts, [], decoding)) == []
    assert ending.generate("Hi", max_new_tokens=5) == ""
    assert list(ending.stream("Hi", max_new_tokens=5)) == []


def test_a_row_is_sampled_by_its_own_seed(tiny_llama):
    lm = tiny.ending_with(tiny_llama)

    def run(texts, seed, **options):
        options = {"max_new_tokens": 8, "temperature": 1.0, **options}
        return generate_ids(lm, prompts_of(lm, texts), [], Decoding(seed=seed, **options))

    together = run(PROMPTS, 3)
    assert together == run(PROMPTS, (3, 4, 5, 6))
    for row, text in enumerate(PROMPTS):
        assert run([text], 3 + row) == [together[row]]
    assert run(PROMPTS[::-1], (6, 5, 4, 3))[::-1] == together
    torch.manual_seed(99)
    assert run(PROMPTS, 3) == together
    assert run(PROMPTS, 30) != together
    assert len({tuple(ids) for ids in run(["Hi"] * 4, 0)}) == 4
    greedy = tiny.decoded(lm, prompts_of(lm), steps=8).ids
    assert run(PROMPTS, 3, temperature=1e-3) == greedy
    assert run(PROMPTS, 3, top_p=1e-6) == greedy


def test_sampling_follows_the_distribution():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    draws = Sampler(range(4000))(logits.expand(4000, 4))
    assert draws.unique().tolist() == [0]
    for top_p, temperature, expected in (
        (1.0, 1.0, [0.5, 0.3, 0.15, 0.05]),
        (1.0, 0.5, [0.685, 0.247, 0.062, 0.007]),
        (0.7, 1.0, [0.625, 0.375, 0, 0]),
        (0.81, 1.0, [0.526, 0.316, 0.158, 0]),
    ):
        draws = Sampler(range(4000), temperature, top_p)(logits.expand(4000, 4))
        shares = torch.bincount(draws, minlength=4) / 4000
        torch.testing.assert_close(shares, torch.tensor(expected), rtol=0, atol=0.03)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"temperature": -0.5}, "temperature -0.5"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"temperature": float("inf")}, "temperature inf"),
        ({"top_p": 0.0}, "top_p 0.0"),
        ({"top_p": 1.5}, "top_p 1.5"),
        ({"top_p": float("nan")}, "top_p nan"),
        ({"max_new_tokens": 0}, "max_new_tokens 0"),
        ({"seed": (1, 2, 3)}, "3 seeds for 1 prompts"),
    ],
)
def test_bad_decoding_is_told_in_one_line(tiny_llama, options, word):
    with pytest.raises(ConfigError) as caught:
        tiny_llama.generate("Hi", **{"max_new_tokens": 2, **options})
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_the_context_is_told_before_any_model_work(tiny_llama, monkeypatch):
    monkeypatch.setattr(type(tiny_llama), "forward", lambda *_a, **_k: pytest.fail("model ran"))
    with pytest.raises(SteeringError, match="context window of llama has 256"):
        tiny_llama.generate(["Hi", "Why?"], max_new_tokens=250)
    for prompts, options, word in (
        ([], {}, "empty"),
        (["Hi", ""], {}, "empty"),
        (None, {}, "not None"),
        (["Hi", 5], {}, "not 5"),
        (["Hi", "Why?"], {"strength": [1.0]}, "1 values of 'strength' for 2 prompts"),
        (["Hi", "Why?"], {"edit": [None] * 3}, "3 values of 'edit' for 2 prompts"),
        ("Hi", {"strength": float("nan")}, "nan"),
    ):
        with pytest.raises(SteeringError, match=word):
            tiny_llama.generate(prompts, **options)


def pieces_of(ids, lm):
    return list(join_pieces(lm, ({0: token} for token in ids)))


@pytest.mark.parametrize(
    "text", ["naïve café — 🏴‍☠️ 日本語 aṅ", "plain", " leading\n\n", "�", "a�b"]
)
def test_pieces_join_and_never_split_a_character(tiny_llama, text):
    ids = tiny_llama.chat.response(text)
    pieces = pieces_of(ids, tiny_llama)
    assert "".join(pieces) == text
    assert all(pieces)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@settings(deadline=None, max_examples=100)
@given(ids=st.lists(st.integers(0, tiny.VOCAB - 1), max_size=12))
def test_pieces_of_any_ids_join_to_their_text(ids):
    """Broken characters and special tokens too."""
    lm = tiny.lm_of("llama")
    assert "".join(pieces_of(ids, lm)) == lm.chat.decode(ids)


def test_a_stream_is_lazy_and_its_errors_come_at_once(tiny_llama):
    with pytest.raises(SteeringError, match="empty"):
        tiny_llama.stream("")
    lm = tiny.ending_with(tiny_llama)
    with tiny.logits_seen(lm) as seen:
        pieces = lm.stream("Hi", max_new_tokens=30)
        assert seen == []
        next(pieces)
        assert 0 < len(seen) < 30
        rest = "".join(pieces)
        assert len(seen) == 30
    assert lm.generate("Hi", max_new_tokens=30).endswith(rest)


STRENGTHS = (0.0, 1.0, -2.0)


@pytest.mark.parametrize("kind", ["residual", "attention", "mlp"])
def test_several_strengths_at_once_equal_one_after_another(lm, kind):
    """Fixed vectors, at two sites, past the sliding window; each row ends when it ends."""
    sites = [tiny.site_of(lm, kind, 2), tiny.site_of(lm, "residual", 1)]
    edits = [
        tiny.edit_of(lm, sites[0]),
        None,
        tiny.edit_of(lm, sites[1], 1),
        tiny.edit_of(lm, sites[0], 2),
    ]
    prompts, decoding = prompts_of(lm), Decoding(max_new_tokens=tiny.WINDOW + 4)
    together = generate_ids(
        lm, prompts, edit_writers(lm, edits, [1.0] * 4), decoding, strengths=STRENGTHS
    )
    for number, strength in enumerate(STRENGTHS):
        alone = generate_ids(lm, prompts, edit_writers(lm, edits, [strength] * 4), decoding)
        assert together[4 * number : 4 * number + 4] == alone
    assert together[:4] != together[4:8] != together[8:]


def test_several_strengths_share_the_edit_and_the_prefill_below_the_site(lm):
    case = tiny.case_of(lm.name, "cross-attention")
    prompts = prompts_of(case.lm)
    seen = {"below": [], "above": []}
    hooks = [
        tiny.module_at(case.lm, tiny.site_of(case.lm, "residual", layer)).register_forward_hook(
            lambda _m, args, _out, name=name: seen[name].append(len(args[0]))
        )
        for name, layer in (("below", 1), ("above", 2))
    ]
    try:
        writers = case.writers(PROMPTS, [case.steer[0]] * 4)
        ids = generate_ids(
            case.lm, prompts, writers, Decoding(max_new_tokens=6), strengths=STRENGTHS
        )
    finally:
        for hook in hooks:
            hook.remove()
    assert seen["below"][0] == 4
    assert seen["above"][0] == 12
    for number, strength in enumerate(STRENGTHS):
        writers = case.writers(PROMPTS, [case.steer[0]] * 4, [strength] * 4)
        alone = generate_ids(case.lm, prompts, writers, Decoding(max_new_tokens=6))
        assert ids[4 * number : 4 * number + 4] == alone


def test_several_strengths_need_something_to_multiply(lm):
    with pytest.raises(SteeringError, match="no edit to multiply"):
        generate_ids(lm, prompts_of(lm), [], Decoding(max_new_tokens=2), strengths=[1.0, 2.0])
