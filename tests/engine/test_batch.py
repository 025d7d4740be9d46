"""Rows come and go: whatever runs beside it, a row has the tokens that it has alone."""

import dataclasses
import random

import pytest
import torch

import hypersteer as hs
import tiny
from gating import condition_at
from hypersteer.answering import Answerer
from hypersteer.edits.sites import Site
from hypersteer.engine import running as rows_module
from hypersteer.engine.batch import Batch
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import generate_ids
from hypersteer.engine.requests import as_request
from hypersteer.lm.cache import new_cache
from hypersteer.lm.edited import edit_writers

TEXTS = ("Hi", "Tell me about your day at the sea, about the ship and the bees.", "Why?", "the day")
STEPS = tiny.WINDOW + 4


def settings_of(rows=4, steps=STEPS):
    """Rows with settings of their own."""
    kinds = [
        {},
        {"temperature": 1.3, "top_p": 0.8},
        {"repetition_penalty": 1.4},
        {"temperature": 0.7, "top_k": 5, "min_p": 0.02, "repetition_penalty": 1.2},
    ]
    return [
        Decoding(max_new_tokens=steps - row, seed=50 + row, **kinds[row % len(kinds)])
        for row in range(rows)
    ]


def edits_of(lm):
    first, second = tiny.edit_of(lm, Site(1), 1), tiny.edit_of(lm, Site(2, "mlp"), 2, "response")
    return [first, None, [second, tiny.edit_of(lm, Site(1), 3)], second]


def run_to_the_end(batch, answers):
    while batch.rows:
        for row, token in batch.step().items():
            answers.setdefault(row, []).append(token)


def alone(lm, text, edits, strength, decoding):
    writers = edit_writers(lm, [edits], [strength])
    return generate_ids(lm, [lm.chat.prompt(text)], writers, [decoding])[0]


@pytest.mark.parametrize("pause", [1, 3])
def test_rows_that_come_one_by_one_are_answered_as_alone(lm, pause):
    """Each with its own edits, strength, scope and sampling; past the sliding window."""
    lm = tiny.ending_with(lm)
    decodings, edits, strengths = settings_of(), edits_of(lm), [1.0, 1.0, -0.5, 2.0]
    batch, answers, numbers = Batch(lm), {}, []
    for row, text in enumerate(TEXTS):
        writers = edit_writers(lm, [edits[row]], [strengths[row]])
        numbers.append(batch.add([lm.chat.prompt(text)], writers, [decodings[row]]))
        for _ in range(pause):
            for number, token in batch.step().items():
                answers.setdefault(number, []).append(token)
    run_to_the_end(batch, answers)
    assert numbers == [[0], [1], [2], [3]]
    for row, text in enumerate(TEXTS):
        assert answers[row] == alone(lm, text, edits[row], strengths[row], decodings[row]), row
        assert batch.ending(row) == "length"


def test_logits_of_joined_rows_are_those_of_each_alone(lm):
    lm = tiny.ending_with(lm)
    edits = edits_of(lm)
    expected = [
        tiny.decoded(lm, [lm.chat.prompt(t)], edit_writers(lm, [e], [1.0]), steps=8).logits[:, 0]
        for t, e in zip(TEXTS, edits, strict=True)
    ]
    batch = Batch(lm)
    found = {row: [] for row in range(4)}
    with tiny.logits_seen(lm) as seen:
        for row, text in enumerate(TEXTS):
            writers = edit_writers(lm, [edits[row]], [1.0])
            batch.add([lm.chat.prompt(text)], writers, [Decoding(max_new_tokens=8)])
            seen.clear()
            batch.step()
            joined = [one for logits in seen for one in logits]
            for number, logits in enumerate(joined):
                found[number].append(logits)
        while batch.rows:
            seen.clear()
            live = batch.rows
            numbers = list(batch._running.state.numbers)
            batch.step()
            for number, logits in zip(numbers, seen[0], strict=True):
                if number in live:
                    found[number].append(logits)
    for row, logits in found.items():
        torch.testing.assert_close(torch.stack(logits), expected[row], rtol=0, atol=1e-4)


