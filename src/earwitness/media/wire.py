"""Messages between a process and its decoding child: a JSON header, then the raw bytes of arrays. No pickle.

A message is a little-endian 32-bit length, that many bytes of JSON, and the arrays that its key `arrays` describes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

_MAX_HEADER = 1 << 20
_DTYPES = ("|u1", "<f4", "<f8")


class WireError(Exception):
    """The other side sent something that is not a message."""


def send(stream: IO[bytes], header: dict[str, Any], arrays: Sequence[np.ndarray[Any, Any]] = ()) -> None:
    """Write one message; `arrays` must be little-endian uint8, float32 or float64."""
    shapes = [{"dtype": array.dtype.str, "shape": array.shape} for array in arrays]
    data = json.dumps(header | {"arrays": shapes}).encode()
    stream.write(struct.pack("<I", len(data)) + data)
    for array in arrays:
        stream.write(_bytes(np.ascontiguousarray(array)))
    stream.flush()


def receive(stream: IO[bytes], max_bytes: int) -> tuple[dict[str, Any], list[np.ndarray[Any, Any]]] | None:
    """Read one message with at most `max_bytes` of arrays; None when the other side has closed the stream.

    Raises WireError on anything that is not a message: the child reads hostile files, so it is not trusted either.
    """
    length = stream.read(4)
    if len(length) < 4:
        return None
    (size,) = struct.unpack("<I", length)
    if size > _MAX_HEADER:
        raise WireError(f"a header of {size} bytes")
    data = stream.read(size)
    if len(data) < size:
        return None
    try:
        header = json.loads(data)
        shapes = [(str(item["dtype"]), tuple(int(n) for n in item["shape"])) for item in header.pop("arrays")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WireError(f"a header that cannot be read ({error})") from None
    arrays = []
    for dtype, shape in shapes:
        if dtype not in _DTYPES or min(shape, default=0) < 0:
            raise WireError(f"an array of type {dtype!r} and shape {shape}")
        max_bytes -= math.prod(shape) * np.dtype(dtype).itemsize
        if max_bytes < 0:
            raise WireError("more data than was asked for")
        array = np.empty(shape, dtype)
        if not _fill(stream, _bytes(array)):
            return None
        arrays.append(array)
    return header, arrays


def _bytes(array: np.ndarray[Any, Any]) -> memoryview:
    flat: Any = array.reshape(-1).view(np.uint8)  # a memoryview cannot cast an empty array itself
    return memoryview(flat)


def _fill(stream: IO[bytes], view: memoryview) -> bool:
    while len(view):
        read = stream.readinto(view)  # type: ignore[attr-defined]
        if not read:
            return False
        view = view[read:]
    return True
