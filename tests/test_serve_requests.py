"""Bodies that nobody vouches for: whatever they hold, they are read as they were meant or refused."""

from __future__ import annotations

import base64
import json

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import servers
from earwitness.serve import media
from earwitness.serve.asks import chat_ask
from earwitness.serve.refusals import Refused
from earwitness.serve.requests import ChatRequest, CompletionRequest, VideoTimes, parsed

FINE = {"model": "m", "messages": [{"role": "user", "content": "a"}]}
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)
SAMPLES = st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=50)


@given(SAMPLES)
def test_pcm_is_read_as_it_was_written(samples):
    wave = np.array(samples, np.int16)
    read = media.wave(servers.coded(servers.wav(wave)))
    assert read.dtype == np.float32
    assert (read * 32768).tolist() == samples


@given(st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=50))
def test_floats_are_read_as_they_were_written(samples):
    read = media.wave(servers.coded(servers.wav(np.array(samples, np.float32))))
    assert read.tolist() == samples


@given(SAMPLES, st.integers(0, 200), st.integers(0, 255))
def test_a_damaged_wav_is_heard_in_other_numbers_or_refused(samples, at, value):
    data = bytearray(servers.wav(np.array(samples, np.int16)))
    data[at % len(data)] = value
    try:
        read = media.wave(servers.coded(bytes(data)))
    except Refused:
        return
    assert len(read) <= len(data) // 2


@given(SAMPLES, st.integers(1, 2**12))
def test_a_wav_that_is_cut_short_is_refused(samples, cut):
    data = servers.wav(np.array(samples, np.int16))
    with pytest.raises(Refused):
        media.wave(servers.coded(data[: len(data) - min(cut, len(data))]))


def test_chunks_before_the_samples_and_the_long_form_of_the_header_are_read():
    data = servers.wav(np.array([1, 2, 3], np.int16))
    header, samples = data[12:36], data[36:]
    comment = b"LIST\x03\x00\x00\x00abc\x00"  # of an odd length, filled up
    long = header[8:24].replace(b"\x01\x00", b"\xfe\xff", 1) + b"\x16\x00\x10\x00\x04\x00\x00\x00\x01\x00" + bytes(14)
    for form in (comment + header, b"fmt \x28\x00\x00\x00" + long + comment):
        read = media.wave(servers.coded(data[:12] + form + samples))
        assert (read * 32768).tolist() == [1, 2, 3]


@given(st.binary(max_size=300))
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(Refused):
        media.sequence(f"{media.SEQUENCE}{base64.b64encode(data).decode()}")


def test_pictures_of_other_kinds_and_of_several_sizes_are_refused():
    small, large = (servers.jpeg(np.zeros((side, side, 3), np.uint8)) for side in (16, 32))
    gif = b"GIF89a" + bytes(100)
    for data in (gif, b"\x89PNG\r\n\x1a\n" + bytes(50)):
        with pytest.raises(Refused, match="not a JPEG picture"):
            media.sequence(f"{media.SEQUENCE}{servers.coded(data)}")
    pictures = media.sequence(f"{media.SEQUENCE}{servers.coded(small)},{servers.coded(large)}")
    with pytest.raises(Refused, match="must be of one size"):
        media.film(pictures, VideoTimes())


def test_pictures_are_bounded_before_they_are_decoded(monkeypatch):
    monkeypatch.setattr(media, "_decoded", lambda *_: pytest.fail("decoded"))
    bomb = servers.jpeg(np.zeros((8200, 8200, 3), np.uint8))
    with pytest.raises(Refused, match="too much for one request") as refused:
        media.film(media.sequence(f"{media.SEQUENCE}{servers.coded(bomb)}"), VideoTimes())
    assert refused.value.status == 413
    frame = servers.coded(servers.jpeg(np.zeros((720, 1280, 3), np.uint8)))
    with pytest.raises(Refused, match="200 frames of 1280 x 720 pixels are too much"):
        media.film(media.sequence(media.SEQUENCE + ",".join([frame] * 200)), VideoTimes())
    with pytest.raises(Refused, match="1025 frames are more than 1024"):
        media.sequence(media.SEQUENCE + "," * 1024)


@given(JSON)
def test_no_body_is_answered_but_with_a_refusal_or_a_request(body):
    for kind in (ChatRequest, CompletionRequest):
        with pytest.raises(Refused):
            parsed(json.dumps(body).encode(), kind)


@given(st.sampled_from(sorted(ChatRequest.model_fields)), JSON)
def test_no_entry_breaks_the_reading(name, value):
    try:
        request = parsed(json.dumps(FINE | {name: value}).encode(), ChatRequest)
        ask = chat_ask(request, "hearing", 512)
    except Refused as refused:
        assert len(str(refused)) < 1000, "what was sent is not sent back"
    else:
        assert 1 <= ask.how.samples <= 128
        assert ask.how.max_tokens >= 1


@given(st.text(min_size=1).filter(lambda name: name not in ChatRequest.model_fields))
def test_an_entry_that_nobody_reads_is_refused_unless_it_is_null(name):
    with pytest.raises(Refused, match="is not supported by this server"):
        parsed(json.dumps(FINE | {name: 1}).encode(), ChatRequest)
    assert parsed(json.dumps(FINE | {name: None}).encode(), ChatRequest).model == "m"