def test_dropped_rows_leave_the_others_as_they_are(lm):
    """At any time: before their prefill, in the middle, when they have ended."""
    lm = tiny.ending_with(lm)
    decodings, edits = settings_of(), edits_of(lm)
    expected = [alone(lm, TEXTS[row], edits[row], 1.0, decodings[row]) for row in range(4)]
    batch, answers = Batch(lm), {}
    prompts = [lm.chat.prompt(text) for text in TEXTS]
    batch.add(prompts[:3], edit_writers(lm, edits[:3], [1.0] * 3), decodings[:3])
    batch.drop([1])
    assert batch.rows == [0, 2]
    for step in range(4):
        for row, token in batch.step().items():
            answers.setdefault(row, []).append(token)
        if step == 1:
            batch.add(prompts[3:], edit_writers(lm, edits[3:], [1.0]), decodings[3:])
    batch.drop([0])
    assert batch.rows == [2, 3]
    run_to_the_end(batch, answers)
    assert answers[2] == expected[2]
    assert answers[3] == expected[3]
    assert answers[0] == expected[0][:4]
    assert 1 not in answers
    batch.drop([2, 3])
    assert batch.ending(2) is None
    assert batch.rows == []


def test_a_batch_that_never_empties_does_not_grow(tiny_llama, monkeypatch):
    """Padding in front of all rows is given back, so a server may run for days."""
    monkeypatch.setattr(rows_module, "CROP", 4)
    lm = tiny.ending_with(tiny_llama)
    batch, answers, lengths = Batch(lm), {}, []
    expected = alone(lm, TEXTS[0], None, 1.0, Decoding(max_new_tokens=6))
    for _ in range(40):
        batch.add([lm.chat.prompt(TEXTS[0])], [], [Decoding(max_new_tokens=6)])
        for row, token in batch.step().items():
            answers.setdefault(row, []).append(token)
        lengths.append(batch._running.state._mask.shape[1])
    run_to_the_end(batch, answers)
    assert all(own == expected for own in answers.values())
    assert max(lengths) <= len(lm.chat.prompt(TEXTS[0]).ids) + 6 + 4 + 1


@pytest.mark.parametrize("seed", range(4))
def test_any_coming_and_going(lm, seed):
    """Random arrivals and departures, checked against each row alone."""
    lm = tiny.ending_with(lm)
    chance = random.Random(seed)
    batch, answers, given = Batch(lm), {}, {}
    while len(given) < 7 or batch.rows:
        if len(given) < 7 and chance.random() < 0.5:
            count = chance.choice([1, 1, 2])
            own = [
                (
                    chance.choice(TEXTS),
                    chance.choice(edits_of(lm)),
                    chance.choice([1.0, 0.0, -1.0]),
                    settings_of(4, chance.choice([6, 12]))[chance.randrange(4)],
                )
                for _ in range(count)
            ]
            texts, edits, strengths, decodings = map(list, zip(*own, strict=True))
            prompts = [lm.chat.prompt(text) for text in texts]
            numbers = batch.add(prompts, edit_writers(lm, edits, strengths), decodings)
            given |= zip(numbers, own, strict=True)
        for row, token in batch.step().items():
            answers.setdefault(row, []).append(token)
        if batch.rows and chance.random() < 0.15:
            gone = chance.choice(batch.rows)
            batch.drop([gone])
            given[gone] = None
    for row, own in given.items():
        if own is not None:
            assert answers[row] == alone(lm, *own), (row, own)


