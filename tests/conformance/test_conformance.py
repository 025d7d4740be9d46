"""The conformance suite: our engine and plain hooks pass, and every fault it is for is found."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tiny
from hypersteer.cli.main import main
from hypersteer.conformance.adapter import ABILITIES, Ask
from hypersteer.conformance.backends import Engine, Hooks, edit_of
from hypersteer.conformance.checks import INVARIANTS
from hypersteer.conformance.choose import find_backend
from hypersteer.conformance.probe import PROMPTS, make_bench
from hypersteer.conformance.reference import Reference
from hypersteer.conformance.run import ask as asked
from hypersteer.conformance.run import conform
from hypersteer.errors import ConfigError

TOKENS = 6


@pytest.fixture(scope="module")
def lm():
    return tiny.lm_of("llama")


@pytest.fixture(scope="module")
def bench(lm):
    return make_bench(Reference(lm, TOKENS))


@pytest.fixture(scope="module")
def steerer():
    return tiny.steerer_of(tiny.lm_of("llama"), "no-context")


def broken_in(adapter, bench):
    found = conform(adapter, bench.reference.lm, tokens=TOKENS, bench=bench)
    assert not found.holds
    return {one.title: one for one in found.findings if one.outcome in ("broken", "failed")}


def test_our_engine_holds_all_of_it(lm, bench, steerer):
    seen = []
    found = conform(Engine(lm, steerer), lm, tokens=TOKENS, bench=bench, done=seen.append)
    assert [(one.title, one.outcome, one.detail) for one in found.findings] == [
        (one.title, "holds", "") for one in INVARIANTS
    ]
    assert found.holds
    assert seen == found.findings


def test_plain_hooks_hold_what_they_offer(lm, bench):
    found = conform(Hooks(lm), lm, tokens=TOKENS, bench=bench)
    assert found.holds
    outcomes = [one.outcome for one in found.findings]
    assert outcomes.count("holds") >= 8
    assert "no edits of its own for every row of a batch" in {one.detail for one in found.findings}


def test_the_right_answers_are_those_of_an_edited_call(lm, bench):
    """Twice the way: the model's own loop, in the context that edits any call."""
    steered = bench.ask(1, "cats")
    with lm.edited(edit_of(lm, steered), strength=steered.strength):
        ids = torch.tensor([lm.chat.prompt(steered.prompt).ids])
        first = int(lm.model(ids).logits[0, -1].argmax())
    assert bench.reference.expected(steered).text.startswith(lm.chat.decode([first]))
    plain = bench.reference.expected(steered.plain())
    assert plain == bench.reference.expected(steered.at(0.0))
    assert plain.text != bench.reference.expected(steered).text


class Leaky(Engine):
    """Answers a prompt that it knows from what it knows, as a cache without the edit in its key."""

    def __init__(self, lm, steerer):
        super().__init__(lm, steerer)
        self.known = {}

    def answer(self, asks, tokens):
        texts = super().answer(asks, tokens)
        return [
            self.known.setdefault(one.prompt, text) for one, text in zip(asks, texts, strict=True)
        ]


class FirstStrength(Engine):
    """All rows of a batch get the first row's strength."""

    def answer(self, asks, tokens):
        return super().answer([one.at(asks[0].strength) for one in asks], tokens)


class FirstEdit(Engine):
    """Unsteered rows get the edit of the last steered one beside them."""

    def answer(self, asks, tokens):
        edited = [one for one in asks if one.vector is not None]
        given = [
            replace(edited[-1], prompt=one.prompt) if one.vector is None and edited else one
            for one in asks
        ]
        return super().answer(given, tokens)


class Unsigned(Engine):
    def answer(self, asks, tokens):
        return super().answer([one.at(abs(one.strength)) for one in asks], tokens)


class NextLayer(Engine):
    def answer(self, asks, tokens):
        last = self.lm.depth - 1
        moved = [one if one.layer is None else replace(one, layer=min(one.layer + 1, last))
                 for one in asks]  # fmt: skip
        return super().answer(moved, tokens)


class WholeScope(Engine):
    def answer(self, asks, tokens):
        return super().answer([one.on("everywhere") for one in asks], tokens)


class Rounding(Engine):
    """Its files are of half precision."""

    def reloaded(self, ask):
        back = super().reloaded(ask)
        return replace(back, vector=back.vector.bfloat16().float())


