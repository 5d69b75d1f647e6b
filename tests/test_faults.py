"""The faults that tests of clients rely on: each is what it says, and the layer tells what it did."""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request

import pytest

import servers
from faults import AFTER, KINDS, Faults, faulty, spoilt

BODY = {
    "model": "checker",
    "messages": [{"role": "user", "content": "is the dog heard ?"}],
    "n": 2,
    "seed": 1,
    "temperature": 2,
    "max_tokens": 12,
}


def ask(address, body=BODY, timeout=60):
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"{address}/v1/chat/completions", data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def told(address):
    return servers.get(f"{address}/faults")[1]


def test_without_faults_answers_are_the_servers_own(world_server):
    with faulty(world_server) as address:
        status, _, answer = ask(address)
        assert status == 200
        direct = json.loads(ask(world_server)[2])
        assert json.loads(answer)["choices"] == direct["choices"]
        assert servers.get(f"{address}/v1/models")[1]["data"][0]["id"] == "teacher"
        assert ask(address, BODY | {"model": "nobody"})[0] == 404, "an error of the server's is passed on"
        body = hashlib.sha256(json.dumps(BODY).encode()).hexdigest()
        assert told(address)["done"] == {"nothing": 2}
        assert told(address)["forwarded"][body] == told(address)["answered"][body] == 1


def test_faults_before_the_server(world_server):
    for fault in ("wait", "busy", "error", "hang", "reset"):
        with faulty(world_server, **{fault: 1.0}) as address:
            if fault == "hang":
                with pytest.raises(TimeoutError):
                    ask(address, timeout=0.5)
            elif fault == "reset":
                with pytest.raises(ConnectionResetError):
                    ask(address)
            else:
                status, headers, _ = ask(address)
                assert status == (500 if fault == "error" else 429)
                assert ("Retry-After" in headers) == (fault == "wait")
            assert told(address)["done"] == {fault: 1}
            assert told(address)["forwarded"] == {}


def test_faults_after_the_server(world_server):
    fine = json.loads(ask(world_server)[2])["choices"]
    assert fine[0]["message"] != fine[1]["message"]
    for fault in AFTER:
        with faulty(world_server, pause=0.001, **{fault: 1.0}) as address:
            status, _, answer = ask(address)
            assert status == 200
            assert told(address)["done"] == {fault: 1}
            assert list(told(address)["forwarded"].values()) == [1]
            if fault in ("malformed", "cut"):
                with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
                    json.loads(answer)
                continue
            choices = json.loads(answer)["choices"]
            expected = {"empty": [], "miscounted": fine[:1], "drip": fine, "equal": [fine[0], fine[0] | {"index": 1}]}
            assert choices == expected[fault]


def test_what_becomes_of_a_request_is_a_function_of_the_seed_its_body_and_how_often_it_came():
    rates = dict.fromkeys(KINDS, 0.05)

    def fates(seed, bodies):
        layer = Faults("", seed, 0, rates)
        found = {}
        for body in bodies:
            for _ in range(3):
                found[body, layer.came[body]] = layer.fault(body)
                layer.came[body] += 1
        return found

    bodies = [str(n) for n in range(2000)]
    first = fates(1, bodies)
    assert first == fates(1, bodies[::-1])
    assert first != fates(2, bodies)
    shares = {kind: list(first.values()).count(kind) / len(first) for kind in KINDS}
    assert shares == pytest.approx(rates, abs=0.01)


def test_a_count_of_one_is_miscounted_too():
    one = json.dumps({"choices": [{"index": 0}]}).encode()
    assert json.loads(spoilt(one, "miscounted"))["choices"] == [{"index": 0}, {"index": 1}]
