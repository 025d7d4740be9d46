"""Which rows make up a step, and what is in a row."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny
from hypersteer.data.batches import Tokenised, TrainingBatches, chunks, validation_rows
from hypersteer.data.showing import Showing
from hypersteer.data.sources import load_concepts
from hypersteer.errors import DataError, SteeringError
from hypersteer.lm.chat import Chat
from hypersteer.lm.messages import prompted

CONCEPTS, EXAMPLES = 5, 13  # 65 rows: no round number of batches
END = tiny.tokenizer().eos_token_id


@pytest.fixture
def chat():
    return Chat(tiny.tokenizer(), [END])


@pytest.fixture
def write_rows(tmp_path, row):
    """Writes JSON lines whose responses are unique, and opens them."""

    def write(rows):
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        (folder / "train_data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        ids = sorted({r["concept_id"] for r in rows})
        metadata = [
            {"concept_id": i, "concept": f"concept {i}", "ref": "", "concept_genres_map": {}}
            for i in ids
        ]
        for line in metadata:
            line["concept_genres_map"] = {line["concept"]: ["text"]}
        text = "".join(json.dumps(line) + "\n" for line in metadata)
        (folder / "metadata.jsonl").write_text(text)
        return load_concepts(str(folder))

    return write


@pytest.fixture
def data(write_rows, row):
    draw = np.random.default_rng(0)
    return write_rows(
        [
            row(
                prompt="Who" + " and who" * int(draw.integers(0, 8)) + f"{number}?",
                response=f"Row {concept}-{number}" + " arr" * int(draw.integers(0, 30)),
                concept_id=concept,
            )
            for concept in range(CONCEPTS)
            for number in range(EXAMPLES)
        ]
    )


def batches(data, chat, size=4, seed=3, rows=None, max_prompt=1000, max_response=1000, **kwargs):
    rows = np.arange(len(data)) if rows is None else rows
    tokens = Tokenised(data, chat, max_prompt, max_response)
    concepts = kwargs.get("concepts", sorted({data.example(int(r)).concept_id for r in rows}))
    showing = Showing(**kwargs.get("showing", {}))
    return TrainingBatches(tokens, rows, concepts, size, seed, showing)


def names(chat, batch):
    """The rows of a batch by their unique responses."""
    return [chat.decode(row.response).split(" arr")[0] for row in batch]


# --- composition --------------------------------------------------------------------------------


def test_composition_is_a_pure_function_of_seed_and_step(data, chat):
    """Every field of every row; asked in any order, any number of times, of any instance."""
    one = batches(data, chat)
    forward = [one.batch(step) for step in range(60)]  # more than three epochs
    other = batches(data, chat)
    order = np.random.default_rng(1).permutation(60).tolist()
    for step in [*order, 5, 5, 59, 0]:
        assert other.batch(step) == forward[step]
    assert batches(data, chat).batch(47) == forward[47]


def test_another_seed_and_another_epoch_compose_other_batches(data, chat):
    def composition(seed, epoch):
        made = batches(data, chat, seed=seed)
        steps = range(epoch * made.per_epoch, (epoch + 1) * made.per_epoch)
        return [frozenset(names(chat, made.batch(step))) for step in steps]

    assert set(composition(3, 0)) != set(composition(4, 0))
    assert set(composition(3, 0)) != set(composition(3, 1))


@pytest.mark.parametrize("size", [1, 4, 5, 13, 64, 65])
def test_an_epoch_covers_rows_once(data, chat, size):
    made = batches(data, chat, size)
    assert made.per_epoch == 65 // size
    left_out = []
    for epoch in range(3):
        steps = range(epoch * made.per_epoch, (epoch + 1) * made.per_epoch)
        seen = [name for step in steps for name in names(chat, made.batch(step))]
        assert len(seen) == made.per_epoch * size
        assert len(set(seen)) == len(seen)
        every = {f"Row {c}-{n}" for c in range(CONCEPTS) for n in range(EXAMPLES)}
        left_out.append(every - set(seen))
        assert len(left_out[-1]) == 65 % size
    assert not set.intersection(*left_out)  # who was left out comes in the next epochs


@given(count=st.integers(1, 40), size=st.integers(1, 50), seed=st.integers(0, 2**32))
def test_any_epoch_has_whole_batches_of_distinct_rows(count, size, seed):
    """The positions alone, for any number of rows; fewer rows than a batch are repeated evenly."""

    class Lengths:
        name = "made up"

        @staticmethod
        def lengths(rows):
            return np.asarray(rows) % 7

    made = TrainingBatches.__new__(TrainingBatches)
    made._rows, made._size, made._seed = np.arange(count), size, seed
    made._lengths = Lengths.lengths(made._rows)
    epoch = made._make_epoch(2)
    assert epoch.shape == (max(1, count // size), size)
    counts = np.bincount(epoch.ravel(), minlength=count)
    assert counts.max() - counts.min() <= 1
    if count >= size:
        assert counts.max() == 1
    assert np.array_equal(epoch, made._make_epoch(2))


def test_only_the_given_rows_are_used(data, chat):
    rows = data.rows(1)[::2]
    made = batches(data, chat, size=3, rows=rows)
    seen = {name for step in range(20) for name in names(chat, made.batch(step))}
    assert seen == {f"Row 1-{number}" for number in range(0, EXAMPLES, 2)}


def test_batches_are_sorted_by_length_but_not_in_order(data, chat):
    """Much less padding than random batches; short and long batches come mixed."""

    def padding(groups):
        widths = [[len(row.prompt.ids) + len(row.response) for row in group] for group in groups]
        return sum(max(group) * len(group) - sum(group) for group in widths)

    made = batches(data, chat, size=4)
    sorted_batches = [made.batch(step) for step in range(made.per_epoch)]
    rows = [row for batch in sorted_batches for row in batch]
    order = np.random.default_rng(0).permutation(len(rows))
    random_batches = [[rows[i] for i in order[s : s + 4]] for s in range(0, len(rows), 4)]
    assert padding(sorted_batches) < 0.4 * padding(random_batches)

    means = [np.mean([len(row.response) for row in batch]) for batch in sorted_batches]
    rising = sum(a < b for a, b in itertools.pairwise(means))
    assert 0.25 * len(means) < rising < 0.75 * len(means)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_a_global_batch(data, chat, processes):
    """A run on P processes with b rows each sees the batches of one process with P * b rows."""
    one, many = batches(data, chat, size=8), batches(data, chat, size=2 * 4)
    for step in range(10):
        whole = one.batch(step)
        shares = [many.batch(step)[number::processes] for number in range(processes)]
        assert {len(share) for share in shares} == {8 // processes}
        told = [names(chat, share) for share in shares]
        assert sorted(itertools.chain(*told)) == sorted(names(chat, whole))
        assert not set.intersection(*map(set, told))


@pytest.mark.parametrize("max_prompt", [1000, 60])
def test_a_process_tokenises_its_own_rows_and_no_others(data, chat, monkeypatch, max_prompt):
    whole = batches(data, chat, size=8, max_prompt=max_prompt)
    parts = batches(data, chat, size=8, max_prompt=max_prompt)
    read = []
    row = Tokenised.row

    def counted(self, index, wrong):
        found = row(self, index, wrong)
        read.append(found)
        return found

    for step in range(12):
        expected = whole.batch(step)
        with monkeypatch.context() as patch:
            patch.setattr(Tokenised, "row", counted)
            shares = []
            for number in range(4):
                read.clear()
                shares.append(parts.batch(step, (number, 4)))
                assert [found for found in read if found is not None] == shares[-1]
                assert max_prompt < 1000 or len(read) == 2
        assert [share[place] for place in range(2) for share in shares] == expected


# --- wrong steering prompts ---------------------------------------------------------------------


def test_the_wrong_concept_is_never_the_own(data, chat):
    made = batches(data, chat, size=5)
    pairs = set()
    for step in range(60):
        for row in made.batch(step):
            assert row.steering == chat.text(f"concept {row.concept_id}")
            assert row.wrong != row.steering
            pairs.add((row.concept_id, chat.decode(row.wrong)))
    everything = {
        (own, f"concept {other}") for own in range(5) for other in range(5) if other != own
    }
    assert pairs == everything  # and every other concept serves


def test_wrong_concepts_come_from_the_given_ones_only(data, chat):
    rows = np.concatenate([data.rows(0), data.rows(1), data.rows(3)])
    made = batches(data, chat, rows=rows)
    wrong = {chat.decode(row.wrong) for step in range(40) for row in made.batch(step)}
    assert wrong == {"concept 0", "concept 1", "concept 3"}


def test_a_single_concept_has_no_wrong_one(data, chat):
    made = batches(data, chat, rows=data.rows(2))
    assert all(row.wrong == row.steering for row in made.batch(0))


def test_wrong_concepts_of_a_row_change_from_epoch_to_epoch(data, chat):
    made = batches(data, chat)
    seen: dict[str, set[str]] = {}
    for step in range(5 * made.per_epoch):
        batch = made.batch(step)
        for name, row in zip(names(chat, batch), batch, strict=True):
            seen.setdefault(name, set()).add(chat.decode(row.wrong))
    assert sum(len(wrong) > 1 for wrong in seen.values()) > 0.9 * len(seen)


# --- rows that do not fit -----------------------------------------------------------------------


def test_too_long_prompts_are_replaced_in_the_same_way_each_time(data, chat):
    """By the next row that fits; the batch keeps its size, the others keep their places."""
    lengths = {
        chat.decode(chat.response(e.response)).split(" arr")[0]: len(chat.prompt(e.prompt).ids)
        for e in data.examples(range(len(data)))
    }
    limit = int(np.median(list(lengths.values())))
    free, limited = batches(data, chat), batches(data, chat, max_prompt=limit)
    order = list(lengths)
    replaced = 0
    for step in range(30):
        batch = limited.batch(step)
        assert batch == batches(data, chat, max_prompt=limit).batch(step)
        assert all(len(row.prompt.ids) <= limit for row in batch)
        for old, new in zip(names(chat, free.batch(step)), names(chat, batch), strict=True):
            place = order.index(old)
            following = order[place:] + order[:place]
            assert new == next(name for name in following if lengths[name] <= limit)
            replaced += new != old
        assert all(row.wrong != row.steering for row in batch)
    assert replaced > 10


def test_no_prompt_short_enough_is_told(data, chat):
    with pytest.raises(DataError, match=r"data\.max_prompt_tokens; raise it"):
        batches(data, chat, max_prompt=3).batch(0)


def test_no_rows_at_all_are_told(data, chat):
    with pytest.raises(DataError, match="no rows to train on"):
        batches(data, chat, rows=np.zeros(0, dtype=np.int64), concepts=[0])


def test_empty_responses_are_left_out(write_rows, row, chat):
    rows = [row(response="", concept_id=0, complete=False), row(response="Aye", concept_id=0)]
    made = batches(write_rows(rows), chat, size=2)
    assert names(chat, made.batch(0)) == ["Aye", "Aye"]


def test_blank_responses_are_left_out_even_where_they_are_whole(write_rows, row, chat):
    rows = [row(response=" \n", concept_id=0, complete=True), row(response="Aye", concept_id=0)]
    made = batches(write_rows(rows), chat, size=2)
    assert names(chat, made.batch(0)) == ["Aye", "Aye"]


def test_what_the_window_cannot_hold_is_left_out(data, chat):
    """Only where it is read: both prompts as one text, or one in the other's user turn."""
    index, wrong = 0, 3
    text = data.example(index).prompt
    prompt, response = chat.prompt(text), chat.response(data.example(index).response)
    read = 1 + len(chat.text("concept 3")) + len(prompt.ids) - prompt.prefix
    given = len(chat.prompt(prompted(text, "concept 0")).ids) + len(response)

    def row(**options):
        return Tokenised(data, chat, 1000, 1000, **options).row(index, wrong)

    bos = chat.tokenizer.bos_token_id is not None
    assert row(window=read - (not bos), together=True) is not None
    assert row(window=read - (not bos) - 1, together=True) is None
    assert row(window=read - 2) is not None
    ends = data.example(index).complete
    assert row(window=given + ends, prompting=True) is not None
    assert row(window=given + ends - 1, prompting=True) is None
    assert row(window=given - 2) is not None


