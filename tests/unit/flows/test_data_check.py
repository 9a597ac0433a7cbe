"""What is found in prepared data before a teacher is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distillery.errors import CorpusError
from distillery.params.whole import Params
from flows.data_check import check_frames
from tests.tiny import tiny_params
from tests.tiny_workspaces import put_tones

COARSE = {"num_mels": 16, "hop_seconds": 0.06}
"""A frame every 240 ms; letters last 120."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with prepared recordings, and nothing else."""
    return put_tones(tmp_path_factory.mktemp("workspace"))


def look(root: Path, **changes: Any) -> None:
    check_frames(root, Params.model_validate(tiny_params(**changes)))


def test_frames_enough_are_no_matter(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    look(root)
    assert not caplog.messages


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"teacher": {"features": COARSE}, "distill": {"features": COARSE}},
            r"^teacher: .* teacher.features.hop_seconds 0",
        ),
        ({"distill": {"features": COARSE}}, r"^student conv: .* distill.features.hop_seconds 0"),
        (
            {
                "cache": {"speed_factors": [2.0]},
                "distill": {"features": {"num_mels": 16, "hop_seconds": 0.03}},
            },
            r"^student conv: \d of 8 transcripts .*@2' has",
        ),
        (
            {"distill": {"features": COARSE, "objective": {"teacher_share": 1.0}}},
            r"^control conv: ",
        ),
    ],
    ids=["teacher", "student", "speed copies", "control alone"],
)
def test_a_student_is_looked_at_before_its_teacher_is_trained(
    root: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(CorpusError, match=words):
        look(root, **changes)


def test_who_learns_no_transcripts_needs_no_frames_for_them(root: Path) -> None:
    distill = {"features": COARSE, "objective": {"teacher_share": 1.0}, "control": False}
    look(root, distill=distill)


def test_a_share_that_is_allowed_is_left_to_the_training_to_say(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training = {**tiny_params()["distill"]["training"], "max_unalignable_fraction": 0.9}
    look(root, distill={"features": COARSE, "training": training})
    assert not caplog.messages
