"""`hypersteer demo` with a tiny base LM and two steps."""

from hypersteer.cli.demo import BUNDLED, LEARNT, SHOWN, demo_config
from hypersteer.data.sources import load_concepts


def test_trains_shows_and_next_time_only_shows(run, fails, tmp_path, tiny_lm):
    argv = ["demo", "--out", tmp_path / "demo", "--lm", tiny_lm]
    code, first, err = run(*argv, "--steps", "2")
    assert code == 0
    assert "training for 2 steps" in err
    for prompt, steering in SHOWN:
        assert prompt in first
        assert f"steering prompt: {steering}" in first
    assert first.count("NOT in training") == 1
    assert f"hypersteer chat {tmp_path / 'demo'}" in first

    code, second, err = run(*argv, "--steps", "2")
    assert (code, second) == (0, first)
    assert "holds the finished run" in err
    assert "training on" not in err

    assert "holds a run with other settings" in fails(*argv, "--steps", "3")


def test_shows_unseen_prompts_and_one_held_out_steering_prompt():
    data = load_concepts("bundled")
    assert len(data.concepts) == BUNDLED
    ids = {concept.text: concept.id for concept in data.concepts}
    seen = set(data.prompts(range(len(data))))
    assert not seen & {prompt for prompt, _ in SHOWN}
    held_out = demo_config().data.held_out_concepts
    assert set(held_out) | set(LEARNT) == set(ids.values())
    assert [ids[steering] in held_out for _, steering in SHOWN] == [False, False, False, True]


def test_bad_input(run, fails, tmp_path):
    out = ["--out", tmp_path / "demo"]
    assert "optim.steps 0 is below 1" in fails("demo", *out, "--steps", "0")
    code, shown, told = run("demo", *out, "--lm", "smollm2-135m-instrct")
    assert (code, shown) == (2, "")
    assert told.splitlines()[-1].startswith("error: unknown base LM 'smollm2-135m-instrct'")
    assert not (tmp_path / "demo").exists()
