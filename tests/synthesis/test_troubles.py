"""What goes wrong in a build, and builds other than from a list: drops, errors, themes, locally."""

import json
from collections import Counter

import pyarrow.parquet as pq
import pytest

from endpoint.server import refused, said
from hypersteer.data.sources import load_concepts
from hypersteer.errors import ConfigError, DataError, EndpointError, ModelError
from hypersteer.locks import hold
from hypersteer.synthesis.build import build
from synthesis.teachers import CONCEPTS, prose, settings, step_of, teach, write_list


def table(folder, name):
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


def test_dropped_responses_are_asked_again_and_told(server, listed, silent, tmp_path):
    seen, spoilt = Counter(), {}

    def script(asked):
        text = asked.text
        seen[text] += 1
        if step_of(text) != "positive" or "pirate" not in text:
            return teach(asked)
        order = spoilt.setdefault(text, len(spoilt))
        bad = {
            0: "I'm sorry, but I can't help with that.",
            1: "Arr.",
            2: "go round " * 20,
            3: "Talk like a pirate: talk, pirate, talk!",
        }
        if order == 4:  # hopeless
            return said("As an AI language model, I cannot do that.")
        return said(bad[order]) if order in bad and seen[text] == 1 else teach(asked)

    server.script = script
    config = settings(tmp_path / "data", server, concepts=listed, teacher={"concurrency": 1})
    report = build(config, console=silent).report
    stage = report["stages"]["positives"]
    assert (stage["wanted"], stage["kept"]) == (18, 17)
    assert stage["dropped"] == {
        "refusal": 1 + 3,
        "too short": 1,
        "looping text": 1,
        "echoes the concept": 1,
    }
    assert report["missing"] == [{"concept_id": 0, "stage": "positives", "missing": 1}]
    assert len(report["examples"]["refusal"]) == 3
    assert report == json.loads((tmp_path / "data" / "report.json").read_text())
    samples = Counter(
        origin["sample"]
        for origin in table(tmp_path / "data", "provenance")
        if (origin["concept_id"], origin["category"]) == (0, "positive")
    )
    assert samples == {0: 1, 1: 4}


def test_the_same_words_again_are_near_duplicates(server, listed, silent, tmp_path):
    def script(asked):
        if step_of(asked.text) == "negative" and "pirate" in asked.text:
            return said(f"{prose('the same')} {asked.number}")
        return teach(asked)

    server.script = script
    report = build(settings(tmp_path / "d", server, concepts=listed), console=silent).report
    stage = report["stages"]["negatives"]
    assert stage == {"wanted": 24, "kept": 17, "dropped": {"near-duplicate": 7 * 3}}


def test_no_usable_response_is_an_error_that_names_the_report(server, listed, silent, tmp_path):
    server.script = lambda asked: said("I'm sorry, but I can't help with that.")
    with pytest.raises(DataError, match=r"no usable response came for the train .*report\.json"):
        build(settings(tmp_path / "d", server, concepts=listed), console=silent)
    assert [path.name for path in (tmp_path / "d").glob("*.*")] == ["report.json"]
    stage = json.loads((tmp_path / "d" / "report.json").read_text())["stages"]["positives"]
    assert stage["dropped"] == {"refusal": 18 * 3}


def test_a_dead_teacher_stops_the_build_in_one_line(server, listed, silent, tmp_path):
    server.script = lambda asked: refused(401, "who are you")
    with pytest.raises(EndpointError, match="who are you"):
        build(settings(tmp_path / "d", server, concepts=listed), console=silent)
    assert len(server.asked) == 1


def test_nothing_is_asked_without_consent(server, listed, tmp_path):
    config = settings(tmp_path / "d", server, concepts=listed)
    assert build(config, confirm=lambda estimate: False) is None
    assert not server.asked
    assert not (tmp_path / "d").exists()


def test_concepts_invented_for_a_theme(server, silent, tmp_path):
    batches = iter(
        [
            "Here they are:\n1. storms at sea\n2. Storms at sea.\n3. calm harbours\n",
            "- the storms at sea\n- fog over the water\n- gulls",
            "- storms at sea",
            "",
            "- calm harbours",
        ]
    )
    server.script = lambda a: (
        said(next(batches) or "?") if step_of(a.text) == "invent" else teach(a)
    )
    config = settings(tmp_path / "d", server, theme="moods of the sea", invent=9)
    result = build(config, console=silent)
    invented = [concept.text for concept in load_concepts(str(result.folder)).concepts]
    assert invented[:4] == ["storms at sea", "calm harbours", "fog over the water", "gulls"]
    asked = [text for text in server.texts if step_of(text) == "invent"]
    assert "Invent 9 concepts" in asked[0]
    assert "Invent 7 concepts" in asked[1]
    assert "- calm harbours" in asked[1]
    count = len(server.asked)
    build(config, console=silent)
    assert len(server.asked) == count