def test_beside_the_prompt_rows_say_their_own_steering_prompt(data, chat):
    tokens = Tokenised(data, chat, 1000, 1000, beside=True)
    plain = Tokenised(data, chat, 1000, 1000)
    row, other = tokens.row(0, 3), plain.row(0, 3)
    text = data.example(0).prompt
    assert row.prompt == row.prompted == chat.prompt(prompted(text, "concept 0"))
    assert row.plain == other.prompt == other.plain == chat.prompt(text)
    assert (row.response, row.steering, row.wrong) == (other.response, other.steering, other.wrong)
    (found,) = validation_rows(tokens, np.array([0]), [0, 3], seed=0)
    assert found.wrong_prompt == found.wrongly_prompted == chat.prompt(prompted(text, "concept 3"))
    (found,) = validation_rows(plain, np.array([0]), [0, 3], seed=0)
    assert found.wrong_prompt == found.row.prompt


def test_validation_leaves_out_what_does_not_fit_with_a_steering_prompt(data, chat):
    rows = np.arange(len(data))
    every = validation_rows(Tokenised(data, chat, 1000, 1000), rows, range(5), seed=0)
    longest = [
        max(len(v.prompted.ids), len(v.wrongly_prompted.ids)) + len(v.row.response) for v in every
    ]
    window = int(np.median(longest))
    tokens = Tokenised(data, chat, 1000, 1000, window=window)
    found = validation_rows(tokens, rows, range(5), seed=0)
    assert 0 < len(found) < len(every)
    assert found == [v for v, length in zip(every, longest, strict=True) if length <= window]


