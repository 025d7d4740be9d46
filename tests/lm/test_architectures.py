"""Every architecture works, or is refused in one line when it loads; `docs/models.md` says which.

`HYPERSTEER_WRITE_DOCS=1` writes the table of the page anew.
"""

import os
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

import architectures
import tiny
from hypersteer.config import HypernetConfig
from hypersteer.engine.batch import Batch
from hypersteer.engine.decoding import Decoding
from hypersteer.engine.generate import generate_ids
from hypersteer.errors import ModelError, SteeringError
from hypersteer.hypernet.network import new_hypernet
from hypersteer.lm.base import BaseLM
from hypersteer.lm.edited import edit_writers
from hypersteer.training.forward import Steered, steered_losses

PAGE = Path(__file__).parents[2] / "docs/models.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->"
TEXTS = ("Hi", "Tell me about your day at the sea, the ship and the bees.", "Why is it blue?")
STEPS = 6
CHUNKED = {"qwen3_next": 2e-3, "qwen3_5_text": 2e-3, "zamba2": 2e-3}
"""Linear attention that transformers computes in chunks for a prompt, and step by step after it:
the same in exact arithmetic, and in float32 to so much."""


@cache
def loaded(name: str) -> BaseLM | str:
    """The base LM, or the line that refuses it."""
    model = architectures.model_of(name)
    if model is None:
        pytest.skip(f"this release of transformers has no {name}")
    try:
        return BaseLM.of(model, tiny.tokenizer(), name=name)
    except ModelError as error:
        return str(error)


def steers(lm: BaseLM) -> None:
    """Cached, batched, joined, with ended rows, at several strengths: always the same answers."""
    endless = tiny.ending_with(lm)
    prompts = [lm.chat.prompt(text) for text in TEXTS]
    edits = [tiny.edit_of(lm, lm.site(1), 1), None, tiny.edit_of(lm, lm.site(2), 2)]
    together = tiny.decoded(endless, prompts, edit_writers(lm, edits, [1.0] * 3), STEPS)
    for row, (prompt, edit) in enumerate(zip(prompts, edits, strict=True)):
        alone = tiny.decoded(endless, [prompt], edit_writers(lm, [edit], [1.0]), STEPS)
        assert alone.ids[0] == together.ids[row]
        close = {"rtol": 0, "atol": CHUNKED.get(lm.name, 1e-4)}
        torch.testing.assert_close(alone.logits[:, 0], together.logits[:, row], **close)
    plain = tiny.decoded(endless, prompts, steps=STEPS)
    assert (plain.logits[0, 0] - together.logits[0, 0]).abs().max() > 1e-3
    whole = torch.tensor([[*prompts[1].ids, *plain.ids[1][:-1]]])
    with torch.no_grad():
        logits = lm.model(input_ids=whole, use_cache=False).logits[0, len(prompts[1].ids) - 1 :]
    torch.testing.assert_close(plain.logits[:, 1], logits, **close)
    stops = (plain.ids[0][1], plain.ids[2][2])  # so most rows end early, one after the other
    ended = generate_ids(tiny.ending_with(lm, *stops), prompts, [], Decoding(max_new_tokens=STEPS))
    for ids, row in zip(ended, plain.ids, strict=True):
        assert ids == row[: next((at for at, id_ in enumerate(row) if id_ in stops), STEPS)]
    batch, answers = Batch(endless), {}
    for prompt, edit in zip(prompts, edits, strict=True):
        batch.add([prompt], edit_writers(lm, [edit], [1.0]), [Decoding(max_new_tokens=STEPS)])
        for row, token in batch.step().items():
            answers.setdefault(row, []).append(token)
    while batch.rows:
        for row, token in batch.step().items():
            answers.setdefault(row, []).append(token)
    assert [answers[row] for row in range(3)] == together.ids
    strengths, fan = (0.5, 2.0), [edits[0]] * 3
    fanned = generate_ids(
        endless, prompts, edit_writers(lm, fan, [1.0] * 3), Decoding(max_new_tokens=3), strengths
    )
    for copy, strength in enumerate(strengths):
        writers = edit_writers(lm, fan, [strength] * 3)
        apart = generate_ids(endless, prompts, writers, Decoding(max_new_tokens=3))
        assert fanned[3 * copy : 3 * copy + 3] == apart


