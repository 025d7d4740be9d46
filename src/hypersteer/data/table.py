"""The row store: concept data converted once to an Arrow file, then only memory-mapped.

Parquet must be decoded to be read, so a large data set would have to fit in memory. An Arrow file
is read where it lies: the operating system pages rows in and out, and opening costs about the same
for a thousand rows as for a million.
"""

import errno
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hypersteer.concepts import LARGEST_ID
from hypersteer.data import schema
from hypersteer.errors import DataError, one_line
from hypersteer.files import CACHE_VARIABLE, cache_folder, each_line, replacing
from hypersteer.values import json_of

BATCH_ROWS = 8192

# Part of every cache key: raise it whenever SCHEMA, the meaning of a column or a check changes.
FORMAT_VERSION = 2
LENGTH = "n_chars"
SCHEMA = pa.schema(
    [
        (schema.INPUT, pa.large_string()),
        (schema.OUTPUT, pa.large_string()),
        (schema.OUTPUT_CONCEPT, pa.string()),
        (schema.CATEGORY, pa.dictionary(pa.int8(), pa.string())),
        (schema.CONCEPT_GENRE, pa.string()),
        (schema.CONCEPT_ID, pa.int64()),
        (schema.COMPLETE, pa.bool_()),
        (LENGTH, pa.int32()),
    ]
)
BLANK = "input is blank, and a prompt needs some text; drop the row or fill it in"
EXPECTED = f"expected columns {', '.join(schema.REQUIRED)}"

# What `str.strip` takes off. Arrow's own idea of white space is another.
WHITE_SPACE = "".join(character for character in map(chr, range(0x3001)) if character.isspace())

# An Arrow file allows one dictionary per column, so every batch shares this one.
_DICTIONARY = pa.array(schema.CATEGORIES, pa.string())


def open_table(files: Sequence[Path]) -> pa.Table:
    """Open AxBench parquet or JSON-lines files as one memory-mapped table.

    The first call streams the files into an Arrow file in the cache folder; later calls only map
    it. A file that changes in size or time is converted anew. A `complete` column (bool) is kept;
    without one, parquet rows count as cut and JSON-lines rows as whole.

    Args:
        files: Files ending in `.parquet` or `.jsonl`, in the order wanted of the rows.

    Returns:
        A table with the columns of `SCHEMA`; `n_chars` is the length of input and output together.

    Raises:
        DataError: A file is missing, corrupt, or lacks columns; a row has a blank input or a value
            that is none; there are no rows; or the cache folder cannot be written.
    """
    if not files:
        raise DataError("no data files were given; expected .parquet or .jsonl files")
    stored = cache_folder() / "tables" / f"{_key(files)}.arrow"
    table = _map(stored)
    if table is None:
        _store(files, stored)
        # Arrow's allocator would keep what the conversion freed, some 80 MB, for later use.
        pa.default_memory_pool().release_unused()
        table = _map(stored)
    if table is None:
        raise DataError(f"cannot read back the row store {stored}; delete it and try again")
    if table.num_rows == 0:
        raise DataError(f"{_names(files)}: no rows; {EXPECTED} and at least one row")
    return table


def _key(files: Sequence[Path]) -> str:
    """Return a name for a conversion by what goes into it, without reading the files."""
    facts: list[Any] = [FORMAT_VERSION]
    for file in files:
        try:
            stat = file.stat()
        except OSError as error:
            raise DataError(f"cannot read {file}: {one_line(error)}") from error
        facts.append((str(file.absolute()), stat.st_size, stat.st_mtime_ns))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _map(stored: Path) -> pa.Table | None:
    """Map a stored table; None where it does not exist or is damaged, so that it is rebuilt."""
    try:
        return pa.ipc.open_file(pa.memory_map(str(stored))).read_all()
    except (OSError, pa.ArrowInvalid):
        return None


