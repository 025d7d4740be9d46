"""The operator writes a table's edits into a block's output, also where the model is compiled."""

import pytest
import torch
from torch import nn

from hypersteer.edits.registry import KINDS
from hypersteer.edits.sites import Site
from hypersteer.errors import ModelError
from hypersteer.vllm_plugin.op import name_table
from hypersteer.vllm_plugin.placing import blocks_of, place
from hypersteer.vllm_plugin.table import Entry, Place, Row, Table, places_of

WIDTH, SITES = 8, [Site(0), Site(2), Site(1, "mlp")]


class Block(nn.Module):
    """A decoder block as vLLM has them: the residual is joined by the next block's norm."""

    def __init__(self):
        super().__init__()
        self.self_attn, self.mlp = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden, residual):
        residual = hidden if residual is None else hidden + residual
        hidden = self.self_attn(residual)
        residual = hidden + residual
        return self.mlp(residual), residual


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(4))

    def forward(self, hidden):
        residual = None
        for layer in self.layers:
            hidden, residual = layer(hidden, residual)
        return hidden + residual


def states_with(model, vectors, given):
    """The model's output where vectors are added to the whole state at sites, with no operator."""
    hidden, residual = given, None
    for number, layer in enumerate(model.layers):
        joined = hidden if residual is None else hidden + residual
        middle = layer.self_attn(joined) + joined
        hidden, residual = layer.mlp(middle), middle
        for kind in ("mlp", "residual"):
            if (vector := vectors.get(Site(number, kind))) is not None:
                hidden = hidden + vector
    return hidden + residual


@pytest.mark.parametrize("compiled", [False, True])
@torch.no_grad()
def test_edits_act_on_the_whole_state(compiled):
    torch.manual_seed(0)
    model, given = Model(), torch.randn(6, WIDTH)
    vector = (KINDS["vector"],)
    places = places_of(sorted(SITES), dict.fromkeys(SITES, vector), 1)
    table = Table(places, rank=1, width=WIDTH, rows=3, tokens=16, fixed=compiled)
    place(blocks_of(model, 4), table.sites, name_table(table))
    vectors = {site: torch.randn(WIDTH) for site in SITES}
    entries = {
        Place(0, site, "vector"): Entry({"vector": one}, 0.5, "all")
        for site, one in vectors.items()
    }
    table.put(1, Row(entries, 0, 3))
    run = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
    plain = states_with(model, {}, given)
    torch.testing.assert_close(run(given), plain)
    wanted = states_with(model, {site: 0.5 * one for site, one in vectors.items()}, given)
    table.point(torch.tensor([3, 3, 1, 1, 1, 3]), torch.arange(6))
    found = run(given)
    torch.testing.assert_close(found[2:5], wanted[2:5])
    torch.testing.assert_close(found[[0, 1, 5]], plain[[0, 1, 5]])
    table.rest()
    torch.testing.assert_close(run(given), plain)


def test_a_model_whose_blocks_are_not_found_is_refused():
    with pytest.raises(ModelError, match="found 0 lists of 7 decoder blocks in vLLM's Model"):
        blocks_of(Model(), 7)
