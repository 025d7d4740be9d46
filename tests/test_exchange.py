"""Edits to and from other tools: control vectors of llama.cpp and repeng, vectors of CAST.

That llama.cpp does with a file what we do is asked of llama.cpp (`llama_engine`). repeng and CAST
are stood in for by hooks that add what they add where they add it: repeng's `ControlModule` to the
output of block N, CAST's `LeashLayer` to the input of block N.
"""

import dataclasses
import importlib.util
import json
import logging
import struct
from contextlib import contextmanager, suppress
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors import safe_open

import hypersteer as hs
import llama_engine
import tiny
from gguf_files import write_gguf
from hypersteer import identity
from hypersteer.edits.control_vector import read_control_vector
from hypersteer.edits.edit import VectorEdit
from hypersteer.edits.edit_set import EditSet, load_edit
from hypersteer.edits.low_rank import LOW_RANK, loreft
from hypersteer.edits.sites import Site
from hypersteer.errors import CheckpointError, SteeringError

REPENG = Path(__file__).parent / "fixtures/repeng-0.4.0.gguf"
"""What `ControlVector.train(...).export_gguf` of repeng 0.4.0 wrote for the tiny Llama."""
TOKENS = [9, 41, 77, 120, 8, 33, 52, 200]
HALF_PRECISION = 0.02
"""How far logits of about 4 may be apart: llama.cpp keeps keys and values in float16."""

needs_llama = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed"
)


@pytest.fixture
def lm(tiny_llama):
    return tiny_llama


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    lm = tiny.lm_of("llama")
    write_gguf(path, lm.model, lm.tokenizer)
    return path


def set_of(lm, layers=(1, 3), scope="everywhere"):
    return EditSet(edits=tuple(tiny.edit_of(lm, Site(at), at, scope) for at in layers))


def logits(lm, edit=None, strength=1.0, tokens=TOKENS):
    with torch.no_grad(), lm.edited(edit, strength=strength):
        return lm.model(torch.tensor([tokens])).logits[0]


@contextmanager
def hooked(lm, vectors, strength, before=False):
    """Add vectors to what leaves blocks, or to what enters them."""
    handles = []
    for layer, vector in vectors.items():
        added = strength * torch.as_tensor(vector)
        block = lm.model.model.layers[layer]
        if before:
            handles.append(
                block.register_forward_pre_hook(lambda _, a, v=added: (a[0] + v, *a[1:]))
            )
        else:
            handles.append(block.register_forward_hook(lambda _m, _a, out, v=added: out + v))
    yield
    for handle in handles:
        handle.remove()


def apart(one, other):
    return float((one - other).abs().max())


# llama.cpp


@needs_llama
@pytest.mark.parametrize("strength", [1.0, -0.5])
@pytest.mark.parametrize("layers", [(1,), (2,), (3,), (1, 2, 3)])
def test_llama_cpp_steers_as_we_do(lm, model_file, tmp_path, layers, strength):
    """The same block, and the same tokens: chat prefix, prompt, and what follows."""
    made = set_of(lm, layers) if len(layers) > 1 else set_of(lm, layers)[0]
    path = made.save(tmp_path / "x.gguf")
    tokens = [*lm.chat.prefix, *TOKENS]
    theirs = llama_engine.logits(model_file, tokens, path, strength)
    plain = logits(lm, tokens=tokens)
    assert apart(theirs, logits(lm, made, strength, tokens)) < HALF_PRECISION
    assert apart(theirs, plain) > 25 * HALF_PRECISION
    for other in {0, 1, 2, 3} - set(layers):
        if len(layers) == 1:
            moved = dataclasses.replace(made, site=Site(other))
            assert apart(theirs, logits(lm, moved, strength, tokens)) > 10 * HALF_PRECISION


