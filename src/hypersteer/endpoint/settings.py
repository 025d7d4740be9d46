"""How to reach an OpenAI-compatible server, and what to ask of it."""

import math
from dataclasses import dataclass
from typing import Literal

from hypersteer.errors import ConfigError

OPENAI = "https://api.openai.com/v1"
MOST_LOGPROBS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig:
    """A model behind an OpenAI-compatible server: OpenAI's, another provider's, or a local one."""

    model: str = "gpt-4o-mini"
    """Name of the model, as the server knows it."""
    base_url: str | None = None
    """Where the server is, most often ending in /v1; by default OpenAI's."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; a server of your own may need none."""
    temperature: float | None = 0.0
    """Of the sampling; none leaves it to the server (some models take no temperature)."""
    max_tokens: int = 512
    """Most tokens of a reply; a reply that needs more counts as failed."""
    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls that limit; OpenAI's reasoning models use the second name."""
    top_logprobs: int = 0
    """Above 0, as many likeliest first tokens come with each reply, with their probabilities; a
    reply may then stop after any number of tokens. OpenAI gives 20 at most."""
    seed: int | None = None
    """Sent with every request, plus the number of the sample; by default none is sent."""
    own_seeds: bool = False
    """Make each request's seed from its messages too. Under one seed for all, requests draw the
    same random numbers, so that a small model writes them alike."""
    timeout_s: float = 60.0
    """Longest wait for one reply, in seconds."""
    concurrency: int = 16
    """Most requests under way at once."""
    retries: int = 5
    """How often a request is tried again after a failure that may pass."""
    backoff_s: float = 1.0
    """Wait before the first retry, in seconds; it doubles each time, up to a minute."""
    cache: bool = True
    """Keep replies on disk, and never pay for the same one twice."""
    input_price: float | None = None
    """Dollars per million tokens sent; with both prices, costs are counted."""
    output_price: float | None = None
    """Dollars per million tokens received."""

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise ConfigError("model is empty: name a model that the server has")
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"base_url '{self.url}' does not start with http:// or https://")
        for name in ("max_tokens", "concurrency"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)} is below 1")
        if not 0 <= self.top_logprobs <= MOST_LOGPROBS:
            raise ConfigError(
                f"top_logprobs {self.top_logprobs} is not within 0 and {MOST_LOGPROBS}"
            )
        for name in ("temperature", "retries", "backoff_s", "input_price", "output_price"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ConfigError(f"{name} {value} is not 0 or more")
        if not 0 < self.timeout_s < math.inf:
            raise ConfigError(f"timeout_s {self.timeout_s} is not a positive number")
        if (self.input_price is None) != (self.output_price is None):
            raise ConfigError(
                f"input_price {self.input_price} and output_price {self.output_price}: "
                "set both or neither"
            )

    @property
    def url(self) -> str:
        """Where the server is."""
        return OPENAI if self.base_url is None else self.base_url

    def cost(self, input_tokens: int, output_tokens: int) -> float | None:
        """Return dollars for these tokens, or None where no prices are set."""
        if self.input_price is None or self.output_price is None:
            return None
        return (input_tokens * self.input_price + output_tokens * self.output_price) / 1e6
