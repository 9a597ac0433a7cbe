"""Models in Hugging Face's layout: what of a folder is read, and what is refused."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchaudio
from safetensors.torch import load_file, save_file

from distillery.data.manifest import PreparedData
from distillery.errors import ModelError
from distillery.params.teacher import TransformersTeacherParams
from distillery.teachers import kinds
from distillery.teachers.base import Workplace
from distillery.teachers.huggingface import take_model
from distillery.teachers.pretrained import PretrainedTeacher
from tests.tiny_models import CHARACTERS, FEW_SUBWORDS, SUBWORDS, write_transformers

COMMIT = "0123456789abcdef0123456789abcdef01234567"


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
    loaded = kinds.load_teacher(saved)
    assert isinstance(loaded, PretrainedTeacher)
    assert loaded.config == teacher.config and loaded.weights_digest == teacher.weights_digest
    waveform = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    torch.testing.assert_close(
        loaded.own_log_probs([waveform]), teacher.own_log_probs([waveform]), rtol=0, atol=0
    )
    assert str(place.root) not in (saved / "config.json").read_text("utf-8")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", {"kind": "transformers"}, "architecture: Field required; run make teacher"),
        (
            "config.json",
            {"tokens": None},
            "tokens: Input should be a valid array; run make",
        ),
        ("tokens.txt", "<blank>\n|\na\n", "maps 5 tokens, tokens.txt holds 3"),
        ("model.safetensors", "short", "model.safetensors: cannot be read as safetensors"),
    ],
)
def test_a_saved_teacher_that_was_damaged_names_the_file(
    place: Workplace, name: str, content: Any, message: str
) -> None:
    write_transformers(place.root / "model")
    saved = place.root / "saved"
    saved.mkdir()
    take(place).save(saved)
    if isinstance(content, str):
        (saved / name).write_text(content)
    elif "kind" in content:
        (saved / name).write_text(json.dumps(content))
    else:
        edit(saved / name, **content)
    with pytest.raises(ModelError, match=message):
        kinds.load_teacher(saved)


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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", {"pad_token_id": None}, "config.json: has no pad_token_id"),
        ("config.json", {"feat_extract_norm": "batch"}, "describes no model that can be built"),
        ("config.json", {"conv_dim": [8, 8]}, r"config\.json: cannot be used: "),
        ("config.json", {"add_adapter": True}, "thins its frames out"),
        ("vocab.json", {"a": "one"}, "expected a number for every token"),
        ("vocab.json", {"deu": {"a": 0}}, "tokens of 11 languages"),
    ],
)
def test_settings_that_describe_no_ctc_model_name_the_file(
    place: Workplace, name: str, content: dict[str, Any], message: str
) -> None:
    edit(write_transformers(place.root / "model") / name, **content)
    with pytest.raises(ModelError, match=message):
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


def test_subwords_are_pieces_in_the_corpus_spelling(place: Workplace) -> None:
    write_transformers(place.root / "model", tokens=SUBWORDS)
    teacher = take(place)
    assert teacher.vocabulary.tokens == ("<blank>", "|ab", "|", "a", "b", "c", "|c")
    (saved := place.root / "saved").mkdir()
    teacher.save(saved)
    again = kinds.load_teacher(saved)
    assert again.vocabulary == teacher.vocabulary and again.gives_frames
    waveform = place.data.waveform(next(place.data.frame.itertuples()))
    ours, theirs = (one.forward(*one.extract([waveform])).log_probs for one in (teacher, again))
    assert ours is not None and theirs is not None
    np.testing.assert_array_equal(ours, theirs)
    (own,) = teacher.own_log_probs([waveform])
    expected = own[:, [7, 1, 2, 3, 4, 5, 6]].log_softmax(-1)  # without <unk>
    np.testing.assert_allclose(ours[0], expected.numpy(), atol=1e-5)


def test_subwords_that_write_too_little_give_texts_and_hidden_states(place: Workplace) -> None:
    write_transformers(place.root / "model", tokens=FEW_SUBWORDS)
    ready = take_model(settings(), place)
    assert not ready.teacher.gives_frames and ready.source is not None
    assert "subwords which do not make up" in ready.source["tokens"]
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


def test_the_hubs_copy_on_this_machine_is_taken(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place.root / "hub"))
    repository = place.root / "hub/models--somebody--tiny"
    write_transformers(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(COMMIT)
    assert take_model(settings("somebody/tiny"), place).teacher.gives_frames
    (repository / "snapshots" / COMMIT / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be reached"):  # a download that was broken off
        take_model(settings("somebody/tiny"), place)


class Hub(BaseHTTPRequestHandler):
    """Answers for one repository as the hub does."""

    folder: Path

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        names = [file.name for file in self.folder.iterdir()]
        headers = {"Content-Type": "application/json"}
        body = b"{}"
        if "/resolve/" in self.path:
            body = (self.folder / self.path.rsplit("/", 1)[1]).read_bytes()
            headers |= {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": COMMIT}
        elif "/tree/" in self.path:
            listed = [{"type": "file", "path": n, "size": 1, "oid": n} for n in names]
            body = json.dumps(listed).encode()
        elif self.path == "/api/models/somebody/tiny/revision/main":
            siblings = [{"rfilename": name} for name in [*names, "flax_model.msgpack"]]
            body = json.dumps({"id": "somebody/tiny", "sha": COMMIT, "siblings": siblings}).encode()
        self.send_response(404 if body == b"{}" else 200)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("pickled", [False, True])
def test_a_model_is_fetched_from_the_hub_once(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, pickled: bool
) -> None:
    Hub.folder = write_transformers(place.root / "published", pickled=pickled)
    for name in ("HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    constants = "huggingface_hub.constants"
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(place.root / "hub"))
        monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
        monkeypatch.setattr(f"{constants}.ENDPOINT", endpoint)
        monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
        try:
            first = take_model(settings("somebody/tiny"), place)
            with pytest.raises(ModelError, match=rf"cannot be fetched from {endpoint}: .*404"):
                take_model(settings("nobody/none"), place)
        finally:
            server.shutdown()
            thread.join()
    again = take_model(settings("somebody/tiny"), place)
    assert again.teacher.weights_digest == first.teacher.weights_digest


def test_without_the_extra_the_error_says_how_to_get_it(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"needs the package 'transformers', .*\[transformers\]"):
        take_model(settings(), place)
