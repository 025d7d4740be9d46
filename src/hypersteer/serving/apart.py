"""Work on tensors in threads that end.

OpenMP keeps a pool of threads for every thread that has worked on tensors, as long as that lives.
Once the pools together hold more threads than there are processors, all of them sleep between two
operations, and each token takes a third longer. So what is not the answers themselves is done in a
thread that takes its pool along when it is done.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def run_apart(function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """Return what a function returns, run in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args, **options).result()


async def apart(function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """Return what a function returns, run in a thread of its own, while others are served."""
    pool = ThreadPoolExecutor(1)
    try:
        return await asyncio.wrap_future(pool.submit(function, *args, **options))
    finally:
        pool.shutdown(wait=False)
