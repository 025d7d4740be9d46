"""What requests hold: OpenAI's fields, and `steering`. What is not supported is refused by name."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hypersteer.edits.sites import NamedScope

MAX_STOPS = 16
MAX_LOGPROBS = 20


class Strict(BaseModel):
    """A part of a request; what it does not know is refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Part(Strict):
    """One thing that steers: exactly one of `text`, `edit`, `rule` and `rules`."""

    text: str | None = Field(None, min_length=1)
    """A steering prompt."""
    edit: str | None = None
    """A stored edit, by its name."""
    rule: str | None = None
    """A rule of the server's, by its name."""
    rules: str | None = None
    """Rules as text, over the server's conditions; their edits are in `edits`."""
    edits: dict[str, str] = {}
    """Steering prompts, or `edit:NAME`, by the names that `rules` use."""
    tokens: bool = False
    """Also tell which tokens of the prompt decided the rules."""
    check: Literal["prompt", "token"] | Annotated[int, Field(ge=1)] = "prompt"
    """When rules decide: once on the prompt, at every token of the answer, or every so many."""
    strength: float = Field(1.0, allow_inf_nan=False)
    """Multiplies what it adds; 0 is unsteered, negative steers away."""
    scope: NamedScope | None = None
    """Which tokens a text's edit touches; by default as in training."""
    prompted: bool | None = None
    """Say the text in the prompt as well; by default as in training."""

    @model_validator(mode="after")
    def _one(self) -> "Part":
        kinds = ("text", "edit", "rule", "rules")
        given = [name for name in kinds if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a part is one of {', '.join(kinds)}, not {given or 'none of them'}")
        if self.edits and self.rules is None:
            raise ValueError("edits go with rules")
        if self.rules is None and self.rule is None:
            if self.tokens:
                raise ValueError("tokens goes with rules")
            if self.check != "prompt":
                raise ValueError("check goes with rules")
        if (self.scope is not None or self.prompted is not None) and self.text is None:
            raise ValueError("scope and prompted go with a text")
        return self


Steering = str | Part | list[str | Part] | None


class Asked(Strict):
    """The fields that chat and plain completions share."""

    model: str = Field(min_length=1)
    steering: Steering = None
    n: int = Field(1, ge=1)
    stream: bool = False
    stream_options: dict[Literal["include_usage"], bool] | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, allow_inf_nan=False)
    stop: str | list[str] | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    user: str | None = None
    """Whose request it is; taken, since clients send it, and of no effect."""
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    logit_bias: dict[str, float] | None = Field(None, max_length=0)

    @model_validator(mode="before")
    @classmethod
    def _zeros(cls, given: Any) -> Any:
        """Take 0.0 for 0, as clients send it."""
        if isinstance(given, dict):
            for name in ("frequency_penalty", "presence_penalty"):
                if given.get(name) == 0 and not isinstance(given.get(name), bool):
                    given = {**given, name: 0}
        return given

    @model_validator(mode="after")
    def _fits(self) -> "Asked":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options goes with stream")
        return self

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        found = [self.stop] if isinstance(self.stop, str) else list(self.stop or ())
        return [one for one in found if one]

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a count of its tokens."""
        return bool((self.stream_options or {}).get("include_usage"))


class ChatRequest(Asked):
    """`POST /v1/chat/completions`."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    response_format: dict[Literal["type"], Literal["text"]] | None = None

    @model_validator(mode="after")
    def _chat(self) -> "ChatRequest":
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_tokens and max_completion_tokens are one thing; give one")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs goes with logprobs")
        return self

    @property
    def most_tokens(self) -> int | None:
        """Most tokens of the answer, where that is said."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def rivals(self) -> int | None:
        """How many of the likeliest tokens are told beside each; None for no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(Asked):
    """`POST /v1/completions`: text goes on, with no chat template around it."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int | None = Field(16, ge=1)
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None

    @property
    def most_tokens(self) -> int | None:
        """Most tokens of the answer, where that is said."""
        return self.max_tokens

    @property
    def rivals(self) -> int | None:
        """How many of the likeliest tokens are told beside each; None for no log-probabilities."""
        return self.logprobs


class NewEdit(Strict):
    """`POST /v1/edits`: make an edit and keep it."""

    name: str
    text: str = Field(min_length=1)
    model: str | None = None
    prompt: str | None = None
    scope: NamedScope | None = None
    strength: float = Field(1.0, allow_inf_nan=False)