def learns(lm: BaseLM, variant: str) -> None:
    """One pass under two steering prompts gives the losses of two passes, and a gradient.

    The same one where blocks run again in the backward pass.
    """
    config = HypernetConfig(variant=variant, blocks=2)
    site = lm.site(1)
    net = new_hypernet(lm, config, site, 0)
    setup = Steered(lm, net, config, [site], "all")
    prompts = [lm.chat.prompt(text) for text in TEXTS]
    responses = [lm.chat.response(text) for text in ("Aye!", "the day", "So")]
    steering = [[lm.chat.text(text)] * 3 for text in ("talk like a pirate", "bees")]
    both = steered_losses(setup, prompts, responses, steering)
    for one, losses in zip(steering, both, strict=True):
        apart = steered_losses(setup, prompts, responses, [one])[0]
        torch.testing.assert_close(losses, apart, rtol=1e-3, atol=1e-4)
    both.sum().backward()
    assert net.head[-1].weight.grad.abs().max() > 0
    expected = [parameter.grad for parameter in net.parameters()]
    net.zero_grad(set_to_none=True)
    net.recomputes = True
    again = steered_losses(replace(setup, recomputes=True), prompts, responses, steering)
    again.sum().backward()
    assert torch.equal(again, both)
    for parameter, gradient in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-5)


def row_of(name: str) -> str:
    """A row of the table: what was seen to work, or why it is refused."""
    lm = loaded(name)
    if isinstance(lm, str):
        reason = re.sub(rf"^.*?{re.escape(name)} \(\w+\) ", "", lm).partition(", so ")[0]
        reason = re.sub(r" \(off by .*?\)", "", reason)
        reason = reason.partition(" (")[0] if "cannot be run" in reason else reason
        return f"| `{name}` | refused: {reason} |  |"
    steers(lm)
    served = []
    for variant in tiny.VARIANTS:
        try:
            learns(lm, variant)
        except SteeringError:
            continue
        served.append(variant)
    listed = "all" if len(served) == len(tiny.VARIANTS) else ", ".join(served) or "none"
    return f"| `{name}` | yes | {listed} |"


@pytest.mark.parametrize("name", architectures.OPTIONS)
def test_it_works_as_the_page_says(name, silent_libraries):
    try:
        row = row_of(name)
    except Exception as error:
        if tiny.older_than_the_page():
            silent_libraries.clear()
            pytest.skip(f"the page is of a newer transformers; in this one: {error!r:.200}")
        raise
    silent_libraries.clear()  # of optional kernels, and of sizes that no real configuration has
    page = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else f"{BEGIN}{END}"
    before, _, rest = page.partition(BEGIN)
    table, _, after = rest.partition(END)
    if os.environ.get("HYPERSTEER_WRITE_DOCS"):
        rows = {*table.splitlines()[2:], row} - {
            old for old in table.splitlines() if old.startswith(f"| `{name}` ") and old != row
        }
        head = "| architecture | steers | hypernetworks |\n|---|---|---|\n"
        body = "".join(f"{one}\n" for one in sorted(rows) if one)
        PAGE.write_text(f"{before}{BEGIN}{head}{body}{END}{after}", encoding="utf-8")
    elif row not in table.splitlines() and tiny.older_than_the_page():
        pytest.skip(f"the page is of a newer transformers, and this one says: {row}")
    else:
        assert row in table.splitlines()


def test_a_refusal_is_one_line_and_comes_at_load():
    for name in ("rwkv", "minimax", "gemma3n_text"):
        line = loaded(name)
        assert isinstance(line, str)
        assert "\n" not in line
        assert "choose another" in line
