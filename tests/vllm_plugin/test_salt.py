"""Two requests share blocks of the prefix cache only if the same tokens have the same states."""

import pytest

from hypersteer.vllm_plugin.payload import Steered, encoded
from hypersteer.vllm_plugin.salt import LEAD, clients_salt, salt_of

IDS = list(range(40))


def salt(text="pirate", strength=1.0, scope="all", ids=IDS, whole=False, own=None, **more):
    payload = encoded([Steered(text=text, scope=scope, strength=strength)])
    given = {"generator": "abc", "prefix": 3, **more}
    return salt_of(payload, scopes=[scope], ids=ids, whole=whole, own=own, **given)


def test_what_differs_in_its_states_differs_in_its_salt():
    ways = [
        {},
        {"text": "doctor"},
        {"strength": 0.5},
        {"strength": -1.0},
        {"scope": "everywhere"},
        {"generator": "abd"},
        {"prefix": 4},
        {"own": "tenant"},
    ]
    assert len({salt(**way) for way in ways}) == len(ways)
    assert salt() == salt()


def test_requests_with_one_edit_share_their_prefix():
    assert salt(ids=IDS) == salt(ids=[*IDS, 7, 8])


@pytest.mark.parametrize("scope", ["prompt", "response", "last_prompt", "prompt_ends"])
def test_a_scope_that_ends_with_the_prompt_is_shared_by_prompts_of_one_length(scope):
    """Tokens that are the answer in one request are the prompt in the next turn."""
    assert salt(scope=scope, ids=IDS) != salt(scope=scope, ids=[*IDS, 7])
    assert salt(scope=scope, ids=IDS) == salt(scope=scope, ids=[*IDS[:-1], 99])


def test_an_edit_for_a_prompt_is_shared_by_that_prompt_alone():
    assert salt(whole=True) != salt(whole=True, ids=[*IDS[:-1], 99])
    assert salt(whole=True) == salt(whole=True)


def test_vllm_takes_it():
    """At most 128 characters, none of `@ / \\ NUL`."""
    assert salt().startswith(LEAD)
    assert len(salt()) <= 128
    assert not set("@/\\\0") & set(salt())


def test_no_client_can_name_a_salt_of_ours():
    assert clients_salt(None) is None
    assert clients_salt("tenant") == "tenant"
    stolen = clients_salt(salt())
    assert stolen is not None
    assert not stolen.startswith(LEAD)