def test_an_unsteered_row_is_the_plain_model_beside_any_row(lm):
    """Invariant 11: a steered request changes nothing of an unsteered one, bit for bit."""
    lm = tiny.ending_with(lm)
    prompt, decoding = lm.chat.prompt(TEXTS[1]), Decoding(max_new_tokens=6)
    plain = tiny.decoded(lm, [prompt, prompt])
    batch = Batch(lm)
    with tiny.logits_seen(lm) as seen:
        batch.add([prompt], [], [decoding])
        batch.add([prompt], edit_writers(lm, [edits_of(lm)[0]], [3.0]), [decoding])
        batch.step()
        first = seen[0][0]
        seen.clear()
        while batch.rows:
            batch.step()
    close = {"rtol": 0, "atol": 1e-5} if lm.name == "mixtral" else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(first, plain.logits[0, 0], rtol=0, atol=1e-5)
    for step, logits in enumerate(seen, start=1):
        torch.testing.assert_close(logits[0], plain.logits[step, 0], rtol=0, atol=1e-5)
    again = Batch(lm)
    again.add(
        [prompt, prompt], edit_writers(lm, [None, edits_of(lm)[0]], [1.0, 3.0]), [decoding] * 2
    )
    with tiny.logits_seen(lm) as seen:
        while again.rows:
            again.step()
    for step, logits in enumerate(seen):
        torch.testing.assert_close(logits[0], plain.logits[step, 0], **close)


@pytest.mark.parametrize("layer", [1, 3])
@pytest.mark.parametrize("check", ["prompt", "token", 2])
def test_rules_of_rows_that_came_at_different_times(lm, check, layer):
    lm = tiny.ending_with(lm)
    edits = {"x": tiny.edit_of(lm, Site(1), 1), "y": tiny.edit_of(lm, Site(2), 2)}
    conditions = {"a": condition_at(lm, layer, 1), "b": condition_at(lm, 0, 2)}
    rules = hs.rules(
        "if a then x; if not b then y", conditions=conditions, edits=edits, check=check
    )
    decoding = Decoding(max_new_tokens=8)

    def writers(texts):
        return Answerer(lm).writers(as_request(lm, texts, rules, 1.0))

    expected = [
        generate_ids(lm, [lm.chat.prompt(text)], writers([text]), [decoding])[0] for text in TEXTS
    ]
    batch, answers = Batch(lm), {}
    for text in TEXTS:
        batch.add([lm.chat.prompt(text)], writers([text]), [decoding])
        for row, token in batch.step().items():
            answers.setdefault(row, []).append(token)
    batch.drop([1])
    run_to_the_end(batch, answers)
    for row in (0, 2, 3):
        assert answers[row] == expected[row]


def test_several_strengths_join_rows_that_run(lm):
    case = tiny.case_of(lm.name, "cross-attention")
    lm, decoding, strengths = case.lm, Decoding(max_new_tokens=6), (0.0, 1.0, -2.0)
    prompts = [lm.chat.prompt(text) for text in TEXTS[:2]]
    apart = generate_ids(
        lm, prompts, case.writers(TEXTS[:2], [case.steer[0]] * 2), decoding, strengths
    )
    batch, answers = Batch(lm), {}
    batch.add([lm.chat.prompt(TEXTS[2])], [], [Decoding(max_new_tokens=12)])
    for row, token in batch.step().items():
        answers.setdefault(row, []).append(token)
    numbers = batch.add(
        prompts, case.writers(TEXTS[:2], [case.steer[0]] * 2), [decoding] * 6, strengths=strengths
    )
    run_to_the_end(batch, answers)
    assert [answers[number] for number in numbers] == apart
    assert answers[0] == alone(lm, TEXTS[2], None, 1.0, Decoding(max_new_tokens=12))


def test_why_rows_end(tiny_llama):
    endless = tiny.ending_with(tiny_llama)
    ids = alone(endless, "Hi", None, 1.0, Decoding(max_new_tokens=6))
    lm = tiny.ending_with(tiny_llama, ids[3])
    word = lm.chat.decode(ids[1:2])
    batch = Batch(lm)
    decodings = [Decoding(max_new_tokens=n, stop=s) for n, s in ((6, ()), (2, ()), (6, (word,)))]
    batch.add([lm.chat.prompt("Hi")] * 3, [], decodings)
    run_to_the_end(batch, answers := {})
    assert [batch.ending(row) for row in range(3)] == ["stop", "length", "stop"]
    assert [answers[row] for row in range(3)] == [ids[:3], ids[:2], ids[:2]]


