"""The entry points: what vLLM loads where `VLLM_PLUGINS` names `hypersteer`."""

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from hypersteer.errors import ConfigError
from hypersteer.vllm_plugin.front import Front
from hypersteer.vllm_plugin.given import settings_of
from hypersteer.vllm_plugin.middleware import Steering
from hypersteer.vllm_plugin.questions import METHOD, Answer, Question, answers_of, asked
from hypersteer.vllm_plugin.together import Together

NAME = "hypersteer"


def register() -> None:
    """Let torch know our operator in each of vLLM's processes (group `vllm.general_plugins`)."""
    import hypersteer.vllm_plugin.op  # noqa: F401


class SteeringEndpoint:
    """Puts the field `steering` before vLLM's routes (group `vllm.endpoint_plugins`).

    Attributes:
        name: as `VLLM_PLUGINS` names it.
        required_tasks: what a server must do for this to make sense.
    """

    name = NAME
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._front: Front | None = None
        self._together: Together[Question, Answer] | None = None

    def attach_router(self, app: Any) -> None:
        """Stand before all routes, behind vLLM's own checks of the key."""
        app.add_middleware(Steering, front=self.front, decide=self.decide)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Read the settings once the engine is there.

        Raises:
            ConfigError: if the engine that answers steers nothing.
        """
        del state, args
        if engine_client is None:
            return
        config = engine_client.vllm_config
        wanted = "hypersteer.vllm_plugin.worker.SteeringWorker"
        if config.parallel_config.worker_cls != wanted:
            raise ConfigError(f"VLLM_PLUGINS names {NAME}, which needs --worker-cls {wanted}")
        model = config.model_config
        settings = settings_of(config.additional_config)
        self._front = Front(settings, model.model, longest=model.max_model_len)

        async def ask(questions: Sequence[Question]) -> list[Answer]:
            found = await engine_client.collective_rpc(METHOD, args=(asked(questions),))
            return answers_of(found[0])  # all ranks say the same

        self._together = Together(ask)

    def front(self) -> Front:
        """Return what requests are held against.

        Raises:
            ConfigError: on a server without an engine.
        """
        if self._front is None:
            raise ConfigError("this server has no engine that steers; leave out 'steering'")
        return self._front

    async def decide(self, question: Question) -> Answer:
        """Return what a worker decides; questions that come meanwhile go to it together."""
        assert self._together is not None, "rules are read by the front, which is made with it"
        return await self._together.ask(question)
