"""Registered models in a workspace: taken over, checked, read as a teacher or as first weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from distillery.architectures.known import ARCHITECTURES, STUDENTS
from distillery.data.manifest import PreparedData
from distillery.data.text import Vocabulary
from distillery.distill.start import RegisteredStudent, initialise
from distillery.errors import ModelError, StageError
from distillery.files import digest_of_file
from distillery.models.recogniser import Recogniser
from distillery.params.models import CRNNParams, FeatureParams, SeparableConvParams
from distillery.params.stages import FetchStageParams
from distillery.params.teacher import (
    EndpointTeacherParams,
    RegistryTeacherParams,
    TextsTeacherParams,
)
from distillery.teachers.base import Workplace
from distillery.teachers.registered import take_registered
from distillery.tracking.bundle import write_bundle
from distillery.tracking.fetched import (
    check_model,
    check_sources,
    note_decoder,
    note_outside,
    put_model,
    read_source,
    wanted_models,
)
from distillery.training.validation import validation_wer
from tasks.fetch import fetch
from tasks.prepare import prepare
from tests.tiny import LETTERS, RATE_HZ, copy_code, tiny_params, write_corpus, write_params

MODEL = "models:/tiny@champion"
CRNN = CRNNParams(type="crnn", conv_channels=4, hidden_size=8)


def recogniser(seed: int = 0, **changes: Any) -> Recogniser:
    """Return a small recogniser with random weights."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "architecture": CRNN,
        "features": FeatureParams(num_mels=16),
        "vocabulary": Vocabulary.from_alphabet(LETTERS),
        "sample_rate_hz": RATE_HZ,
    } | changes
    architecture, vocabulary = settings["architecture"], settings["vocabulary"]
    network = STUDENTS[architecture.type](
        architecture, settings["features"].num_mels, len(vocabulary)
    )
    return Recogniser(network.eval(), **settings)


def put(model: Recogniser, folder: Path, tmp_path: Path) -> None:
    """Lay a model where `make fetch` lays it, as version 3."""
    saved = tmp_path / "saved"
    saved.mkdir()
    model.save(saved)
    digest = write_bundle(saved, tmp_path / "bundle")
    put_model(tmp_path / "bundle", folder, MODEL, ("tiny", "3"), digest)


def settings(**students: str | None) -> dict[str, Any]:
    """Return tiny settings whose students start from what is given by name."""
    plain = tiny_params()
    conv = plain["distill"]["students"]["conv"]
    plain["distill"]["students"] = {
        name: {**conv, "init": init} for name, init in (students or {"conv": None}).items()
    }
    return plain


# --- what a workspace holds -----------------------------------------------------------------------


def wanted(plain: dict[str, Any]) -> dict[str, str | None]:
    """Return the registered models that settings name."""
    loaded = FetchStageParams.model_validate(
        {name: plain[name] for name in FetchStageParams.model_fields}
    )
    return wanted_models(loaded.teacher, loaded.distill)


def test_what_the_settings_name_is_listed_by_its_reader() -> None:
    plain = settings(conv=MODEL, two=None, sliced="teacher")
    plain["distill"]["students"]["sliced"]["architecture"] = plain["teacher"]["architecture"]
    assert wanted(plain) == {
        "teacher": None,
        "students/conv": MODEL,
        "students/two": None,
        "students/sliced": None,
    }
    plain["teacher"] = {"kind": "registry", "model": "models:/tiny/3"}
    assert wanted(plain)["teacher"] == "models:/tiny/3"


def test_a_model_is_taken_over_without_what_else_its_bundle_holds(tmp_path: Path) -> None:
    folder = tmp_path / "models/registered/teacher"
    saved = tmp_path / "saved"
    saved.mkdir()
    recogniser().save(saved)
    (saved / "filter.json").write_text("{}")
    (saved / "evil.pkl").write_bytes(b"cos\nsystem\n")
    digest = write_bundle(saved, tmp_path / "bundle")
    put_model(tmp_path / "bundle", folder, MODEL, ("tiny", "3"), digest)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "source.json",
        "tokens.txt",
    ]
    source = check_model(folder, MODEL, "teacher")
    assert source == read_source(folder)
    assert (source.name, source.version, source.bundle_sha256) == ("tiny", "3", digest)
    assert Recogniser.load(folder, ARCHITECTURES).weights_digest == recogniser().weights_digest


def test_a_version_without_a_recogniser_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/config.json").write_text("{}")
    message = r"models:/tiny@champion: version 3 holds no model\.safetensors, expected a student"
    with pytest.raises(ModelError, match=message):
        put_model(tmp_path / "bundle", tmp_path / "to", MODEL, ("tiny", "3"), "0")
    assert not (tmp_path / "to").exists()


