"""How the base LM is its own teacher: prompted with guidance, or steered by a checkpoint."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from hypersteer.concepts import Concept
from hypersteer.config.synthesis import DistillationConfig
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import generate_ids
from hypersteer.engine.guidance import guided_ids
from hypersteer.engine.requests import as_given, as_request
from hypersteer.lm.base import BaseLM
from hypersteer.lm.messages import prompted
from hypersteer.steering import load
from hypersteer.synthesis.pools import PooledInstruction


class Asked(NamedTuple):
    """An instruction under a concept, its number among those, and the seed of its sampling."""

    concept: Concept
    instruction: PooledInstruction
    number: int
    seed: int


class SelfTeacher(Protocol):
    """Answers under concepts.

    Attributes:
        name: as the dataset calls it.
    """

    name: str

    def answer(self, asked: Sequence[Asked]) -> list[list[int]]:
        """Answer in one batch; return token ids. An answer does not depend on those beside it."""
        ...


class Guided:
    """The prompted base LM, pushed from what it says unprompted; see `engine.guidance`."""

    def __init__(self, lm: BaseLM, config: DistillationConfig) -> None:
        self._lm, self._config = lm, config
        self.name = f"{lm.name} ({lm.fingerprint}), prompted, guidance {config.guidance:g}"

    def answer(self, asked: Sequence[Asked]) -> list[list[int]]:
        """See `SelfTeacher`."""
        told = [prompted(one.instruction.text, one.concept.text) for one in asked]
        return guided_ids(
            self._lm,
            [self._lm.chat.prompt(text) for text in told],
            [self._lm.chat.prompt(one.instruction.text) for one in asked],
            _decoding(self._config, asked),
            self._config.guidance,
        )


class BySteering:
    """The base LM under the edits of a checkpoint, at each of some strengths in turn.

    Raises:
        CheckpointError: if it is no checkpoint, or belongs to another base LM.
    """

    def __init__(self, lm: BaseLM, config: DistillationConfig, checkpoint: str) -> None:
        self._lm, self._config = lm, config
        self._steerer = load(checkpoint, lm=lm)
        how = "prompted and steered" if config.prompted else "steered"
        self.name = f"{lm.name} ({lm.fingerprint}), {how} by {checkpoint}"

    def answer(self, asked: Sequence[Asked]) -> list[list[int]]:
        """See `SelfTeacher`."""
        strengths = self._config.strengths
        request = as_request(
            self._lm,
            [one.instruction.text for one in asked],
            [one.concept.text for one in asked],
            [strengths[one.number % len(strengths)] for one in asked],
            say=as_given if self._config.prompted else None,
        )
        writers = self._steerer.writers(request)
        return generate_ids(self._lm, request.prompts, writers, _decoding(self._config, asked))


def self_teacher(lm: BaseLM, config: DistillationConfig) -> SelfTeacher:
    """Return what the settings ask for."""
    if config.checkpoint is None:
        return Guided(lm, config)
    return BySteering(lm, config, config.checkpoint)


def _decoding(config: DistillationConfig, asked: Sequence[Asked]) -> Decoding:
    return Decoding(
        max_new_tokens=config.response_tokens,
        temperature=config.temperature,
        repetition_penalty=config.repetition_penalty,
        seed=tuple(one.seed for one in asked),
    )
