"""One unit direction per concept, whichever method learnt it: strength, steering and detection.

A concept's edit is `h -> h + strength * a * w` on prompt and response, with `w` its unit direction
and `a` its maximum activation (AxBench). AxBench reads `a` from the detection test set; here it is
measured on the training rows. Where it is not positive, AxBench takes 50 whatever the model; here
it is then the length of the states, so that strength 1 adds a vector as long as they are, as their
typical dimension tells it, since a few massive ones may hold nearly all of a norm.
Shapes: N concepts, D width, M texts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from hypersteer.concepts import Concept
from hypersteer.data.schema import Example
from hypersteer.edits.sites import NamedScope, Site
from hypersteer.errors import DataError, SteeringError
from hypersteer.learning.corpus import States, checked_texts
from hypersteer.learning.values import Asked, ConceptExamples, Cost, Learned, Steering, ids_of
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import length_batches
from hypersteer.lm.flops import MULTIPLY_ADD, LMFlops, place
from hypersteer.lm.units import token_norms
from hypersteer.lm.writers import vector_writer

BATCH_TOKENS = 4096
"""Tokens of a forward pass in detection, padding included."""


class Measured(NamedTuple):
    """What the states of each concept's texts are like, chat prefix and padding left out.

    Attributes:
        highest: largest product [N] of a state and the concept's direction.
        norms: mean length [N] of the states, see `hypersteer.lm.units.token_norms`.
        flops: operations of the products, without those of making the states.
    """

    highest: Tensor
    norms: Tensor
    flops: int = 0

    @property
    def activations(self) -> Tensor:
        """Maximum activations [N], or where one is not positive the mean length."""
        return torch.where(self.highest > 0, self.highest, self.norms)


@torch.no_grad()
def measure(
    states: States, rows: Sequence[Sequence[int]], directions: Float[Tensor, "N D"]
) -> Measured:
    """Measure the states of N concepts' texts along their directions, each text once.

    Args:
        states: of all texts.
        rows: numbers of the texts of each concept; at least one each.
        directions: one per concept.
    """
    members = [set(numbers) for numbers in rows]
    highest = torch.full((len(rows),), -torch.inf)
    norms, counts = torch.zeros(2, len(rows), dtype=torch.float64)
    products = 0
    for numbers, hidden, marks in states.walk(sorted(set().union(*members))):
        hidden, belongs = hidden.float(), membership(numbers, members)
        tops = _highest(hidden, directions, marks)
        products += MULTIPLY_ADD * hidden.numel() * len(directions)
        highest = torch.maximum(highest, tops.where(belongs, -torch.inf).amax(0))
        sums = (token_norms(hidden) * marks).sum(1).cpu().double()
        norms += sums @ belongs.double()
        counts += marks.sum(1).cpu().double() @ belongs.double()
    return Measured(highest, (norms / counts).float(), products)


def membership(numbers: Sequence[int], members: Sequence[set[int]]) -> Tensor:
    """Return marks [B, N] that say which of these texts are among which concept's."""
    return torch.tensor([[number in one for one in members] for number in numbers])


def keep(
    concepts: Sequence[ConceptExamples],
    directions: Float[Tensor, "N D"],
    activations: Float[Tensor, " N"],
    *,
    flops: float,
    started: float,
    scopes: Sequence[NamedScope] = ("all",),
) -> Learned:
    """Return directions and maximum activations as they are kept.

    Args:
        concepts: N concepts.
        directions: their directions; brought to unit length.
        activations: their maximum activations.
        flops: of learning all of them together.
        started: when learning began, by `time.perf_counter`.
        scopes: tokens that are steered.

    Raises:
        DataError: if a direction has no length.
    """
    for entry, direction in zip(concepts, directions, strict=True):
        if not bool(direction.any()):
            raise DataError(
                f"nothing tells the rows of concept {entry.concept.id} ('{entry.concept.text}') "
                "apart: those with it are like those without; look at its rows, or leave it out"
            )
    return Learned(
        kind="directions",
        tensors={
            "directions": F.normalize(directions.float(), dim=-1).cpu().contiguous(),
            "activations": activations.float().cpu().contiguous(),
            "ids": ids_of(concepts),
        },
        notes={"scopes": list(scopes)},
        cost=Cost.of_each(
            len(concepts), started=started, parameters=directions.shape[-1] + 1, flops=flops
        ),
    )


def steer(lm: BaseLM, site: Site, learned: Learned, asked: Sequence[Asked]) -> Steering:
    """Add each row's `a * w` to the tokens of the scopes, never to the chat prefix.

    Raises:
        SteeringError: for a concept that was not learnt.
    """
    rows = [row_of(learned, one.concept) for one in asked]
    tensors = learned.tensors
    vectors = (tensors["activations"][rows, None] * tensors["directions"][rows]).to(lm.device)
    scopes = learned.notes.get("scopes", ["all"])
    writers = [vector_writer(site, vectors, [scope] * len(asked)) for scope in scopes]
    return Steering(lm, [one.prompt for one in asked], list(writers))


@torch.no_grad()
def detect(
    lm: BaseLM, site: Site, learned: Learned, concepts: Sequence[Concept], texts: Sequence[Example]
) -> Float[Tensor, "K N"]:
    """Return the largest product of a state and each concept's direction, over prompt and response.

    Where `probes` were learnt beside the directions, they are what detects.

    Raises:
        SteeringError: for a concept that was not learnt, or a text that does not fit the context
            window.
    """
    rows = [row_of(learned, concept) for concept in concepts]
    probes = learned.tensors.get("probes", learned.tensors["directions"])
    directions = probes[rows].to(lm.device)
    tokens = checked_texts(lm, texts)
    states = States(lm, site, tokens, [1] * len(tokens), batch_tokens=BATCH_TOKENS, cache_bytes=0)
    scores = torch.zeros(len(rows), len(tokens))
    for numbers, hidden, marks in states.walk(range(len(tokens))):
        scores[:, numbers] = _highest(hidden, directions, marks).T
    return scores


def _highest(hidden: Tensor, directions: Tensor, marks: Tensor) -> Tensor:
    """Return the largest product [B, N] of each row's marked states [B, T, D] with N directions."""
    latents = hidden.float() @ directions.to(hidden.device, torch.float32).T
    return latents.masked_fill(~marks[..., None], -torch.inf).amax(1).cpu()


def row_of(learned: Learned, concept: Concept) -> int:
    """Return the place of a concept among what was learnt.

    Raises:
        SteeringError: if it is not.
    """
    ids = learned.tensors["ids"].tolist()
    if concept.id not in ids:
        known = ", ".join(map(str, ids[:8])) + (", ..." if len(ids) > 8 else "")
        raise SteeringError(
            f"concept {concept.id} ('{concept.text}') was not learnt; learnt are: {known}"
        )
    return ids.index(concept.id)


def reading_flops(lm: BaseLM, site: Site, sizes: Sequence[int], batch_tokens: int) -> int:
    """Count the operations of reading texts of these sizes at a site, see `hypersteer.lm.flops`.

    Args:
        lm: the base LM.
        site: where; the blocks above it do not run.
        sizes: tokens of each text.
        batch_tokens: most tokens of a forward pass, padding included.
    """
    passes, found = LMFlops.of_lm(lm), 0
    for part in length_batches(sizes, tokens=batch_tokens):
        found += passes.forward(len(part), max(sizes[number] for number in part), place(site))
    return found
