"""Whether bfloat16 is worth it: a question to the processor, answered by what it does."""

import pytest
import torch

from hypersteer.lm import bfloat16
from hypersteer.training.devices import precision

CPU = torch.device("cpu")


@pytest.fixture
def asked(monkeypatch):
    """Ask anew, with what the processor would say and how long products would take."""

    def ask(*, instructions, seconds):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        monkeypatch.setattr(bfloat16, "_seconds", seconds)
        bfloat16.bf16_is_faster.cache_clear()
        return bfloat16.bf16_is_faster()

    yield ask
    bfloat16.bf16_is_faster.cache_clear()


def test_the_faster_one_is_taken_where_there_is_a_choice(asked):
    slow, fast = (
        lambda dtype: 2.0 if dtype == torch.bfloat16 else 1.0,
        lambda dtype: 0.5 if dtype == torch.bfloat16 else 1.0,
    )
    assert asked(instructions=True, seconds=fast)
    assert precision("auto", CPU) == "bf16"
    assert not asked(instructions=True, seconds=slow)
    assert precision("auto", CPU) == "no"
    assert precision("bf16", CPU) == "bf16"  # as told, whatever it costs


def test_what_the_processor_lacks_is_not_tried(asked):
    def tried(_dtype):
        pytest.fail("a product was made")

    assert not asked(instructions=False, seconds=tried)


def test_threads_are_left_as_they_were():
    threads = torch.get_num_threads()
    bfloat16.bf16_is_faster.cache_clear()
    bfloat16.bf16_is_faster()
    assert torch.get_num_threads() == threads


def test_products_take_time():
    assert bfloat16._seconds(torch.float32) > 0
