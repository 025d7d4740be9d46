"""The public functions with values of any kind: they work, or raise our error in one line."""

from collections.abc import Callable

from hypothesis import given, note
from hypothesis import strategies as st

import hypersteer as hs
from fuzz.cases import fuzzing
from fuzz.hostile import any_text, json_value, mutated, no_path, python_number, python_value
from fuzz.world import check_call, workplace
from hypersteer.config import from_dict, to_dict
from hypersteer.config.conditions import ConditionConfig
from hypersteer.config.synthesis import DistillationConfig, SynthesisConfig
from hypersteer.edits.registry import KINDS

CONFIGS = (
    hs.TrainConfig,
    hs.EvaluateConfig,
    ConditionConfig,
    DistillationConfig,
    SynthesisConfig,
)
GRAMMAR = ["if", "then", "and", "or", "not", "(", ")", "sea", "x", ",", ";", "\n", "1", "é"]
steers = st.one_of(any_text, st.none(), python_value)
paths = st.one_of(no_path, st.sampled_from(["a.safetensors", ".", "~/x", "deep/a"]), python_value)
prompts = st.one_of(any_text, st.lists(any_text, max_size=3), python_value)
strengths = st.one_of(st.just(1.0), python_number)
rule_texts = st.one_of(st.lists(st.sampled_from(GRAMMAR)).map(" ".join), any_text, python_value)


def decoding(draw) -> dict:
    found = {"max_new_tokens": draw(st.sampled_from([1, 2, 2, 2, 0, "3", None, 2.5, 10**30]))}
    for name in ("temperature", "top_p", "seed"):
        if draw(st.integers(0, 3)) == 0:
            found[name] = draw(python_number)
    return found


def steering(world, draw) -> dict[str, Callable[[], object]]:
    """Calls that steer."""
    steerer, lm, edit = world.steerer, world.lm, hs.load_edit(world.edit)
    edits = st.sampled_from([edit, None, "sing", 3])
    given_edit = st.one_of(edits, st.tuples(edits, strengths), st.lists(edits, max_size=2))
    several = st.one_of(st.lists(given_edit, max_size=3), python_value)
    listed = st.one_of(st.lists(python_number, max_size=2), python_value)

    def edited() -> None:
        with lm.edited(draw(given_edit), edits=draw(several), strength=draw(listed)):
            lm.model(lm.tokenizer("the sea", return_tensors="pt")["input_ids"])

    return {
        "edited": edited,
        "several": lambda: steerer.generate(
            ["Hi.", "Why?"],
            steer=[draw(given_edit), draw(steers)],
            edits=draw(several),
            strength=draw(listed),
            max_new_tokens=2,
        ),
        "settings of rows": lambda: lm.generate(
            ["Hi.", "Why?"],
            max_new_tokens=draw(st.sampled_from([2, [1, 2], [1], (2, 0), "2"])),
            temperature=draw(listed),
            stop=draw(st.one_of(st.none(), st.lists(st.one_of(any_text, st.lists(any_text))))),
        ),
        "generate": lambda: steerer.generate(
            draw(prompts), steer=draw(steers), strength=draw(strengths), **decoding(draw)
        ),
        "rows": lambda: steerer.generate(
            ["Hi.", draw(any_text)],
            steer=["sing", draw(steers)],
            strength=[1.0, draw(strengths)],
            **decoding(draw),
        ),
        "scope": lambda: steerer.generate(
            "Hi.", steer="sing", scope=draw(python_value), max_new_tokens=2
        ),
        "stream": lambda: list(steerer.stream(draw(prompts), steer=draw(steers), **decoding(draw))),
        "edit": lambda: steerer.edit(draw(steers), prompt=draw(prompts)),
        "lm.generate": lambda: lm.generate(draw(prompts), edit=draw(edits), **decoding(draw)),
        "lm.stream": lambda: list(lm.stream(draw(prompts), edit=draw(edits), **decoding(draw))),
        "fit_condition": lambda: hs.fit_condition(
            lm, draw(st.lists(prompts, max_size=4)), ["a", "b", "c"], name=draw(any_text)
        ),
    }


def reading(world, draw) -> dict[str, Callable[[], object]]:
    """Calls that take names of files, folders and models."""
    model, edit = str(world.model), hs.load_edit(world.edit)
    return {
        "load_lm": lambda: hs.load_lm(draw(paths)),
        "load_lm how": lambda: hs.load_lm(model, device=draw(any_text), dtype=draw(any_text)),
        "load": lambda: hs.load(draw(paths), lm=world.lm),
        "load_edit": lambda: hs.load_edit(draw(paths)),
        "load_condition": lambda: hs.load_condition(draw(paths)),
        "load_concepts": lambda: hs.load_concepts(draw(paths), split=draw(any_text)),
        "save": lambda: edit.save(draw(paths)),
        "save checkpoint": lambda: world.steerer.save(draw(paths)),
        "load_lm more": lambda: hs.load_lm(
            model, revision=draw(any_text), attn_implementation=draw(any_text)
        ),
        "save condition": lambda: hs.load_condition(world.condition).save(draw(paths)),
    }


def values(world, draw) -> dict[str, Callable[[], object]]:
    """Calls that make values."""
    edit, sea = hs.load_edit(world.edit), hs.load_condition(world.condition)
    kinds = st.sampled_from(CONFIGS)
    return {
        "VectorEdit": lambda: hs.VectorEdit(
            vector=draw(python_value),
            site=draw(st.sampled_from([hs.Site(1), 1, None])),
            scope=draw(python_value),
            steering_prompt=draw(steers),
        ),
        "Edit": lambda: hs.Edit(
            kind=draw(st.sampled_from([*KINDS.values(), "vector", None])),
            params=draw(
                st.one_of(
                    st.dictionaries(
                        st.sampled_from(["vector", "up", "down", "bias"]), python_value
                    ),
                    python_value,
                )
            ),
            site=hs.Site(1),
        ),
        "Site": lambda: hs.Site(draw(python_value), draw(python_value)),
        "scaled": lambda: edit.__mul__(draw(python_number)),
        "Condition": lambda: hs.Condition(
            name=draw(python_value),
            directions=[[1.0, 2.0]],
            means=draw(st.sampled_from([[[0.0, 1.0]], [], "x", None])),
            fitted=draw(st.sampled_from([(1,), [1], 3, ("a",)])),
            layers=(1,),
            threshold=draw(python_number),
            release=draw(python_number),
        ),
        "rules": lambda: hs.rules(
            draw(rule_texts),
            conditions={"sea": sea, draw(any_text): draw(python_value)},
            edits={"x": edit, draw(any_text): draw(steers)},
            check=draw(st.one_of(st.just("prompt"), python_value)),
            order=draw(st.one_of(st.just("all"), python_value)),
        ),
        "from_dict": lambda: from_dict(draw(kinds), draw(json_value)),
        "mutated": lambda: from_dict(kind := draw(kinds), draw(mutated(to_dict(kind())))),
        "config": lambda: to_dict(
            draw(st.sampled_from(CONFIGS[:2]))(
                seed=draw(python_value), out=draw(python_value), base_lm=draw(python_value)
            )
        ),
    }


@fuzzing(0.2)
@given(st.data())
def test_functions_work_or_raise_our_error(world, data):
    def draw(strategy):
        value = data.draw(strategy)
        note(f"{value!r}")
        return value

    calls = steering(world, draw) | reading(world, draw) | values(world, draw)
    name = data.draw(st.sampled_from(sorted(calls)), label="function")
    with workplace(world):
        check_call(calls[name])
