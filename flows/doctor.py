"""Is this workspace fit to run? python -m flows.doctor [--quick]

The quick part looks at files and versions only; every make job starts with it. The rest asks
servers and stores, and tells what the next run would do (outlook.py).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import psutil
import yaml
from packaging.requirements import Requirement

from distillery.commands import surroundings
from distillery.errors import ParamsError
from distillery.params.file import PARAMS_FILE
from distillery.params.whole import Params
from distillery.prepare.source import source_fault
from flows.findings import Finding
from flows.stores import check_mlflow, check_prefect, check_remotes

WORKSPACE_LOCK = ".dvc/tmp/distillery.lock"
DVC_LOCK = ".dvc/tmp/rwlock"
DVC_LOCK_GUARD = ".dvc/tmp/rwlock.lock"  # DVC holds it, by flock, while it edits the former
CLOCK_SECONDS = 2.0  # how exactly Linux knows when it was started
LOCK_FILE = "dvc.lock"
MIN_FREE_BYTES = 2_000_000_000


def main(arguments: list[str] | None = None) -> int:
    """Check the current folder, say what to do, and return 1 if there are problems."""
    parser = argparse.ArgumentParser(prog="python -m flows.doctor", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="files and versions only")
    parser.add_argument("--corpus", help="the corpus that params.yaml must name")
    options = parser.parse_args(arguments)
    surroundings.settle()
    root = Path.cwd()
    findings = list(quick_checks(root, options.corpus))
    if not options.quick:
        findings += slow_checks(root)
    problems = [finding for finding in findings if not finding.ok]
    for finding in problems if options.quick else findings:
        mark = "ok     " if finding.ok else "problem"
        sys.stdout.write(f"{mark}  {finding.check}: {finding.found}\n")
        if finding.advice and not finding.ok:
            sys.stdout.write(f"         → {finding.advice}\n")
    return 1 if problems else 0


def quick_checks(root: Path, corpus: str | None = None) -> Iterator[Finding]:
    """Yield what files and versions tell."""
    yield check_python()
    yield check_pins(root / "pyproject.toml")
    yield check_torch_pair()
    yield check_disk(root)
    yield check_dvc_lock(root)
    yield check_pipeline_lock(root)
    yield check_lock_file(root / LOCK_FILE)
    yield from check_settings(root, corpus)


def slow_checks(root: Path) -> Iterator[Finding]:
    """Yield what the next run has to go on, and what stores and servers answer."""
    try:
        settings = Params.load(root / PARAMS_FILE)
    except ParamsError:
        return  # the quick part has said so
    from flows.outlook import outlook  # which imports what reads recordings

    yield from outlook(root, settings)
    yield check_mlflow(settings.register, root)
    yield from check_remotes(root)
    yield check_prefect(os.environ.get("PREFECT_API_URL"))


def check_python() -> Finding:
    """Check the interpreter."""
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding(
        "Python", sys.version_info >= (3, 11), found, "install Python 3.11 or newer, make install"
    )


def check_pins(project: Path) -> Finding:
    """Check that every dependency is installed in a version that pyproject.toml allows."""
    if not project.exists():
        return Finding("packages", True, f"not checked: there is no {project.name}")
    try:
        names = tomllib.loads(project.read_text("utf-8"))["project"]["dependencies"]
    except (OSError, tomllib.TOMLDecodeError, KeyError) as error:
        return Finding("packages", False, f"{project}: {error!r}", "get the file from Git again")
    wrong = []
    for requirement in map(Requirement, names):
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing, expected {requirement.specifier}")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version}, expected {requirement.specifier}")
    found = "; ".join(wrong) or f"{len(names)} as pinned"
    return Finding("packages", not wrong, found, "touch requirements.txt, then make install")


def check_torch_pair() -> Finding:
    """Check that torch and torchaudio belong together."""
    versions = []
    for name in ("torch", "torchaudio"):
        try:
            versions.append(importlib.metadata.version(name).partition("+")[0])
        except importlib.metadata.PackageNotFoundError:
            versions.append("missing")
    return Finding(
        "torch pair",
        versions[0] == versions[1] != "missing",
        f"torch {versions[0]}, torchaudio {versions[1]}",
        "both must have one version: touch requirements.txt, then make install",
    )


def check_disk(root: Path) -> Finding:
    """Check that there is room for data and models."""
    free = shutil.disk_usage(root).free
    return Finding(
        "disk",
        free >= MIN_FREE_BYTES,
        f"{free / 1e9:.1f} GB free",
        f"make room for {MIN_FREE_BYTES / 1e9:.0f} GB; scratch/ may go when nothing runs",
    )


def check_dvc_lock(root: Path) -> Finding:
    """Check DVC's own locks for what a crash may leave."""
    path = root / DVC_LOCK
    if fault := _lock_fault(path):
        if users := dvc_processes(root):
            advice = "wait until that has ended, or end it; the next run then deletes the file"
            found = f"{path} {fault}, but DVC runs here: pid {users[0]}"
            return Finding("DVC lock", False, found, advice)
        found = f"{path} {fault}; no DVC runs here, so the next run deletes it"
        return Finding("DVC lock", True, found)
    alive = sorted(pid for pid in _owners(path) if _command(pid))
    strangers = [pid for pid in alive if not _is_dvc(_command(pid))]
    if strangers:
        found = f"held by pid {strangers[0]}, which is no DVC: {_command(strangers[0])[:60]}"
        return Finding("DVC lock", False, found, f"no DVC runs here? Then delete {path}")
    return Finding("DVC lock", True, f"DVC runs: pid {alive[0]}" if alive else "free")


