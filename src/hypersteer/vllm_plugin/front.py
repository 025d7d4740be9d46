"""What a request's `steering` is held against before any model work: no weights are loaded here.

vLLM runs in several processes. Each that looks at requests has a `Front` of its own, made from the
same settings: the API server turns the field `steering` into a payload and the words that the
prompt says, the engine checks a payload again before it sets the cache salt. Which rules fire is
asked of a worker in between.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from hypersteer.checkpoint import find_checkpoint, generator_hash
from hypersteer.concepts import validate_steering_prompt
from hypersteer.conditions.rules import Check, Decisions, Rules
from hypersteer.conditions.slots import Slot, acting, laid_out, rules_of
from hypersteer.config import LMConfig
from hypersteer.config.vllm_plugin import PluginConfig
from hypersteer.edits.edit_set import parts_of
from hypersteer.edits.registry import KINDS
from hypersteer.edits.sites import Scope, check_scope, check_strength
from hypersteer.errors import ConfigError, SteeringError
from hypersteer.hypernet.card import Card, read_card
from hypersteer.lm.messages import Prompt
from hypersteer.lm.skeleton import Skeleton, open_skeleton
from hypersteer.serving.errors import Refused
from hypersteer.serving.given import part_of
from hypersteer.serving.plan import Known, Plan, check_length, is_said, rules_of_part, told_of
from hypersteer.serving.prompts import prompt_ids
from hypersteer.serving.schema import Part
from hypersteer.serving.served import known_of
from hypersteer.vllm_plugin.given import TABLE
from hypersteer.vllm_plugin.limits import Limits
from hypersteer.vllm_plugin.payload import KEY, Steered, decoded, encoded, named, packed, unpacked
from hypersteer.vllm_plugin.questions import Question, decided_by, rules_told
from hypersteer.vllm_plugin.salt import salt_of


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
        limits: which edits are taken.
        known: what requests may name.

    Args:
        config: the plug-in's settings.
        model: the model that vLLM serves: a folder or a Hub id.
        longest: most tokens of a prompt; by default as many as the base LM's window has.

    Raises:
        CheckpointError: if the checkpoint, or a condition that rules may name, cannot be read.
        ConfigError: for a checkpoint whose edits cannot be served, or settings that do not fit.
        ModelError: if the base LM's configuration cannot be had.
        SteeringError: for a rule that cannot be.
    """

    def __init__(self, config: PluginConfig, model: str, longest: int | None = None) -> None:
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
        self.limits = Limits(config, self.card, self.skeleton, self.chat)
        self.known: Known = known_of(config.limits)
        self._longest = self.skeleton.context_window if longest is None else longest

    def read(self, steering: Any) -> Plan:
        """Return what the field `steering` says: as our own server takes it.

        All that it may have act is checked here, whatever its rules decide later.

        Args:
            steering: None, a steering prompt, a part (`text`, `edit`, `rule` or `rules`, and what
                goes with these), or a list of these.

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
        plan = Plan()
        for one in given:
            self._add(part_of(one), plan)
        slots = laid_out(plan.steer, 1.0)
        for slot in slots:
            if slot.strength:
                self.limits.check(self._steered(slot.edit, slot.strength))
        self._check_count(slots)
        return plan

    def rules(self, plan: Plan) -> Rules | None:
        """Return the rules of a plan, which must be decided before it is `planned`."""
        return rules_of(laid_out(plan.steer, 1.0))

    def question(self, rules: Rules, prompt: Any, *, chat: bool) -> Question:
        """Return what a worker must be asked before a request with rules is steered.

        Args:
            rules: of a plan.
            prompt: a chat's messages, or a text or ids that are to go on; as it was given, without
                what it will say of steering.
            chat: whether it is a chat.

        Raises:
            Refused: for an empty prompt, one that is too long, or ids that are none.
            SteeringError: for what is no prompt.
        """
        if prompt == "":
            raise Refused("the prompt is empty; give some text", param="prompt")
        found = prompt_ids(prompt, self.chat, self.skeleton.vocab, chat=chat)
        if len(found.ids) > self._longest:
            raise Refused(
                f"the prompt has {len(found.ids):,} tokens; at most {self._longest:,} are taken",
                param="messages" if chat else "prompt",
            )
        return Question(found, rules_told(rules))

    def planned(self, plan: Plan, check: Check | None = None, *, say: bool = True) -> Planned:
        """Return what steers a request.

        Args:
            plan: of `read`.
            check: what its rules decided; None without rules.
            say: let the prompt say what they have act, where the checkpoint was trained so.
        """
        given = plan.steer if check is None else acting(laid_out(plan.steer, 1.0), check)
        parts = [self._steered(one, own) for one, own in given if own]
        # Texts of rules; those of parts are `Steered` by now. First, the order in which they act.
        fired = [one for one, own in given if isinstance(one, str) and own > 0]
        said = [*(fired if say and self.card.prompted else ()), *plan.said]
        payload = encoded(parts) if parts else None
        return Planned(payload, Plan(steer=plan.steer, said=said, told=plan.told))

    def request(
        self, prompt: Prompt, steering: Any, *, llm: Any = None, decisions: Decisions | None = None
    ) -> tuple[list[int], dict[str, str]]:
        """Return what vLLM's `LLM.generate` takes for a steered request.

        Args:
            prompt: a text, or chat messages.
            steering: see `read`.
            llm: vLLM's `LLM`, whose worker decides rules; needed for rules only.
            decisions: filled with what they decided, as one row.

        Returns:
            The prompt's token ids, what is said of steering among them, and `extra_args` for
            `SamplingParams`.

        Raises:
            SteeringError: for a prompt or steering that cannot be.
        """
        try:
            plan = self.read(steering)
            rules = self.rules(plan)
            question = None if rules is None else self.question(rules, prompt, chat=True)
        except Refused as error:
            raise SteeringError(str(error)) from error
        check = None if question is None else decided_by(llm, question)
        if decisions is not None:
            decisions.restart(1, {} if check is None else {0: check})
        payload, said = self.planned(plan, check)
        ids = self.chat.prompt(said.words(prompt)).ids
        if payload is None:
            return ids, {}
        self.check(payload, ids)
        return ids, {KEY: payload}

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
            self.limits.check(one, ids)
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
        prefix = self.limits.prefix(ids)
        return salt_of(payload, self.generator, scopes, ids, prefix, whole=whole, own=own)

    def _add(self, part: Part, plan: Plan) -> None:
        """Add a part of the request to a plan; a text of strength 0 is none."""
        strength, steer = check_strength(part.strength), None
        if part.rule is not None or part.rules is not None:
            steer = self._rules(part)
        elif part.edit is not None:
            steer = self.known.edits.read(part.edit)
        elif strength:
            steer = self._text(part)
        if steer is not None:
            plan.steer.append((steer, strength))
        if is_said(part, self.card) and part.text is not None:
            plan.said.append(part.text)
        plan.told.append(told_of(part, steer, self.card, self.generator))

    def _text(self, part: Part) -> Steered:
        text = validate_steering_prompt(part.text)
        check_length(text, self.config.limits)
        scope = check_scope(part.scope or self.card.scope)
        return Steered(text=text, scope=scope, strength=part.strength)

    def _rules(self, part: Part) -> Rules:
        if not self.config.rules:
            raise Refused(
                "this server takes no rules; start it with '\"rules\": true' in the table "
                f"'{TABLE}' of --additional-config",
                param="steering",
                code="unsupported_parameter",
            )
        if part.check != "prompt":
            raise Refused(
                f"check = {part.check!r} is not served through vLLM, where rules decide on the "
                "prompt; leave it out, or use 'hypersteer serve'",
                param="steering.check",
                code="unsupported_parameter",
            )
        return rules_of_part(part, self.known, self.config.limits)

    def _check_count(self, slots: Sequence[Slot]) -> None:
        """Refuse rules by which more edits may act at once than there are tables."""
        felt = [slot for slot in slots if slot.strength]
        if (rules := rules_of(felt)) is None:
            return
        most = sum(slot.rules is None for slot in felt) + rules.most_acting()
        if most > self.config.max_parts:
            names = ", ".join(f"'{name}'" for name in rules.edits)
            raise Refused(
                f"{most} edits may act at once, those of the rules ({names}) among them; at most "
                f"{self.config.max_parts} are taken; start the server with a larger 'max_parts'",
                param="steering",
            )

    def _steered(self, one: Any, strength: float) -> Steered:
        """Return what acts as a part of the payload: one already, a text of rules, or an edit."""
        if isinstance(one, Steered):
            return one
        if isinstance(one, str):
            return Steered(text=one, scope=check_scope(self.card.scope), strength=strength)
        return Steered(edit=packed(one), strength=strength)
