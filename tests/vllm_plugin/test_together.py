"""What is asked while a call is under way goes in the next one, together."""

import asyncio

import pytest

from hypersteer.vllm_plugin.together import Together


class Slow:
    """Doubles numbers, one call after the other, each as long as it is held."""

    def __init__(self):
        self.calls = []
        self.held = asyncio.Event()

    async def __call__(self, asked):
        self.calls.append(list(asked))
        await self.held.wait()
        if 13 in asked:
            raise ValueError("unlucky")
        return [2 * one for one in asked]


async def begun(together, numbers):
    tasks = []
    for one in numbers:
        tasks.append(asyncio.create_task(together.ask(one)))
        for _ in range(5):
            await asyncio.sleep(0)
    return tasks


def test_what_comes_meanwhile_goes_together():
    async def run():
        slow = Slow()
        together = Together(slow)
        tasks = await begun(together, [1, 2, 3, 4])
        assert slow.calls == [[1]]
        slow.held.set()
        assert await asyncio.gather(*tasks) == [2, 4, 6, 8]
        assert slow.calls == [[1], [2, 3, 4]]
        assert await together.ask(5) == 10, "and once more when nothing was left"

    asyncio.run(run())


def test_who_gives_up_is_left_out_and_holds_nobody_up():
    async def run():
        slow = Slow()
        together = Together(slow)
        tasks = await begun(together, [1, 2, 3])
        tasks[0].cancel()
        tasks[1].cancel()
        slow.held.set()
        assert await tasks[2] == 6
        assert slow.calls == [[1], [3]]
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]

    asyncio.run(run())


def test_a_fault_goes_to_those_of_its_call_alone():
    async def run():
        slow = Slow()
        together = Together(slow)
        tasks = await begun(together, [1, 13, 2])
        slow.held.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert found[0] == 2
        assert all(isinstance(one, ValueError) for one in found[1:])
        assert await together.ask(4) == 8

    asyncio.run(run())
