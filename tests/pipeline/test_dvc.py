"""dvc.yaml against the code: DVC follows no imports, so a test must."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from distillery.params.whole import Params
from flows.stages.lock import check_followed_settings
from flows.stages.pipeline import STAGES

ROOT = Path(__file__).resolve().parents[2]
PIPELINE: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
# Values of the first count through `params:`; the others change no result.
EXEMPT = {"distillery/params/whole.py", "distillery/credentials.py", "tasks/stage.py"}


def spec_of(stage: str) -> dict[str, Any]:
    return dict(PIPELINE[stage])


def module_file(name: str) -> Path | None:
    path = ROOT.joinpath(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def imported_names(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import, which this test does not follow"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def reached_files(file: Path, seen: set[Path]) -> set[Path]:
    """Return our own files that importing `file` loads, packages' __init__ files included."""
    seen.add(file)
    for name in imported_names(file):
        parts = name.split(".")
        if parts[0] not in ("distillery", "tasks", "flows"):
            continue
        for length in range(1, len(parts) + 1):
            found = module_file(".".join(parts[:length]))
            if found is not None and found not in seen:
                reached_files(found, seen)
    return seen


def code_reached(stage: str) -> set[str]:
    files = reached_files(ROOT / "tasks" / f"{stage}.py", set())
    return {str(file.relative_to(ROOT)) for file in files if file.read_text().strip()} - EXEMPT


@pytest.mark.parametrize("stage", STAGES)
def test_deps_name_every_module_that_a_stage_reaches_and_no_other(stage: str) -> None:
    listed = {name for name in spec_of(stage)["deps"] if name.endswith(".py")}
    reached = code_reached(stage)
    missing = "\n".join(f"      - {name}" for name in sorted(reached - listed))
    assert not reached - listed, f"add to the deps of {stage} in dvc.yaml:\n{missing}"
    assert not listed - reached, f"remove from the deps of {stage}: {sorted(listed - reached)}"


def test_a_stage_is_one_word_everywhere() -> None:
    words = [*STAGES, "register"]
    assert list(PIPELINE) == list(STAGES)
    # Sections without a stage of their own: on the results of `make curve`, `make teachers`
    # and `make retrain` nothing depends, `language_model` is read by cache and evaluate.
    others = ["curve", "language_model", "teacher_candidates", "retraining"]
    assert list(Params.model_fields) == [*(word for word in words if word != "fetch"), *others]
    makefile = (ROOT / "Makefile").read_text()
    for word in words:
        assert (ROOT / "tasks" / f"{word}.py").is_file()
        assert f"\n{word}: " in makefile


def test_every_stage_runs_its_module_and_reads_its_own_settings() -> None:
    for stage in STAGES:
        assert spec_of(stage)["cmd"].split()[:3] == ["python", "-m", f"tasks.{stage}"]
        # What is fetched stands beside what reads it.
        sections = {"fetch": {"teacher", "distill"}}.get(stage, {stage})
        assert sections <= {name.split(".")[0] for name in spec_of(stage)["params"]}


def test_settings_that_dvc_follows_exist() -> None:
    for stage in STAGES:
        for name in spec_of(stage)["params"]:
            section: Any = Params
            for part in name.replace(".${item.student}", "").split("."):
                assert part in section.model_fields, name
                section = section.model_fields[part].annotation


SETTINGS = [ROOT / "params.yaml", *sorted((ROOT / "examples").glob("*.yaml"))]


@pytest.mark.parametrize(
    "path", [p for p in SETTINGS if "grammar" not in p.name], ids=lambda p: p.stem
)
def test_ready_settings_hold_all_that_dvc_follows(path: Path, tmp_path: Path) -> None:
    """Load the file as a user would take it."""
    shutil.copy(path, tmp_path / "params.yaml")
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    check_followed_settings(tmp_path)


def test_a_student_is_not_trained_again_for_other_seeds() -> None:
    spec = spec_of("distill")
    assert spec["matrix"] == {"student": "${distill.students}", "seed": "${distill.seeds}"}
    assert "distill.seeds" not in spec["params"]
    assert "distill.seeds" in spec_of("evaluate")["params"]


def test_no_stage_reads_the_settings_of_register() -> None:
    for stage in STAGES:
        assert not [name for name in spec_of(stage)["params"] if name.startswith("register")]


def test_the_cache_survives_its_stage_and_bytecode_changes_nothing() -> None:
    assert spec_of("cache")["outs"] == [{"data/teacher_cache": {"persist": True}}]
    ignored = (ROOT / ".dvcignore").read_text().splitlines()
    assert {"__pycache__/", "*.pyc"} <= set(ignored)


def test_arrows_point_from_flows_to_tasks_to_the_library() -> None:
    for folder, forbidden in (
        ("distillery", ("tasks", "flows", "prefect", "dvc")),
        ("tasks", ("flows", "prefect", "dvc", "mlflow")),
    ):
        for file in (ROOT / folder).rglob("*.py"):
            heads = {name.split(".")[0] for name in imported_names(file)}
            assert not heads & set(forbidden), f"{file} imports {heads & set(forbidden)}"


def test_only_tracking_and_what_hangs_on_it_import_mlflow() -> None:
    importers = {
        file.name
        for file in (ROOT / "distillery").rglob("*.py")
        if "mlflow" in {name.split(".")[0] for name in imported_names(file)}
    }
    assert importers == {"store.py", "versions.py", "serving_model.py"}
