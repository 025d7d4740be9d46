"""The folder of an evaluation: what is finished is kept, whole or not at all, and never redone."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from hypersteer.checkpoint import save_tensors
from hypersteer.config import EvaluateConfig, completed, differing, from_dict, to_dict, without
from hypersteer.errors import ConfigError, SteeringError, one_line
from hypersteer.evaluation.parts import damaged, read_rows, reading, slug, write_rows, writing
from hypersteer.evaluation.records import Answered, Held, Judged, Probed
from hypersteer.files import (
    finite,
    is_file,
    output_folder,
    read_json,
    replacing,
    to_json,
    write_text,
)
from hypersteer.launched import shares
from hypersteer.learning.dispatch import of_earlier_version
from hypersteer.learning.values import Cost, Kind, Learned
from hypersteer.locks import is_empty
from hypersteer.sharing import Share, digest
from hypersteer.values import as_real, json_of

FREE = {
    "": ("out", "methods", "settings", "judge", "compare_to", "share"),
    "base_lm": ("device",),
    "protocol": ("batch_size", "detection", "gap_rows", "skill_items", "refusal_requests"),
}
"""Settings, by table, that may change in a folder: they do not change an answer."""
OWN = {
    "": ("out", "share"),
    "base_lm": ("device",),
    "protocol": ("batch_size",),
    "judge": ("threads", "base_url", "api_key_env", "concurrency"),
}
"""Settings, by table, in which processes that share a folder may differ."""


class ResultsFolder:
    """Parts of an evaluation on disk, one small file per method and concept.

    Args:
        config: the evaluation's settings.

    Raises:
        ConfigError: if the folder holds an evaluation with other settings.
    """

    def __init__(self, config: EvaluateConfig) -> None:
        self.path = output_folder(config.out, "out")
        self._settings = self.path / "config.json"
        self._check(to_dict(config))

    def share(self, config: EvaluateConfig) -> Share:
        """Lock the folder, alone or together with others; to be released afterwards.

        Raises:
            ConfigError: if it is in use by a process that does not share this evaluation.
            SteeringError: if it cannot be written.
        """
        work = digest(without(to_dict(config), OWN)) if shares(config.share) else None
        try:
            return Share(self.path, work)
        except OSError as error:
            raise SteeringError(f"cannot write to '{self.path}': {one_line(error)}") from error

    def start(self, config: EvaluateConfig) -> None:
        """Make the folder and keep the settings.

        Raises:
            SteeringError: if it cannot be written.
        """
        with writing(self._settings):
            write_text(self._settings, to_json(to_dict(config), indent=2) + "\n")

    def has_answers(self, method: str, held: Held, concept_id: int) -> bool:
        """Return whether a method's answers under a concept are there."""
        return is_file(self._part("answers", method, held, concept_id))

    def answers(self, method: str, held: Held, concept_id: int) -> list[Answered] | None:
        """Return a method's answers under a concept, or None where they are not there yet."""
        return read_rows(self._part("answers", method, held, concept_id), Answered)

    def keep_answers(self, rows: Sequence[Answered]) -> None:
        """Keep all answers of one method under one concept."""
        first = rows[0]
        write_rows(
            self._part("answers", first.method, first.held, first.concept_id), rows, Answered
        )

    def judged(self, judge: str, method: str, held: Held, concept_id: int) -> list[Judged] | None:
        """Return the judged answers of a method under a concept, or None."""
        return read_rows(self._judged(judge, method, held, concept_id), Judged)

    def is_judged(self, judge: str, method: str, held: Held, concept_id: int, since: float) -> bool:
        """Return whether no answer of a method under a concept is left to judge.

        Args:
            judge: who judges.
            method: whose answers.
            held: of which held set.
            concept_id: under which concept.
            since: what has failed is left only if it was tried before then, by the clock of the
                folder's file system.
        """
        path = self._judged(judge, method, held, concept_id)
        if not is_file(path):
            return False
        with reading(path):
            tried = path.stat().st_mtime
            return tried > since or not any(
                pq.read_table(path, columns=["error"])["error"].to_pylist()
            )

    def keep_judged(self, judge: str, rows: Sequence[Judged]) -> None:
        """Keep the judged answers of one method under one concept."""
        first = rows[0]
        write_rows(self._judged(judge, first.method, first.held, first.concept_id), rows, Judged)

    def has_learned(self, method: str) -> bool:
        """Return whether a method's parameters are stored."""
        return is_file(self._learned(method))

    def learned(self, method: str, recipe: dict[str, Any], ids: Sequence[int]) -> Learned | None:
        """Return the stored parameters of a method, or None.

        Raises:
            ConfigError: if they were learnt by another recipe, so that its answers are another's.
        """
        path = self._learned(method)
        if not is_file(path):
            return None
        try:
            with safe_open(path, "pt") as file:
                kept = json_of((file.metadata() or {})["learned"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            kept = from_dict(_Kept, kept, "learned")
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise damaged(path, error) from error
        except SteeringError as error:
            raise damaged(path, error) from error
        if finite(kept.recipe) != json.loads(to_json(recipe)) or kept.ids != tuple(ids):
            raise ConfigError(
                f"'{self.path}' holds answers of '{method}' with other settings; choose another "
                f"out, or delete its folders called {slug(method)}"
            )
        if kept.kind is None:
            found = Learned(tensors=tensors, notes=kept.notes, cost=kept.cost)
            return of_earlier_version(found, recipe)
        return Learned(tensors=tensors, notes=kept.notes, cost=kept.cost, kind=kept.kind)

    def keep_learned(
        self, method: str, recipe: dict[str, Any], ids: Sequence[int], learned: Learned
    ) -> None:
        """Store what a method has learnt."""
        path = self._learned(method)
        described = {
            "recipe": recipe,
            "ids": list(ids),
            "notes": learned.notes,
            "cost": to_dict(learned.cost),
            "kind": learned.kind,
        }
        with writing(path), replacing(path) as temporary:
            save_tensors(learned.tensors, temporary, {"learned": to_json(described)})

    def metrics_file(self, kind: str, method: str) -> Path:
        """Return the file of a method's results of a kind."""
        return self.path / kind / f"{slug(method)}.json"

    def metrics(self, kind: str, method: str) -> dict[str, Any]:
        """Return stored results of a method (gaps, detection), by key; empty if none."""
        path = self.metrics_file(kind, method)
        try:
            found = read_json(path)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise damaged(path, error) from error
        if not isinstance(found, dict):
            raise damaged(path, "no JSON object")
        return found

    def gaps(self, method: str) -> dict[str, float | None]:
        """Return the mean concept gaps of a method by key; None where nothing was to measure."""
        found = self.metrics("gaps", method)
        for key, value in found.items():
            if value is not None and as_real(value) is None:
                raise damaged(self.metrics_file("gaps", method), f"'{key}' is {value!r}")
        return found

    def keep_metrics(self, kind: str, method: str, metrics: dict[str, Any]) -> None:
        """Keep small results of a method."""
        path = self.metrics_file(kind, method)
        with writing(path):
            write_text(path, to_json(metrics, indent=1) + "\n")

    def probed(self, measure: str, method: str) -> list[Probed]:
        """Return a method's answers to the probes of a measure; empty where there are none yet."""
        return read_rows(self._probed(measure, method), Probed) or []

    def keep_probed(self, measure: str, rows: Sequence[Probed]) -> None:
        """Keep all answers of one method to the probes of a measure, and drop earlier ones."""
        write_rows(self._probed(measure, rows[0].method), rows, Probed)

    def keep_rows(self, rows: Sequence[Judged]) -> Path:
        """Write all judged rows as one parquet file."""
        path = self.path / "rows.parquet"
        write_rows(path, rows, Judged)
        return path

    def _learned(self, method: str) -> Path:
        return self.path / "learned" / f"{slug(method)}.safetensors"

    def _judged(self, judge: str, method: str, held: Held, concept_id: int) -> Path:
        return self._part(f"judged/{slug(judge)}", method, held, concept_id)

    def _probed(self, measure: str, method: str) -> Path:
        return self.path / measure / f"{slug(method)}.parquet"

    def _part(self, folder: str, method: str, held: Held, concept_id: int) -> Path:
        return self.path / folder / slug(method) / f"{held}-{concept_id}.parquet"

    def _check(self, wanted: dict[str, Any]) -> None:
        empty = is_empty(self.path)  # first, since another process may just be beginning
        if not is_file(self._settings):
            if not empty:
                raise ConfigError(f"'{self.path}' holds no evaluation but other files; choose out")
            return
        try:
            kept = read_json(self._settings)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read '{self._settings}': {one_line(error)}") from error
        if not isinstance(kept, dict) or not kept:
            raise ConfigError(f"'{self._settings}' holds no settings but {kept!r:.40}; choose out")
        kept = completed(EvaluateConfig, kept)
        for key in differing(finite(kept), finite(wanted), FREE):
            raise ConfigError(
                f"'{self.path}' holds an evaluation with another {key}; choose another out, or "
                "delete that folder"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """What the file of a method's parameters holds beside the tensors."""

    recipe: Any
    ids: tuple[int, ...]
    notes: dict[str, Any]
    cost: Cost
    kind: Kind | None = None