class Clipped(Engine):
    """Its stream loses the last piece."""

    def stream(self, ask, tokens):
        yield from list(super().stream(ask, tokens))[:-1]


class Staying(Hooks):
    """An exception leaves its hook where it is."""

    def answer(self, asks, tokens):
        first = asks[0]
        if first.vector is not None and len(first.vector) != self.lm.width:

            def add(_block, _args, output):
                return output + 0.5

            self.left = self.lm.blocks[first.layer].register_forward_hook(add)
            raise ValueError("too wide")
        return super().answer(asks, tokens)


class Unpadded(Hooks):
    """Padding is read like any text."""

    def answer(self, asks, tokens):
        longest = max(len(one.prompt) for one in asks)
        padded = [replace(one, prompt=one.prompt.ljust(longest)) for one in asks]
        return super().answer(padded, tokens)


class Mean(Engine):
    """The edits of a batch's words are mixed up."""

    def answer(self, asks, tokens):
        words = [one.words for one in asks]
        if len(asks) > 1 and all(words):
            asks = [replace(one, words=" ".join(words)) for one in asks]
        return super().answer(asks, tokens)


class Blocks(Engine):
    """A cache of blocks without the edit in their key: only long prompts fill one."""

    BLOCK = 200  # characters

    def __init__(self, lm, steerer):
        super().__init__(lm, steerer)
        self.kept = {}

    def answer(self, asks, tokens):
        given = []
        for one in asks:
            key = one.prompt[: self.BLOCK]
            if len(key) == self.BLOCK:
                first = self.kept.setdefault(key, one)
                one = replace(first, prompt=one.prompt)
            given.append(one)
        return super().answer(given, tokens)


class Short(Engine):
    def answer(self, asks, tokens):
        return super().answer(asks, tokens)[:1]


