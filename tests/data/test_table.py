import errno
import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from hypersteer.data import table as table_module
from hypersteer.data.table import SCHEMA, open_table
from hypersteer.errors import DataError


def write_lines(path, *lines):
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def test_keeps_rows_of_all_files_in_order(tmp_path, row, write_parquet):
    first = write_parquet(
        tmp_path / "train_data.parquet",
        [row("Who?", "Me 🦜.", 0), row("Why?", "So.", -1, "negative", concept_genre="math")],
    )
    second = write_lines(tmp_path / "train_data_1.jsonl", row("Où?", "Là.", 5, "hard negative"))
    table = open_table([first, second])
    assert table.schema == SCHEMA
    assert table.to_pydict() == {
        "input": ["Who?", "Why?", "Où?"],
        "output": ["Me 🦜.", "So.", "Là."],
        "output_concept": ["concept 0", "EEEEE", "concept 5"],
        "category": ["positive", "negative", "hard negative"],
        "concept_genre": ["text", "math", "text"],
        "concept_id": [0, -1, 5],
        "complete": [False, False, True],
        "n_chars": [9, 7, 6],
    }


def test_reads_more_rows_than_a_batch(tmp_path, row, write_parquet, monkeypatch):
    monkeypatch.setattr(table_module, "BATCH_ROWS", 4)
    rows = [row(str(i), "x", i) for i in range(10)]
    for file in (
        write_parquet(tmp_path / "a.parquet", rows),
        write_lines(tmp_path / "b.jsonl", *rows),
    ):
        assert open_table([file])["concept_id"].to_pylist() == list(range(10))


def test_reads_eval_columns_and_categoricals(tmp_path, row, write_parquet, eval_schema):
    rows = [row(sae_link="https://x", sae_id=3)]
    assert open_table([write_parquet(tmp_path / "e.parquet", rows, eval_schema)]).num_rows == 1
    coded = pa.Table.from_pylist(rows)
    index = coded.schema.get_field_index("category")
    coded = coded.set_column(index, "category", coded["category"].dictionary_encode())
    pq.write_table(coded, tmp_path / "c.parquet")
    assert open_table([tmp_path / "c.parquet"])["category"].to_pylist() == ["positive"]


def test_a_complete_column_wins_over_the_file_kind(tmp_path, row, write_parquet):
    schema = pa.Table.from_pylist([row(complete=True)]).schema
    parquet = write_parquet(tmp_path / "a.parquet", [row(complete=True)], schema)
    lines = write_lines(tmp_path / "b.jsonl", row(complete=False))
    assert open_table([parquet, lines])["complete"].to_pylist() == [True, False]


def test_converts_once_and_again_when_a_file_changes(tmp_path, row, write_parquet, cache):
    file = write_parquet(tmp_path / "a.parquet", [row()])
    open_table([file])
    (stored,) = (cache / "tables").iterdir()
    written = stored.stat().st_mtime_ns
    open_table([file])
    assert stored.stat().st_mtime_ns == written
    write_parquet(file, [row(), row()])
    assert open_table([file]).num_rows == 2
    assert {path.suffix for path in (cache / "tables").iterdir()} == {".arrow"}


def test_a_damaged_store_is_rebuilt(tmp_path, row, write_parquet, cache):
    file = write_parquet(tmp_path / "a.parquet", [row()])
    open_table([file])
    (stored,) = (cache / "tables").iterdir()
    stored.write_bytes(stored.read_bytes()[:100])
    assert open_table([file]).num_rows == 1


def test_the_cache_is_the_users_by_default(monkeypatch):
    monkeypatch.delenv("HYPERSTEER_CACHE")
    assert table_module.cache_folder().name == "hypersteer"


def test_texts_are_read_where_they_lie(tmp_path, row, write_parquet):
    file = write_parquet(tmp_path / "a.parquet", [row("x" * 1000)] * 1000)
    before = pa.total_allocated_bytes()
    table = open_table([file])
    assert table.nbytes > 1_000_000
    assert pa.total_allocated_bytes() - before < 50_000


