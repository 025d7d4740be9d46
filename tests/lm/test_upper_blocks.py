"""Whether the lower blocks can be left out is found out once, whatever else runs meanwhile."""

import pytest
import torch

import tiny
from hypersteer.edits.sites import Site
from hypersteer.errors import SteeringError
from hypersteer.lm.base import BaseLM
from hypersteer.lm.upper_blocks import TRIALS, upper_blocks


@pytest.fixture
def fresh():
    """A base LM that nobody has tried before."""
    return BaseLM.of(tiny.model_of("llama"), tiny.tokenizer(), name="llama")


def test_what_stood_in_the_way_once_is_not_held_against_the_model(fresh):
    """As little memory does, or edits for three rows where the trial has two."""
    passes = []

    def full(*_args):
        passes.append(1)
        if len(passes) == 2:  # the upper blocks alone
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = fresh.blocks[3].register_forward_hook(full)
    assert upper_blocks(fresh, 2) is None
    handle.remove()
    assert upper_blocks(fresh, 2) is not None
    edit = tiny.edit_of(fresh, Site(1))
    with fresh.edited([edit] * 3), pytest.raises(SteeringError, match="called with 2 rows"):
        upper_blocks(fresh, 1)
    assert upper_blocks(fresh, 1) is not None


def test_a_model_that_fails_is_not_tried_for_ever(fresh):
    passes = []

    def broken(*_args):
        passes.append(1)
        if len(passes) % 2 == 0:
            raise RuntimeError("of this kind")

    handle = fresh.blocks[3].register_forward_hook(broken)
    for _ in range(5):
        assert upper_blocks(fresh, 2) is None
    handle.remove()
    assert upper_blocks(fresh, 2) is None
    assert len(passes) == 2 * TRIALS
