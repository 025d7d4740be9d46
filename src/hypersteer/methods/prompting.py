"""Prompting: the steering prompt is said, in the user or the system turn, as it is or rewritten."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import ClassVar

from hypersteer.concepts import Concept, text_key
from hypersteer.data.schema import Example
from hypersteer.data.sources import load_concepts
from hypersteer.edits.sites import Site
from hypersteer.endpoint.endpoint import Endpoint
from hypersteer.endpoint.replies import Reply, without_thoughts
from hypersteer.endpoint.settings import EndpointConfig
from hypersteer.errors import ConfigError, SteeringError
from hypersteer.learning.values import Asked, ConceptExamples, Cost, Done, Learned, Steering
from hypersteer.lm.base import BaseLM
from hypersteer.lm.flops import LMFlops
from hypersteer.lm.messages import Messages, Prompt, as_messages, prompted

Write = Callable[[list[str]], list[str]]
"""Requests to an LM -> its answers, one each."""

BATCH = 16
"""Requests that the base LM answers at a time."""

STEERED = "Follow this steering prompt in every answer: {}"
"""The system turn."""

REQUEST = """\
Rewrite this note as one clear instruction that tells an assistant how to answer any question. \
Write only the instruction.

Note: {concept}"""

REFUSAL = re.compile(
    r"(i'?m sorry|i am sorry|sorry\b|i can'?t\b|i cannot|i can not|i'?m unable|i am unable"
    r"|i'?m not able|as an ai\b|i won'?t\b|unfortunately)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompting:
    """The steering prompt as it is, put into the user turn; nothing is learnt.

    Source: the prompting baseline of AxBench (arXiv 2501.17148) without its rewriting LM, in the
    words of `hypersteer.data.batches.prompted`.
    """

    learns: ClassVar[bool] = False
    scales: ClassVar[bool] = False

    def fit(
        self, lm: BaseLM, site: Site, concepts: Sequence[ConceptExamples], done: Done | None = None
    ) -> Learned:
        """Learn nothing."""
        del lm, site, concepts, done
        return Learned()

    def steer(self, lm: BaseLM, site: Site, learned: Learned, asked: Sequence[Asked]) -> Steering:
        """Return the plain base LM, and prompts that hold the steering prompts."""
        del site, learned
        return Steering(lm, [self.given(one.prompt, one.concept.text) for one in asked], [])

    def given(self, prompt: Prompt, steering: str) -> Prompt:
        """Return a prompt that also says how to answer it."""
        return prompted(prompt, steering)


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemPrompting(Prompting):
    """The steering prompt as it is, in the system turn, where chat models expect such things.

    A base LM whose chat template has no system turn refuses it.
    """

    def given(self, prompt: Prompt, steering: str) -> Prompt:
        """Return chat messages; the steering prompt follows what the system says already."""
        system, messages = _apart(prompt)
        said = [str(message["content"]) for message in system] + [STEERED.format(steering)]
        return [{"role": "system", "content": "\n\n".join(said)}, *messages]


@dataclass(frozen=True, slots=True, kw_only=True)
class FewShotPrompting(Prompting):
    """The steering prompt in the user turn, after answered examples of other steering prompts.

    The examples are written answers of the bundled data, one to the first concept of each of the
    first `shots` kinds, so that they differ; never to a held-out concept or to the one asked for.

    Attributes:
        shots: examples.
    """

    shots: int = 3

    def __post_init__(self) -> None:
        most = len(_shown())
        if not 1 <= self.shots < most:
            raise ConfigError(f"shots {self.shots} is not between 1 and {most - 1}")

    def given(self, prompt: Prompt, steering: str) -> Prompt:
        """Return chat messages: question and answer of every example, then the prompt."""
        system, messages = _apart(prompted(prompt, steering))
        asked = str(prompt if isinstance(prompt, str) else messages[-1]["content"])
        others = [
            (concept, example)
            for concept, example in _shown()
            if text_key(concept) != text_key(steering) and example.prompt != asked
        ]
        shown = []
        for concept, example in others[: self.shots]:
            shown += [
                {"role": "user", "content": prompted(example.prompt, concept)},
                {"role": "assistant", "content": example.response},
            ]
        return [*system, *shown, *messages]


def _apart(prompt: Prompt) -> tuple[Messages, Messages]:
    """Return the system's message, if there is one, and the others."""
    messages = as_messages(prompt)
    count = int(messages[0]["role"] == "system")
    return messages[:count], messages[count:]


@cache
def _shown() -> list[tuple[str, Example]]:
    """Return an example of the first bundled concept of each kind, with that concept's text."""
    data = load_concepts("bundled")
    firsts: dict[str, Concept] = {}
    for concept in data.concepts:
        if not concept.held_out:
            firsts.setdefault(concept.kind, concept)
    return [(one.text, data.example(int(data.rows(one.id)[0]))) for one in firsts.values()]


