"""`/v1/chat/completions` and `/v1/completions`: from a request to a job, and back to an answer."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from hypersteer.config.serving import ServeConfig
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import TextStream
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds
from hypersteer.serving.apart import apart
from hypersteer.serving.errors import Refused, body_of
from hypersteer.serving.job import Job, Piece, Row
from hypersteer.serving.metrics import Metrics
from hypersteer.serving.plan import Known, Plan, plan_of, split_model
from hypersteer.serving.prompts import askings
from hypersteer.serving.replies import Replies
from hypersteer.serving.schema import MAX_STOPS, Asked, ChatRequest, CompletionRequest
from hypersteer.serving.served import Served

EVENTS = "text/event-stream"
CHAT_TOKENS = 512
"""Most tokens of a chat answer where the request names no number, as far as the window allows."""


class Completions:
    """Answers requests for completions.

    Args:
        served: checkpoints by name.
        known: what requests may name.
        config: limits.
        metrics: what is counted.
    """

    def __init__(
        self, served: dict[str, Served], known: Known, config: ServeConfig, metrics: Metrics
    ) -> None:
        self._served, self._known = served, known
        self._config, self._metrics = config, metrics

    async def answer(self, asked: ChatRequest | CompletionRequest, request: Request) -> Response:
        """Answer a request, whole or as a stream.

        Raises:
            Refused: for what cannot be done, before anything is sent.
        """
        name, suffix = split_model(asked.model, list(self._served))
        served = self._served[name]

        def prepare() -> tuple[Plan, list[Row]]:
            plan = plan_of(asked.steering, suffix, served.steerer, self._known, self._config)
            return plan, self._rows(asked, plan, served)

        plan, rows = await apart(prepare)
        job = Job(served.steerer, rows, self._config.max_seconds)
        served.worker.submit(job)
        self._metrics.prompt_tokens.inc(sum(len(row.prompt.ids) for row in rows))
        self._metrics.edits.inc(sum("text" in one for one in plan.told))
        form = "chat" if isinstance(asked, ChatRequest) else "text"
        replies = Replies(form, asked.model, served.steerer.lm, plan, job, asked.rivals)
        if not asked.stream:
            return JSONResponse(replies.whole(await self._all(job, served, request)))
        first = await self._next(job)
        events = self._events(job, first, replies, served, usage=asked.include_usage)
        return StreamingResponse(events, media_type=EVENTS, headers={"Cache-Control": "no-cache"})

    def _rows(
        self, asked: ChatRequest | CompletionRequest, plan: Plan, served: Served
    ) -> list[Row]:
        """Return the rows of a request: each prompt `n` times, every answer with its own seed."""
        lm = served.steerer.lm
        prompts = askings(asked, plan, served.steerer)
        if len(prompts) * asked.n > self._config.max_answers:
            raise Refused(
                f"{len(prompts) * asked.n} answers are asked for; at most "
                f"{self._config.max_answers} are given",
                param="n",
            )
        rows = []
        for prompt, steer, decided in prompts:
            decoding = self._decoding(asked, prompt, lm)
            rows += [
                Row(prompt, list(steer), one, TextStream(lm, one.stops), decided)
                for one in decoding.each(asked.n)
            ]
        return rows

    def _decoding(self, asked: Asked, prompt: PromptIds, lm: BaseLM) -> Decoding:
        """Return how an answer is decoded, with OpenAI's defaults."""
        assert isinstance(asked, (ChatRequest, CompletionRequest))
        if len(asked.stops) > MAX_STOPS:
            raise Refused(f"{len(asked.stops)} stop strings; at most {MAX_STOPS}", param="stop")
        wanted = asked.most_tokens
        if wanted is None:
            wanted = min(CHAT_TOKENS, self._config.max_new_tokens)
            wanted = max(1, min(wanted, lm.context_window - len(prompt.ids)))
        if wanted > self._config.max_new_tokens:
            raise Refused(
                f"max_tokens = {wanted} is more than this server's {self._config.max_new_tokens}",
                param="max_tokens",
            )
        seed = asked.seed if asked.seed is not None else time.time_ns() % (1 << 31)
        return Decoding(
            max_new_tokens=wanted,
            temperature=1.0 if asked.temperature is None else asked.temperature,
            top_p=asked.top_p or 1.0,
            top_k=asked.top_k or 0,
            min_p=asked.min_p or 0.0,
            repetition_penalty=asked.repetition_penalty or self._config.repetition_penalty,
            stop=asked.stops,
            seed=seed,
            logprobs=asked.rivals,
        )

    async def _next(self, job: Job) -> Piece:
        """Return the next piece of any answer.

        Raises:
            Refused: if that is an error.
        """
        event = await job.events.get()
        if isinstance(event, Refused):
            raise event
        self._metrics.first.observe(time.monotonic() - job.begun)
        return event

    async def _all(self, job: Job, served: Served, request: Request) -> list[Piece]:
        """Return all pieces of all answers; give up when the client is gone."""
        gone = asyncio.create_task(_gone(request))
        pieces: list[Piece] = []
        open_rows = len(job.rows)
        try:
            while open_rows:
                event = asyncio.create_task(job.events.get())
                await asyncio.wait({gone, event}, return_when=asyncio.FIRST_COMPLETED)
                if not event.done():
                    event.cancel()
                    raise Refused("the client is gone", 499)
                found = event.result()
                if isinstance(found, Refused):
                    raise found
                if not pieces:
                    self._metrics.first.observe(time.monotonic() - job.begun)
                pieces.append(found)
                open_rows -= found.ending is not None
        finally:
            gone.cancel()
            _give_up(job, served)
        return pieces

    async def _events(
        self, job: Job, first: Piece, replies: Replies, served: Served, *, usage: bool
    ) -> AsyncGenerator[str]:
        """Yield a stream's events; whoever stops reading gives the request up."""
        open_rows, piece = len(job.rows), first
        try:
            while True:
                yield _event(replies.chunk(piece))
                open_rows -= piece.ending is not None
                if not open_rows:
                    break
                event = await job.events.get()
                if isinstance(event, Refused):
                    yield _event(body_of(event))
                    return
                piece = event
            if usage:
                yield _event(replies.last())
            yield "data: [DONE]\n\n"
        finally:
            _give_up(job, served)


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


async def _gone(request: Request) -> None:
    """Return when the client closes the connection."""
    with suppress(Refused):
        while (await request.receive())["type"] != "http.disconnect":
            pass


def _give_up(job: Job, served: Served) -> None:
    if not all(row.over for row in job.rows):
        job.given_up = True
        served.worker.wake()
