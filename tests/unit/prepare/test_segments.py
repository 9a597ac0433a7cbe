"""Long recordings without transcripts, as utterances, on generated speech and on real one."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from distillery.corpora.base import Recording
from distillery.corpora.espeak import Voice, speak
from distillery.corpora.spans import SPANS_FILE, Span, read_spans
from distillery.data.audio import decode
from distillery.data.manifest import PreparedData, Summary
from distillery.errors import CorpusError
from distillery.files import read_json
from distillery.params.prepare import PrepareParams
from distillery.prepare.prepare import prepare
from distillery.prepare.segments import Cut, cut_recordings, is_cut, stem_of
from distillery.prepare.splits import NOTHING_KEPT, Kept
from tests.recordings import media, tone

pytest.importorskip("silero_vad", reason="the extra `segment` is not installed")
pytest.importorskip("espeakng_loader", reason="the extra `demo` is not installed")

RATE_HZ = 16000
SENTENCES = (
    "turn on the light in the kitchen",
    "call anna after lunch and ask her for the number",
    "what is the weather in the mountains tomorrow",
    "play some quiet music",
    "set the alarm for seven in the morning",
)
LOUD_DB = 20.0
"""Below the loudest frame of a recording: what is above that is speech beyond doubt."""
FAINT_DB = 30.0
FRAME = 320


def params(**changes: Any) -> PrepareParams:
    settings: dict[str, Any] = {
        "corpus": "manifest",
        "source": "corpus",
        "sample_rate_hz": RATE_HZ,
        "segment": {},
        "max_dropped_fraction": 0.5,
    }
    return PrepareParams(**settings | changes)


def sentence(index: int) -> np.ndarray:
    """Return int16 samples at RATE_HZ, of a voice and sentence by turns."""
    import soxr

    voice = Voice("en-us", ("adam", "f2", "m3")[index % 3], 150, 50)
    samples, rate = speak(voice, SENTENCES[index % len(SENTENCES)])
    changed: np.ndarray = soxr.resample(samples, rate, RATE_HZ)
    return changed


class Long:
    """A long recording made of shorter ones, with pauses between them."""

    def __init__(self, parts: Sequence[np.ndarray], pause_seconds: float) -> None:
        random = np.random.default_rng(0)
        pieces: list[np.ndarray] = []
        self.pauses: list[tuple[int, int]] = []
        self.spoken: list[tuple[int, np.ndarray]] = []
        place = 0
        for part in [*parts, None]:
            length = round(pause_seconds * RATE_HZ * random.uniform(0.8, 1.2))
            pieces.append(random.normal(0, 20, length).astype(np.int16))
            self.pauses.append((place, place + length))
            place += length
            if part is not None:
                pieces.append(part)
                self.spoken.append((place, part))
                place += len(part)
        self.samples = np.concatenate(pieces)

    def write(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, self.samples, RATE_HZ)
        return path

    def above(self, decibels: float) -> np.ndarray:
        """Return which samples are speech: frames less far below the loudest of their part."""
        found = np.zeros(len(self.samples), bool)
        for start, part in self.spoken:
            frames = part[: len(part) // FRAME * FRAME].reshape(-1, FRAME).astype(np.float64)
            level = 10 * np.log10((frames**2).mean(axis=1) + 1)
            is_speech = np.repeat(level > level.max() - decibels, FRAME)
            found[start : start + len(is_speech)] = is_speech
        return found

    def kept(self, spans: Sequence[Span]) -> np.ndarray:
        found = np.zeros(len(self.samples), bool)
        for span in spans:
            if span.utterance_id:
                found[round(span.start_seconds * RATE_HZ) : round(span.end_seconds * RATE_HZ)] = 1
        return found


def untold(path: Path, **changes: Any) -> Recording:
    settings: dict[str, Any] = {"speaker": None, "text": None, "split": None, "audio": path}
    return Recording(utterance_id=path.stem, source_path=path.name, **settings | changes)


def cut(recordings: Sequence[Recording], kept: Kept = NOTHING_KEPT, **changes: Any) -> Cut:
    return cut_recordings(recordings, params(**changes), kept, 2)


def check(long: Long, found: Cut, max_seconds: float) -> None:
    """Check what holds of any recording that was cut."""
    seconds = len(long.samples) / RATE_HZ
    assert found.spans[0].start_seconds == 0.0
    assert found.spans[-1].end_seconds == pytest.approx(seconds, abs=0.001)
    for before, after in zip(found.spans, found.spans[1:], strict=False):
        assert before.end_seconds == after.start_seconds
    spoken = [span for span in found.spans if span.utterance_id]
    assert [item.utterance_id for item in found.recordings] == [s.utterance_id for s in spoken]
    assert max(span.seconds for span in spoken) <= max_seconds
    speech, kept = long.above(FAINT_DB), long.kept(found.spans)
    assert (speech & kept).sum() >= 0.98 * speech.sum()
    loud = long.above(LOUD_DB)
    for span in spoken:
        for edge in (span.start_seconds, span.end_seconds):
            assert not loud[min(len(loud) - 1, round(edge * RATE_HZ))]


# --- where it is cut ---------------------------------------------------------------------------


def test_generated_speech_is_cut_in_every_pause_and_none_is_lost(tmp_path: Path) -> None:
    long = Long([sentence(index) for index in range(12)], pause_seconds=1.0)
    found = cut([untold(long.write(tmp_path / "long.wav"))])
    check(long, found, max_seconds=20.0)
    middles = [(start + end) / 2 / RATE_HZ for start, end in long.pauses[1:-1]]
    for middle in middles:  # each inner pause lies between two utterances
        assert any(
            span.what == "no_speech" and span.start_seconds < middle < span.end_seconds
            for span in found.spans
        )
    assert found.counts is not None
    assert found.counts.num_without_pause == 0
    assert found.counts.num_utterances == len(found.recordings) >= 12


def test_pauses_too_short_to_count_part_what_would_be_too_long(tmp_path: Path) -> None:
    long = Long([sentence(index) for index in range(12)], pause_seconds=0.3)
    found = cut(
        [untold(long.write(tmp_path / "long.wav"))], segment={"max_seconds": 8, "min_silence": 2}
    )
    check(long, found, max_seconds=8.0)
    assert len(found.recordings) < 12


def test_an_hour_of_real_speech_in_small(tmp_path: Path, shared_data: Path) -> None:
    files = sorted((shared_data / "an4").rglob("*.flac"))[::16]
    parts = [decode(file)[0] for file in files]
    long = Long(parts, pause_seconds=1.0)
    found = cut([untold(long.write(tmp_path / "long.flac"))])
    check(long, found, max_seconds=20.0)
    pauses = [span for span in found.spans if span.what == "no_speech"]
    assert len(pauses) >= len(parts)
    assert len(found.recordings) >= len(parts)


def test_the_ids_hold_the_times_in_milliseconds(tmp_path: Path) -> None:
    long = Long([sentence(index) for index in range(8)], pause_seconds=1.0)
    found = cut([untold(long.write(tmp_path / "long.wav"))])
    for recording in found.recordings:
        assert recording.segment is not None
        assert recording.segment.duration_seconds is not None
        start = round(1000 * recording.segment.offset_seconds)
        end = start + round(1000 * recording.segment.duration_seconds)
        assert recording.utterance_id == f"long-{start:08d}-{end:08d}"
        assert is_cut(recording.utterance_id)


def test_long_ids_stay_ids_and_stay_apart() -> None:
    first, second = (stem_of(f"{'x' * 127}{end}") for end in "ab")
    assert first != second
    assert len(first) == 100
    assert stem_of("short") == "short"


# --- what is cut -------------------------------------------------------------------------------


def test_transcripts_segments_and_short_recordings_stay_as_they_are(tmp_path: Path) -> None:
    from distillery.corpora.segments import Segment

    long = Long([sentence(index) for index in range(8)], pause_seconds=1.0)
    path = long.write(tmp_path / "long.wav")
    short = Long([sentence(0)], pause_seconds=1.0).write(tmp_path / "short.wav")
    recordings = [
        untold(path, text="turn on the light"),
        untold(path, segment=Segment(0.0, 25.0)),
        untold(short),
    ]
    assert cut(recordings) == Cut(recordings, recordings)
    assert cut([untold(path)], segment=None).recordings == [untold(path)]


def test_blank_texts_are_none(tmp_path: Path) -> None:
    long = Long([sentence(index) for index in range(8)], pause_seconds=1.0)
    found = cut([untold(long.write(tmp_path / "long.wav"), text=" ")])
    assert len(found.recordings) >= 8
    assert {recording.text for recording in found.recordings} == {None}


def test_what_is_long_and_has_a_transcript_is_dropped_with_what_to_do(tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "corpus", {"one": ""})
    manifest = source / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("one.wav,", "one.wav,turn on the light"))
    details = {}
    for segment in ({"max_seconds": 10}, None):
        settings = {"segment": segment, "max_duration_seconds": 12}
        prepare(params(**settings), source, tmp_path / "prepared", tmp_path / "reports")
        (drop,) = csv.DictReader((tmp_path / "prepared" / "dropped.csv").open())
        assert drop["reason"] == "too_long"
        details[segment is None] = drop["detail"]
    assert "prepare.segment cuts nothing that has a transcript" in details[False]
    assert "give segments (offset and duration)" in details[False]
    assert details[False].startswith(details[True])


def test_what_is_shorter_than_an_utterance_may_be_is_no_recording_that_was_dropped(
    tmp_path: Path,
) -> None:
    long = Long([sentence(index) for index in range(8)], pause_seconds=1.0)
    path = long.write(tmp_path / "long.wav")
    seconds = [span.seconds for span in cut([untold(path)]).spans if span.utterance_id]
    found = cut([untold(path)], min_duration_seconds=sorted(seconds)[2] + 0.0005)
    assert len(found.recordings) == len(seconds) - 3
    assert found.dropped == []
    assert found.counts is not None
    assert found.counts.seconds_left_out["too_short"] == pytest.approx(sum(sorted(seconds)[:3]))


@pytest.mark.parametrize("samples", [np.zeros(30 * RATE_HZ), 0.3 * tone(30)])
def test_a_recording_without_speech_is_dropped_with_the_reason(
    tmp_path: Path, samples: np.ndarray
) -> None:
    soundfile.write(tmp_path / "none.wav", samples, RATE_HZ)
    found = cut([untold(tmp_path / "none.wav")])
    assert found.recordings == found.units == []
    (drop,) = found.dropped
    assert (drop.utterance_id, drop.reason) == ("none", "no_speech")
    assert drop.detail == "nobody speaks in its 30.000 s (prepare.segment)"
    assert found.counts is not None
    assert found.counts.seconds_left_out == {"no_speech": pytest.approx(30.0, abs=0.01)}


def test_a_broken_recording_is_left_to_what_packs_it(tmp_path: Path) -> None:
    long = Long([sentence(index) for index in range(8)], pause_seconds=1.0)
    path = long.write(tmp_path / "long.wav")
    path.write_bytes(path.read_bytes()[:-1000])
    assert cut([untold(path)]).recordings == [untold(path)]


def test_utterances_longer_than_what_is_kept_are_refused_in_the_settings() -> None:
    with pytest.raises(ValueError, match=r"max_seconds is 31, above max_duration_seconds \(30\)"):
        params(segment={"max_seconds": 31})


# --- splits and prepared data ------------------------------------------------------------------


def write_corpus(folder: Path, long: Mapping[str, str]) -> Path:
    """Write long recordings, speaker by name, beside transcribed short ones."""
    folder.mkdir(parents=True)
    rows = []
    for index, (name, speaker) in enumerate(long.items()):
        parts = [sentence(index + place) for place in range(8)]
        Long(parts, pause_seconds=1.0).write(folder / f"{name}.wav")
        rows.append({"path": f"{name}.wav", "text": "", "speaker": speaker, "split": ""})
    for index, split in enumerate(("train", "valid", "test")):
        soundfile.write(folder / f"{split}.wav", sentence(index), RATE_HZ)
        told = {"text": SENTENCES[index], "speaker": f"s{index}", "split": split}
        rows.append({"path": f"{split}.wav"} | told)
    with open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["path", "text", "speaker", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_prepared_utterances_are_stretches_of_their_recording(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    source = write_corpus(tmp_path / "corpus", {"one": "", "two": "s1"})
    folder = tmp_path / "prepared"
    prepare(params(), source, folder, tmp_path / "reports", decisions=tmp_path / "splits.csv")
    data = PreparedData.open(folder)
    spans = {span.utterance_id: span for span in read_spans(folder) if span.utterance_id}
    parts = data.frame[data.frame["text"].isna()]
    assert set(spans) == set(parts["utterance_id"])
    for row in parts.itertuples():
        span = spans[str(row.utterance_id)]
        assert span.source_path == row.source_path
        samples, _ = decode(source / span.source_path)
        start = round(span.start_seconds * RATE_HZ)
        found = data.samples(row)
        np.testing.assert_array_equal(found, samples[start : start + len(found)])
        assert len(found) == pytest.approx(span.seconds * RATE_HZ, abs=1)
    splits = parts.groupby("source_path")["split"].unique()
    assert splits["two.wav"].tolist() == ["valid"]  # where its speaker is
    assert splits["one.wav"].tolist() == ["train"]
    summary = read_json(folder / "summary.json", Summary)
    assert summary.segments is not None
    assert summary.segments.num_recordings == 2
    assert summary.segments.num_utterances == len(parts)
    assert f"cut: 2 long recordings ({summary.segments.hours:.3f} h) into" in caplog.text


def test_other_pauses_move_no_recording_to_another_split(tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "corpus", dict.fromkeys("abcde", ""))
    manifest = source / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",valid", ",").replace(",test", ","))
    found = []
    for min_silence in (0.5, 2.0):
        settings = {"segment": {"min_silence": min_silence}, "test_fraction": 0.3}
        decisions = tmp_path / "splits.csv"
        prepare(params(**settings), source, tmp_path / "p", tmp_path / "r", decisions=decisions)
        frame = PreparedData.open(tmp_path / "p").frame
        parts = frame[frame["text"].isna()]
        found.append(parts.groupby("source_path")["split"].unique().map(list).to_dict())
        rows = decisions.read_text().replace(",train,", ",TRAIN,").replace(",test,", ",train,")
        decisions.write_text(rows.replace(",TRAIN,", ",test,"))  # against what the hash says
    swap = {"train": "test", "test": "train", "valid": "valid"}
    assert all(len(splits) == 1 for splits in found[0].values())
    assert {splits[0] for splits in found[0].values()} >= {"train", "test"}
    assert found[1] == {key: [swap[split] for split in splits] for key, splits in found[0].items()}


@pytest.mark.parametrize("kind", ["stereo", "media"])
def test_channels_and_containers_of_video_are_cut_as_well(tmp_path: Path, kind: str) -> None:
    long = Long([sentence(index) for index in range(8)], pause_seconds=1.0)
    path = tmp_path / "long.m4a"
    if kind == "media":
        pytest.importorskip("av", reason="the extra `media` is not installed")
        path.write_bytes(media(long.samples, "mp4", "aac", RATE_HZ))
    else:
        both = np.stack([np.zeros_like(long.samples), long.samples], axis=1)
        soundfile.write(path, both, RATE_HZ, format="WAV")
    found = cut([untold(path)], channel="mix" if kind == "media" else 1)
    assert len(found.recordings) >= 8
    kept = sum(span.seconds for span in found.spans if span.utterance_id)
    expected = sum(len(part) for _, part in long.spoken) / RATE_HZ
    assert kept == pytest.approx(expected, rel=0.2)
    if kind == "stereo":
        assert cut([untold(path)], channel=0).recordings == []


def test_nothing_changes_where_nothing_is_cut(tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "corpus", {})
    held = []
    for segment in (None, {}):
        folder = tmp_path / f"prepared-{segment}"
        prepare(params(segment=segment), source, folder, tmp_path / "reports")
        held.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert held[0] == held[1]
    assert SPANS_FILE not in held[0]
    assert "segments" not in json.loads(held[0]["summary.json"])


def many(folder: Path, count: int) -> list[Recording]:
    parts = [sentence(index) for index in range(8)]
    path = Long(parts, pause_seconds=1.0).write(folder / "long.wav")
    return [Recording(f"r{i}", f"r{i}.wav", None, None, None, path) for i in range(count)]


def test_the_utterances_of_a_recording_are_drawn_together(tmp_path: Path) -> None:
    found = cut(many(tmp_path, 3))
    assert [unit.utterance_id for unit in found.units] == ["r0", "r1", "r2"]
    splits = found.splits_of({"r0": "test", "r1": "train", "r2": "valid"})
    assert set(splits) == {item.utterance_id for item in found.recordings}
    assert {key[:2]: split for key, split in splits.items()} == {
        "r0": "test",
        "r1": "train",
        "r2": "valid",
    }


def test_what_was_drawn_before_stays_when_it_is_cut_elsewhere(tmp_path: Path) -> None:
    former = {"r0-00000100-00002000": "test", "r0-00003000-00004000": "test", "other": "valid"}
    found = cut(many(tmp_path, 3), Kept(utterances=former))
    assert found.kept_of_units(Kept(utterances=former)).utterances["r0"] == "test"
    assert [unit.utterance_id for unit in found.units] == ["r0", "r1", "r2"]


def test_of_fewer_recordings_than_splits_utterances_are_drawn_and_that_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = cut(many(tmp_path, 1))
    assert found.units == found.recordings
    assert "in several splits, for there are 1 recordings in all" in caplog.text
    former = {item.utterance_id: "test" for item in found.recordings[:2]}
    former |= {item.utterance_id: "train" for item in found.recordings[2:]}
    caplog.clear()
    grown = cut(many(tmp_path, 3), Kept(utterances=former))  # what was drawn so stays so
    assert "for those of r0 were before" in caplog.text
    assert set(former) < {unit.utterance_id for unit in grown.units}


def test_the_detector_is_asked_for_only_where_something_is_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distillery.prepare import speech

    monkeypatch.setattr(speech, "find_spec", lambda name: None)
    recordings = many(tmp_path, 1)
    with pytest.raises(CorpusError, match=r"prepare\.segment: needs the package silero-vad"):
        cut(recordings)
    assert cut(recordings, segment={"max_seconds": 30}).recordings == recordings
