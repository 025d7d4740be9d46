"""Conditions on tiny models, and their scores worked out without the package's own reading."""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

import tiny
from hypersteer.conditions.condition import Condition

LONG = "Tell me about your day at the sea, about the ship and all the bees, and say why."
CHATS = (
    [
        {"role": "user", "content": LONG},
        {"role": "assistant", "content": "Arr!"},
        {"role": "user", "content": "Hi"},
    ],
    [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Arr!"},
        {"role": "user", "content": LONG},
    ],
    [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Talk like the sea."},
    ],
    "Why is the sky blue?",
)
"""Of several messages, of which only the last is the user's turn."""
PROMPTS = ("Hi", LONG, "Why is the sky blue?", "Talk like the sea.")


def drawn(seed):
    return F.normalize(
        torch.randn(tiny.WIDTH, generator=torch.Generator().manual_seed(seed)), dim=0
    )


@cache
def _states(lm, ids, layer):
    return states_by_hand(lm, ids, layer)


def states_by_hand(lm, ids, layer):
    """States [T, D] that leave a block, one row, no padding, no cache, a hook of our own."""
    seen = []
    block = lm.model.get_submodule(tiny.FAMILIES[lm.name].blocks)[layer]
    hook = block.register_forward_hook(
        lambda _m, _a, out: seen.append(out if isinstance(out, Tensor) else out[0])
    )
    with torch.no_grad():
        lm.model(torch.tensor([list(ids)]), use_cache=False)
    hook.remove()
    return seen[0][0]


def score_by_hand(lm, prompt, direction, layer, pooling="prompt", response=()):
    """Signed cosine of the pooled state with a direction; no intercept."""
    states = _states(lm, (*prompt.ids, *response), layer)
    turn = prompt.prefix if prompt.turn is None else prompt.turn
    start = {"turn": turn, "prompt": prompt.prefix, "all": 0, "last": -1}[pooling]
    return float(F.cosine_similarity(states[start:].mean(0), direction, dim=0))


def condition_at(lm, layer, seed=0, pooling="prompt", prompts=PROMPTS, **fields):
    """A condition that fires for half of the prompts, with room on both sides of its threshold."""
    rows = [lm.chat.prompt(prompt) for prompt in prompts]
    for attempt in range(seed * 100, seed * 100 + 100):
        direction = drawn(attempt)
        scores = sorted(score_by_hand(lm, row, direction, layer, pooling) for row in rows)
        middle = len(scores) // 2
        if scores[middle] - scores[middle - 1] > 0.02:
            break
    return Condition(
        name=f"condition {seed}",
        directions=direction[None],
        means=torch.zeros(1, tiny.WIDTH),
        fitted=(layer,),
        layers=(layer,),
        pooling=pooling,
        base_lm=str(lm.identity),
        **{"threshold": (scores[middle] + scores[middle - 1]) / 2, **fields},
    )


def fires_by_hand(lm, text, condition):
    """Whether it fires on a prompt alone."""
    (layer,), (direction,) = condition.layers, condition.directions
    prompt = lm.chat.prompt(text)
    score = score_by_hand(lm, prompt, direction, layer, condition.pooling)
    return score > condition.threshold
