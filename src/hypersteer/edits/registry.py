"""The kinds of edits there are, by the names that files and settings use."""

from hypersteer.edits.gated import GATED
from hypersteer.edits.kinds import EditKind
from hypersteer.edits.low_rank import LOW_RANK
from hypersteer.edits.vector import VECTOR
from hypersteer.errors import ConfigError, nearest, shown

KINDS: dict[str, EditKind] = {kind.name: kind for kind in (VECTOR, LOW_RANK, GATED)}


def edit_kind(name: object) -> EditKind:
    """Return the kind of that name.

    Raises:
        ConfigError: if there is none.
    """
    found = KINDS.get(name) if isinstance(name, str) else None
    if found is None:
        raise ConfigError(f"unknown kind of edit {shown(name)}{nearest(str(name), KINDS)}")
    return found