def refuses(files, message, cache):
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        open_table(files)
    assert "\n" not in str(caught.value)
    tables = cache / "tables"
    assert not tables.is_dir() or not [p for p in tables.iterdir() if p.suffix != ".arrow"]


COLUMNS = "input, output, output_concept, category, concept_genre, concept_id"


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_missing_columns(tmp_path, row, cache, kind):
    short = {name: value for name, value in row().items() if name not in ("output", "category")}
    file = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist([short]), file)
    else:
        write_lines(file, short)
    where = f"{file}, line 1" if kind == "jsonl" else file
    refuses([file], f"{where} lacks output, category; expected columns {COLUMNS}", cache)


def test_unreadable_files(tmp_path, row, write_parquet, cache):
    refuses([], "no data files were given", cache)
    refuses([tmp_path / "absent.parquet"], f"cannot read {tmp_path / 'absent.parquet'}: ", cache)
    text = write_lines(tmp_path / "a.parquet", "not parquet at all")
    refuses([text], f"{text} is not a readable parquet file: ", cache)
    whole = write_parquet(tmp_path / "b.parquet", [row("x" * 99)] * 99)
    whole.write_bytes(whole.read_bytes()[:-50])
    refuses([whole], f"{whole} is not a readable parquet file: ", cache)
    write_parquet(whole, [row(f"{i} " * 99) for i in range(99)])
    content = bytearray(whole.read_bytes())
    content[4:400] = b"\xff" * 396
    whole.write_bytes(content)
    refuses([whole], f"{whole} is not a readable parquet file: ", cache)
    table = write_lines(tmp_path / "a.csv", "input,output")
    refuses([table], f"cannot read {table}: expected a name ending in .parquet or .jsonl", cache)
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(b'{"input": "caf\xe9"}\n')
    refuses([latin], f"cannot read {latin}: ", cache)


def test_no_rows(tmp_path, write_parquet, cache):
    empty = write_parquet(tmp_path / "a.parquet", [])
    refuses([empty], f"{empty}: no rows; expected columns {COLUMNS} and at least one row", cache)
    blank = write_lines(tmp_path / "a.jsonl", "", "")
    refuses([blank, empty], f"{blank} and 1 more: no rows", cache)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "a.jsonl, line 2 is not JSON: "),
        ("[]", "a.jsonl, line 2 is not a JSON object; expected columns input"),
        ({"output": None}, "a.jsonl, line 2: output is None; expected str"),
        ({"concept_id": "1"}, "a.jsonl, line 2: concept_id is '1'; expected int"),
        ({"concept_id": True}, "a.jsonl, line 2: concept_id is True; expected int"),
        ({"complete": "yes"}, "a.jsonl, line 2: complete is 'yes'; expected bool"),
        ({"concept_id": 2**70}, "a.jsonl: "),
        (
            {"category": "postive"},
            "a.jsonl, row 1: category is 'postive'; expected one of positive, negative, hard",
        ),
    ],
)
def test_bad_json_lines(tmp_path, row, cache, bad, message):
    line = row(**bad) if isinstance(bad, dict) else bad
    refuses([write_lines(tmp_path / "a.jsonl", row(), line)], message, cache)


def test_bad_parquet_values(tmp_path, row, write_parquet, cache):
    file = tmp_path / "a.parquet"
    write_parquet(file, [row(), row(output=None)])
    refuses([file], f"{file}, row 1: output is empty; expected large_string", cache)
    pq.write_table(pa.Table.from_pylist([row(concept_id="zero")]), file)
    refuses([file], f"{file}: column concept_id holds string; expected int64", cache)
    pq.write_table(pa.Table.from_pylist([row(concept_id=0.5)]), file)
    refuses([file], f"{file}: column concept_id holds double; expected int64", cache)
    pq.write_table(pa.Table.from_pylist([row(prompt=3)]), file)
    refuses([file], f"{file}: column input holds int64; expected large_string", cache)


