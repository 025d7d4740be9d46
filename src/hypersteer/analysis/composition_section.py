"""The section on composition and strengths, and its report."""

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from hypersteer.analysis.composition import (
    PAIRS,
    ROWS,
    Composed,
    Swing,
    composed,
    rank_correlation,
    swing,
)
from hypersteer.analysis.composition_figures import draw_composed, draw_swings, levels_of
from hypersteer.analysis.page import write_page
from hypersteer.analysis.run import Analysis, BaseLMChoice, described, facts_about, loaded
from hypersteer.analysis.section import Drawing, Listing, Section, write_section
from hypersteer.analysis.subject import Subject, choose_concepts, choose_prompts
from hypersteer.concepts import Concept
from hypersteer.config.analysis import AnalysisConfig
from hypersteer.data.sources import ConceptData, load_concepts
from hypersteer.errors import ConfigError
from hypersteer.files import output_folder
from hypersteer.hypernet.card import Card

CONCEPTS = 8
"""Concepts by default."""


def report_composition(
    checkpoints: Sequence[str], config: AnalysisConfig, base_lm: BaseLMChoice | None = None
) -> Analysis:
    """Measure two steering prompts at once, and strengths from -2 to 2; write figures and report.

    Concepts that none of the checkpoints was trained on are taken where there are enough.

    Args:
        checkpoints: folders, Hub ids, or `bundled`.
        config: data, number of concepts (8 by default), tokens of an answer, seed, folder.
        base_lm: which base LM to load.

    Raises:
        ConfigError: for settings that cannot be, or a checkpoint that is named twice.
        CheckpointError: if there is no such checkpoint, or it belongs to another base LM.
        DataError: if there are no such data.
        SteeringError: for what does not fit the context window, or files that cannot be written.
    """
    if len(set(checkpoints)) < len(checkpoints):
        raise ConfigError("a checkpoint is named twice; name each once")
    folder = output_folder(config.out, "out")
    found = described(checkpoints)
    data = load_concepts(config.data)
    concepts = _concepts(data, config, [card for _, _, card in found])
    prompts = choose_prompts(data, config)
    subjects = [
        Subject(name=name, steerer=one, data=data, concepts=concepts, prompts=prompts, steer=[])
        for (name, _, _), one in zip(found, loaded(found, base_lm or BaseLMChoice()), strict=True)
    ]
    section = composition_section(subjects, config)
    files = write_section(folder, section)
    facts = [fact for fact in facts_about(subjects, config) if fact[1]]
    report = write_page(folder, [section], facts, "Two edits at once, and negative strengths")
    findings = {drawing.name: drawing.finding for drawing in section.drawings}
    return Analysis(report, files, findings)


def _concepts(data: ConceptData, config: AnalysisConfig, cards: Sequence[Card]) -> list[Concept]:
    """Return the concepts that are composed, unseen ones first."""
    count = config.concepts or CONCEPTS
    ranked = choose_concepts(data, replace(config, concepts=len(data.concepts)), depends=False)
    seen = {text for card in cards for text in card.concepts}
    ordered = sorted(ranked, key=lambda concept: concept.text in seen)
    if len(ordered) < count:
        raise ConfigError(f"{data.name} has {len(ordered)} concepts, and {count} are wanted")
    return ordered[:count]


def composition_section(subjects: Sequence[Subject], config: AnalysisConfig) -> Section:
    """Measure every checkpoint's edits, alone and together."""
    pairs = {subject.name: composed(subject, config) for subject in subjects}
    swings = {_kind(subject): swing(subject, config) for subject in subjects}
    drawings = [
        Drawing("composition" if number == 0 else f"composition_{number + 1}", *drawn)
        for number, drawn in enumerate(draw_composed(*one) for one in pairs.items())
    ]
    drawings.append(Drawing("composition_strengths", *draw_swings(swings)))
    return Section(
        name="composition",
        title="Two steering prompts at once, and strengths from -2 to 2",
        notes=[_note(subjects)],
        drawings=drawings,
        listings=[_readings(pairs), _strengths(swings)],
        numbers={
            "checkpoints": {name: _numbers(found) for name, found in pairs.items()},
            "strengths": {
                name: {"strengths": one.strengths, "effects": one.effects.mean(0).tolist()}
                for name, one in swings.items()
            },
        },
        tables={"composition_pairs": _table(pairs)},
    )


def _kind(subject: Subject) -> str:
    return f"{subject.name} ({subject.steerer.card.hypernet.edit})"


def _note(subjects: Sequence[Subject]) -> str:
    concepts = subjects[0].concepts
    seen = sum(
        any(one.text in subject.steerer.card.concepts for subject in subjects) for one in concepts
    )
    said = any(subject.steerer.card.prompted for subject in subjects)
    beside = " Prompts say the row's own steering prompt in every reading." if said else ""
    return (
        f"{len(concepts)} concepts, {seen} of them trained on, at most {PAIRS} pairs both ways "
        f"round, {ROWS} answers of each concept. One joint text names both with a semicolon. Edits "
        "at two sites are every other site of each, or, where edits have one site, the second "
        f"one's in the next block.{beside}"
    )


def _numbers(found: Sequence[Composed]) -> dict[str, object]:
    cosines = [one.cosine for one in found]
    return {
        "losses": {name: own._asdict() for name, own in levels_of(found).items()},
        "interference_against_cosine": {
            form: rank_correlation(cosines, [one.interference(form) for one in found])._asdict()
            for form in found[0].forms
            if all(form in one.forms for one in found)
        },
    }


def _readings(pairs: dict[str, list[Composed]]) -> Listing:
    rows = [
        [name, reading, f"{own.mean:.3f} [{own.low:.3f}, {own.high:.3f}]"]
        for name, found in pairs.items()
        for reading, own in levels_of(found).items()
    ]
    return Listing("Loss of answers that show the concept", ["checkpoint", "under", "loss"], rows)


def _strengths(swings: dict[str, Swing]) -> Listing:
    first = next(iter(swings.values()))
    columns = ["checkpoint", *(f"{strength:g}" for strength in first.strengths)]
    rows = [
        [name, *(f"{value:+.3f}" for value in one.effects.mean(0))] for name, one in swings.items()
    ]
    return Listing("Loss less that of strength 0, by strength", columns, rows)


def _table(pairs: dict[str, list[Composed]]) -> pa.Table:
    """Return one row per checkpoint, ordered pair and form."""
    rows = [
        {
            "checkpoint": name,
            "own": one.own,
            "other": one.other,
            "cosine": one.cosine,
            "loss_plain": one.plain,
            "loss_alone": one.alone,
            "loss_beside": one.beside,
            "form": form,
            "loss": loss,
        }
        for name, found in pairs.items()
        for one in found
        for form, loss in one.forms.items()
    ]
    return pa.Table.from_pylist(rows)
