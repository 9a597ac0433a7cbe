"""Whisper in the layout that it is published in, of random weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distillery.data.manifest import PreparedData
from distillery.data.spelling import SpellingRule
from distillery.data.text import Vocabulary
from distillery.errors import ModelError
from distillery.models.fingerprint import fingerprint
from distillery.params.teacher import TransformersTeacherParams
from distillery.teacher_cache.store import TeacherCache
from distillery.teachers.base import Workplace
from distillery.teachers.huggingface import take_model
from distillery.teachers.kinds import load_teacher
from distillery.teachers.whisper import WhisperTeacher
from distillery.teachers.whisper_tokens import barred_tokens
from tasks.cache import cache
from tasks.distill import distill
from tasks.teacher import teacher as teach
from tests.tiny import RATE_HZ, speak, tiny_params, write_params
from tests.tiny_whisper import SPECIAL, write_whisper

CLIPS = [speak("ab", 1), speak("cab ba", 2)]


@pytest.fixture(scope="module")
def data(tone_corpus: Path) -> PreparedData:
    return PreparedData.open(tone_corpus / "data/prepared")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def teacher(data: PreparedData, folder: Path) -> WhisperTeacher:
    return take(data, folder)


def take(data: PreparedData, folder: Path, alphabet: str = "abc", **whisper: Any) -> WhisperTeacher:
    """Return the model in a folder, its students' tokens being those of an alphabet."""
    there = folder.parent
    other = PreparedData(data.folder, data.frame, replace(data.summary, alphabet=alphabet))
    params = TransformersTeacherParams(
        kind="transformers", model=folder.name, whisper={"beam_size": 3, "bar": True, **whisper}
    )
    place = Workplace(other, there, there, there / "curves.jsonl", root=there)
    found = take_model(params, place).teacher
    assert isinstance(found, WhisperTeacher)
    return found


def test_texts_are_spelt_as_the_corpus_is_and_nothing_is_said_twice(
    teacher: WhisperTeacher,
) -> None:
    outputs = teacher.forward(*teacher.extract(CLIPS))
    assert outputs.log_probs is None and outputs.hidden == {}
    assert outputs.num_frames == [0, 0]
    for items, confidence in zip(outputs.hypotheses, outputs.confidences, strict=True):
        texts = [item[0] for item in items]
        assert 1 < len(texts) <= 3 and len(set(texts)) == len(texts)
        assert all(set(text) <= set("abc ") and text for text in texts)
        assert 0 < confidence <= 1
        assert all(np.isfinite(item[1]) and item[1] < 0 for item in items)
    assert teacher.transcribe(CLIPS) == [items[0][0] for items in outputs.hypotheses]


def test_scores_are_log_probabilities_of_the_tokens_and_decide_with_their_number(
    teacher: WhisperTeacher,
) -> None:
    features, _ = teacher.extract(CLIPS[:1])
    with torch.inference_mode():
        states = teacher.module.model.encoder(features).last_hidden_state
        (sequences,) = teacher._search(states)
        begin = list(teacher.settings.begin_suppress_tokens)
        end, expected, means = teacher.module.config.eos_token_id, {}, []
        for tokens in sequences.tolist():
            tokens = tokens[: tokens.index(end) + 1] if end in tokens else tokens
            total = 0.0
            for position, token in enumerate(tokens):  # one token at a time, nothing batched
                said = torch.tensor([[*teacher.prompt, *tokens[:position]]])
                logits = teacher.module(encoder_outputs=(states,), decoder_input_ids=said).logits
                barred = teacher.suppressed + (begin if position == 0 else [])
                allowed = logits[0, -1].index_fill(0, torch.tensor(barred), -torch.inf)
                total += float(allowed.log_softmax(-1)[token])
            text = teacher.tokenizer.decode(tokens, skip_special_tokens=True)
            text = " ".join(text.lower().split())
            expected[text] = np.logaddexp(expected.get(text, -np.inf), total)
            means.append(total / len(tokens))
    outputs = teacher.forward(*teacher.extract(CLIPS[:1]))
    found = {item[0]: item[1] for item in outputs.hypotheses[0]}
    assert found == pytest.approx(expected, abs=1e-4)
    assert means == sorted(means, reverse=True)
    assert outputs.confidences[0] == pytest.approx(np.exp(means[0]), rel=1e-4)


