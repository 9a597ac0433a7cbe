"""Make before_rooms.tar.xz: two versions registered by the code before `distillery/` had rooms.

Run it in a checkout of that code, 72cd9ca, with the environment of its requirements.txt:

    python .../tests/expected/make_before_rooms.py OUT

It holds what such a workspace has kept, and what the models said then:

- `mlartifacts/`: both models as MLflow stored them. Of the copied code what no load reaches is left
  out, for its size.
- `database.json`: the rows of MLflow's database, by table.
- `*.wav` and `texts.json`: recordings, and each version's texts of them.

Paths into the workspace read `/workspace`.
"""

from __future__ import annotations

import base64
import json
import re
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))

# ruff: noqa: I001 (these modules are gone)
import soundfile
from distillery.aliases import Aliases, crown
from distillery.export import to_onnx
from distillery.onnx_recogniser import MODEL_FILES
from distillery.params import RegisterParams
from distillery.registry import Candidate, register_version
from distillery.served import Served
from distillery.tracking import Tracking
from tests.stores import put_mlflow
from tests.tiny import RATE_HZ, speak
from tests.tiny_students import talking_student

WORKSPACE = "/workspace"
CLIPS = {"one.wav": speak("ab cab", 1), "two.wav": speak("cc", 2)}
ASK = """
import json, sys
import mlflow
mlflow.set_tracking_uri("sqlite:///mlflow.db")
clips = json.loads(sys.stdin.read())
said = {v: list(mlflow.pyfunc.load_model(f"models:/tiny/{v}").predict(clips)) for v in "12"}
reached = [m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "distillery"]
print(json.dumps([said, reached]))
"""


def main() -> None:
    """Write the archive."""
    out = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as temporary:
        root = put_mlflow(Path(temporary).resolve())
        empty = database(root)
        register(root)
        for name, samples in CLIPS.items():
            soundfile.write(root / name, samples, RATE_HZ)
        keep_code(root, ask(root))
        rows = {
            name: [row for row in found if row not in empty[name]]
            for name, found in database(root).items()
            if name != "logged_model_tags"  # they say who ran this script, and where
        }
        text = json.dumps({name: found for name, found in rows.items() if found}, indent=1)
        (root / "database.json").write_text(text.replace(str(root), WORKSPACE))
        for path in root.rglob("MLmodel"):
            text = path.read_text().replace(str(root), WORKSPACE)
            text = text.replace(str(Path.cwd()), WORKSPACE)
            path.write_text(re.sub(r"/tmp/tmp\w+", WORKSPACE, text))
        with tarfile.open(out, "w:xz", preset=9) as archive:
            for name in ("mlartifacts", "database.json", "texts.json", *CLIPS):
                archive.add(root / name, name, filter=plain)


def register(root: Path) -> None:
    """Register a student twice: PyTorch serves one version, ONNX Runtime the other."""
    settings = RegisterParams(experiment="tiny", model_name="tiny")
    tracking = Tracking(settings, root)
    student = talking_student()
    folder = root / "student"
    folder.mkdir()
    student.save(folder)
    exported = root / MODEL_FILES["onnx"]
    exported.write_bytes(to_onnx(student.network, 16))
    for seed, served in enumerate((Served(), Served("onnx", "", {exported.name: exported}))):
        candidate = Candidate(
            name="crnn",
            seed=seed,
            folder=folder,
            md5=f"{seed}" * 32,
            run=tracking.create_run("crnn", {}),
            description="a student",
            tags={},
            test_digest="t" * 64,
            test_wer=0.2,
            valid_wer=0.2,
            num_parameters=1000,
            served=served,
        )
        register_version(tracking, "tiny", candidate, settings.serve_limits)
    crown(tracking, "tiny", "1", Aliases(), "the gate", "the first champion")
    crown(tracking, "tiny", "2", Aliases("1"), "a person", "promoted by hand")


def ask(root: Path) -> list[Path]:
    """Write the versions' texts, and return the files of code that a load reads."""
    audio = [base64.b64encode((root / name).read_bytes()).decode() for name in CLIPS]
    done = subprocess.run(
        [sys.executable, "-P", "-c", ASK],
        cwd=root,
        input=json.dumps([{"audio_b64": item} for item in audio]),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    texts, reached = json.loads(done.stdout.splitlines()[-1])
    by_clip = {version: dict(zip(CLIPS, said, strict=True)) for version, said in texts.items()}
    (root / "texts.json").write_text(json.dumps(by_clip, indent=1))
    code = {Path(path).parent for path in reached if path.endswith("code/distillery/__init__.py")}
    assert len(code) == 1, "loaded from the first version's copy"
    return [Path(path).relative_to(*code) for path in reached]


def keep_code(root: Path, reached: list[Path]) -> None:
    """Delete the other files of both versions' code."""
    for code in root.glob("mlartifacts/**/code/distillery"):
        for path in sorted(code.rglob("*"), reverse=True):
            if path.is_dir():
                if not any(path.iterdir()):
                    path.rmdir()
            elif path.relative_to(code) not in reached:
                path.unlink()
    for path in root.rglob("registered_model_meta"):  # MLflow writes it when it loads
        path.unlink()


def database(root: Path) -> dict[str, list[dict[str, object]]]:
    """Return all rows of MLflow's database, by table."""
    with sqlite3.connect(root / "mlflow.db") as connection:
        connection.row_factory = sqlite3.Row
        tables = connection.execute("select name from sqlite_master where type = 'table'")
        return {
            name: [dict(row) for row in connection.execute(f"select * from {name}")]
            for (name,) in tables.fetchall()
        }


def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out who made the archive and when."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    main()
