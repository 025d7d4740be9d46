"""Over HTTP a request has the text that `Steerer.generate` gives, whatever runs beside it."""

import json
import threading

import pytest

from hypersteer.config.serving import ServeConfig
from hypersteer.errors import ConfigError
from serving.live import STEER, TEXTS, endless, live, words

GREEDY = {"max_new_tokens": 12}


def expected(server, text, steer, strength=1.0, name="tiny", **options):
    steerer = server.served[name].steerer
    return steerer.generate(text, steer=steer, strength=strength, **{**GREEDY, **options})


def pieces_of(response):
    """The events of a stream."""
    lines = [line[6:] for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


@pytest.mark.parametrize("name", ["tiny", "reading"])
@pytest.mark.parametrize("strength", [1.0, 0.0, -0.7])
def test_a_chat_is_answered_as_generate_answers(server, name, strength):
    for text, steer in zip(TEXTS, STEER, strict=True):
        part = {"text": steer, "strength": strength}
        found = words(server.chat(messages=text, steering=part, model=name))
        assert found == expected(server, text, steer, strength, name)


def test_steering_is_seen_and_told(server):
    plain = words(server.chat(messages=TEXTS[1]))
    assert plain == expected(server, TEXTS[1], None)
    response = server.chat(messages=TEXTS[1], steering=STEER[0]).json()
    assert response["choices"][0]["message"]["content"] != plain
    (part,), (answer,) = response["steering"]["parts"], response["steering"]["answers"]
    assert part["text"] == STEER[0]
    assert part["strength"] == 1
    edit = server.served["tiny"].steerer.edit(STEER[0])
    assert answer["norm"] == pytest.approx(edit.norm, rel=1e-3)
    assert server.chat(messages=TEXTS[1]).json()["steering"] is None


def test_many_at_once_with_steering_prompts_of_their_own(server):
    """More than there are rows for, of two checkpoints of one base LM, some of them streamed."""
    asked = [
        (TEXTS[n % 4], STEER[(n // 4) % 4], 0.5 + 0.25 * (n % 3), ("tiny", "reading")[n % 2])
        for n in range(40)
    ]
    found = {}

    def ask(number):
        text, steer, strength, name = asked[number]
        part = {"text": steer, "strength": strength}
        options = {"messages": text, "steering": [part], "model": name}
        if number % 5:
            found[number] = words(server.chat(**options))
        else:
            with server.client() as client:
                events = pieces_of(server.chat(client, **options, stream=True))
            found[number] = "".join(one["choices"][0]["delta"].get("content", "") for one in events)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for number, (text, steer, strength, name) in enumerate(asked):
        assert found[number] == expected(server, text, steer, strength, name), number


def test_several_parts_act_together(server):
    parts = [STEER[0], {"text": STEER[1], "strength": -0.5}]
    found = words(server.chat(messages=TEXTS[1], steering=parts))
    steerer = server.served["tiny"].steerer
    both = [STEER[0], (STEER[1], -0.5)]
    assert found == steerer.generate([TEXTS[1]], steer=[both], **GREEDY)[0]


def test_a_scope_of_its_own(server):
    part = {"text": STEER[0], "scope": "response"}
    found = words(server.chat(messages=TEXTS[1], steering=part))
    assert found == expected(server, TEXTS[1], STEER[0], scope="response")
    refused = server.chat(messages=TEXTS[1], steering=part, model="reading")
    assert refused.status_code == 400
    assert "scope" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("name", "steer", "strength"),
    [("tiny:talk like a pirate@0.5", STEER[0], 0.5), ("tiny:the sea", STEER[1], 1.0)],
)
def test_a_model_with_a_suffix(server, name, steer, strength):
    assert words(server.chat(messages="Hi", model=name)) == expected(server, "Hi", steer, strength)


def test_answers_and_their_seeds(server):
    """Every answer has a seed of its own, and the same request gives the same answers."""
    asked = {"messages": "Hi", "n": 3, "temperature": 1.4, "seed": 7, "steering": STEER[0]}
    first, again = (server.chat(**asked).json() for _ in range(2))
    texts = [one["message"]["content"] for one in first["choices"]]
    assert texts == [one["message"]["content"] for one in again["choices"]]
    assert len(set(texts)) == 3
    assert [one["index"] for one in first["choices"]] == [0, 1, 2]
    steerer = server.served["tiny"].steerer
    assert texts == steerer.generate(
        ["Hi"] * 3, steer=STEER[0], temperature=1.4, seed=[7, 8, 9], **GREEDY
    )
    chat = server.served["tiny"].steerer.lm.chat
    assert first["usage"] == {
        "prompt_tokens": len(chat.prompt("Hi").ids),
        "completion_tokens": 36,
        "total_tokens": len(chat.prompt("Hi").ids) + 36,
    }


def test_a_stream_counts_and_ends(server):
    with server.client() as client:
        asked = {"stream": True, "stream_options": {"include_usage": True}, "n": 2}
        events = pieces_of(server.chat(client, messages="Hi", steering=STEER[0], **asked))
    assert events[-1]["usage"]["completion_tokens"] == 24
    endings = [
        (choice["index"], choice["finish_reason"], "steering" in event)
        for event in events
        for choice in event["choices"]
        if choice["finish_reason"]
    ]
    assert sorted(endings) == [(0, "length", True), (1, "length", True)]
    texts = ["", ""]
    for event in events:
        for choice in event["choices"]:
            texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == [expected(server, "Hi", STEER[0])] * 2


def test_stop_strings_end_an_answer(server):
    whole = expected(server, TEXTS[1], STEER[0])
    stop = whole[3:6]
    response = server.chat(messages=TEXTS[1], steering=STEER[0], stop=[stop, "never"]).json()
    (choice,) = response["choices"]
    assert choice["message"]["content"] == whole[: whole.index(stop)]
    assert choice["finish_reason"] == "stop"


def test_text_goes_on_without_a_template(server):
    steerer = server.served["tiny"].steerer
    body = {"model": "tiny", "prompt": ["the day", "Hi"], "temperature": 0, "max_tokens": 6}
    with server.client() as client:
        found = client.post("/v1/completions", json=body).json()
        ids = [steerer.lm.chat.lead + steerer.lm.chat.text(text) for text in body["prompt"]]
        same = client.post("/v1/completions", json={**body, "prompt": ids}).json()
        steered = client.post("/v1/completions", json={**body, "steering": STEER[0]}).json()
    texts = [one["text"] for one in found["choices"]]
    assert texts == [one["text"] for one in same["choices"]]
    assert texts != [one["text"] for one in steered["choices"]]
    import torch

    for own, text in zip(ids, texts, strict=True):
        tokens = torch.tensor([own])
        made = steerer.lm.model.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=6, do_sample=False,
            eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        assert steerer.lm.chat.decode(made[0, len(own) :].tolist()) == text


def test_logprobs_are_those_of_the_steered_model(server):
    """Against one whole pass of the Hugging Face model under the edit."""
    import torch

    response = server.chat(messages="Hi", steering=STEER[0], logprobs=True, top_logprobs=2).json()
    told = response["choices"][0]["logprobs"]["content"]
    steerer = server.served["tiny"].steerer
    lm = steerer.lm
    prompt = lm.chat.prompt("Hi").ids
    answer = []
    with lm.edited(steerer.edit(STEER[0])):
        for one in told:
            logits = lm.model(torch.tensor([prompt + answer])).logits[0, -1].log_softmax(-1)
            best, token = logits.max(-1)
            answer.append(int(token))
            assert one["logprob"] == pytest.approx(float(best), abs=1e-4)
            assert one["token"] == lm.chat.decode([int(token)])
            assert one["top_logprobs"][0]["logprob"] == pytest.approx(float(best), abs=1e-4)
            assert len(one["top_logprobs"]) == 2


def test_a_request_that_names_no_penalty_gets_the_servers(tmp_path):
    steerer = endless()
    with live({"tiny": steerer}, tmp_path, repetition_penalty=1.3) as server:
        for asked, penalty in (({}, 1.3), ({"repetition_penalty": 1.0}, 1.0)):
            found = words(server.chat(messages="Hi", steering=STEER[0], max_tokens=40, **asked))
            decoding = {"max_new_tokens": 40, "repetition_penalty": penalty}
            assert found == steerer.generate("Hi", steer=STEER[0], **decoding)
    assert ServeConfig().repetition_penalty == 1.15
    with pytest.raises(ConfigError, match="give 1 for none"):
        ServeConfig(repetition_penalty=0)
