"""Yes-or-no questions: what counts as an answer, and that a model in this process says the same."""

import copy
import dataclasses
import math

import pytest
import torch

from endpoint.server import serving, unsure
from hypersteer.endpoint.endpoint import Endpoint
from hypersteer.endpoint.replies import Failed
from hypersteer.endpoint.settings import EndpointConfig
from hypersteer.judges.yes_no import EndpointAsker, ModelAsker, log_odds, reading


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERSTEER_CACHE", str(tmp_path / "cache"))


def question(text):
    return ({"role": "user", "content": text},)


def test_log_odds_add_up_the_ways_to_write_a_word():
    likely = {"Yes": 0.4, " yes": 0.1, "YES.": 0.1, "No": 0.2, '"no"': 0.1, "Yesterday": 0.05}
    assert log_odds(likely) == pytest.approx(math.log(0.6 / 0.3))


def test_a_word_that_is_not_among_the_likeliest_is_very_unlikely():
    assert log_odds({"Yes": 1.0}) == pytest.approx(math.log(1e6))
    assert log_odds({"No": 0.999}) == pytest.approx(math.log(1e-6 / 0.999))


@pytest.mark.parametrize("likely", [{"Sure": 0.9, "Yes": 0.004}, {}, {"Oui": 1.0}])
def test_another_answer_is_no_answer(likely):
    failed = log_odds(likely)
    assert isinstance(failed, Failed)
    assert "not with Yes or No" in failed.error


@pytest.fixture
def sure(tiny_llama, monkeypatch):
    """The tiny Llama, of which two tokens are taken for Yes and No."""
    names = {5: "Yes", 6: " no"}
    decode = tiny_llama.tokenizer.decode
    asked = []

    def decoded(ids, *rest, **options):
        return names.get(int(ids[0])) or decode(ids, *rest, **options)

    tokenizer = copy.deepcopy(tiny_llama.tokenizer)
    monkeypatch.setattr(tokenizer, "decode", decoded, raising=False)
    logits = type(tiny_llama).logits

    def counted(lm, batch, which):
        found = logits(lm, batch, which)
        asked.append(len(found))
        found = found - 20
        found[:, 5] += 21
        found[:, 6] += 21
        return found

    monkeypatch.setattr(type(tiny_llama), "logits", counted)
    return dataclasses.replace(tiny_llama, tokenizer=tokenizer), asked


def test_a_model_in_this_process_is_read_at_its_first_token(sure):
    lm, asked = sure
    texts = [question(text) for text in ("a", "bb bb", "a longer question than the others", "a")]
    told = []
    odds = ModelAsker(lm).ask(texts, told.append)
    assert sum(asked) == 3
    assert sum(told) == 4
    assert odds[0] == odds[3]
    for one, found in zip(texts, odds, strict=True):
        ids = torch.tensor([lm.chat.prompt([dict(m) for m in one]).ids])
        with torch.no_grad():
            last = lm.model(ids).logits[0, -1]
        assert found == pytest.approx(float(last[5] - last[6]), abs=1e-4)


def test_it_asks_nothing_twice_also_in_another_run(sure):
    lm, asked = sure
    first = ModelAsker(lm).ask([question("a"), question("b")])
    count = sum(asked)
    assert ModelAsker(lm).ask([question("b"), question("a"), question("c")])[:2] == first[::-1]
    assert sum(asked) == count + 1


def test_an_endpoint_is_asked_for_the_probabilities_of_one_token(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving() as server:
        server.script = lambda _asked: unsure({"Yes": 0.75, "No": 0.25})
        config = EndpointConfig(model="judge", base_url=server.url, temperature=1.0)
        asker = EndpointAsker(Endpoint(reading(config)))
        assert asker.name == "judge"
        assert asker.ask([question("a")]) == [pytest.approx(math.log(3))]
        body = server.asked[0].body
    assert (body["max_tokens"], body["temperature"], body["top_logprobs"]) == (1, 0.0, 20)
