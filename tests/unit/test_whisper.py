from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from distillery.errors import ModelError
from distillery.fingerprint import fingerprint
from distillery.params import WhisperParams
from distillery.teachers.loading import load_teacher
from distillery.teachers.whisper import WhisperTeacher
from distillery.text import Vocabulary
from tests.tiny import RATE_HZ, speak
from tests.tiny_whisper import SPECIAL, write_whisper

ABC = Vocabulary.from_alphabet("abc")
PARAMS = WhisperParams(beam_size=3)
CLIPS = [speak("ab", 1), speak("cab ba", 2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def teacher(folder: Path) -> WhisperTeacher:
    return WhisperTeacher(folder, PARAMS, ABC, RATE_HZ)


def test_texts_are_spelt_as_the_corpus_is_and_nothing_is_said_twice(
    teacher: WhisperTeacher,
) -> None:
    outputs = teacher.forward(*teacher.extract(CLIPS))
    assert outputs.log_probs is None and outputs.hidden == {}
    assert outputs.num_frames == [0, 0]
    for items, confidence in zip(outputs.hypotheses, outputs.confidences, strict=True):
        texts = [item.text for item in items]
        assert 1 < len(texts) <= 3 and len(set(texts)) == len(texts)
        assert all(set(text) <= set("abc ") and text for text in texts)
        assert 0 < confidence <= 1
        assert all(np.isfinite(item.score) and item.score < 0 for item in items)
    assert teacher.transcribe(CLIPS) == [items[0].text for items in outputs.hypotheses]


def test_scores_are_log_probabilities_of_the_tokens_and_decide_with_their_number(
    teacher: WhisperTeacher,
) -> None:
    features, _ = teacher.extract(CLIPS[:1])
    with torch.inference_mode():
        states = teacher.model.model.encoder(features).last_hidden_state
        (sequences,) = teacher._search(states)
        end, expected, means = teacher.model.config.eos_token_id, {}, []
        for tokens in sequences.tolist():
            tokens = tokens[: tokens.index(end) + 1] if end in tokens else tokens
            total = 0.0
            for position, token in enumerate(tokens):  # one token at a time, nothing batched
                said = torch.tensor([[*teacher.prompt, *tokens[:position]]])
                logits = teacher.model(encoder_outputs=(states,), decoder_input_ids=said).logits
                total += float(logits[0, -1].log_softmax(-1)[token])
            text = teacher.tokenizer.decode(tokens, skip_special_tokens=True)
            text = " ".join(text.lower().split())
            expected[text] = np.logaddexp(expected.get(text, -np.inf), total)
            means.append(total / len(tokens))
    outputs = teacher.forward(*teacher.extract(CLIPS[:1]))
    found = {item.text: item.score for item in outputs.hypotheses[0]}
    assert found == pytest.approx(expected, abs=1e-4)
    assert means == sorted(means, reverse=True)
    assert outputs.confidences[0] == pytest.approx(np.exp(means[0]), rel=1e-4)


def test_an_utterance_says_the_same_alone_and_in_a_batch(teacher: WhisperTeacher) -> None:
    together = teacher.forward(*teacher.extract(CLIPS), layers=["last"])
    for row, clip in enumerate(CLIPS):
        alone = teacher.forward(*teacher.extract([clip]), layers=["last"])
        texts = [item.text for item in alone.hypotheses[0]]
        assert texts == [item.text for item in together.hypotheses[row]]
        frames = alone.num_frames[0]
        assert together.num_frames[row] == frames
        assert np.allclose(
            alone.hidden["last"][0, :frames], together.hidden["last"][row, :frames], atol=1e-4
        )


def test_hidden_states_are_those_of_the_encoder_at_its_rate(teacher: WhisperTeacher) -> None:
    assert teacher.layer_widths == {"encoder.0": 16, "encoder.1": 16, "last": 16}
    outputs = teacher.forward(*teacher.extract(CLIPS), layers=["encoder.0", "last"])
    for clip, frames in zip(CLIPS, outputs.num_frames, strict=True):
        assert abs(frames * teacher.frame_shift_seconds - len(clip) / RATE_HZ) < 0.02
    assert outputs.hidden["last"].shape == (2, 200, 16)
    assert not np.allclose(outputs.hidden["last"], outputs.hidden["encoder.0"])
    with pytest.raises(ModelError, match="no layer 'encoder.7', expected some of"):
        teacher.forward(*teacher.extract(CLIPS), layers=["encoder.7"])


def test_characters_without_a_token_are_never_written(folder: Path) -> None:
    teacher = WhisperTeacher(folder, PARAMS, Vocabulary.from_alphabet("AB"), RATE_HZ)
    texts = teacher.transcribe(CLIPS)
    assert all(set(text) <= set("AB ") for text in texts) and any(texts)
    barred = teacher.tokenizer.convert_ids_to_tokens(teacher.barred)
    assert {"c", "Ġc", "Ġcab", "7", "é"[:1]} - set(barred) <= {"é"}
    assert not {"a", "A", "ab", "Ġ", ",", *SPECIAL} & set(barred)


def test_a_text_that_holds_other_characters_nonetheless_is_no_hypothesis(
    teacher: WhisperTeacher,
) -> None:
    state = torch.zeros(200, 16)
    tokens = [teacher.tokenizer.encode(word, add_special_tokens=False) for word in ("d", "ab")]
    end = teacher.model.config.eos_token_id
    padded = torch.tensor([[*item, end, end][:3] for item in tokens])
    items, confidence = teacher._rank(state, padded)
    assert [item.text for item in items] == ["ab"] and confidence > 0
    items, confidence = teacher._rank(state, padded[:1])
    assert ([item.text for item in items], confidence) == ([""], 0.0)


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
    assert Path("whisper/model.safetensors") in files
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_what_decides_its_texts_is_in_its_fingerprint(folder: Path) -> None:
    prints = {
        fingerprint(WhisperTeacher(folder, params, vocabulary, RATE_HZ))["fingerprint"]
        for params, vocabulary in [
            (PARAMS, ABC),
            (WhisperParams(beam_size=4), ABC),
            (WhisperParams(beam_size=3, language="de"), ABC),
            (PARAMS, Vocabulary.from_alphabet("ab")),
        ]
    }
    assert len(prints) == 4


def test_language_and_task_stand_in_the_prompt(folder: Path, tmp_path: Path) -> None:
    params = WhisperParams(beam_size=1, language="de", task="translate")
    names = WhisperTeacher(folder, params, ABC, RATE_HZ)
    assert names.tokenizer.convert_ids_to_tokens(names.prompt) == [
        "<|startoftranscript|>",
        "<|de|>",
        "<|translate|>",
        "<|notimestamps|>",
    ]
    with pytest.raises(ModelError, match="language: 'xx', expected one of de, en"):
        WhisperTeacher(folder, WhisperParams(language="xx"), ABC, RATE_HZ)
    english = write_whisper(tmp_path, multilingual=False)
    assert len(WhisperTeacher(english, params, ABC, RATE_HZ).prompt) == 2


def test_another_rate_than_announced_is_refused(teacher: WhisperTeacher) -> None:
    teacher.check_sample_rate(RATE_HZ)
    with pytest.raises(ModelError, match="ready for audio of 8000 Hz, this has 16000 Hz"):
        teacher.check_sample_rate(16000)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    folder = write_whisper(tmp_path / "a")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cannot be read as a Whisper model"):
        WhisperTeacher(folder, PARAMS, ABC, RATE_HZ)
    weights.unlink()
    with pytest.raises(ModelError, match=r"cannot be read as a Whisper model: .*model.safetensors"):
        WhisperTeacher(folder, PARAMS, ABC, RATE_HZ)
    with pytest.raises(ModelError, match="cannot be used: .*; run make teacher"):
        load_teacher_config(tmp_path)


def load_teacher_config(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"kind": "whisper"}))
    load_teacher(folder)


