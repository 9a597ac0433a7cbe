"""A recording block by block, until its decoder gives no more, whatever its header promises.

libsndfile reads most kinds; what it does not know (AAC, MP4, Matroska and other containers of
video) FFmpeg reads through PyAV, the extra `media`. The kind is found here, so FFmpeg never guesses
one: some of its kinds are lists of other files and addresses, which an upload must not name.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import soundfile

from distillery.data.decoding.mpeg import skip_tags
from distillery.data.decoding.parts import HEADERLESS, Part, find_parts
from distillery.data.decoding.source import Source, Window, opened
from distillery.errors import AudioError

BLOCK_SAMPLES = 2**18
"""Of all channels together: 1 MiB of floats."""
UNKNOWN_FRAMES = 2**62
RATES_HZ = (1000, 768_000)
MPEG_DELAY_SAMPLES = 2 * 1152
"""Which decoders of MP3 may leave out at the start: their delay, and frames that lean on others."""
TOLERANCE_SECONDS = 0.5
"""How much shorter than its header says a container of video may be: encoders pad."""

Block = tuple[np.ndarray, int]
"""Samples `(samples, channels)`, int16 or float32 in [-1, 1), and their rate in hertz."""


class _SoundFile(soundfile.SoundFile):  # type: ignore[misc]  # it brings no types
    """A file that is read from its beginning to its end: soundfile seeks otherwise at every read.

    Some codecs cannot seek, and where the length is unknown or a guess, seeking fails or lies.
    """

    def seekable(self) -> bool:
        """Return False."""
        return False


def read_blocks(source: Path | bytes, name: str) -> Iterator[Block]:
    """Yield a recording's samples; all blocks have one rate, few are empty.

    Args:
        source: path of a recording, or such a file's bytes.
        name: how errors call it.

    Raises:
        EmptyAudio: the file holds no bytes, or its header promises samples and none are there.
        AudioError: the file is missing, cannot be decoded to its end, or is cut short.
    """
    with _as_audio_error(name), opened(source, name) as opening:
        rate_before = None
        tags = skip_tags(opening)
        recording = opening.without(tags) if tags else opening
        for part in find_parts(recording):
            reader = _media_blocks if part.media is not None else _sound_blocks
            with closing(reader(recording, part)) as blocks:
                for samples, rate in blocks:
                    _check_rate(name, rate, rate_before)
                    rate_before = rate
                    yield samples, rate


@contextmanager
def _as_audio_error(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into an error of this recording."""
    try:
        yield
    except AudioError:
        raise
    except soundfile.LibsndfileError as error:  # its str() would name the path
        raise AudioError(f"{name}: cannot be decoded: {error.error_string}") from None
    except MemoryError:
        raise AudioError(f"{name}: cannot be decoded: there is not enough memory for it") from None
    except Exception as error:
        raise AudioError(f"{name}: cannot be decoded: {error}") from None


def _check_rate(name: str, rate: int, before: int | None) -> None:
    if before is not None and rate != before:
        raise AudioError(
            f"{name}: joins recordings of {before} and {rate} Hz, expected one rate; split the file"
        )
    if not RATES_HZ[0] <= rate <= RATES_HZ[1]:
        raise AudioError(
            f"{name}: at {rate} Hz, expected {RATES_HZ[0]} to {RATES_HZ[1]} Hz; correct its header"
        )


def _sound_blocks(source: Source, part: Part) -> Generator[Block, None, None]:
    """Yield what libsndfile reads."""
    with _open_sound(source, part) as file:
        dtype = "int16" if file.subtype == "PCM_16" else "float32"
        most = max(1, BLOCK_SAMPLES // file.channels)
        promised = part.promised_samples or (file.frames if file.frames < UNKNOWN_FRAMES else 0)
        if part.min_samples is not None:
            promised = part.min_samples - MPEG_DELAY_SAMPLES
        limit = part.max_samples if part.max_samples is not None else UNKNOWN_FRAMES
        num_read = 0
        while num_read < limit:
            # Up to what is promised first: what a decoder finds wrong behind that is no sound.
            wanted = part.promised_samples - num_read
            try:
                samples = file.read(
                    min(most, limit - num_read, wanted if wanted > 0 else most),
                    dtype=dtype,
                    always_2d=True,
                )
            except soundfile.LibsndfileError:
                if wanted == 0 and part.promised_samples:
                    break
                raise
            if not len(samples):
                break
            num_read += len(samples)
            yield samples, file.samplerate
        if num_read < min(promised, limit):
            raise AudioError(
                f"{source.name}: ends after {num_read} of {promised} samples; the file is cut "
                "short or damaged"
            )


def _open_sound(source: Source, part: Part) -> soundfile.SoundFile:
    if part.min_samples is not None:
        file = _SoundFile(Window(source, part.start, part.end))
        if file.frames >= part.min_samples or not part.prefix:
            return file
        file.close()
    if not part.is_whole or source.path is None:
        return _SoundFile(Window(source, part.start, part.end, part.prefix))
    if source.path.suffix.lower() in HEADERLESS:
        return _SoundFile(os.fsencode(source.path))
    # Not by its name: of .raw, soundfile asks for settings; .snd without a header would be noise.
    return _SoundFile(os.dup(source.descriptor))


def _media_blocks(source: Source, part: Part) -> Generator[Block, None, None]:
    """Yield what FFmpeg reads of a container's best audio stream."""
    try:
        import av
    except ImportError:
        raise AudioError(
            f"{source.name}: a recording of kind {part.media} (as are AAC, MP4, WebM), which the "
            "extra `media` reads; install it (make install, or pip install 'distillery[media]') or "
            "convert the recording to WAV or FLAC"
        ) from None
    window = Window(source, part.start, part.end)
    with av.open(window, mode="r", format=part.media, metadata_errors="replace") as container:
        stream = container.streams.best("audio")
        if stream is None:
            raise AudioError(f"{source.name}: holds no audio, expected a recording")
        resampler = av.AudioResampler(format="fltp")
        num_packets = num_samples = rate = 0
        for packet in container.demux(stream):
            num_packets += packet.size > 0
            if packet.is_corrupt:
                raise AudioError(f"{source.name}: packet {num_packets} is damaged or cut short")
            for frame in packet.decode():
                assert isinstance(frame, av.AudioFrame)
                for plane in resampler.resample(frame):
                    rate = plane.sample_rate
                    num_samples += plane.samples
                    yield np.ascontiguousarray(plane.to_ndarray().T), rate
        promised = (
            float(stream.duration * stream.time_base)
            if stream.duration and stream.time_base
            else 0.0
        )
        if num_samples < (promised - TOLERANCE_SECONDS) * rate:
            raise AudioError(
                f"{source.name}: ends after {num_samples / max(rate, 1):.3f} of {promised:.3f} s; "
                "the file is cut short"
            )
