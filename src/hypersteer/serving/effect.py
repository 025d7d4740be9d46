"""How far steering moved each token of an answer: two teacher-forced readings of it, compared.

Shapes: N tokens of the answer, V vocabulary.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hypersteer.conditions.rules import Rules
from hypersteer.config.serving import ServeConfig
from hypersteer.engine.generate import TextStream
from hypersteer.engine.requests import Request
from hypersteer.lm.base import BaseLM
from hypersteer.lm.likelihood import answer_logits, token_divergence
from hypersteer.lm.messages import as_messages
from hypersteer.serving.errors import Refused
from hypersteer.serving.looks_schema import EffectRequest
from hypersteer.serving.plan import Known, Plan, plan_of, split_model
from hypersteer.serving.prompts import asking_of
from hypersteer.serving.served import Served
from hypersteer.steering import Steerer

MOST_TOKENS = 512
"""Longest answer that is looked at: the distributions of all its tokens are held at once."""


def effect_of(
    asked: EffectRequest, served: dict[str, Served], known: Known, config: ServeConfig
) -> dict[str, Any]:
    """Return what steering did to each token of an answer.

    Raises:
        Refused: for no steering, rules that are not decided ahead, or an answer that is too long.
        SteeringError: for what cannot steer, or does not fit the context window.
    """
    name, suffix = split_model(asked.model, list(served))
    steerer = served[name].steerer
    plan = plan_of(asked.steering, suffix, steerer, known, config)
    if not plan.steer:
        raise Refused("nothing steers; give 'steering'", param="steering")
    ids = _answer_ids(asked.answer, steerer.lm)
    after, before = _readings(asked, plan, steerer, ids)
    moved = token_divergence(before, teacher=after).clamp(min=0).tolist()
    told = zip(_pieces(steerer.lm, ids), moved, strict=True)
    tokens: list[dict[str, Any]] = [{"text": text, "kl": round(kl, 6)} for text, kl in told]
    for side, logits in (("steered", after), ("unsteered", before)):
        for token, found in zip(tokens, _side(steerer.lm, logits, ids, asked.top), strict=True):
            token[side] = found
    return {
        "object": "steering.effect",
        "model": asked.model,
        "against": asked.against,
        "mean_kl": round(sum(moved) / len(moved), 6),
        "tokens": tokens,
    }


def _answer_ids(answer: str, lm: BaseLM) -> list[int]:
    """Return the tokens of the answer; they may be others than those it was written in."""
    ids = lm.chat.response(answer)
    if not ids:
        raise Refused("the answer holds no token; give one with some text", param="answer")
    if len(ids) > MOST_TOKENS:
        raise Refused(
            f"the answer has {len(ids)} tokens; at most {MOST_TOKENS} are looked at", param="answer"
        )
    return ids


def _readings(
    asked: EffectRequest, plan: Plan, steerer: Steerer, ids: list[int]
) -> list[Float[Tensor, "N V"]]:
    """Return the logits that predict the answer, steered and not: two rows of one batch."""
    lm, messages = steerer.lm, as_messages(asked.messages)
    said, steer, _ = asking_of(messages, plan, steerer, chat=True)
    if any(isinstance(one, Rules) for one, _ in steer):
        raise Refused(
            "these rules decide while an answer is written, so their effect on a given one is not "
            "told; give a text or a stored edit",
            param="steering",
        )
    plain = said
    if asked.against == "unsteered":
        plain = lm.chat.prompt(as_messages(asked.unsteered or asked.messages))
    prompts = [said, plain]
    for prompt in prompts:
        lm.check_length(len(prompt.ids) + len(ids), "prompt and answer")
    request = Request(prompts, [steer, None], [1.0, 1.0], single=False)
    return answer_logits(lm, prompts, [ids, ids], steerer.writers(request))


def _side(
    lm: BaseLM, logits: Float[Tensor, "N V"], ids: list[int], top: int
) -> list[dict[str, Any]]:
    """Return the probability of each token, and what is likeliest in its place."""
    shares = logits.softmax(-1)
    own = shares.gather(-1, torch.tensor(ids)[:, None]).squeeze(-1).tolist()
    values, places = shares.topk(min(top, shares.shape[-1]))
    return [
        {
            "p": round(share, 6),
            "top": [
                {"text": lm.chat.tokenizer.decode([token]), "p": round(value, 6)}
                for token, value in zip(tokens, likely, strict=True)
            ],
        }
        for share, tokens, likely in zip(own, places.tolist(), values.tolist(), strict=True)
    ]


def _pieces(lm: BaseLM, ids: list[int]) -> list[str]:
    """Return the text of each token; they join to the answer's, also within a character."""
    stream = TextStream(lm)
    pieces = [stream.take(token) for token in ids]
    pieces[-1] += stream.rest()
    return pieces
