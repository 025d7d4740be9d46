"""LoRA: low-rank changes of the attention's output projections, learnt with PEFT."""

import importlib.util
import math
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hypersteer.edits.kinds import Params, plus
from hypersteer.edits.sites import Scope, Site
from hypersteer.errors import ConfigError
from hypersteer.learning.adapter_training import Responses, positives_only, recipe_of, train
from hypersteer.learning.attention_heads import output_projections
from hypersteer.learning.corpus import Corpus, check_fields, make_corpus, need_rows
from hypersteer.learning.model_copy import adapted_layers, copy_model
from hypersteer.learning.values import Asked, ConceptExamples, Cost, Done, Learned, Steering, ids_of
from hypersteer.learning.vectors import row_of
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds
from hypersteer.lm.writers import Writer

ADAPTER = "default"
"""What PEFT calls the one adapter of a layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """Low-rank adaptation of the projections at the end of four blocks' attention.

    Source: Hu et al., 2021 (arXiv 2106.09685) with the scaling `alpha / sqrt(rank)` of
    Kalajdzievski, 2023 (arXiv 2312.03732), and AxBench's settings for Gemma-2-2B: the projection
    `W x` becomes `W x + alpha / sqrt(rank) * B A x` on all tokens, chat prefix included; the loss
    is the cross-entropy of the positives' responses; AdamW with linearly decaying rate, no
    clipping. PEFT builds and initialises the adapters and applies them in training. Concepts are
    learnt one after another; states below the first adapter are computed once per text.

    To steer, `B A x` is added to the projection's output by the same writers as any other edit,
    where x is what the projection was given: so rows of one batch may be of different concepts,
    no weights are copied, and a strength multiplies the change (PEFT's scale of an adapter).

    The site that a run names is not used (see `hypersteer.methods.loreft`).

    Deviations from AxBench: the loss of a step is the mean over its rows of each row's mean;
    adapters are float32 (AxBench's are bfloat16); it has a strength.

    Attributes:
        rank: rows of `A`, columns of `B`.
        alpha: numerator of the scaling.
        dropout: share of `x` left out in training.
        layers: adapted blocks; by default as high up as AxBench's in Gemma-2-2B.
        batch_size: rows in a step (AxBench accumulates two batches of 18).
        epochs: passes over each concept's positives.
        learning_rate: at the first step; 0 after the last.
        max_norm: gradients of a concept are clipped to this norm; 0 never clips.
        seed: of the shuffles, of what is trained, and of dropout.
        batch_tokens: most tokens run at a time, padding included.
        cache_bytes: most bytes of hidden states kept in memory.
    """

    learns: ClassVar[bool] = True
    scales: ClassVar[bool] = True

    rank: int = 4
    alpha: int = 32
    dropout: float = 0.05
    layers: tuple[int, ...] = ()
    batch_size: int = 36
    epochs: int = 24
    learning_rate: float = 9e-4
    max_norm: float = 0.0
    seed: int = 42
    batch_tokens: int = 2048
    cache_bytes: int = 2 * 2**30

    def __post_init__(self) -> None:
        check_fields(self)
        recipe_of(self)
        if self.rank < 1:
            raise ConfigError(f"rank {self.rank} is not above 0")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout {self.dropout} is not from 0 up to 1")
        if importlib.util.find_spec("peft") is None:
            raise ConfigError("LoRA is learnt with PEFT: pip install 'hypersteer[peft]'")

    def fit(
        self, lm: BaseLM, site: Site, concepts: Sequence[ConceptExamples], done: Done | None = None
    ) -> Learned:
        """Train one concept after another; the site is not used.

        Raises:
            ConfigError: if a layer is named twice.
            DataError: if a concept has no positive rows.
            ModelError: if a layer is out of range, or its attention does not end in a projection.
            TrainingError: if a matrix is no longer finite.
        """
        del site
        started = time.perf_counter()
        layers = adapted_layers(lm, self.layers)
        names = output_projections(lm, layers)
        corpus = make_corpus(lm, positives_only(concepts))
        need_rows(corpus, concepts, method="LoRA", negatives=False)
        adapted = copy_model(lm)
        with _seeded(self.seed, lm.device):
            adapters = self._inject(adapted, names)
        responses = Responses(
            adapted,
            Site(layers[0] - 1) if layers[0] else None,
            corpus,
            epochs=self.epochs,
            batch_tokens=self.batch_tokens,
            cache_bytes=self.cache_bytes,
        )
        found: dict[str, list[Tensor]] = {_key(s, x): [] for x in layers for s in ("A", "B")}
        for number, entry in enumerate(concepts):
            for adapter in adapters:
                adapter.requires_grad_(False)
            with _seeded(self.seed + entry.concept.id, lm.device):
                weights = [_restart(adapter) for adapter in adapters]
                train(
                    recipe_of(self),
                    [entry.concept],
                    Corpus(corpus.texts, [corpus.positives[number]], [[]]),
                    [[matrix for pair in weights for matrix in pair]],
                    lambda rows: responses.losses([text for _, text in rows]),
                    None if done is None else lambda share: done(share / len(concepts)),
                )
            for layer, pair in zip(layers, weights, strict=True):
                for side, matrix in zip(("A", "B"), pair, strict=True):
                    found[_key(side, layer)].append(matrix.detach().cpu().clone())
        return Learned(
            tensors={
                **{key: torch.stack(matrices) for key, matrices in found.items() if matrices},
                "ids": ids_of(concepts),
                "layers": torch.tensor(layers),
            },
            notes={"projections": names},
            cost=Cost.of_each(
                len(concepts),
                started=started,
                parameters=sum(m[0].numel() for m in found.values() if m),
                flops=responses.flops(weights=False),
            ),
        )

    def steer(self, lm: BaseLM, site: Site, learned: Learned, asked: Sequence[Asked]) -> Steering:
        """Add each row's `B A x` at every adapted block, on all tokens.

        Raises:
            SteeringError: for a concept that was not learnt.
        """
        del site
        rows = torch.tensor([row_of(learned, one.concept) for one in asked], dtype=torch.long)
        prompts = [one.prompt for one in asked]
        prefixes = [_prefix(lm.chat.prompt(prompt)) for prompt in prompts]
        view, writers = copy_model(lm), []
        scaling = self.alpha / math.sqrt(self.rank)
        layers = learned.tensors["layers"].tolist()
        for layer, name in zip(layers, learned.notes["projections"], strict=True):
            down, up = (
                learned.tensors[_key(s, layer)][rows].to(lm.device, torch.float32) for s in "AB"
            )
            kind = Adapter(_inputs(view.model.get_submodule(name)))
            params = {"down": down, "up": scaling * up}
            both: list[list[Scope]] = [["all"] * len(asked), prefixes]
            place = Site(layer, "attention")
            writers += [Writer(place, kind, params, scopes) for scopes in both]
        return Steering(view, prompts, writers)

    def _inject(self, adapted: BaseLM, names: list[str]) -> list[Any]:
        """Put PEFT's layers in the place of the projections."""
        from peft import LoraConfig, inject_adapter_in_model

        first = adapted.model.get_submodule(names[0])
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            use_rslora=True,
            target_modules=names,
            fan_in_fan_out=not isinstance(first, nn.Linear),  # GPT-2 keeps weights transposed
        )
        inject_adapter_in_model(config, adapted.model, ADAPTER)
        adapted.model.eval()
        adapters: list[Any] = [adapted.model.get_submodule(name) for name in names]
        for adapter in adapters:  # made in the dtype of the base LM
            for matrices in (adapter.lora_A, adapter.lora_B):
                matrices[ADAPTER].float()
        return adapters


class Adapter:
    """`B A x` as a kind of edit, x being what a projection is given; parameters `down` and `up`.

    Args:
        inputs: a list whose one entry is what the projection was last given.
    """

    added: ClassVar[tuple[str, ...]] = ()

    def __init__(self, inputs: list[Tensor]) -> None:
        self._inputs = inputs

    def apply(
        self,
        hidden: Float[Tensor, "B T D"],
        params: Params,
        mask: Bool[Tensor, "B T"],
        strength: Float[Tensor, " B"],
    ) -> Float[Tensor, "B T D"]:
        """Add `strength * up down x` to the projection's outputs on the marked tokens."""
        given = self._inputs[0].float().view(*hidden.shape[:2], -1)
        delta = given @ params["down"].transpose(1, 2) @ params["up"].transpose(1, 2)
        return plus(hidden, delta, mask, strength)


def _restart(adapter: Any) -> tuple[nn.Parameter, nn.Parameter]:
    """Reset a PEFT layer to untrained A [R, D] and B [D, R], B being 0, and turn on dropout."""
    adapter.lora_dropout.train()
    adapter.reset_lora_parameters(ADAPTER, True)
    down, up = adapter.lora_A[ADAPTER].weight, adapter.lora_B[ADAPTER].weight
    return down.requires_grad_(), up.requires_grad_()


def _inputs(projection: nn.Module) -> list[Tensor]:
    """Return a list whose one entry is always what the projection was last given."""
    last: list[Tensor] = []

    def keep(_module: nn.Module, args: tuple) -> None:
        last[:] = args[:1]

    projection.register_forward_pre_hook(keep)
    return last


def _prefix(prompt: PromptIds) -> Scope:
    """Return the scope of the chat prefix, which the scope `all` lacks."""
    return tuple(place < prompt.prefix for place in range(len(prompt.ids)))


def _key(side: str, layer: int) -> str:
    return f"{side}.{layer}"


@contextmanager
def _seeded(seed: int, device: torch.device) -> Generator[None]:
    """Seed torch's random numbers for a while; afterwards they are as if nothing had been drawn."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