def test_a_model_that_is_absent_another_or_changed_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    message = r"teacher: models:/tiny@champion has not been fetched .*; run make fetch"
    with pytest.raises(StageError, match=message):
        check_model(folder, MODEL, "teacher")
    put(recogniser(), folder, tmp_path)
    message = "student conv: models:/tiny/4 is wanted, models:/tiny@champion is here .*make fetch"
    with pytest.raises(StageError, match=message):
        check_model(folder, "models:/tiny/4", "student conv")
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(content))
    message = r"model\.safetensors: SHA-256 \w{12}, expected \w{12}; the copy is damaged, run make"
    with pytest.raises(ModelError, match=message):
        check_model(folder, MODEL, "teacher")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="SHA-256 no file, expected"):
        check_model(folder, MODEL, "teacher")
    (folder / "source.json").write_text("[]")
    assert read_source(folder) is None


def test_the_stage_leaves_a_note_where_nothing_is_wanted_and_removes_former_students(
    tmp_path: Path,
) -> None:
    copy_code(tmp_path)
    write_params(tmp_path, settings(conv=MODEL, two=None))
    put(recogniser(), tmp_path / "models/registered/students/conv", tmp_path)
    (tmp_path / "models/registered/students/former").mkdir()
    fetch(tmp_path)
    base = tmp_path / "models/registered"
    files = sorted(str(path.relative_to(base)) for path in base.rglob("*") if path.is_file())
    assert files == [
        "decoder/outside.json",
        "students/conv/config.json",
        "students/conv/model.safetensors",
        "students/conv/source.json",
        "students/conv/tokens.txt",
        "students/two/none.txt",
        "teacher/none.txt",
    ]
    assert not (base / "students/former").exists()
    before = {path: path.stat().st_mtime_ns for path in base.rglob("*")}
    fetch(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in base.rglob("*")} == before
    write_params(tmp_path, settings(conv=None, two=None))
    fetch(tmp_path)
    assert [path.name for path in (base / "students/conv").iterdir()] == ["none.txt"]


def test_the_stage_writes_which_layers_students_learn_from(tmp_path: Path) -> None:
    copy_code(tmp_path)
    plain = settings(conv=None)
    written = tmp_path / "models/learnt_layers.json"
    for hidden, expected in (({}, []), ({"layers": {"front": "last"}, "weight": 2}, ["last"])):
        plain["distill"]["objective"] = {"hidden": hidden}
        write_params(tmp_path, plain)
        fetch(tmp_path)
        assert json.loads(written.read_text()) == expected


def test_the_stage_writes_what_code_each_model_has_to_itself(tmp_path: Path) -> None:
    copy_code(tmp_path)
    plain = settings(conv=None, two=None)
    plain["distill"]["students"]["two"]["architecture"] = CRNN.model_dump()
    write_params(tmp_path, plain)
    fetch(tmp_path)
    folder = tmp_path / "models/code"
    rooms = tmp_path / "distillery/architectures", tmp_path / "distillery/teachers"

    def noted(name: str) -> list[str]:
        content = json.loads((folder / name).read_text())
        for file, digest in content.items():
            assert digest == digest_of_file(tmp_path / file)
        return [file.removeprefix("distillery/") for file in content]

    assert noted("students/conv.json") == ["architectures/separable_conv.py"]
    assert noted("students/two.json") == ["architectures/crnn.py"]
    assert noted("teacher.json") == [
        "architectures/conv_bilstm.py",
        "teachers/base.py",
        "teachers/launch.py",
        "teachers/trained.py",
    ]
    before = (folder / "students/conv.json").read_bytes()
    (rooms[0] / "crnn.py").write_text("# another\n")
    (rooms[1] / "whisper.py").write_text("# another\n")
    fetch(tmp_path)
    assert (folder / "students/conv.json").read_bytes() == before
    noted("students/two.json")
    del plain["distill"]["students"]["two"]
    plain["teacher"] = {"kind": "registry", "model": MODEL}
    put(recogniser(), tmp_path / "models/registered/teacher", tmp_path)
    write_params(tmp_path, plain)
    fetch(tmp_path)
    assert [path.name for path in (folder / "students").iterdir()] == ["conv.json"]
    assert noted("teacher.json") == [
        "architectures/crnn.py",  # which the registered student is
        "teachers/base.py",
        "teachers/registered.py",
    ]


def test_a_registered_teacher_of_an_architecture_that_is_gone_is_named(tmp_path: Path) -> None:
    copy_code(tmp_path)
    put(recogniser(), tmp_path / "models/registered/teacher", tmp_path)
    known = tmp_path / "distillery/architectures/known.py"
    known.write_text(known.read_text().replace('    "crnn": CRNN,\n', ""))
    write_params(tmp_path, settings() | {"teacher": {"kind": "registry", "model": MODEL}})
    message = "architecture 'crnn', expected one of causal_conv, conformer, conv_bilstm, separable"
    with pytest.raises(ModelError, match=message):
        fetch(tmp_path)


