"""The prompts of a request as rows: what steers each, and what of that is said in it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hypersteer.conditions.rules import Check, Rules
from hypersteer.lm.chat import Chat, PromptIds
from hypersteer.lm.messages import as_messages
from hypersteer.lm.messages import prompted as told
from hypersteer.serving.errors import Refused
from hypersteer.serving.plan import Plan
from hypersteer.serving.schema import ChatRequest, CompletionRequest
from hypersteer.steering import Steerer


class Asking(NamedTuple):
    """One prompt.

    Attributes:
        prompt: tokenised, with what is said of steering in it.
        steer: what steers its answers, as `hypersteer.conditions.slots.laid_out` takes it.
        decided: what rules decided on it already.
    """

    prompt: PromptIds
    steer: list[Any]
    decided: Check | None = None


def askings(asked: ChatRequest | CompletionRequest, plan: Plan, steerer: Steerer) -> list[Asking]:
    """Return the prompts of a request.

    Rules that are decided on the prompt are decided here, in a pass over it, where it is going to
    say anything. What they have act is said, too, where a checkpoint wants that.

    Raises:
        Refused: for no prompt, an empty one, or ids that are none, or that nothing can be said in.
    """
    if isinstance(asked, ChatRequest):
        given: Sequence[Any] = [as_messages(asked.messages)]
    else:
        one = isinstance(asked.prompt, str) or (asked.prompt and isinstance(asked.prompt[0], int))
        given = [asked.prompt] if one else asked.prompt
    if not given:
        raise Refused("prompt is an empty list; give at least one", param="prompt")
    return [asking_of(one, plan, steerer, chat=isinstance(asked, ChatRequest)) for one in given]


def asking_of(given: Any, plan: Plan, steerer: Steerer, *, chat: bool) -> Asking:
    """Return one prompt; see `askings`.

    Args:
        given: a chat's messages, or a text or ids that are to go on.
        plan: what steers.
        steerer: who steers.
        chat: whether it is a chat.

    Raises:
        Refused: for an empty prompt, or ids that are none, or that nothing can be said in.
    """
    if given == "":
        raise Refused("the prompt is empty; give some text", param="prompt")
    lm, steer, said = steerer.lm, list(plan.steer), list(plan.said)
    rules = sum(isinstance(one, Rules) for one, _ in steer)
    ids = not chat and not isinstance(given, str)
    decided: Mapping[int, Check] = {}
    if rules and not ids:
        (steer,), decided = steerer.decide(
            [prompt_ids(given, lm.chat, lm.vocab, chat=chat)], [steer], said=bool(said)
        )
        fired = steer[: len(steer) - len(plan.steer) + rules] if decided else []
        acting = fired if steerer.card.prompted else []
        # First, as in Python: it is the order in which they act.
        said = [*(text for text, own in acting if isinstance(text, str) and own > 0), *said]
    if ids and said:
        raise no_words()
    for text in said:
        given = told(given, text)
    return Asking(prompt_ids(given, lm.chat, lm.vocab, chat=chat), steer, decided.get(0))


def no_words() -> Refused:
    """Return what refuses a prompt of ids in which something is to be said."""
    return Refused(
        "this steering says its text in the prompt, which is given as ids: send the prompt as "
        "text, or the steering with 'prompted': false",
        param="prompt",
    )


def prompt_ids(given: Any, templates: Chat, vocab: int, *, chat: bool) -> PromptIds:
    """Return a chat as tokens, or a text, or ids, that is to go on.

    Args:
        given: a chat's messages, or a text or ids.
        templates: of the base LM.
        vocab: how many token ids it knows.
        chat: whether it is a chat.

    Raises:
        Refused: for ids that are none of the base LM's.
    """
    if chat:
        return templates.prompt(given)
    if isinstance(given, str):
        return PromptIds([*templates.lead, *templates.text(given)], len(templates.lead))
    if not given or not all(0 <= one < vocab for one in given):
        raise Refused(f"the prompt holds ids that are none of this model's {vocab}", param="prompt")
    return PromptIds([*given], 0)