FAULTS = {
    Blocks: {"Read no steered state back from a cache for a prompt that begins alike"},
    Leaky: {"Answer a prompt unsteered after it was steered, whatever the caches hold"},
    FirstStrength: {"Keep one request's strength from those beside it"},
    FirstEdit: {"Be the plain model for an unsteered request beside steered ones"},
    Unsigned: {"Multiply the vector by the strength, below 0 too"},
    NextLayer: {"Add the vector to the output of the block that is named, also of the last"},
    WholeScope: {"Keep to the scope while decoding from a cache, at the first new token too"},
    Rounding: {"Steer by a vector from a file as by the vector"},
    Clipped: {"Stream what comes in one piece"},
    Mean: {"Make an edit of words without regard to its neighbours"},
    Short: {"Answer in a padded batch, in any order, as alone"},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_where_it_belongs(fault, lm, bench, steerer):
    found = broken_in(fault(lm, steerer), bench)
    assert set(found) >= FAULTS[fault]
    assert len(found) < len(INVARIANTS)


def test_faults_of_hooks_are_found(lm, bench):
    staying = Staying(lm)
    try:
        assert "Keep nothing of a request that was refused" in broken_in(staying, bench)
    finally:
        staying.left.remove()
    assert set(broken_in(Unpadded(lm), bench)) == {
        "Answer in a padded batch, in any order, as alone",
        "Be the plain model at strength 0, and without an edit",
    }


def test_a_failure_shows_the_calls_that_lead_there(lm, bench, steerer):
    title = "Answer a prompt unsteered after it was steered, whatever the caches hold"
    detail = broken_in(Leaky(lm, steerer), bench)[title].detail
    calls = [line for line in detail.splitlines() if line.startswith("adapter.answer([Ask(")]
    assert calls[-1] == f"adapter.answer([Ask({PROMPTS[0]!r})], {TOKENS})"
    assert "  wanted " in detail
    assert "  got    " in detail


def test_an_exception_of_a_back_end_ends_only_its_check(lm, bench):
    class Failing(Hooks):
        def answer(self, asks, tokens):
            if len(asks) > 1:
                raise MemoryError("no room")
            return super().answer(asks, tokens)

    found = broken_in(Failing(lm), bench)
    assert {one.outcome for one in found.values()} == {"failed"}
    assert "MemoryError: no room" in {one.detail for one in found.values()}


def test_every_check_is_asked_of_somebody(lm, bench):
    assert {need for one in INVARIANTS for need in one.needs} == set(ABILITIES)
    assert {one.number for one in INVARIANTS} == {1, 2, 3, 4, 5, 6, 7, 8, 11}
    nobody = type("Nobody", (), {"name": "x", "abilities": frozenset(), "answer": None})()
    assert asked(INVARIANTS[3], nobody, bench).outcome == "not offered"


MINE = """class Mine:
    name = 'x'
    abilities = {abilities}

    def __init__(self, lm): pass

    def answer(self, asks, tokens): pass
"""


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("class Mine:\n    def __init__(self, lm): pass", "has no 'name'"),
        ("class Mine:\n    def __init__(self): pass", "cannot be made: TypeError"),
        (MINE.format(abilities={"mix"}), "unknown ability 'mix'; did you mean 'mixed'"),
        (MINE.format(abilities={"stream"}), "no method 'stream'"),
        ("class Other: pass", "has no class 'Mine'"),
        ("1/0", "cannot be read: ZeroDivisionError"),
    ],
)
def test_what_is_no_adapter_is_told_in_one_line(body, told, lm, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(body)
    with pytest.raises(ConfigError) as caught:
        find_backend(f"{file}:Mine")(lm)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_back_ends_are_told(lm):
    assert isinstance(find_backend("hooks")(lm), Hooks)
    with pytest.raises(ConfigError, match="unknown back end 'engin'; did you mean 'engine'"):
        find_backend("engin")
    with pytest.raises(ConfigError, match="no file"):
        find_backend("missing.py:Mine")
    with pytest.raises(ConfigError, match="float32"):
        conform(Hooks(lm), tiny_half(lm))


def tiny_half(lm):
    class Half:
        dtype, name = torch.bfloat16, lm.name

    return Half()


ADAPTER = """
import itertools
import torch

class Mine:
    name = "mine"
    abilities = frozenset()

    def __init__(self, lm):
        self.lm = lm

    def answer(self, asks, tokens):
        return [self.one(ask, tokens) for ask in asks]

    def one(self, ask, tokens):
        with self.lm.edited(None):
            return self.lm.generate(ask.prompt, max_new_tokens=tokens)
"""


def test_the_command_tells_and_ends_with_1(lm, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("hypersteer.lm.load.load_lm", lambda *_, **__: lm)
    file = tmp_path / "mine.py"
    file.write_text(ADAPTER)
    report = tmp_path / "found.json"
    words = ["conform", f"{file}:Mine", "--tokens", str(TOKENS), "--report", str(report)]
    assert main(words) == 1
    out = capsys.readouterr().out
    assert "mine" in out
    assert "BROKEN" in out
    assert "adapter.answer([Ask(" in out
    told = json.loads(report.read_text())
    assert told["base_lm"] == "llama"
    assert {one["outcome"] for one in told["findings"]} == {"holds", "broken", "not offered"}
    assert main(["conform", "hooks", "--tokens", str(TOKENS), "--quiet"]) == 0
    assert main(["conform", "hooks", "--tokens", "1"]) == 2
    assert "--tokens 1 cannot tell answers apart" in capsys.readouterr().err


def test_the_adapter_of_the_page_holds(lm, bench, tmp_path):
    page = Path(__file__).parents[2] / "docs/conformance.md"
    code = next(part for part in page.read_text().split("```") if "class Mine" in part)
    file = tmp_path / "mine.py"
    file.write_text(code.removeprefix("python"))
    found = conform(find_backend(f"{file}:Mine")(lm), lm, tokens=TOKENS, bench=bench)
    assert [
        one.detail for one in found.findings if one.outcome not in ("holds", "not offered")
    ] == []
    assert len([one for one in found.findings if one.outcome == "holds"]) == 8


def test_asks_are_told_apart_by_what_they_hold():
    vector = torch.ones(4)
    one = Ask("Hi", 1, vector, label="v")
    assert one.edit == Ask("Hi", 1, vector.clone()).edit
    assert one.edit != one.scaled().at(2.0).on("prompt").edit
    assert str(one.at(-1)) == "Ask('Hi', layer=1, vector=v, strength=-1)"
    assert str(one.scaled()).endswith("vector=1*v, strength=1)")
    assert str(Ask("Hi", words="be kind")) == "Ask('Hi', words='be kind', strength=1)"
    assert str(one.on("prompt")).endswith("scope='prompt')")
