"""The grammar: truth tables against Python's own, and errors that point to the place."""

import itertools
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hypersteer.conditions.grammar import parse_rules
from hypersteer.errors import SteeringError

NAMES = ("a", "b", "c")
TABLE = list(itertools.product([False, True], repeat=len(NAMES)))
COLUMNS = {name: torch.tensor([row[n] for row in TABLE]) for n, name in enumerate(NAMES)}


def value(expression):
    (rule,) = parse_rules(f"if {expression} then x")
    return rule.expression.value(COLUMNS).tolist()


def by_python(expression):
    return [eval(expression, {}, dict(zip(NAMES, row, strict=True))) for row in TABLE]


expressions = st.recursive(
    st.sampled_from(NAMES),
    lambda inner: st.one_of(
        inner.map("not {}".format),
        inner.map("({})".format),
        st.tuples(inner, inner).map(" and ".join),
        st.tuples(inner, inner).map(" or ".join),
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=150)
@given(expressions)
def test_expressions_mean_what_they_mean_in_python(expression):
    """One that is true of nothing is no rule that a person meant."""
    expected = by_python(expression)
    if any(expected):
        assert value(expression) == expected
        return
    with pytest.raises(SteeringError, match="column 4: this contradicts itself"):
        value(expression)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a or b and c", "a or (b and c)"),
        ("not a and b", "(not a) and b"),
        ("not a or b", "(not a) or b"),
        ("NOT a OR(b)", "not a or b"),
    ],
)
def test_precedence(one, other):
    assert value(one) == value(other)
    assert value("a or b and c") != value("(a or b) and c")
    assert value("not a and b") != value("not (a and b)")


def test_several_rules_and_edits():
    rules = parse_rules("if a then x, y;\n\n if not b-2 then z and _w ;")
    assert [rule.text for rule in rules] == ["if a then x, y", "if not b-2 then z and _w"]
    assert [[edit.name for edit in rule.edits] for rule in rules] == [["x", "y"], ["z", "_w"]]
    mentions = [mention for rule in rules for mention in rule.conditions]
    assert [(mention.name, mention.column) for mention in mentions] == [("a", 4), ("b-2", 8)]


def test_texts_and_strengths():
    first, second, third = parse_rules(
        'if "asks; about if" and not \u201cis a joke\u201d then "refer to a doctor" at 0.8, '
        'x AT -2; if at then at; if not "is a joke" Above 0.2 or above then y'
    )
    assert [tuple(one) for one in first.conditions] == [
        ("asks; about if", 4, True, 1.0, 0.5),
        ("is a joke", 29, True, 1.0, 0.5),
    ]
    assert [tuple(one) for one in first.edits] == [
        ("refer to a doctor", 46, True, 0.8, 0.5),
        ("x", 74, False, -2.0, 0.5),
    ]
    assert [(one.name, one.above) for one in third.conditions] == [
        ("is a joke", 0.2),
        ("above", 0.5),
    ]
    fired = {"asks; about if": torch.tensor([True, True]), "is a joke": torch.tensor([True, False])}
    assert first.expression.value(fired).tolist() == [False, True]
    assert second.conditions[0].name == second.edits[0].name == "at"


@pytest.mark.parametrize(
    ("text", "column", "told"),
    [
        ("a then x", 1, "a rule starts with 'if', but there is 'a'"),
        ("if then x", 4, "quotation marks, 'not' or '(', but there is 'then'"),
        ("if a x", 6, "expected 'then', 'and' or 'or', but there is 'x'"),
        ("if a", 5, "expected 'then', 'and' or 'or', but the rule ends"),
        (
            "if a then",
            10,
            "an edit or a steering prompt in quotation marks, but the rule ends",
        ),
        ("if a then x y", 13, "expected ',', 'at' or the end of the rule, but there is 'y'"),
        (
            "if a then x,",
            13,
            "an edit or a steering prompt in quotation marks, but the rule ends",
        ),
        (
            "if a then not x",
            11,
            "an edit or a steering prompt in quotation marks, but there is 'not'",
        ),
        ("if (a or b then x", 12, "expected ')' for the bracket of column 4"),
        ("if a) then x", 5, "expected 'then', 'and' or 'or', but there is ')'"),
        ("if a and then x", 10, "expected the name of a condition"),
        ("if a or or b then x", 9, "expected the name of a condition"),
        ("if a & b then x", 6, "but there is '&'"),
        ("if 2a then x", 4, "but there is '2'"),
        ("if () then x", 5, "but there is ')'"),
        ("if a then x; if b, c then y", 5, "rule 'if b, c then y', column 5"),
        ('if "a then x', 4, "this quotation mark has no other to close it"),
        ('if "a" then "x; if b then y', 13, "this quotation mark has no other"),
        ('if " " then x', 4, "expected the name of a condition, one in quotation marks"),
        ("if a then x at", 15, "expected a strength, such as 0.8, but the rule ends"),
        ("if a then x at much", 16, "expected a strength, such as 0.8, but there is 'much'"),
        ('if "a" above then x', 14, "a probability between 0 and 1, such as 0.2, but there is"),
        ('if "a" above 1 then x', 14, "expected a probability between 0 and 1"),
        ('if "a" above -0.1 then x', 14, "expected a probability between 0 and 1"),
        ('if "a" above', 13, "such as 0.2, but the rule ends"),
        ("if a above 0.2 then x", 6, "a condition given by name has its own threshold"),
        ("if a and not a then x", 4, "this contradicts itself and can never fire"),
        ("if " + "(" * 60 + "a" + ")" * 60 + " then x", 54, "more than 50 brackets"),
        ("if " + "not " * 60 + "a then x", 204, "more than 50 brackets"),
    ],
)
def test_errors_point_to_the_place(text, column, told):
    with pytest.raises(SteeringError, match=re.escape(told)) as caught:
        parse_rules(text)
    assert f"column {column}:" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", " ; \n"])
def test_no_rule(text):
    with pytest.raises(SteeringError, match="there is no rule"):
        parse_rules(text)
