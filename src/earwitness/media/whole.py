"""Whether a file is as long as its own header or last page says, for the formats whose reader does not tell."""

from __future__ import annotations

import os
from typing import BinaryIO

from earwitness.media.limits import MediaError

_PLACEHOLDER = 0x7FFF_0000  # writers into a pipe cannot know the size, and put a number from here upwards
_LARGEST_PAGE = 65_307
_LAST_PAGE = 4


def require_whole(file: BinaryIO) -> None:
    """Raise MediaError for a WAV or AVI shorter than its header says, and an Ogg file without a last page.

    The file is left at its beginning.
    """
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise MediaError("is empty; fetch it again")
    start = file.read(12)
    if start[:4] == b"RIFF" and start[8:] in (b"WAVE", b"AVI "):
        declared = int.from_bytes(start[4:8], "little") + 8
        if size + 1 < declared < _PLACEHOLDER:  # some writers count a padding byte that they leave out
            raise MediaError(f"is cut short: it declares {declared} bytes but has {size}; fetch it again")
    if start[:4] == b"OggS":
        file.seek(max(0, size - _LARGEST_PAGE))
        tail = file.read()
        flags = tail[tail.rfind(b"OggS") :][5:6]
        if not flags or not flags[0] & _LAST_PAGE:
            raise MediaError("is cut short: the page that ends an Ogg stream is missing; fetch it again")
    file.seek(0)


def declares_frames(file: BinaryIO) -> bool:
    """Whether an MP3 begins with a frame that counts the others, so that its length is known and not guessed."""
    file.seek(0)
    tag = file.read(10)
    size = 0
    if tag[:3] == b"ID3":
        size = 10 + sum((byte & 127) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=False))
    file.seek(size)
    head = file.read(256)
    file.seek(0)
    return b"Xing" in head or b"Info" in head
