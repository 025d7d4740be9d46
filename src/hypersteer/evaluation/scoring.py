"""Judging answers: which rows still lack a judgement, and what they are compared with."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from hypersteer.evaluation.records import Answered, Judged
from hypersteer.judges.judge import Answer, Failure, Judge, Judgement


def judge_rows(
    judge: Judge,
    rows: Sequence[Answered],
    before: Sequence[Judged],
    plain: Mapping[int, str],
) -> list[Judged]:
    """Judge the rows that have no judgement yet; those that failed before are tried again.

    Args:
        judge: who judges.
        rows: answers.
        before: the same rows as they were judged before; empty if they were not.
        plain: prompt id -> what the unsteered base LM answered, where it is known.
    """
    found = {_key(row): row for row in before if not row.error}
    open_rows = [row for row in rows if _key(row) not in found]
    answers = [
        Answer(row.concept, row.instruction, row.response, plain.get(row.prompt_id, ""))
        for row in open_rows
    ]
    judgements = judge.judge(answers) if answers else []
    for row, judgement in zip(open_rows, judgements, strict=True):
        found[_key(row)] = _judged(row, judgement)
    return [found[_key(row)] for row in rows]


def _key(row: Answered) -> tuple[int, float | None, str]:
    return row.prompt_id, row.strength, row.response


def _judged(row: Answered, judgement: Judgement | Failure) -> Judged:
    if isinstance(judgement, Failure):
        return Judged(**asdict(row), error=judgement.error)
    return Judged(
        **asdict(row),
        concept_score=judgement.concept.score,
        instruction_score=judgement.instruction.score,
        fluency_score=judgement.fluency.score,
        overall=judgement.overall,
        concept_reason=judgement.concept.reason,
        instruction_reason=judgement.instruction.reason,
        fluency_reason=judgement.fluency.reason,
    )
