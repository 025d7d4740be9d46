"""Fitted conditions and behaviours: found again where planted, and worked out by hand."""

from dataclasses import replace

import pytest
import torch

import hypersteer as hs
import tiny
from conditions.worlds import off_topic, on_topic
from gating import states_by_hand
from hypersteer.conditions import contrasts as texts
from hypersteer.conditions import fit, search
from hypersteer.conditions.fit import condition_scores, measure_condition
from hypersteer.errors import CheckpointError, ConfigError, DataError, ModelError, SteeringError
from hypersteer.stats import auroc
from massive import massive_dimensions
from single_precision import single


def fitted(lm, count=10, **config):
    return hs.fit_condition(
        lm, on_topic(count), off_topic(count), name="sea", config=hs.ConditionConfig(**config)
    )


def test_a_condition_tells_topics_apart_and_gates_on_new_prompts(lm):
    lm = tiny.ending_with(lm)
    condition = fitted(lm)
    assert (condition.name, condition.fires, condition.base_lm) == (
        "sea",
        "above",
        str(lm.identity),
    )
    assert condition.fitted == (0, 1, 2, 3)
    assert condition.metrics["f1"] == 1
    new = [*on_topic(4, seed=7), *off_topic(4, seed=8)]
    found = measure_condition(lm, condition, new[:4], new[4:])
    assert found.metrics["f1"] == found.metrics["auroc"] == 1
    log = hs.Decisions()
    edit = tiny.edit_of(lm, lm.site(3))
    rules = hs.rules("if sea then x", conditions={"sea": condition}, edits={"x": edit})
    lm.generate(new, edit=rules, decisions=log, max_new_tokens=1)
    assert [bool(row[0].edits) for row in log.rows] == [True] * 4 + [False] * 4
    scores = [row[0].scores["sea"] for row in log.rows]
    assert scores == pytest.approx(found.positives + found.negatives, abs=1e-5)


