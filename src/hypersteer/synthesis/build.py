"""A build from beginning to end: `build(config)`."""

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from hypersteer.concepts import Concept
from hypersteer.config.synthesis import NO_LM, SynthesisConfig
from hypersteer.data.schema import GENRES
from hypersteer.endpoint.replies import Usage
from hypersteer.judges.choose import make_judge
from hypersteer.judges.judge import Judge
from hypersteer.lm.base import BaseLM
from hypersteer.lm.load import open_lm
from hypersteer.sharing import Share
from hypersteer.synthesis.dataset import REPORT, Authors, read_report, write_dataset, write_report
from hypersteer.synthesis.folder import BuildFolder
from hypersteer.synthesis.hard import write_hard_negatives
from hypersteer.synthesis.pools import Pool, check_pool, load_pool
from hypersteer.synthesis.prompts import TEMPLATE_VERSION
from hypersteer.synthesis.report import Estimate, estimate, make_report
from hypersteer.synthesis.requests import Requests
from hypersteer.synthesis.served import check_teacher, judges_positives
from hypersteer.synthesis.sieve import Sieve
from hypersteer.synthesis.sources import (
    BATCH,
    INVENTED,
    SHOWN,
    ListedConcept,
    invent,
    invented,
    read_concepts,
)
from hypersteer.synthesis.stages import (
    Means,
    answer_pool,
    find_genres,
    negative_tasks,
    positive_tasks,
    write_stage,
)
from hypersteer.synthesis.teacher import Bars, open_teacher
from hypersteer.synthesis.writing import cutter

Confirm = Callable[[Estimate], bool]


class BuildResult(NamedTuple):
    """A finished build.

    Attributes:
        folder: the dataset, which `load_concepts` reads.
        report: what was kept and dropped, as in `report.json`.
        usage: what this run asked, earlier ones not included.
    """

    folder: Path
    report: dict[str, Any]
    usage: Usage


def build(
    config: SynthesisConfig,
    *,
    confirm: Confirm | None = None,
    lm: BaseLM | None = None,
    judge: Judge | None = None,
    console: Console | None = None,
) -> BuildResult | None:
    """Make a dataset in AxBench's format, or resume one.

    Every finished part stays in the folder, and every reply of an endpoint in the cache, so the
    same call resumes one that was cut off, and nothing is asked or judged twice.

    Args:
        config: the settings.
        confirm: shown the estimate; nothing is asked unless it agrees.
        lm: the base LM where it is loaded already.
        judge: who lets positives pass; by default the one that the settings ask for, or nobody.
        console: where progress is shown; by default stderr.

    Returns:
        What was made, or None if `confirm` declined.

    Raises:
        ConfigError: if a setting is wrong, or the folder holds another build.
        DataError: if concepts or instructions are missing, malformed or too few, or the folder
            cannot be written, or no usable response came.
        ModelError: if the base LM, or another model that is run here, cannot be had.
        EndpointError: if the teacher can answer nothing, or an engine of ours ends.
    """
    wanted, pool, folder = _inputs(config)
    if confirm is not None and not confirm(estimate(config, folder, wanted, pool)):
        return None
    with folder.share() as share:
        return _build(config, wanted, pool, folder, share, lm=lm, judge=judge, console=console)


def _build(
    config: SynthesisConfig,
    wanted: list[ListedConcept] | None,
    pool: Pool,
    folder: BuildFolder,
    share: Share,
    *,
    lm: BaseLM | None,
    judge: Judge | None,
    console: Console | None,
) -> BuildResult:
    """Ask, write and sum up what is not there yet."""
    if lm is None and config.base_lm.name != NO_LM:
        lm = open_lm(config.base_lm)
    requests = Requests(config)
    concepts = None if wanted is None else [one.text for one in wanted]
    longest = requests.longest(concepts, pool.instructions(), BATCH, SHOWN)
    teacher = open_teacher(config, lm, longest)
    if judge is None and lm is not None and judges_positives(config):
        judge = make_judge(config.judge, lm)
    # Settings are kept only now: what cannot be had may still be changed.
    folder.start()
    sieve = None if judge is None else Sieve(judge, config.judged, folder)
    bars = Bars(console or Console(stderr=True), teacher)
    cut = cutter(lm, config.response_tokens)
    means = Means(config, folder, pool, teacher, cut, bars, requests, sieve, share)
    try:
        written = _write(means, wanted, lm)
    finally:
        folder.keep_usage(teacher.usage)

    def sum_up() -> dict[str, str]:
        report = make_report(
            folder, written, teacher=teacher.name, seed=config.seed, pool=config.instructions
        ) | {"judge": None if judge is None else judge.name}
        write_report(folder, report)
        base_lm = f"{lm.name} ({lm.fingerprint})" if lm is not None else ""
        write_dataset(folder, written, Authors(teacher.name, base_lm, config.seed))
        return {"report": REPORT}

    share.finish(sum_up)
    return BuildResult(folder.path, read_report(folder), teacher.usage)


def _inputs(config: SynthesisConfig) -> tuple[list[ListedConcept] | None, Pool, BuildFolder]:
    """Read and check all inputs, before anything is asked."""
    config.check_source()
    check_teacher(config)
    wanted: list[ListedConcept] | None = None
    if config.concepts is not None:
        wanted = read_concepts(config.concepts, seed=config.seed, limit=config.limit)
    pool = load_pool(config.instructions, config.seed)
    folder = BuildFolder(config, _content(wanted, pool))
    if wanted is None:
        wanted = invented(folder)
    check_pool(pool, config.counts, _possible_genres(wanted))
    return wanted, pool, folder


def _content(wanted: Sequence[ListedConcept] | None, pool: Pool) -> dict[str, Any]:
    """Return what the run reads, so that a folder begun with something else is told apart."""
    listed = None if wanted is None else [list(one) for one in wanted]
    return {
        "list of concepts": listed,
        "pool of instructions": pool.texts(),
        "version of the teacher's prompts": TEMPLATE_VERSION,
    }


def _possible_genres(wanted: Sequence[ListedConcept] | None) -> set[str]:
    """Return the genres that concepts have, or all where one has yet to be asked for."""
    known = {one.genre for one in wanted or [ListedConcept("")]}
    return set(GENRES) if None in known else {genre for genre in known if genre is not None}


def _invented(means: Means, theme: str) -> list[ListedConcept]:
    """Have the teacher invent the concepts, or wait for the process that does."""
    stage = means.share.stage([INVENTED], str, lambda _: invented(means.folder) is not None)
    for _ in chain.from_iterable(stage.rounds()):
        invent(means.teacher, means.folder, means.bars, theme, means.config.invent)
        stage.release([INVENTED])
    return invented(means.folder) or []


def _write(
    means: Means, wanted: Sequence[ListedConcept] | None, lm: BaseLM | None
) -> list[Concept]:
    """Run all stages in order; return the concepts with their genres."""
    config, counts = means.config, means.config.counts
    if wanted is None:
        theme = config.theme or ""
        wanted = _invented(means, theme)
    concepts = find_genres(means, wanted)
    if lm is not None and counts.pool_negatives:
        answer_pool(means, lm, config.teacher.batch_size)
    positives = counts.train_positives + counts.test_positives
    write_stage(means, "positives", concepts, positive_tasks, positives)
    if counts.test_negatives:
        write_stage(means, "negatives", concepts, negative_tasks, counts.test_negatives)
    if counts.hard_negatives:
        write_hard_negatives(means, concepts)
    return concepts
