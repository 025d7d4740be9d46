"""ReFT-r1: many concepts at once against one after another, ours and the published way.

    python benchmarks/reft_r1.py [--source axbench:concept10/2b/l20] [--layer 12]
        [--rows 6] [--apart 2]

Times the parts of a training and scales them to the whole recipe (3 epochs over 72 positives and
72 negatives of each concept, or what the data have):

    reading  states at the site, once per distinct text; negatives are shared between concepts
    step     batch_size rows of every concept: blocks above the site, head on response tokens

`one after another` is our own code with one concept at a time. `published` is what AxBench's code
does for one concept at a time: full forward over all blocks, head on all tokens, batches of
`batch_size` random rows padded to the longest, nothing kept. All take the same rows, concept by
concept, so the gradient steps are the same; the directions after the timed steps are compared.
Seconds are those of the processor, all threads together, so that a busy machine matters little.
"""

import argparse
import time
from collections import deque
from typing import NamedTuple

import torch
from torch.nn import functional as F

from hypersteer.data.schema import NEGATIVE_POOL
from hypersteer.data.sources import ConceptData, load_concepts
from hypersteer.edits.sites import Site
from hypersteer.learning.corpus import Corpus, States, after_prefix, make_corpus
from hypersteer.learning.values import ConceptExamples
from hypersteer.lm.base import BaseLM
from hypersteer.lm.hooks import at_sites
from hypersteer.lm.load import load_lm
from hypersteer.methods.reft_r1 import ReftR1, Training, change
from timing import machine, table


class Timed(NamedTuple):
    """Seconds of reading and of each step, for all concepts together; the directions reached."""

    reading: float
    steps: list[float]
    directions: torch.Tensor
    flops: float


def concept_rows(data: ConceptData, count: int, rows: int | None) -> list[ConceptExamples]:
    """Concepts with so many rows, half of them negatives: the pool's, or other concepts'."""
    half = None if rows is None else rows // 2
    chosen = data.concepts[:count]
    pool = data.examples(data.rows(NEGATIVE_POOL, "negative"))
    entries = []
    for concept in chosen:
        positives = data.examples(data.rows(concept.id))
        negatives = [one for one in pool if one.genre == concept.genre]
        if not pool:
            others = [other for other in data.concepts if other.id != concept.id]
            taken = [data.examples(data.rows(other.id))[concept.id % 4 :: 4] for other in others]
            negatives = [one for part in taken for one in part][: len(positives)]
        entries.append(ConceptExamples(concept, positives[:half], negatives[:half]))
    return entries


def ours(
    recipe: ReftR1, lm: BaseLM, site: Site, entries: list[ConceptExamples], steps: int
) -> Timed:
    """Our training of these concepts at once."""
    corpus = make_corpus(lm, entries)
    training = Training(recipe, lm, site, corpus, [entry.concept.id for entry in entries])
    numbers = range(len(corpus.texts))
    unread = States(
        lm, site, corpus.texts, [1] * len(numbers), batch_tokens=recipe.batch_tokens, cache_bytes=0
    )
    start = time.process_time()
    deque(unread.walk(numbers), maxlen=0)
    reading = time.process_time() - start
    before, taken = training.flops(), []
    for step in range(steps):
        start = time.process_time()
        training.step(step)
        taken.append(time.process_time() - start)
    flops = (training.flops() - before) / steps
    return Timed(reading, taken, training.directions(), flops)


def published(
    recipe: ReftR1, lm: BaseLM, site: Site, entries: list[ConceptExamples], steps: int
) -> Timed:
    """One concept, every step a forward of all blocks with the head on all tokens."""
    corpus = make_corpus(lm, entries)
    training = Training(recipe, lm, site, corpus, [entry.concept.id for entry in entries])
    weight = training._weights[0]
    taken, tokens = [], 0
    for step in range(steps):
        start = time.process_time()
        numbers = training._batch(0, step)
        loss, padded = _published_loss(recipe, lm, site, training, numbers, weight, step, corpus)
        loss.backward()
        training._prepare(0, step)
        training._optimizer.step()
        training._optimizer.zero_grad(set_to_none=True)
        taken.append(time.process_time() - start)
        tokens += padded
    weights = [sum(p.numel() for p in block.parameters()) for block in lm.blocks]
    head = lm.vocab * lm.width
    per_token = 2 * sum(weights) + 2 * sum(weights[site.layer + 1 :]) + 4 * head
    return Timed(0.0, taken, training.directions(), per_token * tokens / steps)


