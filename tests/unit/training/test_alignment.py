import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from distillery.architectures.known import STUDENTS
from distillery.data.features import LogMel
from distillery.data.text import Vocabulary
from distillery.errors import CorpusError, DistilleryError
from distillery.params.models import FeatureParams, SeparableConvParams
from distillery.params.training import TrainingParams
from distillery.training.alignment import FeatureClock, FixedClock, Texts, check_alignable
from tasks.distill import distill
from tasks.teacher import teacher
from tests.tiny import tiny_params, write_params
from tests.tiny_workspaces import put_cache, put_tones

RATE_HZ = 8000
VOCABULARY = Vocabulary.from_alphabet("abc")
COARSE = {"num_mels": 16, "hop_seconds": 0.06}


def texts_of(*items: tuple[str, float], what: str = "transcripts") -> Texts:
    texts = [text for text, _ in items]
    rows = pd.DataFrame(
        {
            "utterance_id": [f"u{index}" for index in range(len(items))],
            "duration_seconds": [seconds for _, seconds in items],
        }
    )
    return Texts.of(what, rows, texts, VOCABULARY, RATE_HZ)


def clock(hop_seconds: float, reduction: int = 4, multiple_of: float | None = None) -> FeatureClock:
    features = FeatureParams(num_mels=16, hop_seconds=hop_seconds)
    return FeatureClock(features, RATE_HZ, reduction, "distill.features", multiple_of)


def check(texts: Texts, frames: FeatureClock | FixedClock, max_fraction: float = 0.1) -> None:
    check_alignable("student conv", [texts], frames, max_fraction, "some.setting")


@pytest.mark.parametrize("reduction", [2, 4])
@pytest.mark.parametrize("hop", [0.01, 0.0125, 0.06])
def test_frames_are_counted_as_the_networks_count_them(hop: float, reduction: int) -> None:
    params = SeparableConvParams(
        type="separable_conv", channels=8, num_blocks=1, time_reduction=reduction
    )
    network = STUDENTS["separable_conv"](params, 16, 5)
    extractor = LogMel(FeatureParams(num_mels=16, hop_seconds=hop), RATE_HZ)
    num_samples = np.array([1, 79, 80, 4000, 12345])
    frames = torch.from_numpy(extractor.num_frames(num_samples))
    expected = network.num_output_frames(frames).tolist()
    assert clock(hop, reduction).num_frames(num_samples).tolist() == expected


def test_equal_neighbours_need_a_frame_more() -> None:
    assert texts_of(("abc", 1), ("aab", 1), ("aaa", 1), ("a a", 1), ("", 1)).needed.tolist() == [
        3,
        4,
        5,
        3,
        0,
    ]


def test_too_many_stop_with_numbers_and_a_hop_that_would_do() -> None:
    texts = texts_of(("abcab", 0.3), ("ab", 0.3), ("abc cab", 0.5), ("a", 1.0))
    with pytest.raises(CorpusError) as caught:
        check(texts, clock(0.06))
    said = str(caught.value)
    assert "student conv: 2 of 4 transcripts (50.0%)" in said
    assert "one per 240 ms (hop_seconds 0.06 x time_reduction 4)" in said
    assert "'u2' has 3, 'abc cab' needs 7" in said
    assert "at most 10% (some.setting)" in said
    hops = [float(part.split()[0]) for part in said.split("hop_seconds ")[2:]]
    for hop, reduction in zip(hops, (2, 4), strict=True):
        check(texts, clock(hop, reduction))
        assert hop <= FeatureParams().window_seconds


def test_a_hop_that_is_named_fits_the_teacher() -> None:
    texts = texts_of(*[("abcab", 0.3)] * 3)
    with pytest.raises(CorpusError, match=r"hop_seconds 0.02 with time_reduction 2 or .* 0.01 w"):
        check(texts, clock(0.06, 4, multiple_of=0.04))
    with pytest.raises(CorpusError, match=r"give the teacher a smaller hop_seconds"):
        check(texts, clock(0.06, 4, multiple_of=0.12))


def test_texts_that_no_hop_can_align_are_said_so() -> None:
    texts = texts_of(*[("a" * 30, 0.001)] * 3)
    with pytest.raises(CorpusError, match="no hop_seconds would do: the texts do not belong"):
        check(texts, clock(0.01))


def test_a_few_are_said_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    items = [("abc cab", 0.5), *[("a", 1.0)] * 9]
    check(texts_of(*items), clock(0.06))
    assert caplog.messages == [
        "warning: student conv: 1 of 10 transcripts (10.0%) need more frames than it has, one per "
        "240 ms (hop_seconds 0.06 x time_reduction 4); they are left out of CTC. 'u0' has 3, "
        "'abc cab' needs 7: one for each token, and one between equal neighbours"
    ]


def test_nothing_is_said_where_all_can_be_aligned(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    check(texts_of(("abc", 1.0)), clock(0.01))
    check(texts_of(), clock(0.01))
    assert not caplog.messages


def test_where_nothing_is_left_no_share_lets_it_pass() -> None:
    with pytest.raises(CorpusError, match=r"2 of 2 .*100.0%"):
        check(texts_of(*[("abc cab", 0.5)] * 2), clock(0.06), max_fraction=1.0)


def test_a_published_model_has_the_frames_that_it_has() -> None:
    frames = FixedClock(RATE_HZ, 0.02)
    assert frames.num_frames(np.array([1, 160, 319, 320])).tolist() == [1, 1, 1, 2]
    with pytest.raises(CorpusError, match=r"prepare.ctc_frame_shift_seconds 0.02"):
        check(texts_of(*[("abc cab", 0.1)] * 2), frames)


def coarse(root: Path, **training: float) -> None:
    """Let students hear a frame every 240 ms, in which letters of 120 ms do not find room."""
    settings = {**tiny_params()["distill"]["training"], **training}
    write_params(root, tiny_params(distill={"features": COARSE, "training": settings}))


def test_a_student_whose_frames_are_too_few_stops_before_its_first_step(tmp_path: Path) -> None:
    root = put_cache(tmp_path)
    coarse(root)
    with pytest.raises(
        DistilleryError, match=r"\d+ of 24 transcripts .*distill.features.hop_seconds 0.02 w"
    ):
        distill(root, "conv", 0)
    assert not list((root / "scratch").glob("*.pt"))
    assert not (root / "models/students").exists()


def test_student_and_control_train_on_what_is_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    root = put_cache(tmp_path)
    coarse(root, max_unalignable_fraction=0.99)
    distill(root, "conv", 0)
    for who in ("control", "student"):
        (line,) = [line for line in caplog.messages if line.startswith(f"warning: {who} conv: ")]
        assert "of 24 transcripts" in line and "left out of CTC" in line


def test_a_copy_at_another_speed_is_counted_with_its_own_frames(tmp_path: Path) -> None:
    """A letter lasts 120 ms, and half as long at twice the speed; two of three texts then fail."""
    root = put_tones(tmp_path)
    features = {"num_mels": 16, "hop_seconds": 0.03}
    write_params(root, tiny_params(teacher={"features": features, "speed_factors": [2.0]}))
    with pytest.raises(CorpusError, match=r"teacher: \d of 8 transcripts .*@2' has .*"):
        teacher(root)
    assert not list((root / "scratch").glob("teacher-*.pt"))


def test_the_share_is_in_no_checkpoints_name() -> None:
    """It changes no weight, and checkpoints of before it stay valid."""
    plain, generous = TrainingParams(), TrainingParams(max_unalignable_fraction=0.9)
    assert plain.model_dump() == generous.model_dump()
