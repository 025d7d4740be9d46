"""The model `hypersteer` of lm-evaluation-harness (entry point of the group `lm_eval.models`).

Texts become tokens, and contexts are cut, as its own model `hf` does both, so that at strength 0
the scores are those of `hf`.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from hypersteer.config import from_dict
from hypersteer.config.harnesses import SteeredConfig
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import generate_texts
from hypersteer.errors import ConfigError, SteeringError, nearest, shown
from hypersteer.harnesses.likelihood import Continuation, Scored, score
from hypersteer.harnesses.steered import Steered, open_steered
from hypersteer.harnesses.texts import Texts
from hypersteer.lm.chat import PromptIds, length_batches
from hypersteer.lm.messages import Messages
from hypersteer.progress import ProgressBar
from hypersteer.values import as_whole

LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""What tasks call the most tokens of an answer."""

log = logging.getLogger(__name__)


@register_model("hypersteer")
class SteeredLM(LM):
    """A steered base LM, as `lm_eval --model hypersteer --model_args ...` makes it.

    Args:
        batch_size: most rows of a batch; a number, not `auto`.
        max_batch_size: of no effect, since it goes with `auto`.
        max_length: most tokens of context and continuation; by default the context window.
        max_gen_toks: most tokens of an answer where the task names no number.
        seed: of sampling; request r of a task has seed + r.
        steer_field: field of the task's documents that holds the steering prompt of each; an empty
            one is not steered.
        steered: who answers, already loaded, in place of the settings below.
        settings: fields of `hypersteer.config.harnesses.SteeredConfig`: `checkpoint`, `base`,
            `steer`, `edit`, `strength`, `scope`, `prompted`, `device`, `dtype`.

    Raises:
        SteeringError: for a setting that is unknown or cannot be, before anything is asked.
    """

    def __init__(
        self,
        *,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        seed: int = 0,
        steer_field: str | None = None,
        steered: Steered | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        del max_batch_size
        self.batch_size = _count("batch_size", batch_size)
        self.max_gen_toks = _count("max_gen_toks", max_gen_toks)
        self._seed, self._field = seed, steer_field
        length = None if max_length is None else _count("max_length", max_length)
        if steered is None:
            config = from_dict(SteeredConfig, settings, "--model_args")
            steered = open_steered(replace(config, device=_device(config.device)))
        elif settings:
            raise ConfigError(f"steered is given, and {min(settings)} as well; give one of them")
        if steer_field is not None and steered.steer is not None:
            raise ConfigError("both steer_field and steer or edit are given; give one of them")
        self.steered, self.lm, self.tokenizer = steered, steered.lm, steered.lm.tokenizer
        self.max_length = min(self.lm.context_window, length or self.lm.context_window)
        self._device, self._texts = self.lm.device, Texts(steered)

    @property
    def tokenizer_name(self) -> str:
        """What tells kept requests of this base LM from those of others."""
        return self.lm.name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the chat template, which the harness keeps with its results."""
        return str(self.tokenizer.chat_template) if chat_template else None

    def get_model_info(self) -> dict[str, Any]:
        """Return what is kept with the results: who answered, and what steered."""
        return {**self.steered.about(), "steer_field": self._field}

    def apply_chat_template(
        self, chat_history: Messages, add_generation_prompt: bool = True
    ) -> str:
        """Return the text of a chat; a steering prompt that it is to say comes later."""
        return self._texts.rendered(chat_history, begins=add_generation_prompt)

    def loglikelihood(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Return log-probability and greediness of continuations, each behind its context."""
        asked = [self._continuation(request) for request in requests]
        found = self._scored(asked, quiet=disable_tqdm)
        answers = [(one.logprob, one.greedy) for one in found]
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return answers

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the log-probability of whole texts, window by window.

        There is no prompt, so nothing says the steering prompt; all of the text is the response.
        """
        asked, owners = [], []
        for number, request in enumerate(requests):
            steer = self._steer(request)
            windows = get_rolling_token_windows(
                self._texts.ids(request.args[0]), self._texts.first, self.max_length, 1
            )
            for place, window in enumerate(windows):
                context, ids = make_disjoint_window(window)
                asked.append(self._behind(context, ids, steer, bare=place == 0))
                owners.append(number)
        sums = [0.0] * len(requests)
        for number, one in zip(owners, self._scored(asked, quiet=disable_tqdm), strict=True):
            sums[number] += one.logprob
        for request, total in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return sums

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return answers, each up to the first of its stop strings."""
        rows = [self._question(number, one) for number, one in enumerate(requests)]
        texts: dict[int, str] = {}
        sizes = [len(prompt.ids) for prompt, _, _ in rows]
        with ProgressBar("answers", len(rows), active=not disable_tqdm) as bar:
            for part in length_batches(sizes, rows=self.batch_size):
                prompts, steers, decodings = zip(*(rows[row] for row in part), strict=True)
                writers = self.steered.writers(prompts, steers)
                found = generate_texts(self.lm, prompts, writers, decodings)
                texts.update(zip(part, found, strict=True))
                bar.advance(len(part))
        for row, request in enumerate(requests):
            self.cache_hook.add_partial("generate_until", request.args, texts[row])
        return [texts[row] for row in range(len(requests))]

    def _scored(self, asked: Sequence[Continuation], *, quiet: bool) -> list[Scored]:
        """Return how likely continuations are; one without tokens is certain."""
        some = [one for one in asked if one.ids]
        with ProgressBar("likelihoods", len(some), active=not quiet) as bar:
            found = iter(score(self.steered, some, self.batch_size, bar.advance))
        return [next(found) if one.ids else Scored(0.0, greedy=True) for one in asked]

    def _continuation(self, request: Instance) -> Continuation:
        """Return the tokens of a context and what follows it, split where `hf` splits them."""
        context, continuation = request.args
        steer = self._steer(request)
        if not context:
            ids = self._texts.ids(continuation, special=False)
            if ids[:1] == [self._texts.first]:
                ids = ids[1:]
            return self._behind([self._texts.first], ids, steer, bare=True)
        context = self._texts.said(context, steer)
        spaces = len(context) - len(context.rstrip())
        if spaces:
            context, continuation = context[:-spaces], context[-spaces:] + continuation
        before, whole = self._texts.ids(context), self._texts.ids(context + continuation)
        return self._behind(before, whole[len(before) :], steer)

    def _behind(
        self, context: Sequence[int], ids: Sequence[int], steer: Any, *, bare: bool = False
    ) -> Continuation:
        """Return a continuation behind as much of its context as there is room for."""
        room = self.max_length + 1 - len(ids)
        if room < 1:
            raise SteeringError(
                f"a continuation has {len(ids)} tokens, but the context window {self.max_length}; "
                "it cannot be scored"
            )
        if len(context) > room:
            log.warning(
                "a context of %d tokens is cut to its last %d, so that it fits with its "
                "continuation into %d",
                len(context),
                room,
                self.max_length,
            )
        prompt = self._texts.prompt(context[-room:])
        if bare:
            prompt = PromptIds(prompt.ids, 0 if self.steered.reads_prompts else len(prompt.ids))
        return Continuation(prompt, list(ids), steer, bare)

    def _question(self, number: int, request: Instance) -> tuple[PromptIds, Any, Decoding]:
        """Return the prompt of an answer, what steers it, and how it is decoded."""
        context, given = request.args
        steer = self._steer(request)
        decoding = self._decoding(number, given)
        room = self.max_length - decoding.max_new_tokens
        if room < 1:
            raise ConfigError(
                f"max_gen_toks {decoding.max_new_tokens} leaves no room for a prompt in the "
                f"context window of {self.max_length} tokens; ask for fewer"
            )
        ids = self._texts.ids(self._texts.said(context, steer)) or [self._texts.first]
        if len(ids) > room:
            log.warning(
                "a prompt of %d tokens is cut to its last %d, so that an answer of %d fits",
                len(ids),
                room,
                decoding.max_new_tokens,
            )
        return self._texts.prompt(ids[-room:]), steer, decoding

    def _decoding(self, number: int, given: dict[str, Any]) -> Decoding:
        """Return how an answer is decoded, from the task's `generation_kwargs`."""
        options = dict(given)
        lengths = [options.pop(name, None) for name in LENGTHS]
        most = next((one for one in lengths if one is not None), self.max_gen_toks)
        until = options.pop("until", None) or ()
        if options.pop("do_sample", None) is False:
            options["temperature"] = 0.0
        stops = [until] if isinstance(until, str) else [one for one in until if one]
        return Decoding.of(
            {"seed": self._seed + number, **options, "max_new_tokens": most, "stop": stops},
            others=("until", "do_sample", *LENGTHS),
        )

    def _steer(self, request: Instance) -> Any:
        """Return what steers a request."""
        if self._field is None:
            return self.steered.steer
        if self.cache_hook.dbdict is not None:
            raise ConfigError(
                "--use_cache knows answers by their contexts only, and steer_field steers equal "
                "ones in different ways; leave out one of them"
            )
        if self._field not in request.doc:
            told = nearest(self._field, map(str, request.doc))
            raise ConfigError(f"the task's documents have no field '{self._field}'{told}")
        steer = request.doc[self._field] or None
        self.steered.check(steer)
        return steer


def _device(wanted: str | None) -> str | None:
    """Return where to load the base LM: `lm_eval` names `cuda:0` where its user names nothing."""
    absent = wanted is not None and wanted.startswith("cuda") and not torch.cuda.is_available()
    return None if absent else wanted


def _count(name: str, value: object) -> int:
    """Return a number of at least 1.

    Raises:
        ConfigError: naming what it is instead.
    """
    number = int(value) if isinstance(value, str) and value.isdecimal() else as_whole(value)
    if number is None or number < 1:
        why = "; there is no search for the largest" if str(value).startswith("auto") else ""
        raise ConfigError(f"{name} {shown(value)} is not a number above 0{why}; try 16")
    return number
