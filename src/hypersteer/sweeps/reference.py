"""ReFT-r1 and DiffMean on a run's own training rows: what runs are held against, or reconstruct.

Both learn each concept by itself, from its training rows and as many that do not show it.
Shapes: N concepts, D width, B rows.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from hypersteer.checkpoint import save_tensors
from hypersteer.config import TrainConfig, from_dict
from hypersteer.data.batches import TrainingRow
from hypersteer.data.sources import load_concepts
from hypersteer.data.splits import split_as
from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError, SteeringError
from hypersteer.evaluation.protocol import concept_examples
from hypersteer.files import is_file, reason, replacing
from hypersteer.learning.corpus import after_prefix
from hypersteer.learning.values import ConceptExamples, Learned
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import TokenBatch, collate
from hypersteer.lm.hooks import at_sites
from hypersteer.lm.likelihood import response_losses
from hypersteer.lm.writers import add_vectors
from hypersteer.methods.diffmean import DiffMean
from hypersteer.methods.protocol import Learner
from hypersteer.methods.reft_r1 import ReftR1, change
from hypersteer.progress import ProgressBar
from hypersteer.stats import mean
from hypersteer.sweeps.measure import rows_of
from hypersteer.sweeps.measured import ByConcept, Reference
from hypersteer.training.devices import new_accelerator

STRENGTHS = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
"""Of the vectors: their largest activation times each is tried."""
TRIED_STEPS = 4
"""Steps on whose rows the strength of targets is chosen."""
TRAINED = "as trained"
"""ReFT-r1's own form: the mean of the largest latents of a row says how strongly."""


class Change(Protocol):
    """States [B, T, D] at the site of a batch -> what the blocks above get instead."""

    def __call__(self, hidden: Tensor, *, batch: TokenBatch) -> Tensor:
        """Return the changed states."""
        ...


class Taught(NamedTuple):
    """Vectors that were learnt from the training rows of a run.

    Attributes:
        learned: as the method keeps them.
        site: where they act.
        ids: concept ids, in the order of the vectors.
        scaled: each concept's direction times its largest activation, [N, D].
    """

    learned: Learned
    site: Site
    ids: list[int]
    scaled: Float[Tensor, "N D"]

    def of(self, ids: Sequence[int]) -> Float[Tensor, "B D"]:
        """Return the scaled vectors of these concepts."""
        return self.scaled[[self.ids.index(id_) for id_ in ids]]


def reft_of(settings: dict[str, Any]) -> ReftR1:
    """Return ReFT-r1 with these hyperparameters.

    Raises:
        ConfigError: for one that is unknown or cannot be so.
    """
    return from_dict(ReftR1, settings, "reft")


def teach(
    method: Learner, name: str, lm: BaseLM, config: TrainConfig, ids: Sequence[int]
) -> Taught:
    """Learn vectors of some of a run's training concepts from its training rows.

    Args:
        method: ReFT-r1 or DiffMean.
        name: of the method, for the progress bar.
        lm: the base LM.
        config: the run.
        ids: the concepts.
    """
    data = load_concepts(config.data.source)
    split = split_as(data, config.data, config.seed)
    known = [_balanced(concept_examples(data, split, data.concept(id_))) for id_ in ids]
    site = lm.site(config.site.layer, config.site.kind)
    with ProgressBar(f"{name}: learning", 100, quarters=True) as bar:
        learned = method.fit(lm, site, known, done=lambda share: bar.advance(100 * share))
    tensors = learned.tensors
    scaled = tensors["activations"][:, None] * tensors["directions"]
    return Taught(learned, site, tensors["ids"].tolist(), scaled)


def _balanced(entry: ConceptExamples) -> ConceptExamples:
    """Return a concept with as many negatives as positives, as AxBench has them."""
    return entry._replace(negatives=entry.negatives[: len(entry.positives)])