@pytest.mark.parametrize("method", ["whitened", "mean", "paired"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_two_massive_dimensions_decide_nothing(family, method, tmp_path):
    """They hold nearly all of a state's length, and nothing of the topic."""
    lm = tiny.ending_with(tiny.lm_of(family))
    new = [*on_topic(8, seed=7), *off_topic(8, seed=8)]
    with massive_dimensions(lm):
        condition = fitted(lm, 20, method=method)
        found = measure_condition(lm, condition, new[:8], new[8:])
        assert found.metrics["f1"] == found.metrics["auroc"] == 1
        read = hs.load_condition(condition.save(tmp_path / "c.safetensors"))
        edit = tiny.edit_of(lm, lm.site(3))
        rules = hs.rules("if sea then x", conditions={"sea": read}, edits={"x": edit})
        log = hs.Decisions()
        lm.generate(new, edit=rules, decisions=log, max_new_tokens=1)
    assert [bool(row[0].edits) for row in log.rows] == [True] * 8 + [False] * 8
    plain = measure_condition(lm, fitted(lm, 20, method=method), new[:8], new[8:])
    assert found.metrics["margin"] > 0.5 * plain.metrics["margin"]
    old = replace(condition, scales=None)
    with massive_dimensions(lm):
        without = measure_condition(lm, old, new[:8], new[8:]).metrics["margin"]
    assert without < 0.5 * found.metrics["margin"]


def test_the_published_score_has_no_scales(tiny_llama):
    assert fitted(tiny_llama, scorer="legacy").scales is None
    assert fitted(tiny_llama).scales.min() == 1


def test_states_are_read_where_there_is_no_float64(tiny_llama, monkeypatch):
    wanted = fitted(tiny_llama)
    read = texts.pooled_states
    monkeypatch.setattr(texts, "pooled_states", lambda *given: single(read(*given)))
    condition = fitted(tiny_llama)
    assert torch.equal(condition.directions, wanted.directions)
    states = single(torch.randn(3, tiny.WIDTH))
    layer = condition.layers[0]
    torch.testing.assert_close(
        condition.score({layer: states}).cpu(), condition.score({layer: states.cpu()})
    )


@pytest.mark.parametrize("method", ["whitened", "mean", "paired", "global", "difference"])
@pytest.mark.parametrize("scorer", ["cosine", "legacy"])
def test_every_recipe_gives_a_condition(tiny_llama, method, scorer, tmp_path):
    condition = fitted(tiny_llama, method=method, scorer=scorer, pooling="all", max_layers=2)
    assert (condition.scorer, condition.pooling) == (scorer, "all")
    assert condition.note == f"{method} contrast of 10 and 10 prompts"
    read = hs.load_condition(condition.save(tmp_path / "c.safetensors"))
    texts = [*on_topic(3, seed=5), *off_topic(3, seed=6)]
    assert torch.equal(
        condition_scores(tiny_llama, read, texts), condition_scores(tiny_llama, condition, texts)
    )


def test_figures_are_those_of_held_out_scores(tiny_llama):
    """With one layer, as many folds as prompts, and the mean method, all by hand."""
    lm, count, layer = tiny_llama, 5, 2
    above = torch.stack([pooled(lm, text, layer) for text in on_topic(count)])
    below = torch.stack([pooled(lm, text, layer) for text in off_topic(count)])
    condition = fitted(lm, count, method="mean", folds=count, layers=(layer,))
    scales = scales_by_hand(above, below)
    gap = (above.mean(0) - below.mean(0)) / scales
    torch.testing.assert_close(condition.directions[0], gap / gap.norm(), rtol=0, atol=1e-5)
    torch.testing.assert_close(condition.means[0], (above.mean(0) + below.mean(0)) / 2)
    torch.testing.assert_close(condition.scales[0], scales)
    scores = torch.zeros(2 * count)
    for held in range(count):
        kept = [place for place in range(count) if place != held]
        high, low = above[kept].mean(0), below[kept].mean(0)
        own = scales_by_hand(above[kept], below[kept])
        for place, side in ((held, above), (count + held, below)):
            centred = (side[held] - (high + low) / 2) / own
            scores[place] = torch.cosine_similarity(centred, (high - low) / own, dim=0)
    ordered = scores.sort().values
    assert scores[:count].min() > scores[count:].max()
    threshold = float(ordered[count - 1] + ordered[count]) / 2
    assert condition.threshold == pytest.approx(threshold, abs=1e-5)
    assert condition.metrics["margin"] == pytest.approx(
        float(ordered[count] - ordered[count - 1]) / 2, abs=1e-5
    )
    labels = torch.arange(2 * count) < count
    assert condition.metrics["auroc"] == float(auroc(scores[labels], scores[~labels]))


def scales_by_hand(above, below):
    """Median distance from the side's mean, over that of the median dimension; at least 1."""
    moved = torch.cat([above - above.mean(0), below - below.mean(0)]).abs()
    ordered = moved.sort(0).values
    spread = ordered[(len(moved) - 1) // 2]
    typical = spread.sort().values[(len(spread) - 1) // 2]
    return torch.clamp(spread / typical, min=1)


def pooled(lm, text, layer):
    prompt = lm.chat.prompt(text)
    return states_by_hand(lm, prompt.ids, layer)[prompt.prefix :].mean(0)


def test_labels_that_mean_nothing_do_not_look_good_when_held_out(tiny_llama):
    """Directions always fit the texts they are learnt from; held-out scores do not."""
    texts = on_topic(40)
    condition = hs.fit_condition(tiny_llama, texts[::2], texts[1::2])
    assert condition.metrics["auroc"] < 0.85


def test_layers_and_budget_are_respected(tiny_llama):
    condition = fitted(tiny_llama, layers=(-1, 1), false_positives=0.0)
    assert condition.fitted == (3, 1)
    assert set(condition.layers) <= {1, 3}
    assert condition.metrics["false_positives"] == 0


@pytest.mark.parametrize("kind", ["response", "prompt"])
def test_a_behaviour_vector_is_the_gap_between_the_sides(lm, kind):
    starts = ("Aye, the sea!", "The ship, aye!", "A pirate, the day!")
    positives = [(prompt, start) for prompt in on_topic(3) for start in starts]
    negatives = [(prompt, "7 + 5") for prompt in on_topic(3) for _ in starts]
    if kind == "prompt":
        positives, negatives = on_topic(6), off_topic(6)
    edit = hs.fit_behaviour(
        lm, positives, negatives, layer=1, method="mean", pooling=kind, name="pirate"
    )
    assert (edit.site, edit.base_lm, edit.steering_prompt) == (
        lm.site(1),
        str(lm.identity),
        "pirate",
    )

    def mean_state(texts):
        states = []
        for text in texts:
            words, response = text if isinstance(text, tuple) else (text, "")
            prompt = lm.chat.prompt(words)
            ids = [*prompt.ids, *lm.chat.response(response)]
            start = len(prompt.ids) if response else prompt.prefix
            states.append(states_by_hand(lm, ids, 1)[start:].mean(0))
        return torch.stack(states).mean(0)

    gap = mean_state(positives) - mean_state(negatives)
    torch.testing.assert_close(edit.vector, gap, rtol=0, atol=1e-4)
    paired = hs.fit_behaviour(lm, positives, negatives, layer=1, pooling=kind)
    assert torch.cosine_similarity(paired.vector, gap, dim=0) > 0.8


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"method": "meen"}, "method = 'meen' is unknown; did you mean 'mean'"),
        ({"pooling": "respons"}, "did you mean 'response'"),
        ({"scope": "al"}, "unknown scope 'al'"),
        ({"method": "paired"}, "needs pairs"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_read(tiny_llama, monkeypatch, given, told):
    monkeypatch.setattr(fit, "read_states", lambda *_a, **_k: pytest.fail("texts were read"))
    pairs = [(text, "Yes.") for text in on_topic(5)]
    with pytest.raises(SteeringError, match=told):
        hs.fit_behaviour(tiny_llama, pairs, pairs[:4], **given)
    for config, why in (({"method": "paired"}, "needs pairs"), ({"max_layers": 4}, "combinations")):
        monkeypatch.setattr(search, "MOST_COLUMNS", 3)
        with pytest.raises(SteeringError, match=why):
            fitted(tiny_llama, **config) if "max_layers" in config else hs.fit_condition(
                tiny_llama, on_topic(5), off_topic(6), config=hs.ConditionConfig(**config)
            )


def test_bad_requests(tiny_llama):
    lm = tiny_llama
    condition = fitted(lm)
    with pytest.raises(DataError, match="too few"):
        hs.fit_condition(lm, on_topic(2), off_topic(2))
    with pytest.raises(DataError, match="needs pairs"):
        hs.fit_condition(lm, on_topic(5), off_topic(6), config=hs.ConditionConfig(method="paired"))
    with pytest.raises(ModelError, match="layer 9 is out of range"):
        fitted(lm, layers=(9,))
    with pytest.raises(ConfigError, match="give both"):
        measure_condition(lm, condition, on_topic(2), [])
    with pytest.raises(CheckpointError, match="fitted for the base LM"):
        condition_scores(lm, replace(condition, base_lm="other"), on_topic(1))
    with pytest.raises(SteeringError, match="empty"):
        hs.fit_condition(lm, [*on_topic(4), " "], off_topic(5))
    with pytest.raises(SteeringError, match=r"a prompt or a pair .* not a list"):
        hs.fit_condition(lm, [[{"role": "user", "content": "Hi"}]] * 4, off_topic(4))
    for field, value in (
        ("method", "whitend"),
        ("pooling", "mean"),
        ("scorer", "legcy"),
        ("max_layers", 0),
        ("folds", 1),
        ("false_positives", 1.0),
        ("batch_tokens", 0),
    ):
        with pytest.raises(ConfigError, match=field):
            hs.ConditionConfig(**{field: value})
