"""CTC models in ONNX files: what they may take and give, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import external_data_helper

from distillery.data.manifest import PreparedData
from distillery.errors import ModelError
from distillery.models.fingerprint import fingerprint
from distillery.models.recogniser import Recogniser
from distillery.params.teacher import OnnxTeacherParams
from distillery.teacher_cache.store import TeacherCache
from distillery.teachers.base import Workplace
from distillery.teachers.kinds import load_teacher
from distillery.teachers.onnx_file import read_table, take_onnx
from distillery.teachers.pretrained import PretrainedTeacher
from tasks.cache import cache
from tasks.distill import distill
from tasks.teacher import teacher as teach
from tests.tiny import RATE_HZ, speak, tiny_params, write_params
from tests.tiny_onnx import HOP, TOKENS, WIDTH, WINDOW, write_onnx

CLIPS = [speak("ab", 1), speak("cab ba", 2)]


@pytest.fixture(scope="module")
def data(tone_corpus: Path) -> PreparedData:
    return PreparedData.open(tone_corpus / "data/prepared")


def take(data: PreparedData, model: Path, **changes: Any) -> PretrainedTeacher:
    """Return the model in a file, its tokens beside it."""
    there = model.parent
    settings = {
        "kind": "onnx",
        "model": model.name,
        "tokens": "tokens.txt",
        "sample_rate_hz": RATE_HZ,
        "output": "scores",
        **changes,
    }
    place = Workplace(data, there, there, there / "curves.jsonl", root=there)
    found = take_onnx(OnnxTeacherParams.model_validate(settings), place).teacher
    assert isinstance(found, PretrainedTeacher)
    return found


def own_scores(model: Path, waveform: np.ndarray, **inputs: Any) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return session.run(["scores"], {"audio": waveform[None], **inputs})[0][0]


@pytest.mark.parametrize("scores", ["logits", "log_probs", "probabilities"])
@pytest.mark.parametrize("told", [True, False])
def test_outputs_are_those_of_onnxruntime_itself(
    data: PreparedData, tmp_path: Path, scores: str, told: bool
) -> None:
    model = write_onnx(tmp_path / "model.onnx", scores=scores)
    teacher = take(data, model, scores=scores if told else "auto")
    padded = np.pad(CLIPS[1], (0, WINDOW - HOP))
    own = own_scores(model, padded)
    own = np.log(own) if scores == "probabilities" else own
    expected = torch.from_numpy(own).log_softmax(-1)
    (found,) = teacher.own_log_probs(CLIPS[1:])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert len(found) == len(CLIPS[1]) // HOP


def test_frames_are_measured_and_the_model_described(data: PreparedData, tmp_path: Path) -> None:
    teacher = take(data, write_onnx(tmp_path / "model.onnx"), hidden_outputs={"last": "hidden"})
    backend = teacher.backend
    assert (backend.samples_per_frame, backend.window_samples) == (HOP, WINDOW)
    assert teacher.frame_shift_seconds == HOP / RATE_HZ
    assert teacher.num_parameters == WIDTH * WINDOW + WIDTH * len(TOKENS)
    assert teacher.layer_widths == {"last": WIDTH}
    assert teacher.gives_frames


def test_a_model_that_pads_its_audio_gives_as_many_frames_as_fit(
    data: PreparedData, tmp_path: Path
) -> None:
    model = write_onnx(tmp_path / "model.onnx", pads=WINDOW // 2)
    teacher = take(data, model)
    assert teacher.backend.samples_per_frame == teacher.backend.window_samples == HOP
    (found,) = teacher.own_log_probs(CLIPS[1:])
    expected = torch.from_numpy(own_scores(model, CLIPS[1])).log_softmax(-1)
    assert len(expected) == len(found) + 1
    torch.testing.assert_close(found, expected[:-1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lengths", ["lengths", "mask", None])
def test_padding_changes_no_output(data: PreparedData, tmp_path: Path, lengths: str | None) -> None:
    model = write_onnx(tmp_path / "model.onnx", lengths=lengths, over_time=lengths is None)
    teacher = take(data, model, hidden_outputs={"last": "hidden"})
    assert teacher.backend.masks_padding == (lengths is not None)
    together = teacher.forward(*teacher.extract(CLIPS), layers=["last"])
    for row, clip in enumerate(CLIPS):
        alone = teacher.forward(*teacher.extract([clip]), layers=["last"])
        assert np.allclose(alone.items[0], together.items[row], atol=1e-4)
        frames = alone.num_frames[0]
        assert np.allclose(
            alone.hidden["last"][0], together.hidden["last"][row, :frames], atol=1e-4
        )


def test_lengths_that_mask_nothing_are_seen(data: PreparedData, tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "model.onnx", lengths="lengths", over_time=True)
    assert not take(data, model).backend.masks_padding


def test_a_model_for_one_utterance_at_a_time_works(data: PreparedData, tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "model.onnx", batch=1, lengths="lengths")
    teacher = take(data, model)
    assert not teacher.backend.masks_padding
    assert len(teacher.transcribe(CLIPS)) == 2


def test_it_is_saved_with_the_file_itself(data: PreparedData, tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "model.onnx", scores="probabilities")
    content = model.read_bytes()
    teacher = take(data, model, hidden_outputs={"last": "hidden"}, normalise=True)
    saved = tmp_path / "saved"
    saved.mkdir()
    teacher.save(saved)
    said = teacher.forward(*teacher.extract(CLIPS), layers=["last"])
    before = fingerprint(teacher)
    model.unlink()
    assert (saved / "onnx/model.onnx").read_bytes() == content
    again = load_teacher(saved)
    assert fingerprint(again) == before
    now = again.forward(*again.extract(CLIPS), layers=["last"])
    assert np.array_equal(now.log_probs, said.log_probs)
    assert np.array_equal(now.hidden["last"], said.hidden["last"])
    assert str(tmp_path) not in (saved / "config.json").read_text()
    (saved / "config.json").write_text(json.dumps({"kind": "onnx"}))
    with pytest.raises(ModelError, match="config.json: cannot be used: architecture: Field requi"):
        load_teacher(saved)


def test_the_file_is_in_the_fingerprint(data: PreparedData, tmp_path: Path) -> None:
    first = take(data, write_onnx(tmp_path / "a/model.onnx"))
    other = take(data, write_onnx(tmp_path / "b/model.onnx", seed=1))
    same = take(data, write_onnx(tmp_path / "c/model.onnx"))
    assert first.weights_digest == same.weights_digest != other.weights_digest


def external(model: Path, location: str) -> Path:
    """Move a model's tensors into a file of their own."""
    content = onnx.load(model)
    external_data_helper.convert_model_to_external_data(
        content, location=location, size_threshold=64
    )
    onnx.save(content, model)
    return model


