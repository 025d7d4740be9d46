"""The one operation that vLLM's model gains: write a table's edits into the states at a site.

An operator of torch's own, so that what compiles or captures the model takes it as a whole. It adds
to the hidden states in place and returns nothing.
"""

import torch
from torch import Tensor

from hypersteer.vllm_plugin.table import Table

TABLES: dict[str, Table] = {}
"""The tables of this process, by the names that the operator is given."""

_LIBRARY = torch.library.Library("hypersteer", "DEF")
_LIBRARY.define("steer(Tensor(a!) hidden, Tensor? residual, str table, int site) -> ()")


def _steer(hidden: Tensor, residual: Tensor | None, table: str, site: int) -> None:
    """Add what the edits at a site change.

    Args:
        hidden: [T, D], what the block returns; changed.
        residual: [T, D] that is added to it later on, so that both together are the state.
        table: name of the table.
        site: number of the site in the table.
    """
    found = TABLES[table]
    if not found.acts(site):
        return
    states = hidden.float() if residual is None else hidden.float() + residual.float()
    hidden.add_((found.apply(site, states) - states).to(hidden.dtype))


_LIBRARY.impl("steer", _steer, "CompositeExplicitAutograd")


@torch.library.register_fake("hypersteer::steer", lib=_LIBRARY)
def _shapes(hidden: Tensor, residual: Tensor | None, table: str, site: int) -> None:
    """Nothing is returned."""


def name_table(table: Table) -> str:
    """Return the name by which the operator finds a table from now on."""
    name = f"table{len(TABLES)}"
    TABLES[name] = table
    return name


def steer(hidden: Tensor, residual: Tensor | None, table: str, site: int) -> None:
    """Run the operator; see `_steer`."""
    torch.ops.hypersteer.steer(hidden, residual, table, site)
