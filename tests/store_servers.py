"""Real stores for tests, where the machine has them: PostgreSQL's server, and moto's S3.

PostgreSQL: `initdb` and `postgres` on PATH (Debian's package postgresql), and the extra `postgres`.
S3: `moto_server` on PATH, of a virtual environment of its own (`pip install 'moto[server]'`: it
wants other versions than ours of what both use), and the extra `s3`. Both listen on 127.0.0.1 alone
and end with the block.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.servers import server

START_SECONDS = 60.0
OWNER = "tester"
OTHER_USERS = ("postgres", "nobody")
"""PostgreSQL refuses to run as root; the first of these that exists runs it then."""


@contextlib.contextmanager
def postgres(*databases: str) -> Iterator[str]:
    """Run PostgreSQL with empty databases, and yield a URL that lacks their names."""
    pytest.importorskip("psycopg2", reason="the extra postgres is not installed")
    for program in ("initdb", "postgres"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} on PATH; Debian's package postgresql brings it")
    user = _other_user() if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="distillery-postgres-"))  # pytest's are its user's alone
    port = server.free_port()
    try:
        if user is not None:
            shutil.chown(folder, user)
        data = folder / "data"
        options = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        subprocess.run(
            ["initdb", "-D", str(data), "-U", OWNER, *options],
            user=user,
            cwd=folder,
            check=True,
            capture_output=True,
        )
        process = subprocess.Popen(
            ["postgres", "-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-k", "", "-F"],
            user=user,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            url = f"postgresql://{OWNER}@127.0.0.1:{port}"
            _create(f"{url}/postgres", databases)
            yield url
        finally:
            process.send_signal(signal.SIGINT)  # at SIGTERM it would wait for its clients to go
            process.wait(30)
    finally:
        shutil.rmtree(folder)


def _other_user() -> str:
    for name in OTHER_USERS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    pytest.skip(f"root, and no user {' or '.join(OTHER_USERS)} to run PostgreSQL as")


def _create(url: str, databases: tuple[str, ...]) -> None:
    import psycopg2

    end = time.monotonic() + START_SECONDS
    while True:
        try:
            connection = psycopg2.connect(url)
            break
        except psycopg2.OperationalError:
            assert time.monotonic() < end
            time.sleep(0.1)
    connection.autocommit = True
    for name in databases:
        connection.cursor().execute(f'CREATE DATABASE "{name}"')
    connection.close()


@contextlib.contextmanager
def s3(bucket: str, environment: pytest.MonkeyPatch) -> Iterator[str]:
    """Run an S3 with an empty bucket, let MLflow and boto use it, and yield its URL."""
    boto3 = pytest.importorskip("boto3", reason="the extra s3 is not installed")
    program = shutil.which("moto_server")
    if program is None:
        pytest.skip("no moto_server on PATH; pip install 'moto[server]' in an environment apart")
    port = server.free_port()
    process = subprocess.Popen(
        [program, "-H", "127.0.0.1", "-p", str(port)],
        env={**os.environ, "PYTHONPATH": ""},  # its own packages
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + START_SECONDS
        while not _listens(port):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.1)
        url = f"http://127.0.0.1:{port}"
        for name, value in credentials(url).items():
            environment.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=bucket)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def credentials(url: str) -> dict[str, str]:
    """Return the environment by which clients use an S3 that takes any key."""
    return {
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": url,
        "MLFLOW_S3_ENDPOINT_URL": url,
    }


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
