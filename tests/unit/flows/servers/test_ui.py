"""The student's page beside MLflow's and Prefect's."""

import time
import urllib.error
import urllib.request
from pathlib import Path

from flows.servers import server, ui


def test_the_page_is_served_on_loopback_alone(tmp_path: Path) -> None:
    page = tmp_path / ui.PAGE
    page.mkdir(parents=True)
    (page / ui.INDEX_FILE).write_text("a student")
    port = server.free_port()
    process = ui._page(tmp_path, port, tmp_path / "page.log")
    try:
        end = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                    assert answer.read() == b"a student"
                break
            except urllib.error.URLError:
                assert time.monotonic() < end and process.poll() is None
                time.sleep(0.1)
        assert f"on 127.0.0.1 port {port}" in (tmp_path / "page.log").read_text()
    finally:
        server.stop(process)
