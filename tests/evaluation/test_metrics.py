"""Metrics against their definitions, computed another way."""

import math

import pytest

from evaluation.fakes import failed, row
from hypersteer.errors import DataError
from hypersteer.evaluation.metrics import (
    concept_means,
    paired,
    perplexity,
    side_effects,
    strength_curve,
    win_rate,
)
from hypersteer.evaluation.selection import select


def test_concept_means_by_hand():
    rows = [
        row(overall=0.5, concept_score=1.0, instruction_score=2.0, fluency_score=0.4, nll=1.0),
        row(overall=1.5, concept_score=2.0, instruction_score=1.0, fluency_score=1.2, nll=2.0),
        row(overall=1.0, concept_score=0.0, instruction_score=0.0, fluency_score=0.2, nll=math.nan),
        failed(nll=50.0),
    ]
    means = concept_means(rows)
    assert means[:4] == pytest.approx((1.0, 1.0, 1.0, 0.6))
    assert means.perplexity == pytest.approx(math.exp(1.5))
    assert (means.rows, means.unscored) == (3, 1)
    assert concept_means(rows[2:]).perplexity is None
    with pytest.raises(DataError):
        concept_means([failed()])


def test_perplexity_is_the_exponential_of_the_mean_over_concepts():
    low, high, none = (concept_means([row(nll=nll)]) for nll in (1.0, 3.0, math.nan))
    interval = perplexity([low, high, none])
    assert interval is not None
    # The geometric mean; of two concepts the extremes of the resamples are the two themselves.
    assert interval == pytest.approx((math.sqrt(math.e * math.e**3), math.e, math.e**3, 2))
    assert perplexity([none]) is None
    huge = perplexity([concept_means([row(nll=1e6)])])
    assert huge is not None
    assert huge.mean == math.inf


def test_paired_difference_has_the_spread_of_the_differences():
    theirs = {concept: 0.1 * concept for concept in range(10)}
    ours = {concept: score + 0.25 for concept, score in theirs.items()}
    interval = paired({**ours, 99: 2.0}, theirs)
    assert interval == pytest.approx((0.25, 0.25, 0.25, 10))
    with pytest.raises(DataError, match="common concept"):
        paired({1: 1.0}, {2: 1.0})


def test_win_rate_by_hand():
    ours = {0: 1.0, 1: 0.5, 2: 0.5, 3: 0.2, 7: 2.0}
    theirs = {0: 0.5, 1: 0.5 + 5e-7, 2: 0.4, 3: 0.9}
    assert win_rate(ours, theirs)[::3] == (2.5 / 4, 4)
    assert win_rate(theirs, ours).mean == 1.5 / 4
    with pytest.raises(DataError, match="common concept"):
        win_rate({}, theirs)


def test_side_effects_compare_the_same_prompts():
    def answers(method, strength, scores, concept_id=0):
        return [
            row(method, concept_id, prompt, strength, instruction_score=score, nll=nll)
            for prompt, (score, nll) in enumerate(scores)
        ]

    plain = [(0.0, 9.0), (0.0, 9.0), (1.8, 1.0), (1.6, 1.2)]
    steered = [(0.0, 9.0), (0.0, 9.0), (1.2, 1.5), (1.4, math.nan)]
    rows = [
        *answers("unsteered", None, plain),
        *answers("m", 1.0, steered),
        *answers("m", 2.0, plain),  # as good, so the lower strength is chosen
        *answers("m", 1.0, steered, concept_id=5),  # has no unsteered partner
    ]
    choices = select(rows).choices
    ours = [choice for choice in choices if choice.key.method == "m"]
    theirs = [choice for choice in choices if choice.key.method == "unsteered"]
    side = side_effects(ours, theirs)
    assert side is not None
    assert side.instruction.mean == pytest.approx((1.2 - 1.8 + 1.4 - 1.6) / 2)
    assert side.perplexity is not None
    assert side.perplexity.mean == pytest.approx(math.exp(1.5) / math.exp(1.0))
    assert side.pairs == 2
    assert side_effects(ours, []) is None


def test_strength_curve_is_a_mean_over_concepts_of_means_over_prompts():
    rows = [
        row(strength=2.0, overall=1.0, nll=1.0),
        row(strength=2.0, overall=2.0, prompt_id=1, nll=2.0),
        row(strength=2.0, overall=0.0, concept_id=1, nll=0.5),
        row(strength=0.5, overall=0.3, concept_id=1, nll=math.nan),
        failed(strength=0.5),
        failed(strength=9.0),
        row(strength=None, overall=2.0),
    ]
    low, high = strength_curve(rows)
    assert (low.strength, low.overall, low.perplexity, low.concepts) == (0.5, 0.3, None, 1)
    assert (high.strength, high.overall, high.concepts) == (2.0, 0.75, 2)
    assert high.perplexity == pytest.approx(math.exp((1.5 + 0.5) / 2))
    assert (high.concept, high.instruction, high.fluency) == (0.75, 0.75, 0.75)
    assert strength_curve([]) == []
