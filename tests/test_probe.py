"""A server is tested before it is relied on: one that fakes is refused, in words that say how to start it right."""

from __future__ import annotations

import json
import socket
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from earwitness.cli import main
from earwitness.models.served.call import Call, ServerError
from earwitness.models.served.desk import open_desk
from earwitness.models.served.probe import FRAMES, probe, refuse_unfit, served_roles
from faults import faulty
from servers import serving
from worlds import save, world_config

KEY = "sk-secret-9876543210"


@pytest.fixture
def url(world_server):
    return world_server


PRACTISED = [{"stage": "grpo", "prompts": "labels", "rollouts": "served", "tuning": "lora"}]


def test_a_student_whose_rollouts_are_served_is_tested_for_practice(tmp_path):
    with serving("world:student", adapters=tmp_path) as url:
        tests = ("samples", "hearing", "token ids", "weights")
        assert outcomes(probe(practised(f"{url}/v1"))) == {("student", test): "passes" for test in tests}


def test_a_server_that_takes_no_adapters_is_refused_for_practice(poor):
    with pytest.raises(ServerError, match="token ids were asked for") as refused:
        refuse_unfit(practised(f"{poor()}/v1"))
    assert "--enable-lora" in str(refused.value)


def practised(base_url):
    embedded = {role: {"kind": "world", "name": role} for role in ("teacher", "checker", "student")}
    embedded["student"]["base_url"] = [base_url]
    return world_config(models=embedded, arms={"practised": PRACTISED})


def config(url, manner="world", **teacher):
    places = {"kind": "served", "manner": manner, "base_url": [f"{url}/v1"]}
    return world_config(
        models={
            "teacher": {**places, "name": "teacher", **teacher},
            "checker": {**places, "name": "checker"},
            "student": {"kind": "world", "name": "student"},
        }
    )


def outcomes(findings):
    return {(finding.role, finding.test): finding.outcome for finding in findings}


ALL = [("teacher", "samples"), ("teacher", "frames"), ("checker", "hearing"), ("checker", "yes or no")]


def test_a_real_server_passes_and_the_command_says_so(url, tmp_path, capsys):
    assert main(["probe", str(save(config(url), tmp_path / "run.toml"))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0].strip() for line in lines] == [role for role, _ in ALL]
    assert all("passes" in line for line in lines)
    assert f"all of {FRAMES} frames count" in lines[1]
    refuse_unfit(config(url))


def test_a_run_that_stops_does_not_wait_for_a_test(tmp_path):
    """A server that takes connections and says nothing would hold Ctrl-C up for minutes."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        asked = config(f"http://127.0.0.1:{silent.getsockname()[1]}")
        spec, one = asked.model("teacher"), Call(("k",), "/p", b"{}", lambda _: [{}], 1, "what")
        ends = []

        def ask(desk):
            try:
                desk.ask(spec, [one])
            except ServerError as error:
                ends.append(str(error))

        with open_desk(asked, tmp_path, "run", first=partial(refuse_unfit, asked)) as desk:
            thread = threading.Thread(target=ask, args=(desk,), daemon=True)
            thread.start()
            silent.accept()
        thread.join(20)
    assert len(ends) == 1 and "were stopped" in ends[0]


def test_a_server_that_fakes_its_samples_is_refused(url):
    """transformers serve, and SGLang where it is deterministic: K samples are K copies of one."""
    with faulty(url, equal=1.0) as fake:
        found = probe(config(fake))
        assert outcomes(found) == dict.fromkeys(ALL, "passes") | {("teacher", "samples"): "fails"}
        with pytest.raises(ServerError, match="all the same"):
            refuse_unfit(config(fake))


def test_only_what_a_run_asks_of_servers_is_tested(url):
    assert served_roles(config(url)) == ["teacher", "checker"]
    assert served_roles(config(url), "vote") == ["teacher"]
    assert served_roles(world_config()) == []


class Poor(BaseHTTPRequestHandler):
    """What a server may do without a word: it reads 32 frames, n is one to it, and it hears nothing."""

    log_message = lambda *_: None  # noqa: E731
    frames, thrifty, counts, refuses = 32, False, True, ""

    def do_GET(self):
        known = self.path == "/v1/models"
        self.send(200 if known else 404, {"data": [{"id": "student"}]} if known else {"detail": "Not Found"})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        media = json.dumps(body["messages"][0]["content"])
        shown = media.count("/9j/")  # how every JPEG in base64 begins
        usage = {"prompt_tokens": 20 + 9 * min(shown, self.frames), "completion_tokens": 1}
        top = [{"token": token, "logprob": p} for token, p in (("yes", -0.7), ("no", -0.7))]
        choices = [
            {
                "index": index,
                "message": {"content": f"words {0 if body['temperature'] == 0 else index}"},
                "finish_reason": "stop",
                "logprobs": {"content": [{**top[0], "top_logprobs": top}]},
            }
            for index in range(1 if self.thrifty else body.get("n", 1))
        ]
        answer = {"choices": choices} | ({"usage": usage} if self.counts else {})
        if self.refuses:
            return self.send(400, {"error": {"message": f"{self.refuses} {self.headers['Authorization']}"}})
        return self.send(200, answer)

    def send(self, status, answer):
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def poor():
    def start(**habits):
        handler = type("Handler", (Poor,), habits)
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    servers = []
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def found(config):
    return {(finding.role, finding.test): (finding.outcome, finding.said) for finding in probe(config)}


def test_a_server_that_cuts_films_after_32_frames_is_found(poor):
    outcome, said = found(config(poor()))["teacher", "frames"]
    assert (outcome, said) == ("limited", "of 40 frames about 32 count, and this run sends 16")
    more = config(poor()).model_copy(update={"sample": config("").sample.model_copy(update={"frames": 40})})
    outcome, said = found(more)["teacher", "frames"]
    assert outcome == "fails"
    assert "--trust-request-mm-kwargs" in said
    assert '--media-io-kwargs \'{"video":{"num_frames":-1}}\'' in said


def test_a_server_that_never_looks_is_found(poor):
    outcome, said = found(config(poor(frames=0)))["teacher", "frames"]
    assert outcome == "fails"
    assert "8 frames take as many tokens as 4" in said


def test_a_server_that_does_not_count_is_not_believed_to_see(poor):
    assert found(config(poor(counts=False)))["teacher", "frames"][0] == "not told"


def test_a_server_that_is_deaf_is_found(poor):
    outcome, said = found(config(poor(), "plain"))["checker", "hearing"]
    assert outcome == "fails"
    assert "does not arrive" in said


def test_a_server_that_passes_over_n_is_found(poor):
    outcome, said = found(config(poor(thrifty=True)))["teacher", "samples"]
    assert outcome == "fails"
    assert "8 answers were asked for, and 1 came" in said
    assert 'wire.samples = "fanout"' in said


def test_no_key_is_in_what_a_probe_says(poor, monkeypatch):
    monkeypatch.setenv("POOR_KEY", KEY)
    told = found(config(poor(refuses="mm kwargs are not trusted:"), api_key_env="POOR_KEY"))
    outcome, said = told["teacher", "frames"]
    assert outcome == "fails"
    assert "mm kwargs are not trusted" in said
    assert "--trust-request-mm-kwargs" in said
    assert KEY not in str(told)
    assert KEY not in repr(probe)


def test_nobody_there_is_said_at_once(monkeypatch):
    monkeypatch.setattr("earwitness.models.served.engine.NOBODY", 0.2)
    with pytest.raises(ServerError, match="nobody answers at"):
        probe(config("http://127.0.0.1:9"))
