"""Conditions as values: scores by hand, thresholds, files, CAST's numbering, bad input."""

import json
import math
from contextlib import suppress

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from damages import DAMAGES, check_told, damaged, odd_values
from hypersteer.conditions.cast import cast_condition
from hypersteer.conditions.condition import Condition, load_condition
from hypersteer.edits.edit import VectorEdit
from hypersteer.edits.sites import Site
from hypersteer.errors import CheckpointError, SteeringError

WIDTH = 5


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def condition(**fields):
    values = {
        "name": "c",
        "directions": drawn(2, WIDTH, seed=1),
        "means": drawn(2, WIDTH, seed=2),
        "fitted": (1, 3),
        "layers": (3,),
        "threshold": 0.1,
        "base_lm": "abc",
    }
    return Condition(**{**values, **fields})


def cosine(a, b):
    """cos(a, b) in plain Python."""
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))


def cast_score(h, c):
    """cos(h, tanh(M h)) with M = c c^T / (c . c), in plain Python."""
    share = math.fsum(x * y for x, y in zip(c, h, strict=True)) / math.fsum(x * x for x in c)
    return cosine(h, [math.tanh(share * x) for x in c])


def test_scores_by_hand():
    states = drawn(20, WIDTH, seed=3)
    directions, means = drawn(2, WIDTH, seed=1), drawn(2, WIDTH, seed=2)
    signed = condition().score({3: states}).tolist()
    legacy = condition(scorer="legacy").score({3: states}).tolist()
    for row, state in enumerate(states):
        centred = (state - means[1]).tolist()
        assert signed[row] == pytest.approx(cosine(centred, directions[1].tolist()), abs=1e-6)
        by_hand = cast_score(state.tolist(), (directions[1] / directions[1].norm()).tolist())
        assert legacy[row] == pytest.approx(by_hand, abs=1e-6)
    assert min(signed) < 0 < max(signed)


def test_states_are_divided_by_the_scales():
    """So a dimension in other units, with its mean and scale, gives the same score."""
    states, scales = drawn(20, WIDTH, seed=3), 1 + drawn(2, WIDTH, seed=4).abs()
    means, directions = drawn(2, WIDTH, seed=2), drawn(2, WIDTH, seed=1)
    made = condition(scales=scales)
    for row, state in enumerate(states):
        centred = ((state - means[1]) / scales[1]).tolist()
        wanted = cosine(centred, directions[1].tolist())
        assert float(made.score({3: states})[row]) == pytest.approx(wanted, abs=1e-6)
    units = torch.tensor([300.0, 1.0, 1.0, 0.01, 1.0])
    other = condition(means=units * means, scales=units * scales)
    torch.testing.assert_close(other.score({3: units * states}), made.score({3: states}))
    assert torch.equal(
        condition(scales=torch.ones(2, WIDTH)).score({3: states}), condition().score({3: states})
    )


def test_scales_are_kept_and_files_without_them_are_read(tmp_path):
    path, states = tmp_path / "c.safetensors", drawn(20, WIDTH, seed=3)
    scales = 1 + drawn(2, WIDTH, seed=4).abs()
    made = condition(scales=scales)
    read = load_condition(made.save(path))
    assert torch.equal(read.scales, scales)
    assert torch.equal(read.score({3: states}), made.score({3: states}))
    with safe_open(path, "pt") as file:
        header = file.metadata()["condition"]
    tensors = load_file(path)
    save_file(
        {name: tensors[name] for name in ("directions", "means")}, path, {"condition": header}
    )
    with pytest.raises(CheckpointError, match="lacks 'scales'; it is damaged"):
        load_condition(path)
    plain = condition()
    with safe_open(plain.save(path), "pt") as file:  # what earlier versions wrote, byte for byte
        assert "scaled" not in file.metadata()["condition"]
    assert load_condition(path).scales is None
    assert torch.equal(load_condition(path).score({3: states}), plain.score({3: states}))


def test_the_legacy_score_is_blind_to_the_sign_and_the_default_is_not():
    states = {3: drawn(50, WIDTH)}
    one, other = condition(), condition(directions=-drawn(2, WIDTH, seed=1))
    assert torch.allclose(one.score(states), -other.score(states), atol=1e-6)
    one, other = (condition(scorer="legacy", directions=c.directions) for c in (one, other))
    torch.testing.assert_close(one.score(states), other.score(states))
    assert one.score(states).min() >= 0


@pytest.mark.parametrize("fires", ["above", "below"])
def test_several_layers_fire_if_any_does(fires):
    states = {1: drawn(40, WIDTH, seed=4), 3: drawn(40, WIDTH, seed=5)}
    joined = condition(layers=(1, 3), fires=fires)
    alone = [condition(layers=(layer,), fires=fires) for layer in (1, 3)]
    fired = [one.passed(one.score(states)) for one in alone]
    assert torch.equal(joined.passed(joined.score(states)), fired[0] | fired[1])
    assert bool((fired[0] ^ fired[1]).any())


