"""Answers to probes under steering, against doing it by hand; resuming; and what counts."""

import dataclasses

import pyarrow.parquet as pq
import pytest

import tiny
from evaluation.test_answers import (
    CONCEPTS,
    Push,
    Retrained,
    Rewrite,
    prepared_of,
    rows_seen,
)
from evaluation.test_store import PROBED
from hypersteer.config import EvaluateConfig
from hypersteer.edits.edit import VectorEdit
from hypersteer.errors import DataError
from hypersteer.evaluation import measures
from hypersteer.evaluation.measures import Target, answer_probes, shares
from hypersteer.evaluation.probes import NEW_TOKENS, Probe
from hypersteer.evaluation.store import ResultsFolder
from hypersteer.learning.values import Asked, Learned
from hypersteer.methods.registry import Unsteered

MOST = 6
PROBES = [
    Probe(f"{kind}-{number}", kind, prompt, lambda response: "e" in response)
    for number, prompt in enumerate(("Hi", "Why is the sky blue?", "Tell me about the sea.", "Ho?"))
    for kind in ("a", "b")
]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setitem(NEW_TOKENS, "skills", MOST)


@pytest.fixture
def folder(tmp_path):
    return ResultsFolder(EvaluateConfig(out=str(tmp_path / "out")))


def towards(*strengths):
    """Concepts at these strengths, the second one held out."""
    return [
        Target("held_out" if number else "held_in", concept, strength)
        for number, (concept, strength) in enumerate(zip(CONCEPTS, strengths, strict=True))
    ]


def ask(lm, method, folder, wanted, size=72, probes=PROBES):
    told = []
    rows = answer_probes(
        prepared_of(lm, method), wanted, "skills", probes, folder, size, told.append
    )
    assert sum(told) == len(rows) == len(probes)
    return rows


def test_each_answer_is_that_of_its_concept_at_the_strength_chosen_for_it(lm, folder):
    method, wanted = Push(), towards(0.5, 2.0)
    for number, row in enumerate(ask(lm, method, folder, wanted)):
        target, probe = wanted[number % 2], PROBES[number]
        edit = VectorEdit(vector=method.vector(target.concept), site=tiny.site_of(lm))
        expected = lm.generate(
            probe.prompt, edit=edit, strength=target.strength, max_new_tokens=MOST
        )
        assert row.response == expected
        assert (row.probe_id, row.kind, row.prompt) == (probe.id, probe.kind, probe.prompt)
        assert (row.held, row.concept_id, row.strength) == (
            target.held,
            target.concept.id,
            target.strength,
        )
        assert row.counted == ("e" in row.response)
        assert row.given == ""


def test_a_method_may_put_the_concept_into_the_prompt(tiny_llama, folder):
    for row in ask(tiny_llama, Rewrite(), folder, towards(None, None)):
        assert row.given == f"{row.concept}: {row.prompt}"
        assert row.response == tiny_llama.generate(row.given, max_new_tokens=MOST)


def test_models_of_their_own_answer_their_concepts_probes(tiny_llama, folder):
    made = []

    class Counted(Retrained):
        def steer(self, lm, site, learned, asked):
            made.append({one.concept.id for one in asked})
            return super().steer(lm, site, learned, asked)

    rows = ask(tiny_llama, Counted(), folder, towards(None, None), size=2)
    assert made == [{0}, {1}]  # four probes of each, two at a time, by one model
    for row in rows:
        asked = [Asked(CONCEPTS[row.concept_id], row.prompt)]
        other = Retrained().steer(tiny_llama, tiny.site_of(tiny_llama), Learned(), asked).lm
        assert row.response == other.generate(row.prompt, max_new_tokens=MOST)


@pytest.mark.parametrize("method", [Push, Rewrite, Retrained])
def test_a_batch_holds_no_more_answers_than_asked_for(tiny_llama, tmp_path, method):
    strengths = (0.5, 2.0) if method.scales else (None, None)

    def rows_of(size):
        folder = ResultsFolder(EvaluateConfig(out=str(tmp_path / str(size))))
        return ask(tiny_llama, method(), folder, towards(*strengths), size)

    whole = rows_of(1000)
    for size in (1, 3):
        with rows_seen(tiny_llama) as seen:
            assert rows_of(size) == whole
        assert max(seen, default=0) <= size


