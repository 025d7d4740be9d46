"""What the SAE methods share: how a feature is measured, kept, steered along and detected.

With `w` a feature's decoder row, `z` its activation and `a` its maximum activation, strength f adds
`f * a * w` to the states (mode `add`), sets `z` to `f * a` (`clamp`) or raises it to that
(`min_clamp`). Where a feature is never active, `a` makes `a * w` as long as the states are on
average (AxBench takes 50 whatever the model).
Shapes: N concepts, K of them, D width, F features, M texts, P and Q with and without a concept.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hypersteer.concepts import Concept
from hypersteer.data.examples import Example
from hypersteer.edits.sites import Scope, Site
from hypersteer.errors import SteeringError
from hypersteer.learning import vectors
from hypersteer.learning.clamping import Clamp
from hypersteer.learning.corpus import States, text_of
from hypersteer.learning.dictionaries import Dictionary, read_dictionary
from hypersteer.learning.values import Asked, ConceptExamples, Cost, Learned, Steering
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
    """Largest activation of each feature in each distinct text, without chat prefix and padding.

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
    """The feature of the best AUROC, and its AUROC.

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
    """Maximum activations; where one is 0, what makes `a * w` as long as the states of its rows."""
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
    flops: float,
    started: float,
) -> Learned:
    """The rows of the dictionary that are used, so that steering need not read it again.

    Args:
        concepts: N concepts.
        dictionary: the whole of it.
        picked: the feature of each concept.
        activations: the maximum activation of each.
        flops: of learning all of them together.
        started: when learning began, by `time.perf_counter`.
    """
    rows = torch.tensor([one.feature for one in picked], dtype=torch.long)
    ids = [entry.concept.id for entry in concepts]
    count = max(1, len(ids))
    return Learned(
        tensors={
            "ids": torch.tensor(ids, dtype=torch.long),
            "features": rows,
            "activations": activations.float().cpu(),
            "encoder": dictionary.encoder[rows],
            "bias": dictionary.bias[rows],
            "threshold": dictionary.threshold[rows],
            "decoder": dictionary.decoder[rows],
        },
        notes={
            "top_k": dictionary.top_k,
            "picked": {str(id_): one.note for id_, one in zip(ids, picked, strict=True)},
        },
        cost=Cost(
            parameters=2 * dictionary.decoder.shape[1] + 3,
            flops=flops / count,
            seconds=(time.perf_counter() - started) / count,
        ),
    )


def steer(
    path: str, mode: Mode, lm: BaseLM, site: Site, learned: Learned, asked: Sequence[Asked]
) -> Steering:
    """Add or clamp each row's feature on prompt and response, never on the chat prefix.

    Args:
        path: of the dictionary.
        mode: what is done.
        lm: the base LM.
        site: where.
        learned: from `keep`.
        asked: pairs of concept and prompt.

    Raises:
        SteeringError: for a concept that was not learnt.
    """
    rows = [vectors.row_of(learned, one.concept) for one in asked]
    decoder = learned.tensors["decoder"][rows].to(lm.device)
    activations = learned.tensors["activations"][rows].to(lm.device)
    scopes: list[Scope] = ["all"] * len(asked)
    if mode == "add":
        writer = vector_writer(site, activations[:, None] * decoder, scopes)
    else:
        clamp = Clamp(encoder_of(path, learned, rows, lm.device), raise_only=mode == "min_clamp")
        params = {
            "decoder": decoder,
            "activation": activations,
            "column": torch.arange(len(rows), device=lm.device),
        }
        writer = Writer(site, clamp, params, scopes)
    return Steering(lm, [one.prompt for one in asked], [writer])


@torch.no_grad()
def detect(
    path: str,
    lm: BaseLM,
    site: Site,
    learned: Learned,
    concepts: Sequence[Concept],
    texts: Sequence[Example],
) -> Float[Tensor, "K N"]:
    """Largest activation of each concept's feature over prompt and response.

    Raises:
        SteeringError: for a concept that was not learnt, or a text that does not fit the context
            window.
    """
    rows = [vectors.row_of(learned, concept) for concept in concepts]
    tokens = [text_of(lm, example) for example in texts]
    for text in tokens:
        lm.check_length(text.size, "a text to detect concepts in")
    states = States(
        lm, site, tokens, [1] * len(tokens), batch_tokens=vectors.BATCH_TOKENS, cache_bytes=0
    )
    if not tokens:
        return torch.zeros(len(rows), 0)
    return pooled(states, range(len(tokens)), encoder_of(path, learned, rows, lm.device)).T


def encoder_of(path: str, learned: Learned, rows: list[int], device: torch.device) -> Encode:
    """What reads the activations of the features of K rows of what was learnt.

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
    dictionary = read_dictionary(path)
    features = tensors["features"][rows]
    fits = int(features.max()) < dictionary.size and torch.equal(
        dictionary.decoder[features], tensors["decoder"][rows]
    )
    if not fits:
        raise SteeringError(f"the dictionary '{path}' has changed since it was learnt; fit again")
    return dictionary.reader(features.tolist(), device)
