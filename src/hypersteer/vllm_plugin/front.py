"""What a request's `steering` is held against before any model work: no weights are loaded here.

vLLM runs in several processes. Each that looks at requests has a `Front` of its own, made from the
same settings: the API server turns the field `steering` into a payload and the words that the
prompt says, the engine checks a payload again before it sets the cache salt.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from hypersteer.checkpoint import find_checkpoint, generator_hash
from hypersteer.concepts import validate_steering_prompt
from hypersteer.config import LMConfig
from hypersteer.config.vllm_plugin import PluginConfig
from hypersteer.edits.edit import Edit
from hypersteer.edits.edit_set import EditSet, parts_of
from hypersteer.edits.kinds import EditKind
from hypersteer.edits.registry import KINDS, edit_kind
from hypersteer.edits.sites import Scope, Site, check_scope, check_strength
from hypersteer.errors import CheckpointError, ConfigError, SteeringError
from hypersteer.hypernet.card import Card, read_card
from hypersteer.hypernet.network import sites_of
from hypersteer.identity import described, same_base_lm
from hypersteer.lm.chat import common
from hypersteer.lm.finite import check_range
from hypersteer.lm.messages import Prompt
from hypersteer.lm.skeleton import Skeleton, open_skeleton
from hypersteer.serving.errors import Refused
from hypersteer.serving.given import part_of
from hypersteer.serving.plan import Plan, check_length
from hypersteer.serving.schema import Part
from hypersteer.serving.stored import StoredEdits
from hypersteer.vllm_plugin.given import TABLE
from hypersteer.vllm_plugin.payload import KEY, Steered, decoded, encoded, named, packed, unpacked
from hypersteer.vllm_plugin.salt import salt_of
from hypersteer.vllm_plugin.table import Place, blank_of, places_of


class Planned(NamedTuple):
    """What steers a request.

    Attributes:
        payload: for the engine; None for the unsteered model.
        plan: what the prompt says of it.
    """

    payload: str | None
    plan: Plan


class Front:
    """Reads and checks what steers requests.

    Attributes:
        config: the plug-in's settings.
        card: what the checkpoint says about itself.
        generator: hash of the hypernetwork's weights.
        skeleton: the base LM without its weights.
        places: where edits may go, with their kinds.
        rank: most directions of an edit.

    Args:
        config: the plug-in's settings.
        model: the model that vLLM serves: a folder or a Hub id.

    Raises:
        CheckpointError: if the checkpoint cannot be read.
        ConfigError: for a checkpoint whose edits cannot be served, or settings that do not fit.
        ModelError: if the base LM's configuration cannot be had.
    """

    def __init__(self, config: PluginConfig, model: str) -> None:
        self.config = config
        folder = find_checkpoint(config.checkpoint)
        self.card: Card = read_card(folder)
        self.generator = generator_hash(folder)
        name = self.card.hypernet.edit
        if name not in KINDS:
            raise ConfigError(
                f"'{config.checkpoint}' writes {name} edits, which act through their hypernetwork; "
                "the vLLM plug-in takes vector, low-rank and gated ones: serve it with "
                "'hypersteer serve'"
            )
        named(self.card.scope)
        self.skeleton: Skeleton = open_skeleton(LMConfig(name=config.lm or model), torch.float32)
        if self.skeleton.chat is None:
            raise ConfigError(f"'{config.lm or model}' has no tokenizer on this disk")
        self.chat = self.skeleton.chat
        self.rank = config.rank or self.card.hypernet.rank
        self.places = self._places()
        self._stored = StoredEdits(config.limits.edits_folder)

    def read(self, steering: Any) -> Planned:
        """Return what the field `steering` says: as our own server takes it, rules excepted.

        Args:
            steering: None, a steering prompt, a part (`text` or `edit`, `strength`, `scope`,
                `prompted`), or a list of these.

        Raises:
            Refused: for too much or too long of it, or for what is not known by a name.
            SteeringError: for what cannot steer here.
        """
        given = [] if steering is None else steering if isinstance(steering, list) else [steering]
        if len(given) > self.config.max_parts:
            raise Refused(
                f"{len(given)} parts steer; at most {self.config.max_parts} are taken",
                param="steering",
            )
        plan, parts = Plan(), []
        for one in given:
            part = part_of(one)
            if check_strength(part.strength) != 0:
                parts.append(self._steered(part, plan))
        if not parts:
            return Planned(None, plan)
        payload = encoded(parts)
        self.check(payload)
        return Planned(payload, plan)

    def request(self, prompt: Prompt, steering: Any) -> tuple[list[int], dict[str, str]]:
        """Return what vLLM's `LLM.generate` takes for a steered request.

        Args:
            prompt: a text, or chat messages.
            steering: see `read`.

        Returns:
            The prompt's token ids, what is said of steering among them, and `extra_args` for
            `SamplingParams`.

        Raises:
            SteeringError: for a prompt or steering that cannot be.
        """
        try:
            planned = self.read(steering)
        except Refused as error:
            raise SteeringError(str(error)) from error
        ids = self.chat.prompt(planned.plan.words(prompt)).ids
        if planned.payload is None:
            return ids, {}
        self.check(planned.payload, ids)
        return ids, {KEY: planned.payload}

    def check(self, payload: object, ids: Sequence[int] = ()) -> list[Steered]:
        """Return the parts of a payload, if the workers can make and apply all of their edits.

        Args:
            payload: the text.
            ids: the prompt's tokens, where they are known.

        Raises:
            SteeringError: naming what they cannot.
        """
        parts = decoded(payload)
        if len(parts) > self.config.max_parts:
            raise SteeringError(f"{len(parts)} parts; at most {self.config.max_parts} are taken")
        for one in parts:
            check_range([one.strength])
            if one.text is not None:
                self._check_text(one.text, ids)
            else:
                assert one.edit is not None
                self._check_edit(unpacked(one.edit))
        return parts

    def salt(self, payload: str, ids: Sequence[int], own: str | None) -> str:
        """Return the cache salt of a steered request; see `salt_of`.

        Raises:
            SteeringError: for a payload that `check` refuses.
        """
        scopes: list[Scope] = []
        for one in self.check(payload, ids):
            found = None if one.edit is None else parts_of(unpacked(one.edit))
            scopes += [one.scope] if found is None else [part.scope for part in found]
        whole = self.card.hypernet.variant != "no-context"
        prefix = self.prefix(ids)
        return salt_of(payload, self.generator, scopes, ids, prefix, whole=whole, own=own)

    def prefix(self, ids: Sequence[int]) -> int:
        """Return how many tokens of a prompt are the fixed chat prefix."""
        return min(common(ids, self.chat.prefix), len(ids) - 1)

    def _steered(self, part: Part, plan: Plan) -> Steered:
        """Return a part of the request; what it says in the prompt goes into the plan."""
        if part.rule is not None or part.rules is not None:
            raise Refused(
                "rules are not served through vLLM; leave them out, or use 'hypersteer serve'",
                param="steering",
                code="unsupported_parameter",
            )
        if part.edit is not None:
            self._stored.read(part.edit)  # so that what is damaged or unknown is told by its name
            edit = packed(self._stored.content(part.edit))
            return Steered(edit=edit, strength=part.strength)
        text = validate_steering_prompt(part.text)
        check_length(text, self.config.limits)
        say = self.card.prompted if part.prompted is None else part.prompted
        if say and part.strength > 0:
            plan.said.append(text)
        scope = check_scope(part.scope or self.card.scope)
        return Steered(text=text, scope=scope, strength=part.strength)

    def _check_text(self, text: str, ids: Sequence[int]) -> None:
        if len(text) > self.config.max_steering_chars:
            raise SteeringError(
                f"the steering prompt has {len(text):,} characters; at most "
                f"{self.config.max_steering_chars:,} are taken"
            )
        tokens = len(self.chat.lead) + len(self.chat.text(text))
        if self.card.hypernet.variant == "in-context" and ids:
            tokens += len(ids) - self.prefix(ids)
        if tokens > self.skeleton.context_window:
            raise SteeringError(
                f"what the hypernetwork reads has {tokens} tokens, but the base LM's window has "
                f"{self.skeleton.context_window}; shorten the steering prompt"
            )

    def _check_edit(self, edit: Edit | EditSet) -> None:
        for part in parts_of(edit):
            told = f"the edit '{part.steering_prompt}'"
            own = self.card.identity or self.card.fingerprint
            if part.base_lm and not same_base_lm(part.base_lm, own):
                raise CheckpointError(
                    f"{told} was made for the base LM {described(part.base_lm)}, another one than "
                    f"that of '{self.config.checkpoint}'; make it anew with this one"
                )
            named(part.scope)
            if part.width != self.skeleton.width:
                raise SteeringError(
                    f"{told} has width {part.width}, but the base LM has {self.skeleton.width}"
                )
            if Place(0, part.site, part.kind.name) not in self.places:
                raise SteeringError(
                    f"{told} is a {part.kind.name} edit at {part.site}, for which this server has "
                    f"no table; it takes {self._taken()}; start it with 'layers' and 'kinds' in "
                    f"the table '{TABLE}' of --additional-config"
                )
            most = blank_of(part.kind, self.skeleton.width, self.rank)
            for name, value in part.params.items():
                sizes = zip(value.shape, most[name].shape, strict=True)
                if any(size > limit for size, limit in sizes):
                    raise SteeringError(
                        f"{told} has {value.shape[0]} directions, and this server takes "
                        f"{self.rank}; start it with a larger 'rank'"
                    )

    def _taken(self) -> str:
        return ", ".join(sorted({f"{one.kind} at {one.site}" for one in self.places}))

    def _places(self) -> dict[Place, EditKind]:
        own = sites_of(self.skeleton, self.card.hypernet, self.card.site)
        others = [self.skeleton.site(layer) for layer in self.config.layers]
        kinds = [edit_kind(self.card.hypernet.edit), *map(edit_kind, self.config.kinds)]
        distinct = list(dict.fromkeys(kinds))
        sites: list[Site] = sorted({*own, *others})
        return places_of(sites, dict.fromkeys(sites, distinct), self.config.max_parts)
