"""A head that was taught three conditions, for every family."""

import pytest

from conditions.worlds import CONFIG, described
from hypersteer.conditions.lessons import read_lessons
from hypersteer.conditions.teach import teach_head


@pytest.fixture(scope="module")
def taught(lm, tmp_path_factory):
    head = teach_head(read_lessons(lm, described(), CONFIG), CONFIG, base_lm=str(lm.identity))
    return head.save(tmp_path_factory.mktemp("head") / "head.safetensors")
