"""The low-rank kind: its equation, and that LoReFT and clamped SAE features are edits of it."""

import pytest
import torch
from torch.nn import functional as F

import hypersteer as hs
import tiny
from hypersteer.edits.edit import Edit
from hypersteer.edits.low_rank import LOW_RANK, clamped_feature, loreft
from hypersteer.edits.sites import Site
from hypersteer.errors import SteeringError
from hypersteer.learning.dictionaries import Dictionary
from hypersteer.lm.edited import edit_writers
from hypersteer.methods.loreft import Subspaces, shift

D, R = tiny.WIDTH, 3


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def edit_of(params, **about):
    return Edit(kind=LOW_RANK, params=params, site=Site(1), **about)


def applied(params, hidden, strength):
    """One edit on every token of one row."""
    given = {name: value[None] for name, value in LOW_RANK.check(params).items()}
    mask = torch.ones(1, len(hidden), dtype=torch.bool)
    return LOW_RANK.apply(hidden[None], given, mask, torch.tensor([strength]))[0]


def test_it_is_its_equation():
    """Token by token and direction by direction."""
    up, down, bias = random(R, D), random(R, D, seed=1) / D**0.5, random(R, seed=2)
    hidden = random(5, D, seed=3)
    found = applied({"up": up, "down": down, "bias": bias}, hidden, -0.7)
    for state, changed in zip(hidden, found, strict=True):
        expected = state.clone()
        for r in range(R):
            expected += -0.7 * (down[r] @ state + bias[r]) * up[r]
        torch.testing.assert_close(changed, expected, rtol=1e-5, atol=1e-5)


def test_loreft_is_an_edit():
    rotation = torch.linalg.qr(random(D, R))[0].T
    source, bias = random(R, D, seed=1), random(R, seed=2)
    hidden = random(5, D, seed=3)
    found = applied(loreft(rotation, source, bias), hidden, 1.3)
    own = Subspaces(rotation[None], source[None], bias[None])
    torch.testing.assert_close(found, hidden + 1.3 * shift(hidden[None], own)[0])
    exact = hidden + (hidden @ source.T + bias - hidden @ rotation.T) @ rotation
    torch.testing.assert_close(applied(loreft(rotation, source, bias), hidden, 1.0), exact)


@pytest.mark.parametrize("raise_only", [False, True])
@pytest.mark.parametrize("strength", [-1.0, 0.0, 0.5, 2.0])
def test_a_clamped_feature_is_an_edit(strength, raise_only):
    """Against a whole dictionary that is encoded, changed in one latent, and decoded again."""
    features = 7
    dictionary = Dictionary(
        encoder=random(features, D) / D**0.5,
        bias=0.1 * random(features, seed=1),
        threshold=torch.full((features,), 0.2),
        decoder=F.normalize(random(features, D, seed=2), dim=-1),
        offset=torch.zeros(D),
    )
    hidden, own, activation = 2 * random(9, D, seed=3), 4, 1.5
    latents = dictionary.latents(hidden)
    changed = latents.clone()
    target = torch.full_like(changed[:, own], strength * activation)
    changed[:, own] = target.maximum(latents[:, own]) if raise_only else target
    error = hidden - latents @ dictionary.decoder
    expected = changed @ dictionary.decoder + error if strength else hidden
    params = clamped_feature(
        dictionary.encoder[own],
        dictionary.bias[own],
        dictionary.threshold[own],
        dictionary.decoder[own],
        torch.tensor(activation),
        raise_only=raise_only,
    )
    found = applied(params, hidden, strength)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert latents[:, own].min() == 0 < latents[:, own].max()


def test_algebra():
    hidden = random(5, D, seed=3)
    plain = {"up": random(R, D), "down": random(R, D, seed=1) / D**0.5}
    feature = clamped_feature(
        random(D, seed=4),
        torch.tensor(0.1),
        torch.tensor(0.0),
        random(D, seed=5),
        torch.tensor(2.0),
    )
    one, other = edit_of(plain), edit_of({**plain, "bias": random(R, seed=2)})
    for made, expected in (
        (0.7 * one, applied(plain, hidden, 0.7)),
        (-one, applied(plain, hidden, -1.0)),
        (one - other, hidden + applied(plain, hidden, 1.0) - applied(other.params, hidden, 1.0)),
        (2 * edit_of(feature), applied(feature, hidden, 2.0)),
    ):
        torch.testing.assert_close(
            applied(made.params, hidden, 1.0), expected, rtol=1e-4, atol=1e-4
        )
    with pytest.raises(SteeringError, match="cannot be multiplied by -1"):
        _ = -edit_of(feature)
    vector = hs.VectorEdit(vector=random(D), site=Site(1))
    with pytest.raises(SteeringError, match="different kinds cannot be combined: low-rank and vec"):
        _ = one + vector
    with pytest.raises(AttributeError, match="of the kind 'low-rank' has no vector"):
        _ = one.vector
    assert not hasattr(one, "vector")


def test_parts_that_do_not_go_together_are_told():
    up, never = random(R, D), torch.full((R,), torch.inf)
    for bad, told in (
        ({"up": up}, "has the parameters up, down"),
        ({"up": up, "down": up[:2]}, r"'down' of a low-rank edit has shape \[2, 32\]"),
        ({"up": up, "down": up, "bias": torch.zeros(2)}, r"'bias' .* \[2\]"),
        (
            {"up": up, "down": up, "threshold": never},
            "'threshold' .* infinite",
        ),
        ({"up": up[0], "down": up}, "'up' .* dimensions"),
    ):
        with pytest.raises(SteeringError, match=told):
            edit_of(bad)


def test_it_acts_in_a_batch_beside_vectors(tiny_llama):
    lm = tiny.ending_with(tiny_llama)
    rotation = torch.linalg.qr(random(D, R))[0].T
    edit = edit_of(loreft(rotation, random(R, D, seed=1), random(R, seed=2)), scope="prompt")
    prompts = [lm.chat.prompt(text) for text in ("Hi", "Why is the sea blue?")]
    writers = edit_writers(lm, [[edit], [tiny.edit_of(lm, Site(1))]], [1.0, 1.0])
    assert len(writers) == 2
    both = tiny.decoded(lm, prompts, writers)
    for row, own in enumerate((edit, tiny.edit_of(lm, Site(1)))):
        alone = tiny.decoded(lm, prompts[row : row + 1], edit_writers(lm, [own], [1.0]))
        torch.testing.assert_close(both.logits[:, row], alone.logits[:, 0], rtol=0, atol=1e-4)
