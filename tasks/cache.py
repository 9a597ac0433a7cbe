"""Stage `cache`: one teacher pass over every training utterance that is not cached yet.

It ends with an audit, pass or no pass: what was cached by other code than today's must train
nobody.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

from distillery.data.manifest import PreparedData
from distillery.files import write_json
from distillery.params.file import PARAMS_FILE
from distillery.params.stages import CacheStageParams
from distillery.teacher_cache.filling.audit import audit_before_training
from distillery.teacher_cache.filling.decoder import ready_teacher_decoder
from distillery.teacher_cache.filling.expected import (
    Places,
    describe_layers,
    expected_namespace,
    settled,
)
from distillery.teacher_cache.filling.fill import fill_cache
from distillery.teacher_cache.filling.report import CACHE_REPORT_FILE, describe, read_report
from distillery.teacher_cache.store import TeacherCache
from distillery.teachers.kinds import load_teacher
from distillery.teachers.responses import cost_since, spent_by
from tasks.stage import run_stage

logger = logging.getLogger(__name__)


def cache(root: Path) -> None:
    """Fill data/teacher_cache under `root`, and say what it cost in reports/cache.json.

    Raises:
        CacheMismatch: the cache says something else than the live teacher.
    """
    settings = CacheStageParams.load(root / PARAMS_FILE)
    places, path = Places.in_workspace(root), root / CACHE_REPORT_FILE
    ready_teacher_decoder(places, load_teacher, settings.language_model, settings.cache)
    learnt = settings.distill.teacher_layers
    params = settled(places, settings.cache, learnt)
    logger.info(
        "%s", describe_layers(settings.cache, expected_namespace(places, params).hidden, learnt)
    )
    before = spent_by(places.teacher)
    report = fill_cache(places, load_teacher, params, read_report(path))
    cost = cost_since(places.teacher, before)
    path.parent.mkdir(exist_ok=True)
    write_json(path, {**report.to_json(), **({} if cost is None else {"service": asdict(cost)})})
    for line in [*describe(report), *([] if cost is None else [str(cost)])]:
        logger.info("%s", line)
    filled, data = TeacherCache.open_current(places.cache), PreparedData.open(places.data)
    for line in audit_before_training(filled, data, places.teacher, load_teacher, params):
        logger.info("%s", line)


def main() -> None:
    """Run the stage in the current folder."""
    run_stage(cache, Path.cwd())


if __name__ == "__main__":
    main()
