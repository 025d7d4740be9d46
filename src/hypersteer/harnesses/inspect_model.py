"""The model provider `hypersteer/CHECKPOINT` of Inspect.

Requests of all samples run in one batch that never empties, as those of `hypersteer serve` do.
"""

import math
import secrets
from collections.abc import Sequence
from typing import Any

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    TopLogprob,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from hypersteer.config import from_dict
from hypersteer.config.harnesses import SteeredConfig
from hypersteer.config.serving import ServeConfig
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import TextStream
from hypersteer.engine.logprobs import TokenLogprob
from hypersteer.errors import ConfigError, SteeringError, nearest
from hypersteer.harnesses.inspect_steering import Steering
from hypersteer.harnesses.steered import open_steered
from hypersteer.serving.apart import run_apart
from hypersteer.serving.completions import CHAT_TOKENS
from hypersteer.serving.errors import Refused
from hypersteer.serving.job import Job, Piece, Row
from hypersteer.serving.metrics import Metrics
from hypersteer.serving.plan import Plan
from hypersteer.serving.worker import Worker

NO_CHECKPOINT = "none"
"""The name, behind `hypersteer/`, of a base LM without a checkpoint."""
EXTRA = ("steering", "repetition_penalty", "min_p")
"""What `extra_body` may hold."""
UNSUPPORTED = (
    "best_of",
    "frequency_penalty",
    "logit_bias",
    "modalities",
    "presence_penalty",
    "prompt_logprobs",
    "response_schema",
)
"""Settings of Inspect's that would change answers, and cannot be had."""
UNLIMITED = 1_000_000
ENDINGS = {"stop": "stop", "length": "max_tokens"}


