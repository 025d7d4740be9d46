"""Analyse a checkpoint: every part asked for, its figures and numbers, and one report."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hypersteer.analysis.attention_section import attention_section
from hypersteer.analysis.effect_section import effect_section
from hypersteer.analysis.geometry_section import geometry_section
from hypersteer.analysis.lens_section import lens_section
from hypersteer.analysis.page import write_page
from hypersteer.analysis.perplexity_section import perplexity_section
from hypersteer.analysis.section import Section, write_section
from hypersteer.analysis.subject import (
    Subject,
    choose_concepts,
    choose_prompts,
    choose_steering,
    reads_prompts,
)
from hypersteer.checkpoint import find_checkpoint
from hypersteer.config.analysis import PARTS, AnalysisConfig
from hypersteer.data.locate import BUNDLED as SHIPPED
from hypersteer.data.sources import ConceptData, load_concepts
from hypersteer.errors import ConfigError, nearest
from hypersteer.files import output_folder
from hypersteer.hypernet.card import Card, read_card
from hypersteer.lm.load import load_lm
from hypersteer.steering import Steerer, load


class BaseLMChoice(NamedTuple):
    """Which base LM to load, and where; by default that of the checkpoint on the best device."""

    name: str | None = None
    device: str | None = None
    dtype: str | None = None


class Analysis(NamedTuple):
    """What an analysis wrote.

    Attributes:
        report: the HTML file.
        files: figures and numbers.
        findings: what the first figure of each part shows, by part.
    """

    report: Path
    files: list[Path]
    findings: dict[str, str]


def analyze(
    checkpoint: str,
    part: str = "all",
    config: AnalysisConfig | None = None,
    base_lm: BaseLMChoice | None = None,
) -> Analysis:
    """Analyse a checkpoint, and write figures, numbers and a report.

    Args:
        checkpoint: folder, Hub id, or `bundled`.
        part: one of `config.analysis.PARTS`, or `all`.
        config: all settings.
        base_lm: which base LM to load.

    Raises:
        ConfigError: for an unknown part, or settings that cannot be.
        CheckpointError: if there is no such checkpoint, or it belongs to another base LM.
        DataError: if there are no such data.
        SteeringError: for what does not fit the context window, or files that cannot be written.
    """
    config = config or AnalysisConfig()
    base_lm = base_lm or BaseLMChoice()
    names = _parts(part, config)
    folder = output_folder(config.out, "out")
    checkpoints = described([checkpoint, *([config.against] if config.against else [])])
    data = load_concepts(config.data)
    others = [load_concepts(one) for one in _sources(config)] if "perplexity" in names else []
    depends = any(reads_prompts(card) for _, _, card in checkpoints)
    concepts = choose_concepts(data, config, depends=depends)
    prompts = choose_prompts(data, config)
    steer = choose_steering(checkpoints[0][2], concepts, config.steer)
    subjects = [
        Subject(
            name=name, steerer=steerer, data=data, concepts=concepts, prompts=prompts, steer=steer
        )
        for (name, _, _), steerer in zip(checkpoints, loaded(checkpoints, base_lm), strict=True)
    ]
    sections: list[Section] = []
    files: list[Path] = []
    for name in names:  # each is written at once, so that what was long in the making is there
        sections.append(_section(name, subjects, others, config))
        files += write_section(folder, sections[-1])
    report = write_page(folder, sections, facts_about(subjects, config))
    findings = {one.name: one.drawings[0].finding for one in sections if one.drawings}
    return Analysis(report, files, findings)


def _parts(part: str, config: AnalysisConfig) -> Sequence[str]:
    """Return the parts that are asked for, checked."""
    if part == "all":
        return PARTS
    if part not in PARTS:
        raise ConfigError(f"unknown part '{part}'{nearest(part, ['all', *PARTS])}")
    if config.against is not None and part != "geometry":
        raise ConfigError(
            f"against '{config.against}' is for geometry, where two checkpoints stand side by "
            f"side; leave it out of {part}"
        )
    return (part,)


def described(names: Sequence[str]) -> list[tuple[str, Path, Card]]:
    """Return how checkpoints are called, where they lie, and what they say about themselves."""
    folders = [find_checkpoint(name) for name in names]
    brief = [name.rstrip("/").rpartition("/")[2] or name for name in names]
    called = brief if len(set(brief)) == len(brief) else names
    return [(name, folder, read_card(folder)) for name, folder in zip(called, folders, strict=True)]


def _sources(config: AnalysisConfig) -> Sequence[str]:
    """Return the sources whose answers are compared: those given, or all that ship."""
    return tuple(SHIPPED) if config.data == AnalysisConfig().data else config.data


def loaded(checkpoints: Sequence[tuple[str, Path, Card]], choice: BaseLMChoice) -> list[Steerer]:
    """Load the checkpoints; those of one base LM share it."""
    loaded: list[Steerer] = []
    where = {"device": choice.device, "dtype": choice.dtype}
    given = load_lm(choice.name, **where) if choice.name is not None else None
    for _, folder, card in checkpoints:
        same = next((one.lm for one in loaded if one.card.identity == card.identity), None)
        loaded.append(load(folder, lm=given or same, **where))
    return loaded


def _section(
    name: str, subjects: list[Subject], sources: Sequence[ConceptData], config: AnalysisConfig
) -> Section:
    """Do one part of the analysis."""
    first = subjects[0]
    if name == "geometry":
        return geometry_section(subjects, config)
    if name == "attention":
        return attention_section(first)
    if name == "perplexity":
        return perplexity_section(first.steerer.lm, sources, config)
    if name == "lens":
        return lens_section(first)
    return effect_section(first, config)


def facts_about(subjects: Sequence[Subject], config: AnalysisConfig) -> list[tuple[str, str]]:
    """Return what was analysed, in a few lines."""
    facts = []
    for subject in subjects:
        card = subject.steerer.card
        sites = ", ".join(str(site) for site in subject.steerer.hypernet.sites)
        facts += [
            ("Checkpoint", subject.name),
            ("Base LM", card.base_lm),
            ("Hypernetwork", f"{card.hypernet.variant}, {card.hypernet.blocks} blocks"),
            ("Edits", f"{card.hypernet.edit} at {sites}"),
        ]
    first = subjects[0]
    return [
        *facts,
        ("Data", f"{first.data.name}, {len(first.concepts)} concepts"),
        ("Looked at", "; ".join(first.steer)),
        ("Seed", str(config.seed)),
    ]
