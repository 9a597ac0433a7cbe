"""A byte in a file of code, and which stages DVC then wants to run again.

No stage but `fetch` runs here: DVC is told that made-up results are those of the code as it is, and
asked what is out of date once a file has changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from distillery.params.whole import Params
from flows.stages.pipeline import STAGES, changed_targets, targets
from tasks.fetch import fetch
from tests.pipeline.conftest import make_clone
from tests.tiny import tiny_params, write_params

STUDENTS = {
    "conv": {"type": "separable_conv", "channels": 16, "num_blocks": 1, "kernel_size": 5},
    "small": {"type": "crnn", "conv_channels": 4, "hidden_size": 8},
    "stream": {"type": "causal_conv", "channels": 16, "num_blocks": 1},
}
ALL_STUDENTS = {f"distill@{name}-0" for name in STUDENTS}
WHISPER = {"kind": "transformers", "model": "somewhere/whisper"}
MEMBERS = [tiny_params()["teacher"], {"kind": "onnx", "model": "m.onnx", "tokens": "t.txt"}]
MEMBERS[0]["kind"] = "trained"
TEACHERS: dict[str, dict[str, Any]] = {
    "trained": tiny_params()["teacher"],
    "whisper": WHISPER,
    "ensemble": {"kind": "ensemble", "members": MEMBERS},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A clone with made-up results of all stages."""
    root = make_clone(tmp_path_factory.mktemp("costs") / "workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(root / ".dvc/tmp/site"))
        yield root


def use_teacher(root: Path, name: str) -> list[str]:
    """Let made-up results be those of the present code with such a teacher; return DVC's names."""
    from dvc.repo import Repo

    plain = tiny_params(teacher=TEACHERS[name]) if name == "trained" else tiny_params()
    plain["teacher"] = TEACHERS[name]
    plain["distill"]["students"] = {
        student: {"architecture": architecture} for student, architecture in STUDENTS.items()
    }
    plain["distill"]["students"]["stream"]["features"] = {"num_mels": 16, "normalise": "running"}
    write_params(root, plain)
    make_up_results(root)
    fetch(root)
    with pytest.MonkeyPatch.context() as patch, Repo(str(root)) as repo:
        patch.chdir(root)
        repo.commit(force=True)
    settings = Params.model_validate(plain)
    return [target for stage in STAGES for target in targets(settings, stage)]


def make_up_results(root: Path) -> None:
    stages = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    files = ["models/teacher/fingerprint.json", "models/teacher/validation.json"]
    for spec in stages.values():
        for out in [*spec["outs"], *spec.get("metrics", [])]:
            path = next(iter(out)) if isinstance(out, dict) else out
            for student in STUDENTS if "${" in path else [""]:
                filled = path.replace("${item.student}", student).replace("${item.seed}", "0")
                files.append(filled if Path(filled).suffix else f"{filled}/made_up")
    for name in files:
        if not name.startswith(("models/code", "models/registered")):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(f"{name}\n")


def stale(root: Path, names: list[str], file: str) -> set[str]:
    """Return what DVC wants to run once a file has changed, and `fetch` has run if it must."""
    path = root / file
    content = path.read_bytes()
    path.write_bytes(content + b"\n")
    try:
        first = set(changed_targets(root, names))
        if "fetch" not in first:
            return first
        fetch(root)
        return set(changed_targets(root, names)) - {"fetch"}
    finally:
        path.write_bytes(content)
        fetch(root)


def test_the_teachers_and_students_files_count_for_those_that_use_them(root: Path) -> None:
    names = use_teacher(root, "trained")
    assert set(names) == {"prepare", "fetch", "teacher", "cache", *ALL_STUDENTS, "evaluate"}
    assert not changed_targets(root, names)
    own = {"teacher", "cache", "evaluate"}
    for file, expected in {
        # losses and objectives
        "distillery/losses/kl.py": ALL_STUDENTS,
        "distillery/losses/ctc.py": {"teacher", *ALL_STUDENTS},
        "distillery/distill/objective.py": ALL_STUDENTS,
        "distillery/training/trainer.py": {"teacher", *ALL_STUDENTS},
        # one kind of teacher
        "distillery/teachers/trained.py": own,
        "distillery/teachers/whisper.py": set(),
        "distillery/teachers/ensemble.py": set(),
        # one architecture
        "distillery/architectures/conv_bilstm.py": own,
        "distillery/architectures/conformer.py": set(),
        "distillery/architectures/crnn.py": {"distill@small-0", "evaluate"},
        "distillery/architectures/causal_conv.py": {"distill@stream-0", "evaluate"},
        "distillery/architectures/separable_conv.py": {
            "distill@conv-0",
            "distill@stream-0",  # whose layers are built of these
            "evaluate",
        },
        # the lists, which a new architecture or kind changes
        "distillery/architectures/known.py": set(),
        "distillery/teachers/kinds.py": set(),
        "distillery/teachers/saved.py": set(),
        "distillery/params/teacher.py": set(),
        # the cache
        "distillery/teacher_cache/filling/audit.py": {"cache"},
        "distillery/teacher_cache/filling/decoder.py": {"cache"},
        "distillery/teacher_cache/payload.py": {"cache", *ALL_STUDENTS},
        # what comes after training
        "distillery/evaluate/plots.py": {"evaluate"},
        "distillery/evaluate/tables.py": {"evaluate"},
        "distillery/serve/export.py": {"evaluate"},
        "distillery/serve/served.py": set(),
        "distillery/register/gate/rules.py": set(),
        "distillery/register/register.py": set(),
        "distillery/tracking/store.py": set(),
        "flows/distillation.py": set(),
    }.items():
        assert stale(root, names, file) == expected, file
    assert not changed_targets(root, names)


def test_one_kinds_file_counts_where_that_kind_is_set(root: Path) -> None:
    names = use_teacher(root, "whisper")
    assert not changed_targets(root, names)
    own = {"teacher", "cache", "evaluate"}
    assert stale(root, names, "distillery/teachers/whisper.py") == own
    assert stale(root, names, "distillery/teachers/trained.py") == set()
    assert stale(root, names, "distillery/architectures/conv_bilstm.py") == set()


def test_an_ensembles_code_is_that_of_its_members_too(root: Path) -> None:
    names = use_teacher(root, "ensemble")
    own = {"teacher", "cache", "evaluate"}
    for name in ("teachers/ensemble", "teachers/onnx_probe", "architectures/conv_bilstm"):
        assert stale(root, names, f"distillery/{name}.py") == own, name
    assert stale(root, names, "distillery/teachers/whisper.py") == set()


def test_a_new_architecture_trains_nobody(root: Path) -> None:
    names = use_teacher(root, "trained")
    known = root / "distillery/architectures/known.py"
    content, new = known.read_text(), root / "distillery/architectures/brand_new.py"
    new.write_text('"""An architecture."""\n\n\nclass BrandNew:\n    pass\n')
    known.write_text(
        content.replace(
            "STUDENTS: ", "from distillery.architectures.brand_new import BrandNew\nSTUDENTS: "
        ).replace('"crnn": CRNN,', '"crnn": CRNN,\n    "brand_new": BrandNew,')
    )
    assert set(changed_targets(root, names)) == {"fetch"}
    fetch(root)
    assert set(changed_targets(root, names)) == {"fetch"}  # which DVC has not seen run
    new.unlink()
    known.write_text(content)
