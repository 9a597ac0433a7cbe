"""The commands `distillery cache …`: stats, verify, audit, gc, compact.

Only `audit` loads model code. Tables go to people, `--json` to programs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from distillery.console import as_text, new_table
from distillery.data.audio import SECONDS_PER_HOUR
from distillery.data.copies import with_copies
from distillery.data.manifest import MANIFEST_FILE, PreparedData
from distillery.errors import CacheError, CacheMismatch
from distillery.files import Json
from distillery.models.fingerprint import FINGERPRINT_FILE
from distillery.params.cache import CacheParams
from distillery.params.file import PARAMS_FILE
from distillery.params.stages import CacheStageParams
from distillery.teacher_cache.filling.expected import Places, expected_namespace, settled
from distillery.teacher_cache.namespace import NAMESPACE_FILE
from distillery.teacher_cache.shards import REPAIR
from distillery.teacher_cache.store import CURRENT_FILE, TeacherCache, current_namespace
from distillery.teacher_cache.upkeep import collection, rewriting, verification
from distillery.teacher_cache.upkeep.records import folder_bytes, namespace_folders
from distillery.teacher_cache.upkeep.statistics import Statistics, statistics
from distillery.teacher_cache.upkeep.verification import Verified

EXIT_GOOD, EXIT_BAD = 0, 1
MAX_NAME = 40
SHORT_HASH = 8  # characters
RECORD = "run make cache: it records the new state in dvc.lock"
REFILL = "run make cache: the teacher runs on what is missing, and dvc.lock records the new state"


def add_commands(commands: Any) -> None:
    """Add `cache` and its commands to the parser's commands."""
    group = commands.add_parser("cache", help="inspect and maintain the teacher-output cache")
    actions = group.add_subparsers(required=True, metavar="ACTION")

    def add(name: str, run: Any, summary: str) -> argparse.ArgumentParser:
        action: argparse.ArgumentParser = actions.add_parser(name, help=summary)
        action.set_defaults(run=run)
        action.add_argument("--json", action="store_true", help="print JSON instead of a table")
        action.add_argument(
            "--root", type=Path, default=Path(), help="the workspace (default: current folder)"
        )
        return action

    add("stats", stats, "utterances, hours, bytes, blank frames, shards of every namespace")
    action = add("verify", verify, "read every record and compare it with its checksum")
    action.add_argument("--current", action="store_true", help="the current namespace alone")
    action.add_argument(
        "--repair", action="store_true", help="remove what is damaged, keep everything else"
    )
    action = add("audit", audit, "compare random utterances with the live teacher")
    action.add_argument("--count", type=_positive(int), default=16, help="how many (default: 16)")
    action.add_argument("--seed", type=int, default=0, help="fixes the draw (default: 0)")
    action = add("gc", gc, "list what is no longer needed, and delete it with --delete")
    action.add_argument("--delete", action="store_true", help="delete what is listed")
    action.add_argument(
        "--unused", action="store_true", help="utterances that are no longer prepared, too"
    )
    action.add_argument("--all", action="store_true", help="the current namespace, too")
    action = add("compact", compact, "merge the current namespace's small shards")
    action.add_argument(
        "--hours", type=_positive(float), default=1.0, help="audio in one shard (default: 1)"
    )
    action.add_argument("--dry-run", action="store_true", help="only say what would be done")


def _positive(kind: type) -> Any:
    def number(text: str) -> Any:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not a positive number")
        return value

    return number


# --- stats ----------------------------------------------------------------------------------------


def stats(options: argparse.Namespace) -> int:
    """Show what every namespace holds."""
    root = Places.in_workspace(options.root).cache
    found = [statistics(folder) for folder in namespace_folders(root)]
    current = _current(root)
    total = {
        name: sum(getattr(item, name) for item in found)
        for name in ("num_utterances", "audio_seconds", "num_bytes", "num_shards")
    }
    if options.json:
        namespaces = [
            {**asdict(item), **_rates(item), "current": item.namespace == current} for item in found
        ]
        return _show_json({"namespaces": namespaces, "total": total}, EXIT_GOOD)
    headers = ["namespace", "utter-\nances", "hours", "size", "bytes/\nsecond"]
    headers += ["bytes/\nframe", "blank\n%", "shards", "kind", "dtype", "teacher"]
    rows = [_statistics_cells(item, current) for item in found]
    rows.append(
        [
            "total",
            f"{total['num_utterances']:,}",
            _hours(total["audio_seconds"]),
            size_text(total["num_bytes"]),
            *[""] * 3,
            str(total["num_shards"]),
        ]
    )
    _show_table(headers, rows)
    _say(f"* current: {current}" if current else "no namespace is current; run make cache")
    for item in found:
        if item.damaged:
            _say(f"damaged: {item.damaged}")
    return EXIT_GOOD


