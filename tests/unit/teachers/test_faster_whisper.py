"""Whisper on faster-whisper: one of random weights, converted here, and a real one where it is."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from distillery.data.manifest import PreparedData
from distillery.errors import ModelError
from distillery.models.fingerprint import fingerprint
from distillery.params.teacher import FasterWhisperTeacherParams, TransformersTeacherParams
from distillery.teacher_cache.store import TeacherCache
from distillery.teachers import ctranslate2_files
from distillery.teachers.base import Workplace
from distillery.teachers.faster_whisper import FasterWhisperTeacher, take_faster_whisper
from distillery.teachers.huggingface import take_model
from distillery.teachers.kinds import load_teacher
from tasks.cache import cache
from tasks.teacher import teacher as teach
from tests.tiny import RATE_HZ, speak, tiny_params, write_params
from tests.tiny_whisper import write_converted

CLIPS = [speak("ab", 1), speak("cab ba", 2)]
ENGLISH = "abcdefghijklmnopqrstuvwxyz'"


@pytest.fixture(scope="module")
def data(tone_corpus: Path) -> PreparedData:
    return PreparedData.open(tone_corpus / "data/prepared")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper of random weights in Hugging Face's layout, and converted, in folders beside."""
    root = tmp_path_factory.mktemp("faster")
    write_converted(root / "tiny", root / "hub")
    return root


def take(
    data: PreparedData, root: Path, alphabet: str = "abc", rate_hz: int = RATE_HZ, **settings: Any
) -> FasterWhisperTeacher:
    """Return a model of a folder, for students of an alphabet and audio of a rate."""
    summary = replace(data.summary, alphabet=alphabet, sample_rate_hz=rate_hz)
    params = FasterWhisperTeacherParams(
        **{"kind": "faster_whisper", "model": "tiny", "beam_size": 2, **settings}
    )
    other = PreparedData(data.folder, data.frame, summary)
    place = Workplace(other, root, root, root / "curves.jsonl", root=root)
    found = take_faster_whisper(params, place).teacher
    assert isinstance(found, FasterWhisperTeacher)
    return found


# --- of random weights ----------------------------------------------------------------------------


def test_sizes_and_rates_are_those_of_the_model(data: PreparedData, published: Path) -> None:
    teacher = take(data, published)
    assert (teacher.gives_frames, teacher.layer_widths) == (False, {"last": 16})
    assert (teacher.max_seconds, teacher.frame_shift_seconds) == (30.0, 0.02)
    assert 40_000 < teacher.num_parameters < 60_000
    outputs = teacher.forward(*teacher.extract(CLIPS), ["last"])
    assert outputs.log_probs is None
    for clip, frames in zip(CLIPS, outputs.num_frames, strict=True):
        assert frames == math.ceil(len(clip) / RATE_HZ / 0.02)
    assert outputs.hidden["last"].shape == (2, 1500, 16)
    assert outputs.languages == ()  # an English-only model detects none


def test_an_utterance_says_the_same_alone_and_in_a_batch(
    data: PreparedData, published: Path
) -> None:
    teacher = take(data, published)
    together = teacher.forward(*teacher.extract(CLIPS), ["last"])
    for row, clip in enumerate(CLIPS):
        alone = teacher.forward(*teacher.extract([clip]), ["last"])
        assert alone.hypotheses == [together.hypotheses[row]]
        assert np.array_equal(alone.hidden["last"][0], together.hidden["last"][row])


def test_hidden_states_are_those_of_the_published_encoder(
    data: PreparedData, published: Path
) -> None:
    import transformers

    original = transformers.WhisperForConditionalGeneration.from_pretrained(published / "hub")
    teacher = take(data, published, compute_type="float32")
    features, lengths = teacher.extract(CLIPS)
    with torch.inference_mode():
        wanted = original.model.encoder(features).last_hidden_state.numpy()
    found = teacher.forward(features, lengths, ["last"]).hidden["last"]
    assert np.abs(found - wanted).max() < 0.1  # weights were rounded to int8
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.999


def test_it_is_saved_whole_and_loaded_without_the_original(
    data: PreparedData, published: Path, tmp_path: Path
) -> None:
    shutil.copytree(published / "tiny", tmp_path / "tiny")
    teacher = take(data, tmp_path, hot_words=["ab"])
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    teacher.save(tmp_path / "one")
    before, digest = teacher.transcribe(CLIPS), fingerprint(teacher)
    shutil.rmtree(tmp_path / "tiny")
    again = load_teacher(tmp_path / "one")
    assert (again.transcribe(CLIPS), fingerprint(again)) == (before, digest)
    again.save(tmp_path / "two")
    files = [p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*")]
    assert Path("model/model.bin") in files
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    weights = tmp_path / "one/model/model.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(ModelError, match=r"model\.bin: was changed since; run make teacher"):
        load_teacher(tmp_path / "one")


def test_what_decides_its_texts_is_in_its_fingerprint(data: PreparedData, published: Path) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"beam_size": 3},
        {"prompt": "a b"},
        {"hot_words": ["a"]},
        {"compute_type": "float32"},
        {"alphabet": "ab"},
    ]
    found = [fingerprint(take(data, published, **change)).fingerprint for change in changes]
    assert len(set(found)) == len(changes)


