"""Texts as they are served: with the decoder that lies beside a student, and with hot words."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distillery.commands import main as cli
from distillery.data.audio import load_audio
from distillery.data.text import Vocabulary
from distillery.decoder.decoder import Decoder
from distillery.decoder.grammar import SearchWeights
from distillery.decoder.trie import HotWord
from distillery.errors import ModelError
from distillery.params.register import ServeLimits
from distillery.serve.export import to_onnx
from distillery.serve.onnx_recogniser import MODEL_FILES, OnnxRecogniser
from distillery.serve.served import Served, choose_format, load_served
from distillery.serve.streaming import StreamingRecogniser
from distillery.serve.texts import digest_of_texts, parse_hot_words
from distillery.serve.torch_transcriber import TorchTranscriber
from distillery.serve.transcription import transcribe_folder
from distillery.tracking.bundle import check_bundle, write_bundle
from distillery.tracking.serving_model import BadClipError, Clip, SpeechModel
from tests.recordings import written
from tests.tiny import RATE_HZ, speak
from tests.tiny_decoder import is_of_texts, put_decoder
from tests.tiny_students import streaming_student, talking_student

WEIGHTS = SearchWeights(0.5, 0.0, None)
RECORDINGS = [speak("ab cab", seed) for seed in range(4)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles of one student with a decoder, by format."""
    base = tmp_path_factory.mktemp("bundles")
    saved, exported = base / "saved", base / "exported"
    saved.mkdir()
    exported.mkdir()
    student = talking_student(0)
    student.save(saved)
    (exported / MODEL_FILES["onnx"]).write_bytes(to_onnx(student.network, 16))
    put_decoder(exported, WEIGHTS)
    for name in ("torch", "onnx"):
        served = choose_format(name, 0.2, {"onnx": 0.2}, exported, 1.0)
        write_bundle(saved, base / name, served.contents)
        check_bundle(base / name)
    write_bundle(saved, base / "plain", Served().contents)
    return {name: base / name for name in ("torch", "onnx", "plain", "exported")}


@pytest.mark.parametrize("name", ["torch", "onnx"])
def test_a_bundle_is_served_with_its_decoder(folders: dict[str, Path], name: str) -> None:
    model = load_served(folders[name])
    texts = model.transcribe(RECORDINGS)
    student, decoder = talking_student(0), Decoder.load(folders[name], model.vocabulary)
    assert texts == [decoder.text(item) for item in student.log_probs(RECORDINGS)]
    assert any(texts) and all(is_of_texts(text) for text in texts)
    assert texts != load_served(folders["plain"]).transcribe(RECORDINGS)


def test_the_digest_of_a_version_is_of_its_decoder_too(folders: dict[str, Path]) -> None:
    digests = set()
    for name in ("torch", "onnx"):
        served = choose_format(name, 0.2, {"onnx": 0.2}, folders["exported"], 1.0)
        assert {"decoder.lm", "decoder.json"} <= served.contents.keys()
        digests.add(served.digest)
    assert len(digests) == 2 and "" not in digests


