"""What is looked at in prepared data before hours of training.

Whether they moved away from the champion's, and whether teacher and students have frames enough for
the transcripts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from distillery.data.copies import with_copies
from distillery.data.manifest import PreparedData
from distillery.data.workspace import PREPARED
from distillery.distill.needs import check_transcripts
from distillery.errors import TrackingError
from distillery.params.models import SubwordTokens
from distillery.params.register import RegisterParams
from distillery.params.teacher import TrainedTeacherParams
from distillery.params.whole import Params
from distillery.register.drift import drift_from_champion
from distillery.tracking.store import DATABASE_FILE, Tracking
from distillery.training.alignment import (
    STUDENTS_LIMIT,
    Texts,
    check_alignable,
    check_teacher,
    student_clock,
    teacher_clock,
)


def check_frames(root: Path, settings: Params) -> None:
    """Refuse teachers and students that have too few frames for too many transcripts.

    Each training looks again, at the teacher's texts as well; but a student's comes after the
    teacher's, which takes hours.

    Args:
        root: the workspace, with prepared data.
        settings: the whole of params.yaml.

    Raises:
        CorpusError: one has, and the message names the hop_seconds that would do; or there are no
            transcripts for what needs some.
    """
    data = PreparedData.open(root / PREPARED)
    check_transcripts(
        data,
        settings.teacher,
        settings.distill,
        settings.language_model,
        decoder=settings.register.decoder,
    )
    rate, vocabulary = data.sample_rate_hz, data.vocabulary
    rows, teacher, distill = data.split("train"), settings.teacher, settings.distill
    shift = None
    if isinstance(teacher, TrainedTeacherParams):
        clock = teacher_clock(teacher, rate)
        shift = clock.shift_seconds
        texts = Texts.transcripts(with_copies(rows, teacher.speed_factors, rate), vocabulary, rate)
        check_teacher(texts, clock, teacher.training, warn=False)
    texts = Texts.transcripts(
        with_copies(
            rows, [*settings.cache.speed_factors, *distill.augmentation.speed_factors], rate
        ),
        vocabulary,
        rate,
    )
    for name, student in distill.students.items():
        if isinstance(student.tokens, SubwordTokens):
            continue  # which are learnt from the teacher's texts, too; training looks
        learns = distill.objective_of(name).uses_transcripts
        if learns or distill.trains_control(int(rows["text"].notna().sum())):
            check_alignable(
                f"{'student' if learns else 'control'} {name}",
                [texts],
                student_clock(distill, name, rate, shift),
                distill.training.max_unalignable_fraction,
                STUDENTS_LIMIT,
                warn=False,
            )


def warn_of_moved_data(root: Path, settings: RegisterParams, warn: Callable[[str], object]) -> None:
    """Say what moved since the champion was trained; `register` says it again, and logs it.

    Args:
        root: the workspace, with prepared data.
        settings: where the registry is; one that cannot be reached is said, and is no error.
        warn: takes each sentence.
    """
    if settings.tracking_uri is None and not (root / DATABASE_FILE).exists():
        return  # nothing was registered here yet
    try:
        tracking = Tracking(settings, root)
        with tracking.explained():
            drift = drift_from_champion(tracking, settings.model_name, root)
    except TrackingError as error:
        warn(f"the data were not compared with the champion's: {error}")
        return
    for line in drift.warnings:
        warn(line)
