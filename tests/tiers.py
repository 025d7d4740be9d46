"""What `make test` leaves to `make test-all`.

A test may be marked `exhaustive` by hand. Beside that, most tests of base LMs run on every tiny
family, many of them in several ways: a cross product, most of which repeats itself. `make test`
runs a third of it, so chosen that each way meets several families and that each of the numbered
invariants (`test_1_...` to `test_11_...`) meets every family.
"""

import re
import zlib
from collections import defaultdict

import pytest

ONE_IN = 3
INVARIANT = re.compile(r"test_\d")


def mark_redundant(items, families) -> None:
    """Mark as exhaustive what the rest of its cross product covers."""
    products = defaultdict(list)
    for item in items:
        if (found := family_and_way(item, families)) is not None:
            products[item.nodeid.partition("[")[0]].append((item, *found))
    for name, product in products.items():
        ways = {way: rank for rank, way in enumerate(dict.fromkeys(way for _, _, way in product))}
        met = {way: [family for _, family, other in product if other == way] for way in ways}
        one_in = min(ONE_IN, len(ways)) if INVARIANT.match(name.rpartition("::")[2]) else ONE_IN
        start = zlib.crc32(name.encode())  # so that not every test takes the same families
        for item, family, way in product:
            chosen = (start + families.index(family) + ways[way]) % one_in == 0
            if not chosen and len(met[way]) >= ONE_IN:
                item.add_marker(pytest.mark.exhaustive)


def family_and_way(item, families) -> tuple[str, tuple[str, ...]] | None:
    """The family that a test runs on, and its other parameters; None where it has no family."""
    params = dict(item.callspec.params) if hasattr(item, "callspec") else {}
    family = params.pop("lm", None) or params.pop("family", None)
    if family not in families:
        return None
    return family, tuple(repr(value) for value in params.values())
