"""A head that writes conditions from words: what it learns, and what its conditions decide."""

import shutil
from dataclasses import replace
from weakref import WeakKeyDictionary

import pytest
import torch
from torch.nn import functional as F

import hypersteer as hs
import tiny
from conditions.worlds import ANSWER, CONFIG, SEA, SUMS, described, off_topic, on_topic
from gating import states_by_hand
from hypersteer.answering import Answerer
from hypersteer.checkpoint import export, write_folder
from hypersteer.conditions.described import Described
from hypersteer.conditions.head import FORMAT, SHIPPED, ConditionHead, head_for, load_head
from hypersteer.conditions.head_measures import head_logits
from hypersteer.conditions.lessons import Lesson, read_lessons
from hypersteer.conditions.teach import far_off, teach_head
from hypersteer.config.conditions import HeadConfig
from hypersteer.engine.requests import as_request
from hypersteer.errors import CheckpointError, ConfigError, DataError, SteeringError
from hypersteer.files import CONDITION_HEAD
from hypersteer.stats import auroc
from hypersteer.tensor_files import read_value, write_value


def score_by_hand(lm, condition, prompt, response=()):
    """Mean over the layers of the cosine with the centred, scaled mean state."""
    found = []
    for row, layer in enumerate(condition.layers):
        states = states_by_hand(lm, (*prompt.ids, *response), layer)
        first = len(prompt.ids) if response else prompt.prefix
        state = (states[first:].mean(0) - condition.means[row]) / condition.scales[row]
        found.append(float(F.cosine_similarity(state, condition.directions[row], dim=0)))
    return sum(found) / len(found)


def test_it_tells_new_texts_apart_by_words_that_it_was_taught(lm, taught):
    sea, sums = on_topic(12, seed=7), off_topic(12, seed=8)
    for words, sign in ((SEA, 1), ("speaks of ships", 1), (SUMS, -1)):
        condition = hs.condition(words, lm=lm, head=taught)
        rows = [lm.chat.prompt(text) for text in (*sea, *sums)]
        scores = torch.tensor([score_by_hand(lm, condition, row) for row in rows])
        assert auroc(scores[:12], scores[12:]) == (1 if sign > 0 else 0)
        likely = condition.probabilities(scores)
        assert torch.equal(likely > 0.5, scores > condition.threshold)


def test_reading_tells_how_far_it_is_from_the_first_wording_to_the_last_text(lm):
    told, given = [], described()
    read_lessons(lm, given, CONFIG, lambda *now: told.append(now))
    wordings = sum(len(one.wordings) for one in given)
    texts = {(one.about, text) for one in given for text in one.texts}
    total = wordings + len(texts)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert {of for _, of in told} == {total}
    assert told[-1] == (total, total)


@pytest.mark.parametrize("layer", [0, 3])
def test_rules_in_words_gate_as_their_conditions_do(lm, taught, layer):
    """Also where the edits lie below what the words read, which then is the plain model's."""
    lm = tiny.ending_with(lm)
    text = f'if "{SEA}" and not "{SUMS}" then x at 0.5; if "{ANSWER}" then x at 0.5'
    rules = hs.rules(text, edits={"x": tiny.edit_of(lm, lm.site(layer))}, check="token")
    assert rules.words == (SEA, SUMS, ANSWER)
    with pytest.raises(SteeringError, match=r"no head that writes|trained"):
        lm.generate("Hi", edit=rules, max_new_tokens=1)
    made = rules.ready(lambda words, above: hs.condition(words, lm=lm, above=above, head=taught))
    prompts, log = [*on_topic(2, seed=7), *off_topic(2, seed=8)], hs.Decisions()
    request = as_request(lm, prompts, made, 1.0)
    writers = Answerer(lm).writers(request, decisions=log)
    answers = tiny.decoded(lm, request.prompts, writers, 4).ids
    for prompt, answer, checks in zip(prompts, answers, log.rows, strict=True):
        row = lm.chat.prompt(prompt)
        expected = score_by_hand(lm, made.conditions[SEA], row)
        assert checks[0].scores[SEA] == pytest.approx(expected, abs=1e-4)
        assert checks[0].scores[ANSWER] == -1  # there is none yet
        assert set(checks[0].probabilities) == set(rules.words)
        fired = checks[0].conditions == (SEA,)
        assert (checks[0].edits == ("x",)) == fired
        assert "probabilities" in checks[0].as_dict()
        if not fired or layer == 0:  # at layer 3 only if nothing was written are they plain
            by_hand = score_by_hand(lm, made.conditions[ANSWER], row, answer[:2])
            assert checks[2].scores[ANSWER] == pytest.approx(by_hand, abs=1e-4)


