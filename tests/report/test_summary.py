"""The figures of a report, against means taken by hand from the rows."""

import dataclasses
import statistics

import pytest

from evaluation.fakes import failed, made_up, row
from hypersteer.errors import ConfigError
from hypersteer.evaluation.findings import Findings
from hypersteer.report.summary import summarise


def by_hand(rows, method, held):
    """Mean over concepts of the second half at the best strength of the first."""
    rows = [r for r in rows if (r.method, r.held) == (method, held) and not r.error]
    scores = []
    for concept in sorted({r.concept_id for r in rows}):
        of_concept = [r for r in rows if r.concept_id == concept]
        halves = {
            strength: [
                statistics.fmean(
                    r.overall
                    for r in of_concept
                    if r.strength == strength and (r.prompt_id < 3) == first
                )
                for first in (True, False)
            ]
            for strength in {r.strength for r in of_concept}
        }
        scores.append(max(halves.values())[1])
    return statistics.fmean(scores)


def test_scores_are_those_of_the_protocol():
    findings = made_up()
    summary = summarise(findings)
    assert summary.held == ["held_out", "held_in"]
    assert summary.concepts == {"held_out": 2, "held_in": 4}
    assert ("DiffMean", "held_out") not in summary.scores
    assert len(summary.scores) == 12
    for (method, held), scores in summary.scores.items():
        assert scores.overall.mean == pytest.approx(by_hand(findings.rows, method, held))


def test_comparisons_are_left_out_where_there_is_nothing_to_compare():
    scores = summarise(made_up()).scores
    reference = scores["ReFT-r1", "held_in"]
    assert reference.wins is None
    assert reference.difference is None
    assert scores["prompt", "held_out"].wins is None  # ReFT-r1 is not held out
    assert scores["unsteered", "held_in"].side is None
    steered = scores["cross-attention", "held_in"]
    assert steered.difference is not None
    assert steered.difference.mean == pytest.approx(steered.overall.mean - reference.overall.mean)
    assert steered.wins is not None
    assert steered.side is not None


def test_failures_and_empty_answers_are_counted():
    rows = [
        *(row("a", prompt_id=p, strength=None, nll=float("nan")) for p in range(2)),
        failed(method="a", prompt_id=2, strength=None),
        failed(method="b", prompt_id=0, strength=1.0, error="refused"),
        failed(method="b", prompt_id=1, strength=2.0, error="refused"),
    ]
    summary = summarise(Findings(rows=rows, config={}, compare_to="a"))
    count = summary.counts["a", "held_in"]
    # Of prompts 0, 1 and 2 the first two choose strengths; the last is reported, and it failed.
    assert (count.answers, count.failed, count.unscored) == (3, 1, 0)
    assert summary.failures == [("refused", 2), ("time-out of the judge", 1)]
    assert [m.key.method for m in summary.missing] == ["a", "b"]
    assert summary.scores == {}


def test_methods_keep_the_order_given():
    findings = made_up()
    assert summarise(findings).methods[:3] == ["unsteered", "prompt", "random"]
    ordered = dataclasses.replace(findings, methods=["ReFT-r1", "DiffMean", "SFT"])
    methods = summarise(ordered).methods
    assert methods[:4] == ["ReFT-r1", "DiffMean", "SFT", "unsteered"]
    assert len(methods) == 8


def test_an_unknown_method_to_compare_with():
    findings = dataclasses.replace(made_up(), compare_to="ReFT-1")
    with pytest.raises(ConfigError, match="did you mean 'ReFT-r1'"):
        summarise(findings)