SPACES = "".join(chr(code) for code in range(0x110000) if chr(code).isspace())


@pytest.mark.parametrize(
    "blank", ["", " ", "\t\n ", SPACES], ids=["empty", "space", "mixed", "all"]
)
def test_blank_prompts_are_told_with_file_and_row(tmp_path, row, write_parquet, cache, blank):
    file = write_parquet(tmp_path / "a.parquet", [row(), row("x", ""), row(blank), row(blank)])
    refuses([file], f"{file}, row 2: input is blank, and a prompt needs some text", cache)
    lines = write_lines(tmp_path / "a.jsonl", row(), "", row(blank))
    refuses([lines], f"{lines}, line 3: input is blank, and a prompt needs some text", cache)


def test_blank_prompts_are_told_in_any_batch_and_type(tmp_path, row, cache, monkeypatch):
    monkeypatch.setattr(table_module, "BATCH_ROWS", 4)
    file = tmp_path / "a.parquet"
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        table = pa.Table.from_pylist([row(f"{i}") for i in range(9)] + [row(" ")] + [row("y")])
        place = table.schema.get_field_index("input")
        pq.write_table(table.set_column(place, "input", table["input"].cast(kind)), file)
        refuses([file], f"{file}, row 9: input is blank", cache)


def test_white_space_inside_and_a_blank_response_are_no_fault(tmp_path, row, write_parquet):
    file = write_parquet(
        tmp_path / "a.parquet", [row(" x\u2003"), row("\u200b", " "), row("y", "")]
    )
    assert open_table([file])["input"].to_pylist() == [" x\u2003", "\u200b", "y"]
    assert "\u200b".strip()  # no white space, says Python


def test_a_store_of_before_the_check_is_made_anew(tmp_path, row, write_parquet, cache, monkeypatch):
    file = write_parquet(tmp_path / "a.parquet", [row(" ")])
    with monkeypatch.context() as patch:
        patch.setattr(table_module, "FORMAT_VERSION", 1)
        patch.setattr(table_module, "_refuse_blank", lambda *_: None)
        assert open_table([file]).num_rows == 1
    refuses([file], f"{file}, row 0: input is blank", cache)


def test_a_cache_that_cannot_be_written(tmp_path, row, write_parquet, cache, monkeypatch):
    file = write_parquet(tmp_path / "a.parquet", [row()])
    (tmp_path / "occupied").write_text("a file, not a folder")
    monkeypatch.setenv("HYPERSTEER_CACHE", str(tmp_path / "occupied"))
    message = "set HYPERSTEER_CACHE to a folder that you can write to"
    refuses([file], message, tmp_path / "occupied")
    refuses([file], f"cannot write to the cache folder {tmp_path / 'occupied'}", cache)


def test_a_full_disk_leaves_nothing_behind(tmp_path, row, write_parquet, cache, monkeypatch):
    file = write_parquet(tmp_path / "a.parquet", [row()])

    def fails(source):
        yield from ()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(table_module, "_batches", fails)
    refuses([file], f"the disk is full: no room for the row store in {cache / 'tables'}; ", cache)
    assert list((cache / "tables").iterdir()) == []


