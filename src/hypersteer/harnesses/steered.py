"""Who answers a harness, loaded and checked: base LM, checkpoint, and what steers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypersteer.answering import Answerer
from hypersteer.checkpoint import BUNDLED
from hypersteer.concepts import validate_steering_prompt
from hypersteer.config.harnesses import SteeredConfig
from hypersteer.edits.edit import Edit
from hypersteer.edits.edit_set import EditSet, load_edit
from hypersteer.edits.sites import Scope, check_scope, check_strength
from hypersteer.engine.requests import Request
from hypersteer.errors import ConfigError
from hypersteer.launched import neighbours
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds
from hypersteer.lm.edited import sites_of
from hypersteer.lm.finite import check_range
from hypersteer.lm.load import load_lm
from hypersteer.lm.writers import Writer
from hypersteer.steering import Steerer, load


@dataclass(frozen=True, slots=True, kw_only=True)
class Steered:
    """Who answers, and what steers.

    Attributes:
        who: a checkpoint on its base LM, or a base LM alone, which takes edits only.
        steer: a steering prompt, an edit, or None for the base LM as it is.
        strength: multiplies the edit.
        scope: tokens that a steering prompt's edit touches; by default as in training.
        prompted: whether prompts say the steering prompt as well; by default as in training.

    Raises:
        SteeringError: for what cannot steer this base LM.
    """

    who: Steerer | Answerer
    steer: str | Edit | EditSet | None = None
    strength: float = 1.0
    scope: Scope | None = None
    prompted: bool | None = None

    def __post_init__(self) -> None:
        check_range([check_strength(self.strength)])
        if self.scope is not None:
            check_scope(self.scope)
        self.check(self.steer)

    @property
    def lm(self) -> BaseLM:
        """The base LM."""
        return self.who.lm

    def check(self, steer: Any) -> None:
        """Refuse what cannot steer here, before any model work.

        Args:
            steer: a steering prompt, an edit, or None.

        Raises:
            ConfigError: for a steering prompt where there is no checkpoint.
            SteeringError: for an empty one, or an edit that is not for this base LM.
        """
        if isinstance(steer, (Edit, EditSet)):
            sites_of(self.lm, steer)
        elif steer is not None:
            validate_steering_prompt(steer)
            if not isinstance(self.who, Steerer):
                raise ConfigError(
                    f"a steering prompt needs a checkpoint, and {self.lm.name} is given alone; "
                    "give checkpoint, or an edit"
                )

    def says(self, steer: Any) -> bool:
        """Return whether a prompt says this steering prompt: see `Steerer.generate`."""
        if not isinstance(steer, str) or not isinstance(self.who, Steerer) or self.strength <= 0:
            return False
        return self.who.card.prompted if self.prompted is None else self.prompted

    @property
    def reads_prompts(self) -> bool:
        """Whether the hypernetwork attends to the prompt, which then cannot be empty."""
        return isinstance(self.who, Steerer) and self.who.card.hypernet.variant == "cross-attention"

    def writers(
        self, prompts: Sequence[PromptIds], steers: Sequence[Any], scope: Scope | None = None
    ) -> list[Writer]:
        """Return what is written into the base LM for rows.

        Args:
            prompts: B tokenised prompts.
            steers: what steers each row: a steering prompt, an edit, or None.
            scope: tokens that the edits of steering prompts touch, in place of the usual ones.

        Raises:
            SteeringError: for a steering prompt that cannot be read.
        """
        if self.strength == 0 or not any(one is not None for one in steers):
            return []
        request = Request(list(prompts), list(steers), [self.strength] * len(prompts), single=False)
        if isinstance(self.who, Steerer):
            return self.who.writers(request, scope or self.scope)
        return self.who.writers(request)

    def about(self) -> dict[str, Any]:
        """Return what a harness keeps beside its results."""
        steerer = self.who if isinstance(self.who, Steerer) else None
        text = self.steer if isinstance(self.steer, str) or self.steer is None else None
        edit = None if text or self.steer is None else self.steer
        return {
            "base_lm": self.lm.name,
            "base_lm_fingerprint": self.lm.fingerprint,
            "generator": steerer.generator if steerer else None,
            "steer": text,
            "edit": edit.steering_prompt if isinstance(edit, (Edit, EditSet)) else None,
            "strength": self.strength,
            "scope": self.scope or (steerer.card.scope if steerer else None),
            "prompted": self.says(self.steer),
        }


def open_steered(config: SteeredConfig) -> Steered:
    """Load what settings name.

    Raises:
        SteeringError: if something cannot be loaded, or does not go together.
    """
    if neighbours() > 1:
        raise ConfigError(
            "several processes were launched, and this model answers in one; start it without "
            "accelerate or torchrun, and give a larger batch_size"
        )
    edit = None if config.edit is None else load_edit(config.edit)
    lm = None
    if config.base is not None:
        lm = load_lm(config.base, device=config.device, dtype=config.dtype)
    who: Steerer | Answerer
    if lm is not None and config.checkpoint is None:
        who = Answerer(lm)
    else:
        name = config.checkpoint or BUNDLED
        who = load(name, lm=lm, device=config.device, dtype=config.dtype)
    return Steered(
        who=who,
        steer=config.steer if edit is None else edit,
        strength=config.strength,
        scope=None if config.scope is None else check_scope(config.scope),
        prompted=config.prompted,
    )