def test_the_stage_says_what_has_not_been_fetched(tmp_path: Path) -> None:
    write_params(tmp_path, settings(conv=MODEL))
    with pytest.raises(StageError, match=f"students conv: {MODEL} has not been fetched .*make fet"):
        fetch(tmp_path)


# --- first weights --------------------------------------------------------------------------------


def first_weights(student: Recogniser, models: Path) -> dict[str, Any]:
    return initialise(student, "conv", MODEL, models, "of the cache's teacher")


def test_a_student_goes_on_from_all_weights_of_a_registered_one(tmp_path: Path) -> None:
    registered, student = recogniser(seed=1), recogniser(seed=2)
    put(registered, tmp_path / "models/registered/students/conv", tmp_path)
    assert student.weights_digest != registered.weights_digest
    record = first_weights(student, tmp_path / "models")
    assert student.weights_digest == registered.weights_digest
    assert record == RegisteredStudent(MODEL, "tiny", "3", registered.weights_digest)


def test_dropout_is_no_part_of_the_network_that_must_be_the_same(tmp_path: Path) -> None:
    put(recogniser(seed=1), tmp_path / "models/registered/students/conv", tmp_path)
    student = recogniser(architecture=CRNN.model_copy(update={"dropout": 0.4}))
    first_weights(student, tmp_path / "models")
    assert student.weights_digest == recogniser(seed=1).weights_digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architecture": CRNN.model_copy(update={"hidden_size": 9})},
            r"architecture is \{'hidden_size': 9\}, that of models:/tiny@champion is "
            r"\{'hidden_size': 8\}, expected the same; give the student",
        ),
        (
            {"architecture": SeparableConvParams(type="separable_conv", channels=8)},
            r"'type': 'separable_conv'\}, that of models:/tiny@champion is .*'type': 'crnn'\}",
        ),
        (
            {"features": FeatureParams(num_mels=16, hop_seconds=0.02)},
            r"features is \{'hop_seconds': 0\.02\}, that of .* is \{'hop_seconds': 0\.01\}",
        ),
        ({"sample_rate_hz": 16000}, "sample rate is 16000, that of .* is 8000, expected the same"),
        (
            {"vocabulary": Vocabulary(("<blank>", "|", "b", "a", "c"))},
            r"tokens is \['<blank>', '\|', 'b', 'a', 'c'\], that of .* \['<blank>', '\|', 'a', 'b'",
        ),
    ],
)
def test_a_registered_student_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    put(recogniser(), tmp_path / "models/registered/students/conv", tmp_path)
    student = recogniser(**changes)
    before = student.weights_digest
    with pytest.raises(ModelError, match=f"init: the student's .*{message}"):
        first_weights(student, tmp_path / "models")
    assert student.weights_digest == before


def test_first_weights_that_were_not_fetched_are_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="student conv: models:/tiny@champion has not been fetch"):
        first_weights(recogniser(), tmp_path / "models")


# --- a registered student as the teacher ----------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    root = tmp_path_factory.mktemp("data")
    write_corpus(root / "corpus")
    write_params(root, tiny_params())
    prepare(root)
    return PreparedData.open(root / "data/prepared")


def workplace(data: PreparedData, root: Path) -> Workplace:
    return Workplace(data, root / "scratch", root / "registered", root / "curves/teacher.jsonl")


def test_a_registered_student_becomes_the_teacher(data: PreparedData, tmp_path: Path) -> None:
    student = recogniser(seed=4)
    put(student, tmp_path / "registered", tmp_path)
    place = workplace(data, tmp_path)
    ready = take_registered(RegistryTeacherParams(kind="registry", model=MODEL), place)
    assert ready.teacher.weights_digest == student.weights_digest
    assert ready.checkpoint is None
    assert ready.source is not None
    assert ready.source["version"] == "3"


def test_validation_errors_are_counted_over_the_whole_split(data: PreparedData) -> None:
    class Parrot(Recogniser):
        """Says the same, whatever it hears."""

        def transcribe(self, waveforms: Any) -> list[str]:
            return ["ab zz"] * len(waveforms)

    plain = recogniser()
    parrot = Parrot(
        plain.network, plain.architecture, plain.features, plain.vocabulary, plain.sample_rate_hz
    )
    texts = [text.split() for text in data.split("valid")["text"]]
    assert len(texts) == 8
    # Edits by hand: each text against "ab zz"; words that match in place are no errors.
    errors = 0
    for words in texts:
        hit = "ab" in (words[:-1] if len(words) > 1 else words)
        errors += max(len(words), 2) - hit
    assert validation_wer(parrot, data) == errors / sum(map(len, texts))