def test_data_beside_the_model_go_with_it(data: PreparedData, tmp_path: Path) -> None:
    model = external(write_onnx(tmp_path / "model.onnx"), "model.data")
    teacher = take(data, model)
    whole = take(data, write_onnx(tmp_path / "whole/model.onnx"))
    assert teacher.transcribe(CLIPS) == whole.transcribe(CLIPS)
    saved = tmp_path / "saved"
    saved.mkdir()
    teacher.save(saved)
    before = teacher.weights_digest
    assert load_teacher(saved).transcribe(CLIPS) == whole.transcribe(CLIPS)
    values = bytearray((saved / "onnx/model.data").read_bytes())
    values[0] ^= 1
    (saved / "onnx/model.data").write_bytes(values)
    assert load_teacher(saved).weights_digest != before
    (tmp_path / "model.data").unlink()
    with pytest.raises(ModelError, match=r"model.data: no such file, but model.onnx has tensors"):
        take(data, model)


def test_data_elsewhere_are_refused(data: PreparedData, tmp_path: Path) -> None:
    model = external(write_onnx(tmp_path / "in/model.onnx"), "model.data")
    content = onnx.load(model, load_external_data=False)
    for tensor in content.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../secret.data"
    model.write_bytes(content.SerializeToString())
    (tmp_path / "secret.data").write_bytes((tmp_path / "in/model.data").read_bytes())
    with pytest.raises(ModelError, match=r"refused: its tensors lie in '../secret.data', outside"):
        take(data, model)


def test_operators_from_elsewhere_are_refused(data: PreparedData, tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "model.onnx", domain="my.company")
    with pytest.raises(
        ModelError, match=r"refused: it uses operators of 'my.company', which are c"
    ):
        take(data, model)
    microsoft = write_onnx(tmp_path / "other.onnx", domain="com.microsoft")  # knows no Magic
    with pytest.raises(ModelError, match=r"onnxruntime [\d.]+ cannot open it"):
        take(data, microsoft)