def test_texts_and_states_are_cached(prepared: Path, published: Path) -> None:
    settings = tiny_params(
        teacher={"kind": "faster_whisper", "model": str(published / "tiny"), "beam_size": 2},
        cache={"payload": {"hidden_layers": ["last"], "num_hypotheses": 2}},
    )
    settings["teacher"] = {
        key: settings["teacher"][key] for key in ("kind", "model", "beam_size", "allow_poor")
    }
    write_params(prepared, settings)
    teach(prepared)
    cache(prepared)  # and its audit
    store = TeacherCache.open_current(prepared / "data/teacher_cache")
    assert store.namespace.payload == {"kind": "none"}
    assert store.hidden(store.all_rows, "last").values.shape[-1] == 16
    source = json.loads((prepared / "models/teacher/source.json").read_text())
    assert set(source["files"]) >= {"model.bin", "config.json", "tokenizer.json"}


def test_prompt_and_hot_words_stand_before_the_text(data: PreparedData, published: Path) -> None:
    teacher = take(data, published, prompt="cab ba", hot_words=["abc", "b"])
    tokens = [teacher.model.hf_tokenizer.id_to_token(i) for i in teacher._prompt("en")]
    assert tokens[0] == "<|startofprev|>" and tokens[-1] == "<|notimestamps|>"
    assert "".join(tokens[1:-2]).replace("Ġ", " ") == " abc, b cab ba"
    with_them = teacher.forward(*teacher.extract(CLIPS)).hypotheses
    assert with_them != take(data, published).forward(*teacher.extract(CLIPS)).hypotheses


def test_scores_are_those_of_the_search_before_it_divides_by_the_tokens(
    data: PreparedData, published: Path
) -> None:
    teacher = take(data, published, beam_size=1, alphabet=ENGLISH)
    features, _ = teacher.extract(CLIPS[:1])
    encoded = teacher.model.encode(features.numpy())
    (result,) = teacher._search(encoded, ["en"])
    (plain,) = teacher.model.model.generate(
        encoded,
        [teacher._prompt("en")],
        beam_size=1,
        length_penalty=0,  # so that scores are sums
        max_length=teacher.model.max_length,
        return_scores=True,
        suppress_tokens=teacher._suppressed,
    )
    assert plain.sequences_ids == result.sequences_ids
    items, _ = teacher._rank(result)
    assert items[0][1] == pytest.approx(plain.scores[0], rel=1e-4)


# --- what cannot work -----------------------------------------------------------------------------


def test_audio_that_is_too_long_is_refused_with_its_length(
    data: PreparedData, published: Path
) -> None:
    teacher = take(data, published)
    with pytest.raises(ModelError, match=r"an utterance lasts 31.00 s, Whisper hears at most 30 s"):
        teacher.extract([np.zeros(31 * RATE_HZ, np.float32)])
    features, lengths = teacher.extract([np.zeros(30 * RATE_HZ, np.float32)])
    assert (features.shape, lengths.tolist()) == ((1, 8, 3000), [3000])


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"model": "hub"}, r"hub/model.bin: no such file; this is Hugging Face's layout: set"),
        ({"model": "./nowhere"}, r"teacher.model: './nowhere': no such folder .* large-v3"),
        ({"model": "enormous"}, r"teacher.model: 'enormous': no such folder .* or one of tiny"),
        ({"prompt": "ab " * 200}, r"prompt and hot_words are \d+ tokens together, .* most 223;"),
        ({"compute_type": "float16"}, r"compute_type: 'float16', this machine's cpu computes in"),
    ],
)
def test_settings_that_cannot_work_say_what_does(
    data: PreparedData, published: Path, settings: dict[str, Any], wanted: str
) -> None:
    with pytest.raises(ModelError, match=wanted):
        take(data, published, **settings)


def test_a_converted_model_is_no_model_of_transformers(data: PreparedData, published: Path) -> None:
    params = TransformersTeacherParams(kind="transformers", model="tiny")
    place = Workplace(data, published, published, published / "curves.jsonl", root=published)
    with pytest.raises(ModelError, match=r"CTranslate2's format .* set teacher.kind to faster_wh"):
        take_model(params, place)


