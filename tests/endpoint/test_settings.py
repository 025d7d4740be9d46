"""Settings out of range, and the pause that a server asks for."""

from email.utils import formatdate
from time import time

import pytest

from hypersteer.endpoint.connection import asked_wait
from hypersteer.endpoint.settings import EndpointConfig
from hypersteer.errors import ConfigError


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"model": " "}, "model is empty"),
        ({"base_url": "localhost:8000/v1"}, "does not start with http:// or https://"),
        ({"max_tokens": 0}, "max_tokens 0 is below 1"),
        ({"concurrency": 0}, "concurrency 0 is below 1"),
        ({"retries": -1}, "retries -1 is not 0 or more"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"timeout_s": 0.0}, "timeout_s 0.0"),
        ({"input_price": 1.0}, "set both or neither"),
    ],
)
def test_settings_out_of_range(setting, message):
    with pytest.raises(ConfigError) as raised:
        EndpointConfig(**setting)
    assert message in str(raised.value)


def test_cost_by_hand():
    priced = EndpointConfig(input_price=0.15, output_price=0.60)
    assert priced.cost(2_000_000, 500_000) == pytest.approx(0.30 + 0.30)
    assert EndpointConfig().cost(1, 1) is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "1"}, 1.0),
    ],
)
def test_asked_wait(headers, seconds):
    assert asked_wait(headers) == seconds


def test_asked_wait_until_a_date():
    date = formatdate(time() + 100, usegmt=True)
    assert 90 < asked_wait({"retry-after": date}) <= 101
