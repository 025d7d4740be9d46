"""vLLM gives other libraries cause to complain, which is none of ours."""

import pytest


@pytest.fixture(autouse=True)
def silent_libraries(silent_libraries, request):
    yield silent_libraries
    if request.node.get_closest_marker("vllm"):
        silent_libraries.clear()