def test_a_cache_whose_rows_cannot_be_joined_is_told(tiny_llama, monkeypatch):
    lm = tiny.ending_with(tiny_llama)

    def odd(model):
        cache = new_cache(model)
        for layer in cache.layers:
            layer.indexer_keys = None
        return cache

    monkeypatch.setattr(rows_module, "new_cache", odd)
    batch = Batch(lm)
    for _ in range(2):
        batch.add([lm.chat.prompt("Hi")], [], [Decoding(max_new_tokens=4)])
    with pytest.raises(hs.SteeringError, match="in a batch of their own"):
        batch.step()


def test_settings_may_be_lists_with_one_per_prompt(tiny_llama):
    lm = tiny.ending_with(tiny_llama)
    options = {
        "max_new_tokens": [4, 7, 5],
        "temperature": [0.0, 1.0, 1.5],
        "top_p": [1.0, 0.9, 0.7],
        "seed": [1, 2, 3],
        "stop": [[], ["e"], None],
    }
    together = lm.generate(list(TEXTS[:3]), **options)
    for row, text in enumerate(TEXTS[:3]):
        own = {name: values[row] for name, values in options.items()}
        assert lm.generate(text, **own) == together[row]
    for name, bad in (("temperature", [0.0]), ("stop", [[], []]), ("max_new_tokens", (1, 2))):
        with pytest.raises(hs.SteeringError, match=f"{len(bad)} values of '{name}' for 3 prompts"):
            lm.generate(list(TEXTS[:3]), **{name: bad})
    with pytest.raises(hs.SteeringError, match="top_p 7"):
        lm.generate(list(TEXTS[:2]), top_p=[0.5, 7])


class OneByOne:
    """A toy engine: no cache, no batch; every step runs each row's whole text anew."""

    def __init__(self, lm):
        self.lm, self.rows, self._held, self._ended = lm, [], {}, {}

    def add(self, prompts, writers, decodings, *, strengths=None, told=None):
        assert strengths is None
        start = len(self._held)
        for row, (prompt, decoding) in enumerate(zip(prompts, decodings, strict=True)):
            own = [dataclasses.replace(decoding, seed=0).max_new_tokens, prompt, writers, row]
            self._held[start + row] = [*own, len(prompts), []]
            self.rows.append(start + row)
        return list(range(start, start + len(prompts)))

    def step(self):
        fresh = {}
        for number in list(self.rows):
            most, prompt, writers, row, count, answer = self._held[number]
            token = self._next(prompt, writers, row, count, answer)
            if token in self.lm.chat.end_of_turn:
                self._ended[number] = "stop"
            else:
                answer.append(token)
                fresh[number] = token
                if len(answer) == most:
                    self._ended[number] = "length"
            if number in self._ended:
                self.rows.remove(number)
        return fresh

    def _next(self, prompt, writers, row, count, answer):
        from hypersteer.lm.chat import collate
        from hypersteer.lm.writers import written

        batch = collate([prompt] * count, [answer] * count, pad_id=self.lm.chat.pad_id)
        with torch.no_grad(), written(self.lm.blocks, writers, batch.spans):
            return int(self.lm.logits(batch)[row, -1].argmax())

    def drop(self, rows):
        self.rows = [row for row in self.rows if row not in rows]

    def ending(self, row):
        return self._ended.get(row)


@pytest.mark.parametrize("variant", tiny.VARIANTS)
def test_another_engine_is_one_class(variant):
    """It gives the same texts through `Steerer` and `BaseLM`, whatever steers."""
    case = tiny.case_of("llama", variant)
    steerer = case.steerer
    other = hs.Steerer(
        steerer.lm, steerer.hypernet, steerer.card, generator="test", engine=OneByOne
    )
    request = {"steer": [case.steer[0], None, [case.steer[1], tiny.edit_of(case.lm, Site(2), 4)]]}
    texts = list(TEXTS[:3])
    ours = steerer.generate(texts, max_new_tokens=5, **request)
    assert other.generate(texts, max_new_tokens=5, **request) == ours
    assert "".join(other.stream("Hi", steer=case.steer[0], max_new_tokens=5)) == ours[0]
