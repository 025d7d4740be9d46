"""Which requests may share blocks of vLLM's prefix cache: the salt, set where blocks are hashed.

vLLM hashes a block's tokens, the blocks before it, and the request's `cache_salt`. Two requests may
share a block if the same tokens have the same states in both. That holds if the same edits act on
them at the same strengths on the same tokens:

- An edit of a steering prompt alone is told by checkpoint, text, scope and strength.
- One that is made for the prompt at hand depends on all of its tokens, also on those behind the
  block, so the whole prompt is part of the salt.
- Scopes other than `all` and `everywhere` ask where the prompt ends, which a block does not know.
"""

import hashlib
from collections.abc import Sequence

from hypersteer.edits.sites import Scope

LEAD = "hypersteer-"
"""What our salts begin with; a client's own never do."""
OPEN: tuple[Scope, ...] = ("all", "everywhere")
"""Scopes that touch a token whether it is the prompt's or the answer's."""


def salt_of(
    payload: str,
    generator: str,
    scopes: Sequence[Scope],
    ids: Sequence[int],
    prefix: int,
    *,
    whole: bool,
    own: str | None,
) -> str:
    """Return the cache salt of a steered request.

    Args:
        payload: what steers it.
        generator: hash of the hypernetwork's weights.
        scopes: of all its edits.
        ids: the prompt's tokens.
        prefix: how many of them are the fixed chat prefix.
        whole: whether its edits are made for the prompt at hand.
        own: the client's salt, which stays in force.
    """
    told = [payload, generator, own or "", str(prefix)]
    if any(scope not in OPEN for scope in scopes):
        told.append(f"{len(ids)} tokens")
    if whole:
        told.append(",".join(map(str, ids)))
    return LEAD + hashlib.sha256("\0".join(told).encode()).hexdigest()[:40]


def clients_salt(own: str | None) -> str | None:
    """Return a client's salt for an unsteered request, none of which can be one of ours."""
    if own is None or not own.startswith(LEAD):
        return own
    return "client-" + hashlib.sha256(own.encode()).hexdigest()[:40]
