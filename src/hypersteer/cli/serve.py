"""`hypersteer serve`: an OpenAI-compatible server, with a steering prompt in every request."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import arg

from hypersteer.cli.options import Loading, missing_extra, parse
from hypersteer.config.serving import ServeConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Serve:
    """Serve checkpoints over HTTP, to OpenAI's clients and to the page at /ui.

    Requests say how to steer in a field `steering`, or behind the model's name:
    "smollm2-135m-instruct:talk like a pirate@0.8". docs/serving.md has all of it. Ctrl-C, or
    SIGTERM, finishes what runs.

    Examples:
      hypersteer serve
      hypersteer serve --model pirate=runs/demo --port 9000 --api-key-file key.txt
      hypersteer serve --condition health=health.safetensors --steer "deflect=see a doctor" \
        --rule "guard=if health then deflect"
    """

    config: Annotated[ServeConfig, arg(name="")] = field(default_factory=ServeConfig)
    loading: Annotated[Loading, arg(name="")] = field(default_factory=Loading)


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    args = parse(Serve, argv, "serve")

    def ready(address: str) -> None:
        print(f"{address}/v1 answers OpenAI's clients, {address}/ui is the page", flush=True)

    start(args.config, args.loading, ready, "serving")


def start(config: ServeConfig, loading: Loading, ready: Callable[[str], None], what: str) -> None:
    """Serve until interrupted.

    Args:
        config: what is served, and its limits.
        loading: the base LM.
        ready: called with the server's address once it answers.
        what: what needs the extra, where it is not installed.

    Raises:
        SteeringError: as `hypersteer.serving.run.serve`, or if the extra is not installed.
    """
    try:
        from hypersteer.serving.run import serve
    except ImportError as error:
        raise missing_extra(what, "serve", error) from error
    serve(config, lm=loading.lm, device=loading.device, dtype=loading.dtype, ready=ready)
