"""A teacher pass on a Dask cluster, by a driver that may be put on any host.

python -m tests.pipeline.far_pass WORKSPACE CACHE ADDRESS    writes its report to CACHE/report.json
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from distillery.files import write_json
from distillery.models.base import Teacher
from distillery.params.cache import CacheParams
from distillery.teacher_cache.filling.expected import Places
from distillery.teacher_cache.filling.fill import fill_cache
from distillery.teachers.kinds import load_teacher

SECONDS = "SECONDS_PER_BATCH"
"""Environment variable of a worker: how much slower than it is its teacher shall be."""
SMALL = {
    "batch_seconds": 0.1,  # each utterance alone
    "shard_seconds": 1.0,
    "num_threads": 1,
    "device": "cpu",
    "audit_utterances": 0,
}


def load_slow_teacher(folder: Path, device: str) -> Teacher:
    """Load a teacher that takes its time, so that something can happen meanwhile."""
    teacher = load_teacher(folder, device)
    forward = teacher.forward

    def slowly(*arguments: Any) -> Any:
        time.sleep(float(os.environ[SECONDS]))
        return forward(*arguments)

    teacher.forward = slowly  # type: ignore[method-assign]
    return teacher


def main(root: str, cache: str, address: str) -> None:
    """Run the pass."""
    places = replace(Places.in_workspace(Path(root)), cache=Path(cache))
    params = CacheParams.model_validate({**SMALL, "workers": address})
    report = fill_cache(places, load_slow_teacher, params)
    write_json(Path(cache) / "report.json", report.to_json())


if __name__ == "__main__":
    from tests.pipeline import far_pass  # workers know its functions by that name

    far_pass.main(*sys.argv[1:])
