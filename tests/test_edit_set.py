"""Edits at several sites as one value: it acts as its edits do, and is added, scaled and kept."""

import pytest
import torch

import hypersteer as hs
import tiny
from gating import condition_at
from hypersteer.edits.edit import VectorEdit
from hypersteer.edits.edit_set import EditSet, load_edit, parts_of
from hypersteer.edits.sites import Site
from hypersteer.errors import CheckpointError, SteeringError

TEXTS = ["Hi", "Tell me about your day at the sea, about the ship and the bees.", "Why?"]
SHORT = {"max_new_tokens": 8}


@pytest.fixture
def endless(lm):
    return tiny.ending_with(lm)


def set_of(lm, *seeds, layers=(1, 2)):
    """Vectors at some sites, the sum of those of some seeds."""
    edits = []
    for layer in layers:
        one = tiny.edit_of(lm, Site(layer), seeds[0])
        for seed in seeds[1:]:
            one = one + tiny.edit_of(lm, Site(layer), seed)
        edits.append(one)
    return EditSet(edits=tuple(edits))


def test_it_acts_as_its_edits(endless):
    lm = endless
    made = set_of(lm, 1)
    expected = lm.generate(TEXTS, edit=[list(made)] * 3, strength=1.5, **SHORT)
    assert lm.generate(TEXTS, edit=made, strength=1.5, **SHORT) == expected
    assert lm.generate(TEXTS, edits=[(made, 1.5)], **SHORT) == expected
    assert "".join(lm.stream(TEXTS[0], edit=made, strength=1.5, **SHORT)) == expected[0]
    assert expected != lm.generate(TEXTS, **SHORT)
    mixed = lm.generate(TEXTS, edit=[None, made, made[0]], strength=[1.0, 1.5, 1.0], **SHORT)
    assert mixed[:2] == [lm.generate(TEXTS[0], **SHORT), expected[1]]
    assert mixed[2] == lm.generate(TEXTS[2], edit=made[0], **SHORT)


def test_it_acts_on_any_call_of_the_model(lm):
    made = set_of(lm, 1)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        with lm.edited(made, strength=0.7):
            found = lm.model(ids).logits
        with lm.edited([list(made)], strength=0.7):
            expected = lm.model(ids).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_algebra_is_that_of_its_edits_site_by_site(tiny_llama):
    lm = tiny_llama
    a, b = set_of(lm, 1), set_of(lm, 2, layers=(2, 3))
    found = 0.5 * a - b
    assert found.sites == (Site(1), Site(2), Site(3))
    torch.testing.assert_close(found[0].vector, 0.5 * a[0].vector)
    torch.testing.assert_close(found[1].vector, 0.5 * a[1].vector - b[0].vector)
    torch.testing.assert_close(found[2].vector, -b[1].vector)
    one = tiny.edit_of(lm, Site(2), 5)
    for joined in (a + one, one + a):
        torch.testing.assert_close(joined[1].vector, a[1].vector + one.vector)
    torch.testing.assert_close((one - a)[0].vector, -a[0].vector)
    torch.testing.assert_close((-a)[0].vector, -a[0].vector)
    assert (0.5 * a).steering_prompt == f"0.5 * ({a.steering_prompt})"
    with pytest.raises(TypeError):
        a + 1


@pytest.mark.parametrize("kind", ["vector", "low-rank", "gated"])
def test_what_a_hypernetwork_writes_is_kept_in_one_file(tiny_llama, tmp_path, kind):
    steerer = tiny.steerer_of(tiny.ending_with(tiny_llama), edit=kind, more_layers=(3,))
    made = steerer.edit("sing of bees", prompt="Why?")
    assert len(made) == 2
    read = load_edit(made.save(tmp_path / "bees.safetensors"))
    assert isinstance(read, hs.EditSet)
    for one, other in zip(made, read, strict=True):
        assert (one.site, one.scope, one.kind) == (other.site, other.scope, other.kind)
        assert (one.steering_prompt, one.base_lm) == (other.steering_prompt, other.base_lm)
        assert all(torch.equal(one.params[name], other.params[name]) for name in one.params)
    other = steerer.edit("speak of owls", prompt="Why?")
    joined = (0.7 * made + other).save(tmp_path / "both.safetensors")
    texts = steerer.lm.generate(TEXTS, edit=0.7 * made + other, **SHORT)
    assert steerer.lm.generate(TEXTS, edit=load_edit(joined), **SHORT) == texts


def test_rules_gate_all_of_its_sites(endless):
    lm = endless
    sea = condition_at(lm, 0, threshold=-1.0)  # fires on all
    made = set_of(lm, 1)
    for text, expected in (("if sea then x", made), ("if not sea then x", None)):
        gated = hs.rules(text, conditions={"sea": sea}, edits={"x": made})
        assert lm.generate(TEXTS, edit=gated, **SHORT) == lm.generate(TEXTS, edit=expected, **SHORT)


def test_what_is_no_set_is_told(tiny_llama, tmp_path):
    lm = tiny_llama
    one = tiny.edit_of(lm, Site(1), 1)
    for edits, told in (((), "empty"), ((one, one), "two edits"), ((one, "x"), "no edit")):
        with pytest.raises(SteeringError, match=told):
            EditSet(edits=edits)
    assert parts_of("words") == ("words",)
    wide = VectorEdit(vector=torch.ones(lm.width + 1), site=Site(2))
    with pytest.raises(SteeringError, match="width"):
        lm.generate("Hi", edit=EditSet(edits=(one, wide)), **SHORT)
    path = EditSet(edits=(one, tiny.edit_of(lm, Site(2), 1))).save(tmp_path / "x.safetensors")
    damaged = path.read_bytes().replace(b'\\"edits\\"', b'\\"edxts\\"')
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="damaged"):
        load_edit(path)


def test_what_edits_print_is_a_line_without_their_numbers(tiny_llama):
    """A set of wide low-rank edits printed twenty thousand characters."""
    one, other = (tiny.edit_of(tiny_llama, Site(layer), layer) for layer in (1, 2))
    for shown in (repr(one), repr(EditSet(edits=(one, other)))):
        assert len(shown) < 300
        assert "tensor" not in shown
        assert f"vector [{tiny_llama.width}]; residual@1, scope all" in shown
