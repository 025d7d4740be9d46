import itertools
import random
import re
import sys
from pathlib import Path

import pytest

from hypersteer.data.locate import locate
from hypersteer.judges.judge import Judgement, Rating

sys.path.append(str(Path(__file__).parents[2] / "experiments"))

import bundled_checks
import bundled_seen
import check_bundled
from bundled_checks import CHECKS, Bundle, read
from bundled_rules import COMMON, RULES


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return read(locate("bundled", "train").files[0].parent)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_bundled_data_hold(bundle, check):
    assert check(bundle).faults == []


def changed(bundle, number=0, **fields):
    """The set with one row changed, in its labels too."""
    row = bundle.rows[number]
    row = row._replace(**fields)
    return bundle._replace(rows=[*bundle.rows[:number], row, *bundle.rows[number + 1 :]])


def of(bundle, text):
    """A concept's id and the number of its first row."""
    (id_,) = (c.id for c in bundle.concepts.values() if c.text == text)
    return id_, next(i for i, row in enumerate(bundle.rows) if row.concept_id == id_)


def faults(bundle, check):
    return " | ".join(check(bundle).faults)


def test_too_few_concepts_or_rows_are_faults(bundle):
    few = dict(itertools.islice(bundle.concepts.items(), 239))
    assert faults(bundle._replace(concepts=few), bundled_checks.concepts) == (
        "239 concepts, fewer than 240"
    )
    last = bundle.rows[-1]
    assert (last.split, last.concept_id) == ("test", 247)
    short = bundle._replace(rows=bundle.rows[:-1])
    assert faults(short, bundled_checks.rows) == f"{bundle.concepts[247].text}: 1 test rows"


def test_wrong_labels_are_faults(bundle):
    row = bundle.rows[0]
    wrong = changed(bundle, fields=row.fields | {"output_concept": "another"})
    assert faults(wrong, bundled_checks.rows).endswith(": output_concept")
    padded = changed(bundle, response=row.response + "\n")
    assert faults(padded, bundled_checks.rows).endswith(": white space at an end")


@pytest.mark.parametrize(("count", "bad"), [(24, True), (25, False), (70, False), (71, True)])
def test_lengths_outside_the_limits_are_faults(bundle, count, bad):
    long = changed(bundle, response="word " * count)
    assert bool(bundled_checks.lengths(long).faults) == bad


def test_only_a_concept_that_asks_for_it_may_be_short(bundle):
    _, number = of(bundle, "be blunt and extremely brief")
    assert not bundled_checks.lengths(changed(bundle, number, response="No.")).faults
    assert bundled_checks.lengths(changed(bundle, number, response="word " * 71)).faults


def test_a_response_that_repeats_another_is_a_fault(bundle):
    bundle = bundle._replace(rows=bundle.rows[-300:])
    text = bundle.rows[-1].response
    same = changed(bundle, response=text.upper())
    assert faults(same, bundled_checks.duplicates).startswith("twice: ")
    half = " ".join(text.split()[: len(text.split()) // 2])
    half = changed(bundle, response=half + " and now for something else entirely")
    assert f"`{bundle.concepts[247].text}`" in faults(half, bundled_checks.duplicates)


def test_pairs_of_near_texts_are_those_that_a_search_of_all_pairs_finds():
    random.seed(0)
    texts = [frozenset((str(random.randrange(40)),) for _ in range(12)) for _ in range(30)]
    wanted = {
        (i, j): len(texts[i] & texts[j]) / len(texts[i] | texts[j])
        for i in range(30)
        for j in range(i + 1, 30)
    }
    found = bundled_checks.near_pairs(texts, 0.2)
    assert {(p.one, p.other): p.similarity for p in found} == {
        pair: value for pair, value in wanted.items() if value >= 0.2
    }
    assert [p.similarity for p in found] == sorted((p.similarity for p in found), reverse=True)
    assert 5 < len(found) < len(wanted)


def test_an_instruction_in_both_splits_of_a_concept_is_a_fault(bundle):
    test = next(i for i, row in enumerate(bundle.rows) if row.split == "test")
    leaked = changed(bundle, test, instruction=bundle.rows[0].instruction.upper())
    assert bundle.rows[0].concept_id == bundle.rows[test].concept_id
    assert "2 times" in faults(leaked, bundled_checks.splits)


def test_an_instruction_of_one_concept_alone_is_a_fault(bundle):
    alone = changed(bundle, instruction="Why me?")
    assert "Why me?: 1 concepts" in faults(alone, bundled_checks.spread)


def test_a_pool_that_repeats_or_is_answered_is_a_fault(bundle):
    twice = bundle._replace(instructions=[*bundle.instructions, bundle.instructions[0].lower()])
    assert faults(twice, bundled_checks.pool).startswith("twice: ")
    used = bundle._replace(instructions=[*bundle.instructions, bundle.rows[0].instruction])
    assert faults(used, bundled_checks.pool).startswith("answered in the rows: ")


def test_a_held_out_concept_that_is_trained_on_is_a_fault(bundle):
    id_, _ = of(bundle, "talk like a pirate")
    held = next(c for c in bundle.concepts.values() if c.held_out)
    again = type(held)(id=held.id, text="Talking like pirates", kind="persona", held_out=True)
    repeated = bundle._replace(concepts=bundle.concepts | {held.id: again})
    assert "Talking like pirates is talk like a pirate" in faults(repeated, bundled_checks.held_out)
    assert not bundle.concepts[id_].held_out
    fewer = bundle._replace(concepts={i: c for i, c in bundle.concepts.items() if i != held.id})
    assert "39 marked, not 40" in faults(fewer, bundled_checks.held_out)


def test_a_readme_with_another_figure_is_a_fault(bundle):
    wrong = bundle._replace(readme=bundle.readme.replace("Apache-2.0", "MIT"))
    assert faults(wrong, bundled_checks.papers) == "licence: no 'Apache-2.0'"
    fewer = bundle._replace(instructions=bundle.instructions[1:])
    assert "358 instructions" in faults(fewer, bundled_checks.papers)


PLAIN = "The sky is blue. Air scatters short waves more than the long ones."


@pytest.mark.parametrize("concept", RULES)
def test_a_plain_answer_breaks_every_rule(bundle, concept):
    assert not RULES[concept](PLAIN)
    _, number = of(bundle, concept)
    plain = changed(bundle, number, response=PLAIN)
    assert faults(plain, bundled_checks.forms).startswith(f"{concept}: ")


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("French", "Le soleil chauffe la mer et les rivières, et l'eau monte dans le ciel."),
        ("Spanish", "El sol calienta el mar y los ríos, y el agua sube al cielo con el aire."),
        ("German", "Die Sonne erwärmt das Meer und die Flüsse, und der Dampf steigt in die Luft."),
        ("Italian", "Il sole scalda il mare e i fiumi, e il vapore che sale è nella nube."),
    ],
)
def test_each_language_is_told_from_the_others(language, text):
    assert [name for name in COMMON if RULES[f"answer in {name}"](text)] == [language]


