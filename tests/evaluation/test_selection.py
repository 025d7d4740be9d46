"""Which strength is chosen, by hand."""

import pytest

from evaluation.fakes import failed, row
from hypersteer.errors import DataError
from hypersteer.evaluation.selection import best_strength, halves, select
from hypersteer.stats import mean


def grid(scores, **changes):
    """Rows from strength -> overall scores by prompt; None failed."""
    return [
        failed(prompt_id=prompt, strength=strength, **changes)
        if score is None
        else row(prompt_id=prompt, strength=strength, overall=score, **changes)
        for strength, per_prompt in scores.items()
        for prompt, score in enumerate(per_prompt)
    ]


@pytest.mark.parametrize(("prompts", "choosing"), [(2, 1), (3, 2), (5, 3), (6, 3), (10, 5)])
def test_the_first_half_chooses(prompts, choosing):
    rows = [
        row(prompt_id=prompt, strength=s) for prompt in reversed(range(prompts)) for s in (1.0, 2.0)
    ]
    first, second = halves(rows)
    assert first == set(range(choosing))
    assert second == set(range(choosing, prompts))


def test_one_prompt_cannot_choose_and_report():
    with pytest.raises(DataError, match="evaluate at least 2 prompts"):
        select([row(), row(strength=2.0), row(concept_id=1)])
    with pytest.raises(DataError, match="no result rows"):
        select([])


def test_the_first_half_decides_even_where_the_second_disagrees():
    # The means of the first two prompts are 0.9 and 1.0; the second half would choose 1.
    scores = {1.0: [0.8, 1.0, 2.0, 1.9], 2.0: [0.9, 1.1, 0.1, 0.3]}
    selection = select(grid(scores))
    (choice,) = selection.choices
    assert choice.strength == 2.0
    assert [(r.prompt_id, r.overall) for r in choice.rows] == [(2, 0.1), (3, 0.3)]
    assert choice.failed == 0
    assert selection.missing == []


def test_ties_go_to_the_smallest_absolute_strength():
    # 0.1 + 0.2 and 0.3 + 0.0 differ in the last bit; that is no reason to steer harder.
    scores = {4.0: [0.1, 0.2, 0], -2.0: [0.3, 0.0, 0], 2.0: [0.2, 0.1, 0], 3.0: [0.0, 0.3, 0]}
    for order in (scores, dict(reversed(scores.items()))):
        (choice,) = select(grid(order)).choices
        assert choice.strength == 2.0
    assert best_strength([row(strength=-2.0), row(strength=4.0)]) == -2.0


def test_every_method_held_set_and_concept_chooses_for_itself():
    low, high = {1.0: [1, 1], 2.0: [0, 0]}, {1.0: [0, 0], 2.0: [1, 1]}
    rows = [
        *grid(low, method="a"),
        *grid(high, method="a", concept_id=1),
        *grid(high, method="b"),
        *grid(high, method="a", held="held_out"),
    ]
    chosen = {choice.key: choice.strength for choice in select(rows).choices}
    assert chosen == {
        ("a", "held_in", 0): 1.0,
        ("a", "held_in", 1): 2.0,
        ("b", "held_in", 0): 2.0,
        ("a", "held_out", 0): 2.0,
    }


def test_a_method_without_strengths_reports_the_second_half():
    others = grid({1.0: [0] * 4, 2.0: [0] * 4}, method="steered")
    plain = grid({None: [0.1, 0.2, 0.3, 0.4]}, method="plain")
    choice, _ = select([*plain, *others]).choices
    assert choice.strength is None
    assert [r.overall for r in choice.rows] == [0.3, 0.4]


@pytest.mark.parametrize("prompts", [1, 2, 3])
def test_one_strength_leaves_nothing_to_choose_and_all_prompts_are_reported(prompts):
    scores = [0.1, 0.2, 0.3][:prompts]
    rows = [*grid({0.5: scores}), *grid({None: scores}, method="plain")]
    for choice in select(rows).choices:
        assert [r.overall for r in choice.rows] == scores
    assert {choice.strength for choice in select(rows).choices} == {0.5, None}


def test_failed_rows_are_left_out_and_counted():
    # With its failure as a 0, strength 1 would lose: (1.2 + 0) / 2 < 0.8.
    scores = {1.0: [1.2, None, 0.6, None], 2.0: [0.8, 0.8, 1.0, 1.0]}
    (choice,) = select(grid(scores)).choices
    assert choice.strength == 1.0
    assert [r.overall for r in choice.rows] == [0.6]
    assert choice.failed == 1


def test_a_concept_without_a_judged_row_is_missing():
    rows = [
        *grid({1.0: [None, 1.0], 2.0: [None, 1.0]}),
        *grid({1.0: [1.0, None], 2.0: [0.5, 1.0]}, concept_id=1),
        *grid({None: [1.0, None]}, method="plain"),
    ]
    choices, missing = select(rows)
    assert choices == []
    assert [(m.key.method, m.key.concept_id) for m in missing] == [("m", 0), ("m", 1), ("plain", 0)]
    assert "choose the strength" in missing[0].why
    assert "reported at strength 1" in missing[1].why
    assert missing[2].why.endswith("the prompts that are reported")


def test_contradicting_rows_are_refused():
    with pytest.raises(DataError, match="prompt 1 at strength 1 is there twice"):
        select([row(), row(prompt_id=1), row(prompt_id=1)])
    with pytest.raises(DataError, match="some answers have a strength and some have none"):
        select([row(), row(prompt_id=1, strength=None)])


def test_no_mean_of_nothing():
    assert mean([0.1] * 10) == 0.1
    with pytest.raises(DataError, match="no mean of no values"):
        mean([])
