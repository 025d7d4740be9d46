"""What the front end asks of a worker: which rules fire on a prompt. Texts, so that they travel."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hypersteer.conditions.rules import Check, Rules
from hypersteer.errors import SteeringError, shown
from hypersteer.lm.chat import PromptIds

METHOD = "decide_rules"
"""The worker's method that is called."""


class Told(NamedTuple):
    """Rules, as far as their decision goes; made of `rules_told`.

    Attributes:
        text: the rules.
        names: what they call their edits, those in quotation marks left out.
        tokens: whether it is to be told which tokens of the prompt decide.
    """

    text: str
    names: tuple[str, ...]
    tokens: bool


class Question(NamedTuple):
    """A prompt, and the rules that are decided on it."""

    prompt: PromptIds
    rules: Told


Answer = Check | str
"""What was decided, or why nothing could be."""


def rules_told(rules: Rules) -> Told:
    """Return what a worker needs to decide rules."""
    named = {one.name for rule in rules.rules for one in rule.edits if not one.quoted}
    return Told(str(rules), tuple(sorted(named)), rules.tokens)


def asked(questions: Sequence[Question]) -> str:
    """Return the text of some questions."""
    return json.dumps(questions)


def questions_of(text: object) -> list[Question]:
    """Return the questions that `asked` made a text of.

    Raises:
        SteeringError: if it did not.
    """
    try:
        return [
            Question(
                PromptIds(
                    [int(one) for one in ids], int(prefix), None if turn is None else int(turn)
                ),
                Told(str(rules), tuple(map(str, names)), bool(tokens)),
            )
            for (ids, prefix, turn), (rules, names, tokens) in json.loads(text)  # type: ignore[arg-type]
        ]
    except (TypeError, ValueError, RecursionError) as error:
        raise SteeringError(f"{METHOD} is asked {shown(text)}, which no front end asks") from error


def answered(answers: Sequence[Answer]) -> str:
    """Return the text of some answers."""
    return json.dumps([one if isinstance(one, str) else one._asdict() for one in answers])


def answers_of(text: str) -> list[Answer]:
    """Return the answers that `answered` made a text of."""
    return [one if isinstance(one, str) else _check(one) for one in json.loads(text)]


def decided_by(llm: Any, question: Question) -> Check:
    """Return what rules decide on a prompt, asked of vLLM's `LLM`.

    Raises:
        SteeringError: if they cannot be decided, or nobody is there to do it.
    """
    if llm is None:
        raise SteeringError("rules are decided by vLLM's worker: give llm=, the LLM that answers")
    (answer,) = answers_of(llm.collective_rpc(METHOD, args=(asked([question]),))[0])
    if isinstance(answer, str):
        raise SteeringError(answer)
    return answer


def _check(told: Mapping[str, Any]) -> Check:
    tokens = told["tokens"]
    if tokens is not None:
        tokens = {name: [(text, share) for text, share in one] for name, one in tokens.items()}
    return Check(
        token=told["token"],
        scores=told["scores"],
        conditions=tuple(told["conditions"]),
        edits=tuple(told["edits"]),
        probabilities=told["probabilities"],
        tokens=tokens,
    )
