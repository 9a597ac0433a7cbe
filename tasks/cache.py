"""Stage `cache`: one teacher pass over every training utterance that is not cached yet."""

from __future__ import annotations

import logging
from pathlib import Path

from distillery import params
from distillery.caching import fill_cache, namespace_of
from distillery.device import choose_device
from distillery.files import write_json
from distillery.fingerprint import read_fingerprint
from distillery.manifest import PreparedData
from distillery.recogniser import Recogniser
from distillery.teacher_cache.store import TeacherCache
from distillery.teachers import TEACHERS
from tasks.stage import run_stage

logger = logging.getLogger(__name__)


def cache(root: Path) -> None:
    """Fill data/teacher_cache under `root`, and say what it cost in reports/cache.json."""
    settings = params.load(root / params.PARAMS_FILE).cache
    data = PreparedData.open(root / "data/prepared")
    folder = root / "models/teacher"
    teacher = Recogniser.load(folder, TEACHERS, choose_device(settings.device))
    teacher.check_sample_rate(data.sample_rate_hz)
    namespace = namespace_of(teacher, read_fingerprint(folder), settings)
    store = TeacherCache.create(root / "data/teacher_cache", namespace)
    report = fill_cache(store, teacher, data, settings)
    store.make_current()
    (root / "reports").mkdir(exist_ok=True)
    write_json(root / "reports/cache.json", report.to_json())
    logger.info(
        "teacher cache %s: %d utterances, %d already there, %d through the teacher in %.1f s",
        report.namespace,
        report.num_utterances,
        report.num_hits,
        report.num_teacher_forwards,
        report.teacher_seconds,
    )


def main() -> None:
    """Run the stage in the current folder."""
    run_stage(cache, Path.cwd())


if __name__ == "__main__":
    main()
