"""OpenAI's own clients, unchanged: Python's, and JavaScript's where npm can get it."""

import json
import shutil
import subprocess

import openai
import pytest

from serving.live import STEER, TEXTS, endless, live

GREEDY = {"model": "tiny", "temperature": 0, "max_tokens": 12}


def asked(text):
    return [{"role": "user", "content": text}]


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def expected(server, text, steer, **options):
    return server.served["tiny"].steerer.generate(text, steer=steer, max_new_tokens=12, **options)


def test_chat_whole_and_streamed(server, client):
    body = {"steering": {"text": STEER[0], "strength": 0.8}}
    answer = client.chat.completions.create(
        messages=asked(TEXTS[1]), extra_body=body, logprobs=True, top_logprobs=1, **GREEDY
    )
    text = expected(server, TEXTS[1], STEER[0], strength=0.8)
    assert answer.choices[0].message.content == text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 12
    assert len(answer.choices[0].logprobs.content) == 12
    assert answer.steering["parts"][0]["text"] == STEER[0]
    stream = client.chat.completions.create(
        messages=asked(TEXTS[1]),
        extra_body=body,
        stream=True,
        stream_options={"include_usage": True},
        **GREEDY,
    )
    chunks = list(stream)
    pieces = [one.choices[0].delta.content or "" for one in chunks if one.choices]
    assert "".join(pieces) == text
    assert chunks[-1].usage.total_tokens == answer.usage.total_tokens


def test_plain_completions(server, client):
    answer = client.completions.create(prompt=TEXTS, logprobs=2, **GREEDY)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    told = answer.choices[1].logprobs
    assert "".join(told.tokens) == answer.choices[1].text
    assert told.text_offset[1] == len(told.tokens[0])
    assert len(told.top_logprobs[0]) == 2
    pieces = client.completions.create(prompt=TEXTS[1], stream=True, **GREEDY)
    assert "".join(one.choices[0].text for one in pieces) == answer.choices[1].text


def test_models_and_a_suffix(server, client):
    assert [one.id for one in client.models.list()] == ["tiny", "reading"]
    assert client.models.retrieve("tiny").owned_by == "hypersteer"
    answer = client.chat.completions.create(
        messages=asked("Hi"), **{**GREEDY, "model": f"tiny:{STEER[0]}@0.5"}
    )
    assert answer.choices[0].message.content == expected(server, "Hi", STEER[0], strength=0.5)
    assert answer.model == f"tiny:{STEER[0]}@0.5"


def test_errors_are_the_clients_own(tmp_path):
    limits = {"max_rows": 1, "max_answers": 1, "max_queue": 0}
    with live({"tiny": endless()}, tmp_path, key="right", **limits) as server:
        wrong = openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0)
        with pytest.raises(openai.AuthenticationError, match="API key"):
            wrong.models.list()
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="right", max_retries=0)
        with pytest.raises(openai.NotFoundError, match="not served"):
            client.chat.completions.create(messages=asked("Hi"), **{**GREEDY, "model": "gpt-4"})
        with pytest.raises(openai.BadRequestError, match="strenght") as caught:
            client.chat.completions.create(
                messages=asked("Hi"),
                extra_body={"steering": {"text": "x", "strenght": 1}},
                **GREEDY,
            )
        assert caught.value.code == "unsupported_parameter"
        running = client.chat.completions.create(
            messages=asked("Hi"), stream=True, **{**GREEDY, "max_tokens": 200}
        )
        next(iter(running))
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(messages=asked("Hi"), **GREEDY)
        running.close()
        wrong.close()
        client.close()


SCRIPT = """
import OpenAI from "openai";
const [url, steer, text] = process.argv.slice(2);
const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });
const asked = {
  model: "tiny", temperature: 0, max_tokens: 12, steering: { text: steer },
  messages: [{ role: "user", content: text }],
};
const whole = await client.chat.completions.create(asked);
let streamed = "";
for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
}
let refused = "";
try {
  await client.chat.completions.create({ ...asked, model: "other" });
} catch (error) {
  refused = error.constructor.name;
}
console.log(JSON.stringify({ whole: whole.choices[0].message.content, streamed, refused }));
"""


@pytest.fixture(scope="session")
def javascript(tmp_path_factory):
    """A folder with OpenAI's JavaScript client."""
    if shutil.which("npm") is None:
        pytest.skip("no npm on this machine")
    folder = tmp_path_factory.mktemp("javascript")
    (folder / "package.json").write_text('{"type": "module"}')
    command = ["npm", "install", "--no-audit", "--no-fund", "openai@6"]
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"npm cannot get openai: {made.stderr.strip()[-200:]}")
    return folder


def test_the_javascript_client(server, javascript):
    (javascript / "ask.js").write_text(SCRIPT)
    command = ["node", "ask.js", f"{server.url}/v1", STEER[0], TEXTS[1]]
    made = subprocess.run(command, cwd=javascript, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    found = json.loads(made.stdout)
    text = expected(server, TEXTS[1], STEER[0])
    assert found == {"whole": text, "streamed": text, "refused": "NotFoundError"}
