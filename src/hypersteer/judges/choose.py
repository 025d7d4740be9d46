"""Which judge the settings ask for, and what it needs: models, an engine, a calibration."""

import importlib.util

from rich.console import Console

from hypersteer.config import JudgeConfig
from hypersteer.endpoint.endpoint import Endpoint
from hypersteer.endpoint.local_server import PACKAGE, EngineSettings, LocalServer
from hypersteer.endpoint.settings import EndpointConfig
from hypersteer.judges.judge import Judge
from hypersteer.judges.likelihood import LikelihoodJudge
from hypersteer.judges.local import LocalJudge
from hypersteer.judges.local_calibration import LocalCalibration
from hypersteer.judges.yes_no import Asker, EndpointAsker, ModelAsker, reading
from hypersteer.lm.base import BaseLM
from hypersteer.lm.bfloat16 import bf16_is_faster
from hypersteer.lm.catalogue import find_known, names_gguf
from hypersteer.lm.fetch import gguf_file
from hypersteer.lm.load import load_lm
from hypersteer.lm.stored import stored_gguf

ASKED = "qwen2.5-coder-1.5b-instruct"
"""Which model is asked where none is named."""
SMALL, OTHER = "smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct"
"""Who measures fluency: the first, and the second where the first is what is steered."""
CONTEXT = 4096
"""Tokens of a question with the examples. Questions come one at a time: more at once are no faster
on a CPU, and a text that one slot of the engine holds would be read again in another."""

ADVICE = (
    "judging by the base LM's own likelihoods; for an independent judge: pip install "
    f'"hypersteer[local]", hypersteer models get {ASKED}, hypersteer models get {OTHER}'
)


def make_judge(config: JudgeConfig, lm: BaseLM) -> Judge:
    """Make the judge that settings ask for; a local engine is started when it is first asked.

    Args:
        config: the settings.
        lm: the base LM whose answers are judged.

    Raises:
        SteeringError: if a model, a package, a key or a calibration is missing.
    """
    kind = config.kind
    if kind == "auto":
        kind = "local" if config.base_url or _at_hand(config, lm) else "likelihood"
        if kind == "likelihood":
            Console(stderr=True).print(ADVICE, markup=False, highlight=False, soft_wrap=True)
    if kind == "llm":
        from hypersteer.judges.llm import LLMJudge  # needs an extra

        return LLMJudge.from_config(config)
    if kind == "likelihood":
        return LikelihoodJudge.from_config(config, lm)
    calibration = LocalCalibration.load(config.calibration)
    measuring = _measuring(config, lm)
    asker = open_asker(config)
    return LocalJudge(asker, measuring, calibration, _shared(config, lm, measuring))


def _at_hand(config: JudgeConfig, lm: BaseLM) -> bool:
    """Return whether a local judge can be had without fetching anything."""
    if importlib.util.find_spec(PACKAGE) is None or importlib.util.find_spec("openai") is None:
        return False
    wanted = [config.model or ASKED, config.fluency_lm or _fluency_name(lm)]
    known = [find_known(name) for name in wanted]
    return all(model is None or stored_gguf(model) is not None for model in known)


def open_asker(config: JudgeConfig) -> Asker:
    """Open the model that is asked: behind a server, in an engine of ours, or in this process.

    Args:
        config: `model` says which, and `base_url` whether it is behind a server.

    Raises:
        SteeringError: if the model, or the package that runs it, is missing.
    """
    name = config.model or ASKED
    if config.base_url is not None:
        settings = EndpointConfig(
            model=name,
            base_url=config.base_url,
            api_key_env=config.api_key_env,
            concurrency=config.concurrency,
            input_price=config.input_price,
            output_price=config.output_price,
        )
        return EndpointAsker(Endpoint(reading(settings)))
    if names_gguf(name):
        engine = EngineSettings(parallel=1, context=CONTEXT, threads=config.threads)
        server = LocalServer(gguf_file(name), engine)
        settings = EndpointConfig(model=server.name, concurrency=engine.parallel)
        return EndpointAsker(Endpoint(reading(settings), server))
    return ModelAsker(load_lm(name))


def _measuring(config: JudgeConfig, lm: BaseLM) -> BaseLM:
    """Return the model that measures fluency; the steered one itself where settings name it."""
    name = config.fluency_lm or _fluency_name(lm)
    if name == lm.name:
        return lm
    on_cpu = lm.device.type == "cpu"
    dtype = "bfloat16" if on_cpu and bf16_is_faster() else None
    return load_lm(name, device=str(lm.device), dtype=dtype)


def _fluency_name(lm: BaseLM) -> str:
    return OTHER if lm.name == SMALL else SMALL


def _shared(config: JudgeConfig, lm: BaseLM, measuring: BaseLM) -> str:
    """Say where a model that judges is the one that is steered."""
    same = [
        what
        for what, is_same in (
            ("asks", (config.model or ASKED) == lm.name),
            (
                "measures fluency by",
                measuring is lm or not lm.difference(str(measuring.identity), ""),
            ),
        )
        if is_same
    ]
    return f"; {' and '.join(same)} the steered model" if same else ""