@needs_llama
def test_the_chat_prefix_is_what_the_scope_all_leaves_out(lm, model_file, tmp_path):
    spared = tiny.edit_of(lm, Site(1), 1, "all")
    path = spared.save(tmp_path / "x.gguf")
    theirs = llama_engine.logits(model_file, TOKENS, path)
    assert apart(theirs, logits(lm, spared)) < HALF_PRECISION
    tokens = [*lm.chat.prefix, *TOKENS]
    theirs = llama_engine.logits(model_file, tokens, path)
    assert apart(theirs, logits(lm, spared, tokens=tokens)) > 10 * HALF_PRECISION
    everywhere = dataclasses.replace(spared, scope="everywhere")
    assert apart(theirs, logits(lm, everywhere, tokens=tokens)) < HALF_PRECISION


@needs_llama
def test_what_we_refuse_to_write_llama_cpp_refuses_to_read(lm, model_file, tmp_path):
    path = tmp_path / "x.gguf"
    write(path, {0: np.ones(tiny.WIDTH)})
    with pytest.raises(RuntimeError, match="zero"):
        llama_engine.logits(model_file, TOKENS, path)
    VectorEdit(vector=torch.ones(tiny.WIDTH + 1), site=Site(1)).save(path)
    with pytest.raises(RuntimeError, match="does not match model"):
        llama_engine.logits(model_file, TOKENS, path)


# Out, and in again


@pytest.mark.parametrize("suffix", [".gguf", ".GGUF"])
def test_a_control_vector_is_read_back_as_the_edit_that_it_was(lm, tmp_path, suffix):
    one = dataclasses.replace(
        tiny.edit_of(lm, Site(2), 1), steering_prompt='naïve "🏴‍☠️"\n', generator="g"
    )
    read = load_edit(one.save(tmp_path / f"one{suffix}"))
    several = set_of(lm)
    again = load_edit(several.save(tmp_path / f"several{suffix}"))
    assert isinstance(again, EditSet)
    for saved, found in zip((one, *several), (read, *again), strict=True):
        assert torch.equal(saved.vector, found.vector)
        for name in ("site", "scope", "base_lm", "steering_prompt", "generator", "kind"):
            assert getattr(saved, name) == getattr(found, name), name
    single = set_of(lm, (1,))
    assert isinstance(load_edit(single.save(tmp_path / f"single{suffix}")), EditSet)
    with pytest.raises(CheckpointError, match="another one"):
        logits(tiny.lm_of("llama", seed=1), read)


def test_a_control_vector_is_what_llama_cpp_describes(lm, tmp_path):
    made = set_of(lm)
    reader = gguf.GGUFReader(made.save(tmp_path / "x.gguf"))

    def value(name):
        return reader.get_field(name).contents()

    assert value("general.architecture") == "controlvector"
    assert value("controlvector.model_hint") == "llama"
    assert value("controlvector.layer_count") == 2
    held = {tensor.name: tensor for tensor in reader.tensors}
    assert sorted(held) == ["direction.1", "direction.3"]
    for one in made:
        tensor = held[f"direction.{one.site.layer}"]
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        assert np.array_equal(tensor.data, one.vector.numpy())
    nowhere = VectorEdit(vector=torch.ones(3), site=Site(1))
    read = gguf.GGUFReader(nowhere.save(tmp_path / "y.gguf"))
    assert read.get_field("controlvector.model_hint").contents() == "unknown"
    assert load_edit(tmp_path / "y.gguf").base_lm == ""


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"site": Site(0)}, "acts on block 0"),
        ({"site": Site(-1)}, r"lm.site\(-1\)"),
        ({"site": Site(1, "mlp")}, "mlp@1"),
        ({"site": Site(1, "attention")}, "attention@1"),
        ({"scope": "response"}, "scope response"),
        ({"scope": (True, False)}, "scope of a mask"),
    ],
)
def test_what_is_no_control_vector_is_refused(lm, tmp_path, changes, told):
    good = dataclasses.replace(tiny.edit_of(lm, Site(1), 1), steering_prompt="sing")
    bad = dataclasses.replace(good, **changes)
    path = tmp_path / "x.gguf"
    others = EditSet(edits=(bad, tiny.edit_of(lm, Site(3), 1)))
    for made in (bad, others):
        with pytest.raises(SteeringError, match=told) as caught:
            made.save(path)
        assert "'sing'" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert ".safetensors" in str(caught.value)
        made.save(tmp_path / "x.safetensors")
    assert not path.exists()


