"""An evaluation with the real base LM and its own judge, through the public name."""

import pyarrow.parquet as pq

import hypersteer as hs
from e2e.real import REAL
from hypersteer.config import DataConfig, LMConfig, ProtocolConfig
from hypersteer.lm.bfloat16 import bf16_is_faster

pytestmark = REAL


METHODS = ("unsteered", "prompting", "diffmean")


def test_methods_side_by_side(tmp_path):
    config = hs.EvaluateConfig(
        out=str(tmp_path / "out"),
        base_lm=LMConfig(device="cpu", dtype="bfloat16" if bf16_is_faster() else "float32"),
        data=DataConfig(source=("bundled",), held_in_prompts=1, max_examples_per_concept=4),
        methods=("prompting", "diffmean"),
        protocol=ProtocolConfig(
            held_in_concepts=2,
            held_out_concepts=1,
            prompts=2,
            strengths=(0.1, 2.0),
            max_new_tokens=12,
            temperature=0.0,
            gap_rows=1,
            skill_items=10,
            refusal_requests=5,
        ),
    )
    result = hs.evaluate(config)
    rows = pq.read_table(result.rows).to_pylist()
    assert len(rows) == 6 + 6 + 8  # three concepts twice, and two concepts at two strengths
    for row in rows:
        assert not row["error"]
        assert all(0 <= row[f"{name}_score"] <= 2 for name in ("concept", "instruction", "fluency"))
        assert row["concept_reason"]
    by_method = {
        (row["method"], row["concept_id"], row["prompt_id"], row["strength"]): row for row in rows
    }
    for (method, concept, prompt, strength), row in by_method.items():
        plain = by_method["unsteered", concept, prompt, None]
        if method == "prompting":
            assert row["given"] != row["instruction"] == plain["instruction"]
            assert row["response"] != plain["response"]
        if strength == 2.0:  # twice the largest activation: far from what the base LM would say
            assert row["response"] != plain["response"]
            assert row["nll"] > plain["nll"] + 1
    report = result.markdown.read_text(encoding="utf-8")
    assert "likelihood (smollm2-135m-instruct" in report.replace("\\", "")
    assert "diffmean" in report
    assert "Skill kept" in report
    kept = {name: pq.read_table(result.folder / "skills" / f"{name}.parquet") for name in METHODS}
    assert all(len(table) == 10 for table in kept.values())
    solved = {name: sum(table["counted"].to_pylist()) for name, table in kept.items()}
    assert solved["unsteered"] > 0
    assert len(pq.read_table(result.folder / "refusals" / "prompting.parquet")) == 5
