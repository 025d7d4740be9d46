"""Runner V2: the state that vLLM's model brings along, with one row of edits per request.

vLLM asks a model's class for `get_model_state_cls`. The worker registers a subclass of the served
model's class that answers with `SteeringState`, under the same name, in its own process only.
"""

from collections.abc import Sequence
from typing import Any

from torch import nn
from vllm.model_executor.models.registry import ModelRegistry
from vllm.v1.core.sched.output import NewRequestData
from vllm.v1.worker.gpu.input_batch import InputBatch
from vllm.v1.worker.gpu.model_states.default import DefaultModelState
from vllm.v1.worker.gpu.states import RequestState

from hypersteer.edits.sites import Site
from hypersteer.vllm_plugin.making import new_request
from hypersteer.vllm_plugin.placing import blocks_of, place
from hypersteer.vllm_plugin.running import Rows


class SteeringState(DefaultModelState):
    """Edits of all running requests, in the rows that vLLM gives these.

    All tensors that the forward pass reads are made before any CUDA graph is captured, and written
    in place. A request that was preempted comes back as a new one, and its edits are made again.
    """

    steered: Rows

    def add_request(self, req_index: int, new_req_data: NewRequestData) -> None:
        """Take in a request."""
        super().add_request(req_index, new_req_data)
        self.steered.add(new_req_data.req_id, req_index, new_request(new_req_data))

    def remove_request(self, req_id: str) -> None:
        """Forget a request."""
        super().remove_request(req_id)
        self.steered.remove(req_id)

    def apply_staged_writes(self) -> None:
        """Make the edits of all requests that are new in this step, in one pass."""
        super().apply_staged_writes()
        self.steered.write()

    def prepare_inputs(self, input_batch: InputBatch, req_states: RequestState) -> dict[str, Any]:
        """Point the tokens of the coming forward pass to their requests' rows."""
        self.steered.point(
            input_batch.idx_mapping,
            input_batch.query_start_loc,
            input_batch.positions,
            input_batch.num_tokens,
        )
        return super().prepare_inputs(input_batch, req_states)

    def prepare_dummy_inputs(self, num_reqs: int, num_tokens: int) -> dict[str, Any]:
        """Let trial runs, and what is captured, read rows without edits."""
        self.steered.rest()
        return super().prepare_dummy_inputs(num_reqs, num_tokens)


def register(config: Any, table: str, sites: Sequence[Site], steered: Rows) -> None:
    """Let vLLM build the model that it serves from a subclass with our state and operator.

    Args:
        config: vLLM's configuration of the model.
        table: name of the table.
        sites: of the table.
        steered: the running requests.
    """
    base, name = ModelRegistry.resolve_model_cls(config.architectures, config)
    state = type("SteeringState", (SteeringState,), {"steered": steered})
    depth = config.get_total_num_hidden_layers()

    # vLLM looks at the names of these arguments.
    def init(self: nn.Module, *, vllm_config: Any, prefix: str = "") -> None:
        base.__init__(self, vllm_config=vllm_config, prefix=prefix)
        place(blocks_of(self, depth), sites, table)

    members = {"__init__": init, "get_model_state_cls": staticmethod(lambda: state)}
    ModelRegistry.register_model(name, type(name, (base,), members))
