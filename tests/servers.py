"""`earwitness serve` in a process of its own, and plain requests to it."""

from __future__ import annotations

import base64
import io
import json
import re
import struct
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import worlds

READY = re.compile(r"at (http://\S+)/v1$", re.MULTILINE)


@contextmanager
def serving(*models: str | Path, adapters: str | Path | None = None) -> Iterator[str]:
    """Serve models (`world:teacher`, a folder, NAME=PLACE) on a free port; gives the base URL, without /v1."""
    allowed = ["--adapters", adapters] if adapters else []
    with started(worlds.start("serve", *models, "--port", "0", *allowed)) as url:
        yield url


@contextmanager
def started(process: subprocess.Popen[str]) -> Iterator[str]:
    """Wait until a process says where it serves, and end it, whatever happens; gives the base URL."""
    assert process.stdout is not None and process.stderr is not None
    try:
        said = next((found for line in process.stdout if (found := READY.search(line))), None)
        assert said, f"no server came up: {process.stderr.read()}"
        threading.Thread(target=process.stderr.read, daemon=True).start()  # or it stops when the pipe is full
        yield said[1]
        process.terminate()
        assert process.wait(60) == 0, "a server that is told to end says that all went well"
    finally:
        worlds.kill_group(process)


def post(url: str, body: Any, content_type: str = "application/json") -> tuple[int, Any]:
    """Send a body (an object, or bytes as they are) and return the status and what came back, parsed if it is JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, text, _ = send(urllib.request.Request(url, data, {"Content-Type": content_type}))
    return status, text


def get(url: str) -> tuple[int, Any]:
    """Fetch an address and return the status and what came back."""
    status, text, _ = send(urllib.request.Request(url))
    return status, text


def send(request: urllib.request.Request) -> tuple[int, Any, Any]:
    """Send a request; an error's response is returned like any other. The third are the headers."""
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            status, text, headers = response.status, response.read().decode(), response.headers
    except urllib.error.HTTPError as error:
        status, text, headers = error.code, error.read().decode(), error.headers
    try:
        return status, json.loads(text), headers
    except ValueError:
        return status, text, headers


def chat(url: str, model: str, content: Any, **more: Any) -> Any:
    """Ask in one user turn and return the response, which must be well."""
    body = {"model": model, "messages": [{"role": "user", "content": content}], **more}
    status, answer = post(f"{url}/v1/chat/completions", body)
    assert status == 200, answer
    return answer


def refused(url: str, model: str, content: Any, **more: Any) -> tuple[int, str]:
    """Ask in one user turn what must be refused, and return the status and the words."""
    body = {"model": model, "messages": [{"role": "user", "content": content}], **more}
    status, answer = post(f"{url}/v1/chat/completions", body)
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    return status, answer["error"]["message"]


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def sound(wave: Any, rate: int = 16000, channels: int = 1) -> dict[str, Any]:
    """A waveform (N,) as a part of a request: float32 samples are sent as they are, int16 as PCM."""
    return {"type": "input_audio", "input_audio": {"data": coded(wav(wave, rate, channels)), "format": "wav"}}


def wav(wave: Any, rate: int = 16000, channels: int = 1) -> bytes:
    kind, bits = (1, 16) if wave.dtype == np.int16 else (3, 32)
    step = channels * bits // 8
    form = struct.pack("<HHIIHH", kind, channels, rate, rate * step, step, bits)
    data = np.ascontiguousarray(wave).tobytes()
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def film(images: Any) -> dict[str, Any]:
    """Frames (F, H, W, 3) as one part of a request."""
    frames = ",".join(coded(jpeg(image)) for image in images)
    return {"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{frames}"}}


def jpeg(image: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def coded(data: bytes) -> str:
    return base64.b64encode(data).decode()
