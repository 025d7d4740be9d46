"""How concept data grow: opening, splitting and batching 160, 1,600 and 16,000 concepts x 72 rows.

    python benchmarks/big_data.py [--concepts 160 1600 16000] [--dtype bfloat16]
        [--step-seconds 1.8]

Writes synthetic data in AxBench's layout (parquet files of 500 concepts each) into a temporary
folder, and measures each size in fresh processes: the first opening, which converts; then, with the
store dropped from the system's file cache, opening again, the split, the order of an epoch, and
batches of 8 and 32 rows. `cold` is the median over the first steps, read from disk, `warm` the same
steps again. A training step of the real base LM is timed in the same run unless its seconds are
given. The rival reads all files with pandas and concatenates them, as AxBench's loader does.

Seconds are those of the processor, so that a busy machine matters little; openings are also given
by the wall clock. Resident memory is the peak of the process (VmHWM; the kernel's ru_maxrss of a
child would include its parent's). It counts pages of the mapped store, which the system takes back
when it needs them; `own memory` counts what it cannot.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

EACH = 72
ROTATE = 500
"""Concepts of one file, as in AxBench."""
SCHEMA = pa.schema(
    [
        ("input", pa.string()),
        ("output", pa.string()),
        ("output_concept", pa.string()),
        ("concept_genre", pa.string()),
        ("category", pa.string()),
        ("dataset_category", pa.string()),
        ("concept_id", pa.int64()),
    ]
)
TARGETS = "targets: opening under 10 s, at most 1,536 MiB resident, at most 2 % of a step on data"


def make_sentences(
    random: np.random.Generator, vocabulary: np.ndarray, count: int, words: int
) -> np.ndarray:
    """Sentences of about so many words, drawn as often as they stand in the vocabulary."""
    lengths = random.poisson(words, count).clip(3)
    pieces = np.split(random.choice(vocabulary, lengths.sum()), np.cumsum(lengths)[:-1])
    return np.array([" ".join(piece).capitalize() + "." for piece in pieces], dtype=object)


def make_data(folder: Path, concepts: int, seed: int = 0) -> None:
    """Write `train_data*.parquet` and `metadata.jsonl`.

    The words and their frequencies are those of the bundled responses. 15,000 instructions are
    shared between concepts, as in AxBench, which draws them from one list; responses are 3 to 9 of
    60,000 sentences, about 90 words, where AxBench has 128 tokens.
    """
    from hypersteer.data.locate import locate

    (file,) = locate("bundled", "train").files
    responses = [json.loads(line)["output"] for line in file.read_text("utf-8").splitlines()]
    vocabulary = np.array(" ".join(responses).lower().split(), dtype=object)
    random = np.random.default_rng(seed)
    sentences = make_sentences(random, vocabulary, 60_000, 15)
    instructions = make_sentences(random, vocabulary, 15_000, 14)
    texts = make_sentences(random, vocabulary, concepts, 9)
    genres = random.choice(["text", "code", "math"], concepts, p=[0.75, 0.15, 0.1])
    folder.mkdir(parents=True)
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as lines:
        for id_, (text, genre) in enumerate(zip(texts, genres, strict=True)):
            entry = {"concept_id": id_, "concept": text, "ref": f"https://example.org/{id_}"}
            lines.write(json.dumps(entry | {"concept_genres_map": {text: [genre]}}) + "\n")
    for number, first in enumerate(range(0, concepts, ROTATE)):
        ids = np.repeat(np.arange(first, min(first + ROTATE, concepts)), EACH)
        ends = np.cumsum(random.integers(3, 10, len(ids)))
        said = np.split(sentences[random.integers(0, len(sentences), ends[-1])], ends[:-1])
        columns = {
            "input": random.choice(instructions, len(ids)),
            "output": [" ".join(part) for part in said],
            "output_concept": texts[ids],
            "concept_genre": genres[ids],
            "category": pa.repeat("positive", len(ids)),
            "dataset_category": pa.repeat("instruction", len(ids)),
            "concept_id": ids,
        }
        name = f"train_data_{number}.parquet" if number else "train_data.parquet"
        pq.write_table(pa.table(columns, schema=SCHEMA), folder / name)


def memory(field: str) -> float:
    """A field of this process's memory, MiB: `VmHWM` (peak resident) or `RssAnon` (own, now)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def timed(job: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of a job, all threads together, and what it gives."""
    start = time.process_time()
    result = job()
    return time.process_time() - start, result