def _published_loss(
    recipe: ReftR1,
    lm: BaseLM,
    site: Site,
    training: Training,
    numbers: list[int],
    weight: torch.Tensor,
    step: int,
    corpus: Corpus,
) -> tuple[torch.Tensor, int]:
    """Loss of a batch, and its tokens with padding.

    Rows weigh alike, as in ours, so that the directions can be compared; that costs nothing.
    """
    batch = training.states.batch(numbers)
    marks, penalties = after_prefix(batch.spans), []

    def edit(hidden: torch.Tensor) -> torch.Tensor:
        rows = weight.expand(len(numbers), -1)
        changed = change(hidden, rows, marks, recipe.top_k)
        penalties.append(changed.penalty)
        return changed.hidden

    with at_sites(lm.blocks, [(site, edit)]):
        logits = lm.logits(batch)
    labels = batch.ids.masked_fill(~batch.spans.response, -100)[:, 1:]
    losses = F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels.flatten(), reduction="none"
    ).view_as(labels)
    means = losses.sum(1) / (labels >= 0).sum(1)
    ramp = recipe.sparsity * step / recipe.steps(len(corpus.rows[0]))
    return (means + ramp * penalties[0]).mean(), batch.ids.numel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", default="bundled")
    parser.add_argument("--concepts", type=int, default=10)
    parser.add_argument("--apart", type=int, default=10, help="of them, run one after another too")
    parser.add_argument("--rows", type=int, default=12, help="rows per concept that are run")
    parser.add_argument("--steps", type=int, default=2, help="timed steps")
    parser.add_argument("--layer", type=int, default=12)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    args = parser.parse_args()
    lm, data = load_lm("smollm2-135m-instruct", dtype="float32"), load_concepts(args.source)
    site = lm.site(args.layer)
    recipe = ReftR1(batch_tokens=args.batch_tokens)
    whole = concept_rows(data, args.concepts, None)
    entries = concept_rows(data, args.concepts, args.rows)
    print(f"{machine()}; {site} of {lm.depth} blocks; {len(entries)} concepts of {data.name}")

    alone = entries[: args.apart]
    results = {"published": [published(recipe, lm, site, [e], args.steps) for e in alone]}
    results["one after another"] = [ours(recipe, lm, site, [e], args.steps) for e in alone]
    results["at once"] = [ours(recipe, lm, site, entries, args.steps)]
    _report(results, _sizes(lm, whole), _sizes(lm, entries), recipe)


class Sizes(NamedTuple):
    """Texts to read when each concept reads its own, and when all share; steps per concept."""

    own: int
    distinct: int
    rows: int


def _sizes(lm: BaseLM, entries: list[ConceptExamples]) -> Sizes:
    corpus = make_corpus(lm, entries)
    own = sum(len(set(rows)) for rows in corpus.rows)
    return Sizes(own, len(corpus.texts), max(map(len, corpus.rows)))


def _report(results: dict[str, list[Timed]], whole: Sizes, run: Sizes, recipe: ReftR1) -> None:
    """Seconds per concept, scaled from what was run to the whole recipe."""
    steps = recipe.steps(whole.rows)
    seconds, lines = {}, []
    for name, parts in results.items():
        concepts = sum(len(part.directions) for part in parts)
        shared = name == "at once"
        scale = whole.distinct / run.distinct if shared else whole.own / run.own
        reading = scale * sum(part.reading for part in parts) / concepts
        step = sum(sorted(part.steps)[len(part.steps) // 2] for part in parts) / concepts
        flops = sum(part.flops for part in parts) / concepts
        seconds[name] = reading + steps * step
        lines.append([name, flops / 1e9, flops / step / 1e9, reading, step, seconds[name]])
    print(
        f"timed: {run.rows} rows a concept, scaled to {whole.rows} rows, {steps} steps; "
        f"texts to read {whole.own}, distinct {whole.distinct}\n"
    )
    table(
        ["way", "GFLOP/step", "GFLOP/s", "reading s", "step s", "s/concept", "of at once"],
        [
            [line[0], *(f"{value:.2f}" for value in line[1:]), f"{line[-1] / lines[-1][-1]:.2f}"]
            for line in lines
        ],
    )
    at_once = results["at once"][0].directions
    for name in ("one after another", "published"):
        apart = torch.cat([part.directions for part in results[name]])
        largest = float((apart - at_once[: len(apart)]).abs().max())
        print(f"\nlargest difference to {name}: {largest:.1e}")


if __name__ == "__main__":
    main()
