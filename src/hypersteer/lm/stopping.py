"""Where answers end: the end of turn, stop strings, and numbers that are none any more."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hypersteer.lm.base import BaseLM
from hypersteer.lm.decoding import Decoding
from hypersteer.lm.finite import no_logits


class Endings:
    """Notes which rows of a running batch have ended.

    Args:
        lm: the base LM.
        decoding: how it decodes.
        finished: the rows that have ended, by number; added to.
        told: strength of every row, for messages; None where nothing is written.
    """

    def __init__(
        self,
        lm: BaseLM,
        decoding: Decoding,
        finished: set[int],
        told: Sequence[float] | None = None,
    ) -> None:
        self._lm = lm
        self._stops = decoding.stops
        self._finished = finished
        self._told = told
        self._answers: dict[int, list[int]] = {}

    def take(self, rows: Sequence[int], chosen: Tensor, logits: Tensor) -> dict[int, int]:
        """The new tokens of the rows that still run, by row number.

        An end of turn is not among them; the token that completes a stop string is.

        Args:
            rows: numbers of the rows of this step.
            chosen: their new tokens [R].
            logits: what they were chosen from [R, V].

        Raises:
            SteeringError: if the logits of a row that runs are not finite.
        """
        # Where a norm's squares overflow there is no NaN: all logits are the same. What is chosen
        # and whether it means anything come from the device at once.
        most = logits.amax(-1)
        sound = (most.isfinite() & (logits.amin(-1) < most)).to(chosen)
        tokens, finite = torch.stack([chosen, sound]).tolist()
        fresh: dict[int, int] = {}
        for row, token, fine in zip(rows, tokens, finite, strict=True):
            if row in self._finished:
                continue
            if not fine:
                raise no_logits(None if self._told is None else self._told[row], self._lm.dtype)
            if token in self._lm.chat.end_of_turn:
                self._finished.add(row)
                continue
            fresh[row] = token
            if self._stops and self._is_stopped(row, token):
                self._finished.add(row)
        return fresh

    def _is_stopped(self, row: int, token: int) -> bool:
        answer = self._answers.setdefault(row, [])
        answer.append(token)
        return end_at(self._lm.chat.decode(answer), self._stops) is not None


def end_at(text: str, stops: Sequence[str]) -> int | None:
    """Where the first stop string begins in a text; None if there is none in it."""
    found = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    return min(found, default=None)


def cut_at(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop string."""
    return text[: end_at(text, stops)]


def certain(text: str, stops: Sequence[str]) -> str:
    """The beginning of a text that stays whatever follows it.

    What is left out is a broken character at its end, and the longest ending that is the beginning
    of a stop string.
    """
    text = text.rstrip("\ufffd")
    longest = max((len(stop) for stop in stops), default=0)
    for size in range(min(longest - 1, len(text)), 0, -1):
        if any(stop.startswith(text[-size:]) for stop in stops):
            return text[:-size]
    return text
