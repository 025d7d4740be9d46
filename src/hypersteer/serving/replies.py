"""Answers in the form of OpenAI's two endpoints, whole and as the chunks of a stream."""

import time
import uuid
from collections.abc import Sequence
from typing import Any, Literal

from hypersteer.engine.logprobs import TokenLogprob
from hypersteer.lm.base import BaseLM
from hypersteer.serving.job import Job, Piece
from hypersteer.serving.plan import Plan

Form = Literal["chat", "text"]


class Replies:
    """Writes the answers to one request.

    Args:
        form: of chat completions, or of plain ones.
        model: as the client named it.
        lm: the base LM, which spells tokens.
        plan: what was applied.
        job: the request on its way.
        rivals: how many likely tokens are told beside each; None for no log-probabilities.
    """

    def __init__(
        self, form: Form, model: str, lm: BaseLM, plan: Plan, job: Job, rivals: int | None
    ) -> None:
        self._form, self._lm, self._plan, self._job = form, lm, plan, job
        self._rivals = rivals
        lead = "chatcmpl" if form == "chat" else "cmpl"
        self._head = {
            "id": f"{lead}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }
        self._offsets = [0] * len(job.rows)
        self._opened: set[int] = set()

    def whole(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Return the answers as one object."""
        choices = []
        for row in range(len(self._job.rows)):
            own = [piece for piece in pieces if piece.row == row]
            text = "".join(piece.text for piece in own)
            told = self._logprobs(row, [one for piece in own for one in piece.logprobs])
            ending = next((piece.ending for piece in own if piece.ending), None)
            choice: dict[str, Any] = {"index": row, "finish_reason": ending, "logprobs": told}
            if self._form == "chat":
                choice["message"] = {"role": "assistant", "content": text, "refusal": None}
            else:
                choice["text"] = text
            choices.append(choice)
        kind = "chat.completion" if self._form == "chat" else "text_completion"
        return {
            **self._head,
            "object": kind,
            "choices": choices,
            "usage": self.usage(),
            "steering": self._steering(range(len(self._job.rows))),
        }

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """Return a piece of an answer as a chunk of the stream; its last says what was applied."""
        told = self._logprobs(piece.row, piece.logprobs)
        choice: dict[str, Any] = {
            "index": piece.row,
            "finish_reason": piece.ending,
            "logprobs": told,
        }
        if self._form == "chat":
            delta: dict[str, Any] = {"content": piece.text} if piece.text else {}
            if piece.row not in self._opened:
                self._opened.add(piece.row)
                delta = {"role": "assistant", "content": piece.text}
            choice["delta"] = delta
        else:
            choice["text"] = piece.text
        made = self._chunk([choice])
        if piece.ending:
            made["steering"] = self._steering([piece.row])
        return made

    def last(self) -> dict[str, Any]:
        """Return the chunk that counts the tokens of a stream."""
        return {**self._chunk([]), "usage": self.usage()}

    def usage(self) -> dict[str, int]:
        """Count tokens of the prompts, each once, and of the answers."""
        distinct = {id(row.prompt): len(row.prompt.ids) for row in self._job.rows}
        prompt = sum(distinct.values())
        answers = sum(row.tokens for row in self._job.rows)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": answers,
            "total_tokens": prompt + answers,
        }

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self._form == "chat" else "text_completion"
        return {**self._head, "object": kind, "choices": choices}

    def _steering(self, rows: Sequence[int]) -> dict[str, Any] | None:
        """Return what was applied to some answers; None where nothing steers."""
        if not self._plan.told:
            return None
        answers = []
        for number in rows:
            row = self._job.rows[number]
            one: dict[str, Any] = {"index": number, "norm": round(row.written, 6)}
            if checks := row.checks():
                one["decisions"] = [check.as_dict() for check in checks]
            answers.append(one)
        return {"parts": self._plan.told, "answers": answers}

    def _logprobs(self, row: int, told: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if self._rivals is None:
            return None
        if self._form == "chat":
            content = [
                {
                    **self._spelled(one.token, one.logprob),
                    "top_logprobs": [
                        self._spelled(*rival) for rival in one.likeliest[: self._rivals]
                    ],
                }
                for one in told
            ]
            return {"content": content, "refusal": None}
        tokens = [self._text(one.token) for one in told]
        offsets = []
        for token in tokens:
            offsets.append(self._offsets[row])
            self._offsets[row] += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [one.logprob for one in told],
            "top_logprobs": [
                {self._text(token): value for token, value in one.likeliest} for one in told
            ],
            "text_offset": offsets,
        }

    def _spelled(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._text(token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    def _text(self, token: int) -> str:
        return self._lm.chat.decode([token])
