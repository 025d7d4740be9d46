"""Bad requests: one clear line in OpenAI's format, with the field, before any model work."""

import json

import pytest

from serving.live import endless, live

HI = [{"role": "user", "content": "Hi"}]


def refusal(response, status=400):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    assert "Traceback" not in error["message"]
    return error


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("tools", [], "not supported"),
        ("response_format", {"type": "json_object"}, "text"),
        ("logit_bias", {"5": 1.0}, "logit_bias"),
        ("frequency_penalty", 0.5, "frequency_penalty"),
        ("presence_penalty", True, "presence_penalty"),
        ("temperature", 3, "temperature"),
        ("temperature", "hot", "temperature"),
        ("top_p", 0, "top_p"),
        ("n", 0, "n"),
        ("n", 17, "17 answers"),
        ("max_tokens", 0, "max_tokens"),
        ("max_tokens", 999_999, "999999"),
        ("max_tokens", True, "max_tokens"),
        ("stop", ["x"] * 17, "17 stop strings"),
        ("seed", 2**64, "seed"),
        ("top_logprobs", 2, "logprobs"),
        ("stream_options", {"include_usage": True}, "stream"),
        ("messages", [], "messages"),
        ("messages", [{"role": "user"}], "content"),
        ("messages", [{"role": "user", "content": ""}] * 0, "messages"),
        ("model", "nothing", "not served"),
        ("model", "tiny:", "no steering prompt"),
        ("steering", "", "empty"),
        ("steering", " ", "steering prompt"),
        ("steering", {"text": "x", "edit": "y"}, "a part is one of"),
        ("steering", {}, "a part is one of"),
        ("steering", {"text": "x", "strenght": 2}, "strenght"),
        ("steering", {"text": "x", "strength": "much"}, "strength"),
        ("steering", {"text": "x", "strength": 1e39}, "beyond float32"),
        ("steering", {"text": "x", "scope": "somewhere"}, "scope"),
        ("steering", {"edit": "nothing-there"}, "no edit is stored"),
        ("steering", {"edit": "../../etc/passwd"}, "cannot name an edit"),
        ("steering", {"rule": "guard"}, "unknown rule"),
        ("steering", {"rules": "if x then y", "edits": {"y": "z"}}, "unknown condition 'x'"),
        ("steering", {"rules": "if x the y"}, "if x the y"),
        ("steering", ["x"] * 9, "9 parts"),
        ("steering", "x" * 2001, "2,001 characters"),
        ("steering", "the \ud800 sea", "steering"),
        ("unknown", 1, "not supported"),
    ],
)
def test_a_bad_field_is_named(server, field, value, said):
    body = {"model": "tiny", "messages": HI, "max_tokens": 4, field: value}
    with server.client() as client:
        response = client.post(
            "/v1/chat/completions",
            content=json.dumps(body).encode("utf-8", "surrogatepass"),
            headers={"content-type": "application/json"},
        )
    status = 404 if said in ("not served", "no edit is stored", "unknown rule") else 400
    assert said in refusal(response, status)["message"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 9999],
    ids=["empty", "open", "list", "null", "text", "bytes", "deep"],
)
def test_what_is_no_request(server, content):
    with server.client() as client:
        response = client.post(
            "/v1/chat/completions", content=content, headers={"content-type": "application/json"}
        )
    refusal(response)


def test_a_prompt_that_does_not_fit(server):
    error = refusal(server.chat(messages="bees " * 9000))
    assert "context window" in error["message"]


@pytest.mark.parametrize(
    "prompt", ["", [], [[]], [10**9], [-1], ["a", ""], {"a": 1}, [[1], "a"], None]
)
def test_bad_prompts_of_plain_completions(server, prompt):
    with server.client() as client:
        refusal(client.post("/v1/completions", json={"model": "tiny", "prompt": prompt}))


def test_unknown_paths_and_methods(server):
    with server.client() as client:
        refusal(client.get("/v1/nothing"), 404)
        refusal(client.get("/v1/chat/completions"), 405)
        refusal(client.get("/v1/models/nothing"), 404)


def test_the_key_the_size_and_the_host(tmp_path):
    with live({"tiny": endless()}, tmp_path, key="s3cret", max_body_bytes=2000) as server:
        good = {"authorization": "Bearer s3cret"}
        for headers in ({}, {"authorization": "Bearer s3cre"}, {"authorization": "s3cret"}):
            with server.client(headers=headers) as client:
                error = refusal(server.chat(client, messages="Hi"), 401)
                assert error["type"] == "authentication_error"
                assert client.get("/health").status_code == 200
                assert client.get("/metrics").status_code == 401
        with server.client(headers=good) as client:
            assert server.chat(client, messages="Hi").status_code == 200
            error = refusal(server.chat(client, messages="x" * 3000), 413)
            assert "2,000 bytes" in error["message"]

            def chunks():
                for _ in range(40):
                    yield b" " * 100

            kind = {"content-type": "application/json"}
            response = client.post("/v1/chat/completions", content=chunks(), headers=kind)
            refusal(response, 413)
        with server.client(headers={**good, "host": "evil.example"}) as client:
            refusal(client.get("/health"), 403)


def test_other_pages_may_not_ask(server):
    """No CORS header for anyone, and a form's content types are no JSON."""
    with server.client() as client:
        response = client.options(
            "/v1/chat/completions",
            headers={"origin": "https://evil.example", "access-control-request-method": "POST"},
        )
        assert "access-control-allow-origin" not in response.headers
        body = json.dumps({"model": "tiny", "messages": HI})
        sent = client.post(
            "/v1/chat/completions", content=body, headers={"content-type": "text/plain"}
        )
        refusal(sent)
