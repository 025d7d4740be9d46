"""A judge that asks a large language model, as AxBench does: three separate calls per answer."""

from collections.abc import Callable, Sequence

from hypersteer.config import JudgeConfig
from hypersteer.endpoint.endpoint import Endpoint
from hypersteer.endpoint.replies import Failed, Reply
from hypersteer.endpoint.settings import EndpointConfig
from hypersteer.judges.judge import DIMENSIONS, Answer, Failure, Judgement, Rating
from hypersteer.judges.rubrics import VERSION, question, read_rating

EMPTY = Rating(0.0, "The response is empty.")


class LLMJudge:
    """Scores answers with the three rubrics, at the endpoint's temperature (by default 0).

    Unlike AxBench's judge, a failed call and a reply without a score are failures and not a 0, and
    an empty response is 0 without a call.

    Attributes:
        name: the model, its temperature and the version of the rubrics.
        endpoint: where it asks; its `usage` tells calls, failures and cost.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        config = endpoint.config
        heat = "default" if config.temperature is None else f"{config.temperature:g}"
        seed = "" if config.seed is None else f", seed {config.seed}"
        self.name = f"llm ({config.model}, temperature {heat}{seed}, rubrics {VERSION})"
        self.endpoint = endpoint

    @classmethod
    def from_config(cls, config: JudgeConfig) -> "LLMJudge":
        """Make the judge that an evaluation's settings describe."""
        settings = EndpointConfig(
            model=config.model,
            base_url=config.base_url,
            api_key_env=config.api_key_env,
            temperature=config.temperature,
            concurrency=config.concurrency,
            input_price=config.input_price,
            output_price=config.output_price,
        )
        return cls(Endpoint(settings))

    def judge(
        self, answers: Sequence[Answer], done: Callable[[int], object] | None = None
    ) -> list[Judgement | Failure]:
        """Judge answers, in their order; equal questions are asked once.

        Args:
            answers: what to judge.
            done: told how many more answers are finished, for progress bars; an answer counts for
                every third call that ends.

        Raises:
            EndpointError: where no answer can be judged at all; what was judged is kept on disk.
        """
        asked = [answer for answer in answers if answer.response.strip()]
        if done is not None and len(asked) < len(answers):
            done(len(answers) - len(asked))
        requests = [question(name, answer) for answer in asked for name in DIMENSIONS]
        replies = self.endpoint.complete(requests, done=_thirds(done))
        judged = iter(
            _judgement(replies[start : start + len(DIMENSIONS)])
            for start in range(0, len(replies), len(DIMENSIONS))
        )
        empty = Judgement(EMPTY, EMPTY, EMPTY)
        return [next(judged) if answer.response.strip() else empty for answer in answers]


def _judgement(replies: Sequence[Reply | Failed]) -> Judgement | Failure:
    """Read ratings from an answer's replies, or a failure that names what has none."""
    ratings: dict[str, Rating] = {}
    errors: list[str] = []
    for name, reply in zip(DIMENSIONS, replies, strict=True):
        if isinstance(reply, Failed):
            errors.append(f"{name}: {reply.error}")
            continue
        try:
            ratings[name] = read_rating(reply.text)
        except ValueError as error:
            errors.append(f"{name}: {error}")
    if errors:
        return Failure("; ".join(errors))
    return Judgement(**ratings)


def _thirds(done: Callable[[int], object] | None) -> Callable[[int], object] | None:
    """Turn counts of calls into counts of answers."""
    if done is None:
        return None
    calls = 0

    def count(more: int) -> None:
        nonlocal calls
        before, calls = calls, calls + more
        finished = calls // len(DIMENSIONS) - before // len(DIMENSIONS)
        if finished:
            done(finished)

    return count
