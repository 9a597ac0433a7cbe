"""Settings that need transcripts are refused before a teacher costs hours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distillery.data.manifest import PreparedData
from distillery.distill.needs import check_transcripts
from distillery.errors import CorpusError, ParamsError
from distillery.params.whole import Params
from flows.data_check import check_frames
from tests.tiny import tiny_params, write_params
from tests.tiny_workspaces import put_tones

PUBLISHED = {"kind": "registry", "model": "models:/big/1"}


def settings(**changes: Any) -> dict[str, Any]:
    """Return settings that need no transcripts, changed."""
    params = tiny_params()
    params["teacher"] = PUBLISHED
    params["distill"] |= {"control": "auto", "objective": {"teacher_share": 1.0}}
    for dotted, value in changes.items():
        section, _, key = dotted.partition("__")
        if key:
            params[section][key] = value
        else:
            params[section] = value
    return params


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace whose data have lost all their transcripts."""
    put_tones(tmp_path)
    path = tmp_path / "data/prepared/manifest.parquet"
    frame = PreparedData.open(path.parent).frame
    frame.assign(text=None).to_parquet(path)
    return tmp_path


CASES = [
    ({"teacher": {"kind": "trained"}}, "teacher.kind trained is trained on transcripts"),
    (
        {"teacher": {"kind": "ensemble", "members": [PUBLISHED, {"kind": "trained"}]}},
        "teacher.kind ensemble is trained on transcripts",
    ),
    ({"distill__objective": {"teacher_share": 0.8}}, "teacher_share is 0.8: set it to 1"),
    (
        {"distill__objective": {"teacher_share": {"start": 1.0, "end": 0.25}}},
        "teacher_share is 0.25: set it to 1",
    ),
    ({"distill__control": True}, "distill.control is true.*set it to auto"),
    (
        {"register": {"decoder": {"language_model": {"learns_from": "transcripts"}}}},
        "register.decoder.language_model.learns_from is transcripts: set it to both",
    ),
    ({"language_model": {"for_teacher": True}}, "language_model.for_teacher is true"),
]


@pytest.mark.parametrize(("changes", "words"), CASES)
def test_what_needs_transcripts_is_named_before_the_teacher_runs(
    root: Path, changes: dict[str, Any], words: str
) -> None:
    write_params(root, settings(**changes))
    with pytest.raises(CorpusError, match=rf"none of them transcribed.*{words}"):
        check_frames(root, Params.load(root / "params.yaml"))


@pytest.mark.parametrize(("changes", "words"), CASES)
def test_settings_that_take_the_transcripts_away_say_so_at_once(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    params = settings(**changes)
    params["prepare"]["labelled_fraction"] = 0.0
    write_params(tmp_path, params)
    with pytest.raises(ParamsError, match=rf"labelled_fraction is 0.*{words}"):
        Params.load(tmp_path / "params.yaml")


def test_all_faults_are_told_at_once(root: Path) -> None:
    params = Params.model_validate(settings(distill__control=True, teacher={"kind": "trained"}))
    with pytest.raises(CorpusError, match=r"teacher\.kind.*distill\.control"):
        check_transcripts(
            PreparedData.open(root / "data/prepared"),
            params.teacher,
            params.distill,
            params.language_model,
        )


def test_what_needs_none_goes_on(root: Path) -> None:
    write_params(root, settings(register={"decoder": {}}))
    check_frames(root, Params.load(root / "params.yaml"))


def test_a_trained_teacher_needs_validation_that_says_something(tmp_path: Path) -> None:
    put_tones(tmp_path)
    folder = tmp_path / "data/prepared"
    frame = PreparedData.open(folder).frame
    bare = frame["text"].where(frame["split"] != "valid")
    frame.assign(text=bare).to_parquet(folder / "manifest.parquet")
    params = Params.model_validate(tiny_params())
    with pytest.raises(CorpusError, match="split valid: neither transcripts nor expected phrases"):
        check_transcripts(
            PreparedData.open(folder), params.teacher, params.distill, params.language_model
        )
