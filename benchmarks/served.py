"""Items per CPU second of the client process: our engine, ledger on, against the openai client with equal retries.

Both ask for the same items, at most 64 at a time, with the same timeout and number of tries, each run in a fresh
process and of a fresh server in its own. The openai client is asynchronous (`AsyncOpenAI`) and retries by itself
(`max_retries`); what it does not retry, a 200 with broken JSON, is asked again in its stead. It keeps nothing; the
engine writes every attempt and answer to its ledger as it does in a run, and returns when they are there.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import canned
from measure import fresh, median, ratio, say, take_turns

UNDER_WAY = 64
TRIES = 8
TIMEOUT = 2.0  # seconds
MODES = ("clean", "faults")


def ours(url: str, items: int) -> list[str | None]:
    from earwitness.config import Budget, Model
    from earwitness.ledger import Ledger, call_key
    from earwitness.models.served.call import Call, Malformed
    from earwitness.models.served.engine import Engine
    from earwitness.models.served.purse import Purse

    def read(reply):
        try:
            return [{"text": reply["choices"][0]["message"]["content"]}]
        except (KeyError, IndexError):
            raise Malformed("no choices") from None

    def call(item):
        keys = (call_key(model="canned", item=item),)
        return Call(keys, "/chat/completions", json.dumps(canned.body(item)).encode(), read, 400, f"item {item}")

    spec = Model(kind="served", name="canned", base_url=url, concurrency=UNDER_WAY, timeout=TIMEOUT, attempts=TRIES)
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.sqlite")
        engine = Engine(spec, ledger, Purse(Budget(), {}))
        answers = engine.ask([call(item) for item in range(items)])
        engine.close()
        ledger.close()
    return [answer[0]["text"] if isinstance(answer, list) else None for answer in answers]


def peer(url: str, items: int) -> list[str | None]:
    import openai

    async def everything():
        places = asyncio.Semaphore(UNDER_WAY)
        client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=TRIES - 1, timeout=TIMEOUT)

        async def one(item):
            for _ in range(TRIES):
                async with places:
                    try:
                        reply = await client.chat.completions.create(**canned.body(item))
                        return reply.choices[0].message.content
                    except (json.JSONDecodeError, openai.APIResponseValidationError):
                        continue
                    except openai.OpenAIError:
                        return None
            return None

        async with client:
            return await asyncio.gather(*(one(item) for item in range(items)))

    return asyncio.run(everything())


def arm(name: str, mode: str, items: int) -> None:
    """Ask all items of a fresh server, and say what that took."""
    server = subprocess.Popen([sys.executable, canned.__file__, mode], stdout=subprocess.PIPE, text=True)
    try:
        place = f"http://127.0.0.1:{int(server.stdout.readline())}"
        ask = {"ours": ours, "openai": peer}[name]
        ask(f"{place}/v1", 1)  # what is imported and opened once is not counted
        wall, cpu = time.monotonic(), time.process_time()
        texts = ask(f"{place}/v1", items)
        cpu, wall = time.process_time() - cpu, time.monotonic() - wall
        with urllib.request.urlopen(f"{place}/told") as reply:
            told = json.load(reply)
    finally:
        server.kill()
        server.wait()
    lost = sum(text != f"ITEM {item}" for item, text in enumerate(texts))
    repeated = sum(told["answered"].values()) - len(told["answered"]) - 1  # the first one was asked twice
    say(
        {"per_second": items / cpu, "milliseconds": 1e3 * cpu / items, "wall": wall, "lost": lost, "repeated": repeated}
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--items", type=int, default=4000)
    options.add_argument("--tiny", action="store_true")
    options.add_argument("--arm", nargs=2, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    items, runs = (60, 1) if chosen.tiny else (chosen.items, chosen.runs)
    if chosen.arm:
        arm(*chosen.arm, chosen.items)
        return
    result = {}
    for mode in MODES:
        arms = {name: fresh(__file__, "--arm", name, mode, "--items", str(items)) for name in ("ours", "openai")}
        results = take_turns(arms, runs)
        name = "clean" if mode == "clean" else "fault"
        result[f"{name}_ratio"] = ratio(results, "ours", "openai", "per_second")
        for side in arms:
            for key in ("milliseconds", "wall"):
                result[f"{name}_{side}_{key}"] = round(median(results[side], key), 4)
        result[f"{name}_openai_lost"] = sum(run["lost"] for run in results["openai"])
        for key in ("lost", "repeated"):
            result[key] = result.get(key, 0) + sum(run[key] for run in results["ours"])
    there = importlib.util.find_spec("distilabel")
    result["distilabel"] = importlib.metadata.version("distilabel") if there else "not installed"
    say(result | {"items": items, "runs": runs, "openai": importlib.metadata.version("openai")})


if __name__ == "__main__":
    main()
