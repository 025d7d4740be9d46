"""Files of a large build, the estimate against what is really asked, and the teacher's usage."""

import dataclasses

import pyarrow.parquet as pq
import pytest

from hypersteer.concepts import Concept
from hypersteer.data.sources import load_concepts
from hypersteer.endpoint.replies import Failed, Usage
from hypersteer.errors import ConfigError
from hypersteer.synthesis.build import build
from hypersteer.synthesis.dataset import Authors, write_dataset
from hypersteer.synthesis.folder import BuildFolder
from hypersteer.synthesis.stages import SENTINEL
from hypersteer.synthesis.teacher import Ask, LocalTeacher, open_teacher
from synthesis.teachers import COUNTS, settings, step_of


def written(split, number, concept):
    return {
        "split": split,
        "instruction": f"{split} question {number}",
        "response": f"answer {number}",
        "genre": "text",
        "source": "file",
        "output_concept": concept,
        "complete": number % 2 == 0,
        "sample": 0,
    }


def test_above_500_concepts_the_files_rotate(tmp_path):
    folder = BuildFolder(settings(tmp_path / "d", theme="x"), {})
    folder.start()
    concepts = [Concept(id=i, text=f"concept {i}") for i in range(502)]
    for concept in concepts:
        rows = [written(split, concept.id, concept.text) for split in ("train", "test")]
        folder.keep("positives", concept.id, {"rows": rows})
    folder.keep("pool", "math", {"rows": [written("train", 9000, SENTINEL)]})
    write_dataset(folder, concepts, Authors("t", "b", 1))
    sizes = {path.name: pq.read_metadata(path).num_rows for path in folder.path.glob("*.parquet")}
    assert sizes == {
        "train_data.parquet": 501,
        "train_data_1.parquet": 2,
        "latent_eval_data.parquet": 500,
        "latent_eval_data_1.parquet": 2,
        "provenance.parquet": 1005,
    }
    data = load_concepts(str(folder.path))
    assert data.example(502).response == "answer 501"
    assert data.example(502).complete is False
    assert data.example(501).complete is True
    origins = pq.read_table(folder.path / "provenance.parquet").to_pylist()
    assert origins[502]["row"] == 502
    assert origins[502]["concept_id"] == 501
    assert not list(folder.path.glob("*.tmp"))


def test_the_estimate_counts_what_is_really_asked(server, listed, silent, tmp_path):
    seen = []
    config = settings(
        tmp_path / "d",
        server,
        concepts=listed,
        teacher={"input_price": 10.0, "output_price": 100.0},
    )
    result = build(config, confirm=lambda e: not seen.append(e), console=silent)
    calls = {stage.name: stage.calls for stage in seen[0].stages}
    asked = [step_of(text) for text in server.texts]
    assert calls["genres"] == asked.count("genre") == 2
    assert calls["positives"] == asked.count("positive") == 18
    assert calls["negatives"] == asked.count("negative") == 24
    assert calls["hard negatives: words"] == asked.count("words") == 3
    assert calls["hard negatives: meanings"] == asked.count("meaning") == 9
    assert asked.count("distinct") == 6 <= calls["hard negatives: distinct"] == 9
    assert asked.count("hard") == 3 <= calls["hard negatives"] <= 9
    assert seen[0].calls == sum(calls.values())
    stages = {stage.name: stage for stage in seen[0].stages}
    lengths = [len(text) for text in server.texts if step_of(text) == "positive"]
    real = sum(lengths) / len(lengths) / 4
    assert stages["positives"].sent == pytest.approx(real, rel=0.25)
    sent = sum(stage.calls * stage.sent for stage in seen[0].stages)
    received = sum(stage.calls * stage.received for stage in seen[0].stages)
    assert seen[0].dollars == pytest.approx((sent * 10 + received * 100) / 1e6)
    used = result.usage
    assert used.calls == len(asked)
    assert (used.input_tokens, used.output_tokens) == (10 * len(asked), 5 * len(asked))
    assert used.cost == pytest.approx((used.input_tokens * 10 + used.output_tokens * 100) / 1e6)
    assert result.report["usage"] == dataclasses.asdict(used)


def test_decisions_are_greedy_and_writing_is_not(server, listed, silent, tmp_path):
    config = settings(
        tmp_path / "d", server, concepts=listed, teacher={"temperature": 0.8, "send_seed": True}
    )
    build(config, console=silent)
    for asked in server.asked:
        writes = step_of(asked.text) in ("positive", "negative", "hard")
        assert asked.body["temperature"] == (0.8 if writes else 0.0)
        assert asked.body["seed"] == 5


def test_hard_negatives_can_be_left_out(server, listed, silent, tmp_path):
    counts = {**COUNTS, "hard_negatives": 0, "test_negatives": 0, "pool_negatives": 0}
    result = build(settings(tmp_path / "d", server, concepts=listed, counts=counts), console=silent)
    assert {step_of(text) for text in server.texts} == {"genre", "positive"}
    assert len(load_concepts(str(result.folder), split="test")) == 6


def test_the_local_teacher_answers_each_request_by_itself(lm):
    def teacher(size):
        return LocalTeacher(lm, temperature=1.0, max_tokens=12, batch_size=size, seed=0)

    def ask(text, **more):
        return Ask([{"role": "user", "content": text}], **more)

    asks = [ask("one"), ask("two words"), ask("one", sample=1), ask("one", decide=True)]
    finished = []
    together, alone = teacher(8), teacher(1)
    replies = together.complete(asks, finished.append)
    assert sum(finished) == 4
    assert [reply.text for reply in replies] == [
        alone.complete([one], finished.append)[0].text for one in asks
    ]
    assert replies[0].text != replies[2].text
    greedy = lm.generate([[{"role": "user", "content": "one"}]], max_new_tokens=64)
    assert [replies[3].text] == greedy
    assert together.usage.calls == 4
    assert together.usage.output_tokens == sum(reply.output_tokens for reply in replies)
    assert together.usage.cost is None
    long, short = together.complete([ask("x" * 5000), ask("one")], finished.append)
    assert isinstance(long, Failed)
    assert "context window" in long.error
    assert short.text == replies[0].text


def test_the_local_teacher_answers_without_thoughts(lm, monkeypatch):
    monkeypatch.setattr(type(lm.chat), "decode", lambda *_: "Hm, text.\n</think>\n\nAye.")
    teacher = LocalTeacher(lm, temperature=1.0, max_tokens=2, batch_size=2, seed=0)
    asks = [Ask([{"role": "user", "content": "one"}], decide=decide) for decide in (True, False)]
    assert [reply.text for reply in teacher.complete(asks, lambda _: None)] == ["Aye."] * 2


def test_settings_that_do_not_go_together():
    with pytest.raises(ConfigError, match=r"teacher\.kind 'local' is the base LM"):
        settings("d", theme="x", teacher={"kind": "local"})
    with pytest.raises(ConfigError, match="nobody to answer the shared negatives"):
        settings("d", theme="x", counts={"pool_negatives": 3})
    with pytest.raises(ConfigError, match="set both or neither"):
        settings("d", theme="x", teacher={"input_price": 3.0})
    with pytest.raises(ConfigError, match=r"filters\.max_echo 2\.0"):
        settings("d", theme="x", filters={"max_echo": 2.0})
    with pytest.raises(ConfigError, match=r"filters\.attempts 0 is below 1"):
        settings("d", theme="x", filters={"attempts": 0})


def test_nothing_is_used_before_anything_is_asked(server):
    assert open_teacher(settings("d", server, theme="x"), None, []).usage == Usage()
