"""A table of edits does to each token what the edit of its request does, and nothing to others."""

from typing import get_args

import pytest
import torch

from hypersteer.edits.edit import Edit
from hypersteer.edits.registry import KINDS
from hypersteer.edits.sites import NamedScope, Site
from hypersteer.lm.chat import PromptIds, collate
from hypersteer.lm.scopes import scope_mask
from hypersteer.vllm_plugin.table import Entry, Place, Row, Table, blank_of, bounds, places_of

WIDTH, RANK, SITES = 12, 3, [Site(1), Site(4, "mlp")]
SCOPES = get_args(NamedScope)


def params_of(kind, seed, rank=RANK):
    torch.manual_seed(seed)
    found = {name: torch.randn(shape) for name, shape in kind.shapes(WIDTH, rank).items()}
    return Edit(kind=kind, params=found, site=SITES[0]).params


def table_of(*, fixed=False, rows=5, slots=2, tokens=64):
    kinds = dict.fromkeys(SITES, tuple(KINDS.values()))
    places = places_of(SITES, kinds, slots)
    return Table(places, rank=RANK, width=WIDTH, rows=rows, tokens=tokens, fixed=fixed)


def alone(states, entry, prefix, length):
    """One request's states after one edit, by the rules of our own engine."""
    batch = collate([PromptIds([1] * length, prefix)], [[1] * (len(states) - length)], pad_id=0)
    mask = scope_mask([entry.scope], batch.spans)
    kind = next(k for k in KINDS.values() if set(blank_of(k, 1, 1)) == set(entry.params))
    stacked = {name: value[None] for name, value in entry.params.items()}
    return kind.apply(states[None], stacked, mask, torch.tensor([entry.strength]))[0]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(("prefix", "length"), [(0, 1), (0, 3), (2, 3), (2, 5), (3, 9)])
def test_bounds_are_the_scopes_of_our_own_engine(scope, prefix, length):
    batch = collate([PromptIds([1] * length, prefix)], [[1] * 4], pad_id=0)
    first, end, third, last = bounds(scope, prefix, length)
    at = torch.arange(length + 4)
    found = ((first <= at) & (at < end)) | ((third <= at) & (at < last))
    assert torch.equal(found, scope_mask([scope], batch.spans)[0])


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_each_token_gets_its_own_requests_edit(name, fixed):
    """Three requests in one step, in chunks and while decoding, between unsteered ones."""
    table, kind = table_of(fixed=fixed), KINDS[name]
    lengths, prefix = {0: 14, 3: 6, 4: 3}, 2
    entries = {
        row: Entry(params_of(kind, row), 0.5 + row, SCOPES[row % len(SCOPES)]) for row in lengths
    }
    for row, entry in entries.items():
        table.put(row, Row({Place(0, SITES[0], name): entry}, prefix, lengths[row]))
    states = {row: torch.randn(20, WIDTH) for row in lengths}
    other = torch.randn(7, WIDTH)
    chunks = {0: (0, 14), 3: (2, 6), 4: (5, 6)}  # a whole prompt, the rest of one, one decoded
    rows, positions, mixed = [table.rows] * 4, [0, 1, 2, 3], [other[:4]]
    for row, (start, end) in chunks.items():
        rows += [row] * (end - start)
        positions += range(start, end)
        mixed.append(states[row][start:end])
    rows += [table.rows] * 3
    positions += [7, 0, 0]
    mixed.append(other[4:])
    given = torch.cat(mixed)
    table.point(torch.tensor(rows), torch.tensor(positions))
    found = table.apply(0, given)
    assert torch.equal(found[:4], other[:4])
    assert torch.equal(found[-3:], other[4:])
    at = 4
    for row, (start, end) in chunks.items():
        wanted = alone(states[row], entries[row], prefix, lengths[row])[start:end]
        torch.testing.assert_close(found[at : at + end - start], wanted, rtol=1e-5, atol=1e-5)
        at += end - start
    assert torch.equal(table.apply(1, given), given)  # the other site


@pytest.mark.parametrize("fixed", [False, True])
def test_edits_of_one_request_act_in_their_order(fixed):
    table, kind = table_of(fixed=fixed), KINDS["gated"]
    first, second = (Entry(params_of(kind, seed), 1.5, "everywhere") for seed in (1, 2))
    at = {Place(0, SITES[0], "gated"): first, Place(1, SITES[0], "gated"): second}
    table.put(1, Row(at, 0, 4))
    states = torch.randn(10, WIDTH)
    table.point(torch.full((10,), 1), torch.arange(10))
    wanted = alone(alone(states, first, 0, 4), second, 0, 4)
    torch.testing.assert_close(table.apply(0, states), wanted, rtol=1e-5, atol=1e-5)


def test_an_edit_of_fewer_directions_leaves_nothing_of_the_one_before_it():
    table, kind = table_of(), KINDS["gated"]
    place, states = Place(0, SITES[1], "gated"), torch.randn(5, WIDTH)
    small = Entry(params_of(kind, 3, rank=1), 1.0, "all")
    table.put(2, Row({place: Entry(params_of(kind, 4), 9.0, "everywhere")}, 0, 5))
    table.put(2, Row({place: small}, 1, 3))
    table.point(torch.full((5,), 2), torch.arange(5))
    torch.testing.assert_close(table.apply(1, states), alone(states, small, 1, 3))
    table.clear(2)
    table.point(torch.full((5,), 2), torch.arange(5))
    assert torch.equal(table.apply(1, states), states)


def test_at_rest_nothing_acts_and_nothing_moves():
    """Trial runs, and what is captured, see no edit; addresses stay for what was captured."""
    for fixed in (False, True):
        table = table_of(fixed=fixed)
        where = [t.data_ptr() for params in table._params for t in params.values()]
        where += [table._factor.data_ptr(), table._row_of.data_ptr()]
        table.put(
            0,
            Row(
                {Place(0, SITES[0], "vector"): Entry(params_of(KINDS["vector"], 0), 1.0, "all")},
                0,
                3,
            ),
        )
        table.point(torch.zeros(6, dtype=torch.long), torch.arange(6))
        assert not torch.equal(table.apply(0, torch.ones(6, WIDTH)), torch.ones(6, WIDTH))
        table.rest()
        assert torch.equal(table.apply(0, torch.ones(6, WIDTH)), torch.ones(6, WIDTH))
        assert table.acts(0) == fixed
        again = [t.data_ptr() for params in table._params for t in params.values()]
        assert where == [*again, table._factor.data_ptr(), table._row_of.data_ptr()]


def test_many_tokens_are_gathered_in_parts():
    table = table_of(tokens=700, rows=300)
    kind, place = KINDS["gated"], Place(0, SITES[0], "gated")
    for row in range(300):
        table.put(row, Row({place: Entry(params_of(kind, row), 1.0, "all")}, 0, 1))
    states = torch.randn(300, WIDTH)
    table.point(torch.arange(300), torch.ones(300, dtype=torch.long))
    found = table.apply(0, states)
    for row in (0, 255, 256, 299):
        own = {name: value[None] for name, value in params_of(kind, row).items()}
        wanted = kind.apply(states[row][None, None], own, torch.ones(1, 1).bool(), torch.ones(1))
        torch.testing.assert_close(found[row], wanted[0, 0], rtol=1e-5, atol=1e-5)
