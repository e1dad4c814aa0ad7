"""Chat-completions servers on loopback: one with every fault that a question asks for, one over our own engine."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lorid_engine.engine import Engine, Request, SamplingParams

GOOD = '{"rules": ["Multiply the number of groups by the size of a group.", "Add the parts to find the whole."]}'
Answer = tuple[int, Any]  # status, and the body: JSON, or bytes as they are


def completion(text: str | None) -> dict[str, Any]:
    """A response with one choice, which took 100 tokens in and 10 out."""
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }


@contextmanager
def serve(answer: Callable[[dict[str, Any]], Answer]) -> Iterator[str]:
    """A server that answers each request's JSON by a function; gives its base URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, body = answer(request) if self.path.endswith("/chat/completions") else (404, {"error": "no"})
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if b"fault:drips" in json.dumps(request).encode():
                for _ in range(200):  # no piece is late, but the whole never comes
                    self.wfile.write(b" ")
                    self.wfile.flush()
                    time.sleep(0.2)
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:  # an answer that raises breaks the connection off
            pass

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Faults:
    """Answers well, but for the questions whose text names a fault; counts what was asked."""

    def __init__(self, formats: tuple[str, ...] = ("json_schema", "json_object", "text"), status: int = 400) -> None:
        self.formats, self.status = formats, status
        self.asked: Counter[str] = Counter()
        self.requests: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def __call__(self, request: dict[str, Any]) -> Answer:
        text = request["messages"][-1]["content"]
        fault = text.split("fault:")[1].split()[0] if "fault:" in text else "none"
        with self._lock:
            self.requests.append(request)
            self.asked[fault] += 1
            count = self.asked[fault]
        if request.get("response_format", {}).get("type", "text") not in self.formats:
            return self.status, {"error": {"message": "response_format is not supported"}}
        if fault == "slow":
            time.sleep(0.3)
        if fault == "stuck":
            time.sleep(3)
        if fault in ("429", "500") and count < 3:
            return int(fault), {"error": {"message": "later"}}
        if fault == "always500":
            return 500, {"error": {"message": "broken"}}
        if fault == "400":
            return 400, {"error": {"message": "too long"}}
        if fault == "key":
            return 401, {"error": {"message": "wrong key"}}
        if fault == "nojson":
            return 200, b"<html>"
        if fault == "nomessage":
            return 200, {**completion(""), "choices": [{"index": 0, "message": None}]}
        if fault == "nullchoice":
            return 200, {**completion(""), "choices": [None], "usage": {"prompt_tokens": "12"}}
        if fault == "nochoice":
            return 200, {**completion(""), "choices": []}
        texts = {
            "broken": '{"rules": ["Add',
            "empty": "",
            "null": None,
            "dots": '{"rules": ["...", "1. 2"]}',
            "norules": '{"rules": []}',
            "wrong": '{"rules": "Add all."}',
            "deep": '{"rules": ' + "[" * 100_000,
            "braces": f"We use \\frac{{1}}{{2}} {{x}}. {GOOD}",
            "parts": [{"type": "text", "text": GOOD[:20]}, {"type": "text", "text": GOOD[20:]}],
            "number": 5,
            "fenced": f"Here they are:\n```json\n{GOOD}\n```\nGood luck!",
        }
        if fault == "once" and count == 1:
            return 200, completion("no idea")
        return 200, completion(texts.get(fault, GOOD))


def engine_answers(engine: Engine) -> Callable[[dict[str, Any]], Answer]:
    """Answers by an engine's base model; one request at a time."""
    lock = threading.Lock()

    def answer(request: dict[str, Any]) -> Answer:
        prompt = "\n".join(message["content"] for message in request["messages"])[-200:]
        sampling = SamplingParams(temperature=request["temperature"], max_tokens=min(request["max_tokens"], 16))
        with lock:
            [output] = list(engine.generate([Request(prompt, sampling=sampling)]))
        return 200, completion(output.outputs[0].text)

    return answer
