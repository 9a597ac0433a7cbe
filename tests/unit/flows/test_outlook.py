"""What `make doctor` tells of the next run before anything is heard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distillery.params.whole import Params
from flows import doctor
from flows.findings import Finding
from flows.outlook import outlook
from tests.conftest import WriteRecording
from tests.tiny import tiny_params, write_params

WHISPER = {"kind": "faster_whisper", "model": "base.en"}
FROM_TEXTS = {
    "teacher_share": 1.0,
    "frame": {"weight": 0.0},
    "sequence": {"weight": 1.0},
}


@pytest.fixture
def root(tmp_path: Path, write_recording: WriteRecording) -> Path:
    """A workspace with 4 recordings of 9 s, one of them with a transcript, in splits."""
    rows = ["path,text,split,expected"]
    for number, (text, split) in enumerate(
        [("", "train"), ("", "train"), ("", "valid"), ("a b", "test")]
    ):
        write_recording(tmp_path / f"corpus/{number}.wav", 9.0)
        rows.append(f"{number}.wav,{text},{split},{'ab' if split == 'valid' else ''}")
    (tmp_path / "corpus/manifest.csv").write_text("\n".join(rows))
    return tmp_path


def settings(
    teacher: dict[str, Any], objective: dict[str, Any] = FROM_TEXTS, **more: Any
) -> Params:
    params = tiny_params(**more)
    params["teacher"] = teacher
    params["distill"] |= {"control": "auto", "objective": objective}
    return Params.model_validate(params)


def told(root: Path, params: Params) -> dict[str, Finding]:
    return {finding.check: finding for finding in outlook(root, params)}


def test_the_real_job_is_told_before_anything_is_heard(root: Path) -> None:
    found = told(
        root, settings({**WHISPER, "model": "base"}, cache={"payload": {"hidden_layers": ["last"]}})
    )
    assert all(item.ok for item in found.values())
    assert "base: some 145 MB to be downloaded" in found["teacher"].found
    assert found["teacher's language"].found.startswith("detected for each utterance")
    assert found["recordings"].found == "4, 0.01 hours; 1 transcripts, 1 with expected phrases"
    assert found["judged by, split valid"].found == "expected phrases, of 1 of 1 recordings"
    assert found["judged by, split test"].found == "transcripts, of 1 of 1 recordings"
    assert "4 utterances, about 0.0 minutes" in found["teacher pass"].found
    assert found["teacher cache"].found == "some 2 MB of hidden states"  # 36 s × 50 × 512 × 2 bytes


def test_what_nobody_knows_is_said(root: Path, write_recording: WriteRecording) -> None:
    (root / "corpus/manifest.csv").write_text("path\n0.wav\n1.wav\n2.wav\n")
    found = told(root, settings(WHISPER))
    for split in ("valid", "test"):
        assert "what it gets wrong stays unknown in all" in found[f"judged by, split {split}"].found


def test_settings_that_need_transcripts_in_vain_are_problems(root: Path) -> None:
    found = told(root, settings(WHISPER, {**FROM_TEXTS, "teacher_share": 0.5}))["transcripts"]
    assert not found.ok
    assert found.advice == "distill.objective.teacher_share is 0.5: set it to 1"


def test_a_folder_of_a_model_is_measured_or_missed(root: Path) -> None:
    (root / "whisper").mkdir()
    (root / "whisper/model.bin").write_bytes(bytes(3_000_000))
    assert "whisper: 3 MB" in told(root, settings({**WHISPER, "model": "whisper"}))["teacher"].found
    missing = told(root, settings({**WHISPER, "model": "./nowhere"}))["teacher"]
    assert not missing.ok and "there is no such folder" in missing.found


@pytest.mark.parametrize(
    ("teacher", "prepare", "language"),
    [
        ({**WHISPER, "model": "base"}, {"language": "nl"}, "nl, as prepare.language says"),
        ({**WHISPER, "language": "fr"}, {}, "fr"),
        (WHISPER, {}, "en, the only one it knows"),
        ({"kind": "transformers", "model": "x"}, {}, "en, if it is a Whisper model"),
    ],
)
def test_the_language_is_told(
    root: Path, teacher: dict[str, Any], prepare: dict[str, Any], language: str
) -> None:
    found = told(root, settings(teacher, prepare=prepare))
    assert found["teacher's language"].found == language


def test_libraries_files_and_keys_that_lack_are_problems(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = told(root, settings({"kind": "texts", "file": "texts.jsonl"}))["teacher"]
    assert not texts.ok and "texts.jsonl is missing" in texts.found
    service = {
        "kind": "endpoint",
        "url": "https://x.example",
        "model": "w",
        "key_variable": "A_KEY",
    }
    monkeypatch.delenv("A_KEY", raising=False)
    assert "key is not in A_KEY" in told(root, settings(service))["teacher"].found
    monkeypatch.setenv("A_KEY", "c4nary")
    ready = told(root, settings(service))["teacher"]
    assert ready.ok and "c4nary" not in ready.found
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    lacking = [item for item in outlook(root, settings(WHISPER)) if not item.ok]
    assert [item.advice for item in lacking] == [
        "it is an extra: make install, or pip install 'distillery[whisper]'"
    ]


def test_a_manifest_that_cannot_be_read_is_a_problem(root: Path) -> None:
    (root / "corpus/manifest.csv").write_text("path,txt\n0.wav,ab\n")
    found = told(root, settings(WHISPER))["recordings"]
    assert not found.ok and "'txt' looks like it" in found.found


def test_make_doctor_shows_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_params(root, json.loads(settings(WHISPER).model_dump_json(exclude_unset=True)))
    monkeypatch.chdir(root)
    monkeypatch.setattr(doctor, "check_mlflow", lambda *_: Finding("MLflow", True, ""))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert doctor.main([]) == 0
    said = capsys.readouterr().out
    assert "ok       recordings: 4" in said and "ok       teacher pass: 4" in said
    assert doctor.main(["--quick"]) == 0
    assert capsys.readouterr().out == ""