def _store(files: Sequence[Path], stored: Path) -> None:
    """Convert the files; a reader sees either no stored table or the whole of it."""
    try:
        with (
            replacing(stored) as temporary,
            pa.OSFile(str(temporary), "wb") as sink,
            pa.ipc.new_file(sink, SCHEMA) as writer,
        ):
            for file in files:
                for batch in _batches(file):
                    writer.write_batch(batch)
    except OSError as error:
        raise _cannot_write(stored.parent, error) from error


def _cannot_write(folder: Path, error: OSError) -> DataError:
    """Return the error for a cache folder that takes no more, or none at all."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(
            f"the disk is full: no room for the row store in {folder}; "
            f"free some or set {CACHE_VARIABLE} to a folder on another disk"
        )
    return DataError(
        f"cannot write to the cache folder {folder}: {one_line(error)}; "
        f"set {CACHE_VARIABLE} to a folder that you can write to"
    )


def _batches(file: Path) -> Iterator[pa.RecordBatch]:
    """Stream one file as record batches of `SCHEMA`."""
    readers = {".parquet": (_parquet_batches, False), ".jsonl": (_json_batches, True)}
    if file.suffix not in readers:
        raise DataError(f"cannot read {file}: expected a name ending in .parquet or .jsonl")
    reader, complete = readers[file.suffix]
    first_row = 0
    for batch in reader(file):
        yield _to_schema(batch, file, first_row, complete=complete)
        first_row += batch.num_rows


def _parquet_batches(file: Path) -> Iterator[pa.RecordBatch]:
    """Read the wanted columns of a parquet file, a few thousand rows at a time."""
    try:
        # Mapped, since a plain read holds a row group's whole compressed columns in memory.
        with pq.ParquetFile(file, memory_map=True) as parquet:
            names = parquet.schema_arrow.names
            _require(names, str(file))
            twice = next((name for name in SCHEMA.names if names.count(name) > 1), None)
            if twice is not None:
                raise DataError(f"{file} has the column {twice} twice; leave one of them out")
            wanted = [name for name in SCHEMA.names if name in names and name != LENGTH]
            yield from parquet.iter_batches(BATCH_ROWS, columns=wanted, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{file} is not a readable parquet file: {one_line(error)}; download or write it again"
        ) from error


def _json_batches(file: Path) -> Iterator[pa.RecordBatch]:
    """Read a JSON-lines file, a few thousand rows at a time."""
    rows: list[dict[str, Any]] = []
    try:
        for number, line in enumerate(each_line(file), start=1):
            if line.strip():
                rows.append(_json_row(line, f"{file}, line {number}"))
            if len(rows) == BATCH_ROWS:
                yield pa.RecordBatch.from_pylist(rows)
                rows = []
        if rows:
            yield pa.RecordBatch.from_pylist(rows)
    # Not UTF-8, or an integer beyond 64 bits.
    except (OSError, ValueError, OverflowError) as error:
        raise DataError(f"cannot read {file}: {one_line(error)}; expected UTF-8 text") from error


def _json_row(line: str, where: str) -> dict[str, Any]:
    """Check one JSON line, and keeps what the row store wants of it."""
    try:
        row = json_of(line)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {one_line(error)}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where} is not a JSON object; {EXPECTED}")
    _require(row, where)
    kinds = dict.fromkeys(schema.TEXT_COLUMNS, str) | {
        schema.CONCEPT_ID: int,
        schema.COMPLETE: bool,
    }
    row = {schema.COMPLETE: True} | row
    for name, kind in kinds.items():
        # type(), since True is an int to isinstance.
        if type(row[name]) is not kind:
            raise DataError(f"{where}: {name} is {row[name]!r}; expected {kind.__name__}")
    if not str(row[schema.INPUT]).strip():
        raise DataError(f"{where}: {BLANK}")
    return {name: row[name] for name in kinds}


def _require(names: Sequence[str] | dict[str, Any], where: str) -> None:
    """Refuse a file in which a required column is missing."""
    missing = [name for name in schema.REQUIRED if name not in names]
    if missing:
        raise DataError(f"{where} lacks {', '.join(missing)}; {EXPECTED}")


def _to_schema(
    batch: pa.RecordBatch, file: Path, first_row: int, *, complete: bool
) -> pa.RecordBatch:
    """Cast a batch to `SCHEMA`, filling what the file does not hold."""
    columns = {name: _checked(batch, name, file, first_row) for name in schema.REQUIRED}
    _refuse_blank(columns[schema.INPUT], file, first_row)
    columns[schema.CATEGORY] = _categories(columns[schema.CATEGORY], file, first_row)
    _check_ids(columns[schema.CONCEPT_ID], file, first_row)
    if schema.COMPLETE in batch.schema.names:
        columns[schema.COMPLETE] = _checked(batch, schema.COMPLETE, file, first_row)
    else:
        columns[schema.COMPLETE] = pa.repeat(pa.scalar(complete), batch.num_rows)
    texts = (columns[schema.INPUT], columns[schema.OUTPUT])
    lengths = pc.call_function("add", [pc.call_function("utf8_length", [text]) for text in texts])
    columns[LENGTH] = lengths.cast(pa.int32())
    return pa.record_batch([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _checked(batch: pa.RecordBatch, name: str, file: Path, first_row: int) -> pa.Array:
    """Return one column in its stored type, without nulls; categories still as words."""
    column = batch.column(name)
    wanted = pa.string() if name == schema.CATEGORY else SCHEMA.field(name).type
    if column.null_count:
        row = first_row + pc.index(column.is_null(), True).as_py()
        raise DataError(f"{file}, row {row}: {name} is empty; expected {wanted}")
    found = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    # Arrow would turn numbers into text and text into numbers without a word.
    if _is_text(found) != (name in schema.TEXT_COLUMNS):
        raise DataError(f"{file}: column {name} holds {found}; expected {wanted}")
    try:
        column.validate(full=True)  # texts that are not UTF-8 pass any other check
        return column.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{file}: column {name} holds {found}; expected {wanted}") from error


def _check_ids(ids: pa.Array, file: Path, first_row: int) -> None:
    """Refuse an id that is neither that of a concept nor -1, the shared negatives'."""
    numbers = ids.to_numpy()
    wrong = np.flatnonzero((numbers < -1) | (numbers > LARGEST_ID))
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"{file}, row {first_row + row}: concept_id is {numbers[row]}; expected -1 to "
            f"{LARGEST_ID}"
        )


