"""A byte in a file of code, and which stages DVC then wants to run again.

No stage but `fetch` runs here: DVC is told that made-up results are those of the code as it is, and
asked what is out of date once a file has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from distillery.params.whole import Params
from flows.stages.pipeline import STAGES, targets
from tasks.code import ROOMS
from tasks.fetch import fetch
from tests.pipeline.conftest import make_clone
from tests.tiny import tiny_params, write_params

STUDENTS = {
    "conv": {"type": "separable_conv", "channels": 16, "num_blocks": 1, "kernel_size": 5},
    "small": {"type": "crnn", "conv_channels": 4, "hidden_size": 8},
    "stream": {"type": "causal_conv", "channels": 16, "num_blocks": 1},
}
ALL_STUDENTS = {f"distill@{name}-0" for name in STUDENTS}
TRAINED = {**tiny_params()["teacher"], "kind": "trained"}
ONNX = {"kind": "onnx", "model": "m.onnx", "tokens": "t.txt"}
TEACHERS: dict[str, dict[str, Any]] = {
    "trained": TRAINED,
    "whisper": {"kind": "transformers", "model": "somewhere/whisper"},
    "ensemble": {"kind": "ensemble", "members": [TRAINED, ONNX]},
}
USERS_OF_TEACHERS = {"teacher", "cache", "evaluate"}
IMPORT = "from distillery.architectures.brand_new import BrandNew"


@dataclass(frozen=True)
class Shop:
    """A workspace with made-up results of all stages, and DVC at work in it."""

    root: Path
    dvc: Any
    names: list[str]
    """DVC's, of all stages."""

    def changed(self) -> set[str]:
        """Return the stages that DVC wants to run."""
        return set(self.dvc.status(targets=self.names))

    def stale(self, *files: str) -> set[str]:
        """Return them once files have changed, and `fetch` has run if it must."""
        contents = {self.root / file: (self.root / file).read_bytes() for file in files}
        must_fetch = any(file.startswith(ROOMS) for file in files)
        for path, content in contents.items():
            path.write_bytes(content + b"\n")
        if must_fetch:
            fetch(self.root)
        found = self.changed()
        assert ("fetch" in found) == must_fetch
        for path, content in contents.items():
            path.write_bytes(content)
        if must_fetch:
            fetch(self.root)
        return found - {"fetch"}


OpenShop = Callable[[str], Shop]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clone(tmp_path_factory.mktemp("costs") / "workspace")


@pytest.fixture
def open_shop(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenShop]:
    """What opens a shop with one of the teachers."""
    from dvc.repo import Repo

    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(root / ".dvc/tmp/site"))
    monkeypatch.chdir(root)
    with Repo(str(root)) as repo:

        def opened(teacher: str) -> Shop:
            settings = use_teacher(root, teacher)
            make_up_results(root)
            fetch(root)
            repo.commit(force=True)
            shop = Shop(root, repo, [name for stage in STAGES for name in targets(settings, stage)])
            assert not shop.changed()
            return shop

        yield opened


def use_teacher(root: Path, name: str) -> Params:
    plain = tiny_params()
    plain["teacher"] = TEACHERS[name]
    plain["distill"]["students"] = {
        student: {"architecture": architecture} for student, architecture in STUDENTS.items()
    }
    plain["distill"]["students"]["stream"]["features"] = {"num_mels": 16, "normalise": "running"}
    write_params(root, plain)
    return Params.model_validate(plain)


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
        if not name.startswith(("models/code", "models/learnt_layers", "models/registered")):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(f"{name}\n")