def test_the_base_lm_as_teacher(model, lm, listed, silent, tmp_path):
    changes = {
        "concepts": listed,
        "response_tokens": 16,
        "filters": {"min_words": 0, "attempts": 1},
        "counts": {"test_negatives": 1, "hard_negatives": 0, "pool_negatives": 1},
    }
    made = []
    for name, batch in (("one", 3), ("two", 16)):
        teacher = {"kind": "local", "batch_size": batch}
        config = settings(tmp_path / name, None, model, teacher=teacher, **changes)
        made.append(build(config, lm=lm, console=silent))
    rows = [table(result.folder, "train_data") for result in made]
    assert rows[0] == rows[1], "a response does not depend on what is written beside it"
    outputs = [row["output"] for row in rows[0] if row["category"] == "positive"]
    assert len(set(outputs)) == len(outputs) >= 10
    assert made[0].usage.output_tokens > 0
    assert {origin["teacher"] for origin in table(made[0].folder, "provenance")} == {
        f"{lm.name} ({lm.fingerprint})"
    }


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"concepts": None}, ConfigError, "concepts None and theme None"),
        ({"theme": "x"}, ConfigError, "give one of them"),
        ({"concepts": "list.csv"}, ConfigError, "'list.csv' ends in none of .txt"),
        ({"concepts": "none.txt"}, DataError, "cannot read the concepts 'none.txt'"),
        ({"concepts": "EMPTY"}, DataError, "holds no concepts"),
        ({"instructions": "dolly"}, ConfigError, "instructions 'dolly' is unknown"),
        ({"instructions": "none.jsonl"}, DataError, "cannot read the instructions"),
        (
            {"counts": {"train_positives": 31}},
            DataError,
            "30 of genre code for the train split, but 31 are wanted: lower counts.train_positives",
        ),
        ({"counts": {"test_negatives": 400}}, DataError, "lower counts.test_negatives"),
        ({"out": "FILE/d"}, DataError, "cannot write to"),
        ({"out": "FILE"}, ConfigError, "other files; choose another out"),
        ({"out": "OTHERS"}, ConfigError, "other files; choose another out"),
        ({"base_lm": {"name": "smollm2-135m-instrct"}}, ModelError, "did you mean"),
        ({"teacher": {"base_url": "localhost"}}, ConfigError, "does not start with http"),
    ],
)
def test_bad_input_is_told_before_anything_is_asked(
    changes, error, told, server, listed, silent, tmp_path
):
    (tmp_path / "EMPTY.txt").write_text("\n# nothing\n")
    (tmp_path / "FILE").write_text("")
    (tmp_path / "OTHERS").mkdir()
    (tmp_path / "OTHERS" / "thesis.tex").write_text("x")
    if changes.get("concepts") == "EMPTY":
        changes = {"concepts": str(tmp_path / "EMPTY.txt")}
    out = tmp_path / changes.get("out", "d")
    base = {"concepts": listed}
    config = settings(out, server, **base | {k: v for k, v in changes.items() if k != "out"})
    with pytest.raises(error, match=told) as raised:
        build(config, console=silent)
    assert "\n" not in str(raised.value)
    assert not server.asked


def test_a_folder_in_use_is_told(server, listed, silent, tmp_path):
    server.script = teach
    config = settings(tmp_path / "data", server, concepts=listed)
    told = r"data' is in use by process \d+ on "
    with hold(tmp_path / "data"), pytest.raises(ConfigError, match=told):
        build(config, console=silent)
    assert not server.asked


def test_a_folder_of_another_build_is_refused(server, listed, silent, tmp_path):
    out = tmp_path / "d"
    build(settings(out, server, concepts=listed), console=silent)
    before = len(server.asked)
    other = str(write_list(tmp_path / "other.jsonl", CONCEPTS[:2]))
    for changes, told in (
        ({"seed": 6}, "another seed"),
        ({"concepts": other}, "another list of concepts"),
        ({"counts": {"test_negatives": 9}}, r"another counts\.test_negatives"),
        ({"teacher": {"model": "big"}}, r"another teacher\.model"),
    ):
        with pytest.raises(ConfigError, match=told):
            build(settings(out, server, **{"concepts": listed, **changes}), console=silent)
    free = {"teacher": {"concurrency": 2, "threads": 1}, "judge": {"threads": 1}}
    build(settings(out, server, concepts=listed, **free), console=silent)
    assert len(server.asked) == before
