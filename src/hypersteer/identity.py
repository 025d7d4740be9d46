"""Which base LM something was made for: told by architecture and weights, whatever their format.

An identity holds the sizes of a model, and for every group of weights their norm and a few random
projections, from which the distance between the weights of two models follows (Johnson and
Lindenstrauss 1984). Copies in bfloat16, float16, 8 or 4 bits, or from another file format, differ
by no more than their rounding, which an identity knows as well; a fine-tuned or merged model
differs by more, unless it hides in the rounding of a copy with few bits.
"""

import base64
import binascii
import logging
import math
import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

log = logging.getLogger(__name__)

PROJECTIONS = 12
"""Random projections of each group of weights."""

PREFIX = "hypersteer-lm-1"

TYPE = "type:"
"""Begins what stands for the base LM where a file of another tool tells a type of models alone."""

HALF = 0.002
"""Relative rounding error of bfloat16; weights are taken to be rounded that much at least."""

BAND = (0.7, 1.4)
"""The distance between a copy with few bits and its original, in units of its rounding. A distance
well below is no rounding either: it is what was changed after the weights had been rounded."""

BAND_OF_ONE = 2.5
"""The upper end for a single group, whose distance a few projections tell less precisely."""

MARGIN = 0.003
"""Added to limits: what conversions between formats change besides."""


@dataclass(frozen=True, slots=True, eq=False)
class Identity:
    """What tells one base LM from another.

    Attributes:
        architecture: sizes and kind, to be equal exactly.
        label: a short name of the weights for messages; other formats may have another.
        rounding: relative rounding error of the blocks' matrices, as far as it shows in them.
        norms: shape [P], norm of each of P groups of weights; NaN where they cannot be read. The
            groups are the embeddings, and of each block its matrices, then its norms and biases.
        projections: shape [P, K], random projections of each group, in units of its norm.
    """

    architecture: str
    label: str
    rounding: float
    norms: np.ndarray
    projections: np.ndarray

    def __str__(self) -> str:
        """Return one line of text, from which `parse` makes the identity again."""
        parts = self.norms.astype("<f4").tobytes() + self.projections.astype("<f2").tobytes()
        held = base64.b64encode(parts).decode("ascii")
        return f"{PREFIX}|{self.architecture}|{self.label}|{self.rounding:.4g}|{held}"

    @classmethod
    def parse(cls, text: str) -> "Identity":
        """Return the identity that a text was made from.

        Raises:
            ValueError: if it is none.
        """
        try:
            prefix, architecture, label, rounding, held = text.split("|")
            raw = base64.b64decode(held, validate=True)
        except (ValueError, binascii.Error) as error:
            raise ValueError("it is no identity of a base LM") from error
        groups, rest = divmod(len(raw), 4 + 2 * PROJECTIONS)
        if prefix != PREFIX or rest or not groups:
            raise ValueError("it is no identity of a base LM")
        norms = np.frombuffer(raw, "<f4", groups).astype(np.float64)
        projections = np.frombuffer(raw, "<f2", offset=4 * groups).astype(np.float64)
        return cls(architecture, label, float(rounding), norms, projections.reshape(groups, -1))

    def difference(self, other: "Identity") -> str:
        """Return in what two base LMs differ, for a message; empty if they are the same."""
        if self.architecture != other.architecture or len(self.norms) != len(other.norms):
            return f"it is {self.architecture}, not {other.architecture}"
        distances = self._distances(other)
        # Formats with few bits spare norms and biases, and updates most often the embeddings.
        matrices = distances[1::2]
        if not np.isfinite(matrices).any():
            return ""
        expected = math.hypot(max(self.rounding, HALF), max(other.rounding, HALF))
        together, worst = float(np.sqrt(np.nanmean(matrices**2))), float(np.nanmax(distances))
        negligible = together <= BAND[1] * math.hypot(HALF, HALF) + MARGIN
        # Two copies with few bits each may be of one another, which brings them closer.
        least = BAND[0] * expected if min(self.rounding, other.rounding) <= HALF else 0.0
        explained = least <= together <= BAND[1] * expected + MARGIN
        if not negligible and not explained:
            return _off("its weights differ", together, expected)
        if worst > BAND_OF_ONE * expected + 2 * MARGIN:
            return _off("some weights differ", worst, expected)
        return ""

    def _distances(self, other: "Identity") -> np.ndarray:
        """Relative distance [P] of each group; NaN where not both could read it."""
        mine, theirs = (one.projections * one.norms[:, None] for one in (self, other))
        distance = np.sqrt(np.mean((mine - theirs) ** 2, axis=1))
        return distance / np.maximum(np.maximum(self.norms, other.norms), 1e-30)


def difference(stored: str, own: Identity, what: str) -> str:
    """Return in what a stored base LM differs from one at hand, for a message; empty if in none.

    A type alone refuses nothing, since tools name types in several ways; that it is another is
    told in a warning.

    Args:
        stored: `str(identity)`, or the fingerprint that an earlier version wrote, or `of_type`.
        own: identity of the one at hand.
        what: what was stored with it, such as `the edit 'x'`; named once in an advice to save it
            anew where it has a fingerprint only.
    """
    if stored.startswith(TYPE):
        theirs, mine = model_type(stored), own.architecture.partition(" ")[0]
        if _plain(theirs) != _plain(mine):
            _tell_type(what, theirs, mine)
        return ""
    try:
        return Identity.parse(stored).difference(own)
    except ValueError:
        if stored != own.label:
            return f"it is {stored}, not {own.label}"
    _advise(what)
    return ""


def of_type(name: str) -> str:
    """Return what stands for a base LM of which only its type is known, such as `llama`."""
    return f"{TYPE}{name}" if name else ""


def model_type(stored: str) -> str:
    """Return the type that Hugging Face gives a stored base LM; empty where it is not known."""
    if stored.startswith(TYPE):
        return stored.removeprefix(TYPE)
    try:
        return Identity.parse(stored).architecture.partition(" ")[0]
    except ValueError:
        return ""


def in_short(stored: str) -> str:
    """Return a stored base LM as a reader wants it: architecture and label, `unknown` if empty."""
    try:
        own = Identity.parse(stored)
    except ValueError:
        return stored.removeprefix(TYPE) or "unknown"
    return f"{own.architecture} ({own.label})"


def _plain(name: str) -> str:
    """Return a type without what tools spell in several ways: `gpt_neox`, `gemma3_text`."""
    return re.sub(r"[^a-z0-9]", "", name.lower().removesuffix("_text"))


@lru_cache(maxsize=256)
def _tell_type(what: str, theirs: str, mine: str) -> None:
    log.warning(
        "%s says that it is for a model of the type '%s', and this one is of the type '%s'; "
        "tools name some types differently, else take the model that it was made for",
        what,
        theirs,
        mine,
    )


@lru_cache(maxsize=256)
def _advise(what: str) -> None:
    log.warning(
        "%s was saved by an earlier version, which told base LMs apart by their embeddings only; "
        "save it anew",
        what,
    )


def same_base_lm(first: str, second: str) -> bool:
    """Return whether two stored texts (identities, or old fingerprints) name the same base LM."""
    if first == second:
        return True
    try:
        return not Identity.parse(first).difference(Identity.parse(second))
    except ValueError:
        return False


def described(text: str) -> str:
    """Return the base LM that a stored text names, for a message."""
    try:
        identity = Identity.parse(text)
    except ValueError:
        return text
    return f"{identity.label} ({identity.architecture})"


def _off(what: str, distance: float, expected: float) -> str:
    return f"{what} by {100 * distance:.2g} %, rounding by {100 * expected:.2g} %"
