"""An evaluation from settings to report: learn, answer, judge, measure; resumable at any moment."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from hypersteer.config import EvaluateConfig, to_dict
from hypersteer.edits.sites import Site
from hypersteer.errors import DataError, SteeringError
from hypersteer.evaluation.answers import Prepared, answer, batches, by_concept
from hypersteer.evaluation.concept_gap import concept_gap
from hypersteer.evaluation.detection import measure_detection
from hypersteer.evaluation.detection_metrics import Detection
from hypersteer.evaluation.measures import Shares, measure_all
from hypersteer.evaluation.probes import Measure, Probe, check_probes_fit, make_probes
from hypersteer.evaluation.protocol import Plan, Question, check_fits, make_plan, ways_to_ask
from hypersteer.evaluation.records import HELD, Answered, Held, Judged, Place
from hypersteer.evaluation.scoring import judge_rows
from hypersteer.evaluation.selection import Key, Strengths, select
from hypersteer.evaluation.store import ResultsFolder, writing
from hypersteer.judges.choose import make_judge
from hypersteer.judges.judge import Judge
from hypersteer.learning.values import Cost
from hypersteer.lm.base import BaseLM
from hypersteer.lm.load import open_lm
from hypersteer.methods.protocol import Learner, can_steer
from hypersteer.methods.registry import UNSTEERED, check_split, make_methods, recipe
from hypersteer.progress import ProgressBar


@dataclass(frozen=True, slots=True)
class EvaluateResult:
    """What an evaluation leaves.

    Attributes:
        folder: its folder.
        rows: all judged answers, as parquet.
        markdown: the report.
        html: the same with figures, in one self-contained file.
    """

    folder: Path
    rows: Path
    markdown: Path
    html: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What an evaluation found.

    Attributes:
        rows: judged answers of all methods, of at least two prompts per concept if strengths are
            chosen.
        config: the resolved configuration of the run, of JSON types.
        compare_to: method that the others are compared with.
        methods: order of the report; others follow in the order of the rows.
        about: what was run, in a few lines of name and value (base LM, judge, concepts).
        costs: method -> cost per concept.
        gaps: concept gaps, in nats per token, where measured.
        detection: detection metrics, where measured.
        measures: shares of skill items solved and of requests refused, by method, where measured.
    """

    rows: Sequence[Judged]
    config: Mapping[str, Any]
    compare_to: str
    methods: Sequence[str] = ()
    about: Mapping[str, str] = field(default_factory=dict)
    costs: Mapping[str, Cost] = field(default_factory=dict)
    gaps: Mapping[Place, float] = field(default_factory=dict)
    detection: Mapping[Place, Detection] = field(default_factory=dict)
    measures: Mapping[Measure, Mapping[str, Shares]] = field(default_factory=dict)


WriteReport = Callable[[Path, Findings], tuple[Path, Path]]
"""Writes the report of what was found into a folder; paths of its Markdown and its HTML file."""


def run(config: EvaluateConfig, lm: BaseLM | None, write_report: WriteReport) -> EvaluateResult:
    """Evaluate methods; see `hypersteer.report.evaluate.evaluate`, which has it reported.

    Args:
        config: all settings.
        lm: a loaded base LM to share; by default the one that the settings name.
        write_report: writes the report at the end, while the folder is still held.
    """
    folder = ResultsFolder(config)
    with folder.hold():
        findings, rows = _evaluate(config, folder, lm)
        with writing(folder.path):
            markdown, html = write_report(folder.path, findings)
        return EvaluateResult(folder.path, rows, markdown, html)


def _evaluate(
    config: EvaluateConfig, folder: ResultsFolder, lm: BaseLM | None
) -> tuple[Findings, Path]:
    """Open what the evaluation needs, and do it."""
    methods = make_methods(config)
    probes = make_probes(config.protocol)
    plan = make_plan(config)
    held_in, held_out = ([c.text for c in plan.concepts(held)] for held in ("held_in", "held_out"))
    check_split(methods, held_in, held_out)
    lm = lm or open_lm(config.base_lm)
    judge = make_judge(config.judge, lm)
    site = lm.site(config.site.layer, config.site.kind)
    check_fits(lm, plan, config, methods)
    check_probes_fit(lm, plan, probes, ways_to_ask(methods))
    folder.start(config)
    return _Evaluation(config, folder, methods, plan, lm, judge, site).go(probes)


