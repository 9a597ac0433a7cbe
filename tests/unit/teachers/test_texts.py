"""Teacher kind `texts`: files of any recogniser's texts, given to utterances, cached, audited."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from distillery.data.manifest import PreparedData
from distillery.errors import ModelError, ParamsError
from distillery.models.fingerprint import read_fingerprint
from distillery.params.teacher import TextsTeacherParams
from distillery.params.whole import Params
from distillery.teacher_cache.filling.audit import audit, check_audit
from distillery.teacher_cache.store import TeacherCache
from distillery.teachers.base import ReadyTeacher, Workplace
from distillery.teachers.kinds import load_teacher
from distillery.teachers.texts import TextsTeacher, take_texts
from tasks.cache import cache
from tasks.distill import distill
from tasks.evaluate import evaluate
from tasks.teacher import teacher
from tests.tiny import tiny_params, write_params


def take(root: Path, file: str, **settings: Any) -> ReadyTeacher:
    """Return what a file of a workspace makes."""
    data = PreparedData.open(root / "data/prepared")
    place = Workplace(data, root / "scratch", root / "none", root / "curves.jsonl", root=root)
    return take_texts(TextsTeacherParams(kind="texts", file=file, **settings), place)


def texts_by_id(root: Path, ready: ReadyTeacher) -> dict[str, str]:
    """Return the best text of every utterance that has one."""
    assert isinstance(ready.teacher, TextsTeacher)
    data = PreparedData.open(root / "data/prepared")
    found = {}
    for row in data.frame.itertuples():
        waveform = data.waveform(row)
        (text,), (lacks,) = ready.teacher.transcribe([waveform]), ready.teacher.lacks([waveform])
        if not lacks:
            found[str(row.utterance_id)] = text
    return found


def truth(root: Path) -> dict[str, str]:
    frame = PreparedData.open(root / "data/prepared").frame
    return dict(zip(frame["source_path"], frame["text"], strict=True))


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


# --- files --------------------------------------------------------------------------------------


def write_folder(folder: Path, suffix: str, texts: dict[str, str]) -> None:
    """Write a file a recording, as whisper.cpp and others do."""
    folder.mkdir()
    for name, text in texts.items():
        parts = text.split()
        if suffix == ".json":
            line = {"offsets": {"from": 0, "to": 400}, "text": f" {text.upper()}"}
            content = json.dumps({"systeminfo": "", "transcription": [line]})
        elif suffix == ".srt":
            cues = [f"{n}\n00:00:0{n},000 --> 00:00:0{n},500\n{w}\n" for n, w in enumerate(parts)]
            content = "\n".join(cues)
        else:
            cues = [f"00:0{n}.000 --> 00:0{n}.500\n<v A>{w}" for n, w in enumerate(parts)]
            content = "WEBVTT\n\nNOTE by hand\n\n" + "\n\n".join(cues)
        (folder / f"{name}{suffix}").write_text(content, encoding="utf-8")


@pytest.mark.parametrize(
    "form",
    [
        "jsonl",
        "csv",
        "tsv",
        "parquet",
        "list",
        "object",
        "nemo",
        "folder",
        "srt",
        "vtt",
        "segments",
    ],
)
def test_every_form_gives_the_same_teacher(prepared: Path, form: str) -> None:
    texts = truth(prepared)
    rows = [{"path": name, "text": text} for name, text in texts.items()]
    file = prepared / f"said.{form}"
    if form == "jsonl":
        write_lines(file, rows)
    elif form == "csv":
        write_csv(file, rows)
    elif form == "tsv":
        lines = ["path\ttext", *(f"{row['path']}\t{row['text']}" for row in rows)]
        file.write_text("\n".join(lines), encoding="utf-8")
    elif form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif form == "list":
        file = file.with_suffix(".json")
        file.write_text(json.dumps(rows))
    elif form == "object":
        file = file.with_suffix(".json")
        file.write_text(json.dumps(texts))
    elif form == "nemo":
        file = file.with_suffix(".json")
        write_lines(
            file,
            [
                {"audio_filepath": f"/data/corpus/{n}", "duration": 1, "text": "x", "pred_text": t}
                for n, t in texts.items()
            ],
        )
    elif form == "segments":
        file = file.with_suffix(".json")
        segments = {n: {"segments": [{"start": 0, "end": 1, "text": t}]} for n, t in texts.items()}
        file.write_text(json.dumps(segments))
    else:
        suffix = {"folder": ".json"}.get(form, f".{form}")
        bare = {name.removesuffix(".wav"): text for name, text in texts.items()}
        write_folder(file, suffix, bare if suffix != ".json" else texts)  # whisper.cpp: a.wav.json
    found = texts_by_id(prepared, take(prepared, file.name))
    frame = PreparedData.open(prepared / "data/prepared").frame
    assert found == dict(zip(frame["utterance_id"], frame["text"], strict=True))


def test_a_csv_may_hold_lists_and_confidences(prepared: Path) -> None:
    name = next(iter(truth(prepared)))
    row = {
        "file": name,
        "text": "",
        "confidence": "0.75",
        "nbest": json.dumps([["ab", -2.0], ["ba", -1.0]]),
    }
    write_csv(prepared / "said.csv", [row])
    (prepared / "said.csv").write_text(
        (prepared / "said.csv").read_text().replace("file,text,", "file,none,")
    )
    ready = take(prepared, "said.csv")
    assert isinstance(ready.teacher, TextsTeacher)
    (spelt,) = ready.teacher.texts.values()
    assert spelt.hypotheses == (("ba", -1.0), ("ab", -2.0))
    assert spelt.confidence == 0.75


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.jsonl", None, r"teacher\.file: .*gone\.jsonl does not exist; expected a \.jsonl"),
        ("said.docx", "x", r"ends in '\.docx', expected a \.jsonl"),
        ("said.jsonl", "", "holds no texts"),
        ("said.jsonl", '{"path": "a.wav", "text": "a"}\n{"path"', "said.jsonl, line 2: no JSON"),
        ("said.jsonl", '["a"]', r"line 1: holds '\[\"a\"\]', expected an object a line"),
        ("said.jsonl", '{"text": "a"}', r"line 1: holds \['text'\], expected the recording's key"),
        ("said.jsonl", '{"path": "a", "text": 1}\n{"text": "a"}', "2 entries cannot be used"),
        ("said.csv", "path,text\na.wav,b,c\n", "row 2: has another number of cells"),
        ("said.csv", "path,nbest\na.wav,b\n", "row 2: nbest is no JSON"),
        ("said.jsonl", '{"path": "x.wav", "text": "a"}', "none for any of the 12 prepared utter"),
        ("said.parquet", "x", "cannot be read"),
    ],
)
def test_unfit_files_are_named(
    prepared: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (prepared / name).write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match=message):
        take(prepared, name)


def test_two_texts_of_one_utterance_are_refused_unless_they_are_equal(prepared: Path) -> None:
    name = next(iter(truth(prepared)))
    same = {"path": name, "text": "ab"}
    write_lines(prepared / "said.jsonl", [same, {**same, "path": f"corpus/{name}"}])
    assert list(texts_by_id(prepared, take(prepared, "said.jsonl")).values()) == ["ab"]
    write_lines(prepared / "said.jsonl", [same, {**same, "text": "ba"}])
    with pytest.raises(ModelError, match=r"line 2: utterance .* is already in .*line 1"):
        take(prepared, "said.jsonl")


def test_what_is_missing_and_what_is_over_is_told(
    prepared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = PreparedData.open(prepared / "data/prepared").frame
    known = frame[frame["split"] != "test"]["utterance_id"].tolist()
    rows = [{"utterance_id": name, "text": "ab"} for name in known[1:]]
    rows.append({"utterance_id": known[0], "text": "aжb"})
    rows.append({"utterance_id": "stranger", "text": "ab"})
    write_lines(prepared / "said.jsonl", rows)
    with caplog.at_level(logging.INFO):
        ready = take(prepared, "said.jsonl")
    tests = int((frame["split"] == "test").sum())
    assert ready.source is not None
    assert ready.source["without_text"] == {"train": 0, "valid": 0, "test": tests}
    assert ready.source["matching_nothing"] == 1
    assert f"no text for {tests} utterances of split test" in caplog.text
    assert "1 of 9 texts match no utterance: 'stranger'" in caplog.text
    assert "1 texts hold characters that prepare.alphabet lacks (ж)" in caplog.text


# --- the stages ---------------------------------------------------------------------------------


@pytest.fixture
def root(prepared: Path) -> Path:
    """A workspace whose teacher is a file, right but for two utterances that it lacks."""
    settings = tiny_params(
        cache={"speed_factors": [0.9], "audit_utterances": 4, "payload": {"num_hypotheses": 2}}
    )
    settings["teacher"] = {"kind": "texts", "file": "said.jsonl"}
    settings["distill"]["objective"] = {"frame": {"weight": 0.0}}
    write_params(prepared, settings)
    frame = PreparedData.open(prepared / "data/prepared").frame
    lacking = [
        frame[frame["split"] == split]["utterance_id"].iloc[0] for split in ("train", "valid")
    ]
    write_lines(
        prepared / "said.jsonl",
        [
            {"audio_key": row.audio_key, "nbest": [[row.text, -1.0], ["abc", -4.0]]}
            for row in frame.itertuples()
            if row.utterance_id not in lacking
        ],
    )
    return prepared


def test_the_cache_holds_the_texts_also_of_copies(root: Path) -> None:
    teacher(root)
    cache(root)
    store = TeacherCache.open_current(root / "data/teacher_cache")
    data = PreparedData.open(root / "data/prepared")
    train = data.split("train")
    rows = store.rows(list(train["audio_key"]))
    assert store.greedy_texts(rows) == ["", *train["text"][1:]]
    assert list(store.confidences(rows)) == [0.0] + [1.0] * (len(train) - 1)
    assert len(store.all_rows) == 2 * len(train)  # each with its copy
    texts = store.greedy_texts(store.all_rows)
    assert all(texts.count(text) % 2 == 0 for text in texts)
    live = load_teacher(root / "models/teacher")
    check_audit(store, audit(store, data, live, 30, speed_factors=[0.9]))


def test_validation_counts_what_has_a_text(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    teacher(root)
    assert json.loads((root / "models/teacher/validation.json").read_text()) == {"wer": 0.0}
    assert "there is no text of the others" in caplog.text
    rows = [json.loads(line) for line in (root / "said.jsonl").read_text().splitlines()]
    train = set(PreparedData.open(root / "data/prepared").split("train")["audio_key"])
    write_lines(root / "said.jsonl", [row for row in rows if row["audio_key"] in train])
    with pytest.raises(ModelError, match="no text of any of the .* validation utterances"):
        teacher(root)


def test_other_texts_are_another_teacher(root: Path) -> None:
    teacher(root)
    first = read_fingerprint(root / "models/teacher")
    teacher(root)
    assert read_fingerprint(root / "models/teacher") == first
    changed = (root / "said.jsonl").read_text().replace("-4.0", "-5.0", 1)
    (root / "said.jsonl").write_text(changed)
    teacher(root)
    assert read_fingerprint(root / "models/teacher").fingerprint != first.fingerprint


def test_a_saved_teacher_needs_no_file_and_damage_is_named(root: Path) -> None:
    teacher(root)
    (root / "said.jsonl").unlink()
    folder = root / "models/teacher"
    assert load_teacher(folder).transcribe([np.zeros(9, np.float32)]) == [""]
    (folder / "texts.jsonl").write_text('{"key": 1}\n')
    with pytest.raises(ModelError, match=r"texts\.jsonl: cannot be used: 'hypotheses'"):
        load_teacher(folder)


def test_students_learn_from_texts_and_are_evaluated_beside_them(root: Path) -> None:
    settings = yaml.safe_load((root / "params.yaml").read_text())
    settings["distill"]["control"] = False
    settings["distill"]["training"]["num_epochs"] = 1
    write_params(root, settings)
    teacher(root)
    cache(root)
    distill(root, "conv", 0)
    evaluate(root)
    table = json.loads((root / "reports/evaluation/summary.json").read_text())
    (row,) = (row for row in table["models"] if row["role"] == "teacher")
    assert row["parameters"] == 0
    assert row["wer"] == 0.0
    assert "train/sequence" in (root / "curves/students/conv/seed-0.jsonl").read_text()


def test_two_files_are_an_ensemble(root: Path) -> None:
    rows = [json.loads(line) for line in (root / "said.jsonl").read_text().splitlines()]
    write_lines(root / "other.jsonl", [{**row, "confidence": 0.5} for row in rows[1:]])
    settings = yaml.safe_load((root / "params.yaml").read_text())
    members = [{"kind": "texts", "file": f"{name}.jsonl"} for name in ("said", "other")]
    settings["teacher"] = {"kind": "ensemble", "members": members}
    write_params(root, settings)
    teacher(root)
    cache(root)  # copies at another speed included, and audited
    assert json.loads((root / "models/teacher/validation.json").read_text()) == {"wer": 0.0}
    members[1] = {"kind": "trained"}
    write_params(root, settings)
    with pytest.raises(ParamsError, match=r"cache\.speed_factors: teacher\.members are texts, tr"):
        Params.load(root / "params.yaml")