def test_parts_of_two_models_are_refused(tmp_path: Path) -> None:
    folder, deeper = write_whisper(tmp_path / "a"), write_whisper(tmp_path / "b", encoder_layers=3)
    (folder / "config.json").write_bytes((deeper / "config.json").read_bytes())
    with pytest.raises(ModelError, match=r"16 missing keys in the weights, such as 'model.encoder"):
        WhisperTeacher(folder, PARAMS, ABC, RATE_HZ)
    wider = write_whisper(tmp_path / "c", seconds=6)
    (deeper / "preprocessor_config.json").write_bytes(
        (wider / "preprocessor_config.json").read_bytes()
    )
    with pytest.raises(ModelError, match=r"gives 8 mels x 600 frames, the weights hear 8 x 400"):
        WhisperTeacher(deeper, PARAMS, ABC, RATE_HZ)
    small = write_whisper(tmp_path / "d", vocab_size=270)
    teacher_tokens = json.loads((small / "tokenizer.json").read_text())
    teacher_tokens["added_tokens"] += [
        {**teacher_tokens["added_tokens"][-1], "id": 270 + n, "content": f"<|more{n}|>"}
        for n in range(3)
    ]
    (small / "tokenizer.json").write_text(json.dumps(teacher_tokens))
    with pytest.raises(ModelError, match=r"the tokenizer has 273 tokens, the weights 270"):
        WhisperTeacher(small, PARAMS, ABC, RATE_HZ)