def test_a_name_whose_hub_cannot_be_reached_says_what_to_download(
    data: PreparedData, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctranslate2_files, "can_reach", lambda _: False)
    with pytest.raises(ModelError, match=r"'tiny.en': neither a folder .* download it elsewhere"):
        take(data, published, model="tiny.en")


@pytest.mark.parametrize("length", [0, 3, 60, 2000, -1])
def test_weights_that_are_cut_short_are_named(
    data: PreparedData, published: Path, tmp_path: Path, length: int
) -> None:
    shutil.copytree(published / "tiny", tmp_path / "tiny")
    path = tmp_path / "tiny/model.bin"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ModelError, match=r"model\.bin: cannot be read as a Whisper model of CT"):
        take(data, tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocabulary.json"])
def test_files_that_are_no_models_are_named_with_their_folder(
    data: PreparedData, published: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(published / "tiny", tmp_path / "tiny")
    (tmp_path / "tiny" / name).write_text("{")
    with pytest.raises(ModelError, match=r"tiny: is no Whisper model that faster-whisper reads"):
        take(data, tmp_path)


def test_arithmetic_is_a_setting_of_the_teacher(data: PreparedData, published: Path) -> None:
    teacher = take(data, published)
    with pytest.raises(ModelError, match=r"'bf16', but .*compute_type, 'int8'; set cache.prec"):
        teacher.forward(*teacher.extract(CLIPS), precision="bf16")
    with pytest.raises(ModelError, match="layer 'layers.0': unknown to this teacher"):
        teacher.forward(*teacher.extract(CLIPS), ["layers.0"])


# --- a real one -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(data: PreparedData, shared_models: Path) -> FasterWhisperTeacher:
    """Whisper base, as others trained it, for audio of 16 kHz; it detects the language."""
    model = "whisper-base-int8"
    return take(data, shared_models, ENGLISH, 16_000, model=model, beam_size=5)


@pytest.fixture
def orders(shared_data: Path) -> list[np.ndarray]:
    """Two short recordings of people who order coffee, 16 kHz."""
    return recordings(shared_data, 2)


def recordings(shared_data: Path, count: int) -> list[np.ndarray]:
    """Return the shortest recordings of the test split whose orders name no number."""
    with open(shared_data / "coffee/recordings.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    rows = [row for row in rows if row["split"] == "test" and '"size"' not in row["slots"]]
    rows.sort(key=lambda row: int(row["num_samples"]))
    paths = [shared_data / "coffee" / row["path"] for row in rows[:count]]
    return [soundfile.read(path, dtype="float32")[0] for path in paths]


def by_hand(teacher: FasterWhisperTeacher, waveforms: Sequence[np.ndarray]) -> list[str]:
    """Return what the library used by hand writes, in small letters without signs."""
    texts = []
    for waveform in waveforms:
        segments, _ = teacher.model.transcribe(
            waveform,
            language="en",
            beam_size=5,
            temperature=0,
            without_timestamps=True,
            condition_on_previous_text=False,
        )
        kept = [c for c in "".join(item.text for item in segments).lower() if c in f"{ENGLISH} "]
        texts.append(" ".join("".join(kept).split()))
    return texts


def test_a_real_one_writes_what_the_library_used_by_hand_writes(
    real: FasterWhisperTeacher, orders: list[np.ndarray]
) -> None:
    outputs = real.forward(*real.extract(orders))
    assert [items[0][0] for items in outputs.hypotheses] == by_hand(real, orders)
    assert outputs.languages == ["en", "en"]
    for items, confidence in zip(outputs.hypotheses, outputs.confidences, strict=True):
        assert 1 <= len(items) <= 5 and len({text for text, _ in items}) == len(items)
        assert all(-100 < score < 0 for _, score in items)
        assert 0.5 < confidence <= 1
        assert len(items[0][0].split()) >= 4


def test_a_real_one_detects_the_language_of_each_utterance(
    real: FasterWhisperTeacher, data: PreparedData, shared_models: Path, shared_data: Path
) -> None:
    paths = (shared_data / "flemishguy_nl").rglob("*.flac")
    path = min(paths, key=lambda item: abs(item.stat().st_size - 200_000))
    dutch, rate = soundfile.read(path, dtype="float32")
    real.sample_rate_hz = rate  # it resamples
    heard = real.forward(*real.extract([dutch]))
    real.sample_rate_hz = 16_000
    assert heard.languages == ["nl"]
    assert real.num_parameters == pytest.approx(72.6e6, rel=0.01)
    with pytest.raises(ModelError, match=r"teacher.language: 'xx', expected null, .* en, .*"):
        take(data, shared_models, model="whisper-base-int8", language="xx")
    with pytest.raises(ModelError, match=r"teacher.language is 'nl', but prepare.spelling says"):
        take(data, shared_models, ENGLISH, model="whisper-base-int8", language="nl")