def _rates(item: Statistics) -> dict[str, float | None]:
    """Return what one second and one frame cost, and the share of blank frames."""
    if not item.num_frames:
        return dict.fromkeys(("bytes_per_audio_second", "bytes_per_frame", "blank_fraction"))
    size = item.data_bytes + item.index_bytes
    return {
        "bytes_per_audio_second": size / item.audio_seconds,
        "bytes_per_frame": size / item.num_frames,
        "blank_fraction": item.num_blank_frames / item.num_frames,
    }


def _statistics_cells(item: Statistics, current: str | None) -> list[str]:
    name = f"{item.namespace} *" if item.namespace == current else item.namespace
    if item.damaged:
        return [name, "damaged", "", size_text(item.num_bytes)]
    second, frame, blank = _rates(item).values()
    return [
        name,
        f"{item.num_utterances:,}",
        _hours(item.audio_seconds),
        size_text(item.num_bytes),
        "-" if second is None else f"{second:.0f}",
        "-" if frame is None else f"{frame:.1f}",
        "-" if blank is None else f"{100 * blank:.1f}",
        str(item.num_shards),
        item.payload,
        item.compute_dtype,
        item.teacher[:SHORT_HASH],
    ]


def _hours(seconds: float) -> str:
    return f"{seconds / SECONDS_PER_HOUR:,.2f}"


# --- verify ---------------------------------------------------------------------------------------


def verify(options: argparse.Namespace) -> int:
    """Read everything; name what is damaged; drop it if asked to."""
    places = Places.in_workspace(options.root)
    folders = namespace_folders(places.cache)
    current = _current(places.cache)
    if options.current:
        folders = [places.cache / current_namespace(places.cache)]
    total = sum(map(folder_bytes, folders))
    with _bar(total, "verify", "B", unit_scale=True) as bar:
        found = [
            verification.verify(folder, repair=options.repair, progress=bar.update)
            for folder in folders
        ]
    left = [item for item in found if item.damages and not item.repaired]
    status = EXIT_BAD if left or current is None else EXIT_GOOD
    names = _utterance_ids(options.root, places, (d.key for item in found for d in item.damages))
    if options.json:
        content = {"namespaces": [_verified_json(item, names) for item in found]}
        return _show_json({**content, "current": current, "sound": status == EXIT_GOOD}, status)
    _show_table(
        ["namespace", "utterances", "shards", "size", "damaged"],
        [
            [
                item.namespace,
                f"{item.num_utterances:,}",
                str(item.num_shards),
                size_text(item.num_bytes),
                str(len(item.damages)),
            ]
            for item in found
        ],
    )
    for item in found:
        for damage in item.damages:
            who = f"utterance {names.get(damage.key or '', '?')!r} (key {(damage.key or '')[:12]}) "
            _say(f"{item.namespace}/{damage.file}: {who if damage.key else ''}{damage.found}")
    if current is None:
        _say("current.json: missing, or names no namespace; run make cache")
    if any(item.repaired for item in found):
        _say(f"repaired: {REFILL}")
    damaged_files = {damage.file for item in left for damage in item.damages}
    if damaged_files - {NAMESPACE_FILE}:
        _say(REPAIR)
    if NAMESPACE_FILE in damaged_files:
        _say(
            "make cache repairs the namespace that it fills; `distillery cache gc` lists the others"
        )
    return status


def _verified_json(item: Verified, names: Mapping[str, str]) -> Json:
    damages = [
        {**asdict(damage), "utterance_id": names.get(damage.key or "")} for damage in item.damages
    ]
    return {**asdict(item), "damages": damages}


def _utterance_ids(root: Path, places: Places, keys: Iterable[str | None]) -> dict[str, str]:
    """Return the ids of keys, as far as they are prepared."""
    wanted = {key for key in keys if key}
    if not wanted or not (places.data / MANIFEST_FILE).exists():
        return {}
    frame = _prepared(root, places)
    mine = frame[frame["audio_key"].isin(wanted)]
    return dict(zip(mine["audio_key"], mine["utterance_id"], strict=True))


def _prepared(root: Path, places: Places) -> pd.DataFrame:
    """Return the manifest, and behind it the copies that params.yaml names."""
    data, path = PreparedData.open(places.data), root / PARAMS_FILE
    factors = CacheStageParams.load(path).cache.speed_factors if path.exists() else ()
    return with_copies(data.frame, factors, data.sample_rate_hz)


# --- audit ----------------------------------------------------------------------------------------