def child_first(task: dict[str, Any]) -> dict[str, float]:
    """The first opening, with conversion."""
    from hypersteer.data.sources import load_concepts

    floor = memory("VmHWM")
    start = time.perf_counter()
    seconds, _ = timed(lambda: load_concepts(task["folder"]))
    wall = time.perf_counter() - start
    return {"seconds": seconds, "wall": wall, "peak": memory("VmHWM"), "floor": floor}


def child_again(task: dict[str, Any]) -> dict[str, float]:
    """Opening a converted store, and all that a training run does with it."""
    from transformers import AutoTokenizer

    from hypersteer.data.batches import Tokenised, TrainingBatches
    from hypersteer.data.sources import load_concepts
    from hypersteer.data.splits import split_rows
    from hypersteer.lm.chat import Chat

    tokenizer: Any = AutoTokenizer.from_pretrained(task["tokenizer"])
    chat = Chat(tokenizer, task["end_of_turn"])
    found = {"floor": memory("VmHWM"), "own floor": memory("RssAnon")}
    start = time.perf_counter()
    found["open"], data = timed(lambda: load_concepts(task["folder"]))
    found["wall"] = time.perf_counter() - start
    limits = {"max_concepts": None, "max_examples_per_concept": None}
    found["split"], split = timed(lambda: split_rows(data, held_out_concepts=40, **limits, seed=0))
    tokens = Tokenised(data, chat, max_prompt_tokens=256, max_response_tokens=128)
    for size in (8, 32):
        batches = TrainingBatches(tokens, split.train, split.train_concepts, size, seed=size)
        found[f"order {size}"], _ = timed(lambda b=batches: b.batch(0))
        found[f"steps {size}"] = batches.per_epoch
        for pass_ in ("cold", "warm"):
            steps = range(1, min(task["steps"] + 1, batches.per_epoch))
            taken = [timed(lambda b=batches, s=step: b.batch(s))[0] for step in steps]
            found[f"{pass_} {size}"] = statistics.median(taken)
    found |= {"peak": memory("VmHWM"), "own": memory("RssAnon") - found["own floor"]}
    for column in data._parts[0].columns.values():
        for buffer in (b for chunk in column.chunks for b in chunk.buffers() if b):
            np.frombuffer(buffer, np.uint8)[::4096].sum()
    return found | {"whole": memory("VmHWM")}


def child_pandas(task: dict[str, Any]) -> dict[str, float]:
    """The rival: every file read and joined."""
    import pandas as pd  # type: ignore[import-not-found]

    floor = memory("VmHWM")
    files = sorted(Path(task["folder"]).glob("*.parquet"))
    start = time.perf_counter()
    seconds, frame = timed(lambda: pd.concat([pd.read_parquet(f) for f in files]))
    wall = time.perf_counter() - start
    assert len(frame) == task["rows"]
    return {"seconds": seconds, "wall": wall, "peak": memory("VmHWM"), "floor": floor}


