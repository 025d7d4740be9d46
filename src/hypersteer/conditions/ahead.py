"""Rules decided on prompts before an answer begins, so that what then acts can be said as well.

A checkpoint that was trained with the steering prompt in the prompt needs it there. Which rules
fire is known only when their conditions were read, on the prompt as the user gave it.
"""

from collections.abc import Sequence

from hypersteer.conditions.deciding import shares_of_rules
from hypersteer.conditions.gate import Gate
from hypersteer.conditions.rules import Check, Decisions, Rules
from hypersteer.edits.sites import Site
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds, collate


def may_be_said(rules: Rules) -> bool:
    """Return whether rules are decided on the prompt alone, and steering prompts are among them."""
    return not rules.every and any(isinstance(edit, str) for edit in rules.edits.values())


def decide_ahead(
    lm: BaseLM, prompts: Sequence[PromptIds], rows: Sequence[Rules | None]
) -> dict[int, Check]:
    """Return what rules decide on prompts, by the numbers of the rows that have rules.

    It costs one pass over these prompts, up to the highest layer that their conditions read, and a
    second one where rules ask which tokens decided.

    Args:
        lm: the base LM.
        prompts: B tokenised prompts.
        rows: the rules of each, decided on the prompt; None for a row without any.

    Raises:
        SteeringError: for a condition that is not for this base LM, or is about the answer.
    """
    log = Decisions(shares=shares_of_rules(lm, prompts, rows))
    log.restart(len(prompts))
    gate = Gate(lm, rows, lambda _: Site(-1), log)  # whatever they read lies above
    batch = collate(prompts, pad_id=lm.chat.pad_id).to(lm.device)
    gate.look_ahead(batch)
    gate.readers(batch.spans)
    return {row: checks[0] for row, checks in enumerate(log.rows) if checks}
