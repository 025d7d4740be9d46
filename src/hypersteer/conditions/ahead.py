"""Rules decided on prompts before an answer begins, so that what then acts can be said as well.

A checkpoint that was trained with the steering prompt in the prompt needs it there. Which rules
fire is known only when their conditions were read, on the prompt as the user gave it, whatever else
it is going to say.
"""

from collections.abc import Sequence

from hypersteer.conditions.deciding import shares_of_rules
from hypersteer.conditions.gate import Gate
from hypersteer.conditions.rules import Check, Decisions, Rules
from hypersteer.conditions.slots import Slot, rules_of
from hypersteer.edits.sites import Site
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds, collate


def undecided(slots: Sequence[Slot], *, said: bool = False) -> Rules | None:
    """Return the rules of a row that are to be decided before its prompt says anything.

    They are decided on the prompt alone, and the prompt may say something: what they have act, or
    what steers the row besides.

    Args:
        slots: what steers the row.
        said: whether the prompt says what is no steering prompt among these.
    """
    rules = rules_of(slots)
    if rules is None or rules.every:
        return None
    return rules if said or any(isinstance(slot.edit, str) for slot in slots) else None


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
