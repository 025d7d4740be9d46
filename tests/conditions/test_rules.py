"""Rules: what acts when several fire, what they keep, and what is refused at build time."""

import pytest
import torch

import hypersteer as hs
from hypersteer.conditions.condition import Condition
from hypersteer.edits.edit import VectorEdit
from hypersteer.edits.sites import Site
from hypersteer.errors import SteeringError

EDIT = VectorEdit(vector=torch.ones(3), site=Site(0))


def condition(name="c"):
    ones = torch.ones(1, 3)
    return Condition(
        name=name, directions=ones, means=ones, fitted=(0,), layers=(0,), threshold=0.0
    )


KNOWN = {"conditions": {"a": condition(), "b": condition()}, "edits": {"x": EDIT, "y": "be kind"}}
FIRED = {
    "a": torch.tensor([True, True, False, False]),
    "b": torch.tensor([True, False, True, False]),
}


def acting(text, **options):
    made = hs.rules(text, **KNOWN, **options)
    return {name: where.tolist() for name, where in made.acting(FIRED).items()}


def test_all_that_fire_act():
    assert acting("if a then x; if b then y") == {
        "x": [True, True, False, False],
        "y": [True, False, True, False],
    }


def test_the_first_that_fires_acts():
    assert acting("if a then x; if b then y", order="first") == {
        "x": [True, True, False, False],
        "y": [False, False, True, False],
    }
    turned = acting(["if b then y", "if a then x"], order="first")
    assert turned == {"y": [True, False, True, False], "x": [False, True, False, False]}
    assert list(turned) == ["y", "x"]


def test_an_edit_named_twice_acts_where_either_rule_fires():
    assert acting("if a then x; if b then x") == {"x": [True, True, True, False]}
    assert acting("if a and not b then x, y")["y"] == [False, True, False, False]


def test_rules_keep_what_they_name_and_their_text():
    made = hs.rules("if b then y", **KNOWN)
    assert (set(made.conditions), set(made.edits)) == ({"b"}, {"y"})
    assert made.conditions["b"] is KNOWN["conditions"]["b"]
    assert made.steering_prompt == str(made) == "if b then y"
    assert [hs.rules("if a then x", **KNOWN, check=c).every for c in ("prompt", "token", 5)] == [
        0,
        1,
        5,
    ]


@pytest.mark.parametrize(
    ("text", "changed", "told"),
    [
        ("if a and bb then x", {}, "column 10: unknown condition 'bb'; did you mean 'b'?"),
        ("if a then xx", {}, "column 11: unknown edit 'xx'"),
        ("if a then x; if c then x", {}, "rule 'if c then x', column 4: unknown condition 'c'"),
        ("if a then y", {"edits": {"y": " "}}, "edit 'y': the steering prompt"),
        ("if a then y", {"edits": {"y": 3}}, "edit 'y': a steering prompt must be"),
        ("if a then x", {"conditions": {"a": "file"}}, "condition 'a' is 'file'"),
        ("if a then x", {"edits": {"x": EDIT, "Then": EDIT}}, "'Then' cannot be the name"),
        ("if a then x", {"check": 0}, "check 0 is neither"),
        ("if a then x", {"check": "tokens"}, "check 'tokens' is neither"),
        ("if a then x", {"check": True}, "check True is neither"),
        ("if a then x", {"order": "last"}, "unknown order 'last'"),
    ],
)
def test_bad_rules_are_refused_when_built(text, changed, told):
    with pytest.raises(SteeringError) as caught:
        hs.rules(text, **{**KNOWN, **changed})
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ('if "a" then "x", "y"', 2),
        ('if "a" then "x"; if not "a" then "y"', 1),
        ('if "a" then "x"; if "b" then "y"; if "a" then "x", "z"', 3),
        ('if "a" and "b" then "x"; if "a" and not "b" then "y"; if not "a" then "z"', 1),
        ('if "a" then "x" at 0, "y" at -1', 1),
        ('if "a" then "x" at 0', 0),
        (" or ".join(f'"{n}"' for n in range(20)).join(('if "a" or ', ' then "x", "y"')), 2),
    ],
)
def test_how_many_edits_may_act_at_once(text, most):
    assert hs.rules(text).most_acting() == most
