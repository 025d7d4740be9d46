"""One server for the tests that only ask."""

import pytest

from serving.live import endless, live


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    steerers = {"tiny": endless(), "reading": endless("cross-attention")}
    with live(steerers, tmp_path_factory.mktemp("edits")) as found:
        yield found
