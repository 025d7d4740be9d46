"""Whether bfloat16 is worth it on this processor, which its instructions alone do not say."""

import time
from functools import cache

import torch
from torch import nn

TRIES = 30
ROWS, INPUTS, OUTPUTS = 128, 512, 1024
"""Large enough to be what training does, small enough that most tries are not interrupted."""


@cache
def bf16_is_faster() -> bool:
    """Return whether this processor multiplies bfloat16 faster than float32; measured once.

    Without the instructions bfloat16 takes up to 100 times as long. Having them is not enough:
    Intel's AVX-512 without AMX takes 1.3 to 1.9 times as long with them (measured), AMD's is
    faster, and AMX several times so. Compared is the processor time of the best of some tries,
    which other work on the machine hardly moves.
    """
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return False
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # those that wait for another would count what that one waits for
    try:
        return _seconds(torch.bfloat16) < _seconds(torch.float32)
    finally:
        torch.set_num_threads(threads)


def _seconds(dtype: torch.dtype) -> float:
    """Return the processor time of one matrix product, in this thread."""
    rows, weight = (torch.ones(count, INPUTS, dtype=dtype) for count in (ROWS, OUTPUTS))
    tries = []
    for _ in range(TRIES):
        begun = time.thread_time()
        nn.functional.linear(rows, weight)
        tries.append(time.thread_time() - begun)
    return min(tries)
