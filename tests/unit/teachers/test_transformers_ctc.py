"""Models in Hugging Face's layout: what of a folder is read, and what is refused."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchaudio
from safetensors.torch import load_file, save_file

from distillery.errors import ModelError
from distillery.manifest import PreparedData
from distillery.params import TransformersTeacherParams
from distillery.teachers import loading
from distillery.teachers.base import Workplace
from distillery.teachers.pretrained import PretrainedTeacher
from distillery.teachers.transformers_ctc import take_model
from tests.tiny_models import CHARACTERS, SUBWORDS, write_transformers


@pytest.fixture
def place(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    data = PreparedData.open(prepared / "data/prepared")
    return Workplace(data, prepared / "scratch", prepared, prepared / "curves.jsonl", root=prepared)


def settings(model: str = "model") -> TransformersTeacherParams:
    return TransformersTeacherParams(kind="transformers", model=model)


def take(place: Workplace) -> PretrainedTeacher:
    teacher = take_model(settings(), place).teacher
    assert isinstance(teacher, PretrainedTeacher)
    return teacher


def edit(path: Path, **changes: Any) -> None:
    content = {**json.loads(path.read_text("utf-8")), **changes}
    path.write_text(json.dumps(content), encoding="utf-8")


def test_outputs_are_those_of_transformers_itself(place: Workplace) -> None:
    import transformers

    folder = write_transformers(place.root / "model")
    teacher = take(place)
    waveform = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    (ours,) = teacher.own_log_probs([waveform])
    heard = torchaudio.functional.resample(torch.from_numpy(waveform), 8000, 16000).numpy()
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder)
    inputs = extractor(heard, sampling_rate=16000, return_tensors="pt").input_values
    inputs = torch.nn.functional.pad(inputs, (0, 80))  # one frame more, see PretrainedTeacher
    with torch.inference_mode():
        scores = transformers.Wav2Vec2ForCTC.from_pretrained(folder).eval()(inputs).logits
    torch.testing.assert_close(ours, scores[0].log_softmax(-1), atol=1e-4, rtol=1e-4)


def test_a_saved_teacher_needs_neither_the_folder_nor_the_network(place: Workplace) -> None:
    folder = write_transformers(place.root / "model", "HubertForCTC", pickled=True)
    teacher = take(place)
    saved = place.root / "saved"
    saved.mkdir()
    teacher.save(saved)
    for file in folder.iterdir():
        file.unlink()
    loaded = loading.load_teacher(saved)
    assert isinstance(loaded, PretrainedTeacher)
    assert loaded.config == teacher.config and loaded.weights_digest == teacher.weights_digest
    waveform = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    torch.testing.assert_close(
        loaded.own_log_probs([waveform]), teacher.own_log_probs([waveform]), rtol=0, atol=0
    )
    assert str(place.root) not in (saved / "config.json").read_text("utf-8")


def test_what_a_published_file_lacks_for_training_is_no_matter_of_chance(place: Workplace) -> None:
    folder = write_transformers(place.root / "model")
    state = load_file(folder / "model.safetensors")
    del state["wav2vec2.masked_spec_embed"]
    save_file({**state, "quantizer.codevectors": torch.zeros(2)}, folder / "model.safetensors")
    assert take(place).weights_digest == take(place).weights_digest


def test_weights_in_several_files_are_read_by_their_index(place: Workplace) -> None:
    folder = write_transformers(place.root / "model")
    whole = take(place).weights_digest
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    parts = {"model-00001-of-00002.safetensors": names[::2]}
    parts["model-00002-of-00002.safetensors"] = names[1::2]
    for file, kept in parts.items():
        save_file({name: state[name] for name in kept}, folder / file)
    index = {"weight_map": {name: file for file, kept in parts.items() for name in kept}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert take(place).weights_digest == whole
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model-00002-of-00002\.safetensors: no such file"):
        take(place)


def test_code_is_refused(place: Workplace) -> None:
    folder = write_transformers(place.root / "model")
    edit(folder / "config.json", auto_map={"AutoModelForCTC": "modeling_x.XForCTC"})
    with pytest.raises(ModelError, match=r"refused: auto_map .*\(AutoModelForCTC\)"):
        take(place)


def test_a_pickle_with_code_is_refused(place: Workplace) -> None:
    folder = write_transformers(place.root / "model", pickled=True)
    torch.save({"lm_head.weight": argparse.Namespace(size=3)}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin: refused: .*argparse\.Namespace"):
        take(place)


def test_other_classes_are_named(place: Workplace) -> None:
    folder = write_transformers(place.root / "model")
    edit(folder / "config.json", architectures=["Wav2Vec2ForPreTraining"])
    with pytest.raises(ModelError, match=r"'Wav2Vec2ForPreTraining', expected .*WavLMForCTC"):
        take(place)


def test_a_tokenizer_of_another_size_names_both(place: Workplace) -> None:
    folder = write_transformers(place.root / "model")
    vocabulary = {token: index for index, token in enumerate(CHARACTERS[:-1])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(
        ModelError, match=r"vocab\.json: holds 9 tokens, .*lm_head\) has 10 outputs"
    ):
        take(place)
    (folder / "vocab.json").write_text(json.dumps({**vocabulary, "B": 9, "Z": 10}))
    with pytest.raises(ModelError, match="holds 11 tokens"):
        take(place)


def test_a_head_of_another_size_names_tensor_and_shapes(place: Workplace) -> None:
    folder = write_transformers(place.root / "model")
    edit(folder / "config.json", vocab_size=9)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(CHARACTERS[:-1])}))
    with pytest.raises(ModelError, match=r"lm_head\.weight is \(10, 16\), expected \(9, 16\)"):
        take(place)


def test_a_blank_that_is_another_token_is_an_error(place: Workplace) -> None:
    folder = write_transformers(place.root / "model")
    edit(folder / "config.json", pad_token_id=3)
    with pytest.raises(
        ModelError, match=r"pad_token is '<pad>', but .*\(pad_token_id 3\) is '<unk>'"
    ):
        take(place)


def test_tokens_behind_the_outputs_are_never_said(place: Workplace) -> None:
    # Tokenizers of many fine-tuned models append <s> and </s>, for which there is no output.
    write_transformers(place.root / "model", tokens=("|", "a", "b", "c", "<unk>", "<pad>"))
    assert take(place).backend.table.tokens == ("|", "a", "b", "c", "<unk>", "<pad>")


@pytest.mark.parametrize("name", ["vocab.json", "preprocessor_config.json", "config.json"])
def test_a_file_that_is_missing_or_damaged_is_named(place: Workplace, name: str) -> None:
    folder = write_transformers(place.root / "model")
    (folder / name).write_text("{")
    with pytest.raises(ModelError, match=rf"{name}: cannot be read"):
        take(place)
    (folder / name).unlink()
    with pytest.raises(ModelError, match=rf"{name}: no such file"):
        take(place)


def test_a_folder_without_weights_says_which_file_is_expected(place: Workplace) -> None:
    folder = write_transformers(place.root / "model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"holds no weights, expected model\.safetensors"):
        take(place)


def test_subwords_give_texts_and_hidden_states(place: Workplace) -> None:
    write_transformers(place.root / "model", tokens=SUBWORDS)
    ready = take_model(settings(), place)
    assert not ready.teacher.gives_frames and ready.source is not None
    assert "subwords such as '▁ab', '▁c'" in ready.source["tokens"]
    row = next(place.data.frame.itertuples())
    outputs = ready.teacher.forward(*ready.teacher.extract([place.data.waveform(row)]), ["last"])
    assert outputs.log_probs is None and outputs.hypotheses is not None
    (found,) = outputs.hypotheses
    scores = [score for _, score in found]
    assert len(found) > 1 and scores == sorted(scores, reverse=True) and scores[0] < 0
    assert not ready.teacher.vocabulary.unknown("".join(text for text, _ in found))
    assert outputs.hidden["last"].shape == (1, outputs.num_frames[0], 16)
    assert ready.teacher.transcribe([place.data.waveform(row)]) == [found[0][0]]


def test_offline_the_error_comes_at_once_and_says_what_to_put_where(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = time.monotonic()
    with pytest.raises(ModelError) as caught:
        take_model(settings("nobody/no-such-model"), place)
    assert time.monotonic() - started < 3
    for part in ("nobody/no-such-model", "vocab.json", "set teacher.model to it"):
        assert part in str(caught.value)
    with pytest.raises(ModelError, match=r"no such folder .*expected one with config\.json"):
        take_model(settings("./no/such/folder"), place)


def test_without_the_extra_the_error_says_how_to_get_it(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"needs the package 'transformers', .*\[transformers\]"):
        take_model(settings(), place)