def test_what_is_kept_is_not_asked_again(tiny_llama, folder, monkeypatch):
    """Cut off between batches, gone on with; then strengths change, and a part is asked anew."""
    generate, asked = measures.generate_ids, []

    def cut_off(lm, prompts, *rest):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(len(prompts))
        return generate(lm, prompts, *rest)

    monkeypatch.setattr(measures, "generate_ids", cut_off)
    with pytest.raises(KeyboardInterrupt):
        ask(tiny_llama, Push(), folder, towards(0.5, 2.0), size=2)
    assert sum(asked) == len(folder.probed("skills", "name")) == 4
    asked.append(0)  # from here on nothing is cut off
    rows = ask(tiny_llama, Push(), folder, towards(0.5, 2.0), size=2)
    assert sum(asked) == len(PROBES)
    assert folder.probed("skills", "name") == rows

    before = sum(asked)
    assert ask(tiny_llama, Push(), folder, towards(0.5, 2.0)) == rows
    assert sum(asked) == before

    changed = ask(tiny_llama, Push(), folder, towards(0.5, -1.0))
    assert sum(asked) == before + len(PROBES) // 2
    assert changed[::2] == rows[::2]
    assert [row.strength for row in changed[1::2]] == [-1.0] * 4
    file = pq.read_table(folder.path / "skills" / "name.parquet")
    assert len(file) == len(PROBES)


def test_another_prompt_under_the_same_name_is_asked_anew(tiny_llama, folder):
    ask(tiny_llama, Unsteered(), folder, towards(None, None))
    other = [dataclasses.replace(probe, prompt=f"{probe.prompt} Now?") for probe in PROBES]
    rows = ask(tiny_llama, Unsteered(), folder, towards(None, None), probes=other)
    assert [row.prompt for row in rows] == [probe.prompt for probe in other]


def test_what_was_kept_is_counted_as_this_version_counts(tiny_llama, folder, monkeypatch):
    before = ask(tiny_llama, Unsteered(), folder, towards(None, None))
    monkeypatch.setattr(measures, "generate_ids", lambda *_a: pytest.fail("answered again"))
    others = [dataclasses.replace(probe, counts=lambda response: True) for probe in PROBES]
    rows = ask(tiny_llama, Unsteered(), folder, towards(None, None), probes=others)
    assert [row.response for row in rows] == [row.response for row in before]
    assert all(row.counted for row in rows)
    assert not all(row.counted for row in before)
    assert folder.probed("skills", "name") == rows


def rows_of(method, *counted, kinds="ab"):
    return [
        dataclasses.replace(PROBED, method=method, kind=kinds[i % len(kinds)], counted=bool(value))
        for i, value in enumerate(counted)
    ]


def test_shares_are_of_all_and_by_kind_and_kept_is_over_the_unsteered_ones():
    found = shares(
        {
            "unsteered": rows_of("unsteered", 1, 1, 1, 0, 1, 0),
            "half": rows_of("half", 1, 0, 0, 0, 1, 0),
            "same": rows_of("same", 1, 1, 1, 0, 1, 0),
            "better": rows_of("better", 1, 1, 1, 1, 1, 1),
        }
    )
    plain = found["unsteered"]
    assert plain.kept is None
    assert plain.share.mean == pytest.approx(4 / 6)
    assert {kind: values.mean for kind, values in plain.kinds.items()} == {
        "a": 1.0,
        "b": pytest.approx(1 / 3),
    }
    assert found["half"].kept.mean == pytest.approx(0.5)
    assert found["same"].kept[:3] == (1.0, 1.0, 1.0)  # in pairs, so nothing varies
    assert found["better"].kept.mean == pytest.approx(1.5)
    assert found["better"].described()["kept"]["count"] == 6


def test_without_anything_to_keep_there_is_no_skill_kept():
    found = shares({"unsteered": rows_of("unsteered", 0, 0), "m": rows_of("m", 1, 0)})
    assert found["m"].kept is None
    assert found["m"].described()["kept"] is None
    assert shares({"m": rows_of("m", 1)})["m"].kept is None
    with pytest.raises(DataError, match="2 and 1 values are not of the same items"):
        shares({"unsteered": rows_of("unsteered", 1), "m": rows_of("m", 1, 0)})
