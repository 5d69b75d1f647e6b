"""Handing weights to servers of several kinds: the calls that each has, in order, and nothing more than those."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from earwitness.config import Model
from earwitness.models.served.call import ServerError
from earwitness.models.served.weights import Keeper

KEY = "sk-not-to-be-told"
FOLDER = Path("/runs/small/served/v1")
MODELS = {"data": [{"id": "base", "max_model_len": 512}, {"id": "small-grpo-1-0", "parent": "base"}]}


@contextmanager
def answering(answers: dict[str, tuple[int, object]]) -> Iterator[tuple[str, list]]:
    """A server that knows these calls alone, with canned replies; gives its address and what it was told."""
    told: list = []

    class Canned(BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply(*((200, MODELS) if self.path == "/v1/models" else (405 if self.path in answers else 404, {})))

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.append((self.path, json.loads(body), self.headers.get("Authorization")))
            self.reply(*answers.get(self.path, (404, {})))

        def reply(self, status, body):
            text = body if isinstance(body, str) else json.dumps(body)
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Canned)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/", told
    finally:
        server.shutdown()
        server.server_close()


def keeper(*urls: str, profile="vllm") -> Keeper:
    return Keeper(Model(kind="served", name="base", base_url=urls, profile=profile, api_key_env="TEST_KEY"))


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("TEST_KEY", KEY)


def test_every_server_of_a_model_is_handed_an_adapter_and_forgets_it():
    calls = {"/v1/load_lora_adapter": (200, "Success"), "/v1/unload_lora_adapter": (200, "Success")}
    with answering(calls) as (one, told), answering(calls) as (two, told_two):
        both = keeper(one, two)
        both.refuse_unfit("lora", 8)
        both.load("small-grpo-1-0", FOLDER)
        both.unload("small-grpo-1-0")
        both.unload("small-grpo-1-7")  # which neither has
    assert told == told_two
    assert told == [
        ("/v1/load_lora_adapter", {"lora_name": "small-grpo-1-0", "lora_path": str(FOLDER)}, f"Bearer {KEY}"),
        ("/v1/unload_lora_adapter", {"lora_name": "small-grpo-1-0"}, f"Bearer {KEY}"),
    ]


def test_sglang_has_its_calls_beside_v1_and_names_adapters_after_the_model():
    with answering({"/load_lora_adapter": (200, {"success": True})}) as (url, told):
        one = keeper(url, profile="sglang")
        one.refuse_unfit("lora", 8)
        one.load("a", FOLDER)
        assert one.named("a") == "base:a"
    assert told[0][0] == "/load_lora_adapter"


@pytest.mark.parametrize("profile", ["vllm", "sglang"])
def test_weights_are_read_again_by_the_call_that_is_there(profile):
    with answering({"/update_weights_from_disk": (200, {"success": True})}) as (url, told):
        keeper(url, profile=profile).reload(FOLDER)
    assert told == [("/update_weights_from_disk", {"model_path": str(FOLDER)}, f"Bearer {KEY}")]


def test_vllm_in_development_mode_forgets_what_it_computed_with_the_weights_before():
    """Its prefixes are remembered by their tokens alone: they would be those of another policy."""
    caches = {"/reset_prefix_cache": (200, ""), "/reset_mm_cache": (200, "")}
    with answering({"/collective_rpc": (200, {"results": [None]}), **caches}) as (url, told):
        keeper(url).reload(FOLDER)
    assert [path for path, *_ in told] == ["/collective_rpc", "/reset_prefix_cache", "/reset_mm_cache"]
    assert told[0][1]["method"] == "reload_weights" and told[0][1]["kwargs"]["weights_path"] == str(FOLDER)
    with answering({"/collective_rpc": (200, {})}) as (url, _), pytest.raises(ServerError, match="reset_prefix_cache"):
        keeper(url).reload(FOLDER)


def test_a_server_without_a_call_is_refused_before_anything_is_written():
    with answering({}) as (url, told):
        with pytest.raises(ServerError, match="VLLM_SERVER_DEV_MODE=1"):
            keeper(url).refuse_unfit("full", 8)
        with pytest.raises(
            ServerError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and --enable-lora --max-lora-rank 8"
        ):
            keeper(url).refuse_unfit("lora", 8)
    assert not told


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (
            (400, {"message": f"no {KEY} \x1b[31m for you"}),
            r"127\.0\.0\.1:\d+ refused load_lora_adapter: 400 .*no \*\*\*",
        ),
        ((302, ""), "refused load_lora_adapter: 302"),  # where it points to is not followed
        ((500, "x" * 3_000_000), "500 .*x"),
    ],
)
def test_a_refusal_is_told_in_the_servers_words_without_the_key(reply, words):
    with answering({"/v1/load_lora_adapter": reply}) as (url, _), pytest.raises(ServerError, match=words) as said:
        keeper(url).load("a", FOLDER)
    assert KEY not in str(said.value) and "\x1b" not in str(said.value) and len(str(said.value)) < 500


def test_a_reload_that_failed_is_no_reload():
    failed = {"/update_weights_from_disk": (200, {"success": False, "message": "wrong shape"})}
    with answering(failed) as (url, _), pytest.raises(ServerError, match=r"did not load .*wrong shape"):
        keeper(url).reload(FOLDER)


def test_the_model_goes_by_its_own_name_or_by_the_only_one_there():
    with answering({}) as (url, _):
        other = Keeper(Model(kind="local", name="/models/base", base_url=url))
        assert keeper(url).base() == other.base() == "base" and other.window() == 512
        assert other.served() == {"base", "small-grpo-1-0"}
