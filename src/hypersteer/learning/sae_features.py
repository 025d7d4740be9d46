"""One feature of a sparse autoencoder per concept: measured, kept, steered along and detected.

With `w` a feature's decoder row, `z` its activation and `a` its maximum activation, strength f adds
`f * a * w` to the states (mode `add`), sets `z` to `f * a` (`clamp`) or raises it to that
(`min_clamp`). Where a feature is never active, `a` makes `a * w` as long as the states are on
average (AxBench takes 50 whatever the model).
Shapes: N concepts, K of them, D width, F features, M texts, P and Q with and without a concept.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hypersteer.concepts import Concept
from hypersteer.data.schema import Example
from hypersteer.edits.kinds import Applies, Params, plus
from hypersteer.edits.low_rank import LOW_RANK, clamped_feature
from hypersteer.edits.sites import Scope, Site
from hypersteer.errors import SteeringError
from hypersteer.learning import vectors
from hypersteer.learning.corpus import States, checked_texts
from hypersteer.learning.dictionaries import Dictionary, read_dictionary
from hypersteer.learning.values import Asked, ConceptExamples, Cost, Learned, Steering, ids_of
from hypersteer.lm.base import BaseLM
from hypersteer.lm.writers import Writer, vector_writer
from hypersteer.stats import auroc

Mode = Literal["add", "clamp", "min_clamp"]

Encode = Callable[[Tensor], Tensor]
"""Hidden states [..., D] -> activations of some features, [..., K]."""


class Picked(NamedTuple):
    """A concept's feature, and a note that says how it was chosen."""

    feature: int
    note: dict[str, Any]


@torch.no_grad()
def pooled(states: States, numbers: Sequence[int], encode: Encode) -> Float[Tensor, "M K"]:
    """Return the largest activation of each feature in each distinct text, after the chat prefix.

    Texts are encoded one by one: a dictionary is wide, and padding would cost as much as words.
    """
    places = {number: place for place, number in enumerate(dict.fromkeys(numbers))}
    tops: list[Tensor] = [torch.empty(0)] * len(places)
    for chosen, hidden, marks in states.walk(list(places)):
        for number, row, marked in zip(chosen, hidden, marks, strict=True):
            tops[places[number]] = encode(row[marked]).amax(0).cpu()
    return torch.stack(tops)


def best(
    shows: Float[Tensor, "P F"], lacks: Float[Tensor, "Q F"], norms: Float[Tensor, " F"]
) -> tuple[int, float]:
    """Return the feature of the best AUROC, and its AUROC.

    Args:
        shows: largest activations in texts with the concept.
        lacks: in texts without it.
        norms: lengths of the decoder rows. Of several features that are equally good, the one
            whose mean contributions to a state (activation times length) differ most.
    """
    scores = auroc(shows, lacks).float()
    margins = (shows.mean(0) - lacks.mean(0)) * norms
    feature = int(margins.masked_fill(scores < scores.max(), -torch.inf).argmax())
    return feature, float(scores[feature])


def or_norms(
    highest: Float[Tensor, " N"],
    states: States,
    rows: Sequence[Sequence[int]],
    decoder: Float[Tensor, "N D"],
) -> Float[Tensor, " N"]:
    """Return maximum activations; for one of 0, what makes `a * w` as long as its rows' states."""
    silent = (highest <= 0).nonzero().flatten().tolist()
    if not silent:
        return highest
    measured = vectors.measure(states, [rows[number] for number in silent], decoder[silent])
    filled = highest.clone()
    filled[silent] = measured.norms / decoder[silent].norm(dim=-1).clamp(min=1e-12)
    return filled


def keep(
    concepts: Sequence[ConceptExamples],
    dictionary: Dictionary,
    picked: Sequence[Picked],
    activations: Float[Tensor, " N"],
    *,
    path: str,
    mode: Mode,
    flops: float,
    started: float,
) -> Learned:
    """Return the rows of the dictionary that are used, so that steering need not read it again.

    Args:
        concepts: N concepts.
        dictionary: the whole of it.
        picked: the feature of each concept.
        activations: the maximum activation of each.
        path: of the dictionary.
        mode: what steering does.
        flops: of learning all of them together.
        started: when learning began, by `time.perf_counter`.
    """
    rows = torch.tensor([one.feature for one in picked], dtype=torch.long)
    ids = ids_of(concepts)
    return Learned(
        kind="features",
        tensors={
            "ids": ids,
            "features": rows,
            "activations": activations.float().cpu(),
            "encoder": dictionary.encoder[rows],
            "bias": dictionary.bias[rows],
            "threshold": dictionary.threshold[rows],
            "decoder": dictionary.decoder[rows],
        },
        notes={
            "dictionary": path,
            "mode": mode,
            "top_k": dictionary.top_k,
            "picked": {str(id_): one.note for id_, one in zip(ids.tolist(), picked, strict=True)},
        },
        cost=Cost.of_each(
            len(concepts),
            started=started,
            parameters=2 * dictionary.decoder.shape[1] + 3,
            flops=flops,
        ),
    )


