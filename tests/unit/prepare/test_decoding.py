"""Recordings decoded ahead: bounded, in order, each file once, one channel."""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distillery.corpora.base import Recording
from distillery.corpora.known import CORPORA
from distillery.data.audio import decode
from distillery.data.manifest import PreparedData
from distillery.errors import CorpusError
from distillery.params.prepare import PrepareParams
from distillery.prepare import decoding
from distillery.prepare import prepare as preparation
from distillery.prepare.decoding import decode_ahead
from distillery.prepare.prepare import prepare
from tests.recordings import kinds, mp3, tone, written

RATE_HZ = 8000


def params(**changes: Any) -> PrepareParams:
    settings = {"corpus": "manifest", "source": "corpus", "sample_rate_hz": RATE_HZ}
    return PrepareParams(
        **settings | {"manifest": "m.jsonl", "max_dropped_fraction": 1.0} | changes
    )


def write_lines(folder: Path, lines: list[dict[str, Any]]) -> None:
    (folder / "m.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def prepared(source: Path, folder: Path, **changes: Any) -> PreparedData:
    prepare(params(**changes), source, folder, folder.parent / "reports")
    return PreparedData.open(folder)


def samples_of(data: PreparedData) -> dict[str, np.ndarray]:
    return {row.utterance_id: data.samples(row) for row in data.frame.itertuples()}


# --- threads -----------------------------------------------------------------------------------


def test_no_more_recordings_are_decoded_ahead_than_the_workers_may(tmp_path: Path) -> None:
    decoded = []
    ahead = []

    def make() -> tuple[np.ndarray, int]:
        decoded.append(threading.get_ident())
        return np.ones(10, np.int16), RATE_HZ

    recordings = [Recording(f"{i:03d}", "x", None, None, None, make) for i in range(100)]
    for index, (item, _) in enumerate(decode_ahead(recordings, params(), 2, tmp_path)):
        time.sleep(0.0005)
        assert item is recordings[index]
        ahead.append(len(decoded) - index)
    assert len(decoded) == 100
    assert max(ahead) <= 2 * decoding.LOOK_AHEAD_PER_WORKER


def test_preparing_decodes_on_as_many_cores_as_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each recording waits until three of them are being decoded."""
    together = threading.Barrier(3)

    def read(*_: object) -> list[Recording]:
        def make(index: int) -> tuple[np.ndarray, int]:
            together.wait(timeout=60)
            return np.random.default_rng(index).integers(-999, 999, RATE_HZ, np.int16), RATE_HZ

        return [Recording(f"{i:03d}", "x", f"s{i}", "a", None, partial(make, i)) for i in range(12)]

    monkeypatch.setitem(CORPORA, "manifest", read)
    monkeypatch.setattr(preparation, "usable_cores", lambda: 3)
    assert len(prepared(tmp_path / "corpus", tmp_path / "prepared").frame) == 12


def test_an_error_that_is_no_fault_of_the_audio_stops_the_stage(tmp_path: Path) -> None:
    def fail() -> tuple[np.ndarray, int]:
        raise CorpusError("the library is gone")

    recordings = [Recording(f"{i}", "x", None, None, None, fail) for i in range(50)]
    with pytest.raises(CorpusError, match="the library is gone"):
        list(decode_ahead(recordings, params(), 2, tmp_path))


# --- segments ----------------------------------------------------------------------------------


def segmented_corpus(folder: Path, interleaved: bool) -> list[dict[str, Any]]:
    """Write five long files, and lines that name twelve segments of each."""
    folder.mkdir()
    lines = []
    for file in range(5):
        name = f"rec{file}.flac"
        (folder / name).write_bytes(written(tone(30.0, 16000, file), "FLAC", 16000))
        for turn in range(12):
            line = {"audio_filepath": name, "offset": 2.5 * turn, "duration": 2.0, "text": "a"}
            line["split"] = ("train", "valid", "test")[turn % 3]
            if interleaved:
                line["utterance_id"] = f"turn{turn:02d}-rec{file}"
            lines.append(line)
    random.Random(0).shuffle(lines)
    return lines


@pytest.mark.parametrize("interleaved", [False, True])
def test_each_file_is_decoded_once_whatever_the_order_of_its_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interleaved: bool
) -> None:
    source = tmp_path / "corpus"
    lines = segmented_corpus(source, interleaved)
    write_lines(source, lines)
    opened: Counter[str] = Counter()

    class CountingReader(decoding.Reader):
        def __init__(self, path: Path, *others: Any) -> None:
            opened[path.name] += 1
            super().__init__(path, *others)

    monkeypatch.setattr(decoding, "Reader", CountingReader)
    data = prepared(source, tmp_path / "prepared", sample_rate_hz=16000)
    assert opened == {f"rec{file}.flac": 1 for file in range(5)}
    found = samples_of(data)
    assert len(found) == 60
    assert sorted(path.name for path in (tmp_path / "prepared").iterdir())[0] == "audio-00000.pcm"
    whole = {f"rec{file}.flac": decode(source / f"rec{file}.flac")[0] for file in range(5)}
    by_place = {
        (row.source_path, found[row.utterance_id][:50].tobytes()) for row in data.frame.itertuples()
    }
    for line in lines:
        start = round(line["offset"] * 16000)
        part = whole[line["audio_filepath"]][start : start + 32000]
        assert (line["audio_filepath"], part[:50].tobytes()) in by_place
        if interleaved:
            np.testing.assert_array_equal(found[line["utterance_id"]], part)


def test_a_file_that_is_cut_short_costs_its_own_segments_alone(tmp_path: Path) -> None:
    source = tmp_path / "corpus"
    lines = segmented_corpus(source, interleaved=True)
    lines.append({"audio_filepath": "rec0.flac", "offset": 29.0, "duration": 9.0, "text": "a"})
    write_lines(source, lines)
    content = (source / "rec3.flac").read_bytes()
    (source / "rec3.flac").write_bytes(content[:-1000])
    data = prepared(source, tmp_path / "prepared")
    assert Counter(data.frame["source_path"]) == {f"rec{i}.flac": 12 for i in (0, 1, 2, 4)}
    assert data.summary.dropped == {"unreadable": 13}
    dropped = (tmp_path / "prepared/dropped.csv").read_text()
    assert "the segment covers 29.000 to 38.000 s, the file holds 30.000 s" in dropped
    assert not list((tmp_path / "prepared").glob(".*"))


# --- channels ----------------------------------------------------------------------------------


def test_a_setting_chooses_the_channel(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = tmp_path / "corpus"
    source.mkdir()
    lines = []
    for index, split in enumerate(("train", "valid", "test")):
        left = tone(2.0, RATE_HZ, index)
        stereo = np.stack([left, -left if split == "train" else 0.5 * left], axis=1)
        (source / f"{split}.wav").write_bytes(written(stereo, "WAV", RATE_HZ))
        lines.append({"path": f"{split}.wav", "text": "a", "split": split, "utterance_id": split})
    write_lines(source, lines)
    with caplog.at_level(logging.WARNING):
        prepared(source, tmp_path / "mixed", min_level_db=-100.0)  # what cancels is silence
    (told,) = (record.getMessage() for record in caplog.records if "channels" in record.message)
    assert "1 recordings have channels that do not mix well, such as train.wav: its 2 ch" in told
    listed = (tmp_path / "mixed/channels.csv").read_text().splitlines()
    assert listed[0] == "source_path,channels"
    assert len(listed) == 2
    assert listed[1].startswith('train.wav,"its 2 channels cancel: ')
    for channel in (0, 1):
        found = samples_of(prepared(source, tmp_path / "one", channel=channel))
        assert not (tmp_path / "one/channels.csv").exists()
        expected = decode(
            written(tone(2.0, RATE_HZ) * (1, -1)[channel], "WAV", RATE_HZ),
        )[0]
        assert np.abs(found["train"].astype(int) - expected).max() <= 1
    with pytest.raises(CorpusError, match="has 2 channels, counted from 0, expected channel 2"):
        prepared(source, tmp_path / "none", channel=2, max_dropped_fraction=0.5)


@pytest.mark.parametrize("channel", ["left", -1, 0.5])
def test_what_is_no_channel_is_refused(channel: object) -> None:
    with pytest.raises(ValueError, match="channel"):
        params(channel=channel)


# --- whatever stands among them ----------------------------------------------------------------


def test_every_readable_recording_is_prepared_whatever_stands_among_them(tmp_path: Path) -> None:
    source = tmp_path / "corpus"
    source.mkdir()
    good = {
        f"{kind}-{subtype}.{kind.lower()}": written(
            tone(0.6, RATE_HZ, seed), kind, RATE_HZ, subtype=subtype
        )
        for seed, (kind, subtype) in enumerate(kinds())  # equal audio would be left out of train
    }
    good["vbr.mp3"] = mp3(tone(1.0), with_count=False, bitrate_mode="VARIABLE")
    draw = random.Random(0)
    bad = {f"cut-{name}": content[: len(content) // 4] for name, content in good.items()}
    bad |= {
        "words.raw": b"words", "words.gsm": b"words", "words.au": b"words" * 99, "zero.wav": b"",
        "noise.wav": draw.randbytes(5000), "noise.mp3": b"\xff\xfb\x90\x00" + draw.randbytes(5000),
    }  # fmt: skip
    for name, content in (good | bad).items():
        (source / name).write_bytes(content)
    lines = [
        {"path": name, "text": "a", "split": ("train", "valid", "test")[index % 3]}
        for index, name in enumerate(good | bad)
    ]
    write_lines(source, lines)
    data = prepared(source, tmp_path / "prepared", min_duration_seconds=0.05)
    found = set(data.frame["source_path"])
    assert set(good) <= found
    told = data.summary.dropped
    assert set(told) <= {"empty", "unreadable", "too_short"}
    assert sum(told.values()) == len(good | bad) - len(found)
    assert not {"words.raw", "words.gsm", "words.au", "zero.wav", "noise.wav"} & found


def test_audio_far_too_long_is_not_kept_in_memory(tmp_path: Path) -> None:
    long = tone(6.0, RATE_HZ)
    recordings = []
    for name in ("a", "b"):
        (tmp_path / f"{name}.flac").write_bytes(written(long, "FLAC", RATE_HZ))
        recordings.append(Recording(name, name, None, "a", None, tmp_path / f"{name}.flac"))
    (tmp_path / "waiting").mkdir()
    settings = params(max_duration_seconds=2.0)
    for _, decoded in decode_ahead(recordings, settings, 2, tmp_path / "waiting"):
        assert not len(decoded.samples)
        assert (decoded.reason, decoded.detail) == ("too_long", "6.000 s, expected at most 2 s")
