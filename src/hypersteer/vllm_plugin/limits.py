"""Which edits a server makes and applies: the tables that it has, and what they hold."""

from collections.abc import Sequence

from hypersteer.config.vllm_plugin import PluginConfig
from hypersteer.edits.edit import Edit
from hypersteer.edits.edit_set import EditSet, parts_of
from hypersteer.edits.kinds import EditKind
from hypersteer.edits.registry import edit_kind
from hypersteer.edits.sites import Site
from hypersteer.errors import CheckpointError, SteeringError
from hypersteer.hypernet.card import Card
from hypersteer.hypernet.network import sites_of
from hypersteer.identity import described, same_base_lm
from hypersteer.lm.chat import Chat, common
from hypersteer.lm.finite import check_range
from hypersteer.lm.skeleton import Skeleton
from hypersteer.vllm_plugin.given import TABLE
from hypersteer.vllm_plugin.payload import Steered, named, unpacked
from hypersteer.vllm_plugin.table import Place, blank_of, places_of


class Limits:
    """Refuses edits that a server cannot make or apply.

    Attributes:
        places: where edits may go, with their kinds.
        rank: most directions of an edit.

    Args:
        config: the plug-in's settings.
        card: of the checkpoint.
        skeleton: the base LM without its weights.
        chat: its templates.
    """

    def __init__(self, config: PluginConfig, card: Card, skeleton: Skeleton, chat: Chat) -> None:
        self._config, self._card, self._skeleton, self._chat = config, card, skeleton, chat
        self.rank = config.rank or card.hypernet.rank
        self.places = self._places()

    def check(self, part: Steered, ids: Sequence[int] = ()) -> None:
        """Refuse a part of a request whose edit the workers cannot make or apply.

        Args:
            part: of the request.
            ids: the prompt's tokens, where they are known.

        Raises:
            SteeringError: naming what they cannot.
        """
        check_range([part.strength])
        if part.text is not None:
            self._check_text(part.text, ids)
        else:
            assert part.edit is not None
            self._check_edit(unpacked(part.edit))

    def prefix(self, ids: Sequence[int]) -> int:
        """Return how many tokens of a prompt are the fixed chat prefix."""
        return min(common(ids, self._chat.prefix), len(ids) - 1)

    def _check_text(self, text: str, ids: Sequence[int]) -> None:
        if len(text) > self._config.max_steering_chars:
            raise SteeringError(
                f"the steering prompt has {len(text):,} characters; at most "
                f"{self._config.max_steering_chars:,} are taken"
            )
        tokens = len(self._chat.lead) + len(self._chat.text(text))
        if self._card.hypernet.variant == "in-context" and ids:
            tokens += len(ids) - self.prefix(ids)
        if tokens > self._skeleton.context_window:
            raise SteeringError(
                f"what the hypernetwork reads has {tokens} tokens, but the base LM's window has "
                f"{self._skeleton.context_window}; shorten the steering prompt"
            )

    def _check_edit(self, edit: Edit | EditSet) -> None:
        for part in parts_of(edit):
            told = f"the edit '{part.steering_prompt}'"
            own = self._card.identity or self._card.fingerprint
            if part.base_lm and not same_base_lm(part.base_lm, own):
                raise CheckpointError(
                    f"{told} was made for the base LM {described(part.base_lm)}, another one than "
                    f"that of '{self._config.checkpoint}'; make it anew with this one"
                )
            named(part.scope)
            if part.width != self._skeleton.width:
                raise SteeringError(
                    f"{told} has width {part.width}, but the base LM has {self._skeleton.width}"
                )
            if Place(0, part.site, part.kind.name) not in self.places:
                raise SteeringError(
                    f"{told} is a {part.kind.name} edit at {part.site}, for which this server has "
                    f"no table; it takes {self._taken()}; start it with 'layers' and 'kinds' in "
                    f"the table '{TABLE}' of --additional-config"
                )
            most = blank_of(part.kind, self._skeleton.width, self.rank)
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
        own = sites_of(self._skeleton, self._card.hypernet, self._card.site)
        others = [self._skeleton.site(layer) for layer in self._config.layers]
        kinds = [edit_kind(self._card.hypernet.edit), *map(edit_kind, self._config.kinds)]
        distinct = list(dict.fromkeys(kinds))
        sites: list[Site] = sorted({*own, *others})
        return places_of(sites, dict.fromkeys(sites, distinct), self._config.max_parts)