def test_a_rule_says_above_which_probability_its_words_fire(lm, taught):
    edits = {"x": tiny.edit_of(lm, lm.site(3))}
    rules = hs.rules(f'if "{SEA}" above 0.9 or "{SUMS}" then x', edits=edits)
    assert rules.above == {SEA: 0.9, SUMS: 0.5}
    answerer = Answerer(lm, head=taught)
    made = answerer._ready([rules])[0].conditions
    for words, above in rules.above.items():
        by_hand = hs.condition(words, lm=lm, above=above, head=taught)
        assert made[words].threshold == by_hand.threshold
        limit = made[words].probabilities(torch.tensor([by_hand.threshold]))
        assert float(limit) == pytest.approx(above, abs=1e-4)
    with pytest.raises(SteeringError, match=rf"column \d+: '{SEA}' fires above 0.5 before this"):
        hs.rules(f'if "{SEA}" then x; if "{SEA}" above 0.2 then x', edits=edits)


def test_a_file_gives_the_same_conditions(lm, taught, tmp_path):
    head = load_head(taught)
    again = load_head(head.save(tmp_path / "again.safetensors"))
    for name, value in head.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    one = hs.condition(SEA, lm=lm, head=taught)
    assert one is hs.condition(SEA, lm=lm, head=taught)  # made once
    other = hs.load_condition(one.save(tmp_path / "sea.safetensors"))
    assert (other.joined, other.calibration) == (one.joined, one.calibration)
    assert torch.equal(other.directions, one.directions)


def test_a_head_of_earlier_versions_is_one_network(lm, tmp_path):
    config = replace(CONFIG, members=1, steps=3)
    new = teach_head(read_lessons(lm, described(), config), config).save(
        tmp_path / "new.safetensors"
    )
    header, tensors = read_value(new, FORMAT, "head")
    del header["config"]["members"]
    tensors = {name.removeprefix("members.0."): value for name, value in tensors.items()}
    old = write_value(tmp_path / "old.safetensors", tensors, header, "head")
    one, other = (hs.condition(SEA, lm=lm, head=path) for path in (old, new))
    assert torch.equal(one.directions, other.directions)
    assert (one.threshold, one.calibration) == (other.threshold, other.calibration)


def test_what_several_networks_write_is_their_mean():
    """With one layer exactly: the logits of the condition are the mean of theirs."""
    torch.manual_seed(0)
    config = HeadConfig(words_layers=(1,), layers=(0,), hidden=8, members=3)
    head = ConditionHead(16, config).eval()
    for number, member in enumerate(head.members):
        member.log_slope.data.fill_(number / 2)
    words, states = torch.randn(2, 1, 16), torch.randn(5, 1, 16)
    together, each = head(words), head.each(words)
    for number in range(2):

        def logits(written, row=number):
            cosines = F.cosine_similarity(states[:, 0], written.directions[row, 0], dim=-1)
            return cosines * written.slopes[row] + written.offsets[row]

        expected = torch.stack([logits(one) for one in each]).mean(0)
        torch.testing.assert_close(logits(together), expected)
    assert len({one.slopes[0].item() for one in each}) == 3


def test_the_head_that_ships_for_a_base_lm_is_found(lm, taught, tmp_path, monkeypatch):
    other = tiny.lm_of("llama" if lm.name == "gpt2" else "gpt2")
    lessons = read_lessons(other, described(), CONFIG)
    foreign = teach_head(lessons, replace(CONFIG, steps=3), base_lm=str(other.identity))
    theirs = foreign.save(tmp_path / "theirs.safetensors")
    monkeypatch.setattr("hypersteer.conditions.head.SHIPPED", (tmp_path / "none", theirs))
    monkeypatch.setattr("hypersteer.conditions.head._chosen", WeakKeyDictionary())
    with pytest.raises(CheckpointError, match="no head that writes conditions from words ships"):
        hs.condition(SEA, lm=lm)
    assert head_for(other)[0] == theirs
    monkeypatch.setattr("hypersteer.conditions.head.SHIPPED", (theirs, taught))
    found = hs.condition(SEA, lm=lm)
    assert torch.equal(found.directions, hs.condition(SEA, lm=lm, head=taught).directions)