def test_other_kinds_are_refused(lm, tmp_path):
    rotation = torch.linalg.qr(torch.randn(lm.width, 2))[0].T
    params = loreft(rotation, source=torch.randn(2, lm.width), bias=torch.zeros(2))
    edit = hs.Edit(kind=LOW_RANK, params=params, site=Site(1))
    with pytest.raises(SteeringError, match="low-rank"):
        edit.save(tmp_path / "x.gguf")


def test_a_failed_save_keeps_the_old_file(lm, tmp_path, monkeypatch):
    path = set_of(lm).save(tmp_path / "x.gguf")
    before = path.read_bytes()

    def full(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", full)
    with pytest.raises(SteeringError, match="No space left"):
        set_of(lm, (1, 2)).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_vector_is_there_for_who_has_safetensors_alone(lm, tmp_path):
    made = set_of(lm)
    with safe_open(made[0].save(tmp_path / "one.safetensors"), "pt") as file:
        vectors = {json.loads(file.metadata()["edit"])["layer"]: file.get_tensor("vector")}
    with hooked(lm, vectors, 2.0):
        expected = logits(lm)
    assert torch.equal(logits(lm, made[0], 2.0), expected)
    with safe_open(made.save(tmp_path / "set.safetensors"), "pt") as file:
        told = json.loads(file.metadata()["edit"])["edits"]
        vectors = {one["layer"]: file.get_tensor(f"{i}.vector") for i, one in enumerate(told)}
    with hooked(lm, vectors, 2.0):
        expected = logits(lm)
    assert torch.equal(logits(lm, made, 2.0), expected)


# repeng


def test_a_vector_of_repeng_does_what_it_does_there(lm, caplog):
    edits = load_edit(REPENG)
    assert edits.sites == (Site(1), Site(2), Site(3))
    assert {(one.scope, one.base_lm) for one in edits} == {("everywhere", "type:llama")}
    assert edits.steering_prompt == "repeng-0.4.0.gguf"
    vectors = {tensor.name: tensor.data.copy() for tensor in gguf.GGUFReader(REPENG).tensors}
    vectors = {int(name.removeprefix("direction.")): vectors[name] for name in vectors}
    tokens = [*lm.chat.prefix, *TOKENS]
    with hooked(lm, vectors, 1.5):
        expected = logits(lm, tokens=tokens)
    assert torch.equal(logits(lm, edits, 1.5, tokens), expected)
    assert apart(expected, logits(lm, tokens=tokens)) > 0.3
    with hooked(lm, {2: vectors[2]}, 1.5):
        expected = logits(lm, tokens=tokens)
    assert torch.equal(logits(lm, load_edit(REPENG, layers=[2]), 1.5, tokens), expected)
    assert caplog.text == ""


@needs_llama
def test_a_vector_of_repeng_is_the_same_to_llama_cpp(lm, model_file):
    theirs = llama_engine.logits(model_file, TOKENS, REPENG, 4.0)
    assert apart(theirs, logits(lm, load_edit(REPENG), 4.0)) < HALF_PRECISION
    assert apart(theirs, logits(lm)) > 25 * HALF_PRECISION


def test_layers_are_chosen(lm, tmp_path):
    path = set_of(lm, (1, 2, 3)).save(tmp_path / "x.safetensors")
    assert load_edit(path, layers=(3, 1)).sites == (Site(1), Site(3))
    assert load_edit(path, layers=[np.int64(2)]).site == Site(2)
    for layers in ([4], [1, -1], ["1"], [], 2, [[1]]):
        with pytest.raises(CheckpointError) as caught:
            load_edit(path, layers=layers)
        assert "[1, 2, 3]" in str(caught.value)


def test_another_type_of_models_is_told(lm, tmp_path, caplog):
    path = tmp_path / "x.gguf"
    write(path, {1: np.ones(tiny.WIDTH)}, hint="qwen2")
    identity._tell_type.cache_clear()
    with caplog.at_level(logging.WARNING):
        plain, steered = logits(lm), logits(lm, load_edit(path))
    assert apart(plain, steered) > 0.1
    assert [("'qwen2'" in text, "'llama'" in text) for text in caplog.messages] == [(True, True)]
    caplog.clear()
    write(path, {1: np.ones(tiny.WIDTH + 1)}, hint="llama")
    with pytest.raises(SteeringError, match="width 33"):
        logits(lm, load_edit(path))
    write(path, {7: np.ones(tiny.WIDTH)}, hint="llama")
    with pytest.raises(SteeringError, match=r"layer 7.*0\.\.3"):
        logits(lm, load_edit(path))
    gemma = tiny.lm_of("gemma3")
    for hint in ("gemma3", "Gemma-3", "gemma3_text", ""):
        write(path, {1: np.ones(tiny.WIDTH)}, hint=hint)
        logits(gemma, load_edit(path))
    assert caplog.text == ""
    assert load_edit(path).base_lm == ""


# Damage


def write(path, vectors, *, hint=None, architecture="controlvector", dtype=np.float32, **more):
    """A file as llama.cpp's own generator and repeng write them, or nearly so."""
    writer = gguf.GGUFWriter(path, architecture)
    if hint:
        writer.add_string("controlvector.model_hint", hint)
    for name, value in more.items():
        writer.add_string(name, value)
    for name, vector in vectors.items():
        name = f"direction.{name}" if isinstance(name, int) else name
        writer.add_tensor(name, np.asarray(vector, dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


ONES = np.ones(tiny.WIDTH)


@pytest.mark.parametrize(
    ("vectors", "options", "told"),
    [
        ({1: ONES}, {"architecture": "llama"}, "architecture is 'llama'"),
        ({}, {}, "no tensor direction.N"),
        ({1: ONES, "mean": ONES}, {}, "'mean'"),
        ({"direction.x": ONES}, {}, "'direction.x'"),
        ({"direction.-1": ONES}, {}, "'direction.-1'"),
        ({1: ONES, "direction.01": ONES}, {}, "two directions"),
        ({1: ONES, 2: np.ones(4)}, {}, "different widths: [4, 32]"),
        ({1: np.ones((2, 32))}, {}, "shape [2, 32]"),
        ({1: ONES}, {"dtype": np.int8}, "llama.cpp takes F32"),
        ({1: np.full(32, np.nan)}, {}, "NaN or infinite"),
        ({1: np.full(32, 1e300)}, {"dtype": np.float64}, "NaN or infinite"),
        ({1: ONES}, {"hypersteer.edit": "{no json"}, "Expecting property name"),
        ({1: ONES}, {"hypersteer.edit": '{"format": "hypersteer-edit-1"}'}, "lacks 'kind'"),
        ({1: ONES}, {"hypersteer.edit": '{"format": "hypersteer-edits-1"}'}, "lacks its edits"),
    ],
)
def test_a_bad_control_vector_is_told(tmp_path, vectors, options, told):
    path = tmp_path / "x.gguf"
    write(path, vectors, **options)
    with np.errstate(over="ignore"), pytest.raises(CheckpointError) as caught:
        load_edit(path)
    assert told in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_note_that_fits_other_vectors_is_told(lm, tmp_path):
    path = set_of(lm).save(tmp_path / "x.gguf")
    note = json.dumps(read_control_vector(path).note)
    for layers in ((1,), (1, 2), (1, 2, 3)):
        write(path, dict.fromkeys(layers, ONES), **{"hypersteer.edit": note})
        with pytest.raises(CheckpointError, match=r"damaged|does not describe"):
            load_edit(path)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_of_all_sizes_are_read(tmp_path, dtype):
    write(tmp_path / "x.gguf", {0: np.arange(8)}, dtype=dtype)
    read = load_edit(tmp_path / "x.gguf")
    assert read.site == Site(0)  # repeng steers block 0, where llama.cpp does not
    assert read.vector.tolist() == list(range(8))


def test_a_file_that_is_cut_or_changed_is_told(tmp_path):
    """At every length, and with every byte changed; nothing but our own error comes out."""
    width = 8  # so that no padding follows
    small = VectorEdit(vector=torch.ones(width), site=Site(1))
    whole = small.save(tmp_path / "x.gguf").read_bytes()
    path = tmp_path / "y.gguf"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            load_edit(path)
    for place in range(len(whole) - 4 * width):
        for value in (0xFF, 9, 0):
            path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            with suppress(CheckpointError):
                load_edit(path)


def test_an_array_longer_than_the_file_ends_at_once(tmp_path):
    """The reader of the `gguf` package would count to 2^60."""
    text = struct.pack("<Q", 1) + b"x"
    for kind in (0, 8, 9):
        array = struct.pack("<IIQ", 9, kind, 2**60)
        path = tmp_path / "x.gguf"
        path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text + array)
        with pytest.raises(CheckpointError, match=r"cut off|type 9"):
            load_edit(path)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 1, 0, 0))
    with pytest.raises(CheckpointError, match="version 1"):
        load_edit(path)
    for missing in ("none.gguf", "none.svec"):
        with pytest.raises(CheckpointError, match="no edit at"):
            load_edit(tmp_path / missing)


