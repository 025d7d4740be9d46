"""Where answers end: the end of turn, stop strings, the most tokens, and broken numbers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hypersteer.engine.decoding import Decoding
from hypersteer.engine.protocol import Ending
from hypersteer.lm.base import BaseLM
from hypersteer.lm.finite import no_logits


class Endings:
    """Notes which rows of a running batch have ended, and why.

    Attributes:
        reasons: why each row ended that has, by number.
        errors: what went wrong in the rows that failed.

    Args:
        lm: the base LM.
        lenient: a row whose numbers break ends by itself, instead of all by an exception.
    """

    def __init__(self, lm: BaseLM, *, lenient: bool = False) -> None:
        self._lm, self._lenient = lm, lenient
        self.reasons: dict[int, Ending] = {}
        self.errors: dict[int, Exception] = {}
        self._decodings: dict[int, Decoding] = {}
        self._told: dict[int, float | None] = {}
        self._answers: dict[int, list[int]] = {}

    def watch(self, row: int, decoding: Decoding, told: float | None) -> None:
        """Begin with a row.

        Args:
            row: its number.
            decoding: how it is decoded.
            told: its strength, for messages; None where nothing is written.
        """
        self._decodings[row], self._told[row], self._answers[row] = decoding, told, []

    def forget(self, row: int) -> None:
        """Keep nothing of a row but why it ended."""
        for held in (self._decodings, self._told, self._answers):
            held.pop(row, None)

    def fail(self, rows: Sequence[int], error: Exception) -> None:
        """Let rows end by an error."""
        for row in rows:
            self.reasons[row], self.errors[row] = "failed", error

    def take(self, rows: Sequence[int], chosen: Tensor, logits: Tensor) -> dict[int, int]:
        """Return the new tokens of the rows that still run, by row number.

        An end of turn is not among them; the token that completes a stop string is.

        Args:
            rows: numbers of the rows of this step.
            chosen: their new tokens [R].
            logits: what they were chosen from [R, V].

        Raises:
            SteeringError: if the logits of a row that runs are not finite, unless it is lenient.
        """
        # Where a norm's squares overflow there is no NaN: all logits are the same. What is chosen
        # and whether it means anything come from the device at once.
        most = logits.amax(-1)
        sound = (most.isfinite() & (logits.amin(-1) < most)).to(chosen)
        tokens, finite = torch.stack([chosen, sound]).tolist()
        fresh: dict[int, int] = {}
        for row, token, fine in zip(rows, tokens, finite, strict=True):
            if row in self.reasons:
                continue
            if not fine:
                error = no_logits(self._told[row], self._lm.dtype)
                if not self._lenient:
                    raise error
                self.fail([row], error)
                continue
            if token in self._lm.chat.end_of_turn:
                self.reasons[row] = "stop"
                continue
            fresh[row] = token
            self._note(row, token)
        return fresh

    def _note(self, row: int, token: int) -> None:
        answer, decoding = self._answers[row], self._decodings[row]
        answer.append(token)
        stops = decoding.stops
        if stops and end_at(self._lm.chat.decode(answer), stops) is not None:
            self.reasons[row] = "stop"
        elif len(answer) == decoding.max_new_tokens:
            self.reasons[row] = "length"


def end_at(text: str, stops: Sequence[str]) -> int | None:
    """Return where the first stop string begins in a text; None if there is none in it."""
    found = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    return min(found, default=None)


def cut_at(text: str, stops: Sequence[str]) -> str:
    """Return the text before the first stop string."""
    return text[: end_at(text, stops)]


def certain(text: str, stops: Sequence[str]) -> str:
    """Return the beginning of a text that stays whatever follows it.

    What is left out is a broken character at its end, and the longest ending that is the beginning
    of a stop string.
    """
    text = text.rstrip("\ufffd")
    longest = max((len(stop) for stop in stops), default=0)
    for size in range(min(longest - 1, len(text)), 0, -1):
        if any(stop.startswith(text[-size:]) for stop in stops):
            return text[:-size]
    return text
