"""`distillery select`: a table to fill in, and back again."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from distillery.commands import main as cli
from distillery.data.manifest import PreparedData
from tasks.prepare import prepare
from tests.tiny import tiny_params, write_params
from tests.tiny_students import talking_student
from tests.tiny_workspaces import put_cache


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(put_cache(tmp_path))
    return tmp_path


def test_what_is_chosen_and_filled_in_is_read_back(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (student := workspace / "models/students/conv/seed-0").mkdir(parents=True)
    talking_student().save(student)
    assert cli.main(["select", "3", "--out", "todo.csv"]) == 0
    said = capsys.readouterr().out
    assert "todo.csv: 3 of 8 recordings without a transcript" in said
    assert "by 3 speakers; students that were asked: conv/seed-0" in said
    with open(workspace / "todo.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    # As a spreadsheet of a country with decimal commas writes it.
    with open(workspace / "corpus/done.csv", "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=";")
        writer.writeheader()
        writer.writerows(row | {"text": "Abc"} for row in rows)
    before = PreparedData.open(workspace / "data/prepared").frame
    write_params(workspace, tiny_params(prepare={"transcripts": "done.csv"}))
    prepare(workspace)
    after = PreparedData.open(workspace / "data/prepared").frame
    changed = after[after["text"].notna() & before["text"].isna()]
    assert set(changed["source_path"]) == {row["path"] for row in rows}
    assert set(changed["text"]) == {"abc"}
    assert after["split"].tolist() == before["split"].tolist()


def test_transcripts_that_somebody_wrote_are_not_overwritten(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["select", "2"]) == 0
    assert "none is trained yet, so by the teacher alone" in capsys.readouterr().out
    assert cli.main(["select", "2"]) == 0  # nobody has begun
    table = workspace / "to-transcribe.csv"
    lines = table.read_text("utf-8-sig").splitlines()
    lines[1] = ",".join([*lines[1].split(",")[:-2], "written", lines[1].split(",")[-1]])
    table.write_text("\n".join(lines), "utf-8")
    written = table.read_bytes()
    assert cli.main(["select", "2"]) == 2
    assert "1 transcripts are filled in already" in capsys.readouterr().err
    assert table.read_bytes() == written


@pytest.mark.parametrize("out", ["nowhere/x.csv", "x.txt", "corpus"])
def test_a_place_that_cannot_be_is_refused_first(
    workspace: Path, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["select", "2", "--out", out]) == 2
    assert "expected a file FILE.csv in a folder that is there" in capsys.readouterr().err


@pytest.mark.parametrize("count", ["0", "-3", "many"])
def test_a_number_that_is_none_is_refused(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["select", "--", count])
    assert "expected 1 or more" in capsys.readouterr().err
