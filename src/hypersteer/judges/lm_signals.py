"""Signals that a base LM gives of an answer: matches of states, likelihood gains, surprise.

One forward pass per answer reads `Text: RESPONSE`, a question, and the concept. It yields the
likelihood of the response alone, that of the concept after the response, and the states of the
response, which are compared with those of concept and instruction. A second pass reads the response
after the instruction. Concepts and instructions are read once each.

Shapes: T tokens of a text, D width, B background texts.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hypersteer.judges.calibration import Background
from hypersteer.judges.judge import Answer
from hypersteer.judges.lexical import carries, echo, repetition
from hypersteer.judges.similarity import Match, Space, best_tokens, best_words, mean_direction
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds, collate
from hypersteer.lm.hooks import capture
from hypersteer.lm.likelihood import in_batches, response_token_losses

OPENING = "Text:\n"
QUESTION = "\n\nThis text is about"
ASKING, ANSWERING = "Question:\n", "\n\nAnswer:\n"
NOTHING = "..."
"""Stands for the response where the concept is judged without one."""

BATCH = 16
LIMITS = {"response": 160, "concept": 48, "instruction": 96}
"""Most tokens that are read of each; what is longer is cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """Signals of one answer; more is better, in all of them.

    Attributes:
        match: likeness of the response's states to the concept's, at the lower layer, in standard
            deviations over background texts, above the mean of the background concepts.
        deep_match: the same at the upper layer.
        gain: log-likelihood of the concept's text after the response minus without it, nats per
            token.
        task_match: as `match`, for the instruction.
        deep_task_match: as `deep_match`, for the instruction.
        task_gain: log-likelihood of the response after the instruction minus on its own, nats per
            token.
        familiarity: mean log-likelihood of the response's tokens on its own, nats.
        novelty: minus the share of repeated sequences of three tokens.
        own_words: minus the share of the response's words that are the concept's.
    """

    match: float = 0.0
    deep_match: float = 0.0
    gain: float = 0.0
    task_match: float = 0.0
    deep_task_match: float = 0.0
    task_gain: float = 0.0
    familiarity: float = 0.0
    novelty: float = 0.0
    own_words: float = 0.0

    def by_name(self) -> dict[str, float]:
        """Return the signals as a mapping."""
        return asdict(self)


USED = {
    "concept": ("match", "deep_match", "gain"),
    "instruction": ("task_match", "deep_task_match", "task_gain", "own_words"),
    "fluency": ("familiarity", "novelty", "own_words"),
}
"""The signals that the calibration of each dimension reads."""


@dataclass(frozen=True, slots=True)
class _Target:
    """A concept or instruction: how it scores on the background, and what it is matched by."""

    ids: list[int]
    shapes: tuple[Tensor, Tensor]
    mean: Tensor
    std: Tensor
    alone: float = 0.0


class _Read(NamedTuple):
    """Of a response: its states at both layers as they are compared, and its own mean loss."""

    unit: list[Tensor]
    alone: float


