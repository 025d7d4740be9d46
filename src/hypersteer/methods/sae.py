"""SAE and SAE-A: steer along a feature of a sparse autoencoder, chosen by its label or by AUROC.

Source: AxBench (arXiv 2501.17148), section 4; clamping after Templeton et al., 2024 (Scaling
Monosemanticity). See `hypersteer.learning.sae_features` for what is done with a feature.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from hypersteer.concepts import Concept
from hypersteer.edits.sites import Site
from hypersteer.errors import ConfigError, DataError
from hypersteer.files import is_file, path_of
from hypersteer.learning import dispatch
from hypersteer.learning import sae_features as features
from hypersteer.learning.corpus import Corpus, States, check_fields, make_corpus, need_rows
from hypersteer.learning.dictionaries import Dictionary, find_dictionary, read_dictionary
from hypersteer.learning.sae_features import Mode, Picked
from hypersteer.learning.sae_labels import Labels, nearest_labels, read_labels
from hypersteer.learning.values import ConceptExamples, Done, Learned
from hypersteer.lm.base import BaseLM
from hypersteer.lm.flops import MULTIPLY_ADD

BESIDE = "labels.jsonl"
"""Labels that lie beside a dictionary's weights are found by this name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sae:
    """The feature whose label is most similar to the concept; no example is needed.

    A concept whose `ref` is the Neuronpedia address of a feature of this very dictionary gets that
    feature, as all AxBench concepts do with their GemmaScope dictionary. For any other the labels
    are compared with its text (`hypersteer.learning.sae_labels.nearest_labels`): no more than a
    likeness of words, so it is as good as the labels are.

    Deviation from AxBench: the maximum activation is the label file's (`maxActApprox`), which is
    Neuronpedia's where labels are; without one it is measured on the concept's own rows, or on all
    rows that `fit` is given where it has none.

    Attributes:
        dictionary: a GemmaScope `params.npz`, a `.safetensors` file, or a SAELens folder.
        labels: a Neuronpedia export; by default `labels.jsonl` beside the dictionary, if there.
        neuronpedia: the dictionary's name in concepts' `ref`, such as
            `gemma-2-2b/10-gemmascope-res-16k`; by default what its `cfg.json` says.
        mode: `add`, `clamp` or `min_clamp`.
        batch_tokens: most tokens of a forward pass, padding included.
    """

    learns: ClassVar[bool] = False
    scales: ClassVar[bool] = True
    steer = staticmethod(dispatch.steer)
    detect = staticmethod(dispatch.detect)

    dictionary: str = ""
    labels: str = ""
    neuronpedia: str = ""
    mode: Mode = "add"
    batch_tokens: int = 4096

    def __post_init__(self) -> None:
        check_fields(self)
        find_dictionary(self.dictionary)
        if self.labels and not is_file(path_of(self.labels, "labels")):
            raise ConfigError(f"no labels at '{self.labels}'; give a Neuronpedia export")

    def fit(
        self, lm: BaseLM, site: Site, concepts: Sequence[ConceptExamples], done: Done | None = None
    ) -> Learned:
        """Choose a feature for each concept; nothing runs if the labels tell maximum activations.

        Raises:
            ConfigError: if the dictionary is not for this base LM and site, or there are no labels.
            DataError: if files are damaged, or an activation can be neither read nor measured.
        """
        del done
        started = time.perf_counter()
        dictionary = read_dictionary(self.dictionary)
        dictionary.check(lm, site)
        self._check_layer(site, self.neuronpedia or dictionary.neuronpedia)
        labels = self._labels()
        picked = self._pick(lm, dictionary, labels, [entry.concept for entry in concepts])
        given = [labels.highest.get(one.feature, 0.0) for one in picked]
        activations, flops = torch.tensor(given), 0.0
        unknown = [number for number, highest in enumerate(given) if highest <= 0]
        if unknown:
            wanted = {number: picked[number].feature for number in unknown}
            activations[unknown], flops = self._measured(lm, site, dictionary, wanted, concepts)
        return features.keep(
            concepts,
            dictionary,
            picked,
            activations,
            path=self.dictionary,
            mode=self.mode,
            flops=flops,
            started=started,
        )

    def _check_layer(self, site: Site, name: str) -> None:
        """Refuse a name such as `x/20-y` of another layer; GemmaScope's files do not say theirs."""
        match = re.search(r"(?:^|/)(\d+)-[^/]*$", name)
        if match and int(match[1]) != site.layer:
            raise ConfigError(
                f"neuronpedia '{name}' is for layer {match[1]}, but the site is {site}; set "
                f"site.layer = {match[1]}, or give another dictionary"
            )

    def _labels(self) -> Labels:
        """Read the labels, of which there may be none."""
        path = self.labels or find_dictionary(self.dictionary).weights.with_name(BESIDE)
        if not self.labels and not is_file(Path(path)):
            return Labels([], {})
        return read_labels(path)

    def _pick(
        self, lm: BaseLM, dictionary: Dictionary, labels: Labels, concepts: Sequence[Concept]
    ) -> list[Picked]:
        """Choose a feature for each concept."""
        name = self.neuronpedia or dictionary.neuronpedia
        named = [feature_of(concept.ref, name) for concept in concepts]
        others = [c for c, feature in zip(concepts, named, strict=True) if feature is None]
        if others and not labels.texts:
            raise ConfigError(
                f"concept {others[0].id} ('{others[0].text}') names no feature of the dictionary, "
                "and there are no labels: set `labels` to a Neuronpedia export (index and "
                "description), or `neuronpedia` to the dictionary's name in the concepts' ref"
            )
        texts = [concept.text for concept in others]
        places, likeness = nearest_labels(lm, texts, labels) if others else ([], [])
        found = iter(zip(places, likeness, strict=True))
        picked = []
        for feature in named:
            if feature is None:
                place, how_like = next(found)
                feature, text = labels.texts[place]
                note = {"by": "label", "label": text, "likeness": round(how_like, 4)}
            else:
                note = {"by": "ref"}
            if feature >= dictionary.size:
                raise ConfigError(
                    f"feature {feature} is not among the {dictionary.size} of '{self.dictionary}'; "
                    "its labels or `neuronpedia` belong to another dictionary"
                )
            picked.append(Picked(feature, {"feature": feature, **note}))
        return picked

    def _measured(
        self,
        lm: BaseLM,
        site: Site,
        dictionary: Dictionary,
        wanted: Mapping[int, int],
        concepts: Sequence[ConceptExamples],
    ) -> tuple[Tensor, float]:
        """Measure maximum activations of features by concepts' places, and count operations."""
        corpus, chosen = make_corpus(lm, concepts), list(wanted.values())
        if not corpus.texts:
            raise DataError(
                f"the labels tell no maximum activation (maxActApprox) of feature {chosen[0]}, and "
                "there are no rows to measure it on; give labels that do"
            )
        every = list(range(len(corpus.texts)))
        once = [1] * len(every)
        states = States(lm, site, corpus.texts, once, batch_tokens=self.batch_tokens, cache_bytes=0)
        tops = features.pooled(states, every, dictionary.reader(chosen, lm.device))
        rows = [corpus.rows[number] or every for number in wanted]
        highest = torch.stack([tops[own, k].max() for k, own in enumerate(rows)])
        highest = features.or_norms(highest, states, rows, dictionary.decoder[chosen])
        return highest, states.flops


