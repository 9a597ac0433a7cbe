"""An ensemble made ready: each member by its own kind's function, then joined."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from distillery.data.manifest import PreparedData
from distillery.models.base import Teacher
from distillery.params.base import MEMBERS
from distillery.params.teacher import EnsembleTeacherParams
from distillery.teachers.base import GetTeacher, ReadyTeacher, Workplace
from distillery.teachers.ensemble import Ensemble
from distillery.training.points import Point, read_points
from distillery.training.validation import validation_wer

logger = logging.getLogger(__name__)


def join_teachers(
    params: EnsembleTeacherParams, place: Workplace, take: GetTeacher
) -> ReadyTeacher:
    """Get every member ready by its own kind's function, one after the other, and join them.

    A member that is trained goes on where a killed run stopped; those before it are complete in
    their checkpoints.

    Args:
        params: the members and how they are combined.
        place: where they are made; each has its own registered model and prefix in the curves.
        take: gets a teacher of any kind ready.

    Raises:
        ModelError: posteriors are to be averaged and cannot be.
    """
    ready, points = [], list[Point]()
    for number, member in enumerate(params.members):
        own = replace(
            place,
            registered=place.registered / MEMBERS / str(number),
            earlier=points,
            prefix=f"{MEMBERS}/{number}/",
        )
        place.curves.unlink(missing_ok=True)
        found = take(member, own)
        wer = None
        if not place.data.lacks_truth("valid"):  # else nothing says what is spoken
            wer = validation_wer(found.teacher, place.data)
            logger.info(
                "teacher: member %d, %s, validation %s %.2f %%",
                number,
                member.kind,
                place.data.unit_of("valid").rate,
                100 * wer,
            )
        if found.checkpoint is None:
            now = int(time.time() * 1000)
            known = [] if wer is None else [Point(f"{own.prefix}valid/wer", wer, 0, now)]
            points = [*points, *known]
        else:
            points = read_points(place.curves)
        ready.append(found)
    teacher = choose_way([item.teacher for item in ready], params, place.data)
    logger.info("teacher: %d members, combined by %s", len(ready), teacher.way)
    checkpoints = [item.checkpoint for item in ready if item.checkpoint is not None]
    sources_of = [item.source for item in ready]
    return ReadyTeacher(
        teacher,
        source={MEMBERS: sources_of} if any(sources_of) else None,
        leftovers=checkpoints,
        points=points,
    )


def choose_way(
    members: Sequence[Teacher], params: EnsembleTeacherParams, data: PreparedData
) -> Ensemble:
    """Return the members joined as the settings say.

    For `auto`, posteriors are averaged if they can be and the validation WER of that is no higher
    than ROVER's. It often is: members that place tokens in other frames average to blanks. Where
    validation says nothing of what is spoken, it is ROVER's.

    Args:
        members: ready for use.
        params: how they are combined.
        data: whose validation split decides.

    Raises:
        ModelError: posteriors are to be averaged and cannot be.
    """

    def joined(combine: str) -> Ensemble:
        return Ensemble(
            members,
            combine=combine,
            weights=params.weights or (1.0,) * len(members),
            count_share=params.count_share,
            vocabulary=data.vocabulary,
            unit=data.unit,
        )

    if params.combine != "auto":
        return joined(params.combine)
    averaged, voted = joined("auto"), joined("rover")
    if averaged.way == voted.way:
        return voted
    if data.lacks_truth("valid"):
        return voted
    wers = [validation_wer(teacher, data) for teacher in (averaged, voted)]
    logger.info(
        "teacher: validation %s of averaged posteriors %.2f %%, of the vote on texts %.2f %%",
        data.unit_of("valid").rate,
        *(100 * wer for wer in wers),
    )
    return averaged if wers[0] <= wers[1] else voted