def test_the_threshold_itself_does_not_fire():
    scores = torch.tensor([0.2, 0.25, 0.3], dtype=torch.float64)
    assert condition(threshold=0.25).passed(scores).tolist() == [False, False, True]
    assert condition(threshold=0.25, fires="below").passed(scores).tolist() == [True, False, False]
    assert condition().passed(torch.tensor([math.nan])).tolist() == [False]


def test_what_has_fired_is_held_to_the_release():
    scores, fired = torch.tensor([0.2, 0.2, 0.0, 0.6]), torch.tensor([True, False, True, False])
    above = condition(threshold=0.5, release=0.1)
    assert above.passed(scores, fired).tolist() == [True, False, False, True]
    below = condition(threshold=-0.5, release=-0.1, fires="below")
    assert below.passed(-scores, fired).tolist() == [True, False, False, True]
    assert above.passed(scores).tolist() == [False, False, False, True]


def test_save_and_load_round_trip(tmp_path):
    made = condition(
        layers=(1, 3),
        fires="below",
        release=0.2,
        scorer="legacy",
        pooling="last",
        explained=(0.5, 0.25),
        metrics={"f1": 0.9},
        note="by hand",
    )
    path = made.save(tmp_path / "deep" / "c.safetensors")
    read = load_condition(path)
    for name in Condition.__dataclass_fields__:
        mine, theirs = getattr(made, name), getattr(read, name)
        same = torch.equal(mine, theirs) if isinstance(mine, torch.Tensor) else mine == theirs
        assert same, name
    assert [file.name for file in path.parent.iterdir()] == ["c.safetensors"]
    assert set(load_file(path)) == {"directions", "means"}


def test_a_condition_is_a_value():
    directions = drawn(2, WIDTH)
    made = condition(directions=directions)
    directions.zero_()
    torch.testing.assert_close(made.directions.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: path.unlink(), "no condition at"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "not a readable condition"),
        (lambda path: save_file({"x": torch.ones(1)}, path), "not a hypersteer-condition-1"),
        (
            lambda path: VectorEdit(vector=torch.ones(2), site=Site(0)).save(path),
            "not a hypersteer-condition-1",
        ),
    ],
)
def test_damaged_and_foreign_files(tmp_path, spoil, told):
    path = condition().save(tmp_path / "c.safetensors")
    spoil(path)
    with pytest.raises(CheckpointError, match=told) as caught:
        load_condition(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (('"layers": [3]', '"layers": [7]'), "damaged: condition 'c' reads layers"),
        (('"threshold": 0.1', '"threshold": "x"'), "damaged"),
        (('"name": "c", ', ""), "damaged"),
        (('"release": null', '"releases": null'), "damaged"),
        (('"threshold": 0.1', '"threshold": true'), "threshold = True is not float"),
        (('"name": "c"', '"name": 5'), "name = 5 is not str"),
        (('"explained": []', '"explained": ["a"]'), "explained = 'a' is not float"),
        (('"figures": {}', '"figures": {"f1": "x"}'), "is not float"),
        (('"base_lm": "abc"', '"base_lm": null'), "base_lm = None is not str"),
    ],
)
def test_damaged_headers(tmp_path, change, told):
    path = condition().save(tmp_path / "c.safetensors")
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        header = file.metadata()["condition"]
    assert change[0] in header
    save_file(tensors, path, {"condition": header.replace(*change)})
    with pytest.raises(CheckpointError, match=told):
        load_condition(path)


