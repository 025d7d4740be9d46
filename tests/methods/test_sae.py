"""SAE and SAE-A: planted features are found, and what is written is what decoding by hand gives."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

import tiny
from hypersteer.concepts import Concept
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import generate_ids
from hypersteer.errors import ConfigError, DataError, SteeringError
from hypersteer.learning.sae_features import best
from hypersteer.learning.values import Asked, ConceptExamples
from hypersteer.lm.chat import collate
from hypersteer.lm.likelihood import response_token_losses
from hypersteer.methods.protocol import Detector
from hypersteer.methods.random import unit_vectors
from hypersteer.methods.sae import Sae, SaeA, feature_of
from methods.cases import (
    Untouched,
    alone,
    concepts_of,
    example,
    hooked,
    lengths_by_hand,
    states_alone,
)

SIZE = 40
PLAIN = {"apply_b_dec_to_input": False}
CONFIGS = {
    "jumprelu": {"architecture": "jumprelu", **PLAIN},
    "standard": {"architecture": "standard", **PLAIN},
    "topk": {"architecture": "topk", "k": 6, **PLAIN},
}
LABELS = [(3, "speak of owl"), (8, "speak of fig"), (5, "the blue sky")]


def random_weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (SIZE, tiny.WIDTH)
    return {
        "W_enc": 0.3 * torch.randn(tiny.WIDTH, SIZE, generator=generator),
        "b_enc": 0.3 * torch.randn(SIZE, generator=generator),
        "W_dec": torch.randn(shape, generator=generator) / 4,
        "b_dec": torch.randn(tiny.WIDTH, generator=generator),
        "threshold": 0.3 * torch.rand(SIZE, generator=generator),
    }


def folder_of(path, weights, config=CONFIGS["jumprelu"], labels=LABELS, highest=2.0):
    path.mkdir(exist_ok=True)
    if config["architecture"] != "jumprelu":
        weights = {name: value for name, value in weights.items() if name != "threshold"}
    save_file({n: w.contiguous() for n, w in weights.items()}, path / "sae_weights.safetensors")
    (path / "cfg.json").write_text(json.dumps(config), encoding="utf-8")
    entries = [
        {"index": feature, "description": text, "maxActApprox": highest} for feature, text in labels
    ]
    (path / "labels.jsonl").write_text("\n".join(map(json.dumps, entries)), encoding="utf-8")
    return str(path)


def latents_by_hand(weights, config, hidden):
    """All latents [T, F] of states [T, D]."""
    raw = (hidden @ weights["W_enc"] + weights["b_enc"]).relu()
    if config["architecture"] == "jumprelu":
        return raw * (raw > weights["threshold"])
    if config["architecture"] == "topk":
        least = raw.sort(dim=-1, descending=True).values[:, config["k"] - 1 : config["k"]]
        return raw * (raw >= least)
    return raw


def decoded_with(weights, latents):
    return latents @ weights["W_dec"] + weights["b_dec"]


def losses_by_hand(lm, site, prompt, response, act):
    """Cross-entropy of a response while `act` changes the states after the prefix."""
    ids, prefix, end = alone(lm, example(prompt, response, complete=False))
    seen = []

    def change(hidden):
        seen.append(1)
        changed = hidden.clone()
        changed[0, prefix:] = act(hidden[0, prefix:])
        return changed

    with hooked(tiny.module_at(lm, site), change), torch.no_grad():
        logits = lm.model(input_ids=ids).logits[0, end - 1 : -1]
    assert seen
    return F.cross_entropy(logits, ids[0, end:], reduction="none")


@pytest.mark.parametrize(("method", "mode"), [(Sae, "add"), (SaeA, "clamp")])
def test_steering_is_decoding_by_hand_with_the_error_added_back(lm, tmp_path, method, mode):
    site, concepts, weights = tiny.site_of(lm), concepts_of(3, 2), random_weights()
    method = method(dictionary=folder_of(tmp_path, weights), mode=mode)
    with Untouched(lm):
        learned = method.fit(lm, site, concepts)
        asked = [Asked(entry.concept, "Tell me all") for entry in reversed(concepts)]
        steering = method.steer(lm, site, learned, asked)
        prompt, response = lm.chat.prompt("Tell me all"), lm.chat.response("owl fig")
        ours = response_token_losses(lm, [prompt] * 2, [response] * 2, steering.writers)
    assert (steering.lm, steering.prompts) == (lm, ["Tell me all"] * 2)
    for row, number in enumerate([1, 0]):
        feature = int(learned.tensors["features"][number])
        highest = float(learned.tensors["activations"][number])
        assert highest > 0

        def act(hidden, feature=feature, highest=highest):
            if mode == "add":
                return hidden + highest * weights["W_dec"][feature]
            latents = latents_by_hand(weights, CONFIGS["jumprelu"], hidden)
            error = hidden - decoded_with(weights, latents)
            latents[:, feature] = highest
            return decoded_with(weights, latents) + error

        expected = losses_by_hand(lm, site, "Tell me all", "owl fig", act)
        torch.testing.assert_close(ours[row], expected, atol=1e-4, rtol=1e-4)
    plain = losses_by_hand(lm, site, "Tell me all", "owl fig", lambda hidden: hidden)
    assert (ours[0] - plain).abs().max() > 1e-3


@pytest.mark.parametrize("mode", ["clamp", "min_clamp"])
@pytest.mark.parametrize("name", CONFIGS)
def test_clamping_at_several_strengths_is_exact(tiny_llama, tmp_path, name, mode):
    """Prefill and steps, with copies and after rows have gone; strength 0 changes nothing."""
    config, site, weights = CONFIGS[name], tiny.site_of(tiny_llama), random_weights()
    concepts = concepts_of(3, 2)
    method = Sae(dictionary=folder_of(tmp_path, weights, config), mode=mode)
    learned = method.fit(tiny_llama, site, concepts)
    features, highest = learned.tensors["features"].tolist(), 2.0
    assert features == [3, 8]
    asked = [Asked(entry.concept, "Why is it?") for entry in concepts]
    strengths = [0.0, 0.25, -1.0, 1.5]
    (writer,) = method.steer(tiny_llama, site, learned, asked).writers
    writer = writer.at(strengths)

    def expected(states, feature, strength):
        if strength == 0:
            return states
        latents = latents_by_hand(weights, config, states)
        error = states - decoded_with(weights, latents)
        target = torch.full_like(latents[:, feature], strength * highest)
        if mode == "min_clamp":
            target = torch.maximum(target, latents[:, feature])
        latents[:, feature] = target
        return decoded_with(weights, latents) + error

    prompts = [tiny_llama.chat.prompt("Why is it?"), tiny_llama.chat.prompt("Why?")]
    spans = collate(prompts, pad_id=2, side="left").spans
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, spans.real.shape[1], tiny.WIDTH, generator=generator)
    latents = latents_by_hand(weights, config, hidden.flatten(0, 1))
    assert 0 < (latents[:, features] > 0).float().mean() < 1  # both sides of the thresholds
    written = writer.prefill(hidden, spans)
    for copy, strength in enumerate(strengths):
        for row in range(2):
            found, marks = written[2 * copy + row], spans.prompt[row]
            assert torch.equal(found[~marks], hidden[row][~marks])
            wanted = expected(hidden[row][marks], features[row], strength)
            torch.testing.assert_close(found[marks], wanted, atol=1e-5, rtol=1e-5)
            if strength == 0:
                assert torch.equal(found, hidden[row])
    kept = [6, 1, 5]
    writer.keep_rows(kept)
    token = torch.randn(3, 1, tiny.WIDTH, generator=generator)
    stepped = writer.step(token)
    for place, row in enumerate(kept):
        wanted = expected(token[place], features[row % 2], strengths[row // 2])
        torch.testing.assert_close(stepped[place], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["add", "clamp", "min_clamp"])
def test_generation_at_several_strengths_equals_each_alone(tiny_llama, tmp_path, mode):
    site, concepts = tiny.site_of(tiny_llama), concepts_of(3, 2)
    lm = tiny.ending_with(tiny_llama)
    method = SaeA(dictionary=folder_of(tmp_path, random_weights()), mode=mode)
    learned = method.fit(lm, site, concepts)
    asked = [Asked(concepts[0].concept, "Tell me"), Asked(concepts[1].concept, "Why is the sky")]
    prompts = [lm.chat.prompt(one.prompt) for one in asked]
    strengths, decoding = [0.0, 1.0, 4.0], Decoding(max_new_tokens=4)
    writers = method.steer(lm, site, learned, asked).writers
    together = generate_ids(lm, prompts, writers, decoding, strengths)
    assert together[:2] == generate_ids(lm, prompts, [], decoding)
    for copy, strength in enumerate(strengths):
        for row in range(2):
            (writer,) = method.steer(lm, site, learned, asked[row : row + 1]).writers
            single = generate_ids(lm, prompts[row : row + 1], [writer.at([strength])], decoding)
            assert together[2 * copy + row] == single[0]
    assert together[4:] != together[:2]


def planted_concepts(marks):
    words = concepts_of(12, 12, negatives=0)
    pool = [example(p.prompt, p.response) for entry in concepts_of(12) for p in entry.positives]
    return [
        ConceptExamples(
            Concept(id=number, text=mark),
            [example(p.prompt, p.response + mark, number) for p in entry.positives],
            pool,
        )
        for number, (mark, entry) in enumerate(zip(marks, words, strict=True))
    ]


def test_planted_features_are_found(lm, tmp_path):
    """Markers add a direction to the states; the dictionary holds it among random directions."""
    site, marks = tiny.site_of(lm), ["!", "?"]
    concepts = planted_concepts(marks)
    markers = [lm.chat.text(mark)[0] for mark in marks]
    directions = unit_vectors(range(SIZE), tiny.WIDTH, seed=3)
    hidden = torch.cat([states_alone(lm, site, row) for row in concepts[0].negatives])
    size = float(hidden.norm(dim=-1).mean())
    weights = {
        "W_enc": directions.T,
        "W_dec": directions,
        "b_enc": torch.zeros(SIZE),
        "b_dec": torch.zeros(tiny.WIDTH),
        "threshold": torch.full((SIZE,), 0.1 * size),
    }
    planted, ids = [17, 23], []
    seeing = lm.embeddings.register_forward_pre_hook(lambda _m, args: ids.append(args[0]))

    def plant(states):
        for marker, feature in zip(markers, planted, strict=True):
            rows = (ids[-1] == marker).any(1)
            states = states + 2 * size * rows[:, None, None] * directions[feature]
        return states

    method = SaeA(dictionary=folder_of(tmp_path, weights))
    done = []
    try:
        with hooked(tiny.module_at(lm, site), plant):
            learned = method.fit(lm, site, concepts, done.append)
            scores = method.detect(
                lm, site, learned, [concepts[1].concept], concepts[1].positives[:3]
            )
    finally:
        seeing.remove()
    assert learned.tensors["features"].tolist() == planted
    assert [learned.notes["picked"][str(n)]["auroc"] for n in range(2)] == [1.0, 1.0]
    assert sum(done) == pytest.approx(1)
    plain = SaeA(dictionary=method.dictionary).fit(lm, site, concepts)
    assert plain.tensors["features"].tolist() != planted
    rows = [
        states_alone(lm, site, row) + 2 * size * directions[23] for row in concepts[1].positives
    ]
    tops = [float((row @ directions[23]).max()) for row in rows]
    torch.testing.assert_close(scores, torch.tensor([tops[:3]]), atol=1e-3, rtol=1e-4)
    highest = float(learned.tensors["activations"][1])
    lacking = (hidden @ directions[23]).max()
    assert highest == pytest.approx(max(*tops, float(lacking)), rel=1e-4)


def test_the_larger_margin_decides_between_equal_aurocs():
    shows = torch.tensor([[1.0, 5.0, 9.0, 30.0], [1.0, 6.0, 9.0, 0.0]])
    lacks = torch.tensor([[0.9, 4.0, 8.0, 3.0], [0.9, 4.5, 8.0, 3.0]])
    assert best(shows, lacks, torch.ones(4)) == (1, 1.0)
    assert best(shows, lacks, torch.tensor([1.0, 0.5, 1.0, 1.0])) == (2, 1.0)


@pytest.mark.parametrize("limits", [{}, {"batch_tokens": 30, "cache_bytes": 0}])
def test_sae_a_reads_all_rows_once_and_picks_by_auroc(tiny_llama, tmp_path, limits):
    """Against pooled activations of every row alone, with shared and with own negatives."""
    site, weights = tiny.site_of(tiny_llama), random_weights()
    first, second = concepts_of(4, 3)
    third = second._replace(
        concept=Concept(id=99, text="jam"), negatives=[*first.positives, second.negatives[0]]
    )
    method = SaeA(dictionary=folder_of(tmp_path, weights), **limits)
    concepts = [first, second, third]
    learned = method.fit(tiny_llama, site, concepts)

    def pooled(rows):
        states = [states_alone(tiny_llama, site, row) for row in rows]
        tops = [latents_by_hand(weights, CONFIGS["jumprelu"], h).amax(0) for h in states]
        return torch.stack(tops)

    for number, entry in enumerate(concepts):
        shows, lacks = pooled(entry.positives), pooled(entry.negatives)
        wins = (shows[:, None] > lacks[None]).float() + 0.5 * (shows[:, None] == lacks[None])
        scores = wins.mean((0, 1))
        feature = int(learned.tensors["features"][number])
        assert float(scores[feature]) == pytest.approx(float(scores.max()), abs=1e-6)
        note = learned.notes["picked"][str(entry.concept.id)]
        assert note["auroc"] == pytest.approx(float(scores.max()), abs=1e-6)
        highest = float(torch.cat([shows, lacks])[:, feature].max())
        assert float(learned.tensors["activations"][number]) == pytest.approx(highest, rel=1e-4)
    assert learned.cost.parameters == 2 * tiny.WIDTH + 3
    if not limits:
        with tiny.counting_flops() as counter:
            again = method.fit(tiny_llama, site, concepts)
        assert again.cost == replace(learned.cost, seconds=again.cost.seconds)
        assert 3 * again.cost.flops == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_labels_and_addresses_choose_the_feature(tiny_llama, tmp_path):
    path = folder_of(tmp_path, random_weights())
    site, (entry,) = tiny.site_of(tiny_llama), concepts_of(1)
    name = f"gemma-2-2b/{site.layer}-gemmascope-res-16k"
    at, method = f"https://www.neuronpedia.org/{name}/14", Sae(dictionary=path, neuronpedia=name)

    def picked(method, text, ref=""):
        concept = Concept(id=0, text=text, ref=ref)
        return method.fit(tiny_llama, site, [entry._replace(concept=concept)])

    named = picked(method, "speak of fig", at)
    assert named.tensors["features"].tolist() == [14]
    assert named.notes["picked"]["0"] == {"feature": 14, "by": "ref"}
    for strange in (Sae(dictionary=path), Sae(dictionary=path, neuronpedia=name[:-4])):
        learned = picked(strange, "speak of fig", at)
        assert learned.tensors["features"].tolist() == [8]
        assert learned.notes["picked"]["0"]["label"] == "speak of fig"
        assert learned.tensors["activations"].tolist() == [2.0]
        assert learned.cost.flops == 0
    assert picked(method, "why the sky is blue").tensors["features"].tolist() == [5]
    with pytest.raises(ConfigError, match="feature 400 is not among the 40"):
        picked(method, "speak of fig", at.replace("/14", "/400"))
    with pytest.raises(ConfigError, match="is for layer 20, but the site is residual@1; set"):
        picked(Sae(dictionary=path, neuronpedia="gemma-2-2b/20-gemmascope-res-16k"), "speak", at)


def test_an_address_names_a_feature_of_one_dictionary_only():
    assert feature_of("https://x.org/gemma-2-2b/10-res-16k/7", "gemma-2-2b/10-res-16k") == 7
    assert feature_of("gemma-2-2b/10-res-16k/7", "gemma-2-2b/10-res-16k") == 7
    assert feature_of("https://x.org/gemma-2-2b/10-res-16k/7", "") is None
    assert feature_of("https://x.org/gemma-2-2b/10-res-16k/7", "gemma-2-2b/10-res") is None
    assert feature_of("https://x.org/big-gemma-2-2b/10-res-16k/7", "gemma-2-2b/10-res-16k") is None
    assert feature_of("", "gemma-2-2b/10-res-16k") is None


@pytest.mark.parametrize("name", CONFIGS)
def test_without_a_given_maximum_it_is_measured_on_own_rows(tiny_llama, tmp_path, name):
    site, weights, config = tiny.site_of(tiny_llama), random_weights(), CONFIGS[name]
    weights["b_enc"][8] = -1e4  # never active: as long as the states, then
    path, concepts = folder_of(tmp_path, weights, config, highest=None), concepts_of(3, 2)
    learned = Sae(dictionary=path).fit(tiny_llama, site, concepts)
    first, second = (
        torch.cat([states_alone(tiny_llama, site, row) for row in [*e.positives, *e.negatives]])
        for e in concepts
    )
    highest = float(latents_by_hand(weights, config, first)[:, 3].max())
    length = float(lengths_by_hand(second).mean() / weights["W_dec"][8].norm())
    expected = torch.tensor([highest, length])
    torch.testing.assert_close(learned.tensors["activations"], expected, atol=1e-4, rtol=1e-4)
    without = [concepts[0]._replace(positives=[], negatives=[]), concepts[1]]
    learned = Sae(dictionary=path).fit(tiny_llama, site, without)  # then on the others'
    highest = float(latents_by_hand(weights, config, second)[:, 3].max())
    assert learned.tensors["activations"][0] == pytest.approx(highest, abs=1e-4)
    bare = [entry._replace(positives=[], negatives=[]) for entry in concepts]
    with pytest.raises(DataError, match=r"maximum activation .* of feature 3"):
        Sae(dictionary=path).fit(tiny_llama, site, bare)


@pytest.mark.parametrize("name", CONFIGS)
def test_detection_is_the_largest_activation_after_the_prefix(tiny_llama, tmp_path, name):
    lm = tiny_llama
    site, concepts, weights = tiny.site_of(lm), concepts_of(3, 2), random_weights()
    method = Sae(dictionary=folder_of(tmp_path, weights, CONFIGS[name]))
    assert isinstance(method, Detector)
    learned = method.fit(lm, site, concepts)
    texts = [*concepts[0].negatives, *concepts[1].positives, example("Tell me", "", complete=False)]
    asked = [concepts[1].concept, concepts[0].concept]
    scores = method.detect(lm, site, learned, asked, texts)
    for feature, found in zip([8, 3], scores, strict=True):
        states = [states_alone(lm, site, text) for text in texts]
        tops = [latents_by_hand(weights, CONFIGS[name], h)[:, feature].max() for h in states]
        torch.testing.assert_close(found, torch.stack(tops), atol=1e-4, rtol=1e-4)
    assert method.detect(lm, site, learned, asked, []).shape == (2, 0)


def test_a_topk_dictionary_that_has_changed_is_refused(tiny_llama, tmp_path):
    site, concepts = tiny.site_of(tiny_llama), concepts_of(2)
    path = folder_of(tmp_path, random_weights(0), CONFIGS["topk"])
    method = Sae(dictionary=path)
    learned = method.fit(tiny_llama, site, concepts)
    folder_of(tmp_path, random_weights(1), CONFIGS["topk"])
    with pytest.raises(SteeringError, match="has changed since it was learnt"):
        method.detect(tiny_llama, site, learned, [concepts[0].concept], concepts[0].positives)


def test_bad_settings_are_told_before_any_model_work(tiny_llama, tmp_path):
    for method in (Sae, SaeA):
        with pytest.raises(ConfigError, match=r"no SAE dictionary is given.*train_sae\.py"):
            method()
        path = folder_of(tmp_path, random_weights())
        with pytest.raises(ConfigError, match="batch_tokens 0"):
            method(dictionary=path, batch_tokens=0)
    with pytest.raises(ConfigError, match="no labels at 'nowhere'"):
        Sae(dictionary=path, labels="nowhere")
    site, (entry,) = tiny.site_of(tiny_llama), concepts_of(2)
    (tmp_path / "labels.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"concept 7 .* and there are no labels: set `labels`"):
        Sae(dictionary=path).fit(tiny_llama, site, [entry])
    with pytest.raises(DataError, match=r"SAE-A cannot learn concept 7.*negative"):
        SaeA(dictionary=path).fit(tiny_llama, site, [entry._replace(negatives=[])])
    learned = SaeA(dictionary=path).fit(tiny_llama, site, [entry])
    twice = entry._replace(positives=[*entry.positives, entry.positives[0]])
    again = SaeA(dictionary=path).fit(tiny_llama, site, [twice])  # a row that stands twice
    assert torch.equal(learned.tensors["activations"], again.tensors["activations"])
    with pytest.raises(SteeringError, match="concept 4"):
        SaeA(dictionary=path).steer(
            tiny_llama, site, learned, [Asked(Concept(id=4, text="zebras"), "Why")]
        )
