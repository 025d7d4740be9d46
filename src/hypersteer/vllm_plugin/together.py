"""Calls that go together: what is asked while one is under way waits, and goes in the next."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Told = TypeVar("Told")


class Together(Generic[Asked, Told]):
    """Asks for several at once; belongs to one event loop.

    Args:
        call: returns the answers to some questions, in their order.
    """

    def __init__(self, call: Callable[[Sequence[Asked]], Awaitable[Sequence[Told]]]) -> None:
        self._call = call
        self._waiting: list[tuple[Asked, asyncio.Future[Told]]] = []
        self._task: asyncio.Task[None] | None = None

    async def ask(self, one: Asked) -> Told:
        """Return the answer to a question; what the call raises goes to all that it was for."""
        future: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        self._waiting.append((one, future))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                # Whoever gave up meanwhile is left out.
                await self._tell([one for one in waiting if not one[1].done()])
        finally:
            self._task = None

    async def _tell(self, waiting: Sequence[tuple[Asked, asyncio.Future[Told]]]) -> None:
        if not waiting:
            return
        try:
            answers = await self._call([asked for asked, _ in waiting])
            found = list(zip(waiting, answers, strict=True))
        except Exception as error:  # told to whoever asked
            for _, future in waiting:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), answer in found:
            if not future.done():
                future.set_result(answer)
