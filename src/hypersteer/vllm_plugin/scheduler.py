"""The scheduler: vLLM's own, which sets each steered request's cache salt before it is queued.

It runs in the engine's process, behind every way into vLLM, so no client can leave the salt out,
nor choose one of ours. Named on the command line with
`--scheduler-cls hypersteer.vllm_plugin.scheduler.new_scheduler`.
"""

import logging
from collections.abc import Callable
from copy import copy
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request

from hypersteer.errors import SteeringError
from hypersteer.vllm_plugin.front import Front
from hypersteer.vllm_plugin.given import settings_of
from hypersteer.vllm_plugin.payload import KEY, payload_of
from hypersteer.vllm_plugin.salt import clients_salt

log = logging.getLogger(__name__)

NAME = f"{__name__}.new_scheduler"
"""What `--scheduler-cls` must say."""


def new_scheduler(**given: Any) -> Scheduler:
    """Return vLLM's scheduler, asynchronous where vLLM's own would be, with salts set."""
    config = given["vllm_config"]
    front = Front(settings_of(config.additional_config), config.model_config.model)
    kind = SaltingAsyncScheduler if config.scheduler_config.async_scheduling else SaltingScheduler
    scheduler = kind(**given)
    scheduler.front = front
    return scheduler


def set_salt(front: Front, request: Request) -> None:
    """Set a request's cache salt from what steers it, and hash its blocks anew.

    A payload that no `Front` made, which only a program beside the server can hand over, steers
    nothing: the log tells why, and the answer ends after its first token. vLLM has no way to refuse
    a request so late.
    """
    before, payload = request.cache_salt, payload_of(request.sampling_params)
    if payload is None:
        request.cache_salt = clients_salt(before)
    else:
        try:
            _check_kind(request)
            request.cache_salt = front.salt(payload, request.prompt_token_ids or [], before)
        except SteeringError as error:
            log.error("request %s is cut off, it cannot be steered: %s", request.request_id, error)
            request.cache_salt = clients_salt(before)
            _leave_out(request)
    if request.cache_salt != before:
        request.block_hashes.clear()
        request.update_block_hashes()


def _leave_out(request: Request) -> None:
    """Take the payload out of a request, not out of those that share its parameters."""
    params = copy(request.sampling_params)
    assert params is not None
    assert params.extra_args is not None
    params.extra_args = {name: one for name, one in params.extra_args.items() if name != KEY}
    request.sampling_params, request.max_tokens = params, 1


def _check_kind(request: Request) -> None:
    """Refuse requests whose tokens are not all that they say.

    Raises:
        SteeringError: naming what they have.
    """
    for told, found in (
        ("prompt embeddings", request.prompt_embeds is not None),
        ("images or sounds", bool(request.mm_features)),
        ("input that streams", request.resumable),
    ):
        if found:
            raise SteeringError(f"a request with {told} is not steered; leave out 'steering'")


class SaltingScheduler(Scheduler):
    """vLLM's scheduler with salts."""

    front: Front

    def add_request(self, request: Request) -> None:
        """Set the salt, then queue the request."""
        _add(self.front, request, super().add_request)


class SaltingAsyncScheduler(AsyncScheduler):
    """vLLM's asynchronous scheduler with salts."""

    front: Front

    def add_request(self, request: Request) -> None:
        """Set the salt, then queue the request."""
        _add(self.front, request, super().add_request)


def _add(front: Front, request: Request, queue: Callable[[Request], None]) -> None:
    set_salt(front, request)
    queue(request)