# CAST


def svec(path, given, **more):
    """A file as `SteeringVector.save` of IBM's activation-steering writes it."""
    data = {
        "model_type": "llama",
        "directions": {k: np.asarray(v).tolist() for k, v in given.items()},
        "explained_variances": dict.fromkeys(given, 0.5),
        **more,
    }
    path.write_text(json.dumps(data))
    return path


def test_a_vector_of_cast_does_what_it_does_there(lm, tmp_path):
    vectors = {k: np.random.default_rng(k).normal(size=32).astype(np.float32) for k in range(4)}
    path = svec(tmp_path / "refusal.svec", vectors)
    edits = load_edit(path)
    assert edits.sites == (Site(0), Site(1), Site(2))
    assert {(one.scope, one.base_lm) for one in edits} == {("everywhere", "type:llama")}
    tokens = [*lm.chat.prefix, *TOKENS]
    with hooked(lm, {k: vectors[k] for k in (2, 3)}, 1.5, before=True):
        expected = logits(lm, tokens=tokens)
    chosen = load_edit(path, layers=[1, 2])
    assert torch.equal(logits(lm, chosen, 1.5, tokens), expected)
    assert apart(expected, logits(lm, tokens=tokens)) > 0.3
    load_edit(path, layers=[1, 2]).save(tmp_path / "refusal.gguf")


