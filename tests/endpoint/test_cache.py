"""The cache of replies: what it keeps apart, several processes, and a damaged file."""

import os
import sqlite3
import sys
from contextlib import ExitStack

import pytest

from children import Child
from hypersteer.endpoint.cache import FILE, cache_key, open_cache
from hypersteer.endpoint.replies import Reply
from hypersteer.endpoint.settings import EndpointConfig
from hypersteer.errors import EndpointError

ASK = [{"role": "user", "content": "a"}]


def test_a_second_run_sends_nothing(server, endpoint):
    first = endpoint().complete([ASK])
    asking, finished = endpoint(), []
    assert asking.complete([ASK], done=finished.append) == first
    assert len(server.asked) == 1
    assert finished == [1]
    assert (asking.usage.calls, asking.usage.cache_hits, asking.usage.input_tokens) == (0, 1, 0)
    endpoint(cache=False).complete([ASK])
    assert len(server.asked) == 2


def test_a_reply_is_kept_for_exactly_what_it_depends_on():
    def key(messages=ASK, sample=0, **settings):
        return cache_key(EndpointConfig(**settings), messages, sample)

    different = [
        key(),
        key(sample=1),
        key(model="other"),
        key(temperature=0.7),
        key(temperature=None),
        key(max_tokens=9),
        key(seed=1),
        key(seed=1, own_seeds=True),
        key([{"role": "system", "content": "a"}]),
        key([*ASK, *ASK]),
    ]
    assert len(set(different)) == len(different)
    # Where and how fast a model is asked changes nothing, nor does the order of a message's keys.
    assert key() == key(base_url="http://elsewhere/v1", concurrency=2, retries=0, timeout_s=1.0)
    assert key() == key([{"content": "a", "role": "user"}], temperature=0)


def test_several_processes_share_a_new_file(cache):
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from hypersteer.endpoint.cache import open_cache\n"
        "from hypersteer.endpoint.replies import Reply\n"
        "name = sys.argv[1]\n"
        f"for n in range(40):\n    with open_cache(Path({str(cache)!r})) as cache:\n"
        "        cache.put(f'{name}{n}', Reply(name, n, 1))\n"
        "        cache.put('shared', Reply('same'))\n"
    )
    with ExitStack() as stack:
        command = [sys.executable, "-c", code]
        children = [stack.enter_context(Child([*command, name])) for name in "abc"]
    assert [child.returncode for child in children] == [0, 0, 0]
    with open_cache(cache) as kept:
        for name in "abc":
            assert [kept.get(f"{name}{n}") for n in range(40)] == [
                Reply(name, n, 1) for n in range(40)
            ]
        assert kept.get("shared") == Reply("same")


def test_a_damaged_file_is_told(server, endpoint, cache):
    endpoint().complete([ASK])
    path = cache / FILE
    for extra in cache.glob(f"{FILE}-*"):
        extra.unlink()
    path.write_bytes(b"no database at all, but long enough to look like one. " * 20)
    with pytest.raises(EndpointError) as raised:
        endpoint().complete([ASK])
    assert f"the reply cache '{path}' is damaged" in str(raised.value)
    assert "delete it" in str(raised.value)
    assert len(server.asked) == 1, "nothing is asked before the cache is known to work"


def test_a_table_of_another_shape_is_told(server, endpoint, cache):
    cache.mkdir()
    with sqlite3.connect(cache / FILE) as connection:
        connection.execute("CREATE TABLE replies (key TEXT)")
    connection.close()
    with pytest.raises(EndpointError, match="cannot use the reply cache"):
        endpoint().complete([ASK])


@pytest.mark.skipif(os.name != "posix", reason="a file in place of a folder")
def test_a_folder_that_cannot_be_made_is_told(server, endpoint, cache):
    cache.write_text("a file")
    with pytest.raises(EndpointError, match="HYPERSTEER_CACHE"):
        endpoint().complete([ASK])
    assert server.asked == []
