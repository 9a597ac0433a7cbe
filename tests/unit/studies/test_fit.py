"""Which students can learn what from which teacher."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from distillery.params.whole import Params
from distillery.studies.fit import TeacherFacts, fit_of, pilot_cache, pilot_settings
from tests.tiny import tiny_params

FACTS = TeacherFacts(5, True, True, 0.04, {"last": 48}, {"type": "conv_bilstm"})
TEXTS_ALONE = replace(FACTS, gives_frames=False, frame_shift_seconds=0.0, layers={})
ALL_TERMS = {"frame": {"weight": 1.0}, "hidden": {"layers": {"last": "last"}}}


def settings(
    objective: dict[str, Any] | None = None, student: dict[str, Any] | None = None, **distill: Any
) -> Params:
    params = tiny_params()
    params["cache"]["payload"] = {"hidden_layers": ["last"]}
    params["distill"] |= {"objective": ALL_TERMS if objective is None else objective, **distill}
    params["distill"]["students"]["conv"] |= student or {}
    params["teacher_candidates"] = {"pilot": {"num_epochs": 2, "seeds": [1, 2]}}
    return Params.model_validate(params)


def test_a_teacher_of_equal_frames_teaches_all_terms() -> None:
    fit = fit_of(FACTS, settings(), "conv")
    assert not fit.problems
    assert fit.objective == settings().distill.objective
    assert fit.works == "frame, sequence, hidden"


@pytest.mark.parametrize(
    ("facts", "what", "why", "works"),
    [
        (TEXTS_ALONE, {"frame", "hidden"}, "it gives texts", "sequence"),
        (replace(FACTS, layers={}), {"hidden"}, "no layer last, only none", "frame, sequence"),
        (
            replace(FACTS, frame_shift_seconds=0.03),
            {"frame", "hidden"},
            "one frame per 40 ms is no whole multiple of the teacher's 30 ms",
            "sequence",
        ),
        (
            replace(FACTS, frame_shift_seconds=0.08),  # slower than the student
            {"frame", "hidden"},
            "one frame per 40 ms is no whole multiple of the teacher's 80 ms",
            "sequence",
        ),
        (
            replace(FACTS, num_tokens=500, frame_shift_seconds=0.02),
            {"frame"},
            "a sparse cache needs equal frame rates",
            "sequence, hidden",
        ),
        (replace(FACTS, gives_frames=False), {"frame"}, "it gives texts", "sequence, hidden"),
    ],
)
def test_what_cannot_work_is_told_and_left_out(
    facts: TeacherFacts, what: set[str], why: str, works: str
) -> None:
    fit = fit_of(facts, settings(), "conv")
    assert set(fit.problems) == what
    assert why in " ".join(fit.problems.values())
    assert fit.works == works


def test_half_the_teachers_rate_is_a_whole_multiple() -> None:
    assert not fit_of(replace(FACTS, frame_shift_seconds=0.02), settings(), "conv").problems


def test_sequence_takes_the_place_of_frames_that_stood_alone() -> None:
    alone = settings({"frame": {"weight": 1.0}, "sequence": {"weight": 0.0}})
    fit = fit_of(TEXTS_ALONE, alone, "conv")
    assert (set(fit.problems), fit.works) == ({"frame"}, "sequence")


def test_a_mean_squared_error_reads_all_tokens() -> None:
    wanted = settings({"frame": {"type": "logit_mse"}})
    fit = fit_of(replace(FACTS, num_tokens=500), wanted, "conv")
    assert fit.problems == {
        "frame": "logit_mse reads all 500 tokens, and a sparse cache keeps the likeliest"
    }


def test_layers_of_another_architecture_start_no_student() -> None:
    same = {"type": "conv_bilstm", "conv_channels": 4, "hidden_size": 24, "num_layers": 1}
    wanted = settings(student={"architecture": same, "init": "teacher"})
    assert not fit_of(FACTS, wanted, "conv").problems
    other = replace(FACTS, architecture={"type": "conformer"})
    fit = fit_of(other, wanted, "conv")
    assert fit.problems == {"init": "the student is a conv_bilstm, the teacher a conformer"}
    assert pilot_settings(wanted, fit).students["conv"].init is None


def test_a_pilot_is_short_and_of_one_generation() -> None:
    wanted = settings(generations=3, control=False)
    pilot = pilot_settings(wanted, fit_of(FACTS, wanted, "conv"))
    assert (pilot.generations, pilot.control, pilot.seeds) == (1, True, (1, 2))
    assert pilot.training.num_epochs == 2
    assert pilot.training.learning_rate == wanted.distill.training.learning_rate
    assert pilot.objective_of("conv").uses_frames


def test_crops_end_where_texts_alone_are_learnt() -> None:
    wanted = settings(augmentation={"crop": {}, "gain": {}})
    fit = fit_of(TEXTS_ALONE, wanted, "conv")
    assert "crop" in fit.problems
    augmentation = pilot_settings(wanted, fit).augmentation
    assert augmentation.crop is None and augmentation.gain is not None
    assert "crop" not in fit_of(FACTS, wanted, "conv").problems


def test_the_pilots_cache_keeps_the_layers_that_are_learnt() -> None:
    wanted = settings()
    for facts, layers in ((FACTS, ("last",)), (TEXTS_ALONE, ())):
        cache = pilot_cache(wanted.cache, fit_of(facts, wanted, "conv"))
        assert cache.payload.hidden_layers == layers
