"""What steers a request is checked, and told in one line, before vLLM works on it."""

import json

import pytest
import torch

from hypersteer.config.vllm_plugin import PluginConfig
from hypersteer.edits.edit import Edit, VectorEdit
from hypersteer.edits.edit_set import EditSet
from hypersteer.edits.gated import GATED
from hypersteer.errors import CheckpointError, ConfigError, SteeringError
from hypersteer.serving.errors import Refused
from hypersteer.vllm_plugin.front import Front
from hypersteer.vllm_plugin.given import settings_of
from hypersteer.vllm_plugin.making import Making, New
from hypersteer.vllm_plugin.payload import KEY, Steered, decoded, encoded, packed
from hypersteer.vllm_plugin.table import Place
from vllm_plugin.places import STEER, front_of, saved


@pytest.fixture(scope="module")
def tiny_front(tmp_path_factory):
    return front_of(tmp_path_factory.mktemp("front"), settings={"layers": [2]})


def keep(front, name, edit):
    folder = front.config.limits.edits_folder
    folder.mkdir(exist_ok=True)
    return edit.save(folder / f"{name}.safetensors")


def test_a_request_travels_as_one_text(tiny_front):
    front, steerer, _ = tiny_front
    ids, extra = front.request("Why?", {"text": STEER[0], "strength": 0.5, "scope": "response"})
    assert ids == steerer.lm.chat.prompt("Why?").ids
    (part,) = decoded(extra[KEY])
    assert part == Steered(text=STEER[0], strength=0.5, scope="response")
    assert front.request("Why?", None) == (ids, {})
    assert front.request("Why?", {"text": STEER[0], "strength": 0})[1] == {}


def test_words_are_said_where_the_checkpoint_says_them(tiny_front):
    front, steerer, _ = tiny_front
    steering = {"text": STEER[0], "prompted": True}
    ids, _ = front.request("Why?", steering)
    assert len(ids) > len(steerer.lm.chat.prompt("Why?").ids)
    away, _ = front.request("Why?", {**steering, "strength": -1.0})
    assert away == steerer.lm.chat.prompt("Why?").ids


@pytest.mark.parametrize(
    ("steering", "told"),
    [
        (3, "is no text and no part"),
        ("  ", "is empty"),
        ({"text": "a", "edit": "b"}, "is one of text, edit, rule, rules"),
        (
            {"text": "a", "strenth": 1},
            "'steering.strenth' is not supported; did you mean 'strength",
        ),
        ({"text": "a", "strength": "much"}, "strength"),
        ({"text": "a", "scope": "promt"}, "scope"),
        ({"text": "a" * 3000}, "at most 2,000 are taken"),
        ({"edit": "nowhere"}, "no edit is stored as 'nowhere'"),
        ({"edit": "../model"}, "cannot name an edit"),
        ({"rule": "guard"}, "this server takes no rules"),
        (["a", "b", "c"], "3 parts steer; at most 2 are taken"),
    ],
)
def test_what_cannot_steer_is_told(tiny_front, steering, told):
    with pytest.raises((Refused, SteeringError), match=told) as caught:
        tiny_front[0].read(steering)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "payload",
    [
        *(None, 3, "", "x", "{}", "[3]", '[{"text": "a"}]', '[{"edit": "?", "strength": 1}]'),
        '[{"text": "a", "strength": NaN, "scope": "all"}]',
        "[" * 100_000,
        '[{"text": "a", "strength": 1, "scope": [true]}]',
    ],
)
def test_a_payload_that_no_front_made_is_refused(tiny_front, payload):
    with pytest.raises(SteeringError):
        tiny_front[0].salt(payload, [1, 2, 3], None)


def test_stored_edits(tiny_front):
    front, steerer, _ = tiny_front
    width, lm = steerer.lm.width, str(steerer.lm.identity)
    good = VectorEdit(vector=torch.ones(width), site=steerer.lm.site(2), base_lm=lm)
    keep(front, "good", good)
    ids, extra = front.request("Why?", {"edit": "good", "strength": 2.0})
    before = front.salt(extra[KEY], ids, None)
    keep(front, "good", 2.0 * good)
    after = front.request("Why?", {"edit": "good", "strength": 2.0})[1]
    assert front.salt(after[KEY], ids, None) != before, "another edit of the name, another salt"
    assert front.salt(extra[KEY], ids, None) == before, "what is under way stays what it was"

    def told(edit, error, match):
        keep(front, "bad", edit)
        with pytest.raises(error, match=match):
            front.read({"edit": "bad"})

    far = VectorEdit(vector=torch.ones(width), site=steerer.lm.site(3))
    told(far, SteeringError, "for which this server has no table")
    mask = VectorEdit(vector=torch.ones(width), site=steerer.lm.site(2), scope=(True, False))
    told(mask, SteeringError, "a mask of 2 tokens is not taken")
    wide = VectorEdit(vector=torch.ones(width + 1), site=steerer.lm.site(2))
    told(wide, SteeringError, f"has width {width + 1}")
    foreign = VectorEdit(vector=torch.ones(width), site=steerer.lm.site(2), base_lm="another")
    told(foreign, CheckpointError, "was made for the base LM another")