def test_heads_that_ship_can_be_read_and_are_for_different_base_lms():
    heads = [load_head(path) for path in SHIPPED]
    assert len({head.base_lm.split("|")[1] for head in heads}) == len(heads)
    for head in heads:
        assert head.config.members == 4
        assert len(head.kept("prompt")) == 400 >= len(head.kept("answer")) > 100
        words = torch.randn(2, len(head.config.words_layers), head.width)
        written = head(words)
        torch.testing.assert_close(written.directions.norm(dim=-1), torch.ones(2, 4))


def test_held_out_conditions_are_not_learnt_from(lm):
    data = described()
    lessons = read_lessons(lm, data, CONFIG)
    few = replace(CONFIG, steps=3)
    without = teach_head(lessons[1:], few)
    held = replace(lessons[0], described=replace(data[0], held_out=True))
    found = teach_head([held, *lessons[1:]], few)
    for name, value in without.state_dict().items():
        assert torch.equal(value, found.state_dict()[name]), name
    with pytest.raises(DataError, match="no conditions to train on"):
        teach_head([held], few)


def test_what_it_cannot_do(lm, taught, tmp_path):
    with pytest.raises(SteeringError, match="the condition ' ' is empty"):
        hs.condition(" ", lm=lm, head=taught)
    with pytest.raises(ConfigError, match="about = 'both' is unknown"):
        hs.condition(SEA, lm=lm, about="both", head=taught)  # type: ignore[arg-type]
    other = tiny.lm_of("llama" if lm.name == "gpt2" else "gpt2")
    with pytest.raises(CheckpointError, match="trained for the base LM"):
        hs.condition(SEA, lm=other, head=taught)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(taught.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="is not a readable head"):
        hs.condition(SEA, lm=lm, head=damaged)
    rules = hs.rules(f'if "the answer {SEA}" then x', edits={"x": tiny.edit_of(lm, lm.site(3))})
    ready = rules.ready(lambda words, above: hs.condition(words, lm=lm, above=above, head=taught))
    with pytest.raises(SteeringError, match="is about the answer, which is not there"):
        lm.generate("Hi", edit=ready, max_new_tokens=1)


def test_a_budget_of_false_positives_is_kept(lm, tmp_path):
    """By counting: at most a share of the kept texts lies above, and as many as it allows."""
    data = described(24)
    sea, sums = on_topic(60, seed=5), off_topic(60, seed=6)
    data += [
        Described(condition=f"is number {n}", inside=sea[3 * n :][:3], off=sums[3 * n :][:3])
        for n in range(20)
    ]
    lessons = read_lessons(lm, data, CONFIG)
    config = replace(CONFIG, steps=20)
    head = teach_head(lessons, config, base_lm=str(lm.identity))
    aside = lessons[19]  # the twentieth that is not held out
    torch.testing.assert_close(head.kept("prompt"), aside.texts, rtol=1e-3, atol=1e-3)
    assert not len(head.kept("answer"))
    none = teach_head(lessons, replace(config, kept=0))
    assert not len(none.kept("prompt"))
    without = teach_head([*lessons[:19], *lessons[20:]], replace(config, kept=0))
    for name, value in without.state_dict().items():
        assert torch.equal(value, head.state_dict()[name]) == (name != "kept_prompt"), name

    path = head.save(tmp_path / "head.safetensors")
    kept = load_head(path).kept("prompt")
    assert torch.equal(kept, head.kept("prompt"))
    plain = hs.condition(SEA, lm=lm, head=path)
    states = dict(zip(plain.layers, kept.unbind(1), strict=True))
    scores = plain.score(states)
    for share, above in ((0.5, 2), (0.3, 1), (0.15, 0)):
        made = hs.condition(SEA, lm=lm, head=path, false_positives=share)
        assert made.threshold == max(plain.threshold, float(scores.sort().values[-above - 1]))
        assert int(made.passed(scores).sum()) <= above
        assert made.calibration == plain.calibration
        assert f"at most {share:g} of texts of many kinds" in made.note
    with pytest.raises(SteeringError, match=r"keeps 6 texts about the prompt.*least is 0.1429"):
        hs.condition(SEA, lm=lm, head=path, false_positives=0.1)
    with pytest.raises(SteeringError, match="keeps 0 texts about the answer"):
        hs.condition(ANSWER, lm=lm, head=path, false_positives=0.1)
    for bad in (0, 1, -0.1, 2, "x", float("nan"), True):
        with pytest.raises(ConfigError, match=r"is not a share between 0 and 1; try 0\.02"):
            hs.condition(SEA, lm=lm, head=path, false_positives=bad)