class SteeredAPI(ModelAPI):
    """A steered base LM, as `inspect eval TASK --model hypersteer/CHECKPOINT -M ...` makes it.

    Answers are greedy unless `temperature` is given, and have at most 512 tokens unless
    `max_tokens` is. Without a seed every sampled answer is another one.

    Args:
        model_name: a checkpoint, as `hypersteer.load` takes it, such as `bundled`; `none` for a
            base LM alone, which `base` names.
        base_url: of no use here.
        api_key: of no use here.
        config: Inspect's settings of generation.
        batch_size: most answers that run at once.
        edits: folder of stored edits, which requests may name.
        model_args: fields of `hypersteer.config.harnesses.SteeredConfig` but `checkpoint`: `base`,
            `steer`, `edit`, `strength`, `scope`, `prompted`, `device`, `dtype`.

    Raises:
        SteeringError: for a setting that is unknown or cannot be.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008
        batch_size: int = 32,
        edits: str | None = None,
        **model_args: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        checkpoint = None if model_name == NO_CHECKPOINT else model_name
        if checkpoint is None and not model_args.get("base"):
            raise ConfigError(
                "hypersteer/none is a base LM without a checkpoint; name it with -M base=..."
            )
        given = from_dict(SteeredConfig, {**model_args, "checkpoint": checkpoint}, "-M")
        limits = ServeConfig(
            edits=edits,
            max_rows=batch_size,
            max_answers=batch_size,
            max_queue=UNLIMITED,
            max_seconds=math.inf,
            max_new_tokens=UNLIMITED,
        )
        self._steered = run_apart(open_steered, given)
        self._steering = Steering(self._steered, limits)
        self._lm, self._batch_size = self._steered.lm, batch_size
        self._worker = Worker(self._lm, limits, Metrics())

    def close(self) -> None:
        """Stop answering."""
        self._worker.close(0.0)

    def max_tokens(self) -> int:
        """Return the most tokens of an answer where Inspect is told none."""
        return CHAT_TOKENS

    def max_connections(self) -> int:
        """Return how many requests Inspect sends at once: as many as run in a batch."""
        return self._batch_size

    async def count_text_tokens(self, text: str) -> int:
        """Return the number of tokens of a text."""
        return len(self._lm.chat.text(text))

    async def tokenize(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return self._lm.chat.text(text)

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """Answer a chat.

        Raises:
            SteeringError: for tools, or what else cannot be done.
        """
        del tool_choice
        if tools:
            raise SteeringError(
                f"the tool '{tools[0].name}' is given, but steered models call no tools; take a "
                "task without"
            )
        extra = _extra(config)
        plan = self._steering.plan(extra.pop("steering", ...))
        prompt = self._lm.chat.prompt(plan.words([_message(one) for one in input]))
        room = self._lm.context_window - len(prompt.ids)
        if room < 1:
            return ModelOutput.from_content(self.model_name, "", stop_reason="model_length")
        decoding = _decoding(config, extra, room)
        rows = [
            Row(prompt, list(plan.steer), one, TextStream(self._lm, one.stops))
            for one in decoding.each(config.num_choices or 1)
        ]
        return self._output(rows, await self._answered(rows), plan)

    async def _answered(self, rows: Sequence[Row]) -> list[Piece]:
        """Return the pieces of all answers, once they are there.

        Raises:
            SteeringError: if one cannot be given.
        """
        try:
            job = Job(self._steered.who, rows, math.inf)
        except RuntimeError as error:
            raise SteeringError("answers need asyncio; leave out INSPECT_ASYNC_BACKEND") from error
        pieces: list[Piece] = []
        try:
            self._worker.submit(job)
            while not all(row.over for row in rows) or not job.events.empty():
                event = await job.events.get()
                if isinstance(event, Refused):
                    raise event
                pieces.append(event)
        except Refused as error:
            raise SteeringError(str(error)) from error
        finally:
            if not all(row.over for row in rows):
                job.given_up = True
                self._worker.wake()
        return pieces

    def _output(self, rows: Sequence[Row], pieces: Sequence[Piece], plan: Plan) -> ModelOutput:
        """Return answers as Inspect has them."""
        before, after = len(rows[0].prompt.ids), sum(row.tokens for row in rows)
        return ModelOutput(
            model=self.model_name,
            choices=[
                self._choice(row, [piece for piece in pieces if piece.row == number])
                for number, row in enumerate(rows)
            ],
            usage=ModelUsage(input_tokens=before, output_tokens=after, total_tokens=before + after),
            metadata={"steering": plan.told} if plan.told else None,
        )

    def _choice(self, row: Row, pieces: Sequence[Piece]) -> ChatCompletionChoice:
        told = [self._logprob(one) for piece in pieces for one in piece.logprobs]
        return ChatCompletionChoice(
            message=ChatMessageAssistant(
                content="".join(piece.text for piece in pieces),
                model=self.model_name,
                source="generate",
            ),
            stop_reason=ENDINGS.get(str(pieces[-1].ending), "unknown"),
            logprobs=None if row.decoding.logprobs is None else Logprobs(content=told),
        )

    def _logprob(self, one: TokenLogprob) -> Logprob:
        rivals = [TopLogprob(**self._spelled(*rival)) for rival in one.likeliest]
        return Logprob(**self._spelled(one.token, one.logprob), top_logprobs=rivals or None)

    def _spelled(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._lm.chat.decode([token])
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _message(message: ChatMessage) -> dict[str, Any]:
    """Return a message as a chat template takes it; what is no text is refused there."""
    content: Any = message.content
    if not isinstance(content, str):
        content = [{"type": one.type, "text": getattr(one, "text", None)} for one in content]
    return {"role": message.role, "content": content}


def _extra(config: GenerateConfig) -> dict[str, Any]:
    """Return what a request brings of our own, where all that it brings can be had.

    Raises:
        ConfigError: naming what cannot.
    """
    for name in UNSUPPORTED:
        if getattr(config, name, None):
            raise ConfigError(f"{name} is not supported; leave it out")
    extra = dict(config.extra_body or {})
    for name in extra:
        if name not in EXTRA:
            raise ConfigError(f"extra_body: unknown key '{name}'{nearest(name, EXTRA)}")
    return extra


def _decoding(config: GenerateConfig, extra: dict[str, Any], room: int) -> Decoding:
    """Return how an answer is decoded; it gets no longer than there is room for."""
    return Decoding(
        max_new_tokens=min(config.max_tokens or CHAT_TOKENS, room),
        temperature=config.temperature or 0.0,
        top_p=1.0 if config.top_p is None else config.top_p,
        top_k=config.top_k or 0,
        stop=tuple(config.stop_seqs or ()),
        seed=secrets.randbelow(1 << 31) if config.seed is None else config.seed,
        logprobs=(config.top_logprobs or 0) if config.logprobs else None,
        **extra,
    )
