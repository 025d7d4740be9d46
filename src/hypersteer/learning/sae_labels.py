"""Labels of a dictionary's features, and which of them is most similar to a concept."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from hypersteer.errors import DataError, one_line
from hypersteer.files import path_of, read_json, read_lines
from hypersteer.lm.base import BaseLM
from hypersteer.values import as_real, json_of

PHRASING = """
    a about all an and answer any are as associated at be bring by certain common concepts
    concerning content context contexts describing descriptions different discussions elements
    expressions features figures for from in including indicating indications instances involving
    is its key language like mention mentions names notable occurrences of on or particular
    particularly patterns phrases presence refer references referring regarding related relating
    relations relevant respond sentences sound speak specific style such syntax talk technical
    terminology terms text that the their themes to topic topics types up usage use various with
    within words work write
"""
"""Words by which concepts and labels are put, not what they are about; not compared."""

LONGEST = 12
"""Digits of a feature's number, at most."""
EXPECTED = "expected objects with an 'index' and a 'description', as Neuronpedia exports them"


class Labels(NamedTuple):
    """The labels of a dictionary's features.

    Attributes:
        texts: (feature, description); a feature may have several, or none.
        highest: maximum activation of the features for which the file tells one above 0.
    """

    texts: list[tuple[int, str]]
    highest: dict[int, float]


def read_labels(path: str | Path) -> Labels:
    """Read a Neuronpedia export: a JSON list of objects, or one object a line.

    An object holds `index`, and `description` or `maxActApprox` or both, so that the exports of
    explanations and of features can be put into one file.

    Raises:
        DataError: the file is missing, malformed or holds no description.
    """
    file = path_of(path, "labels", DataError)
    try:
        if file.suffix == ".json":
            entries = read_json(file)
        else:
            entries = [json_of(line) for line in read_lines(file) if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read labels from '{path}': {one_line(error)}") from error
    labels = Labels([], {})
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        _add(labels, entry, f"'{path}', entry {number}")
    if not labels.texts:
        raise DataError(f"'{path}' holds no descriptions; {EXPECTED}")
    return labels


def nearest_labels(
    lm: BaseLM, wanted: Sequence[str], labels: Labels
) -> tuple[list[int], list[float]]:
    """Return the place in `labels.texts` of the most similar to each text, and how similar it is.

    A text is the mean of the base LM's input embeddings of its tokens, each weighted by how rare
    it is among the labels (inverse document frequency), less what all labels have in common; texts
    are compared by cosine. Words that are the same count most, related words somewhat, and those
    of `PHRASING` only in a text that has no others. Source: Arora et al., 2017 (weighted averages
    of word vectors, common component removed).
    """
    texts = [*(text for _, text in labels.texts), *wanted]
    tokens = [lm.chat.text(f" {_without_phrasing(text)}") for text in texts]
    vectors = _vectors(lm, tokens, len(labels.texts))
    vectors = F.normalize(vectors - vectors[: len(labels.texts)].mean(0), dim=-1)
    likeness = vectors[len(labels.texts) :] @ vectors[: len(labels.texts)].T
    best = likeness.max(1)
    return best.indices.tolist(), best.values.tolist()


def _without_phrasing(text: str) -> str:
    """Return a text in lower case without the words of `PHRASING`, if any word is left."""
    words, phrasing = text.lower().split(), set(PHRASING.split())
    return " ".join([word for word in words if word.strip(",.;:") not in phrasing] or words)


def _vectors(lm: BaseLM, tokens: list[list[int]], documents: int) -> Float[Tensor, "M D"]:
    """Return unit mean embeddings of texts; the first `documents` tell how rare tokens are."""
    flat = torch.tensor([token for ids in tokens for token in ids], dtype=torch.long)
    known, places = flat.unique(return_inverse=True)
    seen = torch.tensor(
        [token for ids in tokens[:documents] for token in set(ids)], dtype=torch.long
    )
    counts = torch.bincount(torch.searchsorted(known, seen), minlength=len(known))
    rarity = ((1 + documents) / (1 + counts)).log()
    table = lm.embeddings(known.to(lm.device)).float().cpu()
    sizes = torch.tensor([len(ids) for ids in tokens])
    sums = F.embedding_bag(
        places,
        F.normalize(table, dim=-1),
        sizes.cumsum(0) - sizes,
        per_sample_weights=rarity[places],
        mode="sum",
    )
    return F.normalize(sums, dim=-1)


def _add(labels: Labels, entry: Any, where: str) -> None:
    """Add one object of the file to the labels."""
    index = entry.get("index") if isinstance(entry, dict) else None
    digits = "" if isinstance(index, bool) else str(index)
    if not digits.isdecimal() or len(digits) > LONGEST:
        raise DataError(f"{where} is {one_line(repr(entry), 60)}; {EXPECTED}")
    feature, text = int(digits), entry.get("description")
    if isinstance(text, str) and text.strip():
        labels.texts.append((feature, text.strip()))
    highest = as_real(entry.get("maxActApprox"))
    if highest is not None and 0 < highest < math.inf:
        labels.highest[feature] = highest
