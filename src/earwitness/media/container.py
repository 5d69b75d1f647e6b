"""Opening a media file safely, its clock, and walking through the frames of one track. Runs in the child alone.

The clock of a file starts where the earlier of its two tracks starts: both tracks are told in seconds since then.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from earwitness.media.limits import Limits, MediaError
from earwitness.media.whole import declares_frames, require_whole

# Containers that hold the media itself. Playlists, image lists and devices, which name other files, are not among them.
FORMATS = "mov,matroska,avi,flv,asf,mpegts,mpeg,ogg,wav,w64,aiff,au,caf,flac,mp3,aac,amr"
_DECLARES_LENGTH = {"mov", "matroska", "avi", "asf", "wav", "w64", "aiff", "au", "caf", "flac"}
_EXACT_SEEK = {"mov", "matroska", "wav"}
_SHORTFALL = 0.05  # a track may end this share of its length, and at least this many seconds, before it was declared to
_OVERRUN = 0.25  # seconds that a span may pass the end: clips named as 10 s long often are 9.9
_SURPRISE = "a track appears midway"  # PyAV then looks for it among those it knows, and raises IndexError
_REMEDY = "re-encode it, for example with `ffmpeg -i IN -c:v libx264 -c:a aac OUT.mp4`"


@dataclass(frozen=True)
class Source:
    """An open file: its first picture and sound track, `zero` of its clock and its `duration`, both in seconds."""

    container: InputContainer
    format: str
    video: VideoStream | None
    audio: AudioStream | None
    zero: float
    duration: float | None

    @property
    def tracks(self) -> list[VideoStream | AudioStream]:
        """The tracks that there are."""
        return [track for track in (self.video, self.audio) if track is not None]


@contextlib.contextmanager
def opened(path: str, limits: Limits) -> Iterator[Source]:
    """Open a regular file whose length is known, from what it declares or else from its packets."""
    with _opened(path, limits) as source:
        duration = source.duration
        if duration is None:
            with _opened(path, limits) as again:
                duration = _measured(again)
        yield Source(source.container, source.format, source.video, source.audio, source.zero, duration)


def inspect(path: str, limits: Limits) -> dict[str, Any]:
    """Return the declared duration and which tracks there are, from the header alone."""
    with _opened(path, limits) as source:
        return {
            "duration": source.duration,
            "sound": source.audio is not None,
            "picture": source.video is not None,
        }


@contextlib.contextmanager
def _opened(path: str, limits: Limits) -> Iterator[Source]:
    _require_regular(path)
    options = {"format_whitelist": FORMATS, "max_pixels": str(limits.area)}
    try:
        file = Path(path).open("rb", buffering=0)  # noqa: SIM115 (closed by the with below)
    except OSError as error:
        raise MediaError(f"cannot be opened ({error.strerror}); check the path and its permissions") from None
    with file:
        require_whole(file)
        counted = declares_frames(file)
        file.name = "clip"  # names prove nothing: the format is told from the content
        try:
            container = av.open(file, "r", options=options, metadata_errors="replace", io_open=_refuse)
        except (av.FFmpegError, PermissionError) as error:
            raise MediaError(
                f"is not a media file of a known kind, or is damaged ({_reason(error)}); {_REMEDY}"
            ) from None
        with container:
            yield _source(container, limits, counted)


def _require_regular(path: str) -> None:
    try:
        mode = Path(path).stat().st_mode
    except OSError as error:
        raise MediaError(f"cannot be read ({error.strerror}); check the path and its permissions") from None
    except ValueError:
        raise MediaError("is no possible file name; check the path") from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise MediaError(f"is {kind}, not a media file; name an ordinary file")


def _refuse(url: str, flags: int, options: dict[str, Any]) -> Any:
    raise PermissionError("the file names another file or address; only the file itself is read")


def _source(container: InputContainer, limits: Limits, counted: bool) -> Source:
    form = container.format.name.split(",")[0]
    pictures = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    video = pictures[0] if pictures else None
    audio = container.streams.audio[0] if container.streams.audio else None
    for track in (video, audio):
        if track is not None and track.codec_context is None:
            raise MediaError(f"has a track of an unknown codec; {_REMEDY}")
    if video is not None:
        _check_area(video.codec_context.width, video.codec_context.height, limits)
    if audio is not None:
        check_sound(audio.codec_context.sample_rate, audio.codec_context.channels, limits)
    for track in (video, audio):
        if track is not None:
            track.codec_context.thread_count = 1
            track.codec_context.options = {"max_pixels": str(limits.area)}
    starts = [
        float(s.start_time * s.time_base) for s in (video, audio) if s and s.start_time is not None and s.time_base
    ]
    zero = min(starts, default=0.0)
    duration = None
    declares = form in _DECLARES_LENGTH or (form == "mp3" and counted)
    if declares and container.duration is not None and container.duration > 0:
        duration = ((container.start_time or 0) + container.duration) / av.time_base - zero
    return Source(container, form, video, audio, zero, duration)


def _check_area(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.area:
        raise MediaError(f"has frames of {width}x{height}, above {limits.area} pixels; scale it down")


def check_sound(rate: int, channels: int, limits: Limits) -> None:
    """Raise MediaError for a sampling rate or a number of channels that no honest recording has."""
    if channels > limits.channels:
        raise MediaError(f"has {channels} sound channels, more than {limits.channels}; mix it down")
    if rate and not 1000 <= rate <= limits.rate:
        raise MediaError(f"has a sampling rate of {rate} Hz, outside 1000 to {limits.rate}; {_REMEDY}")


def _measured(source: Source) -> float:
    """Return where the last packet ends, in seconds on the file's clock."""
    end = 0.0
    try:
        for packet in source.container.demux(source.tracks):
            end = max(end, _packet_end(packet) - source.zero)
    except IndexError:
        raise _damaged(end, _SURPRISE) from None
    except av.FFmpegError as error:
        raise _damaged(end, _reason(error)) from None
    return end