def test_a_changed_decoder_is_found(folders: dict[str, Path], tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    write_bundle(folders["plain"], bundle, {"decoder.lm": b"n-grams"})
    (bundle / "decoder.lm").write_bytes(b"others")
    with pytest.raises(ModelError, match=r"decoder\.lm: SHA-256 .* the file is damaged"):
        check_bundle(bundle)


@pytest.mark.parametrize("name", ["torch", "onnx", "plain"])
def test_long_recordings_and_hot_words(folders: dict[str, Path], name: str) -> None:
    model = load_served(folders[name])
    long = np.concatenate([speak("ab cab bac", seed) for seed in range(9)] * 8)
    assert len(long) > 60 * RATE_HZ
    expected = (HotWord("cccc", 90.0),)
    for samples in (RECORDINGS[0], long):
        assert "cccc" not in model.transcribe([samples])[0].split()
        assert "cccc" in model.transcribe([samples], expected)[0].split()


def test_it_needs_no_pytorch(folders: dict[str, Path]) -> None:
    code = (
        "import sys, numpy; from pathlib import Path\n"
        "from distillery.serve.served import load_served\n"
        "from distillery.serve.texts import parse_hot_words\n"
        f"model = load_served(Path({str(folders['onnx'])!r}))\n"
        "assert model.decoder is not None\n"
        "model.transcribe([numpy.zeros(800, numpy.float32)], "
        "parse_hot_words(['cab=2'], model.vocabulary))\n"
        "held = {'torch', 'torchaudio', 'flashlight', 'kenlm'} & sys.modules.keys()\n"
        "assert not held, held"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("written_as", "message"),
    [
        ("cab=many", "weight 'many', expected a number from 0 to 100 behind '='"),
        ("cab=-1", "weight '-1'"),
        ("cab=nan", "weight 'nan'"),
        ("cab=101", "weight '101'"),
        ("?!", "holds no word"),
        ("=3", "holds no word"),
        ("zoo", r"no token for \['o', 'z'\]; write it as transcripts do"),
    ],
)
def test_hot_words_that_cannot_be_used_are_named(written_as: str, message: str) -> None:
    with pytest.raises(ModelError, match=rf"hot word '.*{message}"):
        parse_hot_words([written_as], Vocabulary.from_alphabet("abc"))


def test_hot_words_have_a_weight() -> None:
    found = parse_hot_words(["Cab, a!", "bab=2.5"], Vocabulary.from_alphabet("abc"))
    assert found == (HotWord("cab a", 4.0), HotWord("bab", 2.5))


def test_texts_of_other_words_are_of_another_digest(folders: dict[str, Path]) -> None:
    plain, model = load_served(folders["plain"]), load_served(folders["torch"])
    hot = (HotWord("cab", 2.0),)
    assert digest_of_texts(plain) == plain.weights_digest == model.weights_digest
    digests = [digest_of_texts(one, words) for one in (plain, model) for words in ((), hot)]
    assert len(set(digests)) == 4


def test_the_command_takes_hot_words(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    path = recordings / "a.wav"
    path.write_bytes(written(RECORDINGS[0], "WAV", RATE_HZ))
    plain = ["transcribe", "--model", str(folders["onnx"])]
    hot = ["--hot-word", "cccc=90", "--hot-word", "bab"]
    model = load_served(folders["onnx"])
    heard = [load_audio(path.read_bytes(), RATE_HZ)]
    words = parse_hot_words(["cccc=90", "bab"], model.vocabulary)
    for options, expected in (([], ()), (hot, words)):
        assert cli.main([*plain, *options, str(path)]) == 0
        text = model.transcribe(heard, expected)[0]
        assert capsys.readouterr().out == f"{path}\t{text}\n"
    out = tmp_path / "out.jsonl"
    assert cli.main([*plain, *hot, str(recordings), "--out", str(out)]) == 0
    assert f'"text": "{text}"' in out.read_text()
    assert cli.main([*plain, str(recordings), "--out", str(out)]) == 2  # of other hot words
    assert "is of model" in capsys.readouterr().err
    assert cli.main([*plain, "--hot-word", "zoo", str(path)]) == 2
    assert "hot word 'zoo': the model has no token" in capsys.readouterr().err
    assert transcribe_folder(model, recordings, tmp_path / "other.jsonl").num_transcribed == 1


def test_a_clip_brings_its_hot_words(folders: dict[str, Path]) -> None:
    model = SpeechModel()
    model.recogniser, model.limits = load_served(folders["onnx"]), ServeLimits()
    content = base64.b64encode(written(RECORDINGS[0], "WAV", RATE_HZ)).decode()
    one, other = model.predict(
        [Clip(audio_b64=content), Clip(audio_b64=content, hot_words=["cccc=90"])]
    )
    assert "cccc" in other.split() and "cccc" not in one.split()
    with pytest.raises(BadClipError, match="^clip 0: hot word 'zoo'") as caught:
        model.predict([Clip(audio_b64=content, hot_words=["zoo"])])
    assert caught.value.get_http_status_code() == 400


def test_a_stream_ends_with_the_text_of_the_whole(tmp_path: Path) -> None:
    student = streaming_student()
    put_decoder(tmp_path, SearchWeights(0.5, 0.0, 0.0))
    decoder = Decoder.load(tmp_path, student.vocabulary)
    samples = np.concatenate(RECORDINGS)
    hot = (HotWord("cab", 3.0),)
    stream, settled = StreamingRecogniser(student, decoder, hot), ""
    for chunk in np.array_split(samples, 20):
        stream.push(chunk)
        assert stream.settled_text.startswith(settled)
        settled = stream.settled_text
    stream.push(np.zeros(0, np.float32), last=True)
    whole = decoder.text(student.log_probs([samples])[0], hot)
    assert stream.text == stream.settled_text == whole
    assert whole.startswith(settled) and settled
    assert StreamingRecogniser(student, hot_words=hot).search is not None


def test_a_streamed_file_is_searched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    student, model, path = streaming_student(), tmp_path / "model", tmp_path / "a.wav"
    model.mkdir()
    student.save(model)
    put_decoder(model, WEIGHTS)
    path.write_bytes(written(np.concatenate(RECORDINGS), "WAV", RATE_HZ))
    command = ["transcribe", "--model", str(model), "--stream", "--idle", "0.1", str(path)]
    assert cli.main(command) == 0
    found = capsys.readouterr().out
    decoder = Decoder.load(model, student.vocabulary)
    samples = load_audio(path.read_bytes(), RATE_HZ)
    assert found == f"{decoder.text(student.log_probs([samples])[0])}\n"
    assert isinstance(load_served(model), TorchTranscriber)
    assert not isinstance(load_served(model), OnnxRecogniser)
