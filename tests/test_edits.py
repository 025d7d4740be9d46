"""Edits as values: algebra, files, and every message for bad input."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import tiny
from hypersteer.edits.edit import VectorEdit
from hypersteer.edits.edit_set import load_edit
from hypersteer.edits.sites import Site, check_scope, check_strength
from hypersteer.errors import CheckpointError, ConfigError, SteeringError
from hypersteer.lm.edited import edit_writers

SITE = Site(1)
numbers = st.floats(-100, 100, allow_nan=False, width=32)
vectors = st.lists(numbers, min_size=4, max_size=4).map(torch.tensor)


def edit(values=(1.0, -2.0, 3.0), **fields):
    return VectorEdit(
        vector=torch.as_tensor(values),
        **{"site": SITE, "base_lm": "abc", "steering_prompt": "sing", "generator": "g", **fields},
    )


def assert_one_line(caught, *words):
    message = str(caught.value)
    assert "\n" not in message
    assert message
    for word in words:
        assert str(word) in message, message


@settings(deadline=None, max_examples=50)
@given(a=vectors, b=vectors, x=numbers, y=numbers)
def test_algebra_is_that_of_vectors(a, b, x, y):
    left, right = edit(a), edit(b)
    torch.testing.assert_close((x * left + y * right).vector, x * a + y * b)
    torch.testing.assert_close((left * x - right).vector, a * x - b)
    joined, apart = (x * (left + right)).vector, (x * left + x * right).vector
    torch.testing.assert_close(joined, apart, rtol=1e-5, atol=0.01)  # sums may cancel out
    assert torch.equal((-left).vector, -a)
    assert torch.equal((left - left).vector, torch.zeros(4))
    assert left.norm == pytest.approx(float(a.norm()))


def test_algebra_keeps_what_the_edit_is_and_notes_what_was_done():
    made = 0.7 * edit() + edit(steering_prompt="dance") - edit(generator="h", scope="all")
    assert (made.site, made.scope, made.base_lm) == (SITE, "all", "abc")
    assert made.steering_prompt == "((0.7 * (sing)) + (dance)) - (sing)"
    assert made.generator == ""
    assert (edit() + edit()).generator == "g"


def test_an_edit_is_a_value():
    """It does not change with the tensor it came from, nor with what is made of it."""
    vector = torch.ones(3, requires_grad=True)
    made = edit(vector)
    with torch.no_grad():
        vector.add_(1)
    assert torch.equal(made.vector, torch.ones(3))
    assert not made.vector.requires_grad
    _ = 2 * made + made
    assert torch.equal(made.vector, torch.ones(3))
    with pytest.raises(AttributeError):
        made.scope = "prompt"
    assert edit(torch.ones(3, dtype=torch.float64)).vector.dtype == torch.float32


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("site", Site(2), "residual@2"),
        ("site", Site(1, "mlp"), "mlp@1"),
        ("scope", "response", "response"),
        ("base_lm", "other", "other"),
    ],
)
def test_edits_of_different_kinds_cannot_be_added(field, value, shown):
    for combine in (edit().__add__, edit().__sub__):
        with pytest.raises(SteeringError) as caught:
            combine(edit(**{field: value}))
        assert_one_line(caught, field, shown)


def test_algebra_with_other_things_is_refused():
    with pytest.raises(TypeError):
        _ = edit() + 1
    for factor in ("2", None, True, float("nan"), float("-inf")):
        with pytest.raises(SteeringError) as caught:
            _ = edit() * factor
        assert_one_line(caught, "strength", factor)


@pytest.mark.parametrize("site", [Site(0), Site(-1, "attention"), Site(3, "mlp")])
@pytest.mark.parametrize("scope", ["everywhere", "last_prompt", (True, False, True)])
def test_a_saved_edit_is_read_back_bit_for_bit(tmp_path, site, scope):
    vector = torch.randn(64) * torch.logspace(-30, 30, 64)
    vector[0], vector[1] = -0.0, 1e-42  # a denormal number
    saved = edit(vector, site=site, scope=scope, steering_prompt='naïve "🏴‍☠️"\n')
    path = saved.save(tmp_path / "deep" / "pirate.safetensors")
    read = load_edit(str(path))
    assert torch.equal(read.vector.view(torch.int32), vector.view(torch.int32))
    for name in ("site", "scope", "base_lm", "steering_prompt", "generator", "kind"):
        assert getattr(read, name) == getattr(saved, name), name
    assert [p.name for p in path.parent.iterdir()] == ["pirate.safetensors"]
    saved.save(path)  # over the old one


def test_rows_of_a_batch_are_saved_alone(tmp_path):
    steerer = tiny.steerer_of(tiny.lm_of("llama"), "no-context")
    made = steerer.edit(["sing", "dance and sing"])
    for number, one in enumerate(made):
        path = one.save(tmp_path / f"{number}.safetensors")
        assert torch.equal(load_file(path)["vector"], one.vector)
        assert load_edit(path).generator == "test"


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = edit().save(tmp_path / "pirate.safetensors")
    before = path.read_bytes()

    def full(_tensors, temporary, _header):
        temporary.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("hypersteer.tensor_files.save_file", full)
    with pytest.raises(SteeringError) as caught:
        edit((9.0,)).save(path)
    assert_one_line(caught, path, "No space left")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_folder_in_the_way_is_told(tmp_path):
    (tmp_path / "pirate.safetensors").mkdir()
    with pytest.raises(SteeringError) as caught:
        edit().save(tmp_path / "pirate.safetensors")
    assert_one_line(caught, tmp_path / "pirate.safetensors")


def write(path, header, tensors=None):
    text = header if isinstance(header, str) else json.dumps(header)
    metadata = {} if header is None else {"edit": text}
    save_file(tensors or {"vector": torch.ones(3)}, path, metadata)


HEADER = {
    "format": "hypersteer-edit-1",
    "kind": "vector",
    "layer": 1,
    "site": "residual",
    "scope": "all",
    "base_lm": "abc",
    "steering_prompt": "sing",
    "generator": "",
}


@pytest.mark.parametrize(
    ("header", "word"),
    [
        (None, "hypersteer-edit-1"),
        ("{no json", "not a readable edit"),
        ([1], "hypersteer-edit-1"),
        ({**HEADER, "format": "hypersteer-edit-9"}, "hypersteer-edit-1"),
        ({k: v for k, v in HEADER.items() if k != "layer"}, "layer"),
        ({**HEADER, "layer": "top"}, "top"),
        ({**HEADER, "site": "residul"}, "residul"),
        ({**HEADER, "scope": "promt"}, "promt"),
        ({**HEADER, "kind": "clamp"}, "kind 'clamp'"),
        ({**HEADER, "kind": "clamp"}, "known: gated, low-rank, vector"),
        ({**HEADER, "kind": ["vector"]}, "kind ['vector']"),
        ({k: v for k, v in HEADER.items() if k != "kind"}, "kind"),
        ({**HEADER, "steering_prompt": 5}, "5"),
        ({**HEADER, "base_lm": None}, "base_lm None"),
        ({**HEADER, "generator": [1]}, "generator [1]"),
        ('{"format": "\\ud800"}', "half a character"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_damaged_header_is_told(tmp_path, header, word):
    path = tmp_path / "bad.safetensors"
    write(path, header)
    with pytest.raises(CheckpointError) as caught:
        load_edit(path)
    assert_one_line(caught, path, word)


@pytest.mark.parametrize(
    ("tensors", "word"),
    [
        ({"other": torch.ones(3)}, "vector"),
        ({"vector": torch.ones(2, 3)}, "[2, 3]"),
        ({"vector": torch.tensor([1.0, float("nan")])}, "NaN"),
    ],
)
def test_damaged_tensors_are_told(tmp_path, tensors, word):
    path = tmp_path / "bad.safetensors"
    write(path, HEADER, tensors)
    with pytest.raises(CheckpointError) as caught:
        load_edit(path)
    assert_one_line(caught, path, word)


def test_a_file_that_is_no_edit_is_told(tmp_path):
    for path, content in (("missing", None), ("empty", b""), ("cut", b"\x00" * 20)):
        path = tmp_path / path
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            load_edit(path)
        assert_one_line(caught, path)


def test_bad_vectors_are_told():
    too_large = torch.tensor([1e300], dtype=torch.float64)
    for bad in ([float("inf"), 0.0], [0.0, float("nan")], too_large):
        with pytest.raises(SteeringError) as caught:
            edit(bad)
        assert_one_line(caught, "infinite")


@pytest.mark.parametrize("kind", ["resid", "MLP", "", "residual "])
def test_an_unknown_site_kind_is_told(kind):
    with pytest.raises(ConfigError) as caught:
        Site(0, kind)
    assert_one_line(caught, repr(kind))


@pytest.mark.parametrize("layer", ["1", 1.0, None, True])
def test_a_layer_that_is_no_whole_number_is_told(layer):
    with pytest.raises(ConfigError) as caught:
        Site(layer)
    assert_one_line(caught, repr(layer))


@pytest.mark.parametrize("scope", ["promt", "", (), [], [0.5], ["all"], 3, None, {"a": 1}])
def test_an_unknown_scope_is_told(scope):
    with pytest.raises(ConfigError) as caught:
        check_scope(scope)
    assert_one_line(caught, repr(scope))


def test_scopes_become_immutable_values():
    assert check_scope([0, 1, True]) == (False, True, True)
    assert check_scope(torch.tensor([True, False])) == (True, False)
    assert edit(scope=[1, 0]).scope == (True, False)
    assert str(Site(3, "mlp")) == "mlp@3"


def test_strengths():
    assert check_strength(2) == 2.0
    assert check_strength(-0.5) == -0.5
    for bad in ("1", None, True, float("inf"), float("nan"), [1.0]):
        with pytest.raises(SteeringError) as caught:
            check_strength(bad)
        assert_one_line(caught, bad)


def test_a_base_lm_refuses_foreign_edits(tiny_llama):
    lm, other = tiny_llama, tiny.lm_of("llama", seed=1)
    made = tiny.edit_of(lm, Site(1))
    for use in (
        lambda: other.generate("Hi", edit=made, max_new_tokens=1),
        lambda: other.stream("Hi", edit=made, max_new_tokens=1),
        lambda: tiny.steerer_of(other).generate(["Hi", "a"], steer=["sing", made]),
    ):
        with pytest.raises(CheckpointError) as caught:
            use()
        assert_one_line(caught, lm.fingerprint, other.fingerprint)
    narrow = edit(torch.ones(tiny.WIDTH - 1), base_lm="")
    with pytest.raises(SteeringError) as caught:
        edit_writers(lm, [narrow], [1.0])
    assert_one_line(caught, tiny.WIDTH - 1, tiny.WIDTH)
    deep = edit(torch.ones(tiny.WIDTH), base_lm="", site=Site(9))
    with pytest.raises(SteeringError) as caught:
        lm.generate("Hi", edit=deep)
    assert_one_line(caught, "layer 9", "0..3")
    with pytest.raises(SteeringError) as caught:
        lm.generate("Hi", edit="sing")
    assert_one_line(caught, "'sing'")


def test_numbers_of_numpy_and_torch_are_numbers():
    for two in (np.float32(2), np.float64(2), np.int64(2), np.array(2.0), torch.tensor(2.0)):
        assert check_strength(two) == 2.0
        assert type(check_strength(two)) is float
        for doubled in (two * edit(), edit() * two):
            assert torch.equal(doubled.vector, 2 * edit().vector)
            assert doubled.steering_prompt == "2 * (sing)"
    for one in (np.int64(1), np.uint8(1), torch.tensor(1)):
        assert Site(one) == SITE
        assert type(Site(one).layer) is int
    assert edit(np.array([1.0, 2.0])).vector.tolist() == edit([1, 2]).vector.tolist() == [1, 2]
    assert check_scope(np.array([True, False])) == (True, False)


def test_what_is_no_number_is_one_line():
    for bad in (np.ones((30, 30)), torch.ones(2), [1.0] * 99, np.bool_(True), "2" * 999, 1j):
        with pytest.raises(SteeringError) as caught:
            check_strength(bad)
        assert_one_line(caught, "strength")
    for bad in ("abc", None, {"a": 1}, [[1.0], [2.0, 3.0]], [1j]):
        with pytest.raises(SteeringError) as caught:
            VectorEdit(vector=bad, site=SITE)
        assert_one_line(caught, "vector")
    for huge in (1e39, 10**400):
        with pytest.raises(SteeringError) as caught:
            _ = edit() * huge
        assert_one_line(caught, "finite")


def test_edits_of_different_widths_cannot_be_added():
    with pytest.raises(SteeringError) as caught:
        _ = edit() + edit([1.0])
    assert_one_line(caught, "width", "3 and 1")


def test_an_edit_is_saved_where_a_file_can_be(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert edit().save("~/e.safetensors") == tmp_path / "e.safetensors"
    assert load_edit("~/e.safetensors").steering_prompt == "sing"
    for place in ("x" * 300, "~nobody-of-that-name/x", "/proc/x", "a\0b", "", "\ud800"):
        with pytest.raises(SteeringError) as caught:
            edit().save(place)
        assert_one_line(caught)
        with pytest.raises(CheckpointError) as caught:
            load_edit(place)
        assert_one_line(caught)
    assert [path.name for path in tmp_path.iterdir()] == ["e.safetensors"]