def test_headers_are_read_or_told(tmp_path):
    """Whatever stands in them, nothing is left to break when a score is asked for."""
    path = condition(scales=torch.full((2, WIDTH), 2.0)).save(tmp_path / "c.safetensors")
    tensors, told = load_file(path), 0
    with safe_open(path, "pt") as file:
        whole = json.loads(file.metadata()["condition"])
    for _, changed in odd_values(whole):
        save_file(tensors, path, {"condition": json.dumps(changed)})
        found = None
        with suppress(CheckpointError):
            found = load_condition(path)
            scores = found.score({layer: drawn(4, WIDTH) for layer in found.layers})
            assert found.passed(scores).dtype == torch.bool
        told += found is None
    assert told > 100


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_file_is_told(tmp_path, how):
    path = condition().save(tmp_path / "c.safetensors")
    path.write_bytes(damaged(path.read_bytes(), how))
    with pytest.raises(CheckpointError) as told:
        load_condition(path)
    check_told(told, path)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"layers": ()}, "reads layers"),
        ({"layers": (2,)}, "has directions for"),
        ({"fitted": (1,)}, "for 1 layers"),
        ({"means": drawn(2, 3)}, "other means"),
        ({"directions": drawn(2, WIDTH) * math.nan}, "not all finite"),
        ({"directions": drawn(2, WIDTH) * 0}, "has no direction at layer"),
        ({"threshold": math.inf}, "not finite"),
        ({"release": 0.2}, "must lie below"),
        ({"release": 0.0, "fires": "below"}, "must lie above"),
        ({"scorer": "cosin"}, "did you mean 'cosine'"),
        ({"pooling": "mean"}, "pooling = 'mean' is unknown"),
        ({"fires": "over"}, "fires = 'over' is unknown"),
        ({"threshold": "high"}, "threshold 'high' of 'c' is no number"),
        ({"threshold": None}, "threshold None"),
        ({"release": [1]}, "release"),
        ({"layers": ("a",)}, "are no numbers"),
        ({"layers": 3}, "are no numbers"),
        ({"directions": "up"}, "holds real numbers, not 'up'"),
        ({"name": 3}, "the name of the condition 3 is not a text"),
        ({"name": "\ud800"}, "not valid Unicode"),
        ({"scales": torch.ones(2, 3)}, "one for each dimension"),
        ({"scales": torch.zeros(2, WIDTH)}, "numbers above 0"),
        (
            {"scales": torch.full((2, WIDTH), math.nan)},
            "scales of condition 'c' are not all finite",
        ),
        ({"scales": torch.ones(2, WIDTH), "scorer": "legacy"}, "legacy, whose score has no scales"),
    ],
)
def test_bad_parts(fields, told):
    with pytest.raises(SteeringError, match=told) as caught:
        condition(**fields)
    assert "\n" not in str(caught.value)


def test_casts_settings_are_read_one_block_lower():
    vectors = {layer: drawn(WIDTH, seed=layer) for layer in range(4)}
    made = cast_condition(vectors, layers=[2, 3], threshold=0.04, comparator="larger")
    assert (made.layers, made.fires, made.scorer, made.pooling) == (
        (1, 2),
        "below",
        "legacy",
        "all",
    )
    torch.testing.assert_close(made.directions[0], vectors[2] / vectors[2].norm())
    texts = {str(layer): vector.tolist() for layer, vector in vectors.items()}  # as JSON has them
    read = cast_condition(texts, layers=[2, 3], threshold=0.04, comparator="larger")
    assert torch.equal(read.directions, made.directions)
    uneven = {**vectors, 2: drawn(3)}
    with pytest.raises(SteeringError, match=rf"widths \[{WIDTH}, 3\]"):
        cast_condition(uneven, layers=[1, 2], threshold=0.1, comparator="larger")
    smaller = cast_condition(vectors, layers=[1], threshold=0.1, comparator="smaller", mode="last")
    assert (smaller.layers, smaller.fires, smaller.pooling) == ((0,), "above", "last")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"layers": [0]}, "no block's output"),
        ({"layers": [9]}, "CAST's layer 9 has no vector"),
        ({"comparator": "bigger"}, "unknown comparator"),
        ({"mode": "max"}, "unknown mode"),
        ({"layers": []}, "reads layers"),
        ({"comparator": ["larger"]}, "unknown comparator"),
        ({"threshold": "x"}, "no number"),
    ],
)
def test_bad_settings_of_cast(fields, told):
    settings = {"layers": [1], "threshold": 0.1, "comparator": "larger", **fields}
    with pytest.raises(SteeringError, match=told):
        cast_condition({n: drawn(WIDTH) for n in range(2)}, **settings)


def test_numbers_of_numpy_and_torch_are_numbers(tmp_path):
    made = condition(
        directions=drawn(2, WIDTH, seed=1).numpy(),
        means=drawn(2, WIDTH, seed=2).tolist(),
        fitted=np.array([1, 3]),
        layers=[np.int64(3)],
        threshold=np.float32(0.5),
        release=torch.tensor(0.25),
    )
    assert (made.fitted, made.layers, made.threshold, made.release) == ((1, 3), (3,), 0.5, 0.25)
    read = load_condition(made.save(tmp_path / "c.safetensors"))
    assert (read.layers, read.threshold) == ((3,), 0.5)
    assert torch.equal(read.directions, condition().directions)


@pytest.mark.parametrize("vectors", [{"x": [1.0]}, {"1": "abc"}, {"1": [[1.0]]}, {1.5: [1.0]}])
def test_vectors_that_are_none_of_cast(vectors):
    with pytest.raises(SteeringError, match="CAST"):
        cast_condition(vectors, layers=[1], threshold=0.1, comparator="larger")


@pytest.mark.parametrize("path", ["x" * 300, "~nobody-of-that-name/x", "a\0b", "", "/proc/x"])
def test_places_where_no_condition_can_be(path):
    with pytest.raises(SteeringError):
        condition().save(path)
    with pytest.raises(CheckpointError):
        load_condition(path)