def measure_reference(config: TrainConfig, lm: BaseLM, settings: dict[str, Any]) -> Reference:
    """Train ReFT-r1 on the concepts that a run validates held in, and measure it on these rows.

    What is taken is the lowest loss that it has in any form, the "average optimal evaluation loss"
    of the paper's appendix A.3.2: as it is trained, or with a fixed strength as it is used.

    Args:
        config: a run; those with the same data, site, base LM and seed share the result.
        lm: the base LM.
        settings: hyperparameters of ReFT-r1.

    Raises:
        ConfigError: if the run validates nothing held in.
    """
    rows = rows_of(config, lm).validation.get("held_in")
    if not rows:
        raise ConfigError(
            "ReFT-r1 is measured on held-in rows, and there are none; set train.data."
            "held_in_prompts above 0"
        )
    reft = reft_of(settings)
    ids = sorted({row.row.concept_id for row in rows})
    taught = teach(reft, "reft-r1", lm, config, ids)
    cost = taught.learned.cost
    precision = new_accelerator(config.base_lm.device, config.optim.mixed_precision).autocast
    own = [row.row for row in rows]
    forms: dict[str, list[float]] = {}
    with ProgressBar("reft-r1: measuring", len(STRENGTHS) + 1) as bar:
        for name, make in _forms(taught, reft.top_k).items():
            with precision():
                forms[name] = _losses(lm, taught.site, own, make, config.optim.batch_size)
            bar.advance(1)
    means = {name: mean(losses) for name, losses in forms.items()}
    best = min(means, key=lambda name: means[name])
    found = _by_concept(own, forms[best])
    return Reference(losses=found, forms=means, form=best, flops=cost.flops, seconds=cost.seconds)


def _by_concept(rows: Sequence[TrainingRow], losses: Sequence[float]) -> ByConcept:
    """Return the mean loss of each concept's rows."""
    own: dict[int, list[float]] = {}
    for row, loss in zip(rows, losses, strict=True):
        own.setdefault(row.concept_id, []).append(loss)
    return {str(id_): mean(own[id_]) for id_ in sorted(own)}


def _forms(taught: Taught, top_k: int) -> dict[str, Callable[[Sequence[int]], Change]]:
    """Return every form by name: concept ids of B rows -> what changes their states."""
    directions = taught.learned.tensors["directions"]

    def trained(ids: Sequence[int]) -> Change:
        own = directions[[taught.ids.index(id_) for id_ in ids]]
        return lambda hidden, *, batch: (
            change(hidden, own.to(hidden.device), after_prefix(batch.spans), top_k).hidden
        )

    return {TRAINED: trained, **{f"strength {s:g}": fixed(taught, s) for s in STRENGTHS}}


def fixed(taught: Taught, strength: float) -> Callable[[Sequence[int]], Change]:
    """Return the form in which vectors are used: added to all tokens but those of the prefix."""

    def make(ids: Sequence[int]) -> Change:
        own = strength * taught.of(ids)
        return lambda hidden, *, batch: add_vectors(
            hidden, own.to(hidden.device), after_prefix(batch.spans)
        )

    return make


def make_targets(name: str, lm: BaseLM, config: TrainConfig, settings: dict[str, Any]) -> Path:
    """Write the vectors that a run reconstructs, `vectors` [ids, D], if they are not there yet.

    They are those of all its training concepts, at the one strength that has the lowest loss on the
    rows of the run's first steps.

    Args:
        name: `reft-r1` or `diffmean`.
        lm: the base LM.
        config: the run, whose `loss.targets` names the file.
        settings: hyperparameters of ReFT-r1.

    Raises:
        SteeringError: if the file cannot be written.
    """
    path = Path(str(config.loss.targets))
    if is_file(path):
        return path
    rows = rows_of(config, lm)
    ids = split_as(rows.data, config.data, config.seed).train_concepts
    taught = teach(reft_of(settings) if name == "reft-r1" else DiffMean(), name, lm, config, ids)
    some = [row for step in range(TRIED_STEPS) for row in rows.batches.batch(step)]
    size = config.optim.batch_size
    means = {
        strength: mean(_losses(lm, taught.site, some, fixed(taught, strength), size))
        for strength in STRENGTHS
    }
    best = min(means, key=lambda strength: means[strength])
    targets = torch.zeros(max(one.id for one in rows.data.concepts) + 1, lm.width)
    targets[list(ids)] = best * taught.of(ids)
    try:
        with replacing(path) as temporary:
            save_tensors({"vectors": targets}, temporary, {"method": name, "strength": f"{best:g}"})
    except OSError as error:
        raise SteeringError(f"cannot write '{path}': {reason(error)}") from error
    return path


@torch.no_grad()
def _losses(
    lm: BaseLM,
    site: Site,
    rows: Sequence[TrainingRow],
    make: Callable[[Sequence[int]], Change],
    batch_size: int,
) -> list[float]:
    """Return the mean loss of each row's response under the vector of its concept."""
    found: list[float] = []
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        prompts, responses = [row.prompt for row in part], [row.response for row in part]
        batch = collate(prompts, responses, pad_id=lm.chat.pad_id).to(lm.device)
        act = partial(make([row.concept_id for row in part]), batch=batch)
        with at_sites(lm.blocks, [(site, act)]):
            found += response_losses(lm, batch)[0].double().tolist()
    return found
