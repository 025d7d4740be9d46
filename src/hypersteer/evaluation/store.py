"""The folder of an evaluation: what is finished is kept, whole or not at all, and never redone."""

import json
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pyarrow import ArrowException
from safetensors import SafetensorError, safe_open

from hypersteer.checkpoint import save_tensors
from hypersteer.config import EvaluateConfig, completed, differing, from_dict, to_dict
from hypersteer.errors import ConfigError, SteeringError, one_line
from hypersteer.evaluation.records import Answered, Held, Judged, Probed, Row, from_table, to_table
from hypersteer.files import (
    finite,
    is_file,
    output_folder,
    read_json,
    reason,
    replacing,
    to_json,
    write_text,
)
from hypersteer.learning.dispatch import of_earlier_version
from hypersteer.learning.values import Cost, Kind, Learned
from hypersteer.locks import Hold, hold, is_empty
from hypersteer.values import as_real, json_of

FREE = {
    "": ("out", "methods", "settings", "judge", "compare_to"),
    "base_lm": ("device",),
    "protocol": ("batch_size", "detection", "gap_rows", "skill_items", "refusal_requests"),
}
"""Settings, by table, that may change in a folder: they do not change an answer."""


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

    def hold(self) -> Hold:
        """Lock the folder for this process; to be released afterwards.

        Raises:
            ConfigError: if it is in use.
            SteeringError: if it cannot be written.
        """
        try:
            return hold(self.path)
        except OSError as error:
            raise SteeringError(f"cannot write to '{self.path}': {one_line(error)}") from error

    def start(self, config: EvaluateConfig) -> None:
        """Make the folder and keep the settings.

        Raises:
            SteeringError: if it cannot be written.
        """
        with writing(self._settings):
            write_text(self._settings, to_json(to_dict(config), indent=2) + "\n")

    def answers(self, method: str, held: Held, concept_id: int) -> list[Answered] | None:
        """Return a method's answers under a concept, or None where they are not there yet."""
        return _rows(self._part("answers", method, held, concept_id), Answered)

    def keep_answers(self, rows: Sequence[Answered]) -> None:
        """Keep all answers of one method under one concept."""
        first = rows[0]
        _keep(self._part("answers", first.method, first.held, first.concept_id), rows, Answered)

    def judged(self, judge: str, method: str, held: Held, concept_id: int) -> list[Judged] | None:
        """Return the judged answers of a method under a concept, or None."""
        folder = f"judged/{slug(judge)}"
        return _rows(self._part(folder, method, held, concept_id), Judged)

    def keep_judged(self, judge: str, rows: Sequence[Judged]) -> None:
        """Keep the judged answers of one method under one concept."""
        first, folder = rows[0], f"judged/{slug(judge)}"
        _keep(self._part(folder, first.method, first.held, first.concept_id), rows, Judged)

    def learned(self, method: str, recipe: dict[str, Any], ids: Sequence[int]) -> Learned | None:
        """Return the stored parameters of a method, or None.

        Raises:
            ConfigError: if they were learnt by another recipe, so that its answers are another's.
        """
        path = self.path / "learned" / f"{slug(method)}.safetensors"
        if not is_file(path):
            return None
        try:
            with safe_open(path, "pt") as file:
                kept = json_of((file.metadata() or {})["learned"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            kept = from_dict(_Kept, kept, "learned")
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(path, error) from error
        except SteeringError as error:
            raise _damaged(path, error) from error
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
        path = self.path / "learned" / f"{slug(method)}.safetensors"
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
            raise _damaged(path, error) from error
        if not isinstance(found, dict):
            raise _damaged(path, "no JSON object")
        return found

    def gaps(self, method: str) -> dict[str, float | None]:
        """Return the mean concept gaps of a method by key; None where nothing was to measure."""
        found = self.metrics("gaps", method)
        for key, value in found.items():
            if value is not None and as_real(value) is None:
                raise _damaged(self.metrics_file("gaps", method), f"'{key}' is {value!r}")
        return found

    def keep_metrics(self, kind: str, method: str, metrics: dict[str, Any]) -> None:
        """Keep small results of a method."""
        path = self.metrics_file(kind, method)
        with writing(path):
            write_text(path, to_json(metrics, indent=1) + "\n")

    def probed(self, measure: str, method: str) -> list[Probed]:
        """Return a method's answers to the probes of a measure; empty where there are none yet."""
        return _rows(self._probed(measure, method), Probed) or []

    def keep_probed(self, measure: str, rows: Sequence[Probed]) -> None:
        """Keep all answers of one method to the probes of a measure, and drop earlier ones."""
        _keep(self._probed(measure, rows[0].method), rows, Probed)

    def keep_rows(self, rows: Sequence[Judged]) -> Path:
        """Write all judged rows as one parquet file."""
        path = self.path / "rows.parquet"
        _keep(path, rows, Judged)
        return path

    def _probed(self, measure: str, method: str) -> Path:
        return self.path / measure / f"{slug(method)}.parquet"

    def _part(self, folder: str, method: str, held: Held, concept_id: int) -> Path:
        return self.path / folder / slug(method) / f"{held}-{concept_id}.parquet"

    def _check(self, wanted: dict[str, Any]) -> None:
        if not is_file(self._settings):
            if not is_empty(self.path):
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


def slug(name: str) -> str:
    """Return a file name for any name."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "unnamed"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """What the file of a method's parameters holds beside the tensors."""

    recipe: Any
    ids: tuple[int, ...]
    notes: dict[str, Any]
    cost: Cost
    kind: Kind | None = None


def _damaged(path: Path, what: object) -> SteeringError:
    return SteeringError(f"'{path}' is damaged ({one_line(what)}); delete it")


def _rows(path: Path, kind: type[Row]) -> Any:
    if not is_file(path):
        return None
    try:
        return from_table(pq.read_table(path), kind)
    except (ArrowException, OSError, TypeError, ValueError, KeyError) as error:
        raise _damaged(path, error) from error


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Turn what the system raises into one line with the way out.

    Raises:
        SteeringError: if the file cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise SteeringError(
            f"cannot write '{path}': {reason(error)}; what is finished stays, so mend that and run "
            "the same command again"
        ) from error


def _keep(path: Path, rows: Sequence[Row], kind: type[Row]) -> None:
    with writing(path), replacing(path) as temporary:
        pq.write_table(to_table(list(rows), kind), temporary)