class SignalReader:
    """Reads the signals of answers with one base LM.

    Args:
        lm: the base LM.
        background: texts, concepts and instructions to compare with.
        concept_only: leave the signals of instructions and `familiarity` at 0, for half the cost.
    """

    def __init__(self, lm: BaseLM, background: Background, *, concept_only: bool = False) -> None:
        self._lm = lm
        self._concept_only = concept_only
        self._layers = [lm.site(layer) for layer in background.layers]
        self._start = lm.chat.lead
        self._opening = [*self._start, *lm.chat.text(OPENING)]
        self._question = lm.chat.text(QUESTION)
        least = 2 * max(1, len(lm.chat.text(NOTHING)))
        lm.check_length(self._fixed() + least, "the likelihood judge")
        texts = [self._ids(text, "response") for text in background.texts]
        states = self._states([ids for ids in texts if ids])
        self._spaces = [
            Space.of([row[i] for row in states], background.components)
            for i in range(len(self._layers))
        ]
        self._texts = [self._unit(row) for row in states]
        self._known: dict[tuple[str, str], _Target] = {}
        self._concepts = self._targets("concept", background.concepts)
        others = () if concept_only else background.instructions
        self._instructions = self._targets("instruction", others)

    def read(self, answers: Sequence[Answer]) -> list[Signals]:
        """Read the signals of answers, in their order; those of an empty response are all 0.

        The result does not depend on the other answers, beyond rounding: 1e-4 in float32, about
        0.1 in bfloat16.
        """
        full = [i for i, answer in enumerate(answers) if answer.response.strip()]
        rows = [answers[i] for i in full]
        concepts = self._targets("concept", [row.concept for row in rows])
        asked = [] if self._concept_only else [row.instruction for row in rows]
        tasks = self._targets("instruction", asked)
        texts = [self._ids(row.response, "response") for row in rows]
        lengths = [len(t) + len(c.ids) for t, c in zip(texts, concepts, strict=True)]

        def run(part: list[int]) -> list[Tensor]:
            picked = ([texts[i] for i in part], [concepts[i] for i in part])
            if self._concept_only:
                return [signals for signals, _ in self._about_concepts(*picked)]
            return self._read_batch(*picked, [tasks[i] for i in part])

        found = [Signals()] * len(answers)
        for i, answer, ids, values in zip(
            full, rows, texts, in_batches(lengths, BATCH, run), strict=True
        ):
            found[i] = Signals(
                **dict(zip(Signals.__slots__, values.tolist(), strict=False)),
                novelty=-repetition(ids),
                own_words=-echo(answer.response, answer.concept),
            )
        return found

    def _read_batch(
        self, texts: list[list[int]], concepts: list[_Target], tasks: list[_Target]
    ) -> list[Float[Tensor, "7"]]:
        """Read the seven signals that take the base LM, of each row."""
        told = response_token_losses(self._lm, [self._task(task.ids) for task in tasks], texts)
        found = []
        for (signals, read), task, after in zip(
            self._about_concepts(texts, concepts), tasks, told, strict=True
        ):
            likeness = self._likeness(task, read.unit, best_words, self._instructions)
            gains = torch.tensor([read.alone - float(after.mean()), -read.alone])
            found.append(torch.cat([signals, likeness, gains]))
        return found

    def _about_concepts(
        self, texts: list[list[int]], concepts: list[_Target]
    ) -> list[tuple[Float[Tensor, "3"], _Read]]:
        """Read the three signals of concepts, and what else the pass tells, of each row."""
        before = [[*text, *self._question] for text in texts]
        after = [concept.ids for concept in concepts]
        prompts = [self._prompt()] * len(texts)
        if self._concept_only:  # the likelihood of the response itself is not asked for
            prompts = [PromptIds([*self._opening, *ids], len(self._start)) for ids in before]
        else:
            after = [[*first, *ids] for first, ids in zip(before, after, strict=True)]
        with capture(self._lm.blocks, self._layers) as states:
            losses = response_token_losses(self._lm, prompts, after)
        found = []
        start = len(self._opening)
        for row, (ids, concept, loss) in enumerate(zip(texts, concepts, losses, strict=True)):
            seen = slice(start, start + len(ids))
            unit = self._unit([states[site][row, seen].float().cpu() for site in self._layers])
            gain = concept.alone - float(loss[-len(concept.ids) :].mean())
            likeness = self._likeness(concept, unit, best_tokens, self._concepts)
            alone = 0.0 if self._concept_only else float(loss[: len(ids)].mean())
            found.append((torch.cat([likeness, torch.tensor([gain])]), _Read(unit, alone)))
        return found

    def _likeness(
        self, target: _Target, text: list[Tensor], match: Match, others: list[_Target]
    ) -> Float[Tensor, "2"]:
        """Return standard scores of a text's match with the target above that with the others."""

        def standard(one: _Target) -> Tensor:
            raw = torch.stack([match(s, t) for s, t in zip(one.shapes, text, strict=True)])
            return (raw - one.mean) / one.std

        return standard(target) - torch.stack([standard(other) for other in others]).mean(0)

    def _targets(self, kind: str, texts: Sequence[str]) -> list[_Target]:
        """Return concepts or instructions, each read once in the life of the reader."""
        new = [text for text in dict.fromkeys(texts) if (kind, text) not in self._known]
        ids = [self._ids(text, kind) for text in new]
        alone = self._alone(ids) if kind == "concept" and new else [0.0] * len(new)
        for text, row, states, loss in zip(new, ids, self._states(ids), alone, strict=True):
            self._known[kind, text] = self._target(kind, row, states, loss)
        return [self._known[kind, text] for text in texts]

    def _target(self, kind: str, ids: list[int], states: Tensor, alone: float) -> _Target:
        if kind == "concept":
            pieces = [str(self._lm.tokenizer.decode([i])) for i in ids]
            kept = [i for i, piece in enumerate(pieces) if carries(piece)] or list(range(len(ids)))
            shapes = [
                mean_direction(space.centred(state[kept]))
                for space, state in zip(self._spaces, states, strict=True)
            ]
            match = best_tokens
        else:
            shapes, match = self._unit(list(states)), best_words
        raw = torch.tensor(
            [[match(s, t) for s, t in zip(shapes, text, strict=True)] for text in self._texts]
        )
        std = raw.std(0, correction=0).clamp(min=1e-6)
        return _Target(ids, (shapes[0], shapes[1]), raw.mean(0), std, alone)

    def _alone(self, concepts: list[list[int]]) -> list[float]:
        """Return the mean loss of the concepts' tokens after no response."""
        before = [*self._lm.chat.text(NOTHING), *self._question]

        def run(part: list[int]) -> list[Tensor]:
            rows = [[*before, *concepts[i]] for i in part]
            losses = response_token_losses(self._lm, [self._prompt()] * len(rows), rows)
            return [loss[len(before) :].mean() for loss in losses]

        return [float(x) for x in in_batches([len(c) for c in concepts], BATCH, run)]

    @torch.no_grad()
    def _states(self, texts: list[list[int]]) -> list[Float[Tensor, "2 T D"]]:
        """Return states of texts at both layers; the blocks above do not run."""
        start = len(self._opening)

        def run(part: list[int]) -> list[Tensor]:
            rows = [texts[i] for i in part]
            batch = collate([self._prompt()] * len(rows), rows, pad_id=self._lm.chat.pad_id)
            with capture(self._lm.blocks, self._layers, stop=True) as states:
                self._lm.forward(batch.to(self._lm.device))
            both = torch.stack([states[site] for site in self._layers], 1).float().cpu()
            return [both[i, :, start : start + len(row)] for i, row in enumerate(rows)]

        return in_batches([len(text) for text in texts], BATCH, run)

    def _unit(self, states: Sequence[Tensor] | Tensor) -> list[Tensor]:
        return [space.unit(state) for space, state in zip(self._spaces, states, strict=True)]

    def _prompt(self) -> PromptIds:
        return PromptIds(self._opening, len(self._opening) - 1)

    def _task(self, instruction: list[int]) -> PromptIds:
        text = self._lm.chat.text
        ids = [*self._start, *text(ASKING), *instruction, *text(ANSWERING)]
        return PromptIds(ids, len(self._start))

    def _fixed(self) -> int:
        """Count the tokens read around the texts, where it is longest."""
        return max(len(self._opening) + len(self._question), len(self._task([]).ids))

    def _ids(self, text: str, kind: str) -> list[int]:
        """Return a text's tokens, cut to the limit of its kind; never none.

        A response's share of a small context window is what the longest concept leaves.
        """
        room = self._lm.context_window - self._fixed()
        limit = min(LIMITS[kind], room // 2)
        ids = self._lm.chat.text(text if kind == "response" else f" {text.strip()}")[:limit]
        return ids or self._lm.chat.text(" ")
