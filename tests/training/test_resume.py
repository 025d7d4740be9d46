"""Invariant 8: a run cut off at any moment goes on to the same weights, bit for bit.

Also what stops a run (a NaN loss, a full disk, too little memory), and that it harms no checkpoint.
"""

import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from children import Child
from hypersteer import checkpoint, steering
from hypersteer.config import to_dict
from hypersteer.errors import CheckpointError, ConfigError, TrainingError
from hypersteer.hypernet.card import read_card
from hypersteer.training import loop, objectives
from hypersteer.training.loop import train
from training.worlds import metrics, settings, step_lines, validation_lines

CHILD = Path(__file__).with_name("child.py")


def tensors(out, step):
    """All that a checkpoint knows as numbers."""
    folder = out / f"checkpoints/step-{step:07d}"
    return {
        f"{name}: {key}": value
        for name in ("model.safetensors", "trainer/optimizer.safetensors")
        for key, value in load_file(folder / name).items()
    }


def assert_same_run(out, straight, steps=12):
    """The same weights, optimizer, progress and metrics, whatever happened on the way."""
    ours, theirs = tensors(out, steps), tensors(straight, steps)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key].dtype == value.dtype, key
        assert torch.equal(ours[key], value), key
    progress = [
        json.loads((run / f"checkpoints/step-{steps:07d}/trainer/progress.json").read_text())
        for run in (out, straight)
    ]
    assert progress[0] == progress[1]
    assert [line["step"] for line in step_lines(out)] == list(range(1, steps + 1))
    assert without_speed(metrics(out)) == without_speed(metrics(straight))
    # What a user loads is the best checkpoint, whole.
    assert read_card(out).step == read_card(straight).step
    ours, theirs = (load_file(run / "model.safetensors") for run in (out, straight))
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    for folder in (".", "checkpoints"):  # and nothing is left lying about
        names = [sorted(p.name for p in (run / folder).iterdir()) for run in (out, straight)]
        assert names[0] == names[1]


def without_speed(lines):
    return [{k: v for k, v in line.items() if k != "tokens_per_s"} for line in lines]


@pytest.fixture(scope="module")
def configure(world):
    """Settings with contrast, accumulation, warm-up, decay, prior and style: all with state."""

    def build(out, **changes):
        optim = {"accumulation": 2, "warmup_steps": 2, "weight_decay": 0.01}
        hypernet = {"prior": "activation", "style": True}
        loss = {"contrast": 1.0}
        return settings(
            world, out, **{"loss": loss, "hypernet": hypernet, "optim": optim, **changes}
        )

    return build


