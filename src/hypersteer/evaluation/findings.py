"""What an evaluation found, from its judged answers: what the report is written from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from hypersteer.config import EvaluateConfig, to_dict
from hypersteer.errors import DataError, SteeringError
from hypersteer.evaluation.answers import Prepared
from hypersteer.evaluation.concept_gap import concept_gap
from hypersteer.evaluation.detection import measure_detection
from hypersteer.evaluation.detection_metrics import Detection
from hypersteer.evaluation.measures import Shares, measure_all
from hypersteer.evaluation.probes import Measure, Probe
from hypersteer.evaluation.protocol import Plan
from hypersteer.evaluation.records import HELD, Held, Judged, Place
from hypersteer.evaluation.selection import Key, Strengths, select
from hypersteer.evaluation.store import ResultsFolder
from hypersteer.learning.values import Cost
from hypersteer.methods.protocol import can_steer
from hypersteer.methods.registry import UNSTEERED
from hypersteer.progress import ProgressBar


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


class Finder:
    """Measures what needs all judged answers: once, by one process.

    Args:
        config: the settings.
        folder: keeps what is measured.
        plan: what is asked.
        prepared: all methods.
        judge: the judge's name.
        console: where progress is shown.
    """

    def __init__(
        self,
        config: EvaluateConfig,
        folder: ResultsFolder,
        plan: Plan,
        prepared: Mapping[str, Prepared],
        judge: str,
        console: Console,
    ) -> None:
        self.config, self.folder, self.plan = config, folder, plan
        self.prepared, self.judge, self.console = prepared, judge, console

    def find(
        self, rows: Sequence[Judged], probes: Mapping[Measure, Sequence[Probe]]
    ) -> tuple[Findings, Path]:
        """Choose strengths, measure at them, and keep all rows in one file.

        Args:
            rows: all judged answers.
            probes: what is asked at the chosen strengths, by measure.

        Returns:
            what was found, and the file.

        Raises:
            SteeringError: if no answer could be judged.
        """
        if not any(row.overall is not None for row in rows):
            raise SteeringError(f"no answer could be judged: {rows[0].error}")
        chosen = {choice.key: choice.strength for choice in select(rows).choices}
        prepared = self.prepared
        findings = Findings(
            rows=rows,
            config=to_dict(self.config),
            compare_to=self.config.compare_to,
            methods=tuple(name for name, one in prepared.items() if can_steer(one.method)),
            about=self._about(),
            costs={name: one.learned.cost for name, one in prepared.items()},
            gaps=self._gaps(chosen),
            detection=self._detection(),
            measures=self._measures(chosen, probes),
        )
        return findings, self.folder.keep_rows(rows)

    def _gaps(self, chosen: Strengths) -> dict[Place, float]:
        """Measure mean concept gaps of all methods on each held set, at the chosen strengths."""
        count = self.config.protocol.gap_rows
        gaps: dict[Place, float] = {}
        places = [(name, held) for name in self.prepared if name != UNSTEERED for held in HELD]
        for name, held in places if count else ():
            kept, found = self.folder.gaps(name), []
            for concept in self.plan.concepts(held):
                place = Key(name, held, concept.id)
                if place not in chosen:
                    continue
                strength = chosen[place]
                key = f"{held}-{concept.id}-{strength}-{count}"
                if key not in kept:
                    kept[key] = self._gap(self.prepared[name], held, concept.id, strength)
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

    def _detection(self) -> dict[Place, Detection]:
        if not self.config.protocol.detection:
            return {}
        try:
            with self._bar("detection", len(self.prepared)) as bar:
                return measure_detection(
                    self.config, self.folder, self.plan, self.prepared, bar.advance
                )
        except DataError as error:
            self.console.print(f"detection is left out: {error}", markup=False, soft_wrap=True)
            return {}

    def _measures(
        self, chosen: Strengths, probes: Mapping[Measure, Sequence[Probe]]
    ) -> dict[Measure, dict[str, Shares]]:
        """Have every method that steers answer the skill items and the requests."""
        methods = {name: one for name, one in self.prepared.items() if can_steer(one.method)}
        total = len(methods) * sum(map(len, probes.values()))
        together = self.config.protocol.batch_size
        with self._bar("skill and refusals", total) as bar:
            return measure_all(
                self.folder, self.plan, methods, chosen, probes, together, bar.advance
            )

    def _about(self) -> dict[str, str]:
        protocol, (first, *_) = self.config.protocol, self.prepared.values()
        lm, dtype = first.lm, str(first.lm.dtype).removeprefix("torch.")
        return {
            "base LM": f"{lm.name} ({lm.fingerprint}), {dtype} on {lm.device}",
            "judge": self.judge,
            "data": self.plan.data.name,
            "instructions": protocol.instructions,
            "decoding": f"{protocol.max_new_tokens} new tokens, temperature "
            f"{protocol.temperature:g}, top_p {protocol.top_p:g}, repetition penalty "
            f"{protocol.repetition_penalty:g}, seed {self.config.seed}",
            "site of baselines": str(first.site),
            "torch": torch.__version__,
        }

    def _bar(self, text: str, total: int) -> ProgressBar:
        return ProgressBar(text, total, console=self.console, quarters=True)
