"""A real HTTP server on this machine that speaks the chat-completions protocol, to a script."""

import json
import math
import threading
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Asked(NamedTuple):
    """A request: its number from 0, its body, its headers in lower case, its last message."""

    number: int
    body: dict
    headers: dict
    text: str


class Sent(NamedTuple):
    """What is sent back; `drop` closes the line without an answer."""

    status: int = 200
    body: str = ""
    headers: tuple = ()
    drop: bool = False


def said(text, finish="stop", tokens=(10, 5), **message):
    """A whole reply with a text."""
    choice = {"index": 0, "finish_reason": finish}
    choice["message"] = {"role": "assistant", "content": text, **message}
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    return Sent(body=json.dumps({"id": "x", "choices": [choice], "usage": usage}))


def unsure(likely, tokens=(10, 1)):
    """A reply of one token with the probabilities of the likeliest first ones."""
    top = [{"token": token, "logprob": math.log(share)} for token, share in likely.items()]
    choice = {"index": 0, "finish_reason": "length", "message": {"content": top[0]["token"]}}
    choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    return Sent(body=json.dumps({"id": "x", "choices": [choice], "usage": usage}))


def refused(status, message="no luck", code=None, **headers):
    """An error as OpenAI sends it."""
    body = json.dumps({"error": {"message": message, "code": code, "type": "x"}})
    pairs = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Sent(status, body, pairs)


class ChatServer:
    """Records what it is asked and answers as `script` says; by default it echoes."""

    def __init__(self):
        self.script: Callable[[Asked], Sent] = lambda asked: said(f"echo {asked.text}")
        self.asked: list[Asked] = []
        self.most_at_once = 0
        self.url = ""
        self._at_once = 0
        self._lock = threading.Lock()

    @property
    def texts(self):
        return [asked.text for asked in self.asked]

    def answer(self, body, headers):
        with self._lock:
            text = body["messages"][-1]["content"]
            asked = Asked(len(self.asked), body, headers, text)
            self.asked.append(asked)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        sent = self.script(asked)
        with self._lock:
            self._at_once -= 1
        return sent


@contextmanager
def serving():
    """A running server."""
    chat = ChatServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self):
            length = int(self.headers["Content-Length"])
            raw = self.rfile.read(length)
            if self.path == "/v1/chat/completions":
                headers = {name.lower(): value for name, value in self.headers.items()}
                sent = chat.answer(json.loads(raw), headers)
            else:
                sent = Sent(404, "no such page")
            if sent.drop:
                self.close_connection = True
                return
            content = sent.body.encode()
            self.send_response(sent.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            for name, value in sent.headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128  # the default of 5 turns away a burst of connections

        def handle_error(self, request, client_address):
            """A client that has hung up is part of the tests."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    chat.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield chat
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
