"""The page: its JavaScript beside the library's Python, and the whole of it in Chromium."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from distillery.data.resampling import resample
from distillery.data.text import BLANK, SPACE, Vocabulary
from distillery.data.units import Unit
from distillery.decoder.alignment import align
from distillery.decoder.decoder import Decoder, DecoderSettings
from distillery.decoder.grammar import SearchWeights
from distillery.decoder.trie import HotWord
from distillery.decoder.word_model import pack, save
from distillery.errors import ModelError
from distillery.language_model.ngrams import estimate
from distillery.models.decoding import greedy_text
from distillery.params.models import FeatureParams
from distillery.serve import browser
from distillery.serve.browser import PAGE_SOURCES, page_files, runtime_files, write_page
from distillery.serve.export import to_onnx
from distillery.serve.numpy_features import numpy_features
from distillery.serve.onnx_recogniser import MODEL_FILES
from distillery.serve.package import Student, names_in
from distillery.serve.served import load_served
from tests.chromium import chromium, served, tab
from tests.tiny import RATE_HZ, ROOT, speak
from tests.tiny_decoder import put_decoder
from tests.unit.serve.test_sherpa import SMALL, student

CACHE = ROOT / "scratch/npm"
MICROPHONE_HZ = 48000
TOKENS = Vocabulary.from_alphabet("abc")
PIECES = Vocabulary((BLANK, SPACE, "a", "b", "c", "|a", "ab", "|cab", "|b"))
TEXTS = ("cab cab", "a cab", "bac cab a", "abba", "ca ba cab")


# --- features and search, by Node ----------------------------------------------------------------


def by_node(folder: Path, script: str, given: Any) -> Any:
    """Return what a script gives back: `given` in, the value of `result` out."""
    node = shutil.which("node")
    if node is None:
        pytest.skip(
            "no node here, which runs the page's modules; on Debian: apt-get install nodejs"
        )
    for path in PAGE_SOURCES.glob("*.js"):
        shutil.copy(path, folder)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "given.json").write_text(json.dumps(given))
    (folder / "run.js").write_text(
        'import fs from "fs";\nconst given = JSON.parse(fs.readFileSync("given.json"));\n'
        f"{script}\nconsole.log(JSON.stringify(result));\n"
    )
    done = subprocess.run([node, "run.js"], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_features_are_pythons(tmp_path: Path) -> None:
    waveforms = [speak("abc cab", 1), np.zeros(300, np.float32), speak("a", 2)[:37]]
    cases, expected = [], []
    for kind, rate, mels, window in (
        ("log_mel", 8000, 20, 0.025),
        ("log_mel", 11025, 40, 0.032),
        ("kaldi_fbank", 8000, 20, 0.025),
        ("kaldi_fbank", 16000, 40, 0.025),
    ):
        for normalise in ("bands", "level", "running"):
            params = FeatureParams(
                type=kind, num_mels=mels, window_seconds=window, normalise=normalise
            )
            settings = {**params.model_dump(), "type": kind}
            for waveform in waveforms:
                cases.append({"settings": settings, "rate": rate, "samples": waveform.tolist()})
                expected.append(numpy_features(params, rate)(waveform))
    script = """
import { Features } from "./features.js";
const result = given.map(({ settings, rate, samples }) =>
  Array.from(new Features(settings, rate).of(Float32Array.from(samples))));
"""
    for case, ours, theirs in zip(cases, expected, by_node(tmp_path, script, cases), strict=True):
        assert len(theirs) == ours.size, case["settings"]
        np.testing.assert_allclose(
            np.reshape(theirs, ours.shape), ours, atol=2e-3, err_msg=str(case["settings"])
        )


def log_probs(seed: int, frames: int, num_tokens: int = len(TOKENS)) -> np.ndarray:
    """Return log-probabilities `(frames, vocab)`, a third of them blanks that are nearly sure."""
    random = np.random.default_rng(seed)
    scores = random.normal(0, 2.5, (frames, num_tokens))
    scores[random.random(frames) < 0.3, 0] += 14
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)


@pytest.mark.parametrize("tokens", [TOKENS, PIECES], ids=["letters", "pieces"])
def test_searched_texts_scores_and_times_are_pythons(tokens: Vocabulary, tmp_path: Path) -> None:
    decoders = []
    for number, (unit, weights, hot_words) in enumerate(
        [
            (Unit.WORD, SearchWeights(0.5, 1.0, 0.0), ()),
            (Unit.WORD, SearchWeights(1.0, 0.0, None), ()),
            (Unit.WORD, SearchWeights(0.75, 2.0, -3.0, beam_size=4), (HotWord("bca cab", 9.0),)),
            (Unit.CHARACTER, SearchWeights(0.5, 1.0), (HotWord("bc", 5.0),)),
            (Unit.WORD, SearchWeights(0.5, 0.0, None), (HotWord("abc", 4.0), HotWord("cab", 2.0))),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        save(pack(estimate(TEXTS, 3, unit), ("bb",), unit), folder)
        DecoderSettings(weights, hot_words).save(folder)
        decoders.append(Decoder.load(folder, tokens))
    items = [
        log_probs(seed, frames, len(tokens)) for seed, frames in enumerate((1, 8, 30, 60, 400))
    ]
    items[3] = items[3].astype(np.float16).astype(np.float32)  # equal scores
    script = """
