"""Giving a server weights while it runs: adapters by name, or all weights read again from a folder that it can see."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from earwitness.config import Model
from earwitness.models.served.call import ServerError
from earwitness.models.served.endpoint import place_of_url
from earwitness.models.served.post import read_key
from earwitness.models.served.reading import shown
from earwitness.models.served.reply import SECRET

LONGEST = 2**20  # bytes of an answer that are read
SECONDS = 600.0  # weights are read from a disk, and large ones take a while
NO_ADAPTERS = (
    "takes no adapters while it runs: start vLLM with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and --enable-lora "
    "--max-lora-rank {rank}, SGLang with --enable-lora --max-lora-rank {rank}"
)
NO_RELOAD = (
    "has no call to read its weights again, which full fine-tuning needs (SGLang has one, vLLM in its development mode "
    'alone, VLLM_SERVER_DEV_MODE=1): serve the student so, or set grpo.tuning = "lora"'
)


class Keeper:
    """Hands weights to every server of a model. Raises ServerError for what one of them refuses, in its words."""

    def __init__(self, spec: Model) -> None:
        self.spec, self.key = spec, read_key(spec)
        self.urls = [url.rstrip("/") for url in spec.base_url]
        # SGLang has its calls for adapters beside /v1, vLLM below it.
        self.adapters = "/../" if spec.profile == "sglang" else "/"

    def named(self, adapter: str) -> str:
        """Return what requests call an adapter."""
        return f"{self.base()}:{adapter}" if self.spec.profile == "sglang" else adapter

    def base(self) -> str:
        """Return what the servers call the model itself: its name in the configuration, or the only one that is served.

        Raises ServerError where that is not clear.
        """
        return self.spec.name if self.spec.name in (names := self._bases()) or len(names) != 1 else names.pop()

    def served(self) -> set[str]:
        """Return the names of all models and adapters that any of the servers has."""
        return {str(entry["id"]) for url in self.urls for entry in self._entries(url)}

    def window(self) -> int:
        """Return how many tokens the model takes at once, as the servers state it (a million where none does)."""
        entries = [entry for url in self.urls for entry in self._entries(url) if entry["id"] == self.base()]
        stated = [size for entry in entries if type(size := entry.get("max_model_len")) is int]
        return min(stated, default=10**6)

    def refuse_unfit(self, tuning: str, rank: int) -> None:
        """Raise ServerError where a server cannot take what this tuning trains."""
        for url in self.urls:
            if tuning != "full" and not self._offers(url, self.adapters + "load_lora_adapter"):
                raise ServerError(f"the server at {place_of_url(url)} {NO_ADAPTERS.format(rank=rank)}")
            if tuning == "full" and not self._reload_call(url):
                raise ServerError(f"the server at {place_of_url(url)} {NO_RELOAD}")

    def load(self, adapter: str, folder: Path) -> None:
        """Let every server have an adapter under a name."""
        for url in self.urls:
            self._post(url, self.adapters + "load_lora_adapter", {"lora_name": adapter, "lora_path": str(folder)})

    def unload(self, adapter: str) -> None:
        """Let every server that has an adapter forget it."""
        for url in self.urls:
            if any(entry["id"] in (adapter, self.named(adapter)) for entry in self._entries(url)):
                self._post(url, self.adapters + "unload_lora_adapter", {"lora_name": adapter})

    def reload(self, folder: Path) -> None:
        """Let every server read all weights from a folder, and forget what it computed with those before."""
        for url in self.urls:
            call = self._reload_call(url)
            if call == "/../collective_rpc":
                told = {"weights_path": str(folder), "is_checkpoint_format": True}
                self._post(url, call, {"method": "reload_weights", "kwargs": told})
                for cache in ("/../reset_prefix_cache", "/../reset_mm_cache"):
                    self._post(url, cache, {})
            elif call:
                which = {"model": self.base()} if len(self._bases()) > 1 else {}  # `earwitness serve` may serve several
                said = self._post(url, call, {"model_path": str(folder)} | which)
                if said.get("success") is False:
                    raise ServerError(f"the server at {place_of_url(url)} did not load {folder}: {shown(str(said))}")
            else:
                raise ServerError(f"the server at {place_of_url(url)} {NO_RELOAD}")

    def _reload_call(self, url: str) -> str | None:
        known = ("/../update_weights_from_disk", "/../collective_rpc")
        return next((path for path in known if self._offers(url, path)), None)

    def _bases(self) -> set[str]:
        return {str(e["id"]) for url in self.urls for e in self._entries(url) if not e.get("parent")}

    def _entries(self, url: str) -> Iterator[dict[str, Any]]:
        status, said = self._ask("GET", url, "/models")
        entries = said.get("data") if status == 200 else None
        if not isinstance(entries, list):
            raise ServerError(
                f"the server at {place_of_url(url)} does not list its models: {status} {shown(str(said))}"
            )
        return (entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str))

    def _offers(self, url: str, path: str) -> bool:
        """Whether a call is there, asked without making it: what takes POST alone says so (405) to GET."""
        return self._ask("GET", url, path)[0] != 404

    def _post(self, url: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        status, said = self._ask("POST", url, path, json.dumps(body).encode())
        if status != 200:
            call = path.rpartition("/")[2]
            raise ServerError(f"the server at {place_of_url(url)} refused {call}: {status} {shown(str(said))}")
        return said

    def _ask(self, method: str, url: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, Any]]:
        """Return the status and the JSON object (or {"text"}) that a server answers. No redirect is followed."""
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        below = parts.path
        if path.startswith("/.."):
            below, path = below.removesuffix("/v1"), path.removeprefix("/..")
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        connection = kind(parts.hostname or "", parts.port, timeout=max(SECONDS, self.spec.timeout))
        try:
            connection.request(method, below + path, body, headers)
            answer = connection.getresponse()
            text = answer.read(LONGEST).decode("utf-8", "replace")
            text = text.replace(self.key, "***") if len(self.key) >= SECRET else text
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(f"no server answers at {place_of_url(url)}: {type(error).__name__}") from None
        finally:
            connection.close()
        return answer.status, _object(text)


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {"text": text}
