"""Bag of words: the optimum by its gradient, scores by hand, and planted words."""

import re

import numpy as np
import pytest
import torch

from hypersteer.concepts import Concept
from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError, DataError, SteeringError
from hypersteer.learning.values import ConceptExamples
from hypersteer.methods.bag_of_words import BagOfWords, word_counts
from hypersteer.methods.protocol import Detector, can_steer
from methods.cases import concepts_of, example, some_words

SITE = Site(0)


def test_words_are_those_of_prompt_and_response_in_lower_case():
    text = example("The owl, an OWL?", "A fig_1! naïve 42 x")
    assert word_counts(text) == {"the": 1, "owl": 2, "an": 1, "fig_1": 1, "naïve": 1, "42": 1}


def test_the_fit_is_the_optimum(tiny_llama):
    """Gradient of scikit-learn's objective, C times summed log-loss plus half the squared norm."""
    concepts = concepts_of(6, 4)
    method = BagOfWords(c=2.0)
    learned = method.fit(tiny_llama, SITE, concepts)
    tensors, words = learned.tensors, learned.notes["words"]
    sizes = tensors["sizes"].tolist()
    for number, entry in enumerate(concepts):
        places = tensors["places"].split(sizes)[number].tolist()
        weights = tensors["weights"].split(sizes)[number].double().numpy()
        rows = [f"{row.prompt} {row.response}".lower() for row in entry.positives + entry.negatives]
        counts = np.array([[len(re.findall(rf"\b{words[p]}\b", r)) for p in places] for r in rows])
        assert counts.sum(0).min() > 0
        labels = np.arange(len(rows)) < len(entry.positives)
        scores = counts @ weights + float(tensors["intercepts"][number])
        errors = 1 / (1 + np.exp(-scores)) - labels
        assert np.abs(2 * counts.T @ errors + weights).max() < 1e-3
        assert abs(errors.sum()) < 1e-2
        (found,) = method.detect(
            tiny_llama, SITE, learned, [entry.concept], [*entry.positives, *entry.negatives]
        )
        np.testing.assert_allclose(found, scores, atol=1e-4)


def test_planted_words_are_found(tiny_llama):
    rows = [some_words(seed, 12) for seed in range(60)]
    negatives = [example("Tell me", row) for row in rows[:20]]
    concepts = [
        ConceptExamples(
            Concept(id=number, text=word),
            [example("Tell me", f"{row} {word}", number) for row in rows[20:40]],
            negatives,
        )
        for number, word in enumerate(["zebra", "quartz"])
    ]
    learned = BagOfWords().fit(tiny_llama, SITE, concepts)
    fresh = [example("Tell me", f"{row} Zebra!") for row in rows[40:50]]
    fresh += [example("Tell me", row) for row in rows[50:]]
    scores = BagOfWords().detect(
        tiny_llama, SITE, learned, [entry.concept for entry in reversed(concepts)], fresh
    )
    assert scores[1, :10].min() > 0 > scores[1, 10:].max()
    assert scores[0].max() < 0
    unseen = BagOfWords().detect(
        tiny_llama, SITE, learned, [concepts[0].concept], [example("xylophone", "wombat")]
    )
    torch.testing.assert_close(unseen[0], learned.tensors["intercepts"][:1])


def test_it_only_detects(tiny_llama):
    assert isinstance(BagOfWords(), Detector)
    assert not can_steer(BagOfWords())
    cost = BagOfWords().fit(tiny_llama, SITE, concepts_of(3)).cost
    words = {w for e in concepts_of(3) for r in e.positives + e.negatives for w in word_counts(r)}
    assert cost.parameters == len(words) + 1
    assert cost.flops == 0


def test_bad_settings_and_rows(tiny_llama):
    (entry,) = concepts_of(2)
    with pytest.raises(DataError, match=r"bag of words cannot learn concept 7.*negative"):
        BagOfWords().fit(tiny_llama, SITE, [entry._replace(negatives=[])])
    with pytest.raises(ConfigError, match="c 0"):
        BagOfWords(c=0.0)
    learned = BagOfWords().fit(tiny_llama, SITE, [entry])
    with pytest.raises(SteeringError, match="was not learnt"):
        BagOfWords().detect(tiny_llama, SITE, learned, [Concept(id=4, text="no")], [])
    empty = BagOfWords().fit(tiny_llama, SITE, [])
    assert empty.tensors["weights"].shape == (0,)
