"""Calibration files that are damaged: each is read or told in one line."""

import json
from contextlib import suppress

import pytest

from damages import DAMAGES, check_told, damaged, odd_values
from hypersteer.errors import ConfigError, SteeringError
from hypersteer.judges.calibration import Calibration
from hypersteer.judges.judge import Answer, Judgement
from hypersteer.judges.likelihood import LikelihoodJudge
from judges.test_likelihood import calibration_of


@pytest.fixture
def file(tiny_llama, tmp_path):
    path = tmp_path / "made.json"
    calibration_of(tiny_llama).save(path)
    return path


@pytest.mark.parametrize("how", [how for how in DAMAGES if how != "all but a byte"])
def test_a_damaged_file_is_told(file, how):
    file.write_bytes(damaged(file.read_bytes(), how))
    with pytest.raises(ConfigError) as told:
        Calibration.load(file)
    check_told(told, file)


def test_constants_are_read_or_told(file, tiny_llama):
    """Whatever stands in them, nothing is left to break when a judge scores."""
    whole, answer, told = json.loads(file.read_text()), Answer("the sea", "Hi", "the ship"), 0
    for place, changed in odd_values(whole):
        file.write_text(json.dumps(changed))
        found = None
        with suppress(SteeringError):
            found = Calibration.load(file)
            if (place[0] == "background" and len(place) == 2) or place[-2:-1] == ["signals"]:
                (judgement,) = LikelihoodJudge(tiny_llama, found).judge([answer])
                assert isinstance(judgement, Judgement)
                assert 0 <= judgement.overall <= 2
        told += found is None
    assert told > 100
