"""ActAdd against plain forwards of single texts, and hooks that add at the prompt's start."""

import pytest
import torch
from torch.nn import functional as F

import tiny
from hypersteer.concepts import Concept
from hypersteer.edits.sites import Site
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import generate_ids
from hypersteer.errors import ConfigError, SteeringError
from hypersteer.learning.values import Asked
from hypersteer.lm.likelihood import response_token_losses
from hypersteer.methods.actadd import ActAdd
from hypersteer.methods.protocol import Detector
from hypersteer.methods.random import unit_vectors
from methods.cases import Untouched, alone, concepts_of, example, hooked


def states_of(lm, site, ids):
    """States [T, D] of ids, chat prefix included, by a plain forward."""
    seen = []
    with hooked(tiny.module_at(lm, site), lambda h: seen.append(h.clone())), torch.no_grad():
        lm.model(input_ids=torch.tensor([ids]))
    return seen[0][0]


def difference(lm, site, text, counter=" "):
    """State on the text minus that on the counter text, spaces after the shorter one."""
    whole = lm.chat.prompt(text)
    prefix = whole.ids[: whole.prefix]
    (space,) = lm.chat.text(" ")
    both = [lm.chat.text(text), lm.chat.text(counter)]
    size = max(map(len, both))
    assert whole.ids[whole.prefix :][: len(both[0])] == both[0]
    first, second = ([*prefix, *ids, *[space] * (size - len(ids))] for ids in both)
    return (states_of(lm, site, first) - states_of(lm, site, second))[len(prefix) :]


def entries(*texts):
    return [
        concepts_of(1)[0]._replace(concept=Concept(id=n, text=text), positives=[], negatives=[])
        for n, text in enumerate(texts)
    ]


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_differences_are_added_to_the_first_tokens_of_the_prompt(lm, kind):
    site, known = tiny.site_of(lm, kind), entries("speak of owls", "sea")
    method = ActAdd()
    with Untouched(lm):
        learned = method.fit(lm, site, known)
        asked = [Asked(entry.concept, "Tell me all of the sea") for entry in reversed(known)]
        steering = method.steer(lm, site, learned, asked)
    (writer,) = steering.writers
    ids, prefix, end = alone(lm, example("Tell me all of the sea", "owl fig"))
    prompts = [lm.chat.prompt(prompt) for prompt in steering.prompts]
    ours = response_token_losses(lm, prompts, [ids[0, end:].tolist()] * 2, [writer])
    plain = response_token_losses(lm, prompts[:1], [ids[0, end:].tolist()])[0]
    for row, entry in enumerate(reversed(known)):
        added = torch.zeros(ids.shape[1], tiny.WIDTH)
        own = difference(lm, site, entry.concept.text)
        added[prefix : prefix + len(own)] = 4 * own
        with hooked(tiny.module_at(lm, site), lambda h, a=added: h + a), torch.no_grad():
            logits = lm.model(input_ids=ids).logits[0, end - 1 : -1]
        expected = F.cross_entropy(logits, ids[0, end:], reduction="none")
        torch.testing.assert_close(ours[row], expected, atol=2e-4, rtol=1e-3)
        assert (expected - plain).abs().max() > 1e-3  # it is felt