@pytest.mark.parametrize(
    ("directions", "more", "told"),
    [
        ({}, {}, "no vector of a layer above 0"),
        ({0: [1.0]}, {}, "no vector of a layer above 0"),
        ({"x": [1.0]}, {}, "layer 'x'"),
        ({-1: [1.0]}, {}, "layer '-1'"),
        ({1: [1.0], 2: [1.0, 2.0]}, {}, "different widths: [1, 2]"),
        ({1: [[1.0]]}, {}, "shape [D], not [1, 1]"),
        ({1: ["a"]}, {}, "real numbers"),
        ({1: [float("nan")]}, {}, "NaN or infinite"),
        ({1: [float("inf")]}, {}, "NaN or infinite"),
        ({1: [1.0]}, {"model_type": 5}, "its type is 5"),
        ({1: [1.0]}, {"directions": [1]}, "no vector of CAST"),
        ({1: [1.0]}, {"directions": {"1": None}}, "real numbers"),
    ],
)
def test_a_bad_vector_of_cast_is_told(tmp_path, directions, more, told):
    path = svec(tmp_path / "x.svec", directions, **more)
    with pytest.raises(CheckpointError) as caught:
        load_edit(path)
    assert told in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "Expecting value"),
        ("{", "Expecting"),
        ("[]", "no vector of CAST"),
        ("{}", "lacks 'directions'"),
        ("[" * 100_000, "nested"),
        ('{"directions": {"1": [1.0]}, "model_type": "\\ud800"}', "half a character"),
        ("\udcff", "utf-8"),
    ],
)
def test_a_damaged_svec_is_told(tmp_path, text, told):
    path = tmp_path / "x.svec"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError) as caught:
        load_edit(path)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