class _Evaluation:
    """The moving parts of one evaluation."""

    def __init__(
        self,
        config: EvaluateConfig,
        folder: ResultsFolder,
        methods: dict[str, Learner],
        plan: Plan,
        lm: BaseLM,
        judge: Judge,
        site: Site,
    ) -> None:
        self.config, self.folder, self.methods, self.plan = config, folder, methods, plan
        self.lm, self.judge, self.site = lm, judge, site
        self.console = Console(stderr=True)

    def go(self, probes: Mapping[Measure, Sequence[Probe]]) -> tuple[Findings, Path]:
        """Take method by method through all stages, each of which skips what is finished."""
        prepared: dict[str, Prepared] = {}
        rows: list[Judged] = []
        for name in self.methods:
            prepared[name] = self._prepare(name)
            if can_steer(self.methods[name]):
                self._answer(prepared[name])
                rows += self._judge(name)
        if not any(row.overall is not None for row in rows):
            raise SteeringError(f"no answer could be judged: {rows[0].error}")
        chosen = {choice.key: choice.strength for choice in select(rows).choices}
        findings = Findings(
            rows=rows,
            config=to_dict(self.config),
            compare_to=self.config.compare_to,
            methods=tuple(name for name in self.methods if can_steer(self.methods[name])),
            about=self._about(),
            costs={name: method.learned.cost for name, method in prepared.items()},
            gaps=self._gaps(prepared, chosen),
            detection=self._detection(prepared),
            measures=self._measures(prepared, chosen, probes),
        )
        return findings, self.folder.keep_rows(rows)

    def _prepare(self, name: str) -> Prepared:
        """Fit a method, or read what it learnt before."""
        method, made_of = self.methods[name], recipe(self.methods[name])
        known = self.plan.examples("held_in")
        if not method.learns:
            known += self.plan.examples("held_out")
        ids = [entry.concept.id for entry in known]
        learned = self.folder.learned(name, made_of, ids)
        if learned is None:
            with self._bar(f"{name}: learning", 100 if method.learns else 0) as bar:
                learned = method.fit(
                    self.lm, self.site, known, done=lambda share: bar.advance(100 * share)
                )
            self.folder.keep_learned(name, made_of, ids, learned)
        return Prepared(name, method, learned, self.lm, self.site)

    def _parts(self, name: str) -> list[list[Question]]:
        """Return the questions that a method is asked, concept by concept."""
        learns = self.methods[name].learns
        asked = self.plan.questions.items()
        return [questions for (held, _), questions in asked if held == "held_in" or not learns]

    def _answer(self, prepared: Prepared) -> None:
        """Make all answers of a method that are not there yet."""
        protocol, name = self.config.protocol, prepared.name
        parts = [
            part
            for part in self._parts(name)
            if self.folder.answers(name, part[0].held, part[0].concept.id) is None
        ]
        each = len(protocol.strengths) if prepared.scales else 1
        total = each * sum(map(len, parts))
        with self._bar(f"{name}: answers", total) as bar:
            for batch in batches(parts, each, protocol.batch_size):
                questions = [question for part in batch for question in part]
                rows = answer(prepared, questions, protocol)
                for part in by_concept(rows, batch, each):
                    self.folder.keep_answers(part)
                bar.advance(len(rows))

    def _judge(self, name: str) -> list[Judged]:
        """Return all answers of a method, judged."""
        kept: list[list[Judged]] = []
        left: list[tuple[int, list[Answered]]] = []
        for part in self._parts(name):
            key = (name, part[0].held, part[0].concept.id)
            before = self.folder.judged(self.judge.name, *key) or []
            if not before or any(row.error for row in before):
                left.append((len(kept), self.folder.answers(*key) or []))
            kept.append(before)
        with self._bar(f"{name}: judging", sum(len(rows) for _, rows in left)) as bar:
            for place, rows in left:
                plain = self.folder.answers(UNSTEERED, rows[0].held, rows[0].concept_id) or []
                usual = {row.prompt_id: row.response for row in plain}
                kept[place] = judge_rows(self.judge, rows, kept[place], usual)
                self.folder.keep_judged(self.judge.name, kept[place])
                bar.advance(len(rows))
        return [row for rows in kept for row in rows]

    def _gaps(self, prepared: dict[str, Prepared], chosen: Strengths) -> dict[Place, float]:
        """Measure mean concept gaps of all methods on each held set, at the chosen strengths."""
        count = self.config.protocol.gap_rows
        gaps: dict[Place, float] = {}
        places = [(name, held) for name in prepared if name != UNSTEERED for held in HELD]
        for name, held in places if count else ():
            kept, found = self.folder.gaps(name), []
            for concept in self.plan.concepts(held):
                place = Key(name, held, concept.id)
                if place not in chosen:
                    continue
                strength = chosen[place]
                key = f"{held}-{concept.id}-{strength}-{count}"
                if key not in kept:
                    kept[key] = self._gap(prepared[name], held, concept.id, strength)
                    self.folder.keep_metrics("gaps", name, kept)
                found += [] if kept[key] is None else [kept[key]]
            if found:
                gaps[name, held] = sum(found) / len(found)
        return gaps

    def _gap(
        self, prepared: Prepared, held: Held, concept_id: int, strength: float | None
    ) -> float | None:
        """Measure the gap of one concept; None where there are no rows or no other concept."""
        concept = self.plan.data.concept(concept_id)
        examples = self.plan.gap_examples(held, concept, self.config.protocol.gap_rows)
        wrong = self.plan.wrong_concept(held, concept)
        if not examples or wrong is None:
            return None
        limit, together = self.config.data.max_response_tokens, self.config.protocol.batch_size
        return concept_gap(prepared, examples, concept, wrong, strength, limit, together)

    def _detection(self, prepared: dict[str, Prepared]) -> dict[Place, Detection]:
        if not self.config.protocol.detection:
            return {}
        try:
            with self._bar("detection", len(prepared)) as bar:
                return measure_detection(self.config, self.folder, self.plan, prepared, bar.advance)
        except DataError as error:
            self.console.print(f"detection is left out: {error}", markup=False, soft_wrap=True)
            return {}

    def _measures(
        self,
        prepared: dict[str, Prepared],
        chosen: Strengths,
        probes: Mapping[Measure, Sequence[Probe]],
    ) -> dict[Measure, dict[str, Shares]]:
        """Have every method that steers answer the skill items and the requests."""
        methods = {name: one for name, one in prepared.items() if can_steer(one.method)}
        total = len(methods) * sum(map(len, probes.values()))
        together = self.config.protocol.batch_size
        with self._bar("skill and refusals", total) as bar:
            return measure_all(
                self.folder, self.plan, methods, chosen, probes, together, bar.advance
            )

    def _about(self) -> dict[str, str]:
        protocol, dtype = self.config.protocol, str(self.lm.dtype).removeprefix("torch.")
        return {
            "base LM": f"{self.lm.name} ({self.lm.fingerprint}), {dtype} on {self.lm.device}",
            "judge": self.judge.name,
            "data": self.plan.data.name,
            "instructions": protocol.instructions,
            "decoding": f"{protocol.max_new_tokens} new tokens, temperature "
            f"{protocol.temperature:g}, top_p {protocol.top_p:g}, repetition penalty "
            f"{protocol.repetition_penalty:g}, seed {self.config.seed}",
            "site of baselines": str(self.site),
            "torch": torch.__version__,
        }

    def _bar(self, text: str, total: int) -> ProgressBar:
        """Return a progress bar; where there is no terminal, it prints a line at every quarter."""
        return ProgressBar(text, total, console=self.console, quarters=True)
