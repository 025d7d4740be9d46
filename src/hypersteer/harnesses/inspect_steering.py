"""What steers a request of Inspect: the run's settings, or the request's own field `steering`."""

from collections.abc import Sequence
from typing import Any

from hypersteer.config.serving import ServeConfig
from hypersteer.errors import ConfigError, SteeringError
from hypersteer.harnesses.steered import Steered
from hypersteer.serving.errors import Refused
from hypersteer.serving.given import part_of
from hypersteer.serving.plan import Known, Plan, plan_of
from hypersteer.serving.schema import Part
from hypersteer.serving.stored import StoredEdits
from hypersteer.steering import Steerer


class Steering:
    """Plans what steers requests.

    Args:
        steered: who answers, and what steers where a request says nothing.
        limits: what a request may bring.

    Raises:
        SteeringError: for what cannot steer.
    """

    def __init__(self, steered: Steered, limits: ServeConfig) -> None:
        self._steered, self._limits = steered, limits
        self._known = Known(
            conditions={}, rules={}, steer={}, edits=StoredEdits(limits.edits_folder)
        )
        self._usual = self._of_run()

    def plan(self, given: Any = ...) -> Plan:
        """Return what steers a request.

        Args:
            given: the field `steering`, as `hypersteer serve` takes it: a steering prompt, a part
                (`text` or `edit`, the name of a stored edit; `strength`, `scope`, `prompted`), a
                list of these, or None for the base LM as it is; without it, what steers the run.

        Raises:
            SteeringError: for what cannot steer, or is not known by a name.
        """
        if given is ...:
            return self._usual
        several = given if isinstance(given, list) else [] if given is None else [given]
        return self._planned(several)

    def _of_run(self) -> Plan:
        """Return what steers requests that say nothing."""
        steered = self._steered
        if steered.steer is None:
            return Plan()
        if isinstance(steered.steer, str):
            part = {
                "text": steered.steer,
                "strength": steered.strength,
                "scope": steered.scope,
                "prompted": steered.prompted,
            }
            return self._planned([part])
        told = {"edit": steered.steer.steering_prompt, "strength": steered.strength}
        return Plan(steer=[(steered.steer, steered.strength)], told=[told])

    def _planned(self, given: Sequence[Any]) -> Plan:
        """Return what parts of the field `steering` stand for."""
        who = self._steered.who
        try:
            parts = [part_of(one) for one in given]
            if isinstance(who, Steerer):
                return plan_of(list(parts), None, who, self._known, self._limits)
            return self._of_edits(parts)
        except Refused as error:
            raise SteeringError(str(error)) from error

    def _of_edits(self, parts: Sequence[Part]) -> Plan:
        """Return what parts stand for where there is no checkpoint: stored edits."""
        names = [part.edit for part in parts if part.edit is not None]
        if len(names) < len(parts):
            raise ConfigError(
                f"only edits steer {self._steered.lm.name}, which is given without a checkpoint; "
                "take hypersteer/CHECKPOINT"
            )
        strengths = [part.strength for part in parts]
        edits = [self._known.edits.read(name) for name in names]
        told = [{"name": name, "strength": one} for name, one in zip(names, strengths, strict=True)]
        return Plan(steer=list(zip(edits, strengths, strict=True)), told=told)
