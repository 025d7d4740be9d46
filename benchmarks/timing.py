"""Shared by the benchmarks: interleaved timing, real rows, a plain table."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping

import torch

from hypersteer.data.sources import load_concepts
from hypersteer.lm.base import BaseLM
from hypersteer.lm.chat import PromptIds

Job = Callable[[], object]


def medians(jobs: Mapping[str, Job], repeats: int) -> dict[str, float]:
    """Median seconds of each job; the jobs take turns, so that a busy machine hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for job in jobs.values():
        job()
    for _ in range(repeats):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}


def machine() -> str:
    """One line about where this runs."""
    return (
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, bf16 native: {torch.cpu._is_avx512_bf16_supported()}"
    )


def real_rows(lm: BaseLM, count: int, tokens: int) -> list[tuple[PromptIds, list[int], list[int]]]:
    """Prompt, response and steering prompt of bundled rows, joined to about `tokens` a row."""
    data = load_concepts("bundled")
    rows = []
    for concept in data.concepts[:count]:
        examples = data.examples(data.rows(concept.id)[:6])
        prompt = lm.chat.prompt(examples[0].prompt)
        response = lm.chat.response("\n\n".join(e.response for e in examples))
        rows.append((prompt, response[: tokens - len(prompt.ids)], lm.chat.text(concept.text)))
    return rows


def table(headings: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table."""
    print("| " + " | ".join(headings) + " |")
    print("|" + "---|" * len(headings))
    for row in rows:
        print("| " + " | ".join(row) + " |")