@dataclass(frozen=True, slots=True, kw_only=True)
class SaeA:
    """The feature whose largest activation tells rows with the concept from those without best.

    Best is by AUROC, over all features; of several that are equally good, the one whose mean
    contributions to a state differ most. The states are read once, for all concepts.

    Deviation from AxBench: chat prefix and padding never count.

    Attributes:
        dictionary: a GemmaScope `params.npz`, a `.safetensors` file, or a SAELens folder.
        mode: `add`, `clamp` or `min_clamp`.
        batch_tokens: most tokens of a forward pass, padding included.
        cache_bytes: most bytes of hidden states kept for texts that several concepts share.
    """

    learns: ClassVar[bool] = True
    scales: ClassVar[bool] = True
    steer = staticmethod(dispatch.steer)
    detect = staticmethod(dispatch.detect)

    dictionary: str = ""
    mode: Mode = "add"
    batch_tokens: int = 4096
    cache_bytes: int = 2 * 2**30

    def __post_init__(self) -> None:
        check_fields(self)
        find_dictionary(self.dictionary)

    def fit(
        self, lm: BaseLM, site: Site, concepts: Sequence[ConceptExamples], done: Done | None = None
    ) -> Learned:
        """Choose a feature for each concept.

        Raises:
            ConfigError: if the dictionary is not for this base LM and site.
            DataError: if a concept has no positive or no negative rows.
        """
        started = time.perf_counter()
        dictionary = read_dictionary(self.dictionary)
        dictionary.check(lm, site)
        corpus = make_corpus(lm, concepts)
        need_rows(corpus, concepts, method="SAE-A", negatives=True)
        states = self._states(lm, site, corpus)
        whole, norms, products = dictionary.to(lm.device), dictionary.decoder.norm(dim=-1), 0

        def encode(hidden: Tensor) -> Tensor:
            nonlocal products
            products += MULTIPLY_ADD * len(hidden) * dictionary.decoder.numel()
            return whole.latents(hidden)

        # Negatives are shared, so what they show is kept from one concept to the next.
        lacking = lru_cache(maxsize=4)(lambda numbers: features.pooled(states, numbers, encode))
        picked, highest = [], torch.zeros(len(concepts))
        for number, positives in enumerate(corpus.positives):
            shows = features.pooled(states, positives, encode)
            lacks = lacking(tuple(corpus.negatives[number]))
            feature, score = features.best(shows, lacks, norms)
            picked.append(Picked(feature, {"feature": feature, "by": "auroc", "auroc": score}))
            highest[number] = torch.cat([shows, lacks])[:, feature].max()
            if done is not None:
                done(1 / len(concepts))
        decoder = dictionary.decoder[[one.feature for one in picked]]
        highest = features.or_norms(highest, states, corpus.rows, decoder)
        return features.keep(
            concepts,
            dictionary,
            picked,
            highest,
            path=self.dictionary,
            mode=self.mode,
            flops=states.flops + products,
            started=started,
        )

    def _states(self, lm: BaseLM, site: Site, corpus: Corpus) -> States:
        """Return states of the corpus; a text is read once for each concept and each pool."""
        pools = {tuple(numbers) for numbers in corpus.negatives}
        uses = np.bincount(
            [number for numbers in [*corpus.positives, *pools] for number in numbers],
            minlength=len(corpus.texts),
        )
        return States(
            lm,
            site,
            corpus.texts,
            uses.tolist(),
            batch_tokens=self.batch_tokens,
            cache_bytes=self.cache_bytes,
        )


def feature_of(ref: str, neuronpedia: str) -> int | None:
    """Return the feature that a Neuronpedia address names, if it is one of this very dictionary."""
    match = re.search(rf"(?:^|/){re.escape(neuronpedia)}/(\d+)/?$", ref) if neuronpedia else None
    return int(match[1]) if match else None
