"""dvc.yaml against the code: DVC follows no imports, so a test must."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from distillery.architectures.known import STUDENTS
from distillery.params.teacher import TeacherSection
from distillery.params.whole import Params
from distillery.teachers.kinds import KINDS as KINDS_BY_NAME
from flows.stages.lock import check_followed_settings
from flows.stages.pipeline import STAGES
from tasks.code import ARCHITECTURES, KINDS, LISTS, ROOMS, entries, imported_names, reached_files

ROOT = Path(__file__).resolve().parents[2]
PIPELINE: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
# Values of the first count through `params:`; the others change no result.
EXEMPT = (
    "distillery/__init__.py",
    "distillery/commands/",
    "distillery/credentials.py",
    "distillery/params/",
    "tasks/stage.py",
)
OWN_CODE = "models/code"
READ_AS_TEXT = {"fetch": set(ROOMS)}
"""What a stage lists without importing it."""


def spec_of(stage: str) -> dict[str, Any]:
    return dict(PIPELINE[stage])


def code_reached(stage: str) -> set[str]:
    """Return the files that a stage reaches, whatever architecture or kind of teacher is set.

    Of the list of kinds the stage `teacher` alone makes teachers; the others load them.
    """
    files = reached_files(ROOT, [f"tasks/{stage}.py"])
    behind: list[str] = []
    if KINDS in files:
        behind += files_behind(KINDS, "make" if stage == "teacher" else "load")
    if {ARCHITECTURES, KINDS} & files:
        behind += files_behind(ARCHITECTURES)
    files |= reached_files(ROOT, behind)
    return {file for file in files if not file.startswith(EXEMPT)}


def files_behind(room: str, field: str | None = None) -> set[str]:
    """Return what the entries of a list name, or what one field of them does, `make` or `load`."""

    def of(entry: ast.expr) -> ast.AST:
        assert isinstance(entry, ast.Call)
        given = dict(zip(("make", "load"), entry.args, strict=False))
        given |= {word.arg: word.value for word in entry.keywords if word.arg in ("make", "load")}
        return given.get(field or "", ast.Pass())

    found = entries(ROOT, room, of) if field else entries(ROOT, room)
    return set().union(*found.values())


def own_code() -> set[str]:
    """Return all files that some architecture or kind of teacher has to itself."""
    files = files_behind(ARCHITECTURES) | files_behind(KINDS)
    return reached_files(ROOT, files, ROOMS) - set(LISTS)


def files_of(folder: str) -> set[str]:
    """Return the code in a folder; a file is its own."""
    if folder.endswith(".py"):
        return {folder}
    files = [file for file in (ROOT / folder).rglob("*.py") if file.read_text().strip()]
    return {file.relative_to(ROOT).as_posix() for file in files}


@pytest.mark.parametrize("stage", STAGES)
def test_deps_name_every_module_that_a_stage_reaches_and_no_other(stage: str) -> None:
    names = [name for name in spec_of(stage)["deps"] if name.startswith(("distillery/", "tasks/"))]
    listed = {file for name in names for file in files_of(name)}
    assert len(listed) == sum(len(files_of(name)) for name in names), f"{stage}: listed twice"
    read = {file for name in READ_AS_TEXT.get(stage, ()) for file in files_of(name)}
    reached = code_reached(stage)
    if any(name.startswith(OWN_CODE) for name in spec_of(stage)["deps"]):
        reached -= own_code() | set(LISTS)
    missing = "\n".join(f"      - {name}" for name in sorted(reached - listed))
    assert not reached - listed, f"add to the deps of {stage} in dvc.yaml:\n{missing}"
    more = sorted(listed - reached - read)
    assert not more, f"remove from the deps of {stage}, or list files and not the folder: {more}"


def test_an_entry_of_the_lists_names_all_that_its_models_reach() -> None:
    """What lies behind an entry is looked for inside the two rooms alone; nothing leads back in."""
    for room in (ARCHITECTURES, KINDS):
        for name, files in entries(ROOT, room).items():
            everywhere = {x for x in reached_files(ROOT, files) if x.startswith(ROOMS)}
            assert reached_files(ROOT, files, ROOMS) == everywhere, name
    everything = {file for room in ROOMS for file in files_of(room)}
    assert everything - set(LISTS) == own_code(), "files that no entry leads to"


def test_the_lists_have_an_entry_for_every_setting() -> None:
    assert set(entries(ROOT, KINDS)) == set(KINDS_BY_NAME)
    made = {name for name, kind in KINDS_BY_NAME.items() if kind.make is not None}
    assert made == kinds_under(TeacherSection)
    assert set(entries(ROOT, ARCHITECTURES)) == set(STUDENTS)


def kinds_under(section: type[TeacherSection]) -> set[str]:
    """Return the kinds of teachers whose settings are derived from a section."""
    own = section.model_fields.get("kind")
    kinds = set(get_args(own.annotation)) if own else set()
    return kinds.union(*(kinds_under(derived) for derived in section.__subclasses__()))


def test_a_stage_is_one_word_everywhere() -> None:
    words = [*STAGES, "register"]
    assert list(PIPELINE) == list(STAGES)
    # Sections without a stage of their own: on the results of `make curve`, `make teachers`
    # and `make retrain` nothing depends, `language_model` is read by cache and evaluate, and
    # `training` changes no result.
    others = ["curve", "language_model", "teacher_candidates", "retraining", "package", "training"]
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


def test_no_stage_is_out_of_date_for_another_time_between_checkpoints() -> None:
    for stage in STAGES:
        assert "training" not in {name.split(".")[0] for name in spec_of(stage)["params"]}


def test_stages_read_of_register_what_students_are_served_with_alone() -> None:
    readers = {}
    for stage in STAGES:
        names = [name for name in spec_of(stage)["params"] if name.startswith("register")]
        readers |= {stage: names} if names else {}
    assert readers == {"fetch": ["register.decoder"], "evaluate": ["register.decoder"]}


def test_the_cache_survives_its_stage_and_bytecode_changes_nothing() -> None:
    assert spec_of("cache")["outs"] == [{"data/teacher_cache": {"persist": True}}]
    ignored = (ROOT / ".dvcignore").read_text().splitlines()
    assert {"__pycache__/", "*.pyc"} <= set(ignored)


def test_decisions_about_splits_survive_their_stage_and_macos_changes_nothing() -> None:
    assert spec_of("prepare")["outs"] == ["data/prepared", {"data/splits.csv": {"persist": True}}]
    assert {".DS_Store", "._*"} <= set((ROOT / ".dvcignore").read_text().splitlines())


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