def test_a_prompt_that_the_template_refuses_is_named(data, chat, monkeypatch):
    def refuse(prompt):
        raise SteeringError("the chat template refuses this prompt: no")

    monkeypatch.setattr(chat, "prompt", refuse)
    with pytest.raises(DataError, match=r"data, row 7: the chat template refuses this prompt: no"):
        Tokenised(data, chat, 1000, 1000).row(7, 0)


# --- what is in a row ---------------------------------------------------------------------------


def test_a_row_holds_the_tokens_of_its_texts(write_rows, row, chat):
    data = write_rows(
        [row("Tell me.", "Arr", 0, complete=True), row("Say on.", "Aye aye", 1, complete=False)]
    )
    tokens = Tokenised(data, chat, 100, 100)
    first, second = tokens.row(0, 1), tokens.row(1, 0)
    assert first.prompt == chat.prompt("Tell me.")
    assert first.response == [*chat.text("Arr"), END]  # a whole response teaches to end
    assert second.response == chat.text("Aye aye")  # a cut one does not
    assert (first.steering, first.wrong) == (chat.text("concept 0"), chat.text("concept 1"))
    assert (first.concept_id, second.concept_id) == (0, 1)


def test_long_responses_are_cut_and_then_do_not_end(write_rows, row, chat):
    data = write_rows([row("Tell me.", "Arr arr arr", 0, complete=True)])
    ids = chat.text("Arr arr arr")
    assert Tokenised(data, chat, 100, 4).row(0, 0).response == ids[:4]
    assert Tokenised(data, chat, 100, len(ids)).row(0, 0).response == ids
    assert Tokenised(data, chat, 100, len(ids) + 1).row(0, 0).response == [*ids, END]