@dataclass(frozen=True, slots=True, kw_only=True)
class RewrittenPrompting:
    """An LM first writes a steering instruction from each concept's text.

    Source: the prompting baseline of AxBench, where gpt-4o-mini writes it. Here any LM may; the
    default is the base LM itself, greedily, in other words and without worked examples. The user
    turn is the instruction, a blank line and the prompt (AxBench puts "Question: " before the
    prompt).
    An empty answer or a refusal falls back to the steering prompt as it is.

    `Learned.notes` holds, by concept id as a string, the `instruction` (empty after a fall-back)
    and a `note` that says why there is none. For a concept that `fit` has not seen it is written
    when it is asked for, each time anew.

    Attributes:
        model: a model behind an OpenAI-compatible endpoint that writes; empty for the base LM.
        base_url: where that endpoint is; by default OpenAI's.
        write: a function that writes, for a program of your own; it wins over `model`.
        max_new_tokens: most tokens of an instruction.
    """

    learns: ClassVar[bool] = False
    scales: ClassVar[bool] = False

    model: str = ""
    base_url: str | None = None
    write: Write | None = field(default=None, compare=False, repr=False)
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens {self.max_new_tokens} is not above 0")

    def fit(
        self, lm: BaseLM, site: Site, concepts: Sequence[ConceptExamples], done: Done | None = None
    ) -> Learned:
        """Have an instruction written for every concept.

        The cost counts the base LM's operations (two per weight and token of request and answer);
        those of another LM are not known here.

        Raises:
            SteeringError: if `write` does not give one answer per request, or a request does not
                fit the base LM's context window.
        """
        del site, done
        started = time.perf_counter()
        texts = [entry.concept.text for entry in concepts]
        answers = self._answers(lm, texts)
        own = self.write is None and not self.model
        return Learned(
            notes={
                str(entry.concept.id): instruction_of(answer)
                for entry, answer in zip(concepts, answers, strict=True)
            },
            cost=Cost.of_each(
                len(concepts),
                started=started,
                flops=_written_flops(lm, texts, answers) if own else 0.0,
            ),
        )

    def steer(self, lm: BaseLM, site: Site, learned: Learned, asked: Sequence[Asked]) -> Steering:
        """Return the plain base LM, and prompts that begin with the instruction.

        Raises:
            SteeringError: if `write` does not give one answer per request.
        """
        del site
        texts = {one.concept.id: one.concept.text for one in asked}
        strange = [id_ for id_ in texts if str(id_) not in learned.notes]
        answers = self._answers(lm, [texts[id_] for id_ in strange])
        fresh = {
            str(id_): instruction_of(answer) for id_, answer in zip(strange, answers, strict=True)
        }
        notes = {**learned.notes, **fresh}
        return Steering(lm, [_instructed(notes, one) for one in asked], [])

    def _answers(self, lm: BaseLM, texts: Sequence[str]) -> list[str]:
        """Return what the LM writes for each concept's text."""
        requests = [REQUEST.format(concept=text) for text in texts]
        if not requests:
            return []
        if self.write is not None:
            answers = list(self.write(requests))
        elif self.model:
            answers = self._asked(requests)
        else:
            for request, text in zip(requests, texts, strict=True):
                tokens = len(lm.chat.prompt(request).ids) + self.max_new_tokens
                lm.check_length(tokens, f"rewriting the concept {text[:40]!r}")
            parts = [requests[start : start + BATCH] for start in range(0, len(requests), BATCH)]
            answers = [
                answer
                for part in parts
                for answer in lm.generate(part, max_new_tokens=self.max_new_tokens)
            ]
        if len(answers) != len(requests):
            raise SteeringError(
                f"the writer gave {len(answers)} answers to {len(requests)} requests; it must "
                "give one each"
            )
        return answers

    def _asked(self, requests: Sequence[str]) -> list[str]:
        """Return the endpoint's replies; a failed one is empty, so that it falls back."""
        settings = EndpointConfig(
            model=self.model, base_url=self.base_url, max_tokens=self.max_new_tokens
        )
        messages = [[{"role": "user", "content": request}] for request in requests]
        replies = Endpoint(settings).complete(messages)
        return [reply.text if isinstance(reply, Reply) else "" for reply in replies]


def _instructed(notes: Mapping[str, Mapping[str, str]], asked: Asked) -> Prompt:
    instruction = notes[str(asked.concept.id)]["instruction"]
    if not instruction:
        return prompted(asked.prompt, asked.concept.text)
    return f"{instruction}\n\n{asked.prompt}"


def instruction_of(answer: str) -> dict[str, str]:
    """Return the first paragraph of an answer without quotes; a refusal is no instruction."""
    answer = without_thoughts(answer)
    paragraphs = [part.strip() for part in answer.split("\n\n") if part.strip()]
    text = " ".join(paragraphs[0].split()) if paragraphs else ""
    text = text.strip("\"'`* \u201c\u201d")
    if not text:
        return {"instruction": "", "note": "the answer was empty"}
    if REFUSAL.match(text.replace("\u2019", "'")):
        return {"instruction": "", "note": f"a refusal: {text}"}
    return {"instruction": text, "note": ""}


def _written_flops(lm: BaseLM, texts: Sequence[str], answers: Sequence[str]) -> float:
    """Count the operations of writing the answers to the requests, padding left out."""
    passes, found = LMFlops.of_lm(lm), 0
    for text, answer in zip(texts, answers, strict=True):
        prompt = len(lm.chat.prompt(REQUEST.format(concept=text)).ids)
        found += passes.generating(prompt, len(lm.chat.text(answer)))
    return found