def _packet_end(packet: Any) -> float:
    stamp = packet.pts if packet.pts is not None else packet.dts
    if stamp is None or not packet.time_base:
        return 0.0
    return _seconds(stamp + (packet.duration or 0), packet.time_base)


def _seconds(stamp: int, base: Fraction) -> float:
    return stamp * base.numerator / base.denominator  # as exact as the product of fractions, and far quicker


def walk(source: Source, track: VideoStream | AudioStream, since: float, limits: Limits) -> Iterator[tuple[float, Any]]:
    """Yield (seconds, frame) of one track in order of presentation, starting at or before `since` where there is such.

    Raises MediaError on a decoding error, on a track that ends well before its declared length, and past `limits`.
    """
    if since > 1 and source.format in _EXACT_SEEK:
        for margin in (1.0, 10.0):
            _seek(source, track, since - margin)
            frames = _decoded(source, track, limits)
            first = next(frames, None)
            if first is not None and first[0] <= since:
                yield first
                yield from frames
                return
    _seek(source, track, 0.0)
    yield from _decoded(source, track, limits)


def _seek(source: Source, track: VideoStream | AudioStream, seconds: float) -> None:
    if not track.time_base:
        return
    try:
        # The packets that warm an audio decoder up stand before zero; without them its first milliseconds are silent.
        at = -1.0 if seconds <= 0 and source.format == "mov" else max(seconds, 0.0)
        source.container.seek(int((at + source.zero) / track.time_base), stream=track)
    except av.FFmpegError as error:
        raise MediaError(f"cannot be searched for {max(seconds, 0.0):.2f} s ({_reason(error)}); {_REMEDY}") from None


def _decoded(source: Source, track: VideoStream | AudioStream, limits: Limits) -> Iterator[tuple[float, Any]]:
    first, time, end, reached = None, 0.0, 0.0, 0.0
    frame: Any
    try:
        for packet in source.container.demux(source.tracks):
            reached = max(reached, _packet_end(packet) - source.zero)
            if (
                packet.is_corrupt and source.format != "wav"
            ):  # its own check was made; a piped one ends in a short packet
                raise _damaged(reached, "a packet is incomplete")
            if packet.stream.index != track.index:
                continue
            for frame in packet.decode():
                time = _time(frame, source.zero, end)
                end = max(end, time + _length(frame))
                first = time if first is None else first
                if time - first > limits.seconds:
                    raise MediaError(f"is longer than {limits.seconds:g} s of decoding; cut it into shorter files")
                yield time, frame
    except av.MemoryError:
        raise MemoryError from None
    except IndexError:
        raise _damaged(time, _SURPRISE) from None
    except av.FFmpegError as error:
        raise _damaged(time, _reason(error)) from None
    _check_whole(source, track, end, max(end, reached))


def _check_whole(source: Source, track: VideoStream | AudioStream, end: float, reached: float) -> None:
    """A file cut short often decodes without an error: what it declared and what came are compared."""
    declared = [(source.duration, reached)]
    if source.format == "mov" and track.duration and track.time_base:
        declared.append((float(((track.start_time or 0) + track.duration) * track.time_base) - source.zero, end))
    for promised, came in declared:
        if promised is not None and promised - came > max(_SHORTFALL * promised, _SHORTFALL):
            raise MediaError(f"is cut short: it declares {promised:.2f} s but ends after {came:.2f} s; fetch it again")


def _time(frame: AudioFrame | VideoFrame, zero: float, otherwise: float) -> float:
    stamp = frame.pts if frame.pts is not None else frame.dts
    if stamp is None or not frame.time_base:
        return otherwise
    return _seconds(stamp, frame.time_base) - zero


def _length(frame: AudioFrame | VideoFrame) -> float:
    if isinstance(frame, AudioFrame):
        return frame.samples / frame.sample_rate
    return _seconds(frame.duration, frame.time_base) if frame.duration and frame.time_base else 0.0


def _damaged(time: float, reason: str) -> MediaError:
    return MediaError(f"is damaged or cut short after {time:.2f} s ({reason}); fetch it again, or {_REMEDY}")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def span(source: Source, start: float, end: float | None, limits: Limits) -> tuple[float, float]:
    """Return the span in seconds on the file's clock; raises MediaError if it is empty or not within the file."""
    length = source.duration or 0.0
    if length <= 0:
        raise MediaError(f"holds nothing that can be decoded; {_REMEDY}")
    last = length if end is None else end
    if start < 0 or (end is not None and end <= start):
        raise MediaError(f"has no span from {start:g} to {last:g} s; give 0 <= start < end")
    if start >= length or last > length + _OVERRUN:
        wanted = f"{start:g} s" if end is None else f"{start:g} to {end:g} s"
        raise MediaError(f"is {length:.2f} s long and has nothing at {wanted}; mend the span")
    if last - start > limits.seconds:
        raise MediaError(f"has a span of {last - start:.0f} s, above {limits.seconds:g}; ask for a shorter one")
    return start, last
