"""Texts for conditions: what is asked of teacher and judge, what passes, and what is written."""

import json
import re

import pytest

from endpoint.server import said, serving, unsure
from hypersteer.cli.main import main
from hypersteer.conditions.described import read_described
from hypersteer.config import from_dict
from hypersteer.config.conditions import ConditionTextsConfig
from hypersteer.errors import ConfigError, DataError
from hypersteer.synthesis.condition_prompts import (
    ask_condition_texts,
    ask_holds,
    longest_request,
    read_texts,
)
from hypersteer.synthesis.condition_texts import (
    Texts,
    Wanted,
    keep_condition_texts,
    read_wanted,
)

TEA = "asks for tea"
SIDES = {"must be true": "inside", "comes close to it": "near", "something else": "off"}


class Script:
    """Writes lists whose lines say which side they are of, in part wrongly, and judges by that.

    Attributes:
        requests: how many lists were asked for, by side.
        spoiled: of which sides every text is wrong.
    """

    def __init__(self):
        self.requests = dict.fromkeys(SIDES.values(), 0)
        self.spoiled = set()

    def __call__(self, asked):
        if "Answer Yes or No." in asked.text:
            written = asked.text.split('"""')[1]
            holds = "tea please" in written
            return unsure({"Yes": 0.9, "No": 0.1} if holds else {"Yes": 0.2, "No": 0.8})
        side = next(name for mark, name in SIDES.items() if mark in asked.text)
        self.requests[side] += 1
        count = int(re.search(r"Write (\d+) different", asked.text)[1])
        told = TEA in asked.text
        lines = []
        for number in range(count):
            wrong = number % 3 == 0 or side in self.spoiled
            right = "tea please" if (side == "inside") != wrong else "coffee or water"
            tag = f"{side} {self.requests[side]} {number} {told}"
            lines.append(f"{number + 1}. {right}, {tag}")
        return said("Here are the messages:\n" + "\n".join(lines))


@pytest.fixture
def script():
    return Script()


@pytest.fixture
def run(script, tmp_path, capsys):
    """Builds from lines of conditions, against one server that teaches and judges."""
    with serving() as chat:
        chat.script = script

        def build(lines, *options):
            listed = tmp_path / "conditions.txt"
            listed.write_text("\n".join(lines), encoding="utf-8")
            out = tmp_path / "mine.jsonl"
            there = ["--teacher.base-url", chat.url, "--judge.base-url", chat.url]
            models = ["--teacher.model", "writer", "--judge.kind", "local", "--judge.model", "j"]
            argv = ["conditions", "build", str(listed), "--out", str(out), *there, *models]
            code = main([*argv, "--inside", "6", "--outside", "6", *options])
            return code, capsys.readouterr().out, out, chat

        yield build


def test_what_is_written_is_what_the_judge_agrees_to(run, script, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    code, told, out, chat = run([TEA, "", "the answer offers tea"])
    assert code == 0
    found = read_described(out)
    assert [(one.condition, one.about) for one in found] == [
        (TEA, "prompt"),
        ("offers tea", "answer"),
    ]
    for one in found:
        assert (len(one.inside), len(one.near), len(one.off)) == (6, 3, 3)
        assert all("tea please" in text for text in one.inside)
        assert not any("tea please" in text for text in (*one.near, *one.off))
        assert not any(re.match(r"\d+\.", text) for text in one.texts)
    texts = [text for one in found for text in one.texts]
    assert len(set(texts)) == len(texts)
    assert "wrote " in told
    assert "2 of 2 conditions" in told
    off = [asked.text for asked in chat.asked if "about something else" in asked.text]
    for one, text in zip(found, sorted(off, key=lambda text: "answers" in text), strict=True):
        assert f"- {one.inside[0]}\n" in text  # in whose manner they are to be
    asked = len(chat.asked)
    code, _, again, _ = run([TEA, "", "the answer offers tea"])
    assert code == 0
    assert len(chat.asked) == asked  # all replies were kept
    assert read_described(again) == found


def test_a_condition_without_enough_texts_is_left_out_and_named(run, script, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    script.spoiled = {"inside"}
    code, told, out, _ = run([TEA], "--attempts", "2")
    assert code == 0
    assert script.requests == {"inside": 2, "near": 1, "off": 1}
    assert f"left out: '{TEA}' has 0 texts inside, 3 near and 3 others" in told
    assert "0 of 1 conditions" in told
    assert out.read_text() == ""


def test_no_text_is_near_and_off_at_once(tmp_path):
    texts = Texts(inside=list("abcd"), near=list("efgh"))
    (kept,) = keep_condition_texts({Wanted(condition=TEA): texts}, tmp_path / "a.jsonl")
    assert (kept.near, kept.off) == ((), tuple("efgh"))
    assert read_described(tmp_path / "a.jsonl") == [kept]


def test_a_dry_run_asks_nothing(run):
    code, told, out, chat = run([TEA], "--dry-run")
    assert code == 0
    assert told.startswith("1 conditions with 12 texts each: 3 requests")
    assert not chat.asked
    assert not out.exists()


def test_lists_are_read_as_texts():
    text = (
        'Sure, here are the messages:\n1. "tea, now?"\n2) **Tea for two**\n- one\n\n* a b\n* a b\n'
    )
    assert read_texts(text) == ["tea, now?", "Tea for two", "a b"]
    assert read_texts("word " * 121) == []


def test_questions_hold_what_they_are_about():
    (question,) = ask_holds("Tea?", TEA, "prompt")
    assert question["content"].startswith('A user wrote:\n"""\nTea?\n"""')
    assert TEA in question["content"]
    (request,) = ask_condition_texts(TEA, "answer", "near", 3, taken=[f"t{n}" for n in range(20)])
    assert "beginnings of answers" in request["content"]
    assert "- t19\n" in request["content"]
    assert "- t1\n" not in request["content"]
    assert len(longest_request()[0]["content"]) > len(request["content"])


def test_conditions_of_a_list(tmp_path):
    listed = tmp_path / "a.jsonl"
    line = {"condition": TEA, "also": ["wants tea"], "kind": "topic", "about": "prompt"}
    listed.write_text(json.dumps(line) + "\n\n")
    (one,) = read_wanted(listed)
    assert (one.condition, one.also, one.kind) == (TEA, ("wants tea",), "topic")


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.txt", "", "holds no conditions"),
        ("a.txt", "tea\ntea\n", "line 2: the condition 'tea' is there twice"),
        ("a.jsonl", '{"condition": " "}\n', "line 1"),
        ("a.jsonl", '{"condition": "x", "abuot": "prompt"}\n', "unknown key 'abuot'"),
        ("a.jsonl", '{"condition": "x", "about": "both"}\n', "about"),
        ("a.jsonl", "[]\n", "line 1"),
        ("none.txt", None, "cannot read the conditions"),
    ],
)
def test_lists_that_cannot_be_read(tmp_path, name, text, told):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=told):
        read_wanted(tmp_path / name)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"inside": 3}, "inside 3 is below 4"),
        ({"attempts": 0}, "attempts 0"),
        ({"teacher": {"kind": "local"}}, "too small to write"),
        ({"judge": {"kind": "likelihood"}}, "tells no probability of Yes"),
    ],
)
def test_settings_that_cannot_be(settings, told):
    with pytest.raises(ConfigError, match=told):
        from_dict(ConditionTextsConfig, settings)
