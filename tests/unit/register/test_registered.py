"""registered.json and gate.json: written as they were before, and read whatever wrote them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from distillery.files import write_json
from distillery.register.gate.verdict import GATE_FILE, read_verdict, write_verdict
from distillery.register.registered import REGISTERED_FILE, read_registered
from tests.unit.evaluate.test_summary import BEFORE


def test_what_was_registered_is_written_as_it_was_read(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    shutil.copy(BEFORE / "demo/registered.json", tmp_path / REGISTERED_FILE)
    registered = read_registered(tmp_path)
    assert registered is not None
    assert (registered.student, registered.version, registered.alias) == ("conv", "1", "champion")
    assert registered.parent_run == registered.runs["parent"]
    (tmp_path / REGISTERED_FILE).unlink()
    registered.write(tmp_path)
    written = (tmp_path / REGISTERED_FILE).read_bytes()
    assert written == (BEFORE / "demo/registered.json").read_bytes()
    replace(registered, champion=None).write(tmp_path)
    assert json.loads((tmp_path / REGISTERED_FILE).read_text())["champion"] is None


def test_what_older_versions_did_not_say_is_empty(tmp_path: Path) -> None:
    content = json.loads((BEFORE / "demo/registered.json").read_text())
    del content["evaluation_md5"], content["data_warnings"]
    (tmp_path / "reports").mkdir()
    write_json(tmp_path / REGISTERED_FILE, content)
    registered = read_registered(tmp_path)
    assert registered is not None
    assert (registered.evaluation_md5, registered.data_warnings) == ("", ())


def test_where_nothing_was_registered_or_it_is_damaged_there_is_none(tmp_path: Path) -> None:
    assert read_registered(tmp_path) is None
    (tmp_path / "reports").mkdir()
    (tmp_path / REGISTERED_FILE).write_text('{"name": "m"')
    assert read_registered(tmp_path) is None


def test_a_verdict_is_written_as_it_was_read(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    shutil.copy(BEFORE / "demo/gate.json", tmp_path / GATE_FILE)
    verdict = read_verdict(tmp_path, "commands-recogniser")
    assert verdict is not None
    assert (verdict.alias, verdict.reason) == ("champion", "the first champion")
    assert [ruling.rule for ruling in verdict.rulings[:2]] == ["real_time_factor", "sanity"]
    write_verdict(tmp_path, "commands-recogniser", verdict)
    assert (tmp_path / GATE_FILE).read_bytes() == (BEFORE / "demo/gate.json").read_bytes()
