"""The section on perplexity: answers to learn from, source by source, and the base LM's own."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from hypersteer.analysis.perplexity import (
    ASKED,
    UNASKED,
    Answers,
    own_answers,
    perplexities,
    some_examples,
)
from hypersteer.analysis.perplexity_figures import draw_perplexities
from hypersteer.analysis.section import Drawing, Listing, Section
from hypersteer.config.analysis import AnalysisConfig
from hypersteer.data.schema import Example
from hypersteer.data.sources import ConceptData
from hypersteer.lm.base import BaseLM
from hypersteer.progress import ProgressBar


def perplexity_section(
    lm: BaseLM, sources: Sequence[ConceptData], config: AnalysisConfig
) -> Section:
    """Compare how likely answers of several sources are, and the base LM's own.

    Args:
        lm: the base LM.
        sources: concept data; the base LM answers base prompts of the first.
        config: how many answers, how long, and the seed.
    """
    examples = [some_examples(data, config.answers, config.seed) for data in sources]
    given = [_as_answers(*one) for one in zip(sources, examples, strict=True)]
    given += own_answers(lm, examples[0], given[0].concepts, config)
    measured = []
    with ProgressBar("reading answers", len(given), transient=True) as bar:
        for one in given:
            measured.append(perplexities(lm, one.prompts, one.responses, config.max_new_tokens))
            bar.advance(1)
    found = {
        one.source: np.array([value for value in values if np.isfinite(value)])
        for one, values in zip(given, measured, strict=True)
    }
    kept = {source: values for source, values in found.items() if len(values)}
    return Section(
        name="perplexity",
        title="How likely the answers to learn from are",
        notes=[_note(sources[0].name, config.max_new_tokens)],
        drawings=[Drawing("perplexity_sources", *draw_perplexities(kept, (ASKED, UNASKED)))],
        listings=[_listing(kept)],
        numbers={"sources": {name: _quantiles(values) for name, values in kept.items()}},
        tables={"perplexity_answers": _table(given, measured)},
    )


def _note(first: str, most: int) -> str:
    return (
        f"At most {most} tokens of each answer are read, after its plain base prompt, by the "
        "unsteered base LM. Its own answers are sampled at temperature 1 to the base prompts of "
        f"{first}."
    )


def _as_answers(data: ConceptData, examples: Sequence[Example]) -> Answers:
    return Answers(
        data.name,
        [one.prompt for one in examples],
        [data.concept(one.concept_id).text for one in examples],
        [one.response for one in examples],
    )


def _quantiles(values: np.ndarray) -> dict[str, float]:
    shares = (0.05, 0.25, 0.5, 0.75, 0.95)
    told = {f"{100 * share:.0f} %": float(np.quantile(values, share)) for share in shares}
    return {"answers": float(len(values)), **told}


def _listing(found: dict[str, np.ndarray]) -> Listing:
    rows = []
    for name, values in found.items():
        count, *quantiles = _quantiles(values).values()
        rows.append([name, f"{count:.0f}", *(f"{value:.1f}" for value in quantiles)])
    columns = ["source", "answers", "5 %", "25 %", "median", "75 %", "95 %"]
    return Listing("Perplexities", columns, rows)


def _table(given: Sequence[Answers], measured: Sequence[Sequence[float]]) -> pa.Table:
    rows = [
        {
            "source": one.source,
            "concept": text,
            "prompt": prompt,
            "response": response,
            "perplexity": value,
        }
        for one, values in zip(given, measured, strict=True)
        for prompt, text, response, value in zip(
            one.prompts, one.concepts, one.responses, values, strict=True
        )
    ]
    return pa.Table.from_pylist(rows)
