"""How many cases are tried: few in the normal tests, HYPERSTEER_FUZZ_CASES in `make test-fuzz`."""

import os

from hypothesis import HealthCheck, settings

CASES = int(os.environ.get("HYPERSTEER_FUZZ_CASES", "0"))
FEW = 90


def fuzzing(share: float) -> settings:
    """Settings of a test that has this share of the cases; the few are the same each time."""
    return settings(
        max_examples=max(1, round(share * (CASES or FEW))),
        deadline=None,
        database=None,
        derandomize=not CASES,
        print_blob=bool(CASES),
        suppress_health_check=list(HealthCheck),
    )
