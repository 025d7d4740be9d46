"""Concept data without a teacher: the base LM, prompted with the concept, answers for itself.

The paper's way where no strong teacher exists, with two additions: answers are pushed away from
those of the unprompted base LM (`hypersteer.engine.guidance`), and a judge drops those in which it
does not see the concept, or which no longer answer. With a checkpoint its edits steer instead: the
best of what they bring is what the next ones learn from (expert iteration).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from hypersteer.checkpoint import find_checkpoint, generator_hash
from hypersteer.concepts import Concept
from hypersteer.config.synthesis import DistillationConfig
from hypersteer.data.locate import BUNDLED, locate
from hypersteer.judges.choose import make_judge
from hypersteer.judges.judge import Answer, Judge
from hypersteer.lm.base import BaseLM
from hypersteer.lm.load import open_lm
from hypersteer.lm.messages import prompted
from hypersteer.sharing import Share
from hypersteer.synthesis.dataset import REPORT, Authors, read_report, write_dataset, write_report
from hypersteer.synthesis.filters import SURPLUS, Shingles, shingles, why_dropped
from hypersteer.synthesis.folder import BuildFolder
from hypersteer.synthesis.pools import Pool, PooledInstruction, load_pool
from hypersteer.synthesis.self_teaching import Asked, SelfTeacher, self_teacher
from hypersteer.synthesis.sieve import Sieve
from hypersteer.synthesis.sources import read_concepts
from hypersteer.synthesis.stages import TRAIN_PROMPTS, in_parts
from hypersteer.synthesis.teacher import Bars
from hypersteer.synthesis.writing import SHOWN_CHARS, Dropped, Written

STAGE = "positives"


class Tried(NamedTuple):
    """An answer that was tried for a concept."""

    instruction: PooledInstruction
    text: str
    complete: bool


def distil(
    config: DistillationConfig,
    *,
    lm: BaseLM | None = None,
    judge: Judge | None = None,
    console: Console | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Make a dataset in AxBench's format, or resume one that was cut off.

    Args:
        config: the settings.
        lm: the base LM where it is loaded already.
        judge: who lets answers pass; by default the one that the settings ask for.
        console: where progress is shown; by default stderr.

    Returns:
        the folder, and what was kept and dropped, as in its `report.json`.

    Raises:
        ConfigError: if a setting is wrong, or the folder holds another dataset.
        DataError: if concepts or instructions are missing or malformed, the folder cannot be
            written, or no answer was good enough.
        CheckpointError: if the checkpoint is none, or belongs to another base LM.
        ModelError: if the base LM, or a model that the judge asks, cannot be loaded.
        EndpointError: if the judge can judge nothing.
    """
    concepts = _concepts(config)
    pool = load_pool(config.instructions, config.seed)
    listed = [asdict(concept) for concept in concepts]
    inputs: dict[str, Any] = {"list of concepts": listed, "pool of instructions": pool.texts()}
    if config.checkpoint is not None:
        inputs["checkpoint"] = generator_hash(find_checkpoint(config.checkpoint))
    folder = BuildFolder(config, inputs)
    with folder.share() as share:
        lm = lm or open_lm(config.base_lm)
        judge = judge or make_judge(config.judge, lm)
        # Settings are kept only now: what cannot be had may still be changed.
        folder.start()
        bars = Bars(console or Console(stderr=True))
        return _distil(config, folder, share, concepts, pool, lm, judge, bars)


