"""Numbers of Python, numpy and torch are numbers; booleans and texts are none."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from hypersteer.values import as_real, as_whole

WHOLE = [
    3,
    np.int64(3),
    np.uint8(3),
    np.array(3),
    torch.tensor(3),
    torch.tensor(3, dtype=torch.uint8),
]
REAL = [1.5, np.float32(1.5), np.float64(1.5), np.array(1.5), torch.tensor(1.5), Fraction(3, 2)]
NONE = [
    True,
    np.bool_(True),
    torch.tensor(True),
    "3",
    None,
    [3],
    np.array([3]),
    torch.tensor([3]),
    1j,
]


@pytest.mark.parametrize("value", WHOLE, ids=repr)
def test_whole_numbers(value):
    assert as_whole(value) == 3
    assert type(as_whole(value)) is int
    assert type(as_real(value)) is float


@pytest.mark.parametrize("value", REAL, ids=repr)
def test_real_numbers(value):
    assert as_real(value) == 1.5
    assert type(as_real(value)) is float
    assert as_whole(value) is None


@pytest.mark.parametrize("value", NONE, ids=repr)
def test_what_is_no_number(value):
    assert as_whole(value) is None
    assert as_real(value) is None


def test_what_is_too_large_for_a_float_is_infinite():
    assert as_real(10**400) == math.inf
    assert as_real(-(10**400)) == -math.inf
    assert as_real(np.float16(np.inf)) == math.inf
    assert as_whole(10**400) == 10**400
