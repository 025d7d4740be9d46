"""Serve a steered model, and steer every request in its own way with OpenAI's client.

    pip install "hypersteer[serve,endpoint]"
    python examples/serve_and_steer.py

The script starts `hypersteer serve` on a free port, sends requests that run in one batch, and stops
it. In earnest the server runs by itself, and a client is the few lines of `ask`.
"""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from openai import OpenAI

ASKED = [
    ("Tell me about your day.", "talk like a pirate"),
    ("Tell me about your day.", [{"text": "mention space travel", "strength": 0.8}]),
    ("Tell me about your day.", None),
]


def ask(client: OpenAI, prompt: str, steering: object, max_tokens: int) -> str:
    """Return the answer to one request, steered as it says."""
    body = {} if steering is None else {"steering": steering}
    answer = client.chat.completions.create(
        model="smollm2-135m-instruct",
        messages=[{"role": "user", "content": prompt}],
        temperature=0,
        max_tokens=max_tokens,
        extra_body=body,
    )
    return answer.choices[0].message.content or ""


def main(max_tokens: int = 48) -> list[str]:
    """Serve, ask everything at once, print and return the answers."""
    command = [sys.executable, "-m", "hypersteer", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            told = server.stdout.readline()  # said once it answers: "ADDRESS answers ..."
            if not told:
                sys.exit("the server did not start; its message stands above")
            client = OpenAI(base_url=told.split()[0], api_key="none")
            with ThreadPoolExecutor() as pool:
                waiting = [pool.submit(ask, client, *one, max_tokens) for one in ASKED]
                answers = [one.result() for one in waiting]
        finally:
            server.terminate()  # finishes what runs
    for (prompt, steering), answer in zip(ASKED, answers, strict=True):
        print(f"{prompt} {steering}\n  {answer}\n")
    return answers


if __name__ == "__main__":
    main()
