"""The command line with hostile words: it works, or says in one line why not."""

from hypothesis import given, note
from hypothesis import strategies as st

from fuzz.cases import fuzzing
from fuzz.hostile import any_number, any_text, no_path
from fuzz.world import SMALL, check_command, workplace

BRIEF = ("--max-new-tokens", "2")
WORD = object()
"""Stands for a hostile text; `NUMBER`, `INPUT` and `OUTPUT` for a number and for paths."""
NUMBER, INPUT, OUTPUT = object(), object(), object()


def commands(world):
    """Commands of every kind, with places for hostile words; what comes after wins."""
    use = ("--checkpoint", world.checkpoint, "--lm", world.model)
    lm = ("--base-lm.name", world.model)
    data = ("--data.source", world.data)
    build = ("concepts", "build", world.concepts, "--out", "made", "--instructions")
    build = (*build, world.instructions, "--teacher.kind", "local", *lm)
    build += ("--counts.train-positives", "1", "--counts.test-positives", "1")
    build += ("--counts.test-negatives", "0", "--counts.hard-negatives", "0")
    build += ("--counts.pool-negatives", "1", "--response-tokens", "4", "--filters.attempts", "1")
    distil = ("concepts", "distil", world.concepts, "--out", "made", "--instructions")
    distil = (*distil, world.instructions, *lm, "--response-tokens", "4", "--tried", "1")
    evaluate = ("evaluate", *lm, *data, "--out", "made", "--judge.kind", "llm")
    evaluate += (
        "--methods",
        "random",
        "--compare-to",
        "unsteered",
        "--data.held-out-concepts",
        "1",
    )
    evaluate += ("--judge.base-url", world.server, "--protocol.instructions", world.instructions)
    evaluate += ("--protocol.held-in-concepts", "1", "--protocol.held-out-concepts", "0")
    evaluate += ("--protocol.prompts", "2", "--protocol.max-new-tokens", "2")
    evaluate += ("--protocol.strengths", "1", "--protocol.gap-rows", "1")
    evaluate += ("--protocol.skill-items", "1", "--protocol.refusal-requests", "0")
    train = ("train", *lm, *data, "--out", "made", *SMALL, "--data.held-out-concepts", "1")
    targets = ("--hypernet.variant", "no-context", "--loss.objective", "reconstruction")
    targets += ("--loss.targets",)
    two = ("conditions", "fit", "--lm", world.model, "--out", "c.safetensors")
    fit = ("conditions", "fit", world.labelled, "--lm", world.model, "--out", "c.safetensors")
    rule = ("generate", *use, *BRIEF, "Hi.", "--rule", "if sea then x", "--condition")
    rule += (f"sea={world.condition}", "--edit", f"x={world.edit}")
    generate = ("generate", *use, *BRIEF)
    return [
        (WORD, WORD),
        ("generate", WORD, *BRIEF),
        ("generate", WORD, WORD, *BRIEF),
        (*generate, WORD),
        (*generate, WORD, WORD, "--json"),
        (*generate, WORD, "--steer", WORD, "--strength", NUMBER),
        (*generate, WORD, "--steer", "sing", "--compare"),
        (*generate, "Hi.", "--steer", WORD, "--save-edit", OUTPUT),
        (*generate, "Hi.", "--edit", INPUT),
        (*generate, "--prompts-file", INPUT),
        (*generate, "Hi.", "--checkpoint", INPUT),
        (*generate, "Hi.", "--lm", INPUT),
        (*generate, "Hi.", "--lm", WORD),
        (*generate, "Hi.", "--seed", NUMBER, "--temperature", NUMBER, "--top-p", NUMBER),
        (*generate, "Hi.", "--max-new-tokens", NUMBER),
        (*generate, "Hi.", "--batch-size", NUMBER, "--json"),
        (*generate, "Hi.", "--dtype", WORD),
        (*generate, "Hi.", "--device", WORD),
        (*rule, "--rule", WORD),
        (*rule, "--check", NUMBER),
        (*rule, "--condition", WORD, "--steer", WORD),
        ("chat", "--lm", world.model, "--steer", WORD, "--strength", NUMBER),
        ("chat", INPUT),
        ("concepts", WORD),
        ("concepts", "axbench:concept10/2b/l20"),
        ("concepts", INPUT, "--limit", NUMBER, "--examples", NUMBER),
        ("concepts", world.data, "--split", WORD),
        (*build, "--seed", NUMBER),
        (*build, "--out", OUTPUT),
        (*build, "--instructions", INPUT),
        ("concepts", "build", INPUT),
        (
            "concepts",
            "build",
            "--theme",
            WORD,
            "--teacher.base-url",
            WORD,
            "--teacher.retries",
            "0",
        ),
        (*distil, "--seed", NUMBER),
        (*distil, "--guidance", NUMBER, "--temperature", NUMBER),
        ("concepts", "distil", WORD, *lm),
        (*train, "--out", OUTPUT),
        (*train, "--seed", NUMBER),
        (*train, "--base-lm.name", INPUT),
        (*train, "--data.source", WORD),
        (*train, "--data.held-out-concepts", NUMBER),
        (*train, "--site.layer", NUMBER),
        (*train, "--optim.learning-rate", NUMBER, "--optim.clip", NUMBER),
        (*train, "--optim.warmup-steps", NUMBER, "--optim.weight-decay", NUMBER),
        (
            *train,
            "--hypernet.variant",
            "no-context",
            "--loss.objective",
            "reconstruction",
            "--loss.targets",
            INPUT,
        ),
        (*train, "--loss.contrast", NUMBER, "--loss.contrast-beta", NUMBER),
        (*train, "--data.max-prompt-tokens", NUMBER, "--data.max-response-tokens", NUMBER),
        ("train", INPUT, *lm, *data, *SMALL),
        (*evaluate, "--methods", WORD),
        (*evaluate, "--methods", "prompting", "--out", OUTPUT),
        (*evaluate, "--methods", "random", "--protocol.strengths", NUMBER),
        (*evaluate, "--methods", "diffmean", "--seed", NUMBER),
        (*evaluate, "--methods", "prompting", "--judge.base-url", WORD, "--judge.model", WORD),
        (*evaluate, "--methods", "prompting", "--protocol.instructions", INPUT),
        (*evaluate, "--methods", INPUT),
        (
            *evaluate,
            "--methods",
            "prompting",
            "--judge.kind",
            "likelihood",
            "--judge.calibration",
            INPUT,
        ),
        ("evaluate", INPUT, *lm, *data),
        (*fit, "--out", OUTPUT),
        (*fit, "--seed", NUMBER, "--folds", NUMBER),
        (*fit, "--layers", NUMBER, "--false-positives", NUMBER),
        (*fit, "--name", WORD),
        ("conditions", "fit", INPUT, "--out", "c.safetensors", "--lm", world.model),
        (*two, "--in", INPUT, "--off", INPUT),
        ("conditions", "test", world.condition, INPUT, "--lm", world.model),
        ("conditions", "test", INPUT, world.labelled, "--lm", world.model),
        ("conditions", "show", INPUT),
        ("conditions", WORD),
        ("models", WORD),
        ("models", "get", WORD),
        ("models", "get", "gemma-3-270m", WORD),
        ("models", "remove", WORD),
        ("models", "--json"),
        ("demo", "--out", OUTPUT, "--lm", world.model, "--steps", "1", "--seed", NUMBER),
    ]


