"""`hypersteer concepts`, of data and of checkpoints."""


def test_bundled_concepts(run):
    code, out, err = run("concepts", "--limit", "248")
    assert (code, err) == (0, "")
    assert out.startswith("bundled: 248 concepts, 1,656 rows")
    assert len(out.splitlines()) == 2 + 248
    assert "talk like a pirate" in out


def test_limit_and_examples(run):
    out = run("concepts", "bundled", "--limit", "2", "--examples", "1")[1]
    assert out.count("> ") == 2
    assert "and 246 more; list them with --limit 248" in out


def test_json(run, json_lines):
    lines = json_lines(run("concepts", "--json", "--examples", "2")[1])
    assert len(lines) == 248
    first = lines[0]
    assert [len(example) for example in first.pop("examples")] == [2, 2]
    assert first == {"id": 0, "kind": "persona", "rows": 12, "text": "talk like a pirate"}


def test_checkpoint(run, checkpoint, json_lines):
    lines = json_lines(run("concepts", checkpoint, "--json")[1])
    assert [line["training"] for line in lines] == ["trained on", "trained on", "held out"]
    assert lines[-1]["text"] == "answer as a hard-boiled film-noir detective"
    out = run("concepts", checkpoint)[1]
    assert "2 concepts trained on and 1 held out" in out
    assert lines[0]["text"] in out


def test_bad_input(fails, checkpoint, tiny_lm, tmp_path):
    assert "there is no concept data source 'bundeld'" in fails("concepts", "bundeld")
    assert "has no train split" in fails("concepts", tmp_path)
    assert "is no hypersteer checkpoint" in fails("concepts", tiny_lm)
    assert "--limit 0 is below 1" in fails("concepts", "--limit", "0")
    assert "--examples -1" in fails("concepts", "--examples", "-1")
    assert "holds no examples" in fails("concepts", checkpoint, "--examples", "1")
    (tmp_path / "train_data.jsonl").write_text("")
    assert "has no test split" in fails("concepts", tmp_path, "--split", "test")
    assert "'tain'" in fails("concepts", "--split", "tain")
