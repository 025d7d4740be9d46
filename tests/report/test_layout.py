"""Numbers as people read them."""

import math

import pytest

from hypersteer.evaluation.metrics import Interval
from hypersteer.report.layout import big_number, bounds, duration, number, plus, share


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (576, "576"),
        (9999, "9999"),
        (10_000, "10.0 k"),
        (999_999, "1.00 M"),
        (92_030_000, "92.0 M"),
        (6.6627e14, "666 T"),
        (1.5e22, "15000 E"),
    ],
)
def test_big_numbers(value, text):
    assert big_number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0214, "21.4 ms"),
        (14.23, "14.2 s"),
        (119.7, "2 min 0 s"),
        (131, "2 min 11 s"),
        (4321, "1 h 12 min"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_scores():
    assert number(0.12345) == "0.123"
    assert number(-0.5, 2) == "\u22120.50"
    assert number(1234.5, 1) == "1234"
    assert number(123_456.0) == "123 k"
    assert number(math.inf) == "\u221e"
    assert plus(0.05) == "+0.050"
    assert plus(-0.05) == "\u22120.050"
    assert share(0.625) == "62 %"
    assert bounds(Interval(1, 0.5, 1.5, 3), number) == "[0.500, 1.500]"
    assert bounds(Interval(1, math.nan, math.nan, 1), number) == ""