def inputs(world):
    """Paths to read: of other kinds of files and folders, or of none at all."""
    there = [path for path in world.folder.rglob("*") if "trainer" not in path.parts]
    there += [world.checkpoint, world.edit, world.settings, world.labelled, world.data] * 5
    return st.one_of(st.sampled_from([*map(str, there), ".", "/", "missing", "/dev/null"]), no_path)


OUTPUTS = st.one_of(
    no_path, st.sampled_from(["new", "deep/er/new", ".", "x" * 240, "a b.safetensors"])
)
VARIABLES = ("HYPERSTEER_CACHE", "HYPERSTEER_AXBENCH", "HYPERSTEER_ALPACA_EVAL")
VALUES = no_path.filter(lambda path: "\0" not in path and "\ud800" not in path)


@fuzzing(0.5)
@given(st.data())
def test_commands_work_or_say_why_not(world, monkeypatch, data):
    argv = data.draw(st.sampled_from(commands(world)), label="command")
    kinds = {WORD: any_text, NUMBER: any_number, INPUT: inputs(world), OUTPUT: OUTPUTS}
    words = [data.draw(kinds[word]) if type(word) is object else str(word) for word in argv]
    if data.draw(st.integers(0, 9)) == 0:
        words.insert(data.draw(st.integers(0, len(words))), data.draw(any_text))
    note(f"{words}")
    stdin = data.draw(st.lists(any_text, max_size=3), label="typed")
    monkeypatch.setattr("sys.stdin", Typed("\n".join(stdin).encode("utf-8", "surrogatepass")))
    variables = data.draw(st.dictionaries(st.sampled_from(VARIABLES), VALUES, max_size=1))
    with workplace(world, variables if data.draw(st.integers(0, 9)) == 0 else {}):
        check_command(words)


class Typed:
    """A standard input that is no terminal."""

    def __init__(self, content: bytes) -> None:
        self.buffer = iter(content.splitlines(keepends=True))

    def isatty(self) -> bool:
        return False

    def readline(self) -> str:
        return ""
