"""The local judge as it comes: a real engine, real models, and answers that differ plainly."""

import importlib.util

import pytest

from hypersteer.config import JudgeConfig
from hypersteer.judges import choose
from hypersteer.judges.judge import Answer
from hypersteer.lm.catalogue import find_known
from hypersteer.lm.load import load_lm
from hypersteer.lm.stored import stored_gguf

pytestmark = [pytest.mark.models, pytest.mark.slow]

TASK = "How do I boil an egg?"
GOOD = Answer(
    "talk like a pirate",
    TASK,
    "Arr, matey! Drop yer egg in boilin' water an' count nine minutes by the ship's bell.",
)
PLAIN = GOOD._replace(response="Put the egg into boiling water, wait nine minutes, and cool it.")
BROKEN = GOOD._replace(response="Arr egg egg the of matey boil matey of the egg sea sea boil arr.")


def test_it_tells_good_plain_and_broken_answers_apart():
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip('needs the extra "local": pip install "hypersteer[local]"')
    for name in (choose.ASKED, choose.OTHER):
        if stored_gguf(find_known(name)) is None:
            pytest.skip(f"not on this disk; `hypersteer models get {name}` fetches it")
    lm = load_lm(choose.SMALL)
    judge = choose.make_judge(JudgeConfig(kind="local", threads=1), lm)
    assert "steered model" not in judge.name
    good, plain, broken = judge.judge([GOOD, PLAIN, BROKEN])
    assert good.concept.score > plain.concept.score
    assert plain.fluency.score > broken.fluency.score
    assert good.overall > max(plain.overall, broken.overall)
