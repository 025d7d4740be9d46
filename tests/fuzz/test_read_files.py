"""Files and folders that are cut, changed or of another kind, at the commands that read them."""

from pathlib import Path

from hypothesis import given as cases
from hypothesis import strategies as st

from fuzz.cases import fuzzing
from fuzz.hostile import spoilt
from fuzz.world import SMALL, check_command, given, given_folder, workplace


def readers(world):
    """What reads each kind of file: the good one, how it is spoilt, and the command."""
    use = ("generate", "Hi.", "--max-new-tokens", "2", "--lm", world.model)
    mine = (*use, "--checkpoint", world.checkpoint)
    lm = ("--base-lm.name", world.model)
    distil = ("concepts", "distil", "--out", "made", *lm, "--response-tokens", "2", "--tried", "1")
    distil += ("--kept", "1", "--instructions")
    train = ("train", *lm, *SMALL, "--out", "made", "--data.held-out-concepts", "1")
    fit = ("conditions", "fit", "--lm", world.model, "--out", "c.safetensors")
    evaluate = ("evaluate", *lm, "--data.source", world.data, "--out", "made")
    evaluate += ("--data.held-out-concepts", "1")
    evaluate += ("--protocol.held-in-concepts", "1", "--protocol.prompts", "2")
    evaluate += ("--protocol.max-new-tokens", "2", "--protocol.strengths", "1")
    evaluate += ("--protocol.skill-items", "1", "--protocol.refusal-requests", "0")
    evaluate += ("--compare-to", "unsteered", "--judge.kind", "llm")
    evaluate += ("--judge.base-url", world.server)
    rule = (*mine, "--rule", "if sea then x", "--edit", f"x={world.edit}", "--condition")
    targets = ("--hypernet.variant", "no-context", "--loss.objective", "reconstruction")
    return [
        (world.edit, "edit", lambda path: (*mine, "--edit", path)),
        (world.condition, "condition", lambda path: (*rule, f"sea={path}")),
        (world.condition, "condition", lambda path: ("conditions", "show", path, "--layers")),
        (world.prompts, "", lambda path: (*mine, "--prompts-file", path)),
        (
            world.settings,
            "toml",
            lambda path: ("train", path, *train[1:], "--data.source", world.data),
        ),
        (world.settings, "toml", lambda path: (*evaluate[:1], path, *evaluate[1:])),
        (world.labelled, "lines", lambda path: (*fit[:2], path, *fit[2:])),
        (world.labelled, "lines", lambda p: ("conditions", "test", world.condition, p, *fit[2:4])),
        (world.concepts, "", lambda path: (*distil[:2], path, *distil[2:], world.instructions)),
        (world.listed, "lines", lambda path: (*distil[:2], path, *distil[2:], world.instructions)),
        (world.features, "json", lambda p: (*distil[:2], p, *distil[2:], world.instructions)),
        (
            world.instructions,
            "lines",
            lambda path: (*distil[:2], world.concepts, *distil[2:], path),
        ),
        (
            world.instructions,
            "lines",
            lambda p: (*evaluate, "--methods", "prompting", "--protocol.instructions", p),
        ),
        (
            world.calibration,
            "json",
            lambda p: (*evaluate[:-4], "--methods", "random", "--judge.calibration", p),
        ),
        (
            world.targets,
            "tensors",
            lambda path: (*train, "--data.source", world.data, *targets, "--loss.targets", path),
        ),
        (world.checkpoint / "config.json", "json", lambda path: (use[0], path.parent, *use[1:])),
        (world.checkpoint / "config.json", "json", lambda path: ("concepts", path.parent)),
        (
            world.checkpoint / "model.safetensors",
            "tensors",
            lambda p: (*use, "--checkpoint", p.parent),
        ),
        (world.data / "metadata.jsonl", "lines", lambda p: (*train, "--data.source", p.parent)),
        (world.data / "metadata.jsonl", "lines", lambda p: ("concepts", p.parent, "--json")),
        (world.data / "train_data.jsonl", "lines", lambda p: (*train, "--data.source", p.parent)),
        (world.data / "train_data.jsonl", "lines", lambda p: ("concepts", p.parent)),
        (
            world.data / "latent_eval_data.parquet",
            "",
            lambda p: ("concepts", p.parent, "--split", "test", "--examples", "2"),
        ),
    ]


@fuzzing(0.2)
@cases(st.data())
def test_files_are_read_or_told(world, data):
    number = data.draw(st.integers(0, len(readers(world)) - 1), label="reader")
    good, kind, command = readers(world)[number]
    content = data.draw(spoilt(good, kind))
    with workplace(world) as place:
        if good.parent == world.folder:
            path = given(place, good.name, content)
        else:
            path = given_folder(place, good.parent, good.name, content) / good.name
        check_command([str(word) for word in command(Path(path))])
