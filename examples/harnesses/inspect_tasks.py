"""The free answers as a task of Inspect; every sample is steered in a style of its own."""

import re
from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import FieldSpec, json_dataset
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import Score, Scorer, Target, accuracy, includes, scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver

DATA = Path(__file__).parent / "short_answers.jsonl"
CONFIG = GenerateConfig(max_tokens=48, extra_body={"repetition_penalty": 1.15})


@scorer(metrics=[accuracy()])
def styled() -> Scorer:
    """Score whether an answer holds a word of the sample's style."""

    async def score(state: TaskState, target: Target) -> Score:
        del target
        words = set(re.findall(r"[a-z]+", state.output.completion.lower()))
        return Score(value="I" if words.isdisjoint(state.metadata["words"]) else "C")

    return score


@solver
def steered(strength: float) -> Solver:
    """Answer under the sample's style."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        steering = {"text": state.metadata["style"], "strength": strength}
        body = {**(CONFIG.extra_body or {}), "steering": steering}
        return await generate(state, extra_body=body)

    return solve


@task
def short_answers(strength: float = 1.0) -> Task:
    """Return the task.

    Args:
        strength: of each sample's own style; 0 is the base LM as it is.
    """
    fields = FieldSpec(input="question", target="answer", metadata=["style", "words"])
    return Task(
        dataset=json_dataset(str(DATA), fields),
        solver=steered(strength),
        scorer=[includes(), styled()],
        config=CONFIG,
    )
