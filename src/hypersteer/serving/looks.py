"""`/v1/steering`: what steering did to an answer, and what was learnt that is like a text."""

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

from hypersteer.concepts import validate_steering_prompt
from hypersteer.config.serving import ServeConfig
from hypersteer.serving.apart import apart
from hypersteer.serving.effect import effect_of
from hypersteer.serving.errors import queue_full
from hypersteer.serving.looks_schema import EffectRequest, NearestRequest
from hypersteer.serving.nearby import Nearby
from hypersteer.serving.plan import Known, check_length, model_alone
from hypersteer.serving.served import Served


def add(app: FastAPI, served: Mapping[str, Served], known: Known, config: ServeConfig) -> None:
    """Add the routes to an application."""
    # One at a time: each takes the whole machine, and the answers that run go on beside it.
    turn, nearby = _Turn(config.max_queue), Nearby()

    @app.post("/v1/steering/effect", tags=["steering"])
    async def effect(asked: EffectRequest) -> dict[str, Any]:
        """Tell how far steering moved each token of an answer, and what else was likely there."""
        async with turn:
            return await apart(effect_of, asked, dict(served), known, config)

    @app.post("/v1/steering/nearest", tags=["steering"])
    async def nearest(asked: NearestRequest) -> dict[str, Any]:
        """List the concepts of the training that are nearest to a steering prompt."""
        return await apart(_nearest, asked, served, nearby, config)


def _nearest(
    asked: NearestRequest, served: Mapping[str, Served], nearby: Nearby, config: ServeConfig
) -> dict[str, Any]:
    name = model_alone(asked.model, list(served))
    check_length(asked.text, config, "the steering prompt", "text")
    text = validate_steering_prompt(asked.text)
    found = nearby.nearest(served[name], text, asked.top)
    least = nearby.least(served[name]) if found else None
    return {
        "object": "steering.nearest",
        "model": name,
        "text": text,
        "concepts": [{"text": one, "similarity": round(value, 4)} for one, value in found],
        "far": found[0][1] < least if least is not None else None,
        "far_below": round(least, 4) if least is not None else None,
        "trained_on": len(served[name].steerer.card.concepts),
    }


class _Turn:
    """Lets requests through one by one; too many that wait are turned away.

    Args:
        most: how many may wait.
    """

    def __init__(self, most: int) -> None:
        self._most, self._waiting, self._free = most, 0, asyncio.Lock()

    async def __aenter__(self) -> None:
        if self._free.locked() and self._waiting >= self._most:
            raise queue_full(self._waiting)
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1

    async def __aexit__(self, *_exception: object) -> None:
        self._free.release()
