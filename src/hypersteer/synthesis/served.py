"""Where a teacher answers: at a server, or in an engine of ours on this machine."""

import importlib.util

from hypersteer.config.synthesis import NO_LM, SynthesisConfig, TeacherConfig
from hypersteer.endpoint.local_server import PACKAGE, EngineSettings, LocalServer
from hypersteer.endpoint.settings import EndpointConfig
from hypersteer.errors import ConfigError, EndpointError, nearest
from hypersteer.lm.catalogue import MODELS, find_known, names_gguf
from hypersteer.lm.fetch import gguf_file
from hypersteer.synthesis.prompts import Message

AT_A_SERVER, ON_THIS_MACHINE = 16, 4
"""Requests under way at once where settings do not say."""
ALL_EXAMPLES = 3
ENGINE_TOKENS, ENGINE_SHARE = 384, 3
"""A small model that goes on beyond so many tokens, or so many times a response, runs in circles;
such a reply is lost, so it had better end soon."""
ENGINE_TIMEOUT_S = 3600.0
"""Longest wait for one reply of an engine: a slow machine is no failure."""
BYTES_PER_TOKEN = 2
"""Fewer than any text has that people write, so that a request always fits."""
MESSAGE_TOKENS = 16
"""What a chat template puts around a message, at most."""
CONTEXT_STEP = 256


def on_this_machine(teacher: TeacherConfig) -> bool:
    """Return whether the teacher is a model that an engine of ours runs."""
    return teacher.kind == "endpoint" and teacher.base_url is None and names_gguf(teacher.model)


def check_teacher(config: SynthesisConfig) -> None:
    """See that the teacher can be had, as far as that is known without asking or fetching it.

    Raises:
        ConfigError: if a setting is out of range, or the model is an alias without a GGUF file, or
            nearly one.
        ModelError: if the file is missing.
        EndpointError: if the package that runs it is missing.
    """
    teacher = config.teacher
    if teacher.kind == "local":
        return
    endpoint_config(config)
    name = teacher.model
    if on_this_machine(teacher):
        if name.endswith(".gguf"):
            gguf_file(name)
        _check_packages(name)
    elif teacher.base_url is None:
        _check_alias(name)


def _check_packages(name: str) -> None:
    for package in (PACKAGE, "openai"):
        if importlib.util.find_spec(package) is None:
            raise EndpointError(
                f"teacher.model '{name}' runs on this machine, which needs the package {package}: "
                'pip install "hypersteer[local]"'
            )


def _check_alias(name: str) -> None:
    """Refuse what is an alias, or nearly one, but of nothing that an engine can run."""
    aliases = [model.alias for model in MODELS if model.file]
    if find_known(name) is not None:
        raise ConfigError(
            f"teacher.model '{name}' has no GGUF file that can be run on this machine; take one of "
            f"{', '.join(aliases)}, a .gguf file, or give the address of a server as "
            "teacher.base_url"
        )
    if "did you mean" in (told := nearest(name, aliases)):
        raise ConfigError(f"teacher.model '{name}' is no alias{told}")


def endpoint_config(config: SynthesisConfig, engine: LocalServer | None = None) -> EndpointConfig:
    """Return how the teacher is reached and asked.

    Args:
        config: the settings.
        engine: who is asked, where it is an engine of ours.

    Raises:
        ConfigError: if a setting is out of range.
    """
    wanted = config.teacher
    seed = config.seed if wanted.send_seed or engine is not None else None
    return EndpointConfig(
        model=wanted.model if engine is None else engine.name,
        base_url=wanted.base_url,
        api_key_env=wanted.api_key_env,
        temperature=wanted.temperature,
        max_tokens=most_tokens(config),
        token_limit="max_tokens" if engine is not None else wanted.token_limit,
        seed=seed,
        own_seeds=engine is not None,
        timeout_s=wanted.timeout_s if engine is None else ENGINE_TIMEOUT_S,
        concurrency=concurrency(wanted),
        retries=wanted.retries,
        backoff_s=wanted.backoff_s,
        input_price=None if engine is not None else wanted.input_price,
        output_price=None if engine is not None else wanted.output_price,
    )


def concurrency(teacher: TeacherConfig) -> int:
    """Return how many requests are under way at once."""
    if teacher.concurrency is not None:
        return teacher.concurrency
    return ON_THIS_MACHINE if on_this_machine(teacher) else AT_A_SERVER


def most_tokens(config: SynthesisConfig) -> int:
    """Return how many tokens a reply may have."""
    wanted = config.teacher.max_tokens
    if not on_this_machine(config.teacher):
        return wanted
    return min(wanted, max(ENGINE_TOKENS, ENGINE_SHARE * config.response_tokens))


def judges_positives(config: SynthesisConfig) -> bool:
    """Return whether a judge decides which positives pass."""
    if config.judging == "auto":
        return config.base_lm.name != NO_LM and on_this_machine(config.teacher)
    return config.judging == "on"


def examples(teacher: TeacherConfig) -> int:
    """Return how many worked examples are shown before a request."""
    if teacher.examples is not None:
        return teacher.examples
    return ALL_EXAMPLES if on_this_machine(teacher) else 0


def open_engine(config: SynthesisConfig, longest: Message) -> LocalServer:
    """Return the engine of a teacher; its model is fetched, and loaded when it is first asked.

    Args:
        config: the settings.
        longest: the longest request, which its context must hold with the reply.

    Raises:
        ModelError: if the model cannot be had.
        EndpointError: if the package that runs it is missing.
    """
    settings = EngineSettings(
        parallel=concurrency(config.teacher),
        context=context_for(longest, most_tokens(config)),
        threads=config.teacher.threads,
    )
    return LocalServer(gguf_file(config.teacher.model), settings)


def context_for(longest: Message, max_tokens: int) -> int:
    """Return the tokens that a request and its reply take, at most."""
    size = sum(len(message["content"].encode()) for message in longest)
    tokens = size // BYTES_PER_TOKEN + MESSAGE_TOKENS * len(longest) + max_tokens
    return -(-tokens // CONTEXT_STEP) * CONTEXT_STEP
