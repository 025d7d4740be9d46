"""Rows of the table follow the requests: under runner V1 by name, under runner V2 by number."""

from typing import NamedTuple

import numpy as np
import torch

from hypersteer.edits.sites import Site
from hypersteer.edits.vector import VECTOR
from hypersteer.vllm_plugin.making import New
from hypersteer.vllm_plugin.running import Rows, Running
from hypersteer.vllm_plugin.table import Entry, Place, Row, Table, places_of

WIDTH, SITE = 4, Site(1)
AT = Place(0, SITE, "vector")


class Numbers:
    """Makes the vector of a number, and counts how often it was asked."""

    def __init__(self):
        self.passes = []

    def rows(self, requests):
        self.passes.append([one.payload for one in requests])
        return [
            Row(
                {AT: Entry({"vector": torch.full((WIDTH,), float(one.payload))}, 1.0, "all")},
                1,
                len(one.ids),
            )
            for one in requests
        ]


def table_of(rows, fixed=False):
    places = places_of([SITE], {SITE: (VECTOR,)}, 1)
    return Table(places, rank=1, width=WIDTH, rows=rows, tokens=32, fixed=fixed)


def new(number, tokens=3):
    return New(str(number), list(range(tokens)))


def seen(running, table, names, counts, positions):
    """What the step adds to each token."""
    starts = np.concatenate([[0], np.cumsum(counts)])
    running.point(names, starts, torch.tensor(positions))
    found = table.apply(0, torch.zeros(len(positions), WIDTH))[:, 0].tolist()
    running.rest()
    return found


def test_requests_come_go_and_come_back():
    """Two rows for five requests: chunked prefill, preemption, another order, a row used again."""
    table, making = table_of(2), Numbers()
    running = Running(table, making)
    running.begin([], [("a", new(1)), ("b", new(2))], ["a", "b", "plain"])
    assert making.passes == [["1", "2"]], "one pass for all that are new"
    found = seen(running, table, ["a", "plain", "b"], [2, 1, 3], [0, 1, 0, 0, 1, 2])
    assert found == [0, 1, 0, 0, 2, 2], "each token its own; the chat prefix none"
    running.begin([], [], ["a", "b"])  # the rest of a's prompt, b decodes
    assert seen(running, table, ["b", "a"], [1, 1], [3, 2]) == [2, 1]
    running.begin([], [("c", new(3))], ["b", "c"])  # a is preempted, c takes its row
    assert seen(running, table, ["b", "c"], [1, 3], [4, 0, 1, 2]) == [2, 0, 3, 3]
    running.begin(["b"], [], ["c", "a"])  # a comes back and is computed from its beginning
    assert seen(running, table, ["c", "a"], [1, 4], [3, 0, 1, 2, 3]) == [3, 0, 1, 1, 1]
    running.begin(["a", "c"], [], ["plain"])
    assert seen(running, table, ["plain"], [2], [5, 6]) == [0, 0]
    assert making.passes == [["1", "2"], ["3"]], "what was preempted is not made again"
    assert not running._held
    assert len(running._free) == 2


def test_a_name_that_is_used_again_gets_its_new_edit():
    table, making = table_of(2), Numbers()
    running = Running(table, making)
    running.begin([], [("a", new(1))], ["a"])
    running.begin(["a"], [("a", new(5))], ["a"])
    assert seen(running, table, ["a"], [2], [0, 1]) == [0, 5]


class InputBatch(NamedTuple):
    """Those fields of vLLM's `InputBatch` (0.32) that are read, padded as for a CUDA graph."""

    idx_mapping: torch.Tensor
    query_start_loc: torch.Tensor
    positions: torch.Tensor
    num_tokens: int


MIXED = InputBatch(  # requests 3, 0, 2 with 3, 1 and 2 tokens; padded to 4 requests and 8 tokens
    idx_mapping=torch.tensor([3, 0, 2], dtype=torch.int32),
    query_start_loc=torch.tensor([0, 3, 4, 6, 6], dtype=torch.int32),
    positions=torch.tensor([0, 1, 2, 7, 4, 5, 0, 0]),
    num_tokens=6,
)
DECODE = InputBatch(
    idx_mapping=torch.tensor([0, 3], dtype=torch.int32),
    query_start_loc=torch.tensor([0, 1, 2, 2], dtype=torch.int32),
    positions=torch.tensor([8, 3, 0, 0]),
    num_tokens=2,
)


def tokens_of(rows, table, batch, size):
    rows.point(*batch)
    return table.apply(0, torch.zeros(size, WIDTH))[:, 0].tolist()


def test_rows_are_the_numbers_that_the_runner_gives():
    table, making = table_of(4, fixed=True), Numbers()
    rows = Rows(table, making)
    rows.add("c", 3, new(3))
    rows.add("a", 0, new(1))
    rows.add("plain", 2, None)
    rows.write()
    assert making.passes == [["3", "1"]]
    assert tokens_of(rows, table, MIXED, 8) == [0, 3, 3, 1, 0, 0, 0, 0]
    assert tokens_of(rows, table, DECODE, 4) == [1, 3, 0, 0]
    rows.remove("c")
    rows.add("d", 3, None)  # an unsteered request where a steered one was
    rows.write()
    assert tokens_of(rows, table, DECODE, 4) == [1, 0, 0, 0]
    rows.rest()
    assert table.apply(0, torch.zeros(4, WIDTH)).any().item() is False


def test_a_preempted_request_comes_back_under_another_number():
    table, making = table_of(4, fixed=True), Numbers()
    rows = Rows(table, making)
    rows.add("a", 0, new(1))
    rows.write()
    rows.remove("a")
    rows.add("b", 0, new(2))
    rows.add("a", 3, new(1))
    rows.write()
    assert tokens_of(rows, table, DECODE, 4) == [2, 1, 0, 0]


def test_a_request_that_ends_before_its_edit_is_made_leaves_nothing():
    table, making = table_of(4, fixed=True), Numbers()
    rows = Rows(table, making)
    rows.add("a", 0, new(1))
    rows.remove("a")
    rows.write()
    assert making.passes == []
    assert tokens_of(rows, table, DECODE, 4) == [0, 0, 0, 0]
