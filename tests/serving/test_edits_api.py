"""Named edits over HTTP: made, listed, fetched, sent back, used and deleted."""

import pytest
import torch

import hypersteer as hs
import tiny
from serving.live import STEER, TEXTS, endless, live, words


@pytest.fixture
def own(tmp_path):
    with live({"tiny": endless()}, tmp_path / "edits") as server, server.client() as client:
        yield server, client, tmp_path


def test_an_edit_is_made_and_used_like_its_text(own):
    server, client, folder = own
    made = client.post("/v1/edits", json={"name": "pirate", "text": STEER[0]})
    assert made.status_code == 201
    assert made.json()["steering_prompt"] == STEER[0]
    found = server.chat(client, messages=TEXTS[1], steering={"edit": "pirate", "strength": 0.7})
    part = {"text": STEER[0], "strength": 0.7, "prompted": False}
    assert words(found) == words(server.chat(client, messages=TEXTS[1], steering=part))
    assert client.get("/v1/edits").json()["data"] == [made.json()]
    assert client.get("/v1/edits/pirate").json() == made.json()
    assert [path.name for path in (folder / "edits").iterdir()] == ["pirate.safetensors"]
    assert client.delete("/v1/edits/pirate").json()["deleted"]
    assert client.get("/v1/edits").json()["data"] == []
    assert client.get("/v1/edits/pirate").status_code == 404
    assert client.delete("/v1/edits/pirate").status_code == 404


def test_a_file_goes_out_and_comes_back(own):
    server, client, folder = own
    steerer = server.served["tiny"].steerer
    edit = steerer.edit(STEER[1])
    content = edit.save(folder / "sea.safetensors").read_bytes()
    assert client.put("/v1/edits/sea/file", content=content).status_code == 201
    assert client.get("/v1/edits/sea/file").content == content
    (folder / "back.safetensors").write_bytes(client.get("/v1/edits/sea/file").content)
    assert torch.equal(hs.load_edit(folder / "back.safetensors").vector, edit.vector)
    found = server.chat(client, messages=TEXTS[1], steering={"edit": "sea"})
    assert words(found) == steerer.generate(TEXTS[1], steer=edit, max_new_tokens=12)


def test_a_new_edit_of_the_name_is_seen_at_once(own):
    server, client, _ = own
    for steer in (STEER[0], STEER[1]):
        client.post("/v1/edits", json={"name": "one", "text": steer})
        steerer = server.served["tiny"].steerer
        found = server.chat(client, messages=TEXTS[1], steering={"edit": "one"})
        expected = steerer.generate(TEXTS[1], steer=steerer.edit(steer), max_new_tokens=12)
        assert words(found) == expected


def test_a_file_that_is_refused_leaves_the_edit_of_the_name(own):
    _, client, folder = own
    made = client.post("/v1/edits", json={"name": "sea", "text": STEER[1]}).json()
    content = client.get("/v1/edits/sea/file").content
    other = tiny.ending_with(tiny.lm_of("gpt2"))
    foreign = tiny.edit_of(other, tiny.site_of(other)).save(folder / "foreign.safetensors")
    for refused in (foreign.read_bytes(), b"no file"):
        assert client.put("/v1/edits/sea/file", content=refused).status_code == 400
        assert client.get("/v1/edits/sea").json() == made
        assert client.get("/v1/edits/sea/file").content == content


@pytest.mark.parametrize(
    "name", ["..", "a/b", "A", "", "a.b", "-a", "a" * 65, "ä", "%2e%2e%2fx", "con\n", "a b"]
)
def test_names_that_are_none(own, name):
    _, client, folder = own
    made = client.post("/v1/edits", json={"name": name, "text": "x"})
    assert made.status_code == 400
    assert "cannot name an edit" in made.json()["error"]["message"]
    assert not (folder / "edits").exists()


def test_files_that_are_no_edit(own):
    server, client, folder = own
    other = tiny.ending_with(tiny.lm_of("gpt2"))
    foreign = tiny.edit_of(other, tiny.site_of(other)).save(folder / "foreign.safetensors")
    for content in (b"", b"no file", b"\x80\x04pickle", foreign.read_bytes()):
        response = client.put("/v1/edits/bad/file", content=content)
        assert response.status_code == 400, content
        assert str(folder) not in response.text
    assert client.get("/v1/edits").json()["data"] == []
    assert list((folder / "edits").glob("*")) == []
    assert words(server.chat(client, messages="Hi"))


def test_rules_of_the_server_and_of_a_request(tmp_path):
    from gating import condition_at

    steerer = endless()
    condition_at(steerer.lm, 1, threshold=-1e9).save(tmp_path / "always.safetensors")
    settings = {
        "condition": (f"always={tmp_path / 'always.safetensors'}",),
        "steer": (f"turn={STEER[0]}",),
        "rule": ("guard=if always then turn",),
    }
    with live({"tiny": steerer}, tmp_path / "edits", **settings) as server:
        expected = steerer.generate(TEXTS[1], steer=STEER[0], max_new_tokens=12)
        found = server.chat(messages=TEXTS[1], steering={"rule": "guard"})
        assert words(found) == expected
        (answer,) = found.json()["steering"]["answers"]
        assert answer["decisions"][0]["edits"] == ["turn"]
        assert "tokens" not in answer["decisions"][0]
        told = server.chat(messages=TEXTS[1], steering={"rule": "guard", "tokens": True})
        (check,) = told.json()["steering"]["answers"][0]["decisions"]
        shares = [share for _, share in check["tokens"]["always"]]
        assert sum(shares) == pytest.approx(check["scores"]["always"], abs=1e-4)
        wrong = server.chat(messages="Hi", steering={"text": STEER[0], "tokens": True})
        assert wrong.status_code == 400
        assert "tokens goes with rules" in wrong.text
        for field, told in (
            ({"text": STEER[0], "check": 8}, "check goes with rules"),
            ({"rule": "guard", "check": 0}, "check"),
            ({"rule": "guard", "check": "sometimes"}, "check"),
        ):
            wrong = server.chat(messages="Hi", steering=field)
            assert wrong.status_code == 400
            assert told in wrong.text
        rules = {"rules": "if always then other", "edits": {"other": STEER[1]}}
        other = steerer.generate(TEXTS[1], steer=STEER[1], max_new_tokens=12)
        assert words(server.chat(messages=TEXTS[1], steering=rules)) == other
        never = {"rules": "if not always then other", "edits": {"other": STEER[1]}}
        plain = steerer.generate(TEXTS[1], max_new_tokens=12)
        assert words(server.chat(messages=TEXTS[1], steering=never)) == plain