def _refuse_blank(prompts: pa.Array, file: Path, first_row: int) -> None:
    """Refuse a prompt of white space alone, which no chat template is given.

    A blank response is let through: no training row is made of it, and to detect it is no harm.
    """
    trimmed = pc.call_function("utf8_trim", [prompts], pc.TrimOptions(WHITE_SPACE))
    blank = pc.call_function("equal", [trimmed, pa.scalar("", trimmed.type)])
    row = pc.index(blank, True).as_py()
    if row >= 0:
        raise DataError(f"{file}, row {first_row + row}: {BLANK}")


def _is_text(kind: pa.DataType) -> bool:
    """Return whether a column type is one of Arrow's string types."""
    return (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _categories(words: pa.Array, file: Path, first_row: int) -> pa.DictionaryArray:
    """Return category words as codes into `schema.CATEGORIES`."""
    codes = pc.call_function("index_in", [words], pc.SetLookupOptions(_DICTIONARY))
    if codes.null_count:
        row = pc.index(codes.is_null(), True).as_py()
        raise DataError(
            f"{file}, row {first_row + row}: category is {words[row].as_py()!r}; "
            f"expected one of {', '.join(schema.CATEGORIES)}"
        )
    return pa.DictionaryArray.from_arrays(codes.cast(pa.int8()), _DICTIONARY)


def _names(files: Sequence[Path]) -> str:
    """Return the files in a message: the first, and how many more."""
    rest = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return f"{files[0]}{rest}"
