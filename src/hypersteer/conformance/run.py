"""Ask a back end all checks, and tell what it keeps."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch

from hypersteer.conformance.adapter import ABILITIES, Adapter
from hypersteer.conformance.checks import INVARIANTS, Invariant
from hypersteer.conformance.probe import Bench, Broken, Probe, make_bench
from hypersteer.conformance.reference import Reference
from hypersteer.errors import ConfigError, nearest, one_line
from hypersteer.lm.base import BaseLM

TOKENS = 12
METHODS = {"stream": "stream", "files": "reloaded"}
"""What an adapter with an ability has beside `answer`."""
Outcome = Literal["holds", "broken", "failed", "not offered"]


class Finding(NamedTuple):
    """What came of a check.

    Attributes:
        number: of the invariant.
        title: what has to hold.
        outcome: `broken` where an answer was not the right one, `failed` where an exception came.
        detail: the calls that show it, with what was wanted and what came; or what is missing.
    """

    number: int
    title: str
    outcome: Outcome
    detail: str = ""


class Conformance(NamedTuple):
    """What a back end keeps.

    Attributes:
        name: of the back end.
        base_lm: what it steered.
        findings: one for every check.
    """

    name: str
    base_lm: str
    findings: list[Finding]

    @property
    def holds(self) -> bool:
        """Whether nothing that is offered is broken."""
        return all(one.outcome in ("holds", "not offered") for one in self.findings)


def conform(
    adapter: Adapter,
    lm: BaseLM,
    *,
    tokens: int = TOKENS,
    bench: Bench | None = None,
    done: Callable[[Finding], None] = lambda _finding: None,
) -> Conformance:
    """Ask a back end all checks, one after the other; none of them ends the others.

    Args:
        adapter: the back end.
        lm: the base LM that it steers, in float32; right answers are computed with it.
        tokens: length of the answers.
        bench: right answers and vectors of earlier calls for this base LM, so that they are not
            computed again.
        done: called with each finding.

    Raises:
        ConfigError: if the adapter is none, or the base LM is not in float32.
    """
    check_adapter(adapter)
    if lm.dtype != torch.float32:
        raise ConfigError(
            f"{lm.name} is in {lm.dtype}; answers are compared in float32: dtype='float32'"
        )
    bench = bench or make_bench(Reference(lm, tokens))
    findings = []
    for one in INVARIANTS:
        findings.append(ask(one, adapter, bench))
        done(findings[-1])
    return Conformance(adapter.name, lm.name, findings)


def ask(invariant: Invariant, adapter: Adapter, bench: Bench) -> Finding:
    """Ask a back end one check."""
    number, title, needs, check = invariant
    missing = [name for name in needs if name not in adapter.abilities]
    if missing:
        lacks = "; ".join(ABILITIES[name] for name in missing)
        return Finding(number, title, "not offered", f"no {lacks}")
    try:
        check(Probe(adapter, bench))
    except Broken as broken:
        return Finding(number, title, "broken", str(broken))
    except Exception as error:  # a back end's own, whatever it is
        return Finding(number, title, "failed", f"{type(error).__name__}: {one_line(error)}")
    return Finding(number, title, "holds")


def check_adapter(adapter: Any) -> None:
    """Hold an adapter to what adapters have.

    Raises:
        ConfigError: naming what it lacks.
    """
    name = type(adapter).__name__
    for attribute in ("name", "abilities", "answer"):
        if not hasattr(adapter, attribute):
            raise ConfigError(f"the adapter {name} has no '{attribute}'; see docs/conformance.md")
    for ability in adapter.abilities:
        if ability not in ABILITIES:
            raise ConfigError(f"{name}: unknown ability '{ability}'{nearest(ability, ABILITIES)}")
        method = METHODS.get(ability, "answer")
        if not hasattr(adapter, method):
            raise ConfigError(f"{name} claims '{ability}' and has no method '{method}'")
