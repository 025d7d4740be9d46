"""Conditions in words: the bundled ones, and files of one's own."""

import json

import pytest

from hypersteer.conditions.described import read_described
from hypersteer.errors import DataError


def test_the_bundled_ones_are_what_their_readme_says():
    found = read_described()
    assert len(found) == 4097
    kinds = [one.kind for one in found]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "topic": 2270, "answer": 431, "intent": 405, "form": 339, "safety": 284, "tone": 257,
        "language": 111,
    }  # fmt: skip
    held = [one.kind for one in found[:420] if one.held_out]
    assert {kind: held.count(kind) for kind in kinds} == {
        "topic": 32, "intent": 12, "tone": 11, "answer": 10, "safety": 8, "form": 6, "language": 5,
    }  # fmt: skip
    assert sum(one.held_out for one in found) == 87
    texts = [text for one in found for text in one.texts]
    assert len(set(texts)) == len(texts) == 68_907
    sizes = [(len(one.inside), len(one.near), len(one.off)) for one in found]
    assert sizes[:990] == [(12, 6, 6)] * 420 + [(8, 4, 4)] * 570
    assert set(sizes[990:]) == {(8, 4, 4), (8, 4, 3), (7, 4, 4), (8, 3, 4)}
    wordings = [(one.about, wording.lower()) for one in found for wording in one.wordings]
    assert len(set(wordings)) == len(wordings)


LINE = {"condition": "asks for tea", "in": ["Tea, please."], "off": ["Coffee, please."]}


def test_a_file_of_ones_own(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps(LINE) + "\n\n" + json.dumps({**LINE, "condition": "is about tea"}))
    first, second = read_described(file)
    assert first.wordings == ("asks for tea",)
    assert second.texts == ("Tea, please.", "Coffee, please.")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("nope", "line 1: Expecting value"),
        ("[1]", "line 1: "),
        (json.dumps({**LINE, "condition": " "}), "the condition ' ' is empty"),
        (json.dumps({**LINE, "off": []}), "'asks for tea' needs texts in `in` and in `off`"),
        (json.dumps({**LINE, "in": [""]}), "a text of the condition 'asks for tea' is empty"),
        (json.dumps({**LINE, "into": []}), "unknown key 'into'"),
        (json.dumps({**LINE, "about": "all"}), "about"),
        (json.dumps({"condition": "a", "in": ["x"]}), "off"),
        (json.dumps(LINE) + "\n" + json.dumps(LINE), "line 2: the condition 'asks for tea' is"),
    ],
)
def test_what_is_no_condition_is_refused(tmp_path, line, told):
    file = tmp_path / "mine.jsonl"
    file.write_text(line)
    with pytest.raises(DataError) as caught:
        read_described(file)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(DataError, match="cannot read the conditions in"):
        read_described(tmp_path / "none.jsonl")
