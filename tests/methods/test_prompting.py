"""Prompts with the steering prompt in them, as it is or as an LM rewrote it."""

import dataclasses

import pytest

import tiny
from endpoint.server import refused, said, serving
from hypersteer.concepts import Concept
from hypersteer.errors import ConfigError, SteeringError
from hypersteer.learning.values import Asked, Learned
from hypersteer.lm.flops import LMFlops
from hypersteer.lm.messages import prompted
from hypersteer.methods import prompting
from hypersteer.methods.prompting import BATCH, Prompting, RewrittenPrompting, instruction_of
from hypersteer.methods.protocol import Detector
from methods.cases import Untouched, concepts_of


def asked_of(concepts):
    return [Asked(entry.concept, f"Why {number}?") for number, entry in enumerate(concepts)]


def test_prompting_puts_the_steering_prompt_into_the_user_turn(lm):
    site, concepts = tiny.site_of(lm), concepts_of(0, 0)
    method = Prompting()
    learned = method.fit(lm, site, concepts)
    assert learned == Learned()
    steering = method.steer(lm, site, learned, asked_of(concepts))
    assert steering.lm is lm
    assert steering.writers == []
    assert steering.prompts == [
        "Follow this steering prompt in your answer: speak of owl\n\nWhy 0?",
        "Follow this steering prompt in your answer: speak of fig\n\nWhy 1?",
    ]
    assert not isinstance(method, Detector)
    assert (method.learns, method.scales) == (False, False)


def test_the_base_lm_writes_greedily_once_per_concept(lm):
    """Its answers alone, one after another, are what fit keeps."""
    site, concepts = tiny.site_of(lm), concepts_of(*[0] * 3)
    method = RewrittenPrompting(max_new_tokens=5)
    with Untouched(lm):
        learned = method.fit(lm, site, concepts)
    assert list(learned.notes) == ["7", "10", "13"]
    for entry in concepts:
        requests = []

        def write(given, seen=requests):
            seen.extend(given)
            return [lm.generate(request, max_new_tokens=5) for request in given]

        alone = RewrittenPrompting(write=write).fit(lm, site, [entry])
        assert alone.notes == {str(entry.concept.id): learned.notes[str(entry.concept.id)]}
        assert entry.concept.text in requests[0]
    assert learned.cost.parameters == 0
    requests = [len(lm.chat.prompt(text).ids) for text in requests]
    assert learned.cost.flops >= LMFlops.of_lm(lm).generating(max(requests), 1) / len(concepts)


def test_another_writer_and_what_becomes_of_its_answers(tiny_llama):
    site, concepts = tiny.site_of(tiny_llama), concepts_of(0, 0, 0)
    answers = ['  "Always mention owls."\n\nI hope it helps!', " \n", "I'm sorry, but I can't."]
    method = RewrittenPrompting(write=lambda requests: answers[: len(requests)])
    learned = method.fit(tiny_llama, site, concepts)
    assert learned.notes == {
        "7": {"instruction": "Always mention owls.", "note": ""},
        "10": {"instruction": "", "note": "the answer was empty"},
        "13": {"instruction": "", "note": "a refusal: I'm sorry, but I can't."},
    }
    assert learned.cost.flops == 0
    steering = method.steer(tiny_llama, site, learned, asked_of(concepts))
    assert steering.prompts == [
        "Always mention owls.\n\nWhy 0?",
        prompted("Why 1?", "speak of fig"),
        prompted("Why 2?", "speak of jam"),
    ]


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        ("I cannot do that.", True),
        ("Sorry, no.", True),
        ("As an AI language model, I", True),
        ("I\u2019m unable to help", True),
        ("Unfortunately, this is harmful", True),
        ("Answer as if I cannot hear you.", False),
        ("Assume the role of a pirate.", False),
        ("Mention that you are sorry.", False),
    ],
)
def test_refusals(answer, refused):
    assert bool(instruction_of(answer)["note"]) == refused


def test_many_concepts_are_written_in_batches(tiny_llama):
    concepts = [
        entry._replace(concept=Concept(id=number, text=f"say {number}"))
        for number, entry in enumerate(concepts_of(*[0] * 10) * 2)
    ]
    assert len(concepts) > BATCH
    learned = RewrittenPrompting(max_new_tokens=1).fit(
        tiny_llama, tiny.site_of(tiny_llama), concepts
    )
    assert list(learned.notes) == [str(number) for number in range(20)]


def test_bad_writers_concepts_and_settings(tiny_llama):
    site, concepts = tiny.site_of(tiny_llama), concepts_of(0, 0)
    with pytest.raises(SteeringError, match="1 answers to 2 requests"):
        RewrittenPrompting(write=lambda _: ["x"]).fit(tiny_llama, site, concepts)
    with pytest.raises(ConfigError, match="max_new_tokens 0"):
        RewrittenPrompting(max_new_tokens=0)


def test_a_concept_that_fit_has_not_seen_is_written_when_asked(tiny_llama):
    site, concepts = tiny.site_of(tiny_llama), concepts_of(0, 0)
    seen = []

    def write(requests):
        seen.append(requests)
        return [f"Order {len(seen)}" for _ in requests]

    method = RewrittenPrompting(write=write)
    learned = method.fit(tiny_llama, site, concepts[:1])
    steering = method.steer(tiny_llama, site, learned, asked_of(concepts) + asked_of(concepts))
    assert steering.prompts == ["Order 1\n\nWhy 0?", "Order 2\n\nWhy 1?"] * 2
    assert [len(requests) for requests in seen] == [1, 1]


def test_a_model_behind_an_endpoint_writes(tiny_llama, tmp_path, monkeypatch):
    """One instruction fails at the server, and falls back to the plain wording."""
    monkeypatch.setenv("HYPERSTEER_CACHE", str(tmp_path))
    site, concepts = tiny.site_of(tiny_llama), concepts_of(0, 0)
    with serving() as server:
        server.script = lambda asked: (
            said("Answer as an owl.") if "owl" in asked.text else refused(400)
        )
        method = RewrittenPrompting(model="tiny", base_url=server.url)
        learned = method.fit(tiny_llama, site, concepts)
        assert [asked.body["model"] for asked in server.asked] == ["tiny"] * 2
    prompts = method.steer(tiny_llama, site, learned, asked_of(concepts)).prompts
    assert prompts[0].startswith("Answer as an owl.")
    assert prompts[1] == prompted("Why 1?", "speak of fig")


def test_thoughts_of_the_writer_are_no_instruction(tiny_llama):
    concepts = concepts_of(0, 0)
    answers = ["<think>Hm.</think>\n\nBe an owl.", "Hm.\n\nSo.\n</think>\n\nBe a fig."]
    method = RewrittenPrompting(write=lambda _: answers)
    notes = method.fit(tiny_llama, tiny.site_of(tiny_llama), concepts).notes
    assert [note["instruction"] for note in notes.values()] == ["Be an owl.", "Be a fig."]


def test_a_request_that_outgrows_the_window_is_told_before_any_is_answered(tiny_llama, monkeypatch):
    monkeypatch.setattr(type(tiny_llama), "forward", lambda *_a, **_k: pytest.fail("ran"))
    monkeypatch.setattr(prompting, "BATCH", 1)
    concepts = concepts_of(0, 0, 0)
    long = dataclasses.replace(concepts[-1].concept, text="speak of owls " * 60)
    concepts = [*concepts[:-1], concepts[-1]._replace(concept=long)]
    with pytest.raises(SteeringError, match=r"'speak of owls .*context window"):
        RewrittenPrompting().fit(tiny_llama, tiny.site_of(tiny_llama), concepts)