def test_an_edit_of_too_many_directions_is_refused(tmp_path):
    front, steerer, _ = front_of(tmp_path, edit="gated")
    shapes = GATED.shapes(steerer.lm.width, 5)
    params = {name: torch.ones(shape) for name, shape in shapes.items()}
    edit = Edit(kind=GATED, params=params, site=steerer.card.site)
    keep(front, "large", edit)
    with pytest.raises(SteeringError, match="5 directions, and this server takes 3"):
        front.read({"edit": "large"})


def test_settings():
    assert settings_of({}) == PluginConfig()
    assert settings_of({"hypersteer": {"layers": [3]}}).layers == (3,)
    with pytest.raises(ConfigError, match="unknown key 'layer'; did you mean 'layers'"):
        settings_of({"hypersteer": {"layer": [3]}})


def test_per_token_edits_are_refused_by_name(tmp_path):
    _, model, checkpoint = saved(tmp_path, edit="per-token")
    with pytest.raises(ConfigError, match="writes per-token edits"):
        Front(PluginConfig(checkpoint=str(checkpoint)), str(model))


@pytest.mark.parametrize("variant", ["no-context", "in-context", "cross-attention"])
@pytest.mark.parametrize("more", [(), (2, 3)])
def test_edits_of_new_requests_are_those_of_the_steerer(tmp_path, variant, more):
    """In one pass, though of the base LM only what the hypernetwork reads is left."""
    front, steerer, model = front_of(tmp_path, variant, more_layers=more, edit="gated")
    making = Making(front, str(model), device="cpu", dtype="float32")
    asked = [("Why?", STEER[0]), ("Tell me about the sea.", STEER[0]), ("Hi", STEER[1])]
    made = [front.request(prompt, text) for prompt, text in asked]
    rows = making.rows([New(extra[KEY], ids) for ids, extra in made])
    for (prompt, text), row in zip(asked, rows, strict=True):
        wanted = steerer.edit(text, prompt)
        parts = wanted.edits if isinstance(wanted, EditSet) else (wanted,)
        assert set(row.entries) == {Place(0, part.site, "gated") for part in parts}
        for part in parts:
            for name, value in part.params.items():
                found = row.entries[Place(0, part.site, "gated")].params[name]
                torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-5)
        assert row.prefix == steerer.lm.chat.prompt(prompt).prefix


def test_kept_edits_are_bounded_and_right(tmp_path):
    front, _, model = front_of(tmp_path, settings={"kept_edits": 2})
    making = Making(front, str(model), device="cpu", dtype="float32")
    ask = [New(encoded([Steered(text=text)]), [1, 2, 3]) for text in STEER]
    first = making.rows(ask)
    assert len(making._kept) == 2
    again = [making.rows([one])[0] for one in ask]
    for one, other in zip(first, again, strict=True):
        for place, entry in one.entries.items():
            found = other.entries[place].params["vector"]
            torch.testing.assert_close(found, entry.params["vector"], rtol=1e-5, atol=1e-5)


def test_a_stored_edit_reaches_its_place(tiny_front):
    front, steerer, model = tiny_front
    edit = VectorEdit(vector=torch.arange(32.0), site=steerer.lm.site(2), scope="last_prompt")
    payload = encoded([Steered(edit=packed(edit), strength=-2.0)])
    making = Making(front, str(model), device="cpu", dtype="float32")
    (row,) = making.rows([New(payload, [1, 2, 3])])
    entry = row.entries[Place(0, steerer.lm.site(2), "vector")]
    assert torch.equal(entry.params["vector"], torch.arange(32.0))
    assert (entry.strength, entry.scope) == (-2.0, "last_prompt")
    assert json.loads(payload)[0].keys() == {"edit", "strength"}
