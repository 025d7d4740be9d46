"""A base LM is known by its weights: copies in other formats pass, changed models do not."""

import copy
import logging
from dataclasses import replace

import pytest
import torch

import tiny
from hypersteer.edits.edit_set import load_edit
from hypersteer.errors import CheckpointError
from hypersteer.identity import Identity, in_short, of_type, same_base_lm
from hypersteer.lm.base import BaseLM

FAMILIES = ("llama", "gpt2", "mixtral", "bloom")


def changed(family, change):
    """The family's base LM with every weight replaced by what `change` makes of it."""
    model = copy.deepcopy(tiny.model_of(family))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(change(name, parameter))
    return BaseLM.of(model, tiny.tokenizer(), name="changed")


def rounded(bits, group=None):
    """Matrices on steps: symmetric for 8 bits, between least and largest for fewer."""

    def change(_name, weight):
        if weight.ndim < 2 or (group and weight.shape[-1] % group):
            return weight
        parts = weight.unflatten(-1, (-1, group)) if group else weight[..., None, :]
        if bits == 8:
            step = parts.abs().amax(-1, keepdim=True) / 127
            return ((parts / step).round() * step).view_as(weight)
        low, high = parts.amin(-1, keepdim=True), parts.amax(-1, keepdim=True)
        step = (high - low) / (2**bits - 1)
        return (((parts - low) / step).round() * step + low).view_as(weight)

    return change


def merged(size, *, only=""):
    """A low-rank update of every block's matrices, of this size relative to the weights."""

    def change(name, weight):
        if weight.ndim != 2 or "embed" in name or only not in name:
            return weight
        generator = torch.Generator().manual_seed(len(name))
        left, right = (torch.randn(side, 4, generator=generator) for side in weight.shape)
        update = left @ right.T
        return weight + size * weight.norm() / update.norm() * update

    return change


COPIES = {
    "bfloat16": lambda _n, weight: weight.bfloat16().float(),
    "float16": lambda _n, weight: weight.half().float(),
    "8 bits by row": rounded(8),
    "8 bits by 16": rounded(8, 16),
    "4 bits by row": rounded(4),
    "4 bits by 16": rounded(4, 16),
}


def test_a_reader_is_told_it_in_short():
    own = tiny.lm_of("llama").identity
    assert in_short(str(own)) == f"{own.architecture} ({own.label})"
    assert in_short(of_type("llama")) == "llama"
    assert in_short("0123abcd") == "0123abcd"
    assert in_short("") == "unknown"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_in_another_format_is_the_same_base_lm(family, kind):
    lm, other = tiny.lm_of(family), changed(family, COPIES[kind])
    assert lm.identity.difference(other.identity) == ""
    assert other.identity.difference(lm.identity) == ""
    assert same_base_lm(str(lm.identity), str(other.identity))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_so_is_the_model_itself_in_another_dtype(dtype):
    model = copy.deepcopy(tiny.model_of("llama")).to(dtype)
    half = BaseLM.of(model, tiny.tokenizer())
    assert tiny.lm_of("llama").identity.difference(half.identity) == ""


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
@pytest.mark.parametrize("size", [0.03, 0.3])
def test_a_merged_update_makes_another_base_lm(family, size):
    """One that leaves the embeddings alone, all that the fingerprint of old looked at."""
    lm, tuned = tiny.lm_of(family), changed(family, merged(size))
    told = lm.identity.difference(tuned.identity)
    assert "weights differ by" in told
    assert not same_base_lm(str(lm.identity), str(tuned.identity))


def test_so_does_an_update_of_a_single_block():
    lm, tuned = tiny.lm_of("llama"), changed("llama", merged(0.1, only="layers.2."))
    assert tuned.fingerprint == lm.fingerprint
    assert "weights differ by" in lm.identity.difference(tuned.identity)


def test_an_update_after_rounding_to_4_bits_is_no_rounding():
    few_bits = rounded(4, 16)
    update = merged(0.03)
    lm = changed("llama", few_bits)
    tuned = changed("llama", lambda name, weight: update(name, few_bits(name, weight)))
    assert lm.identity.rounding > 0.05
    assert "weights differ by" in lm.identity.difference(tuned.identity)


def test_other_models_differ_by_architecture_or_weights():
    lm = tiny.lm_of("llama")
    assert "it is llama" in lm.identity.difference(tiny.lm_of("qwen3").identity)
    assert "its weights differ" in lm.identity.difference(tiny.lm_of("llama", 1).identity)


def test_the_text_of_an_identity_holds_all_of_it():
    identity = tiny.lm_of("llama").identity
    read = Identity.parse(str(identity))
    assert str(read) == str(identity)
    assert (read.architecture, read.label) == (identity.architecture, identity.label)
    assert read.difference(identity) == ""
    assert len(str(identity)) < 500
    assert "|" not in identity.architecture
    for text in ("", "abc", str(identity)[:-5], str(identity) + "A", "a|b|c|d|e"):
        with pytest.raises(ValueError, match="no identity"):
            Identity.parse(text)


def test_weights_that_cannot_be_read_are_left_out():
    identity = tiny.lm_of("llama").identity
    norms = identity.norms.copy()
    norms[1::2] = float("nan")
    packed = replace(identity, norms=norms)
    assert identity.difference(packed) == ""
    assert Identity.parse(str(packed)).difference(identity) == ""
    tuned = changed("llama", merged(0.3)).identity
    assert packed.difference(tuned) == ""  # nothing of what was changed can be read


def test_what_names_a_fingerprint_only_loads_with_one_line_of_advice(tmp_path, caplog):
    lm = tiny.lm_of("llama")
    old = replace(tiny.edit_of(lm, lm.site(1)), base_lm=lm.fingerprint, steering_prompt="sing")
    old.save(tmp_path / "old.safetensors")
    edit = load_edit(tmp_path / "old.safetensors")
    with caplog.at_level(logging.WARNING, logger="hypersteer"):
        lm.generate("Hi", edit=edit, max_new_tokens=1)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("the edit 'sing' was saved by an earlier version")
    assert "\n" not in line
    with pytest.raises(CheckpointError, match=r"it is .*make it anew"):
        tiny.lm_of("llama", 1).generate("Hi", edit=edit, max_new_tokens=1)


def test_edits_of_copies_of_one_base_lm_can_be_added():
    lm, half = tiny.lm_of("llama"), changed("llama", COPIES["bfloat16"])
    first, second = (tiny.edit_of(one, one.site(1)) for one in (lm, half))
    assert first.base_lm != second.base_lm
    assert (first + second).base_lm == first.base_lm
