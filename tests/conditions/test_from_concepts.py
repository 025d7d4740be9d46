"""Concept data as conditions about the answer."""

import json

import pytest
import torch

from conditions.worlds import CONFIG, described
from hypersteer.conditions.described import Described
from hypersteer.conditions.from_concepts import EACH, described_concepts
from hypersteer.conditions.lessons import Lesson
from hypersteer.conditions.teach import ASIDE, teach_head
from hypersteer.data.sources import load_concepts

NAMES = ("talk like a pirate", "count sheep", "be brief")


def rows(concept, category, *answers):
    """Rows of answers to the same requests, whatever their concept."""
    return [
        {"input": f"Request {n}", "output": answer, "output_concept": NAMES[concept],
         "concept_genre": "text", "category": category, "concept_id": concept}
        for n, answer in enumerate(answers)
    ]  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERSTEER_CACHE", str(tmp_path / "cache"))
    found = tmp_path / "data"
    found.mkdir()

    def write(lines, held_out=()):
        (found / "train_data.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
        names = [
            {"concept_id": id_, "concept": name, "held_out": id_ in held_out}
            for id_, name in enumerate(NAMES)
        ]
        (found / "metadata.jsonl").write_text("".join(json.dumps(one) + "\n" for one in names))
        return load_concepts(found)

    return write


def test_answers_of_a_concept_are_true_of_it_and_others_near_or_off(folder):
    data = folder(
        [
            *rows(0, "positive", "arr", "ahoy", " "),
            *rows(1, "positive", "one sheep", "two sheep", "three sheep", "four sheep"),
            *rows(2, "positive", "yes", "no"),
            *rows(1, "hard negative", "one goat"),
            *rows(1, "negative", "rain", "snow"),
        ]
    )
    pirate, sheep, brief = described_concepts(data)
    assert (pirate.condition, pirate.about, pirate.kind) == (NAMES[0], "answer", "concept")
    assert set(pirate.inside) == {"arr", "ahoy"}
    assert set(pirate.near) <= {"one sheep", "two sheep", "three sheep", "yes", "no"}
    assert len(pirate.near) == EACH
    assert set(pirate.off) == {"one sheep", "two sheep", "three sheep", "four sheep", "yes", "no"}.difference(pirate.near)  # fmt: skip  # noqa: E501
    assert len(sheep.inside) == EACH
    assert sheep.near[0] == "one goat"
    assert set(sheep.near[1:]) <= {"arr", "ahoy", "yes", "no"}
    assert {"rain", "snow"} <= set(sheep.off)
    assert set(brief.inside) == {"yes", "no"}
    assert described_concepts(data) == [pirate, sheep, brief]


def test_negatives_that_all_concepts_share_are_off(folder):
    pool = [{**one, "concept_id": -1} for one in rows(0, "negative", "fog", "dew", "ice", "wind")]
    found = described_concepts(
        folder([*rows(0, "positive", "arr"), *rows(1, "positive", "baa"),
                *rows(2, "positive", "yes"), *pool])
    )  # fmt: skip
    assert all(set(one.off) == {"fog", "dew", "ice", "wind"} for one in found)
    assert {found[0].near} <= {("baa", "yes"), ("yes", "baa")}


def test_held_out_concepts_teach_nothing(folder):
    lines = [
        line for id_ in range(3) for line in rows(id_, "positive", *(f"{id_} {n}" for n in "abcd"))
    ]
    found = described_concepts(folder(lines, held_out={1}))
    assert [one.condition for one in found] == [NAMES[0], NAMES[2]]
    assert described_concepts(folder(lines, held_out={0, 1, 2})) == []


def test_a_concept_is_never_put_aside():
    states = torch.randn(2, 3, 8)
    concept = Described(condition="be brief", kind="concept", inside=("a",), off=("b",))
    plain = described()[0]
    one, other = (
        Lesson(described=what, words=torch.randn(1, 1, 8), texts=states[:, : len(CONFIG.layers)])
        for what in (concept, Described(condition=plain.condition, inside=("a",), off=("b",)))
    )
    head = teach_head([one] * ASIDE, CONFIG)
    assert len(head.kept("prompt")) == 0
    head = teach_head([other] * ASIDE, CONFIG)
    assert len(head.kept("prompt")) == 2