def free_dvc_lock(root: Path) -> str | None:
    """Delete DVC's lock if a crash left it so that it would block DVC for ever.

    Returns:
        What was wrong with it; None where nothing was, or where DVC runs in the workspace.
    """
    path = root / DVC_LOCK
    if not path.exists():
        return None
    with open(root / DVC_LOCK_GUARD, "a", encoding="utf-8") as guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        fault = _lock_fault(path)
        if fault is None or dvc_processes(root):
            return None
        path.unlink()
    return f"{path} {fault}"


def dvc_processes(root: Path) -> list[int]:
    """Return the processes of DVC that run in a workspace, or whose folder cannot be seen."""
    found = []
    for process in psutil.process_iter():
        if _is_dvc(_command(process.pid)):
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
                if _is_inside(process, root):
                    found.append(process.pid)
    return sorted(found)


def _is_inside(process: psutil.Process, root: Path) -> bool:
    try:
        return Path(process.cwd()).is_relative_to(root.resolve())
    except psutil.AccessDenied:
        return True


def check_pipeline_lock(root: Path) -> Finding:
    """Say whether a run is on; that is no problem."""
    path = root / WORKSPACE_LOCK
    if not path.exists():
        return Finding("pipeline", True, "idle")
    with open(path, encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return Finding("pipeline", True, f"running: pid {file.read().strip()}")
    return Finding("pipeline", True, "idle")


def check_lock_file(path: Path) -> Finding:
    """Check that dvc.lock can be read."""
    if not path.exists():
        return Finding(LOCK_FILE, True, "not there yet")
    try:
        content = yaml.load(path.read_text("utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        content, found = None, str(error).partition("\n")[0]
    else:
        found = "holds no stages"
    ok = isinstance(content, dict) and isinstance(content.get("stages"), dict)
    return Finding(
        LOCK_FILE,
        ok,
        f"{len(content['stages'])} stages" if ok else f"damaged: {found}",
        "git checkout dvc.lock, or delete it: DVC's cache knows the stages that ran",
    )


def check_settings(root: Path, corpus: str | None = None) -> Iterator[Finding]:
    """Check params.yaml, and that the corpus it names is there."""
    try:
        settings = Params.load(root / PARAMS_FILE).prepare
    except ParamsError as error:
        yield Finding("settings", False, str(error))
        return
    yield Finding("settings", True, f"corpus {settings.corpus}")
    if corpus is not None and settings.corpus != corpus:
        yield Finding(
            "settings",
            False,
            f"params.yaml names the corpus {settings.corpus!r}, the demo needs {corpus!r}",
            "make run runs what params.yaml says; for the demo take the former params.yaml back "
            "(params.yaml.bak, or git checkout params.yaml)",
        )
    if fault := source_fault(root, settings.source):
        found, _, advice = fault.partition("; ")
        yield Finding("corpus", False, found, advice)
        return
    source = root / settings.source
    yield Finding(
        "corpus",
        source.exists() or settings.download,
        f"{source} {'is there' if source.exists() else 'is missing'}",
        "put it there, correct prepare.source, or set prepare.download: true",
    )
    if settings.corpus == "commands":
        yield Finding(
            "voices",
            importlib.util.find_spec("espeakng_loader") is not None,
            "espeakng-loader makes the speech of the corpus commands",
            "it is an extra: make install, or pip install 'distillery[demo]'",
        )
    if settings.segment is not None:
        yield Finding(
            "segments",
            importlib.util.find_spec("silero_vad") is not None,
            "silero-vad finds the pauses for prepare.segment",
            "it is an extra: make install, or pip install 'distillery[segment]'",
        )


def _lock_fault(path: Path) -> str | None:
    """Return why DVC's lock cannot be right; None: it may be."""
    if not path.exists():
        return None
    written = path.stat().st_mtime
    try:
        owners = _owners(path)
    except (ValueError, TypeError, AttributeError):
        return "is damaged" if path.stat().st_size else "is empty"
    for pid in sorted(owners):
        if (began := _began(pid)) is not None and began > written + CLOCK_SECONDS:
            return f"names pid {pid}, which began after it was written: {_command(pid)[:60]}"
    return None


def _owners(path: Path) -> set[int]:
    """Return the process ids in DVC's lock: {"write": {path: {pid, …}}, "read": {path: [{…}]}}."""
    if not path.exists():
        return set()
    found = set()
    for holders in json.loads(path.read_text("utf-8")).values():
        for holder in holders.values():
            for entry in holder if isinstance(holder, list) else [holder]:
                if isinstance(entry, dict) and "pid" in entry:
                    found.add(int(entry["pid"]))
    return found


def _began(pid: int) -> float | None:
    """Return when a process began, as seconds since the epoch; None: there is none."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


def _is_dvc(command: str) -> bool:
    return "dvc" in {Path(word).name for word in command.split()}


def _command(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ""


if __name__ == "__main__":
    sys.exit(main())
