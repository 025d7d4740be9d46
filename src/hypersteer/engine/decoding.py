"""How to decode, as callers ask for it: every value checked before any model work."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from hypersteer.errors import ConfigError, nearest, short
from hypersteer.values import as_real, as_whole

SEEDS = range(-(2**63), 2**64)
"""What torch takes for a seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How to decode.

    Numbers may be Python's, numpy's or torch's.

    Attributes:
        max_new_tokens: most tokens generated per row.
        temperature: 0 is greedy, and then the next three mean nothing.
        top_p: nucleus of sampling; 1 keeps every token.
        top_k: sample among so many of the likeliest tokens; 0 keeps every token.
        min_p: sample among tokens at least this share as likely as the likeliest; 0 keeps all.
        repetition_penalty: above 1 weakens tokens that the prompt or the answer holds already.
        stop: the text ends before the first of these that occurs in it; a text, or several.
        seed: one seed (row r of a batch uses seed + r), or one per row.
        logprobs: where an engine is asked for them, note the log-probability of every token, and
            so many of the likeliest in its place; None notes nothing.

    Raises:
        ConfigError: naming the value that is out of range, and its range.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: str | Sequence[str] = ()
    seed: int | Sequence[int] = 0
    logprobs: int | None = None

    def __post_init__(self) -> None:
        tokens = as_whole(self.max_new_tokens)
        if tokens is None or tokens < 1:
            given = _told(self.max_new_tokens, tokens)
            raise ConfigError(f"max_new_tokens {given} is not a number above 0")
        kept = as_whole(self.top_k)
        if kept is None or kept < 0:
            given = _told(self.top_k, kept)
            raise ConfigError(f"top_k {given} is not 0 or more; 0 keeps every token")
        found: dict[str, Any] = {"max_new_tokens": tokens, "top_k": kept}
        found["temperature"] = self._real("temperature", 0, math.inf, "not 0 or more; 0 is greedy")
        found["top_p"] = self._real(
            "top_p", 0, 1, "outside (0, 1]; 1 keeps every token", above=True
        )
        found["min_p"] = self._real("min_p", 0, 1, "outside [0, 1]; 0 keeps every token")
        found["repetition_penalty"] = self._real(
            "repetition_penalty", 0, math.inf, "not above 0; 1 is no penalty", above=True
        )
        if self.logprobs is not None:
            most = as_whole(self.logprobs)
            if most is None or most < 0:
                raise ConfigError(f"logprobs {_told(self.logprobs, most)} is not 0 or more")
            found["logprobs"] = most
        found["stop"] = self.stops
        found["seed"] = _seeds(self.seed)
        for name, value in found.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, options: Mapping[str, Any], others: Iterable[str] = ()) -> "Decoding":
        """Return the settings that a caller gave by name.

        Args:
            options: names and values.
            others: what else the caller could have given, to find the nearest name.

        Raises:
            ConfigError: for an unknown name, or a value out of range.
        """
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise ConfigError(f"unknown option {name!r}{nearest(name, [*known, *others])}")
        return cls(**options)

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return _stops(self.stop)

    @classmethod
    def per_row(
        cls, options: Mapping[str, Any], rows: int, others: Iterable[str] = ()
    ) -> list["Decoding"]:
        """Return the settings of every row, from what a caller gave by name.

        A number may be a list with one for each row; so may `stop`, as a list of lists.

        Args:
            options: names and values.
            rows: how many rows there are.
            others: see `of`.

        Raises:
            ConfigError: for an unknown name, a value out of range, or a list of another length.
        """
        listed = {name: own for name, own in options.items() if _is_per_row(name, own)}
        for name, own in listed.items():
            if len(own) != rows:
                raise ConfigError(
                    f"{len(own)} values of '{name}' for {rows} prompts; give one, or one per prompt"
                )
        each = [
            cls.of({**options, **{name: own[row] for name, own in listed.items()}}, others)
            for row in range(rows if listed else 1)
        ]
        if not listed:
            return each[0].each(rows)
        seeds = each[0].seeds(rows)
        return [replace(one, seed=seed) for one, seed in zip(each, seeds, strict=True)]

    def each(self, rows: int) -> list["Decoding"]:
        """Return these settings for every row, each with its own seed.

        Raises:
            ConfigError: if the number of seeds is not the number of rows.
        """
        return [replace(self, seed=seed) for seed in self.seeds(rows)]

    def seeds(self, rows: int) -> Sequence[int]:
        """Return the seed of each row.

        Raises:
            ConfigError: if the number of seeds is not the number of rows, or one is out of range.
        """
        if not isinstance(self.seed, int):
            if len(self.seed) != rows:
                raise ConfigError(
                    f"{len(self.seed)} seeds for {rows} prompts; give one seed or one each"
                )
            return self.seed
        _check_seed(self.seed + rows - 1)
        return range(self.seed, self.seed + rows)

    def _real(
        self, name: str, least: float, most: float, fault: str, *, above: bool = False
    ) -> float:
        """Return a field as a float within its range; `above` leaves out its lower end."""
        value = as_real(getattr(self, name))
        if (
            value is None
            or not least <= value <= most
            or math.isinf(value)
            or (above and not value)
        ):
            raise ConfigError(f"{name} {_told(getattr(self, name), value)} is {fault}")
        return value


def _is_per_row(name: str, value: Any) -> bool:
    """Return whether a caller's value is one for each row; seeds are told apart elsewhere."""
    if name == "seed" or isinstance(value, (str, bytes, Mapping)):
        return False
    if name == "stop":
        return isinstance(value, (list, tuple)) and any(
            one is None or isinstance(one, (list, tuple)) for one in value
        )
    return isinstance(value, (list, tuple))


def _told(given: object, value: float | None) -> str:
    """Return a value as a message names it: the number that it is, if it is one."""
    return short(given if value is None else value)


def _stops(stop: object) -> tuple[str, ...]:
    found = () if stop is None else (stop,) if isinstance(stop, str) else stop
    if not isinstance(found, Iterable) or isinstance(found, (bytes, Mapping)):
        raise ConfigError(f"stop {short(stop)} is neither a text nor a list of texts")
    texts = tuple(found)
    for text in texts:
        if not isinstance(text, str) or not text:
            raise ConfigError(f"stop holds {short(text)}; give texts that are not empty")
    return texts


def _seeds(seed: Any) -> int | tuple[int, ...]:
    whole = as_whole(seed)
    if whole is not None:
        return _check_seed(whole)
    if not isinstance(seed, Iterable) or isinstance(seed, (str, bytes, Mapping)):
        raise ConfigError(f"seed {short(seed)} is not a whole number; give one, or one per prompt")
    try:
        several = list(seed)
    except TypeError:  # an array without dimensions says that it can be walked through
        several = [seed]
    return tuple(_check_seed(_whole(one)) for one in several)


def _whole(seed: object) -> int:
    whole = as_whole(seed)
    if whole is None:
        raise ConfigError(f"seed {short(seed)} is not a whole number; give one, or one per prompt")
    return whole


def _check_seed(seed: int) -> int:
    if seed not in SEEDS:
        raise ConfigError(f"seed {short(seed)} is out of range; give a number from 0 to 2**63 - 1")
    return seed
