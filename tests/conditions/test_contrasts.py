"""Contrastive texts: files, folds, and pooled states against a hook of the test's own."""

import json

import pytest
import torch

from conditions.worlds import off_topic, on_topic
from gating import states_by_hand
from hypersteer.conditions.contrasts import make_folds, read_labelled, read_prompts, read_states
from hypersteer.errors import DataError, SteeringError


def lines(path, *entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def test_prompts_of_text_and_jsonl(tmp_path):
    text = tmp_path / "prompts.txt"
    text.write_text("One?\n\n  Two?  \n")
    assert read_prompts(text) == ["One?", "Two?"]
    path = lines(tmp_path / "p.jsonl", {"prompt": "One?", "label": "x"}, {"prompt": "Two?"})
    assert read_prompts(path) == ["One?", "Two?"]


def test_labelled_prompts_and_splits(tmp_path):
    rows = [
        ("a", "in", "train"),
        ("b", "out", "train"),
        ("c", "near", "train"),
        ("d", "in", "test"),
    ]
    entries = [{"prompt": p, "label": label, "split": split} for p, label, split in rows]
    path = lines(tmp_path / "p.jsonl", *entries, {"prompt": "e", "label": "out"})
    assert read_labelled(path) == (["a", "d"], ["b", "e"])
    assert read_labelled(path, "train") == (["a"], ["b", "e"])
    assert read_labelled(path, "test") == (["d"], ["e"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "line 1 is not JSON"),
        ('{"prompt": "a", "label": "in"}\n[]', "line 2 has no prompt"),
        ('{"prompt": "\\ud800", "label": "in"}', "half a character"),
        ("[" * 100_000, "nested too deeply"),
        ('{"prompt": " ", "label": "in"}', "line 1 has no prompt"),
        ('{"prompt": "a"}', "line 1: label is None"),
        ('{"prompt": "a", "label": "in"}', "no prompts with label 'out'"),
        ('{"prompt": "a", "label": "in", "split": "x"}', "holds no prompts of split 'train'"),
    ],
)
def test_malformed_files(tmp_path, text, told):
    path = tmp_path / "p.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=told):
        read_labelled(path, "train" if "split" in text else None)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="cannot read the prompts"):
        read_prompts(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match="holds no prompts"):
        read_prompts(tmp_path / "empty.txt")


def test_every_text_is_held_out_once_and_pairs_stay_together():
    folds = make_folds(11, 11, 4, seed=3)
    assert all(fold.positives == fold.negatives for fold in folds)
    assert sorted(place for fold in folds for place in fold.positives) == list(range(11))
    uneven = make_folds(11, 6, 4, seed=3)
    assert sorted(place for fold in uneven for place in fold.negatives) == list(range(6))
    assert make_folds(11, 6, 4, seed=3) == uneven != make_folds(11, 6, 4, seed=4)
    assert len(make_folds(4, 9, 50, seed=0)) == 4
    for sizes in ((2, 9), (1, 1), (9, 1)):
        with pytest.raises(DataError, match="too few to hold some out"):
            make_folds(*sizes, 5, seed=0)


@pytest.mark.parametrize("pooling", ["prompt", "all", "last", "response"])
def test_pooled_states_of_all_layers(lm, pooling):
    texts = [*on_topic(2), ("Hi", "Aye, the sea."), *[(t, "No") for t in off_topic(2)]]
    texts = [t if isinstance(t, tuple) else (t, "So say the bees.") for t in texts]
    layers = [3, 0, 1, 2]
    found = read_states(lm, texts, layers, pooling, batch_tokens=120)
    for row, (words, response) in enumerate(texts):
        prompt, ids = lm.chat.prompt(words), lm.chat.response(response)
        end = len(prompt.ids)
        part = {
            "prompt": slice(prompt.prefix, end),
            "all": slice(0, end),
            "last": slice(end - 1, end),
            "response": slice(end, None),
        }[pooling]
        for place, layer in enumerate(layers):
            states = states_by_hand(lm, [*prompt.ids, *ids], layer)[part]
            torch.testing.assert_close(found[row, place], states.mean(0), rtol=0, atol=2e-5)


def test_one_pass_over_each_batch_and_one_over_what_all_begin_with(tiny_llama):
    seen, passes = [], []
    hook = tiny_llama.blocks[0].register_forward_pre_hook(lambda _m, args: passes.append(1))
    above = tiny_llama.blocks[3].register_forward_pre_hook(lambda _m, args: pytest.fail("ran"))
    read_states(tiny_llama, on_topic(6), [0, 1, 2], "prompt", watch=lambda *told: seen.append(told))
    hook.remove()
    above.remove()
    assert (passes, seen) == ([1, 1], [(6, 6)])


def test_texts_that_cannot_be_read(tiny_llama):
    for texts, pooling, told in (
        ([" "], "prompt", "empty"),
        (["Hi"], "response", "no response to pool"),
        (["sea " * 400], "prompt", "context window"),
    ):
        with pytest.raises(SteeringError, match=told):
            read_states(tiny_llama, texts, [0], pooling)


def test_lines_end_at_line_feeds_only(tmp_path):
    text, path = tmp_path / "prompts.txt", tmp_path / "p.jsonl"
    text.write_bytes("\ufeffOne\u2028two\x0cthree?\r\nFour?\r\n".encode())
    assert read_prompts(text) == ["One\u2028two\x0cthree?", "Four?"]
    path.write_bytes("\ufeff".encode() + '{"prompt": "a\u2028b", "label": "in"}\r\n'.encode())
    assert read_prompts(path) == ["a\u2028b"]


@pytest.mark.parametrize("name", ["x" * 300, "~nobody-of-that-name/x", "a\0b", ""])
def test_what_can_be_no_file_is_told(name):
    for read in (read_prompts, read_labelled):
        with pytest.raises(DataError, match="the file of prompts"):
            read(name)


def test_the_topic_that_ships_is_named():
    train, test = (read_labelled("bundled:health", split) for split in ("train", "test"))
    assert [len(side) for side in (*train, *test)] == [80, 80, 80, 80]
    with pytest.raises(DataError, match="no topic 'helth' ships; did you mean 'health'"):
        read_labelled("bundled:helth")