def test_the_prompt_limit_counts_the_whole_prompt(write_rows, row, chat):
    data = write_rows([row("Tell me.", "Arr", 0)])
    length = len(chat.prompt("Tell me.").ids)
    assert Tokenised(data, chat, length, 100).row(0, 0) is not None
    assert Tokenised(data, chat, length - 1, 100).row(0, 0) is None


def test_the_prompting_baseline_holds_both_texts(write_rows, row, chat):
    data = write_rows([row("Tell me.", "Arr", 0), row("Go on.", "Aye", 1)])
    text = "Follow this steering prompt in your answer: concept 1\n\nTell me."
    assert prompted("Tell me.", "concept 1") == text
    assert Tokenised(data, chat, 100, 100).prompted(0, 1) == chat.prompt(text)


# --- validation ---------------------------------------------------------------------------------


def test_validation_rows_are_all_there_sorted_and_fixed(data, chat):
    tokens = Tokenised(data, chat, 1000, 1000)
    rows = np.concatenate([data.rows(1)[:5], data.rows(4)[:6]])
    found = validation_rows(tokens, rows, [1, 4], seed=3)
    assert sorted(names(chat, [v.row for v in found])) == sorted(
        [*(f"Row 1-{n}" for n in range(5)), *(f"Row 4-{n}" for n in range(6))]
    )
    chars = [data.lengths(rows)[i] for i in np.argsort(data.lengths(rows), kind="stable")]
    told = [len(chat.decode(v.row.response)) for v in found]
    assert chars == sorted(chars)
    assert np.corrcoef(told, chars)[0, 1] > 0.8  # sorted with their prompts
    for validation in found:
        row = validation.row
        assert chat.decode(row.wrong) == f"concept {1 if row.concept_id == 4 else 4}"
    assert validation_rows(tokens, rows, [1, 4], seed=3) == found


def test_validation_rows_carry_both_prompted_forms(data, chat):
    tokens = Tokenised(data, chat, 1000, 1000)
    (found,) = validation_rows(tokens, data.rows(2)[:1], [2, 3], seed=0)
    prompt = data.example(int(data.rows(2)[0])).prompt
    assert found.prompted == chat.prompt(prompted(prompt, "concept 2"))
    assert found.wrongly_prompted == chat.prompt(prompted(prompt, "concept 3"))


