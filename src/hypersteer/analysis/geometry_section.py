"""The section on geometry: edits of concepts and base prompts, of one checkpoint or of two."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from hypersteer.analysis.edit_vectors import EditVectors, edit_vectors
from hypersteer.analysis.geometry import Clusters, Projections, clusters, projections
from hypersteer.analysis.geometry_figures import Shown, draw_controls, draw_cosines, draw_maps
from hypersteer.analysis.section import Drawing, Section
from hypersteer.analysis.subject import Subject
from hypersteer.concepts import Concept
from hypersteer.config.analysis import AnalysisConfig

SINGLE = 24
"""So many concepts with one edit each are compared one by one; more by their kinds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Groups:
    """What edits are grouped by: `concept`, `kind` of concept, or nothing (`edit`)."""

    by: str
    of: np.ndarray
    names: list[str]


def geometry_section(subjects: list[Subject], config: AnalysisConfig) -> Section:
    """Compare the edits of concepts and base prompts.

    Args:
        subjects: one checkpoint, or two on the same concepts and prompts.
        config: the settings.
    """
    found = [_look(subject, config) for subject in subjects]
    shown = [shown for shown, _, _ in found]
    drawings = [
        Drawing("geometry_maps", *draw_maps(shown)),
        Drawing("geometry_cosines", *draw_cosines(shown)),
        Drawing("geometry_controls", *draw_controls(shown)),
    ]
    tables = [_table(one, *parts) for one, parts in zip(subjects, found, strict=True)]
    return Section(
        name="geometry",
        title="Geometry of the edits",
        notes=[note for one in shown for note in one.notes],
        drawings=drawings,
        numbers={"checkpoints": [_numbers(*parts) for parts in found]},
        tables={"geometry_edits": pa.concat_tables(tables)},
    )


def _look(subject: Subject, config: AnalysisConfig) -> tuple[Shown, EditVectors, _Groups]:
    texts = [concept.text for concept in subject.concepts]
    made = edit_vectors(subject.steerer, texts, subject.prompts, f"making edits of {subject.name}")
    rows = made.rows().numpy()
    groups = _groups(subject.concepts, made)
    found: Projections = projections(rows, config.seed)
    counted: Clusters = clusters(rows, groups.of, groups.names, config.seed)
    shown = Shown(
        name=subject.name,
        by=groups.by,
        groups=groups.of,
        projections=found,
        clusters=counted,
        sites=[str(site) for site in made.sites],
        lengths=made.lengths().numpy(),
        notes=_notes(subject, made, groups),
    )
    return shown, made, groups


def _groups(concepts: list[Concept], made: EditVectors) -> _Groups:
    """Return what edits are grouped by: by concept where each has several edits."""
    owners = made.concept.numpy()
    if len(owners) > len(concepts):
        return _Groups(by="concept", of=owners, names=[concept.text for concept in concepts])
    kinds = [concept.kind or concept.genre for concept in concepts]
    names = sorted(set(kinds), key=lambda kind: (-kinds.count(kind), kind))
    if len(concepts) <= SINGLE or len(names) < 2:
        return _Groups(by="edit", of=owners, names=[concept.text for concept in concepts])
    return _Groups(by="kind", of=np.array([names.index(kind) for kind in kinds]), names=names)


def _notes(subject: Subject, made: EditVectors, groups: _Groups) -> list[str]:
    card = subject.steerer.card
    seen = sum(concept.text in card.concepts for concept in subject.concepts)
    notes = [
        (
            f"{subject.name}: {len(made.writes):,} edits of {len(subject.concepts):,} concepts, "
            f"{seen:,} of which it was trained on."
        )
    ]
    if groups.by != "concept":
        notes.append(
            f"{subject.name} is a {card.hypernet.variant} hypernetwork: its edits do not depend on "
            "the base prompt, so each concept has one edit, and there is nothing within a concept "
            "to compare."
        )
    if groups.by == "kind":
        notes.append(
            f"Its edits are grouped by the kind of concept that the data name: "
            f"{', '.join(groups.names)}."
        )
    if not made.exact:
        notes.append(
            f"{subject.name} writes {card.hypernet.edit} edits, which are no single vector. Each "
            "stands here as its mean write: what it adds to the hidden states of a few ordinary "
            "base prompts, on average over their tokens."
        )
    if len(made.sites) > 1:
        notes.append(
            f"{subject.name} writes at {len(made.sites)} sites; they are put side by side, each in "
            "units of the typical length of the states there."
        )
    return notes


def _numbers(shown: Shown, made: EditVectors, groups: _Groups) -> dict[str, Any]:
    counted = shown.clusters
    return {
        "checkpoint": shown.name,
        "edits": len(made.writes),
        "grouped_by": groups.by,
        "groups": counted.names,
        "within": counted.within,
        "between": counted.between,
        "spread_within_over_between": counted.spread,
        "silhouette": counted.silhouette,
        "silhouettes_of_shuffled_groups": counted.shuffled,
        "share_of_the_mean_edit": counted.common,
        "cosines": counted.cosines.tolist(),
        "cosines_without_the_mean_edit": counted.centred.tolist(),
        "explained_variance": list(shown.projections.explained),
        "sites": shown.sites,
        "median_relative_length": np.median(shown.lengths, axis=0).tolist(),
        "typical_length_of_states": made.sizes.tolist(),
    }


def _table(subject: Subject, shown: Shown, made: EditVectors, groups: _Groups) -> pa.Table:
    """Return one row per edit: what it is for, where it lies, how long it is."""
    concepts = [subject.concepts[number] for number in made.concept.tolist()]
    prompts = [subject.prompts[number] for number in made.prompt.tolist()]
    several = groups.by == "concept"
    places = shown.projections.tsne
    unplaced = np.full((len(concepts), 2), np.nan)
    layout = unplaced if places is None else places
    return pa.table(
        {
            "checkpoint": [subject.name] * len(concepts),
            "concept": [concept.text for concept in concepts],
            "kind": [concept.kind or concept.genre for concept in concepts],
            "prompt": pa.array(prompts if several else [None] * len(concepts), pa.string()),
            "pca_1": shown.projections.pca[:, 0],
            "pca_2": shown.projections.pca[:, 1],
            "tsne_1": layout[:, 0],
            "tsne_2": layout[:, 1],
            "relative_length": [row.tolist() for row in shown.lengths],
        }
    )