def test_a_file_counts_for_the_models_that_are_made_by_it(open_shop: OpenShop) -> None:
    shop = open_shop("trained")
    assert set(shop.names) == {"prepare", "fetch", "teacher", "cache", *ALL_STUDENTS, "evaluate"}
    for file, expected in {
        # losses, objectives, training
        "distillery/losses/kl.py": ALL_STUDENTS,
        "distillery/losses/ctc.py": {"teacher", *ALL_STUDENTS},
        "distillery/distill/objective.py": ALL_STUDENTS,
        "distillery/training/trainer.py": {"teacher", *ALL_STUDENTS},
        # one kind of teacher, one architecture
        "distillery/teachers/trained.py": USERS_OF_TEACHERS,
        "distillery/architectures/conv_bilstm.py": USERS_OF_TEACHERS,
        "distillery/architectures/crnn.py": {"distill@small-0", "evaluate"},
        "distillery/architectures/causal_conv.py": {"distill@stream-0", "evaluate"},
        "distillery/architectures/separable_conv.py": {
            "distill@conv-0",
            "distill@stream-0",  # whose layers are built of these
            "evaluate",
        },
        # the cache
        "distillery/teacher_cache/filling/audit.py": {"cache"},
        "distillery/teacher_cache/filling/decoder.py": {"cache"},
        "distillery/teacher_cache/payload.py": {"cache", *ALL_STUDENTS, "evaluate"},
        # what comes after training
        "distillery/evaluate/plots.py": {"evaluate"},
        "distillery/serve/export.py": {"evaluate"},
    }.items():
        assert shop.stale(file) == expected, file
    assert not shop.changed()


def test_what_no_model_is_made_by_trains_nobody(open_shop: OpenShop) -> None:
    """Kinds and architectures that are not set, their lists, and what comes after training."""
    shop = open_shop("trained")
    others = ("teachers/whisper", "teachers/ensemble", "architectures/conformer")
    lists = ("architectures/known", "teachers/kinds", "params/teacher")
    after = ("serve/served", "register/gate/rules", "register/register", "tracking/store")
    files = [f"distillery/{name}.py" for name in (*others, *lists, *after)]
    assert shop.stale(*files, "flows/distillation.py", "tasks/register.py") == set()


def test_the_time_between_checkpoints_trains_nobody(open_shop: OpenShop) -> None:
    shop = open_shop("trained")
    settings = yaml.safe_load((shop.root / "params.yaml").read_text())
    write_params(shop.root, settings | {"training": {"checkpoint_seconds": 30.0}})
    assert shop.changed() == set()
    settings["distill"]["training"]["max_unalignable_fraction"] = 0.2  # beside it DVC would follow
    write_params(shop.root, settings)
    assert shop.changed() == ALL_STUDENTS


def test_of_what_students_learn_the_cache_follows_the_layers_alone(open_shop: OpenShop) -> None:
    shop = open_shop("trained")
    settings = yaml.safe_load((shop.root / "params.yaml").read_text())
    plain = settings["distill"]["objective"]
    for objective, expected in (
        (plain | {"teacher_share": 0.4}, ALL_STUDENTS),
        (plain | {"hidden": {"layers": {"front": "last"}}}, {"cache", *ALL_STUDENTS}),
    ):
        settings["distill"]["objective"] = objective
        write_params(shop.root, settings)
        fetch(shop.root)
        assert shop.changed() == {"fetch", *expected}


def test_one_kinds_file_counts_where_that_kind_is_set(open_shop: OpenShop) -> None:
    shop = open_shop("whisper")
    assert shop.stale("distillery/teachers/whisper.py") == USERS_OF_TEACHERS
    others = ("teachers/trained", "teachers/onnx_file", "architectures/conv_bilstm")
    assert shop.stale(*(f"distillery/{name}.py" for name in others)) == set()


def test_an_ensembles_code_is_that_of_its_members_too(open_shop: OpenShop) -> None:
    shop = open_shop("ensemble")
    for name in ("teachers/ensemble", "teachers/onnx_probe", "architectures/conv_bilstm"):
        assert shop.stale(f"distillery/{name}.py") == USERS_OF_TEACHERS, name
    assert shop.stale("distillery/teachers/whisper.py") == set()


def test_a_new_architecture_trains_nobody(open_shop: OpenShop) -> None:
    shop = open_shop("trained")
    known = shop.root / "distillery/architectures/known.py"
    content, new = known.read_text(), known.with_name("brand_new.py")
    new.write_text('"""An architecture."""\n\n\nclass BrandNew:\n    pass\n')
    known.write_text(
        content.replace("\nSTUDENTS: ", f"\n{IMPORT}\nSTUDENTS: ").replace(
            '"crnn": CRNN,', '"crnn": CRNN,\n    "brand_new": BrandNew,'
        )
    )
    fetch(shop.root)
    assert shop.changed() == {"fetch"}
    new.unlink()
    known.write_text(content)