def test_a_teacher_without_tokens_for_the_corpus_is_refused(
    data: PreparedData, tmp_path: Path
) -> None:
    put(recogniser(vocabulary=Vocabulary.from_alphabet("ab")), tmp_path / "registered", tmp_path)
    params = RegistryTeacherParams(kind="registry", model=MODEL)
    with pytest.raises(ModelError, match=r"models:/tiny@champion has no token for \['c'\], which"):
        take_registered(params, workplace(data, tmp_path))


def test_a_teacher_of_another_sample_rate_is_refused(data: PreparedData, tmp_path: Path) -> None:
    put(recogniser(sample_rate_hz=16000), tmp_path / "registered", tmp_path)
    params = RegistryTeacherParams(kind="registry", model=MODEL)
    with pytest.raises(ModelError, match="made for 16000 Hz, the audio has 8000 Hz"):
        take_registered(params, workplace(data, tmp_path))


def test_a_teacher_that_was_not_fetched_is_named(data: PreparedData, tmp_path: Path) -> None:
    params = RegistryTeacherParams(kind="registry", model=MODEL)
    with pytest.raises(StageError, match="teacher: models:/tiny@champion has not been fetched"):
        take_registered(params, workplace(data, tmp_path))


def test_text_files_of_decoders_that_change_are_seen(tmp_path: Path) -> None:
    copy_code(tmp_path)
    orders, mine = tmp_path / "orders.txt", settings(conv=None)
    orders.write_text("a cab")
    decoder = {"language_model": {"files": ["orders.txt"]}, "lexicon": {"files": ["orders.txt"]}}
    write_params(tmp_path, {**mine, "register": {**mine["register"], "decoder": decoder}})
    note = tmp_path / "models/registered/decoder/outside.json"
    params = FetchStageParams.load(tmp_path / "params.yaml").register.decoder
    assert note_decoder(tmp_path, params) == []  # before anything was fetched
    fetch(tmp_path)
    assert json.loads(note.read_text()) == {"orders.txt": digest_of_file(orders)}
    orders.write_text("a cab, please")
    assert note_decoder(tmp_path, params) == ["orders.txt"]
    assert json.loads(note.read_text()) == {"orders.txt": digest_of_file(orders)}
    assert note_decoder(tmp_path, params) == []
    write_params(tmp_path, mine)
    fetch(tmp_path)
    assert json.loads(note.read_text()) == {}


def test_texts_that_change_are_seen_beside_the_registered_models(tmp_path: Path) -> None:
    copy_code(tmp_path)
    texts = tmp_path / "said.jsonl"
    texts.write_text('{"path": "a", "text": "b"}')
    mine = settings(conv=None)
    write_params(tmp_path, {**mine, "teacher": {"kind": "texts", "file": "said.jsonl"}})
    params = FetchStageParams.load(tmp_path / "params.yaml").teacher
    note = tmp_path / "models/registered/teacher/outside.json"
    note_outside(tmp_path, params)  # before anything was fetched
    assert not note.exists()
    fetch(tmp_path)
    first = note.read_text()
    assert json.loads(first) == {"said.jsonl": digest_of_file(texts)}
    texts.write_text('{"path": "a", "text": "c"}')
    # As make run does before it asks DVC.
    assert note_outside(tmp_path, params) == ["said.jsonl"]
    assert note.read_text() != first
    assert note_outside(tmp_path, params) == []
    texts.unlink()
    assert note_outside(tmp_path, params) == []
    assert json.loads(note.read_text())["said.jsonl"]
    texts.mkdir()
    (texts / "a.json").write_text('{"text": "c"}')
    (texts / ".DS_Store").write_text("x")
    note_outside(tmp_path, params)
    of_folder = note.read_text()
    (texts / ".DS_Store").write_text("y")
    note_outside(tmp_path, params)
    assert note.read_text() == of_folder
    (texts / "a.json").rename(texts / "b.json")
    note_outside(tmp_path, params)
    assert note.read_text() != of_folder
    write_params(tmp_path, mine)
    fetch(tmp_path)
    assert not note.exists()


def test_files_and_keys_that_are_not_here_are_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = TextsTeacherParams(kind="texts", file="said.jsonl")
    with pytest.raises(ModelError, match=r"teacher\.file: .*said\.jsonl does not exist"):
        check_sources(tmp_path, texts)
    (tmp_path / "said.jsonl").touch()
    check_sources(tmp_path, texts)
    service = EndpointTeacherParams(
        kind="endpoint", url="https://host", model="base", key_variable="TEST_KEY"
    )
    monkeypatch.delenv("TEST_KEY", raising=False)
    with pytest.raises(ModelError, match="environment variable TEST_KEY is not set"):
        check_sources(tmp_path, service)
    (tmp_path / "models/teacher").mkdir(parents=True)
    (tmp_path / "models/teacher/config.json").touch()
    check_sources(tmp_path, service)  # there is one, which may be up to date
