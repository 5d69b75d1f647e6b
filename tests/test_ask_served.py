"""ask with a teacher behind a real server on loopback: what is sent to it, what of it is paid, and what comes of it."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from earwitness.ask import ask
from earwitness.config import RunConfig
from earwitness.sources.drafts import SCHEMA
from earwitness.sources.questions import read_folder
from test_ask import asking, clip_file
from test_drafts import GOOD, OTHER


@pytest.fixture(autouse=True)
def untested(monkeypatch):
    """The server here says what it was told to say, which no test of servers would let pass."""
    monkeypatch.setattr("earwitness.ask.refuse_unfit", lambda *_: None)


class Server(ThreadingHTTPServer):
    """Answers requests that show something with questions, and guesses where nothing is shown."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        said = "<answer>twice</answer>" if not shown(body) else json.dumps({"questions": [GOOD, OTHER]})
        one = {"message": {"content": said}, "finish_reason": "stop"}
        data = json.dumps({"choices": [one] * body.get("n", 1)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def shown(body: dict[str, Any]) -> list[str]:
    """The kinds of what a request shows beside its words."""
    return [part["type"] for part in body["messages"][0]["content"] if part["type"] != "text"]


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as one:
        threading.Thread(target=one.serve_forever, daemon=True).start()
        yield one
        one.shutdown()


def served_by(url: str, folder: Path, profile: str = "vllm") -> RunConfig:
    teacher = {"kind": "served", "name": "a/teller", "base_url": url, "profile": profile}
    return asking(folder, models={"teacher": teacher})


@pytest.mark.parametrize(
    "profile, key, held",
    [
        ("vllm", "structured_outputs", {"json": json.loads(SCHEMA)}),
        (
            "sglang",
            "response_format",
            {"type": "json_schema", "json_schema": {"name": "answer", "schema": json.loads(SCHEMA), "strict": True}},
        ),
        ("openai", "response_format", None),
    ],
)
def test_a_server_sees_frames_then_nothing_and_is_held_to_the_form(profile, key, held, server, tmp_path):
    clip_file(tmp_path / "videos" / "a.mp4")
    outcome = ask(served_by(server.url, tmp_path / "videos", profile), tmp_path / "runs", quiet=True)
    assert not outcome.failing and outcome.dropped == "1 x the same model answers it without the clip"
    assert [(q.text, q.answer, q.tags["asked_by"]) for q in read_folder(tmp_path / "videos")] == [
        (GOOD["question"], None, "a/teller")
    ]
    first, *blind = server.bodies
    assert set(shown(first)) <= {"video_url", "image_url"} and shown(first)
    assert first.get(key) == held
    assert len(blind) == 2 and not any(shown(body) or key in body for body in blind)
    assert str(tmp_path) not in json.dumps(server.bodies)


def test_what_a_server_was_paid_for_is_not_asked_again_by_another_run(server, tmp_path):
    folder = tmp_path / "videos"
    clip_file(folder / "a.mp4")
    config = served_by(server.url, folder)
    ask(config, tmp_path / "runs", quiet=True)
    first, paid = (folder / "questions.jsonl").read_bytes(), len(server.bodies)
    (folder / "questions.jsonl").unlink()
    shutil.rmtree(next((tmp_path / "runs" / "small").glob("ask-*")))
    ask(config.model_copy(update={"name": "again"}), tmp_path / "runs", quiet=True)
    assert (folder / "questions.jsonl").read_bytes() == first and len(server.bodies) == paid