def test_validation_leaves_out_too_long_prompts(data, chat):
    rows = np.arange(len(data))
    lengths = [len(chat.prompt(e.prompt).ids) for e in data.examples(rows)]
    limit = int(np.median(lengths))
    found = validation_rows(Tokenised(data, chat, limit, 1000), rows, range(5), seed=0)
    assert len(found) == sum(length <= limit for length in lengths)
    assert 0 < len(found) < len(rows)
    wrongs = {chat.decode(v.row.wrong) for v in found}
    assert wrongs == {f"concept {c}" for c in range(5)}
    assert all(v.row.wrong != v.row.steering for v in found)


@pytest.mark.parametrize(("count", "size"), [(7, 3), (6, 3), (2, 5), (0, 4)])
def test_chunks_cover_everything_in_order(count, size):
    rows = list(range(count))
    parts = list(chunks(rows, size))  # type: ignore[arg-type]
    assert [row for part in parts for row in part] == rows
    assert all(len(part) == size for part in parts[:-1])


def test_strengths_are_drawn_anew_in_every_step_and_change_nothing_else(data, chat):
    plain = batches(data, chat, size=8)
    drawn = batches(data, chat, size=8, showing={"strengths": (0.5, 1.5)})
    seen = set()
    for step in range(6):
        rows = drawn.batch(step)
        assert [row._replace(strength=1.0) for row in rows] == plain.batch(step)
        assert {row.strength for row in plain.batch(step)} == {1.0}
        assert all(0.5 <= row.strength < 1.5 for row in rows)
        assert drawn.batch(step, (1, 2)) == rows[1::2]
        seen |= {row.strength for row in rows}
    assert len(seen) == 6 * 8


def test_shares_of_rows_leave_the_steering_prompt_out_or_undo_it(data, chat):
    """Both shares are met over many steps, and a process draws what a whole batch has."""
    tokens = Tokenised(data, chat, 1000, 1000, beside=True)
    rows, concepts = np.arange(len(data)), [0, 1]
    showing = Showing(strengths=(0.5, 1.5), alone=0.5, negated=0.25)
    made = TrainingBatches(tokens, rows, concepts, 8, 3, showing)
    shown = [row for step in range(60) for row in made.batch(step)]
    for row in shown:
        assert row.prompt in (row.plain, row.prompted)
        assert (row.strength < 0) == row.negated
        assert 0.5 <= abs(row.strength) < 1.5
        assert row.prompt == row.plain or not row.negated
    negated = sum(row.negated for row in shown) / len(shown)
    alone = sum(row.prompt == row.plain for row in shown) / len(shown)
    assert negated == pytest.approx(0.25, abs=0.07)
    assert alone == pytest.approx(1 - 0.5 * 0.75, abs=0.07)
    assert made.batch(7, (1, 2)) == made.batch(7)[1::2]
    plain = TrainingBatches(tokens, rows, concepts, 8, 3)
    assert [row.response for row in plain.batch(7)] == [row.response for row in made.batch(7)]


@pytest.mark.parametrize(("share", "negated"), [(0.3, 0.0), (0.5, 0.3), (1.0, 0.3), (1.0, 0.0)])
def test_a_share_of_rows_is_contrasted(data, chat, share, negated):
    """Never a negated one; the weights of a step add up to its rows, whoever has them."""
    tokens = Tokenised(data, chat, 1000, 1000)
    showing = Showing(negated=negated, contrasted=share)
    made = TrainingBatches(tokens, np.arange(len(data)), [0, 1], 8, 3, showing)
    for step in range(40):
        rows = made.batch(step)
        weights = {row.contrast for row in rows if row.contrast}
        free = [row for row in rows if not row.negated]
        count = min(len(free), math.ceil(share * 8))
        assert sum(row.contrast > 0 for row in free) == count == sum(r.contrast > 0 for r in rows)
        assert weights == ({8 / count} if count else set())
        assert made.batch(step, (1, 2)) == rows[1::2]
    none = TrainingBatches(tokens, np.arange(len(data)), [0, 1], 8, 3, Showing(contrasted=0.0))
    assert {row.contrast for row in none.batch(0)} == {0.0}


def test_each_row_once(data, chat):
    made = batches(data, chat, size=8)
    assert names(chat, list(made.each())) == [
        data.example(row).response.split(" arr")[0] for row in range(len(data))
    ]
    assert list(batches(data, chat, max_prompt=1).each()) == []
