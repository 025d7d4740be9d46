"""Folders of base LMs with one file that is cut, changed or of another kind."""

from hypothesis import given
from hypothesis import strategies as st

from fuzz.cases import fuzzing
from fuzz.hostile import spoilt
from fuzz.world import check_command, given_folder, workplace

MODEL_FILES = {
    "config.json": "json",
    "generation_config.json": "json",
    "tokenizer.json": "json",
    "tokenizer_config.json": "json",
    "chat_template.jinja": "",
    "model.safetensors": "tensors",
}


@fuzzing(0.1)
@given(st.data())
def test_models_are_loaded_or_told(world, silent_libraries, data):
    name = data.draw(st.sampled_from(sorted(MODEL_FILES)), label="file")
    content = data.draw(spoilt(world.model / name, MODEL_FILES[name]))
    use = ("generate", "Hi.", "--max-new-tokens", "2", "--checkpoint", world.checkpoint, "--lm")
    with workplace(world) as place:
        folder = given_folder(place, world.model, name, content)
        check_command([str(word) for word in (*use, folder)])
    silent_libraries.clear()  # transformers has its own words on what it finds odd