def test_an_utterance_says_the_same_alone_and_in_a_batch(teacher: WhisperTeacher) -> None:
    together = teacher.forward(*teacher.extract(CLIPS), layers=["last"])
    for row, clip in enumerate(CLIPS):
        alone = teacher.forward(*teacher.extract([clip]), layers=["last"])
        texts = [item[0] for item in alone.hypotheses[0]]
        assert texts == [item[0] for item in together.hypotheses[row]]
        frames = alone.num_frames[0]
        assert together.num_frames[row] == frames
        assert np.allclose(
            alone.hidden["last"][0, :frames], together.hidden["last"][row, :frames], atol=1e-4
        )


def test_hidden_states_are_those_of_the_encoder_at_its_rate(teacher: WhisperTeacher) -> None:
    assert teacher.layer_widths == {"layers.0": 16, "layers.1": 16, "last": 16}
    outputs = teacher.forward(*teacher.extract(CLIPS), layers=["layers.0", "last"])
    for clip, frames in zip(CLIPS, outputs.num_frames, strict=True):
        assert abs(frames * teacher.frame_shift_seconds - len(clip) / RATE_HZ) < 0.02
    assert outputs.hidden["last"].shape == (2, 200, 16)
    assert not np.allclose(outputs.hidden["last"], outputs.hidden["layers.0"])
    with pytest.raises(ModelError, match="layer 'layers.7': unknown to this teacher, expected"):
        teacher.forward(*teacher.extract(CLIPS), layers=["layers.7"])


def test_characters_without_a_token_are_never_written(data: PreparedData, folder: Path) -> None:
    teacher = take(data, folder, "AB")
    texts = teacher.transcribe(CLIPS)
    assert all(set(text) <= set("AB ") for text in texts) and any(texts)
    barred = teacher.tokenizer.convert_ids_to_tokens(teacher.suppressed)
    assert {"c", "Ġc", "Ġcab", "7", "Ã"} <= set(barred)  # Ã begins the bytes of é
    assert not {"a", "A", "ab", "Ġ", *SPECIAL} & set(barred)


def test_an_apostrophe_is_written_where_the_students_have_one(teacher: WhisperTeacher) -> None:
    held = teacher.tokenizer.get_vocab()
    accent = held["Ì"]  # begins the bytes of combining marks
    without, having = (
        barred_tokens(teacher.tokenizer, Vocabulary.from_alphabet(alphabet))
        for alphabet in ("abc", "abc'")
    )
    assert held["'"] in without and held["'"] not in having
    assert accent in without and accent in having
    assert accent not in barred_tokens(teacher.tokenizer, Vocabulary.from_alphabet("abcá"))


@torch.inference_mode()
def test_a_text_that_holds_other_characters_nonetheless_is_no_hypothesis(
    teacher: WhisperTeacher,
) -> None:
    state = torch.zeros(200, 16)
    tokens = [teacher.tokenizer.encode(word, add_special_tokens=False) for word in ("d", "ab")]
    end = teacher.module.config.eos_token_id
    padded = torch.tensor([[*item, end, end][:3] for item in tokens])
    items, confidence = teacher._rank(state, padded)
    assert [item[0] for item in items] == ["ab"] and confidence > 0
    items, confidence = teacher._rank(state, padded[:1])
    assert ([item[0] for item in items], confidence) == ([""], 0.0)


def test_it_hears_freely_and_its_texts_are_spelt_by_the_rule_of_the_data(
    data: PreparedData, folder: Path
) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz'"
    rule = SpellingRule("digits", "spell", "en")
    ruled = PreparedData(data.folder, data.frame, replace(data.summary, spelling=rule))
    free = take(ruled, folder, letters, bar=False)
    assert free.suppressed == sorted(free.settings.suppress_tokens) and free.spelling == rule
    ends = free.module.config.eos_token_id
    sequences = [
        free.tokenizer.encode(text, add_special_tokens=False)
        for text in ("XKB2", "Ж", "xkb 2", "x k b two")
    ]
    longest = max(map(len, sequences)) + 1
    padded = torch.tensor([item + [ends] * (longest - len(item)) for item in sequences])
    state = torch.zeros(200, 16)
    with torch.inference_mode():
        items, confidence = free._rank(state, padded)
        alone = [free._rank(state, row[None]) for row in padded]
    assert [text for text, _ in items] == ["x k b two", "xkb two"]
    scores = [single[0][0][1] for single in alone]
    assert items[0][1] == pytest.approx(np.logaddexp(scores[0], scores[3]), abs=1e-4)
    tokens = len(sequences[0]) + 1
    assert confidence == pytest.approx(np.exp(items[0][1] / tokens), rel=1e-4)
    assert confidence >= alone[0][1] > 0
    assert alone[1] == ([("", scores[1])], 0.0)