def fresh(task: dict[str, Any], cache: Path) -> dict[str, float] | None:
    """Run one of the children in a process of its own; None if it lacks pandas."""
    command = [sys.executable, __file__, "--child", json.dumps(task)]
    environment = {**os.environ, "HYPERSTEER_CACHE": str(cache)}
    if task["child"] == "pandas" and task["pandas"]:
        environment["PYTHONPATH"] = task["pandas"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if "No module named 'pandas'" in done.stderr:
        return None
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def forget(folder: Path) -> None:
    """Drop the files of a folder from the system's file cache, so that they are read from disk."""
    for path in folder.rglob("*.arrow"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def size(folder: Path, concepts: int, task: dict[str, Any]) -> dict[str, Any]:
    """All figures of one size."""
    written, _ = timed(lambda: make_data(folder / "data", concepts))
    task = task | {"folder": str(folder / "data"), "rows": concepts * EACH}
    files = [*(folder / "data").glob("*.parquet")]
    found: dict[str, Any] = {"written": written, "rows": concepts * EACH, "files": len(files)}
    found["megabytes"] = sum(path.stat().st_size for path in files) / 1e6
    found["first"] = fresh(task | {"child": "first"}, folder)
    forget(folder)
    found["again"] = fresh(task | {"child": "again"}, folder)
    found["pandas"] = fresh(task | {"child": "pandas"}, folder)
    return found


def step_seconds(dtype: str, batch: int, repeats: int) -> float:
    """Seconds of a training step without the contrastive term, the shortest that there is."""
    from training_step import Bench

    bench = Bench(dtype, batch, tokens=190, layer=12, blocks=4)
    bench.ours()
    return statistics.median(timed(bench.ours)[0] for _ in range(repeats))


def lines(found: dict[str, Any], steps: dict[int, float]) -> dict[str, str]:
    """One column of the table."""
    first, again, rival = found["first"], found["again"], found["pandas"]
    cells = {
        "rows": f"{found['rows']:,}",
        "parquet files": f"{found['files']}, {found['megabytes']:.0f} MB",
        "first opening, with conversion, s (wall)": f"{first['seconds']:.2f} ({first['wall']:.2f})",
        "opening again, from disk, s (wall)": f"{again['open']:.2f} ({again['wall']:.2f})",
        "split, s": f"{again['split']:.2f}",
    }
    for batch, seconds in steps.items():
        cold, warm = again[f"cold {batch}"], again[f"warm {batch}"]
        order = again[f"order {batch}"] - cold
        share = (cold + order / again[f"steps {batch}"]) / seconds
        cells[f"order of an epoch, batch {batch}, s"] = f"{order:.2f}"
        cells[f"batch of {batch}, cold / warm, ms"] = f"{1e3 * cold:.1f} / {1e3 * warm:.1f}"
        cells[f"share of a step of {seconds:.2f} s (batch {batch})"] = f"{share:.2%}"
    cells |= {
        "resident before anything is opened, MiB": f"{again['floor']:.0f}",
        "peak resident, first opening, MiB": f"{first['peak']:.0f}",
        "peak resident, training, MiB": f"{again['peak']:.0f}",
        "the same with every row read, MiB": f"{again['whole']:.0f}",
        "own memory beyond the start, MiB": f"{again['own']:.0f}",
    }
    if rival:
        cells["pandas: all files, s (wall)"] = f"{rival['seconds']:.2f} ({rival['wall']:.2f})"
        cells["pandas: peak resident (start), MiB"] = f"{rival['peak']:.0f} ({rival['floor']:.0f})"
    return cells


def main() -> None:
    children = {"first": child_first, "again": child_again, "pandas": child_pandas}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--concepts", type=int, nargs="+", default=[160, 1600, 16000])
    parser.add_argument("--steps", type=int, default=200, help="steps that are timed")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--step-seconds", type=float, help="of a batch of 8, instead of measuring")
    parser.add_argument("--repeats", type=int, default=3, help="training steps that are timed")
    parser.add_argument("--pandas", help="folder that pandas is installed in, if not here")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        task = json.loads(args.child)
        print(json.dumps(children[task["child"]](task)))
        return
    from hypersteer.lm.load import load_lm
    from timing import machine, table

    given = args.step_seconds
    steps = {
        b: given * b / 8 if given else step_seconds(args.dtype, b, args.repeats) for b in (8, 32)
    }
    chat = load_lm("smollm2-135m-instruct").chat
    columns = []
    with tempfile.TemporaryDirectory() as folder:
        chat.tokenizer.save_pretrained(f"{folder}/tokenizer")
        task = {"tokenizer": f"{folder}/tokenizer", "end_of_turn": chat.end_of_turn}
        task |= {"steps": args.steps, "pandas": args.pandas}
        for concepts in args.concepts:
            found = size(Path(folder, str(concepts)), concepts, task)
            columns.append(lines(found, steps))
    print(f"{machine()}; {TARGETS}\n")
    headings = ["", *(f"{concepts:,} concepts" for concepts in args.concepts)]
    table(headings, [[name, *(column[name] for column in columns)] for name in columns[0]])


if __name__ == "__main__":
    main()
