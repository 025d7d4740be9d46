"""The classes that docs/contributing shows are real: they pass what those of the package do."""

import inspect
import json

import pytest
import torch
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

import hypersteer as hs
import test_edit_kinds
import tiny
from e2e.test_docs import ROOT
from hypersteer.concepts import Concept
from hypersteer.config import EvaluateConfig, ProtocolConfig
from hypersteer.edits.registry import KINDS
from hypersteer.edits.sites import Site
from hypersteer.judges.judge import Answer, Failure, Judgement, Rating
from hypersteer.learning.values import Asked
from hypersteer.methods.protocol import Detector, Method
from hypersteer.methods.registry import METHODS, make_methods
from methods.cases import concepts_of, states_alone


def shown(page):
    """What the first example of a page defines; the others use it with the real base LM."""
    document = Sybil([PythonCodeBlockParser()]).parse(ROOT / f"docs/contributing/{page}.md")
    first, *others = document.examples()
    assert others
    first.evaluate()
    return document.namespace


def test_a_method_learns_and_steers(lm):
    method, site = shown("add_method")["MedianDiff"](), tiny.site_of(lm)
    assert isinstance(method, Method)
    assert isinstance(method, Detector)
    concepts = concepts_of(3, 2)
    learned = method.fit(lm, site, concepts)
    for number, entry in enumerate(concepts):
        sides = [
            torch.cat([states_alone(lm, site, row) for row in side]).median(0).values
            for side in (entry.positives, entry.negatives)
        ]
        expected = torch.nn.functional.normalize(sides[0] - sides[1], dim=0)
        torch.testing.assert_close(
            learned.tensors["directions"][number], expected, rtol=0, atol=1e-3
        )
    steering = method.steer(lm, site, learned, [Asked(concepts[1].concept, "Hi")])
    assert len(steering.writers) == 1
    with pytest.raises(hs.SteeringError):
        method.steer(lm, site, learned, [Asked(Concept(id=99, text="never learnt"), "Hi")])


def test_a_method_has_a_name_with_one_line(monkeypatch):
    made = shown("add_method")["MedianDiff"]
    monkeypatch.setattr("hypersteer.methods.diffmean.MedianDiff", made, raising=False)
    monkeypatch.setitem(METHODS, "median-diff", "hypersteer.methods.diffmean:MedianDiff")
    config = EvaluateConfig(
        methods=("prompting", "median-diff"),
        settings={"median-diff": {"batch_tokens": 512}},
        protocol=ProtocolConfig(),
    )
    assert make_methods(config)["median-diff"] == made(batch_tokens=512)


@pytest.mark.parametrize(
    "holds",
    [
        "parameters_that_are_none_are_refused",
        "save_and_load_are_exact",
        "strength_0_is_the_plain_model_and_any_other_is_felt",
        "a_row_is_answered_alike_alone_in_a_batch_streamed_and_joined",
        "scopes_hold_under_the_cache",
        "stacked_and_joined_rows_do_what_each_does",
        "a_hypernetwork_learns_to_write_it",
    ],
)
def test_a_kind_of_edit_passes_what_all_kinds_do(holds, tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setitem(KINDS, "scale", shown("add_edit_kind")["SCALE"])
    given = {
        "lm": tiny_llama,
        "tiny_llama": tiny_llama,
        "kind": "scale",
        "tmp_path": tmp_path,
        "params": {"other": torch.ones(3)},
        "scope": "response",
    }
    test = getattr(test_edit_kinds, f"test_{holds}")
    test(**{name: given[name] for name in inspect.signature(test).parameters})


def test_a_kind_of_edit_scales(tiny_llama):
    kind = shown("add_edit_kind")["SCALE"]
    hidden = torch.randn(2, 3, 4)
    params = {"factor": torch.tensor([[1.0, 0.0, -1.0, 2.0]] * 2)}
    mask = torch.tensor([[True, True, False], [False, True, True]])
    found = kind.apply(hidden, params, mask, torch.tensor([0.5, -1.0]))
    torch.testing.assert_close(found[0, 0], hidden[0, 0] * torch.tensor([1.5, 1.0, 0.5, 2.0]))
    torch.testing.assert_close(found[1, 2], hidden[1, 2] * torch.tensor([0.0, 1.0, 2.0, -1.0]))
    assert torch.equal(found[~mask], hidden[~mask])


class Fixed:
    """A judge whose scores are fixed, and which fails where it is asked nothing."""

    name = "fixed"

    def judge(self, answers, done=None):
        rating = Rating(1.0, "Fixed.")
        return [
            Judgement(rating, rating, rating) if one.response else Failure("no response")
            for one in answers
        ]


def test_a_judge_by_rule_leaves_the_rest_to_another():
    made = shown("add_judge")
    judge = made["ByRule"](Fixed(), made["RULES"])
    listed, told, other, failed = judge.judge(
        [
            Answer("answer as a numbered list", "How?", "1. Boil.\n2. Pour."),
            Answer("answer as a numbered list", "How?", "Boil, then pour."),
            Answer("talk like a pirate", "How?", "1. Boil.\n2. Pour."),
            Answer("answer as a numbered list", "How?", ""),
        ]
    )
    assert [one.concept.score for one in (listed, told, other)] == [2.0, 0.0, 1.0]
    assert {one.fluency.score for one in (listed, told, other)} == {1.0}
    assert failed == Failure("no response")
    assert "fixed" in judge.name


@pytest.mark.parametrize("variant", tiny.VARIANTS)
def test_an_engine_gives_the_texts_of_ours(variant):
    engine = shown("add_engine")["Uncached"]
    case = tiny.case_of("llama", variant)
    ours = case.steerer
    theirs = hs.Steerer(ours.lm, ours.hypernet, ours.card, generator="test", engine=engine)
    edit = tiny.edit_of(case.lm, Site(2), 4)
    asked = {
        "prompts": ["Hi", "Tell me about your day at the sea.", "Why?"],
        "steer": [case.steer[0], None, [case.steer[1], edit]],
        "max_new_tokens": [5, 3, 7],
    }
    assert theirs.generate(**asked) == ours.generate(**asked)
    with pytest.raises(hs.SteeringError, match="greedy"):
        theirs.generate("Hi", temperature=1.0)


def test_the_files_of_formats_are_as_told(tmp_path, tiny_llama):
    """What docs/formats.md says of a checkpoint and an edit is what is written."""
    from safetensors import safe_open

    from hypersteer.checkpoint import write_folder

    text = (ROOT / "docs/formats.md").read_text(encoding="utf-8")
    steerer = tiny.steerer_of(tiny_llama)
    write_folder(tmp_path, steerer.hypernet.state_dict(), steerer.card)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["format"] in text
    edit = tiny.edit_of(tiny_llama, Site(1))
    with safe_open(edit.save(tmp_path / "edit.safetensors"), "pt") as file:
        header = json.loads(file.metadata()["edit"])
    assert header.pop("format") in text
    assert [name for name in header if f"`{name}`" not in text and name != "site"] == []
    several = hs.EditSet(edits=(edit, tiny.edit_of(tiny_llama, Site(2))))
    with safe_open(several.save(tmp_path / "set.safetensors"), "pt") as file:
        assert json.loads(file.metadata()["edit"])["format"] in text
        assert "1.vector" in file.keys()  # noqa: SIM118