def test_confidence_is_that_of_what_was_allowed(data: PreparedData, folder: Path) -> None:
    free, barred = (take(data, folder, "ab", bar=bar) for bar in (False, True))
    sequence = torch.tensor([free.tokenizer.encode("ab", add_special_tokens=False)])
    ends = torch.tensor([[free.module.config.eos_token_id]])
    state, said = torch.zeros(200, 16), torch.cat([sequence, ends], dim=1)
    with torch.inference_mode():
        assert barred._rank(state, said)[1] > 3 * free._rank(state, said)[1]


def test_a_teacher_saved_before_there_were_rules_is_what_it_was(
    data: PreparedData, folder: Path, tmp_path: Path
) -> None:
    take(data, folder).save(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text("utf-8"))
    assert config.pop("spelling")["language"] == "en" and "bar" not in config
    path.write_text(json.dumps(config), "utf-8")
    former = load_teacher(tmp_path)
    assert isinstance(former, WhisperTeacher) and former.config == config
    assert former.spelling.keeps_numbers and len(former.suppressed) > 100


def test_audio_that_is_too_long_is_refused_with_its_length(teacher: WhisperTeacher) -> None:
    with pytest.raises(ModelError, match=r"an utterance lasts 4.25 s, Whisper hears at most 4 s"):
        teacher.extract([np.zeros(34_000, np.float32)])
    features, lengths = teacher.extract([np.zeros(32_000, np.float32)])
    assert features.shape == (1, 8, 400) and lengths.tolist() == [400]


def test_it_is_saved_and_loaded_whole(teacher: WhisperTeacher, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    teacher.save(tmp_path / "one")
    again = load_teacher(tmp_path / "one")
    assert again.transcribe(CLIPS) == teacher.transcribe(CLIPS)
    assert fingerprint(again) == fingerprint(teacher)
    again.save(tmp_path / "two")
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*")]
    assert Path("tokenizer/tokenizer.json") in files
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_what_decides_its_texts_is_in_its_fingerprint(data: PreparedData, folder: Path) -> None:
    found = [
        take(data, folder),
        take(data, folder, beam_size=4),
        take(spelt_otherwise(data, "de"), folder, language="de"),
        take(data, folder, "ab"),
        take(data, folder, bar=False),
        take(spelt_otherwise(data, "en_IN"), folder),
    ]
    assert len({fingerprint(item).fingerprint for item in found}) == len(found)


def spelt_otherwise(data: PreparedData, language: str) -> PreparedData:
    rule = SpellingRule("cardinals", "spell", language)
    return PreparedData(data.folder, data.frame, replace(data.summary, spelling=rule))


def test_numbers_are_said_in_the_language_that_it_writes(data: PreparedData, folder: Path) -> None:
    with pytest.raises(ModelError, match=r"language is 'de', but prepare.spelling says .* in 'en'"):
        take(data, folder, language="de")
    take(spelt_otherwise(data, "de"), folder, language="de")
    take(data, folder, language="de", task="translate")  # into English


def test_language_and_task_stand_in_the_prompt(
    data: PreparedData, folder: Path, tmp_path: Path
) -> None:
    german = take(data, folder, language="de", task="translate")
    assert german.tokenizer.convert_ids_to_tokens(german.prompt) == [
        "<|startoftranscript|>",
        "<|de|>",
        "<|translate|>",
        "<|notimestamps|>",
    ]
    with pytest.raises(ModelError, match=r"teacher.whisper.language: 'xx', expected one of de, en"):
        take(data, folder, language="xx")
    english = write_whisper(tmp_path / "english", multilingual=False)
    assert len(take(data, english, language="xx").prompt) == 2


def test_another_rate_than_announced_is_refused(teacher: WhisperTeacher) -> None:
    teacher.check_sample_rate(RATE_HZ)
    with pytest.raises(ModelError, match="prepared for audio of 8000 Hz, this has 16000 Hz"):
        teacher.check_sample_rate(16000)


def test_damaged_files_are_named(data: PreparedData, tmp_path: Path) -> None:
    folder = write_whisper(tmp_path / "model")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"model.safetensors: cannot be read as safetensors"):
        take(data, folder)
    sizes = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**sizes, "encoder_attention_heads": 5}))
    with pytest.raises(ModelError, match=r"config.json: describes no Whisper model: .*divisible"):
        take(data, folder)
    (folder / "config.json").write_text(json.dumps(sizes))
    weights.unlink()
    with pytest.raises(ModelError, match="holds no weights, expected model.safetensors"):
        take(data, folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="the tokenizer cannot be read"):
        take(data, folder)
    (folder / "generation_config.json").unlink()
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match=r"preprocessor_config.json: no such file; download it"):
        take(data, folder)


