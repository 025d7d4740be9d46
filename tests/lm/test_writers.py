"""Vectors that are made from the states they are written into, at several strengths at once."""

import torch

from hypersteer.edits.sites import Site
from hypersteer.lm.chat import Spans
from hypersteer.lm.writers import vector_writer

STRENGTHS = (1.0, 2.0, -1.0)


def spans_of(rows, tokens):
    nothing = torch.zeros(rows, tokens, dtype=torch.bool)
    return Spans(nothing, ~nothing, nothing, ~nothing)


def test_copies_that_differ_get_vectors_of_their_own():
    """As where an edit further down, at its own strength, has changed the states."""
    generator = torch.Generator().manual_seed(0)
    made = []

    def source(hidden, spans):
        made.append(len(hidden))
        return hidden.square().mean(1)

    writer = vector_writer(Site(1), source, ["all", "all"])
    copies = [torch.randn(2, 4, 3, generator=generator) for _ in STRENGTHS]
    together = writer.at(STRENGTHS).prefill(torch.cat(copies), spans_of(2, 4))
    for copy, strength, found in zip(copies, STRENGTHS, together.split(2), strict=True):
        alone = writer.at([strength]).prefill(copy, spans_of(2, 4))
        torch.testing.assert_close(found, alone)
    assert made == [2] * 6


def test_equal_copies_are_read_once():
    made = []

    def source(hidden, spans):
        made.append(len(hidden))
        return hidden.mean(1)

    hidden = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    writer = vector_writer(Site(1), source, ["all", "all"])
    shared = writer.at(STRENGTHS).prefill(hidden, spans_of(2, 4))
    repeated = writer.at(STRENGTHS).prefill(hidden.repeat(3, 1, 1), spans_of(2, 4))
    assert torch.equal(shared, repeated)
    assert made == [2, 2]