def test_it_fires_above_the_probability_that_is_asked_for(lm, taught):
    plain = hs.condition(SEA, lm=lm, head=taught)
    scores = torch.linspace(-1, 1, 200)
    likely = plain.probabilities(scores)
    for above in (0.05, 0.2, 0.5, 0.8):
        made = hs.condition(SEA, lm=lm, head=taught, above=above)
        assert torch.equal(made.passed(scores), likely > above)
        assert torch.equal(made.probabilities(scores), likely)
        assert made is hs.condition(SEA, lm=lm, head=taught, above=above)
    for bad in (0, 1, "x", None, float("nan")):
        with pytest.raises(ConfigError, match=r"above .* is not a probability between 0 and 1"):
            hs.condition(SEA, lm=lm, head=taught, above=bad)


def test_rules_use_the_head_beside_their_checkpoint(lm, taught, tmp_path):
    case = tiny.case_of(lm.name, "no-context")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    weights = {name: value.float() for name, value in case.steerer.hypernet.state_dict().items()}
    write_folder(folder, weights, case.steerer.card)
    rules = hs.rules(f'if "{SEA}" then "{case.steer[0]}"')
    prompts = [on_topic(1, seed=7)[0], off_topic(1, seed=8)[0]]
    given = {"steer": rules, "max_new_tokens": 2}
    with pytest.raises(SteeringError, match=r"no head that writes|trained"):
        hs.load(folder, lm=lm).generate(prompts, **given)
    shutil.copy(taught, folder / CONDITION_HEAD)
    kept = hs.load(folder, lm=lm).save(tmp_path / "copy")
    given_away = export(kept, tmp_path / "given")
    for place in (folder, kept, given_away):
        log = hs.Decisions()
        hs.load(place, lm=lm).generate(prompts, decisions=log, **given)
        assert [row[0].conditions for row in log.rows] == [(SEA,), ()]


def planted(kind, count=12, width=16):
    """Conditions whose words and texts lie along one axis each; `off` texts lie along none."""
    torch.manual_seed(0)
    axes = torch.eye(width)[:count]
    found = []
    for number, axis in enumerate(axes):
        own = Described(
            condition=f"is number {number}",
            kind=kind,
            inside=tuple(f"{number} in {n}" for n in range(6)),
            off=tuple(f"{number} off {n}" for n in range(6)),
        )
        inside = 4 * axis + torch.randn(6, width) / 4
        texts = torch.cat([inside, torch.randn(6, width) / 4])[:, None]
        found.append(Lesson(described=own, words=4 * axis[None, None], texts=texts))
    return found


@pytest.mark.parametrize("kind", ["topic", "tone"])
def test_texts_of_far_off_conditions_count_as_false_of_what_is_rarely_true(kind):
    lessons = planted(kind)
    small = {"words_layers": (1,), "layers": (0,), "hidden": 32, "dropout": 0.0}
    config = HeadConfig(**small, steps=200, learning_rate=1e-2, kept=0)

    def fires_on_others(head):
        found = []
        for place, one in enumerate(lessons):
            others = [other for n, other in enumerate(lessons) if n != place]
            texts = torch.cat([other.texts[other.inside] for other in others])
            logits = head_logits(head, replace(one, texts=texts))
            found.append(float((logits > 0).float().mean()))
        return sum(found) / len(found)

    without = fires_on_others(teach_head(lessons, replace(config, others=0)))
    found = fires_on_others(teach_head(lessons, config))
    assert without > 0.2  # nothing told them apart
    if kind == "topic":
        assert found < without / 3
    else:
        assert found == without


def test_far_off_are_those_whose_texts_are_least_like_ones_own():
    lessons = planted("topic", count=5)
    near = replace(lessons[4], texts=lessons[0].texts + 0.01)
    lessons = [*lessons[:4], near]
    head = ConditionHead(16, HeadConfig(words_layers=(1,), layers=(0,), hidden=4))
    far = far_off(head, lessons)
    assert [len(one) for one in far] == [3] * 5  # 85 % of four
    assert set(far[0]) == {1, 2, 3}
    assert set(far[4]) == {1, 2, 3}
    answer = replace(lessons[1].described, about="answer")
    mixed = [lessons[0], replace(lessons[1], described=answer), *lessons[2:]]
    assert 1 not in {*far_off(head, mixed)[0]}
    assert far_off(head, mixed)[1] == []
