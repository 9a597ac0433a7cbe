"""The code blocks of README.md and docs/serving.md run as written, in order, in one clone."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from flows.stages.side_by_side import JOBS
from tests.pipeline.conftest import ROOT, environment, make_workspace
from tests.tiny import tiny_params, write_params

PAGES = [ROOT / "README.md", ROOT / "docs/serving.md"]
BLOCKS = list(
    dict.fromkeys(  # a block that stands in both runs once
        (language, code)
        for page in PAGES
        for language, code in re.findall(
            r"```(bash|python)\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL
        )
        # test_serve.py and test_serve_streaming.py run these, against a server
        if "/invocations" not in code and "/stream" not in code
    )
)
MAKE_SECONDS = 400


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with our environment, whose settings make the demo's corpus and models tiny."""
    if not (ROOT / ".venv/.installed").exists():
        pytest.skip("make targets need the environment that `make install` makes in .venv")
    root = make_workspace(tmp_path_factory.mktemp("readme") / "clone")
    for name in ("Makefile", "pyproject.toml", "requirements.txt"):
        shutil.copy2(ROOT / name, root / name)  # with its time, or make would install again
    shutil.copytree(ROOT / "examples", root / "examples")
    (root / ".venv").symlink_to(ROOT / ".venv")
    settings = tiny_params()
    settings["prepare"] = {
        "corpus": "commands",
        "source": "examples/commands-grammar.yaml",
        "sample_rate_hz": 8000,
        "valid_fraction": 0.3,
        "commands": {
            "num_train_speakers": 10,
            "num_test_speakers": 2,
            "sentences_per_speaker": 4,
        },
    }
    write_params(root, settings)
    return root


def test_the_readmes_code_blocks_run_in_order(clone: Path) -> None:
    assert [language for language, _ in BLOCKS] == ["bash", "bash", "python"]
    for language, code in BLOCKS:
        command = ["sh", "-ec", code] if language == "bash" else [".venv/bin/python", "-c", code]
        done = subprocess.run(
            command,
            cwd=clone,
            env={name: value for name, value in environment(clone).items() if name != JOBS},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=MAKE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}"
    settings = yaml.safe_load((clone / "params.yaml").read_text())
    assert (clone / "models/students/conv/seed-0/model.safetensors").exists()
    assert settings["register"]["model_name"] == "tiny"


def test_the_demo_refuses_other_settings_and_leaves_them_alone(clone: Path) -> None:
    kept = (clone / "params.yaml").read_text()
    write_params(clone, tiny_params())
    try:
        done = subprocess.run(
            ["make", "demo"],
            cwd=clone,
            env=environment(clone),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode != 0
        assert "commands" in done.stdout + done.stderr
        assert yaml.safe_load((clone / "params.yaml").read_text()) == tiny_params()
    finally:
        (clone / "params.yaml").write_text(kept)


def test_make_alone_lists_targets_under_headings() -> None:
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "\nmodels\n  sample " in listed