def _distil(
    config: DistillationConfig,
    folder: BuildFolder,
    share: Share,
    concepts: Sequence[Concept],
    pool: Pool,
    lm: BaseLM,
    judge: Judge,
    bars: Bars,
) -> tuple[Path, dict[str, Any]]:
    """Answer what is not there yet, and write the dataset."""
    left = [concept for concept in concepts if not folder.has(STAGE, concept.id)]
    for concept, instruction, *_ in _asked(config, pool, left):
        tokens = len(lm.chat.prompt(prompted(instruction.text, concept.text)).ids)
        what = f"the instruction {instruction.text[:40]!r} with concept {concept.id} and its answer"
        lm.check_length(tokens + config.response_tokens, what)
    teacher = self_teacher(lm, config)
    sieve = Sieve(judge, config.judged, folder)
    at_once = max(1, config.batch_size // config.tried)
    with bars.stage("answers", len(left) * config.tried) as bar:
        others = partial(bar.advance, config.tried)
        for part in in_parts(share, folder, STAGE, left, at_once, others):
            tried = _answers(lm, teacher, config, pool, part)
            for concept, answers in zip(part, tried, strict=True):
                folder.keep(STAGE, concept.id, _sifted(config, sieve, concept, answers))
                bar.advance(config.tried)

    def sum_up() -> dict[str, str]:
        write_report(folder, _report(folder, concepts) | {"judge": judge.name})
        authors = Authors(teacher.name, "", config.seed)
        write_dataset(folder, concepts, authors, splits=("train",))
        return {"report": REPORT}

    share.finish(sum_up)
    return folder.path, read_report(folder)


def _concepts(config: DistillationConfig) -> list[Concept]:
    listed = config.concepts
    if listed in BUNDLED:
        listed = str(locate(listed, "train").metadata)
    wanted = read_concepts(listed, seed=config.seed, limit=config.limit)
    return [
        Concept(id=i, text=one.text, genre=one.genre or "text", kind=one.kind, ref=one.ref)
        for i, one in enumerate(wanted)
    ]


def _asked(config: DistillationConfig, pool: Pool, concepts: Sequence[Concept]) -> list[Asked]:
    """Return the instructions that are tried for each concept."""
    return [
        Asked(concept, instruction, number, config.seed + 1000 * concept.id + number)
        for concept in concepts
        for number, instruction in enumerate(
            pool.draw("train", concept.genre, config.tried, config.seed, concept.id, TRAIN_PROMPTS)
        )
    ]


def _answers(
    lm: BaseLM,
    teacher: SelfTeacher,
    config: DistillationConfig,
    pool: Pool,
    concepts: Sequence[Concept],
) -> list[list[Tried]]:
    """Answer under each concept, as many answers at once as settings allow.

    An answer's seed is its own, so it does not depend on the answers beside it.
    """
    asked = _asked(config, pool, concepts)
    tried: dict[int, list[Tried]] = {concept.id: [] for concept in concepts}
    for start in range(0, len(asked), config.batch_size):
        part = asked[start : start + config.batch_size]
        for one, ids in zip(part, teacher.answer(part), strict=True):
            whole = len(ids) < config.response_tokens
            tried[one.concept.id].append(Tried(one.instruction, lm.chat.decode(ids).strip(), whole))
    return [tried[concept.id] for concept in concepts]


def _sifted(
    config: DistillationConfig, sieve: Sieve, concept: Concept, tried: Sequence[Tried]
) -> dict[str, Any]:
    """Choose a concept's best answers as rows, and say why each other one was dropped."""
    dropped: list[Dropped] = []
    passed: list[Tried] = []
    earlier: list[Shingles] = []
    for one in tried:
        reason = why_dropped(
            one.text,
            concept=concept.text,
            instruction=one.instruction.text,
            positive=True,
            word="",
            earlier=earlier,
            config=config.filters,
        )
        if reason is not None:
            dropped.append(_dropped(one, reason))
            continue
        earlier.append(shingles(one.text))
        passed.append(one)
    answers = [Answer(concept.text, one.instruction.text, one.text) for one in passed]
    good: list[tuple[float, Tried]] = []
    for one, verdict in zip(passed, sieve.sift(answers), strict=True):
        if verdict.reason is None:
            good.append((verdict.overall, one))
        else:
            dropped.append(_dropped(one, verdict.reason))
    good.sort(key=lambda scored: -scored[0])
    dropped += [_dropped(one, SURPLUS) for _, one in good[config.kept :]]
    rows = [_row(concept, one) for _, one in good[: config.kept]]
    return {
        "wanted": config.kept,
        "rows": [asdict(row) for row in rows],
        "dropped": [one._asdict() for one in dropped],
        "overall": [round(score, 3) for score, _ in good[: config.kept]],
    }


def _dropped(one: Tried, reason: str) -> Dropped:
    return Dropped(one.instruction.text, 0, reason, one.text[:SHOWN_CHARS])


def _row(concept: Concept, one: Tried) -> Written:
    return Written(
        split="train",
        instruction=one.instruction.text,
        response=one.text,
        genre=one.instruction.genre,
        source=one.instruction.source,
        output_concept=concept.text,
        complete=one.complete,
        sample=0,
    )


def _report(folder: BuildFolder, concepts: Sequence[Concept]) -> dict[str, Any]:
    """Count rows and dropped answers over all concepts."""
    reasons: Counter[str] = Counter()
    rows = without = 0
    for concept in concepts:
        part = folder.part(STAGE, concept.id)
        reasons.update(one["reason"] for one in part["dropped"])
        rows += len(part["rows"])
        without += not part["rows"]
    return {
        "concepts": len(concepts),
        "concepts_without_rows": without,
        "tried": rows + sum(reasons.values()),
        "kept": rows,
        "dropped": dict(reasons.most_common()),
    }