def test_nothing_is_added_while_generating_and_strengths_share_a_batch(lm):
    """Greedy answers at several strengths equal those of uncached forwards with a hook."""
    lm = tiny.ending_with(lm)
    site, (entry,) = tiny.site_of(lm), entries("sea ship")
    method = ActAdd(coefficient=2.0)
    learned = method.fit(lm, site, [entry])
    prompts = ["Tell me all of the sea", "Why"]
    writers = method.steer(lm, site, learned, [Asked(entry.concept, p) for p in prompts]).writers
    decoding = Decoding(max_new_tokens=4)
    strengths = [0.0, 1.0, 3.0]
    found = generate_ids(lm, [lm.chat.prompt(p) for p in prompts], writers, decoding, strengths)
    own = difference(lm, site, entry.concept.text)
    for number, ids in enumerate(found):
        strength, prompt = strengths[number // 2], lm.chat.prompt(prompts[number % 2])
        sequence = list(prompt.ids)
        for _ in ids:
            added = torch.zeros(len(sequence), tiny.WIDTH)
            size = min(len(own), len(prompt.ids) - prompt.prefix)
            added[prompt.prefix : prompt.prefix + size] = 2 * strength * own[:size]
            with hooked(tiny.module_at(lm, site), lambda h, a=added: h + a), torch.no_grad():
                logits = lm.model(input_ids=torch.tensor([sequence])).logits[0, -1]
            sequence.append(int(logits.argmax()))
        assert ids == sequence[len(prompt.ids) :]


def test_a_counter_text_and_padding(tiny_llama):
    site, known = tiny.site_of(tiny_llama), entries("sea", "the sea the ship the day")
    learned = ActAdd(counter="bees and honey").fit(tiny_llama, site, known)
    expected = [
        difference(tiny_llama, site, entry.concept.text, "bees and honey") for entry in known
    ]
    assert learned.tensors["lengths"].tolist() == [len(one) for one in expected]
    torch.testing.assert_close(
        learned.tensors["differences"], torch.cat(expected), atol=1e-4, rtol=1e-4
    )


def test_everywhere_is_one_vector_for_all_tokens(tiny_llama):
    site, (entry,) = tiny.site_of(tiny_llama), entries("speak of owls")
    method = ActAdd(everywhere=True, coefficient=3.0)
    learned = method.fit(tiny_llama, site, [entry])
    (writer,) = method.steer(tiny_llama, site, learned, [Asked(entry.concept, "Why")]).writers
    hidden = torch.zeros(1, 1, tiny.WIDTH)
    prompt = tiny_llama.chat.prompt("Why")
    response_token_losses(tiny_llama, [prompt], [[5, 6]], [writer])
    mean = difference(tiny_llama, site, entry.concept.text).mean(0)
    torch.testing.assert_close(writer.params["vector"][0], 3 * mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(writer.step(hidden), hidden + writer.params["vector"])


def test_an_unseen_concept_is_read_when_asked_for(tiny_llama):
    site, known = tiny.site_of(tiny_llama), entries("sea", "speak of owls")
    method, prompt = ActAdd(), tiny_llama.chat.prompt("Why is the sky blue")
    asked = [Asked(entry.concept, "Why is the sky blue") for entry in known]
    losses = []
    for fitted in (known, known[:1], []):
        learned = method.fit(tiny_llama, site, fitted)
        writers = method.steer(tiny_llama, site, learned, asked).writers
        losses.append(response_token_losses(tiny_llama, [prompt] * 2, [[5, 6]] * 2, writers))
    for later in losses[1:]:
        torch.testing.assert_close(later, losses[0])
    assert not method.learns
    assert not isinstance(method, Detector)


def test_a_planted_direction_is_recovered(lm):
    """A marker's token is given a direction, and the concept's text is the marker."""
    site, (entry,) = tiny.site_of(lm), entries("!")
    (marker,) = lm.chat.text("!")
    (direction,) = unit_vectors([1], tiny.WIDTH, seed=3)
    ids = []
    seeing = lm.embeddings.register_forward_pre_hook(lambda _m, args: ids.append(args[0]))

    def plant(hidden):
        size = 5 * hidden.norm(dim=-1).mean()
        return hidden + size * (ids[-1] == marker)[..., None] * direction

    try:
        with hooked(tiny.module_at(lm, site), plant):
            found = ActAdd().fit(lm, site, [entry]).tensors["differences"]
    finally:
        seeing.remove()
    plain = ActAdd().fit(lm, site, [entry]).tensors["differences"]
    assert F.cosine_similarity(found, direction[None]) > 0.9
    assert F.cosine_similarity(plain, direction[None]).abs() < 0.6


def test_cost_and_bad_settings(tiny_llama):
    site, known = tiny.site_of(tiny_llama, layer=1), entries("sea", "speak of owls")
    with tiny.counting_flops() as counter:
        cost = ActAdd().fit(tiny_llama, site, known).cost
    texts = [tiny_llama.chat.text(entry.concept.text) for entry in known]
    assert cost.parameters == tiny.WIDTH * sum(map(len, texts)) // 2
    assert 2 * cost.flops == pytest.approx(counter.get_total_flops(), rel=0.005)
    assert ActAdd().fit(tiny_llama, site, []).tensors["differences"].shape == (0, tiny.WIDTH)
    with pytest.raises(ConfigError, match="coefficient 0"):
        ActAdd(coefficient=0.0)
    with pytest.raises(ConfigError, match="batch_tokens 0"):
        ActAdd(batch_tokens=0)
    with pytest.raises(SteeringError, match=r"the steering text 'owl owl.*' needs"):
        ActAdd().fit(tiny_llama, Site(1), entries("owl " * 300))