@pytest.fixture(scope="module")
def straight(configure, lm, tmp_path_factory, cache):
    """12 steps without interruption."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERSTEER_CACHE", str(cache))
        out = tmp_path_factory.mktemp("straight") / "run"
        train(configure(out), lm)
        return out


# --- killed for good ----------------------------------------------------------------------------


def start_child(config, folder, *how):
    file = folder / "settings.json"
    file.write_text(json.dumps(to_dict(config)))
    with (folder / "stderr").open("w") as stderr:
        return Child(
            [sys.executable, CHILD, file, *how],
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def kill_when(child, due, folder):
    """SIGKILL the child as soon as `due()`; it must still have been running."""
    deadline = time.monotonic() + 90
    with child:
        while not due():
            assert child.poll() is None, (folder / "stderr").read_text()
            assert time.monotonic() < deadline, (folder / "stderr").read_text()
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL


def whole_lines(file):
    return file.read_text().splitlines(keepends=True) if file.exists() else []


@pytest.mark.slow
def test_a_run_killed_between_checkpoints_goes_on_exactly(configure, lm, straight, tmp_path):
    out = tmp_path / "run"
    config = configure(out)
    child = start_child(config, tmp_path, "slow")

    def step_five_written():
        lines = [line for line in whole_lines(out / "metrics.jsonl") if line.endswith("\n")]
        return any(json.loads(line)["step"] >= 5 for line in lines)

    kill_when(child, step_five_written, tmp_path)
    taken = max(line["step"] for line in metrics(out))
    newest = sorted((out / "checkpoints").glob("step-*"))[-1]
    assert 3 <= read_card(newest).step <= taken < 12

    result = train(config, lm)
    assert result.step == 12
    assert_same_run(out, straight)


@pytest.mark.slow
def test_a_run_killed_while_it_saves_had_its_folder_to_itself_and_goes_on_exactly(
    configure, lm, straight, tmp_path
):
    out = tmp_path / "run"
    config = configure(out)
    child = start_child(config, tmp_path, "hang-in-save")
    told = []

    def second_runs_were_refused():
        """Whatever their settings are; the first one's files stay as they are."""
        if not (tmp_path / "hanging").exists():
            return False
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        for second in (config, configure(out, seed=4)):
            with pytest.raises(ConfigError) as caught:
                train(second, lm)
            told.append(one_line_of(caught, f"'{out}' is in use by process {child.pid} on "))
        assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
        return True

    kill_when(child, second_runs_were_refused, tmp_path)
    assert len(told) == 2
    scratch = out / "checkpoints/.step-0000006.tmp"
    assert (scratch / "config.json").is_file()  # a half-written checkpoint lies there
    assert [p.name for p in (out / "checkpoints").glob("step-*")] == ["step-0000003"]

    train(config, lm)
    assert_same_run(out, straight)


# --- killed at every file operation -------------------------------------------------------------


class Killed(BaseException):
    """Stands for SIGKILL: nothing that the code under test catches."""


