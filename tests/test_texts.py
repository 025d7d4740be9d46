"""Texts as they come from outside: whole Unicode, lines, JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersteer.concepts import validate_steering_prompt
from hypersteer.errors import SteeringError
from hypersteer.values import check_text, json_of, lines_of

ODD = "a\u2028b\x0cc\x85d\x1ce\rf"
"""What `str.splitlines` would cut in six."""


@pytest.mark.parametrize("text", ["\ud800", "talk like \udcff", "a\udfffb"])
def test_half_characters_are_refused_and_named(text):
    with pytest.raises(SteeringError, match=r"the prompt .* is not valid Unicode: character \d+"):
        check_text(text, "the prompt")
    with pytest.raises(SteeringError, match="not valid Unicode"):
        validate_steering_prompt(text)


@pytest.mark.parametrize("text", ["", "naïve 🏴‍☠️", "\ufeff", "\0", ODD])
def test_whole_characters_are_given_back(text):
    assert check_text(text, "the prompt") is text


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("a", ["a"]),
        ("a\n", ["a"]),
        ("a\n\n", ["a", ""]),
        ("a\r\nb\r\n", ["a", "b"]),
        (f"{ODD}\n{ODD}", [ODD, ODD]),
        ("\n", [""]),
    ],
)
def test_lines_end_at_line_feeds_only(text, lines):
    assert lines_of(text) == lines


@given(st.text())
def test_the_messages_of_errors_are_one_line_that_prints(text):
    message = str(SteeringError(text))
    assert message.isprintable()
    assert len(message.splitlines()) <= 1


@given(st.recursive(st.none() | st.integers() | st.text(), st.lists))
def test_json_is_read(value):
    assert json_of(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "Expecting property name"),
        ('"\\ud800"', "half a character"),
        ('{"\\udfff": 1}', "half a character"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "digits"),
    ],
)
def test_what_is_no_json_is_a_value_error(text, told):
    with pytest.raises(ValueError, match=told):
        json_of(text)


def test_a_pair_of_surrogates_in_json_is_one_character():
    assert json_of('"\\ud83c\\udff4"') == "🏴"
