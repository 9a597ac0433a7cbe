"""Transcripts with times as served: the plain text, torchaudio's times, beams' other texts."""

from __future__ import annotations

import csv
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
import torchaudio

from distillery.data.audio import load_audio
from distillery.decoder.confidence import Confidence
from distillery.decoder.trie import HotWord
from distillery.decoder.words import Transcript
from distillery.errors import ModelError
from distillery.serve.export import to_onnx
from distillery.serve.onnx_recogniser import MODEL_FILES
from distillery.serve.served import Served, Transcriber, choose_format, load_served
from distillery.serve.transcripts import Scribe
from distillery.tracking.bundle import check_bundle, write_bundle
from tests.tiny import RATE_HZ, speak
from tests.tiny_decoder import put_decoder
from tests.tiny_students import talking_student
from tests.unit.decoder.test_words import frames

RECORDINGS = [speak("ab cab cc b", seed) for seed in range(20)]
MAX_SECONDS, MIN_SHARE = 0.08, 0.9
FITTED = Confidence(-0.5, 0.7, 100, 0.02)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles of one student, in both formats, with a decoder and without, and as exported."""
    base = tmp_path_factory.mktemp("timed")
    saved, exported, searched = base / "saved", base / "exported", base / "searched"
    saved.mkdir()
    student = talking_student(0)
    student.save(saved)
    for folder in (exported, searched):
        folder.mkdir()
        (folder / MODEL_FILES["onnx"]).write_bytes(to_onnx(student.network, 16))
        FITTED.save(folder)
    put_decoder(searched)
    for kind, folder in (("plain", exported), ("searched", searched)):
        for name in ("torch", "onnx"):
            served = choose_format(name, 0.2, {"onnx": 0.2}, folder, 1.0)
            write_bundle(saved, base / f"{kind}-{name}", served.contents)
            check_bundle(base / f"{kind}-{name}")
    for name in ("config.json", "tokens.txt"):
        (exported / name).write_bytes((saved / name).read_bytes())
    return {path.name: path for path in base.iterdir()}


KINDS = ["plain-torch", "plain-onnx", "searched-torch", "searched-onnx"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_is_that_without_times(folders: dict[str, Path], kind: str) -> None:
    model = load_served(folders[kind])
    hot = (HotWord("cc", 5.0),)
    for samples in RECORDINGS:
        for hot_words in ((), hot):
            found = model.recognise(samples, hot_words, 3)
            assert found.text == model.transcribe([samples], hot_words)[0]
            assert " ".join(word.text for word in found.words) == found.text
            assert found.n_best[0].text == found.text
            times = [t for word in found.words for t in (word.start, word.end)]
            assert times == sorted(times)
            assert not times or times[-1] <= len(samples) / RATE_HZ + 0.05
            assert all(0 < (word.confidence or 0) < 1 for word in found.words)


@pytest.mark.parametrize("kind", KINDS)
def test_other_texts_are_different_and_as_many_as_were_asked_for(
    folders: dict[str, Path], kind: str
) -> None:
    model = load_served(folders[kind])
    found = model.recognise(RECORDINGS[0], (), 4).n_best
    assert len({item.text for item in found}) == len(found)
    assert len(found) == 4 if kind.startswith("plain") else 1 < len(found) <= 4
    scores = [item.score for item in found[1:]]
    assert scores == sorted(scores, reverse=True)
    assert model.recognise(RECORDINGS[0]).n_best == ()


def test_scores_without_a_decoder_are_those_of_all_alignments() -> None:
    vocabulary = talking_student(0).vocabulary
    log_probs = frames(vocabulary, "__aa_b_|__c__")
    found = Scribe(vocabulary, 0.04, None, None).transcript(log_probs, (), 2)
    assert found.text == "ab c"
    for item in found.n_best:
        label = torch.tensor([vocabulary.encode(item.text)])
        expected = -torch.nn.functional.ctc_loss(
            torch.from_numpy(log_probs)[:, None],
            label,
            torch.tensor([len(log_probs)]),
            torch.tensor([label.shape[1]]),
            reduction="none",
        )
        assert item.score == pytest.approx(expected.item(), abs=0.1)  # beams lose some of them


def test_a_student_without_confidence_says_none(folders: dict[str, Path], tmp_path: Path) -> None:
    write_bundle(folders["saved"], tmp_path / "bundle", Served().contents)
    found = load_served(tmp_path / "bundle").recognise(RECORDINGS[0])
    assert found.words and all(word.confidence is None for word in found.words)


def test_a_hot_word_that_cannot_be_written_is_told(folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match="no token"):
        load_served(folders["plain-onnx"]).recognise(RECORDINGS[0], (HotWord("xyz", 4.0),))


def forced_times(log_probs: np.ndarray, text: str, shift: float) -> list[tuple[float, float]]:
    """Return start and end of each word as torchaudio aligns the text."""
    vocabulary = talking_student(0).vocabulary
    label = torch.tensor([vocabulary.encode(text)], dtype=torch.int32)
    path, _ = torchaudio.functional.forced_align(torch.from_numpy(log_probs)[None], label, blank=0)
    words: list[tuple[float, float]] = []
    frame, inside = 0, False
    for token, group in groupby(path[0].tolist()):
        length = len(list(group))
        if token and vocabulary.tokens[token] != "|":
            start = words.pop()[0] if inside else frame * shift
            words.append((start, (frame + length) * shift))
            inside = True
        elif token:
            inside = False
        frame += length
    return words


def share_near(
    model: Transcriber, recordings: list[np.ndarray], log_probs: list[np.ndarray]
) -> tuple[float, int]:
    """Return the share of words of which both times are near torchaudio's, and their number."""
    near = []
    for samples, item in zip(recordings, log_probs, strict=True):
        found: Transcript = model.recognise(samples)
        if not found.text:
            continue
        expected = forced_times(item, found.text, 0.04)
        assert len(expected) == len(found.words)
        for word, (start, end) in zip(found.words, expected, strict=True):
            near.append(max(abs(word.start - start), abs(word.end - end)) <= MAX_SECONDS)
    return sum(near) / max(1, len(near)), len(near)


