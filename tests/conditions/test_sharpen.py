"""A few examples beside the words of a condition."""

import pytest
import torch
from torch.nn import functional as F

import hypersteer as hs
from conditions.worlds import ANSWER, SEA
from gating import states_by_hand
from hypersteer.conditions.sharpen import SHIFT, TURN
from hypersteer.errors import SteeringError

EXAMPLES = {"inside": ["Tell me about the sea.", "Is a ship fast?"], "outside": ["Work out 7 + 5."]}


def objective(made, examples):
    """What sharpening minimises, at a condition, worked out apart; and what it was written as."""
    states = torch.stack([made[text] for text in (*examples["inside"], *examples["outside"])])
    labels = torch.tensor([1.0] * len(examples["inside"]) + [-1.0] * len(examples["outside"]))

    def at(moved, shift, written):
        directions = written.directions.double() + moved
        directions = directions / directions.norm(dim=-1, keepdim=True)
        cosines = F.cosine_similarity(states, directions, dim=-1).mean(-1)
        slope, offset = written.calibration
        fits = F.softplus(-labels * (slope * cosines + offset + shift)).sum()
        return float(fits + (moved**2).sum() / (2 * TURN**2) + shift**2 / (2 * SHIFT**2))

    return at


def test_examples_move_a_condition_to_the_most_probable_one(lm, taught):
    written = hs.condition(SEA, lm=lm, head=taught)
    sharp = hs.condition(SEA, lm=lm, head=taught, **EXAMPLES)
    assert "and 3 examples" in sharp.note
    means, scales = written.means.double(), written.scales.double()
    states = {}
    for text in (*EXAMPLES["inside"], *EXAMPLES["outside"]):
        prompt = lm.chat.prompt(text)
        pooled = [
            states_by_hand(lm, prompt.ids, layer)[prompt.prefix :].mean(0)
            for layer in written.layers
        ]
        states[text] = (torch.stack(pooled).double() - means) / scales
    at = objective(states, EXAMPLES)
    # Of a sum of squares the nearest point on the ray through a direction is the one that counts.
    cosines = (written.directions * sharp.directions).sum(-1, keepdim=True).double()
    moved = sharp.directions.double() * cosines - written.directions.double()
    shift = sharp.calibration[1] - written.calibration[1]
    lowest = at(moved, shift, written)
    assert lowest < at(torch.zeros_like(moved), 0.0, written) - 1e-5
    generator = torch.Generator().manual_seed(0)
    for size in (1e-3, 1e-2, 0.1):
        for _ in range(20):
            other = moved + size * torch.randn(moved.shape, generator=generator).double()
            nudge = size * float(torch.randn(1, generator=generator))
            assert at(other, shift + nudge, written) > lowest - 1e-5
    assert hs.condition(SEA, lm=lm, head=taught, **EXAMPLES) is sharp
    assert hs.condition(SEA, lm=lm, head=taught) is written


def test_answers_are_examples_with_or_without_their_prompts(lm, taught):
    bare = hs.condition(ANSWER, lm=lm, head=taught, inside=["1024 / 16 = 64"])
    asked = hs.condition(ANSWER, lm=lm, head=taught, inside=[("Go on.", "1024 / 16 = 64")])
    assert torch.equal(bare.directions, asked.directions)
    other = hs.condition(ANSWER, lm=lm, head=taught, inside=[("Why?", "1024 / 16 = 64")])
    assert not torch.equal(bare.directions, other.directions)


@pytest.mark.parametrize(
    ("examples", "told"),
    [
        ({"inside": "one text"}, "inside is one text"),
        ({"inside": ["a"], "outside": ["b", "a"]}, "'a' is inside and outside"),
        ({"outside": [str(n) for n in range(33)]}, "33 examples are more than the 32"),
        ({"inside": [["a", "b"]]}, "is a prompt or a pair"),
        ({"inside": [3]}, "is a prompt or a pair"),
        ({"inside": [""]}, "empty"),
    ],
)
def test_examples_that_cannot_be(lm, taught, examples, told):
    with pytest.raises(SteeringError, match=told):
        hs.condition(SEA, lm=lm, head=taught, **examples)