def test_damaged_and_missing_files_are_named(data: PreparedData, tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "model.onnx")
    content = model.read_bytes()
    for size in (len(content) // 2, 20):
        model.write_bytes(content[:size])
        with pytest.raises(ModelError, match=r"model.onnx: .*cannot (be read as ONNX|open it)"):
            take(data, model)
    model.write_bytes(b"")
    with pytest.raises(ModelError, match="model.onnx"):
        take(data, model)
    model.unlink()
    with pytest.raises(ModelError, match=r"no such file; set teacher.model to the path of an"):
        take(data, model)
    write_onnx(model)
    (tmp_path / "tokens.txt").unlink()
    with pytest.raises(ModelError, match=r"tokens.txt: no such file; set teacher.tokens"):
        take(data, model)


@pytest.mark.parametrize(
    ("made", "settings", "words"),
    [
        ({"samples": 8000}, {}, "takes exactly 8000 samples, expected any number; export it with"),
        ({"batch": 4}, {}, "takes exactly 4 utterances, expected any number or one"),
        ({"tokens": (*TOKENS, "d")}, {"tokens": "other.txt"}, r"has shape \(1, 99, 6\) .* 5\)"),
        ({}, {"output": "logits"}, r"has no output 'logits', expected one of \['hidden', 'scores'"),
        ({}, {"output": None}, r"2 outputs could be the \(batch, frames, tokens\), expected one"),
        ({}, {"input": "speech"}, r"has no input 'speech', expected one of \['audio'\]"),
        ({}, {"hidden_outputs": {"last": "x"}}, r"teacher.hidden_outputs: model.onnx has no outp"),
        ({}, {"blank": "<pad>"}, r"teacher.blank: '<pad>', but tokens.txt holds 5 tokens, such as"),
        ({}, {"blank": 5}, r"teacher.blank: 5, but tokens.txt holds 5 tokens"),
        ({"hop": 20_000}, {}, r"gives 1 frames for 1 s and 1 for 2 s of audio, expected more for"),
        ({"stretch": 0.7}, {}, r"34 frames need 7880 samples and 69 need 15880, expected a whole"),
        ({"max_frames": 100}, {}, r"gives 100 frames for 16720 samples, expected 104 with one ev"),
        ({"lengths": "lengths"}, {"hidden_outputs": {"last": "mean"}}, "has no output 'mean'"),
    ],
)
def test_models_of_another_shape_are_refused(
    data: PreparedData, tmp_path: Path, made: Any, settings: Any, words: str
) -> None:
    model = write_onnx(tmp_path / "model.onnx", **made)
    (tmp_path / "other.txt").write_text("".join(f"{token}\n" for token in TOKENS))
    with pytest.raises(ModelError, match=words):
        take(data, model, **settings)


def test_features_and_further_inputs_are_refused(data: PreparedData, tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "model.onnx")
    content = onnx.load(model)
    shape = content.graph.input[0].type.tensor_type.shape
    shape.dim.add().dim_value = 80
    content.graph.node[1].input[0] = "audio"
    del content.graph.output[1]
    onnx.save(content, model)
    with pytest.raises(ModelError, match=r"expected \(batch, samples\); a model of features|open"):
        take(data, model)
    content = onnx.load(write_onnx(model, lengths="lengths"))
    extra = onnx.helper.make_tensor_value_info("speaker", onnx.TensorProto.FLOAT, ["batch"])
    content.graph.input.append(extra)
    onnx.save(content, model)
    with pytest.raises(ModelError, match=r"wants further inputs \(lengths .*, speaker .*\)"):
        take(data, model, input="audio")


def test_a_hidden_output_with_its_axes_in_another_order_is_refused(
    data: PreparedData, tmp_path: Path
) -> None:
    model = write_onnx(tmp_path / "model.onnx")
    content = onnx.load(model)
    shape = ["batch", WIDTH, "frames"]
    content.graph.output.append(
        onnx.helper.make_tensor_value_info("bent", onnx.TensorProto.FLOAT, shape)
    )
    onnx.save(content, model)
    with pytest.raises(ModelError, match=r"'bent' has shape \(1, 6, 99\), expected \(1, 99, width"):
        take(data, model, hidden_outputs={"last": "bent"})


def test_a_length_fixed_inside_the_model_is_refused(data: PreparedData, tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "model.onnx")
    content = onnx.load(model)
    size = onnx.numpy_helper.from_array(np.array([1, 8000], np.int64), "size")
    content.graph.initializer.append(size)
    content.graph.node.insert(0, onnx.helper.make_node("Reshape", ["audio", "size"], ["shaped"]))
    next(node for node in content.graph.node if node.op_type == "Unsqueeze").input[0] = "shaped"
    onnx.save(content, model)
    with pytest.raises(ModelError, match=r"cannot be run on 2 s of audio: .* export it with dynam"):
        take(data, model)


def test_other_arithmetic_than_the_files_is_refused(data: PreparedData, tmp_path: Path) -> None:
    teacher = take(data, write_onnx(tmp_path / "model.onnx"))
    with pytest.raises(ModelError, match=r"cache.precision: an ONNX file computes in the precis"):
        teacher.forward(*teacher.extract(CLIPS), precision="bf16")


def test_token_files_of_three_kinds_are_read(tmp_path: Path) -> None:
    lines, numbered, as_json = (tmp_path / name for name in ("a.txt", "b.txt", "c.json"))
    lines.write_text("<blk>\n \na\n")
    numbered.write_text("a 2\n<blk> 0\n▁ 1\n")
    as_json.write_text(json.dumps({"a": 0, "|": 1, "<blk>": 2}))
    assert read_table(lines, 0).tokens == ("<blk>", " ", "a")
    assert read_table(numbered, "<blk>").tokens == ("<blk>", "▁", "a")
    for encoding in ("utf-8-sig", "utf-16"):
        lines.write_bytes("<blk>\r\n \r\né\r\n".encode(encoding))
        assert read_table(lines, "<blk>").tokens == ("<blk>", " ", "é")
    lines.write_bytes("<blk>\né\n".encode("latin-1"))
    with pytest.raises(ModelError, match=r"a\.txt, line 2: .*save it again as UTF-8"):
        read_table(lines, 0)
    found = read_table(as_json, "<blk>")
    assert (found.tokens, found.blank) == (("a", "|", "<blk>"), 2)
    as_json.write_text(json.dumps({"a": 0, "b": 2}))
    with pytest.raises(ModelError, match=r"c.json: cannot be read .* from 0 on without gaps"):
        read_table(as_json, 0)
    as_json.write_text("[")
    with pytest.raises(ModelError, match=r"c.json: cannot be read"):
        read_table(as_json, 0)


@pytest.mark.parametrize(
    "tokens", [TOKENS, ("<blk>", "▁ab", "▁", "a", "b", "c")], ids=["characters", "subwords"]
)
def test_students_learn_from_it(prepared: Path, tokens: Any) -> None:
    write_onnx(prepared / "exported/model.onnx", tokens=tokens)
    plain = tiny_params(cache={"payload": {"hidden_layers": ["last"]}, "audit_utterances": 2})
    plain["teacher"] = {
        "kind": "onnx",
        "model": "exported/model.onnx",
        "tokens": "exported/tokens.txt",
        "sample_rate_hz": RATE_HZ,
        "output": "scores",
        "hidden_outputs": {"last": "hidden"},
        "allow_poor": True,
    }
    plain["distill"]["students"]["conv"]["tokens"] = {"type": "teacher"}
    plain["distill"]["objective"] = {
        "frame": {"weight": 1.0},
        "sequence": {"weight": 1.0},
        "hidden": {"layers": {"last": "last"}},
    }
    plain["distill"]["training"]["max_unalignable_fraction"] = 1.0  # it says anything
    write_params(prepared, plain)
    teach(prepared)
    cache(prepared)
    store = TeacherCache.open_current(prepared / "data/teacher_cache")
    assert store.namespace.payload["kind"] == "u8"
    distill(prepared, "conv", 0)
    points = (prepared / "curves/students/conv/seed-0.jsonl").read_text()
    assert all(f"train/{term}" in points for term in ("frame", "hidden", "sequence"))
    assert not isinstance(load_teacher(prepared / "models/teacher"), Recogniser)