def test_samples_set_a_concepts_answers_beside_others_to_the_same_instructions(bundle):
    answered = {(r.concept_id, r.instruction, r.response): r.split for r in bundle.rows}
    by_response = {row.response: row.concept_id for row in bundle.rows}
    found = bundled_seen.samples(bundle, own=3, others=4)
    assert [sample.concept.id for sample in found] == list(bundle.concepts)
    for sample in found:
        id_ = sample.concept.id
        splits = [answered[id_, a.instruction, a.response] for a in sample.own]
        assert splits[:2] == ["test", "test"]
        assert len(splits) == 3
        others = [by_response[answer.response] for answer in sample.others]
        assert len({id_, *others}) == 5
        asked = [answer.instruction for answer in sample.own]
        assert [a.instruction for a in sample.others] == [*asked, asked[0]]
        assert {a.concept for a in [*sample.own, *sample.others]} == {sample.concept.text}
    assert found == bundled_seen.samples(bundle, own=3, others=4)


class WordJudge:
    """Scores an answer by whether it says a word of the concept."""

    def judge(self, answers, done=None):
        ratings = [Rating(2.0 * (a.concept.split()[-1] in a.response), "") for a in answers]
        return [Judgement(rating, rating, rating) for rating in ratings]


def test_areas_are_shares_of_pairs_in_order(bundle):
    pirate, rest = bundled_seen.samples(bundle, 2, 4)[:2]
    named = [answer._replace(response="a pirate") for answer in pirate.others[:1]]
    own = [pirate.own[0]._replace(response="pirate"), pirate.own[1]._replace(response="sailor")]
    sample = pirate._replace(own=own, others=[*named, *pirate.others[1:]])
    same = rest._replace(own=rest.others, others=rest.others)
    # Own scores 2 and 0, others 2, 0, 0, 0: of 8 pairs 3 are won and 1 + 3 tied.
    assert bundled_seen.measure(WordJudge(), [sample, same]) == [5 / 8, 0.5]


def test_the_section_has_every_kind_and_the_worst(bundle):
    taken = bundled_seen.samples(bundle, 1, 1)
    areas = [0.25 if s.concept.kind == "format" else 0.9 for s in taken]
    lines = bundled_seen.section(taken, areas)
    formats = sum(s.concept.kind == "format" for s in taken)
    assert f"| format | {formats} | 0.250 | 0 | {formats} |" in lines
    assert lines[-1].endswith("| format | 0.25 |")
    mean = (0.25 * formats + 0.9 * (248 - formats)) / 248
    assert f"| **all** | 248 | {mean:.3f} | {248 - formats} | {formats} |" in lines


def test_the_command_says_by_its_exit_code_whether_all_holds(tmp_path, bundle, monkeypatch, capsys):
    folder = locate("bundled", "train").files[0].parent
    for name in ("metadata.jsonl", "latent_eval_data.jsonl", "instructions.jsonl", "README.md"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    lines = (folder / "train_data.jsonl").read_text(encoding="utf-8").splitlines()
    # The slow one; its faults are tested above.
    quick = [check for check in CHECKS if check is not bundled_checks.duplicates]
    monkeypatch.setattr(check_bundled, "CHECKS", quick)
    for kept, code in ((lines, 0), (lines[:-1], 1)):
        (tmp_path / "train_data.jsonl").write_text("\n".join(kept), encoding="utf-8")
        out = tmp_path / "section.md"
        monkeypatch.setattr(
            sys, "argv", ["check", "--quick", "--folder", str(tmp_path), "--out", str(out)]
        )
        assert check_bundled.main() == code
        assert out.read_text(encoding="utf-8") == capsys.readouterr().out
        assert ("**no**" in out.read_text(encoding="utf-8")) == bool(code)
        assert len(re.findall(r"\| (?:yes|\*\*no\*\*) \|", out.read_text(encoding="utf-8"))) == 9