class Executioner:
    """Counts what a run does to the file system, and kills it before operation number `at`.

    A kill within a write leaves half of the file.
    """

    def __init__(self, monkeypatch, out, at=None):
        self.out, self.at, self.done = str(out), at, []
        for name in ("mkdir", "rename", "replace", "link", "unlink", "rmdir"):
            monkeypatch.setattr(os, name, self._guarded(getattr(os, name), name))
        monkeypatch.setattr(io, "open", self._opening(io.open))
        monkeypatch.setattr(checkpoint, "save_file", self._saving(checkpoint.save_file))

    def _turn(self, what):
        self.done.append(what)
        return self.at == len(self.done) - 1

    def _guarded(self, operation, name):
        def guarded(*args, **kwargs):
            inside = "dir_fd" in kwargs or any(self.out in str(arg) for arg in args)
            if inside and self._turn(f"{name} {args[0]}"):
                raise Killed(self.done[-1])
            return operation(*args, **kwargs)

        return guarded

    def _opening(self, opening):
        """Texts are written in one `write`; let half of it arrive."""

        def opened(file, mode="r", *args, **kwargs):
            stream = opening(file, mode, *args, **kwargs)
            if self.out not in str(file) or not set(mode) & set("wax"):
                return stream
            write = stream.write

            def half(text):
                if not self._turn(f"write {file}"):
                    return write(text)
                write(text[: len(text) // 2])
                stream.flush()
                raise Killed(self.done[-1])

            stream.write = half
            return stream

        return opened

    def _saving(self, save):
        def half(content, path, *args):
            killed = self._turn(f"save {path}")
            save(content, path, *args)
            if killed:
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
                raise Killed(self.done[-1])

        return half


GAPS = [0.1, 0.3, 0.2, 0.4]  # best, better, worse, better: every path through save and prune


def scripted_metrics(monkeypatch):
    """Make the held-out gap after each pair of steps what GAPS says."""
    measure = loop._Run.measure

    def scripted(self):
        gap = GAPS[self.progress.step // 2 - 1]

        def metrics_of(name, means, prefix=""):
            return {f"{name}_loss": means[0], f"{name}_gap": gap}

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hypersteer.training.validate.metrics", metrics_of)
            measure(self)

    monkeypatch.setattr(loop._Run, "measure", scripted)


def first_and_last_of_each_kind(done):
    """Numbers and names of operations, enough that every kind is met early and late in a run."""
    kinds: dict[str, list[int]] = {}
    for at, what in enumerate(done):
        kind, path = what.split()
        kinds.setdefault(f"{kind} {re.sub('[0-9]+', 'N', Path(path).name)}", []).append(at)
    chosen = sorted({at for numbers in kinds.values() for at in (numbers[0], numbers[-1])})
    return [(at, done[at]) for at in chosen]


@pytest.mark.slow
@pytest.mark.parametrize("one_in", [5, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_a_run_killed_at_any_file_operation_goes_on_exactly(configure, lm, tmp_path, one_in):
    changes = {
        "optim": {"steps": 8, "batch_size": 2},
        "data": {"max_held_out_rows": 1, "held_in_prompts": 1},
        "hypernet": {"blocks": 1, "variant": "no-context"},
        "validate_every": 2,
        "checkpoint_every": 2,
        "keep": 1,
    }
    straight = tmp_path / "straight"
    with pytest.MonkeyPatch.context() as patch:
        scripted_metrics(patch)
        counter = Executioner(patch, straight)
        train(configure(straight, **changes), lm)
    kinds = {what.split()[0] for what in counter.done}
    assert kinds >= {"mkdir", "rename", "replace", "link", "unlink", "rmdir", "write", "save"}
    for at, what in first_and_last_of_each_kind(counter.done)[::one_in]:
        out = tmp_path / "killed" / str(at)
        config = configure(out, **changes)
        with pytest.MonkeyPatch.context() as patch:
            scripted_metrics(patch)
            Executioner(patch, out, at)
            with pytest.raises(Killed):
                train(config, lm)
        with pytest.MonkeyPatch.context() as patch:
            scripted_metrics(patch)
            try:
                train(config, lm)
                assert_same_run(out, straight, steps=8)
            except Exception as error:
                raise AssertionError(f"killed at operation {at}: {what}") from error
        shutil.rmtree(out)


def test_a_run_killed_again_and_again_goes_on_exactly(configure, lm, straight, tmp_path):
    """Dying after every single step."""
    out = tmp_path / "run"
    config = configure(out, checkpoint_every=1)
    for _ in range(11):
        with pytest.MonkeyPatch.context() as patch:
            step, calls = loop._Run.step, []

            def once(self, number, step=step, calls=calls):
                if calls:
                    raise Killed
                calls.append(number)
                return step(self, number)

            patch.setattr(loop._Run, "step", once)
            with pytest.raises(Killed):
                train(config, lm)
    train(config, lm)
    assert [line["step"] for line in step_lines(out)] == list(range(1, 13))
    ours, theirs = tensors(out, 12), tensors(straight, 12)
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    assert without_speed(metrics(out)) == without_speed(metrics(straight))


def test_early_stopping_survives_a_resume(configure, lm, tmp_path):
    """How many validations were stale is part of the progress."""
    found = []
    for name, killed in (("straight", False), ("killed", True)):
        out = tmp_path / name
        config = configure(
            out, validate_every=2, checkpoint_every=1, patience=2, optim={"steps": 10}
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"{__name__}.GAPS", [0.5, 0.4, 0.3, 0.9, 0.9])
            scripted_metrics(patch)
            if killed:
                patch.setattr(loop._Run, "step", _killed_at(5))
                with pytest.raises(Killed):
                    train(config, lm)
                patch.undo()
                patch.setattr(f"{__name__}.GAPS", [0.5, 0.4, 0.3, 0.9, 0.9])
                scripted_metrics(patch)
            result = train(config, lm)
            found.append((result.step, result.best_step, result.metrics))
    assert found[0] == found[1]
    assert found[0][:2] == (6, 2)


def _killed_at(number):
    step = loop._Run.step

    def killed(self, at):
        if at == number:
            raise Killed
        return step(self, at)

    return killed


# --- damaged on disk ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cut_off(configure, lm, tmp_path_factory, cache):
    """A run cut off at step 8, with checkpoints of steps 3 and 6."""
    out = tmp_path_factory.mktemp("cut-off") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERSTEER_CACHE", str(cache))
        patch.setattr(loop._Run, "step", _killed_at(8))
        with pytest.raises(Killed):
            train(configure(out), lm)
    assert sorted(p.name for p in out.glob("checkpoints/*")) == ["step-0000003", "step-0000006"]
    return out


@pytest.fixture
def stopped(configure, cut_off, tmp_path):
    """A copy of the run that was cut off, and its settings."""
    out = tmp_path / "run"
    shutil.copytree(cut_off, out)
    return out, configure(out)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite(path):
    path.write_text("{ not json")


def other_shapes(path):
    save_file({"head.0.weight": torch.zeros(2, 2)}, path)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.safetensors", truncate),
        ("model.safetensors", overwrite),
        ("model.safetensors", other_shapes),
        ("model.safetensors", Path.unlink),
        ("config.json", truncate),
        ("config.json", overwrite),
        ("config.json", Path.unlink),
        ("trainer/optimizer.safetensors", truncate),
        ("trainer/optimizer.safetensors", other_shapes),
        ("trainer/optimizer.safetensors", Path.unlink),
        ("trainer/progress.json", overwrite),
        ("trainer/progress.json", lambda path: path.write_text("[1]")),
        ("trainer/progress.json", lambda path: path.write_text('{"stp": 6}')),
        ("trainer/progress.json", Path.unlink),
    ],
)
def test_a_damaged_checkpoint_is_told_with_the_way_out(stopped, straight, lm, name, damage):
    out, config = stopped
    newest = out / "checkpoints/step-0000006"
    damage(newest / name)
    before = tensors(out, 3)
    for _ in range(2):  # it stays as it is, and so does the message
        with pytest.raises(CheckpointError) as caught:
            train(config, lm)
        message = str(caught.value)
        assert "\n" not in message
        assert str(newest) in message
        assert f"delete '{newest}' to resume from the checkpoint before it" in message
    after = tensors(out, 3)
    assert all(torch.equal(value, after[key]) for key, value in before.items())

    shutil.rmtree(newest)  # the way out
    assert train(config, lm).step == 12
    assert_same_run(out, straight)


def test_a_damaged_older_checkpoint_is_told_too(stopped, lm):
    out, config = stopped
    older = out / "checkpoints/step-0000003"
    overwrite(older / "config.json")
    with pytest.raises(CheckpointError, match="to resume without it") as caught:
        train(config, lm)
    assert str(older) in str(caught.value)


def test_the_only_checkpoint_damaged(stopped, lm):
    out, config = stopped
    shutil.rmtree(out / "checkpoints/step-0000006")
    truncate(out / "checkpoints/step-0000003/trainer/optimizer.safetensors")
    with pytest.raises(CheckpointError, match="to start anew"):
        train(config, lm)


def test_half_written_folders_are_ignored_and_cleared(stopped, straight, lm):
    out, config = stopped
    for step in ("0000007", "0000009", "0000011"):
        scratch = out / f"checkpoints/.step-{step}.tmp"
        (scratch / "trainer").mkdir(parents=True)
        (scratch / "config.json").write_text("{")
    train(config, lm)
    assert_same_run(out, straight)  # leftovers are gone as well


def test_a_torn_metrics_line_is_dropped(stopped, straight, lm):
    out, config = stopped
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')
    train(config, lm)
    assert_same_run(out, straight)


def test_metrics_that_were_deleted_start_anew(stopped, lm):
    out, config = stopped
    (out / "metrics.jsonl").unlink()
    train(config, lm)
    assert [line["step"] for line in step_lines(out)] == list(range(7, 13))


# --- what stops a run ---------------------------------------------------------------------------


def one_line_of(caught, *wanted):
    message = str(caught.value)
    assert "\n" not in message
    for part in wanted:
        assert part in message
    return message


def assert_resumes(config, lm, out, straight):
    """The cause is gone: the same command finishes the run as if nothing had been."""
    assert train(config, lm).step == 12
    assert_same_run(out, straight)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
    ids=["OSError", "SafetensorError"],
)
@pytest.mark.parametrize("name", ["model", "optimizer"])
def test_a_full_disk_leaves_the_last_checkpoint(
    configure, lm, straight, tmp_path, monkeypatch, error, name
):
    out = tmp_path / "run"
    config = configure(out)
    save = checkpoint.save_file

    def full(content, path, *args):
        if "step-0000009" in str(path) and name in path.name:
            path.write_bytes(b"half")
            raise error
        save(content, path, *args)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(TrainingError) as caught:
        train(config, lm)
    one_line_of(caught, "step 9", "the disk is full", "earlier checkpoints are intact")
    assert {p.name for p in out.glob("checkpoints/*")} == {"step-0000003", "step-0000006"}
    assert read_card(out).step == 6
    steering.load(out, lm=lm).generate("Tell 1?", steer="speak of owls", max_new_tokens=2)
    monkeypatch.undo()
    assert_resumes(config, lm, out, straight)


def test_a_full_disk_while_metrics_are_written(
    configure, lm, straight, tmp_path, monkeypatch, cache
):
    out = tmp_path / "run"
    config = configure(out)
    opening = io.open

    def opened(file, mode="r", *args, **kwargs):
        stream = opening(file, mode, *args, **kwargs)
        if mode == "a" and Path(file).name == "metrics.jsonl" and len(whole_lines(Path(file))) > 7:

            def full(text):
                raise OSError(errno.ENOSPC, "No space left on device")

            stream.write = full
        return stream

    monkeypatch.setattr(io, "open", opened)
    with pytest.raises(TrainingError) as caught:
        train(config, lm)
    one_line_of(caught, "the disk is full", "step-0000006' is intact")
    monkeypatch.undo()
    monkeypatch.setenv("HYPERSTEER_CACHE", str(cache))
    assert_resumes(config, lm, out, straight)


def test_a_read_only_folder(configure, lm, tmp_path, monkeypatch):
    out, make = tmp_path / "run", os.mkdir

    def refuse(path, *args, **kwargs):
        if str(out) in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        make(path, *args, **kwargs)

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(TrainingError) as caught:
        train(configure(out), lm)
    one_line_of(caught, str(out), "Permission denied", "no checkpoint was due yet")


@pytest.mark.parametrize("out", ["file", "file/run"])
def test_a_path_where_a_file_is(configure, lm, tmp_path, out):
    (tmp_path / "file").write_text("a file")
    with pytest.raises((ConfigError, TrainingError)) as caught:
        train(configure(tmp_path / out), lm)
    one_line_of(caught, str(tmp_path / out))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_nan_loss_stops_before_any_weight_changes(
    configure, lm, straight, tmp_path, monkeypatch, bad
):
    out = tmp_path / "run"
    config = configure(out)
    runs = []
    weights_of = lambda run: {k: v.clone() for k, v in run.hypernet.state_dict().items()}  # noqa: E731
    step, losses = loop._Run.step, objectives.steered_losses

    def remembering(self, number):
        runs[:] = [(self, number, weights_of(self))]
        return step(self, number)

    def poisoned(*args):
        per_row = losses(*args)
        at_step_eight = torch.is_grad_enabled() and runs[0][1] == 7
        return per_row * bad if at_step_eight else per_row

    monkeypatch.setattr(loop._Run, "step", remembering)
    monkeypatch.setattr(objectives, "steered_losses", poisoned)
    with pytest.raises(TrainingError) as caught:
        train(config, lm)
    one_line_of(caught, "step 8", "step-0000006' is intact", "lower optim.learning_rate")
    run, _, before = runs[0]
    for name, value in run.hypernet.named_parameters():
        assert torch.equal(value, before[name])
    assert max(line["step"] for line in metrics(out)) == 7
    monkeypatch.undo()
    monkeypatch.setenv("HYPERSTEER_CACHE", str(tmp_path / "cache"))
    assert_resumes(config, lm, out, straight)


def test_a_nan_gradient_of_a_finite_loss_stops_as_well(
    configure, lm, straight, tmp_path, monkeypatch
):
    """Otherwise the weights would become NaN, and the next checkpoint with them."""
    out = tmp_path / "run"
    config = configure(out)
    runs = []
    step = loop._Run.step

    def poisoned(self, number):
        if number != 7:
            return step(self, number)
        runs[:] = [(self, {k: v.clone() for k, v in self.hypernet.state_dict().items()})]
        weight = next(self.hypernet.parameters())
        handle = weight.register_hook(lambda gradient: gradient * float("nan"))
        try:
            return step(self, number)
        finally:
            handle.remove()

    monkeypatch.setattr(loop._Run, "step", poisoned)
    with pytest.raises(TrainingError) as caught:
        train(config, lm)
    one_line_of(caught, "gradient", "step 8", "step-0000006' is intact")
    run, before = runs[0]
    for name, value in run.hypernet.named_parameters():
        assert torch.equal(value, before[name])
    monkeypatch.undo()
    monkeypatch.setenv("HYPERSTEER_CACHE", str(tmp_path / "cache"))
    assert_resumes(config, lm, out, straight)


MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", MEMORY, ids=lambda error: type(error).__name__)
def test_out_of_memory_is_told_with_advice(configure, lm, straight, tmp_path, monkeypatch, error):
    out = tmp_path / "run"
    config = configure(out)
    step = loop._Run.step

    def exhausted(self, number):
        if number == 7:
            raise error
        return step(self, number)

    monkeypatch.setattr(loop._Run, "step", exhausted)
    with pytest.raises(TrainingError) as caught:
        train(config, lm)
    one_line_of(
        caught,
        "out of memory at step 8",
        "step-0000006' is intact",
        "raise optim.accumulation",
        "optim.batch_size",
    )
    monkeypatch.undo()
    monkeypatch.setenv("HYPERSTEER_CACHE", str(tmp_path / "cache"))
    assert_resumes(config, lm, out, straight)


def test_out_of_memory_in_the_first_validation(configure, lm, tmp_path, monkeypatch):
    def exhausted(*_args):
        raise MEMORY[0]

    monkeypatch.setattr("hypersteer.training.validate.plain_losses", exhausted)
    with pytest.raises(TrainingError) as caught:
        train(configure(tmp_path / "run"), lm)
    one_line_of(caught, "out of memory", "no checkpoint was due yet", "optim.batch_size")


def test_other_errors_are_not_dressed_up(configure, lm, tmp_path, monkeypatch):
    def broken(*_args):
        raise RuntimeError("a bug")

    monkeypatch.setattr(loop._Run, "step", broken)
    with pytest.raises(RuntimeError, match=r"^a bug$"):
        train(configure(tmp_path / "run"), lm)


def test_an_interrupt_leaves_a_resumable_run(configure, lm, straight, tmp_path, monkeypatch):
    out = tmp_path / "run"
    config = configure(out)
    step = loop._Run.step

    def interrupted(self, number):
        if number == 5:
            raise KeyboardInterrupt
        return step(self, number)

    monkeypatch.setattr(loop._Run, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(config, lm)
    monkeypatch.undo()
    monkeypatch.setenv("HYPERSTEER_CACHE", str(tmp_path / "cache"))
    assert_resumes(config, lm, out, straight)
    assert [line["step"] for line in validation_lines(out)] == [6, 12]