def audit(options: argparse.Namespace) -> int:
    """Run the teacher over some utterances again and compare."""
    # These bring PyTorch.
    from distillery.teacher_cache.filling.audit import audit_saved, check_audit, tolerance
    from distillery.teachers.kinds import load_teacher

    places = Places.in_workspace(options.root)
    cache = TeacherCache.open_current(places.cache)
    settings = _settings(options.root, places)
    cache.namespace.check(expected_namespace(places, settings))
    data = PreparedData.open(places.data)
    found = audit_saved(
        cache, data, places.teacher, load_teacher, settings, options.count, options.seed
    )
    allowed = tolerance(cache)
    good = [item.divergence <= allowed for item in found]
    status = EXIT_GOOD if all(good) else EXIT_BAD
    if options.json:
        rows = [
            {
                **asdict(item),
                "divergence": item.divergence if isfinite(item.divergence) else None,
                "ok": ok,
            }
            for item, ok in zip(found, good, strict=True)
        ]
        content = {"namespace": cache.folder.name, "tolerance": allowed, "utterances": rows}
        return _show_json({**content, "ok": all(good)}, status)
    _show_table(
        ["utterance", "key", "frames", "divergence\nnat a frame", "at most", "ok"],
        [
            [
                item.utterance_id,
                item.key[:12],
                str(item.num_frames),
                f"{item.divergence:.1e}",
                f"{allowed:.1e}",
                "yes" if ok else "no",
            ]
            for item, ok in zip(found, good, strict=True)
        ],
    )
    try:
        check_audit(cache, found)
    except CacheMismatch as error:
        sys.stderr.write(f"error: {error}\n")
    return status


# --- gc -------------------------------------------------------------------------------------------


def gc(options: argparse.Namespace) -> int:
    """List what nothing needs; delete it if asked to."""
    places = Places.in_workspace(options.root)
    kept = set() if options.all else _needed_namespaces(options.root, places)
    used = set(_prepared(options.root, places)["audio_key"]) if options.unused else None
    found = collection.collect(places.cache, kept, used, delete=options.delete)
    total = sum(item.num_bytes for item in found)
    if options.json:
        content = {"garbage": [asdict(item) for item in found], "num_bytes": total}
        return _show_json({**content, "deleted": options.delete}, EXIT_GOOD)
    if not found:
        _say("nothing to delete")
        return EXIT_GOOD
    _show_table(
        ["what", "where", "utterances", "size"],
        [
            [
                item.what,
                item.path,
                f"{item.num_utterances:,}" if item.num_utterances else "",
                size_text(item.num_bytes),
            ]
            for item in found
        ],
    )
    if options.delete:
        _say(f"deleted {size_text(total)}; {REFILL if options.all else RECORD}")
    else:
        _say(f"nothing was deleted; --delete deletes these {size_text(total)}")
    return EXIT_GOOD


def _needed_namespaces(root: Path, places: Places) -> Collection[str]:
    """Return the current namespace, and the one that `make cache` would fill now.

    Raises:
        CacheError: no namespace is current.
    """
    current = current_namespace(places.cache)
    if not (places.cache / current).is_dir():
        raise CacheError(
            f"{places.cache / CURRENT_FILE}: names namespace {current}, which is not there; "
            "run make cache"
        )
    needed = {current}
    if (places.teacher / FINGERPRINT_FILE).exists() and (root / PARAMS_FILE).exists():
        needed.add(expected_namespace(places, _settings(root, places)).folder_name)
    return needed


def _settings(root: Path, places: Places) -> CacheParams:
    """Return the settings of the stage `cache`, with the hidden layers that it keeps."""
    params = CacheStageParams.load(root / PARAMS_FILE)
    return settled(places, params.cache, params.distill.teacher_layers)


# --- compact --------------------------------------------------------------------------------------


def compact(options: argparse.Namespace) -> int:
    """Put small shards of the current namespace together."""
    root = Places.in_workspace(options.root).cache
    folder = root / current_namespace(root)
    with _bar(None, "compact", "utt") as bar:
        found = rewriting.compact(
            folder, options.hours, dry_run=options.dry_run, progress=bar.update
        )
    if options.json:
        return _show_json({**asdict(found), "dry_run": options.dry_run}, EXIT_GOOD)
    _show_table(
        ["namespace", "shards before", "shards after", "repeated records dropped"],
        [
            [
                found.namespace,
                str(found.shards_before),
                str(found.shards_after),
                str(found.num_repeats),
            ]
        ],
    )
    if options.dry_run:
        _say("nothing was changed; without --dry-run it is done")
    elif found.changed:
        _say(f"compacted; {RECORD}")
    return EXIT_GOOD


# --- showing --------------------------------------------------------------------------------------


def _current(root: Path) -> str | None:
    """Return the current namespace, or None when there is none."""
    try:
        name = current_namespace(root)
    except CacheError:
        return None
    return name if (root / name).is_dir() else None


def size_text(count: float) -> str:
    """Return a number of bytes for a person."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _bar(total: int | None, name: str, unit: str, **options: Any) -> Any:
    return tqdm(total=total, desc=name, unit=unit, disable=None, **options)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _show_json(content: Json, status: int) -> int:
    sys.stdout.write(json.dumps(content, indent=2, allow_nan=False) + "\n")
    return status


def _show_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = new_table()
    longest = max(len(row[0]) for row in rows)
    table.add_column(headers[0], overflow="fold", min_width=min(longest, MAX_NAME))
    for header in headers[1:]:
        table.add_column(header, justify="right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    _say(as_text(table))
