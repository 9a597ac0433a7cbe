"""The image and the work pools that run it: what docs/images.md promises of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline import prefect_api

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "Dockerfile"
KINDS = ("kubernetes", "docker")
USER = 1000


def template_of(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / f"images/{kind}-work-pool.json").read_text("utf-8"))
    return found


def instructions(name: str) -> list[str]:
    """Return what stands behind an instruction of the Dockerfile, lines put together."""
    text = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text("utf-8"))
    return re.findall(rf"^{name} (.*)$", text, re.MULTILINE)


@pytest.mark.parametrize("kind", KINDS)
def test_prefects_server_takes_the_work_pool(kind: str, prefect_of_copies: str) -> None:
    name, template = f"{kind}-{uuid.uuid4().hex}", template_of(kind)
    made = prefect_api.post(
        prefect_of_copies, "work_pools/", name=name, type=kind, base_job_template=template
    )
    assert made["base_job_template"] == template
    wanted = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    assert wanted == set(template["variables"]["properties"])


def test_runs_are_not_root_and_find_the_workspace_that_is_mounted() -> None:
    (folder,) = set(re.findall(r"DISTILLERY_ROOT=(\S+)", DOCKERFILE.read_text("utf-8")))
    for kind in KINDS:
        defaults = template_of(kind)["variables"]["properties"]
        assert defaults["env"]["default"]["DISTILLERY_ROOT"] == folder
        assert defaults["image"]["default"] == "distillery"
    docker = template_of("docker")["variables"]["properties"]
    assert docker["volumes"]["default"] == [f"distillery-workspace:{folder}"]
    assert docker["container_create_kwargs"]["default"]["user"] == f"{USER}:{USER}"
    pod = template_of("kubernetes")["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsUser"] == USER
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]] == [folder]
    assert instructions("WORKDIR") == [folder]
    assert instructions("USER") == [str(USER)]


def test_the_image_copies_what_is_there_and_is_sent_no_more() -> None:
    (copied,) = instructions("COPY")
    *sources, _ = copied.split()
    assert sources == ["requirements.txt"]
    sent = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert [line for line in sent if not line.startswith("#")] == ["*", "!requirements.txt"]


def test_docker_finds_no_fault_in_the_dockerfile() -> None:
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed: the Dockerfile is not checked by it")
    engine = subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=60)
    if engine.returncode:
        pytest.skip("no Docker engine runs here: the Dockerfile is not checked by it")
    done = subprocess.run(
        ["docker", "build", "--check", "."], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
