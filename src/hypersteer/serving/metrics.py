"""What a server counts of itself, as Prometheus reads it."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counters of one server; two servers in one process count apart.

    Attributes:
        requests: by path and status.
        tokens: of answers.
        prompt_tokens: of prompts.
        edits: steering prompts that edits were made for.
        waiting: requests that wait, by base LM.
        running: answers that run, by base LM.
        first: seconds to the first piece of an answer.
        whole: seconds of a whole request.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        new = self.registry
        self.requests = Counter(
            "hypersteer_requests", "Requests answered.", ["path", "status"], registry=new
        )
        self.tokens = Counter("hypersteer_tokens", "Tokens of answers.", registry=new)
        self.prompt_tokens = Counter("hypersteer_prompt_tokens", "Tokens of prompts.", registry=new)
        self.edits = Counter("hypersteer_edits", "Edits made of steering prompts.", registry=new)
        self.waiting = Gauge(
            "hypersteer_requests_waiting", "Requests that wait.", ["base_lm"], registry=new
        )
        self.running = Gauge(
            "hypersteer_answers_running", "Answers that run.", ["base_lm"], registry=new
        )
        self.first = Histogram(
            "hypersteer_first_piece_seconds",
            "Time to the first piece of text.",
            buckets=SECONDS,
            registry=new,
        )
        self.whole = Histogram(
            "hypersteer_request_seconds", "Time of a request.", buckets=SECONDS, registry=new
        )

    def text(self) -> bytes:
        """Return all of it in Prometheus's format."""
        return generate_latest(self.registry)
