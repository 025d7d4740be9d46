"""The gated kind: its equation, what it is at the ends, and its algebra."""

import pytest
import torch

import tiny
from hypersteer.edits.edit import Edit
from hypersteer.edits.gated import GATED, NAMES
from hypersteer.edits.sites import Site
from hypersteer.errors import SteeringError

D, R = tiny.WIDTH, 3


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def params_of(seed=0):
    sizes = {"up": (R, D), "down": (R, D), "gate": (R, D), "bias": (R,), "gate_bias": (R,)}
    scale = {"down": D**-0.5, "gate": D**-0.5}
    return {
        name: random(*sizes[name], seed=10 * seed + i) * scale.get(name, 1.0)
        for i, name in enumerate(NAMES)
    }


def applied(params, hidden, strength):
    """One edit on every token of one row."""
    given = {name: value[None] for name, value in GATED.check(params).items()}
    mask = torch.ones(1, len(hidden), dtype=torch.bool)
    return GATED.apply(hidden[None], given, mask, torch.tensor([strength]))[0]


def test_it_is_its_equation():
    """Token by token and direction by direction."""
    p, hidden = params_of(), random(5, D, seed=99)
    for state, changed in zip(hidden, applied(p, hidden, -0.7), strict=True):
        expected = state.clone()
        for r in range(R):
            gate = 1 / (1 + torch.exp(-(p["gate"][r] @ state + p["gate_bias"][r])))
            expected += -0.7 * gate * (p["down"][r] @ state + p["bias"][r]) * p["up"][r]
        torch.testing.assert_close(changed, expected, rtol=1e-5, atol=1e-5)


def test_open_gates_and_latents_of_1_are_a_vector_and_closed_ones_nothing():
    hidden, up = random(5, D, seed=99), random(R, D)
    still = {"up": up, "down": torch.zeros(R, D), "gate": torch.zeros(R, D), "bias": torch.ones(R)}
    opened = applied({**still, "gate_bias": torch.full((R,), 40.0)}, hidden, 0.5)
    torch.testing.assert_close(opened, hidden + 0.5 * up.sum(0))
    closed = applied({**still, "gate_bias": torch.full((R,), -200.0)}, hidden, 0.5)
    assert torch.equal(closed, hidden)


def test_small_numbers_are_a_small_vector_whose_size_follows_the_states():
    """What a network writes at first is felt, to first order, whatever unit the states have."""
    small = {name: 1e-3 * value for name, value in params_of().items()}
    excess = torch.ones(D)
    excess[4] = 50.0
    moved = []
    for unit in (1.0, 7.0):
        made = GATED.in_units(small, torch.tensor(unit), excess)
        hidden = unit * excess * random(5, D, seed=99)
        moved.append((applied(made, hidden, 1.0) - hidden) / unit)
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-2, atol=1e-4)
    first = 0.5 * small["up"].sum(0)
    assert (moved[0] - first).norm() < 0.1 * (5**0.5) * first.norm()


def test_algebra():
    hidden, one, other = random(5, D, seed=99), params_of(1), params_of(2)
    a, b = (Edit(kind=GATED, params=params, site=Site(1)) for params in (one, other))
    for made, expected in (
        (0.7 * a, applied(one, hidden, 0.7)),
        (-a, applied(one, hidden, -1.0)),
        (a - b, hidden + applied(one, hidden, 1.0) - applied(other, hidden, 1.0)),
    ):
        torch.testing.assert_close(
            applied(made.params, hidden, 1.0), expected, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"gate": None}, "has the parameters up, down, gate"),
        ({"down": torch.zeros(2, D)}, r"'down' of a gated edit has shape \[2, 32\]"),
        ({"gate_bias": torch.zeros(2)}, r"'gate_bias' .* \[2\]"),
        ({"up": torch.full((R, D), torch.nan)}, "'up' of a gated edit .* NaN"),
        ({"bias": torch.zeros(R, 1)}, "'bias' .* dimensions"),
    ],
)
def test_parts_that_do_not_go_together_are_told(change, told):
    params = {name: value for name, value in (params_of() | change).items() if value is not None}
    with pytest.raises(SteeringError, match=told):
        Edit(kind=GATED, params=params, site=Site(1))