@pytest.mark.parametrize("kind", KINDS)
def test_times_are_torchaudios(folders: dict[str, Path], kind: str) -> None:
    items = talking_student(0).log_probs(RECORDINGS)
    share, count = share_near(load_served(folders[kind]), RECORDINGS, items)
    assert share >= MIN_SHARE and count >= 20


@pytest.mark.parametrize("kind", KINDS[1::2])
def test_times_of_real_speech_are_torchaudios(
    folders: dict[str, Path], kind: str, shared_data: Path
) -> None:
    with open(shared_data / "an4/transcripts.tsv", encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        paths = [shared_data / "an4" / row["path"] for row in rows if row["split"] == "test"][:30]
    recordings = [load_audio(path, RATE_HZ) for path in paths]
    items = [talking_student(0).log_probs([samples])[0] for samples in recordings]
    share, count = share_near(load_served(folders[kind]), recordings, items)
    assert share >= MIN_SHARE and count >= 30


def test_an_exported_folder_is_heard_by_onnx_without_torch(folders: dict[str, Path]) -> None:
    code = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from distillery.serve.served import load_served\n"
        "model = load_served(Path(sys.argv[1]))\n"
        "print(model.recognise(np.load(sys.argv[2]), (), 3).text)\n"
        "assert 'torch' not in sys.modules and 'scipy.optimize' not in sys.modules\n"
    )
    samples = folders["saved"] / "samples.npy"
    np.save(samples, RECORDINGS[0])
    command = [sys.executable, "-c", code, str(folders["exported"]), str(samples)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == load_served(folders["plain-onnx"]).transcribe(RECORDINGS[:1])[0]
