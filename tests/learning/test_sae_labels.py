"""Feature labels: the forms they come in, and which is nearest_labels to a text."""

import json

import pytest
import torch
from torch.nn import functional as F

from hypersteer.errors import DataError
from hypersteer.learning.sae_labels import Labels, nearest_labels, read_labels


def test_lists_and_lines_read_alike(tmp_path):
    entries = [
        {"index": "3", "description": " bees ", "maxActApprox": 2.5},
        {"index": 1, "description": "the sea"},
        {"index": 3, "description": "honey"},
        {"index": 1, "maxActApprox": 4},
        {"index": 2, "maxActApprox": 0, "description": None},
    ]
    (tmp_path / "a.json").write_text(json.dumps(entries), encoding="utf-8")
    (tmp_path / "a.jsonl").write_text(
        "\n\n".join(json.dumps(entry) for entry in entries), encoding="utf-8"
    )
    for name in ("a.json", "a.jsonl"):
        found = read_labels(tmp_path / name)
        assert found.texts == [(3, "bees"), (1, "the sea"), (3, "honey")]
        assert found.highest == {3: 2.5, 1: 4.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "cannot read labels"),
        ('{"description": "bees"}', "entry 0 is .*expected objects with an 'index'"),
        ('{"index": -1, "description": "bees"}', "entry 0"),
        ('{"index": true, "description": "bees"}', "entry 0"),
        ("[1]", "entry 0"),
        ('{"index": 1, "maxActApprox": 3}', "holds no descriptions"),
        ("", "holds no descriptions"),
    ],
)
def test_malformed_labels_are_told(tmp_path, text, message):
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_labels(tmp_path / "a.jsonl")


def test_missing_labels_are_told(tmp_path):
    with pytest.raises(DataError, match="cannot read labels"):
        read_labels(tmp_path / "none.json")


TEXTS = ["sea, ship", "bees with honey", "sky blue", "pirate"]


def test_shared_words_decide_and_common_ones_do_not(tiny_llama):
    labels = Labels([(10 * n, text) for n, text in enumerate(TEXTS)], {})
    wanted = ["why the honey?", "a SHIP at sea", "blue"]
    places, likeness = nearest_labels(tiny_llama, wanted, labels)
    assert places == [1, 0, 2]
    assert all(0 < value <= 1 for value in likeness)
    # The texts themselves are found, and exactly.
    places, likeness = nearest_labels(tiny_llama, TEXTS, labels)
    assert places == [0, 1, 2, 3]
    assert likeness == pytest.approx([1.0] * 4, abs=1e-5)


def test_words_that_concepts_are_put_in_do_not_count(tiny_llama):
    labels = Labels(list(enumerate([*TEXTS, "references, related", "the"])), {})
    places, _ = nearest_labels(
        tiny_llama, ["References related to honey.", "terms of the SEA, related"], labels
    )
    assert places == [1, 0]
    assert nearest_labels(tiny_llama, ["the"], labels)[0] == [5]  # unless there are no others


def test_likeness_by_hand(tiny_llama):
    """The formula spelled out: rarity-weighted unit embeddings, less the mean label, cosine."""
    labels = Labels(list(enumerate(TEXTS)), {})
    wanted = "bees sea"
    texts = ["sea, ship", "bees honey", "sky blue", "pirate", wanted]
    tokens = [tiny_llama.chat.text(f" {text}") for text in texts]
    table = tiny_llama.embeddings.weight

    def vector(ids):
        total = torch.zeros(table.shape[1])
        for token in ids:
            holding = sum(token in label for label in tokens[:4])
            total += float(torch.tensor(5 / (1 + holding)).log()) * F.normalize(table[token], dim=0)
        return F.normalize(total, dim=0)

    vectors = torch.stack([vector(ids) for ids in tokens]).detach()
    vectors = vectors - vectors[:4].mean(0)
    expected = [float(F.cosine_similarity(vectors[4], vectors[n], dim=0)) for n in range(4)]
    (place,), (likeness,) = nearest_labels(tiny_llama, [wanted], labels)
    assert place == max(range(4), key=lambda n: expected[n])
    assert likeness == pytest.approx(max(expected), abs=1e-5)