MILLION = """
import json, sys, time
import huggingface_hub
import numpy as np
from hypersteer.data.sources import load_concepts
from hypersteer.data.splits import split_rows

def anonymous_megabytes():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024

before, start = anonymous_megabytes(), time.perf_counter()
data = load_concepts(sys.argv[1])
seconds, grown = time.perf_counter() - start, anonymous_megabytes() - before
some = data.examples(range(0, len(data), 1009))
limits = {"max_concepts": 500, "max_examples_per_concept": 8}
split = split_rows(data, held_out_concepts=100, **limits, seed=0)
print(json.dumps({
    "rows": len(data), "concepts": len(data.concepts), "seconds": seconds, "grown": grown,
    "grown_after_use": anonymous_megabytes() - before, "last": some[-1].concept_id,
    "train": len(split.train), "total": time.perf_counter() - start,
}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_million_rows_do_not_fill_the_memory(tmp_path, row, cache):
    n_concepts, each = 16_000, 72
    path = tmp_path / "data" / "train_data.parquet"
    path.parent.mkdir()
    schema = pa.Table.from_pylist([row()]).schema
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for first in range(0, n_concepts, 1000):
            ids = pa.array([i for i in range(first, first + 1000) for _ in range(each)])
            words = ids.cast(pa.string())
            numbers = pa.array(range(len(ids))).cast(pa.string())
            prompt = pc.binary_join_element_wise(numbers, "how do ships find their way home?", " ")
            columns = {
                "input": prompt,
                "output": pc.binary_join_element_wise(prompt, "By the stars, matey. " * 12, " "),
                "output_concept": pc.binary_join_element_wise("talk about the thing", words, " "),
                "concept_genre": pa.repeat("text", len(ids)),
                "category": pa.repeat("positive", len(ids)),
                "dataset_category": pa.repeat("instruction", len(ids)),
                "concept_id": ids,
            }
            writer.write_table(pa.table(columns, schema=schema))
    assert path.stat().st_size < 200e6

    def measure():
        command = [sys.executable, "-c", MILLION, str(path.parent)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    first, second = measure(), measure()
    print(first, second)
    (stored,) = (cache / "tables").iterdir()
    assert stored.stat().st_size > 300e6
    for run in (first, second):
        assert run["rows"] == n_concepts * each
        assert run["concepts"] == n_concepts
        assert run["train"] == 500 * 8
        assert run["grown"] < 150
        assert run["grown_after_use"] < 150
    assert second["seconds"] < 5


def test_a_column_that_is_there_twice_is_refused(tmp_path, row, cache):
    table = pa.Table.from_pylist([row()])
    table = table.append_column("input", pa.array(["Which?"]))
    pq.write_table(table, tmp_path / "a.parquet")
    refuses([tmp_path / "a.parquet"], "a.parquet has the column input twice", cache)


def test_texts_that_are_no_utf8_are_refused(tmp_path, row, write_parquet, cache):
    table = pa.Table.from_pylist([row(), row()])
    broken = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ab", b"\xff"]).buffers())
    index = table.schema.get_field_index("output")
    pq.write_table(table.set_column(index, "output", broken), tmp_path / "a.parquet")
    refuses([tmp_path / "a.parquet"], "a.parquet: column output holds string", cache)
    line = json.dumps(row()).replace("Arr!", "\\ud800")
    file = write_lines(tmp_path / "b.jsonl", line)
    refuses([file], "line 1 is not JSON: it holds half a character", cache)


@pytest.mark.parametrize("wrong", [-2, 2**32, 2**62])
def test_ids_that_no_concept_has_are_refused(tmp_path, row, write_parquet, cache, wrong):
    told = f"row 1: concept_id is {wrong}; expected -1 to 4294967295"
    rows = [row(), row(concept_id=wrong)]
    for file in (
        write_parquet(tmp_path / "a.parquet", rows),
        write_lines(tmp_path / "b.jsonl", *rows),
    ):
        refuses([file], told, cache)


def test_json_lines_with_a_mark_and_odd_separators(tmp_path, row):
    file = tmp_path / "a.jsonl"
    line = json.dumps(row("a\u2028b\x85c\x0cd"), ensure_ascii=False)
    file.write_bytes(f"\ufeff{line}\r\n{line}".encode())
    assert open_table([file])["input"].to_pylist() == ["a\u2028b\x85c\x0cd"] * 2
