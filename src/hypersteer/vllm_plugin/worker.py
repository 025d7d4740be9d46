"""The worker: vLLM's own, with a hypernetwork beside the model and its edits in the forward pass.

Named on the command line with `--worker-cls hypersteer.vllm_plugin.worker.SteeringWorker`. On CPUs
vLLM runs its runner V1, whose batch is looked at before each forward pass; on GPUs its runner V2,
which asks the model for a state of its own (`hypersteer.vllm_plugin.model_state`).
"""

import logging
from typing import Any

import torch
from torch import nn
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    VocabParallelEmbedding,
)
from vllm.platforms import current_platform

from hypersteer.errors import ConfigError
from hypersteer.lm.finite import name_of
from hypersteer.vllm_plugin.deciding import Deciding
from hypersteer.vllm_plugin.front import Front
from hypersteer.vllm_plugin.given import settings_of
from hypersteer.vllm_plugin.making import Making, New, new_request
from hypersteer.vllm_plugin.op import name_table
from hypersteer.vllm_plugin.placing import blocks_of, check_engine, place
from hypersteer.vllm_plugin.running import Rows, Running
from hypersteer.vllm_plugin.scheduler import NAME as SCHEDULER
from hypersteer.vllm_plugin.table import Table

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as Worker
else:
    from vllm.v1.worker.gpu_worker import Worker  # type: ignore[assignment]

log = logging.getLogger(__name__)


class SteeringWorker(Worker):
    """vLLM's worker with steering.

    Attributes:
        running: the steered requests of runner V1; None under runner V2.
        deciding: decides rules; None where none are taken.
    """

    running: Running | None = None
    deciding: Deciding | None = None
    _stepping = False

    def load_model(self, *, load_dummy_weights: bool = False) -> None:
        """Load the model, the hypernetwork beside it, and place the operator.

        Raises:
            ConfigError: for settings under which requests would be steered wrongly.
        """
        config = self.vllm_config
        second = bool(config.use_v2_model_runner)
        check_engine(config, scheduler=SCHEDULER)
        if not second and not current_platform.is_cpu():
            raise ConfigError(
                "the hypersteer plug-in serves GPUs through vLLM's runner V2 only; leave "
                "VLLM_USE_V2_MODEL_RUNNER unset"
            )
        model = config.model_config
        front = Front(settings_of(config.additional_config), model.model)
        device, dtype = str(self.device), name_of(model.dtype)
        making = Making(front, model.model, device=device, dtype=dtype)
        self.deciding = making.deciding
        table = Table(
            front.limits.places,
            rank=front.limits.rank,
            width=front.skeleton.width,
            rows=config.scheduler_config.max_num_seqs,
            tokens=config.scheduler_config.max_num_batched_tokens,
            device=self.device,
            fixed=second,
        )
        name = name_table(table)
        if second:
            from hypersteer.vllm_plugin.model_state import SteeringState, register

            register(model, name, table.sites, Rows(table, making))
            super().load_model(load_dummy_weights=load_dummy_weights)
            runner: Any = self.model_runner
            if not isinstance(runner.model_state, SteeringState):
                raise ConfigError(
                    f"vLLM built '{model.model}' without the hypersteer plug-in's state, so "
                    "nothing would be steered; start vLLM in a process of its own"
                )
        else:
            super().load_model(load_dummy_weights=load_dummy_weights)
            served = self.model_runner.get_model()
            place(blocks_of(served, front.skeleton.depth), table.sites, name)
            self.running = Running(table, making)
            served.register_forward_pre_hook(self._point, with_kwargs=True)
        share(self.model_runner.get_model(), making)

    def decide_rules(self, text: str) -> str:
        """Return what rules decide on prompts; see `hypersteer.vllm_plugin.questions`.

        It is called by its name, `METHOD`, between two steps of the engine.

        Raises:
            ConfigError: if no rules are taken.
        """
        if self.deciding is None:
            raise ConfigError("this server takes no rules; start it with 'rules'")
        return self.deciding.answer(text)

    def execute_model(self, scheduler_output: Any) -> Any:
        """Run a step; the edits of requests that are new in it are made before, in one pass."""
        if self.running is None:
            return super().execute_model(scheduler_output)
        self.running.begin(
            scheduler_output.finished_req_ids,
            new_requests(scheduler_output),
            scheduler_output.num_scheduled_tokens,
        )
        self._stepping = True
        try:
            return super().execute_model(scheduler_output)
        finally:
            self._stepping = False
            self.running.rest()

    def _point(self, _model: nn.Module, _args: tuple, given: dict[str, Any]) -> None:
        """Point the tokens of the coming forward pass to their edits; trial runs have none."""
        if not self._stepping:
            return
        runner: Any = self.model_runner
        count = runner.input_batch.num_reqs
        assert self.running is not None
        self.running.point(
            runner.input_batch.req_ids[:count],
            runner.query_start_loc.np[: count + 1],
            given["positions"],
        )


def new_requests(scheduler_output: Any) -> list[tuple[str, New]]:
    """Return the steered ones among the requests that are scheduled for the first time."""
    return [
        (one.req_id, new)
        for one in scheduler_output.scheduled_new_reqs
        if (new := new_request(one)) is not None
    ]


def share(model: nn.Module, making: Making) -> None:
    """Let the hypernetwork read the embeddings of the model that is served."""
    tables = [
        one
        for one in model.modules()
        if isinstance(one, VocabParallelEmbedding) and not isinstance(one, ParallelLMHead)
    ]
    weight = getattr(tables[0], "weight", None) if len(tables) == 1 else None
    if isinstance(weight, torch.Tensor):
        making.share_embeddings(weight.data)
        return
    log.warning("the served model's embeddings were not found, so a copy of them stays in memory")
