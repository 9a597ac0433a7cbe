"""Servers that do not start."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillery.errors import StageError
from flows.servers import server


def test_a_server_that_ends_is_quoted(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    child = server.start_child("json.tool", "/nonexistent/file", log=log, environment={})
    child.wait(60)
    url = f"http://127.0.0.1:{server.free_port()}"
    with pytest.raises(StageError, match=r"Prefect: does not start.*; see .*server\.log"):
        server.wait_for("Prefect", url, child, log)
    log.write_text(
        "Traceback (most recent call last):\n  File x\n"
        "asyncpg.exceptions.InvalidPasswordError: password authentication failed\n"
        "sqlalchemy.exc.ArgumentError: cannot use postgresql://anna:secret@h/db\n\nERROR: exiting\n"
    )
    with pytest.raises(StageError) as failed:
        server.wait_for("Prefect", url, child, log)
    assert str(failed.value) == (
        "Prefect: does not start: sqlalchemy.exc.ArgumentError: cannot use "
        f"postgresql://anna@h/db; see {log}"
    )


def test_a_run_whose_prefect_has_a_dead_database_ends_before_a_server_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
    dead = f"postgresql+asyncpg://anna@127.0.0.1:{server.free_port()}/prefect"
    monkeypatch.setenv(name, dead)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    said = rf"Prefect's database: {name}=\S+: .*refused; start it, or unset {name}: "
    with pytest.raises(StageError, match=said), server.prefect_server(tmp_path):
        pass
    assert not (tmp_path / ".prefect/server.log").exists()