class TopKClamp:
    """Sets each row's latent z to `strength * a`, or raises it to that, in a top-k dictionary.

    As the low-rank edit clamps (`hypersteer.edits.low_rank.clamped_feature`), but for a latent that
    depends on all others: it counts only where it is among the k largest of its token.

    Its parameters are the `decoder` [B, D], w of each row, its `activation` [B], a, and the
    `column` [B] of its feature among the latents.

    Args:
        latents: hidden states [B, T, D] -> the latents [B, T, K] of the features of all rows.
        raise_only: never lower a latent (`max(z, strength * a)`).
    """

    added: ClassVar[tuple[str, ...]] = ()

    def __init__(self, latents: Encode, *, raise_only: bool) -> None:
        self._latents, self._raise_only = latents, raise_only

    def apply(
        self,
        hidden: Float[Tensor, "B T D"],
        params: Params,
        mask: Bool[Tensor, "B T"],
        strength: Float[Tensor, " B"],
    ) -> Float[Tensor, "B T D"]:
        """Return the states plus `(strength * a - z) * w` on the marked tokens."""
        columns = params["column"][:, None, None].expand(-1, hidden.shape[1], 1)
        latents = self._latents(hidden).gather(-1, columns)[..., 0]
        change = (strength * params["activation"])[:, None] - latents
        if self._raise_only:
            change = change.clamp(min=0)
        delta = change[..., None] * params["decoder"][:, None]
        # What is written is not linear in the strength, so it is in the delta already.
        return plus(hidden, delta, mask, (strength != 0).to(strength))


def steer(lm: BaseLM, site: Site, learned: Learned, asked: Sequence[Asked]) -> Steering:
    """Add or clamp each row's feature on prompt and response, never on the chat prefix.

    Raises:
        SteeringError: for a concept that was not learnt.
    """
    rows = [vectors.row_of(learned, one.concept) for one in asked]
    decoder = learned.tensors["decoder"][rows].to(lm.device)
    activations = learned.tensors["activations"][rows].to(lm.device)
    scopes: list[Scope] = ["all"] * len(asked)
    mode = learned.notes["mode"]
    if mode == "add":
        writer = vector_writer(site, activations[:, None] * decoder, scopes)
    else:
        kind, params = _clamped(learned, rows, decoder, activations, mode == "min_clamp")
        writer = Writer(site, kind, params, scopes)
    return Steering(lm, [one.prompt for one in asked], [writer])


def _clamped(
    learned: Learned, rows: list[int], decoder: Tensor, activations: Tensor, raise_only: bool
) -> tuple[Applies, Params]:
    """Return the edit that clamps each row's feature: its kind, and parameters of the rows."""
    device = decoder.device
    if learned.notes["top_k"]:
        column = torch.arange(len(rows), device=device)
        params = {"decoder": decoder, "activation": activations, "column": column}
        return TopKClamp(encoder_of(learned, rows, device), raise_only=raise_only), params
    encoder, bias, threshold = (
        learned.tensors[name][rows].to(device) for name in ("encoder", "bias", "threshold")
    )
    params = clamped_feature(
        encoder, bias, threshold.clamp(min=0), decoder, activations, raise_only=raise_only
    )
    return LOW_RANK, params


@torch.no_grad()
def detect(
    lm: BaseLM, site: Site, learned: Learned, concepts: Sequence[Concept], texts: Sequence[Example]
) -> Float[Tensor, "K N"]:
    """Return the largest activation of each concept's feature over prompt and response.

    Raises:
        SteeringError: for a concept that was not learnt, or a text that does not fit the context
            window.
    """
    rows = [vectors.row_of(learned, concept) for concept in concepts]
    tokens = checked_texts(lm, texts)
    states = States(
        lm, site, tokens, [1] * len(tokens), batch_tokens=vectors.BATCH_TOKENS, cache_bytes=0
    )
    if not tokens:
        return torch.zeros(len(rows), 0)
    return pooled(states, range(len(tokens)), encoder_of(learned, rows, lm.device)).T


def encoder_of(learned: Learned, rows: list[int], device: torch.device) -> Encode:
    """Return what reads the activations of the features of K rows of what was learnt.

    The rows that were kept will do, unless only the top k features of a token count: then the
    whole dictionary is read again.

    Raises:
        SteeringError: if it is no longer the dictionary that was learnt from.
    """
    tensors = learned.tensors
    if not learned.notes["top_k"]:
        kept = Dictionary(
            encoder=tensors["encoder"][rows],
            bias=tensors["bias"][rows],
            threshold=tensors["threshold"][rows],
            decoder=tensors["decoder"][rows],
            offset=torch.zeros(tensors["decoder"].shape[1]),
        )
        return kept.reader(range(len(rows)), device)
    path = learned.notes["dictionary"]
    dictionary = read_dictionary(path)
    features = tensors["features"][rows]
    fits = int(features.max()) < dictionary.size and torch.equal(
        dictionary.decoder[features], tensors["decoder"][rows]
    )
    if not fits:
        raise SteeringError(f"the dictionary '{path}' has changed since it was learnt; fit again")
    return dictionary.reader(features.tolist(), device)
