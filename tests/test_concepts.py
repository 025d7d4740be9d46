import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersteer.concepts import rank_ids, validate_steering_prompt
from hypersteer.errors import SteeringError

ids_lists = st.lists(st.integers(0, 10**6), unique=True, min_size=2, max_size=30)


@given(ids_lists, st.integers(), st.data())
def test_the_seeded_order_of_ids_does_not_depend_on_which_there_are(ids, seed, draw):
    order = rank_ids(ids, seed)
    assert sorted(order) == sorted(ids)
    some = draw.draw(st.lists(st.sampled_from(ids), unique=True))
    assert rank_ids(some, seed) == [id_ for id_ in order if id_ in some]


def test_another_seed_orders_ids_otherwise():
    assert rank_ids(range(50), 0) != rank_ids(range(50), 1)


def test_a_steering_prompt_comes_back_unchanged():
    assert validate_steering_prompt(" talk like a pirate\n") == " talk like a pirate\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the steering prompt '' is empty; say what to steer towards"),
        (" \n\t", r"the steering prompt ' \n\t' is empty"),
        (None, "a steering prompt must be a string, got NoneType None"),
        (3, "a steering prompt must be a string, got int 3"),
    ],
)
def test_a_steering_prompt_that_cannot_steer(text, message):
    with pytest.raises(SteeringError, match=re.escape(message)):
        validate_steering_prompt(text)