import { bestPath, Decoder, textOf, WordModel } from "./decoder.js";
import { align } from "./recogniser.js";
const { tokens } = given, items = given.items.map((item) => Float32Array.from(item));
const best = items.map((item) => textOf(tokens, bestPath(item, tokens.length)));
const result = { best, found: [] };
for (let n = 0; n < given.num_decoders; n++) {
  const model = await WordModel.read(fs.readFileSync(`${n}/decoder.lm`));
  const decoder = new Decoder(model, tokens, JSON.parse(fs.readFileSync(`${n}/decoder.json`)));
  result.found.push(items.map((item) => {
    const found = decoder.decode([item]);
    return [found.text, found.score, align(item, tokens.length, found.tokens)];
  }));
}
"""
    flat = [item.astype(float).ravel().tolist() for item in items]
    given = {"tokens": tokens.tokens, "items": flat, "num_decoders": len(decoders)}
    answer = by_node(tmp_path, script, given)
    assert answer["best"] == [greedy_text(item, tokens) for item in items]
    texts = set()
    for decoder, found in zip(decoders, answer["found"], strict=True):
        for item, (text, score, spans) in zip(items, found, strict=True):
            (ours,) = decoder.n_best(item, 1)
            assert text == ours.text
            assert score == pytest.approx(ours.score, abs=1e-6)
            if len(item) > 1:
                assert [tuple(span) for span in spans] == align(item, ours.tokens)
            texts.add(text)
    assert len(texts) > 10
    assert asdict(decoders[0].settings)["weights"]["beam_size"] == 10


# --- what npm brings ------------------------------------------------------------------------------


def test_an_archive_that_was_changed_is_not_taken(tmp_path: Path) -> None:
    archive = tmp_path / f"{browser.RUNTIME}-{browser.RUNTIME_VERSION}.tgz"
    archive.write_bytes(b"something else")
    with pytest.raises(ModelError, match=r"sha512-.*, expected sha512-q0y\+JrrtukXS…; it was rem"):
        runtime_files(tmp_path)
    assert not archive.exists()


def test_without_npm_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ModelError, match=r"npm: not found; it brings onnxruntime-web@\d.*put npm's"
    ):
        runtime_files(tmp_path / "cache")


def test_when_npm_fails_its_words_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelError, match=r"npm pack onnxruntime-web@.*: npm error code ENOTFOUND"):
        runtime_files(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


# --- the whole page, in Chromium ------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student that is served as ONNX, with a decoder."""
    folder = tmp_path_factory.mktemp("saved")
    model = student(SMALL)
    model.save(folder)
    put_decoder(folder, SearchWeights(unknown_score=0.0))
    content = to_onnx(model.network, model.features.num_mels)
    (folder / MODEL_FILES["onnx"]).write_bytes(content)
    (folder / "served.json").write_text('{"format": "onnx"}')
    return folder


def test_a_file_and_the_microphone_give_the_texts_of_transcribe(
    saved: Path, tmp_path: Path
) -> None:
    chromium()
    student_files = Student.of(saved, student(SMALL), []).page_files
    (tmp_path / "page").mkdir()
    try:
        runtime_files(CACHE)
    except ModelError as error:
        pytest.skip(f"the page has no onnxruntime-web: {error}")
    write_page(tmp_path / "page", student_files, "model.onnx", "Töne <b>", "of a test", CACHE)
    assert set(names_in(tmp_path / "page")) == page_files(student_files)
    ours, said = load_served(saved), speak("abc cab ba", 5)
    soundfile.write(tmp_path / "said.wav", said, RATE_HZ)
    samples, _ = soundfile.read(tmp_path / "said.wav", dtype="int16")
    spoken = resample(samples, RATE_HZ, MICROPHONE_HZ)
    soundfile.write(tmp_path / "spoken.wav", spoken, MICROPHONE_HZ)
    ready = "window.lastResult !== undefined && document.body.dataset.state === 'ready'"
    with (
        served(tmp_path / "page") as address,
        tab(address, tmp_path / "spoken.wav", tmp_path / "profile") as page,
    ):
        page.wait("document.body !== null && document.body.dataset.state === 'ready'")
        assert page.value("document.title") == "Töne <b>"
        page.choose("#file", tmp_path / "said.wav")
        page.wait(ready)
        assert np.array_equal(heard(page), samples)
        text = page.value("document.querySelector('#text').textContent")
        assert text == ours.transcribe([samples])[0] != ""
        words = page.value("window.lastResult.words")
        assert " ".join(word["text"] for word in words) == text
        assert all(0 <= word["start"] < word["end"] <= len(said) / RATE_HZ for word in words)
        assert "times as fast" in page.value("document.querySelector('#speed').textContent")
        page.value("delete window.lastResult")
        page.value("document.querySelector('#record').click()")
        page.wait("document.body.dataset.state === 'recording'")
        time.sleep(len(said) / RATE_HZ)
        page.value("document.querySelector('#record').click()")
        page.wait(ready)
        recorded = heard(page)
        assert np.abs(recorded).max() > 1000  # the fake microphone was heard
        text = page.value("window.lastResult.text")
        assert text == ours.transcribe([recorded])[0]
        (tmp_path / "no.wav").write_text("nothing of the kind")
        page.choose("#file", tmp_path / "no.wav")
        page.wait("document.body.dataset.state === 'error'")
        status = page.value("document.querySelector('#status').textContent")
        assert status.startswith("no.wav: no recording that this browser decodes")
        asked = [url for url in page.requested if not url.startswith(("data:", "blob:"))]
        assert asked and all(url.startswith(address) for url in asked)


def heard(page: Any) -> np.ndarray:
    """Return what the page's model heard last, int16 `(samples,)`."""
    samples = page.value("Array.from(window.lastResult.samples, (value) => value * 32768)")
    return np.array(samples).astype(np.int16)