def test_a_damaged_saved_teacher_is_named(teacher: WhisperTeacher, tmp_path: Path) -> None:
    teacher.save(tmp_path)
    tokenizer = tmp_path / "tokenizer/tokenizer.json"
    changed = json.loads(tokenizer.read_text("utf-8"))
    changed["model"]["merges"].pop()
    tokenizer.write_text(json.dumps(changed))
    with pytest.raises(ModelError, match="tokenizer: was changed since; run make teacher"):
        load_teacher(tmp_path)
    tokenizer.write_text("{")
    with pytest.raises(ModelError, match="tokenizer: cannot be read"):
        load_teacher(tmp_path)


def test_parts_of_two_models_are_refused(data: PreparedData, tmp_path: Path) -> None:
    folder, deeper = write_whisper(tmp_path / "a"), write_whisper(tmp_path / "b", encoder_layers=3)
    (folder / "config.json").write_bytes((deeper / "config.json").read_bytes())
    with pytest.raises(ModelError, match=r"layers.2.* is not there, expected .*14 more tensors"):
        take(data, folder)
    wider = write_whisper(tmp_path / "c", seconds=6)
    hears = "preprocessor_config.json"
    (deeper / hears).write_bytes((wider / hears).read_bytes())
    with pytest.raises(ModelError, match=r"gives 8 mels x 600 frames, the weights take 8 x 400"):
        take(data, deeper)
    small = write_whisper(tmp_path / "d")
    tokens = json.loads((small / "tokenizer.json").read_text())
    size = max(item["id"] for item in tokens["added_tokens"]) + 1
    last = tokens["added_tokens"][-1]
    tokens["added_tokens"] += [
        {**last, "id": size + n, "content": f"<|more{n}|>"} for n in range(3)
    ]
    (small / "tokenizer.json").write_text(json.dumps(tokens))
    with pytest.raises(ModelError, match=rf"tokenizer has {size + 3} tokens, the weights {size};"):
        take(data, small)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (small / name).write_text((small / name).read_text().replace("notimestamps", "nothing"))
    with pytest.raises(ModelError, match=r"no token <\|notimestamps\|>, expected Whisper's"):
        take(data, small)


def test_states_that_are_no_numbers_are_refused(data: PreparedData, folder: Path) -> None:
    teacher = take(data, folder)
    with torch.no_grad():
        teacher.module.model.encoder.layer_norm.weight[0] = float("nan")
    with pytest.raises(ModelError, match="states are NaN or infinite in arithmetic fp32"):
        teacher.transcribe(CLIPS)


def test_students_learn_its_texts_and_its_states(prepared: Path) -> None:
    write_whisper(prepared / "model")
    plain = tiny_params(
        teacher={"kind": "transformers", "model": "model", "whisper": {"beam_size": 2}},
        cache={"payload": {"hidden_layers": ["last"], "num_hypotheses": 2}, "audit_utterances": 2},
    )
    whisper = {"beam_size": 2, "bar": True}
    plain["teacher"] = {"kind": "transformers", "model": "model", "whisper": whisper}
    plain["teacher"]["allow_poor"] = True
    plain["distill"]["objective"] = {
        "teacher_share": 1.0,
        "frame": {"weight": 0.0},
        "sequence": {"num_hypotheses": 2},
        "hidden": {"layers": {"last": "last"}},
    }
    write_params(prepared, plain)
    teach(prepared)
    cache(prepared)
    store = TeacherCache.open_current(prepared / "data/teacher_cache")
    assert store.namespace.payload == {"kind": "none"}
    said = store.hypotheses(store.all_rows)
    assert {len(items) for items in said} == {1, 2}  # two ways to spell one text are one
    distill(prepared, "conv", 0)
    points = (prepared / "curves/students/conv/seed-0.jsonl").read_text()
    assert "train/sequence" in points and "train/hidden" in points and "train/ctc" not in points
