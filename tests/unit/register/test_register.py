"""What goes to MLflow under which names; the whole is run in tests/pipeline/test_flow.py."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distillery.data.units import Unit
from distillery.distill.filtering import ConfidenceCounts, FilterReport
from distillery.evaluate.records import Estimate
from distillery.evaluate.summary import Summary
from distillery.language_model.settings import SearchSettings, Tuned
from distillery.params.whole import Params
from distillery.prepare.profile import Leaks, ProfileBuilder, Repeated, write_profile
from distillery.register import descriptions
from distillery.register.gate.verdict import Verdict
from distillery.register.metrics import (
    data_leaks,
    filter_metrics,
    model_metrics,
    search_metrics,
    teacher_metrics,
)
from distillery.register.pipeline_results import PipelineResults
from distillery.register.register import _candidates
from distillery.register.runs import child_name, model_params
from tests.tiny import tiny_params

FILTER = FilterReport(
    num_hypotheses=40,
    num_kept=30,
    dropped={"low_confidence": 7, "word_errors": 3},
    hours=0.5,
    hours_kept=0.4,
    confidence=ConfidenceCounts(edges=[0, 1], kept=[30], dropped=[10]),
)
LINEAGE = {
    "git.commit": "0123456789abcdef",
    "git.dirty": "true",
    "dvc.data.md5": "1a2b3c4d5e6f",
    "dvc.teacher.md5": "2b3c4d5e6f1a",
    "cache.manifest_sha256": "3c4d5e6f1a2b",
}


def figures(wer: float, valid_wer: float, sd: float | None = None) -> dict[str, Any]:
    """Return the figures of a model, all rates around one."""
    ends = {"wer": wer, "wer_sd": sd, "wer_low": wer - 0.1, "wer_high": wer + 0.1}
    return {
        **ends,
        **{name.replace("wer", "cer"): value for name, value in ends.items()},
        "substitutions": 3,
        "deletions": 2,
        "insertions": 1,
        "words": 10,
        "empty_fraction": 0.25,
        "valid_wer": valid_wer,
        "real_time_factor": 0.01,
        "parameters": 1000,
        "bytes": 4000,
        "device": "ACME 9000, 1 thread",
    }


def seeded(role: str, *, best_seed: int, **by_seed: tuple[float, float]) -> dict[str, Any]:
    """Return a model of two seeds as JSON holds it, `s3=(WER, validation WER)`."""
    base = {"role": role, "name": "conv"}
    return {
        **base,
        "model": f"{role}s/conv",
        **figures(0.5, 0.5, 0.07),
        "best_seed": best_seed,
        "by_seed": [
            {
                **base,
                "model": f"{role}s/conv/seed-{name[1:]}",
                "seed": int(name[1:]),
                **figures(*wers),
            }
            for name, wers in by_seed.items()
        ],
    }


CONTENT: dict[str, Any] = {
    "confidence": 0.95,
    "seeds": [0, 3],
    "data": {"utterances": 4, "words": 10, "hours": 0.1, "speakers": 2},
    "models": [
        {"model": "teacher", "role": "teacher", "name": "teacher", **figures(0.2, 0.2)},
        seeded("student", best_seed=3, s0=(0.4, 0.6), s3=(0.6, 0.4)),
    ],
    "comparisons": {
        "conv": {
            "excess_wer": 0.3,
            "excess_wer_sd": 0.01,
            "excess_wer_low": 0.2,
            "excess_wer_high": 0.4,
            "gain_significant": True,
            "gain_wer": 0.1,
            "gain_wer_sd": 0.02,
            "gain_wer_low": 0.05,
            "gain_wer_high": 0.15,
            "gap_closed": 0.5,
            "gap_closed_sd": None,
            "verdict": "it gained",
            "by_seed": [
                {
                    "seed": seed,
                    "gain_wer": gain,
                    "gain_wer_sd": None,
                    "gain_wer_low": gain - 0.1,
                    "gain_wer_high": gain + 0.1,
                    "gap_closed": None,
                }
                for seed, gain in ((0, 0.125), (3, 0.0625))
            ],
        }
    },
    "filters": {"conv": FILTER},
    "language_models": {
        "students/conv/seed-3": {
            "weight": 0.5,
            "word_score": 1.0,
            "beam_size": 20,
            "beam_threshold": 10.0,
            "valid_wer": 0.1,
            "valid_wer_greedy": 0.2,
        }
    },
    "exports": {
        "conv": {
            "seed": 3,
            "formats": {
                name: {
                    **figures(wer, 0.0),
                    "max_log_prob_difference": change,
                    "same_texts_fraction": 0.9,
                }
                for name, wer, change in (("onnx", 0.6, 1e-5), ("onnx-int8", 0.65, 0.5))
            },
        }
    },
}
SUMMARY = Summary.model_validate(CONTENT)
STUDENT = SUMMARY.students["conv"]


def results_of(
    root: Path,
    params: Params,
    outputs: Mapping[str, str] = {},
    summary: Summary = SUMMARY,
) -> PipelineResults:
    """Return what a pipeline run left, with these settings and hashes."""
    return PipelineResults(root, params, summary, outputs, LINEAGE, [])


def test_the_registered_seed_has_the_figures_of_its_exported_forms() -> None:
    wanted = {"onnx/wer": 0.6, "onnx-int8/wer": 0.65, "onnx-int8/max_log_prob_difference": 0.5}
    other, registered = (model_metrics(run, SUMMARY) for run in STUDENT.by_seed)
    assert wanted.items() <= registered.items()
    assert wanted.items() <= model_metrics(STUDENT, SUMMARY).items()
    assert not wanted.keys() & other.keys()


def test_a_student_over_its_seeds_has_mean_spread_and_filter() -> None:
    metrics = model_metrics(STUDENT, SUMMARY)
    expected = {
        "gain/wer": 0.1,
        "gain/sd": 0.02,
        "gain/low": 0.05,
        "gain/high": 0.15,
        "gap_closed": 0.5,
        "test/wer": 0.5,
        "test/wer_sd": 0.07,
        "filter/kept": 30,
    }
    assert expected.items() <= metrics.items()
    assert "gap_closed_sd" not in metrics  # there is none: MLflow holds numbers alone


def test_one_seed_has_its_own_gain_and_no_spread() -> None:
    metrics = model_metrics(STUDENT.by_seed[1], SUMMARY)
    assert (metrics["test/wer"], metrics["gain/wer"]) == (0.6, 0.0625)
    assert not {"gap_closed", "gain/sd", "test/wer_sd"} & metrics.keys()


def test_what_the_filter_did_are_metrics_by_reason() -> None:
    assert filter_metrics(FILTER) == {
        "filter/kept": 30,
        "filter/dropped/low_confidence": 7,
        "filter/dropped/word_errors": 3,
        "filter/hours": 0.5,
        "filter/hours_kept": 0.4,
    }
    assert filter_metrics(None) == {}


def test_the_seed_that_is_registered_is_the_best_on_the_validation_split() -> None:
    params = Params.model_validate(tiny_params(distill={"seeds": [0, 3]}))
    outputs = {f"models/students/conv/seed-{seed}": f"md5-{seed}" for seed in (0, 3)}
    runs = {f"students/conv/seed-{seed}": f"run-{seed}" for seed in (0, 3)}
    results = results_of(Path("root"), params, outputs)
    (candidate,) = _candidates(results, runs, "digest")
    assert (candidate.seed, candidate.md5, candidate.run) == (3, "md5-3", "run-3")
    assert candidate.folder == Path("root/models/students/conv/seed-3")
    assert (candidate.test_wer, candidate.valid_wer) == (0.6, 0.4)
    means = {"test.wer_mean": "0.5", "test.wer_sd": "0.07"}
    assert candidate.tags == {**LINEAGE, **means, "unit": "word"}
    assert "from seed 3, the best on the validation split of 2 seeds" in candidate.description


def test_a_run_is_named_and_described_by_its_own_seed() -> None:
    params = Params.model_validate(tiny_params(distill={"seeds": [0, 3]}))
    name = child_name(params, "students/conv/seed-3", "0123456789")
    assert name == "conv@012345-T2-teachertexts-share0.5-seed3"
    assert child_name(params, "controls/conv/seed-0") == "conv-control-seed0"
    settings = model_params(params, STUDENT.by_seed[1], {"data": {"md5": "012345"}})
    wanted = {
        "training.seed": "3",
        "objective.name": "T2-teachertexts-share0.5",
        "data.md5": "012345",
    }
    assert wanted.items() <= settings.items()


def test_a_single_seed_is_not_part_of_the_name() -> None:
    params = Params.model_validate(tiny_params(distill={"seeds": [3]}))
    assert (
        child_name(params, "students/conv/seed-3", "0123456789")
        == "conv@012345-T2-teachertexts-share0.5"
    )


def test_key_figures_are_the_first_metrics_of_every_model_by_name() -> None:
    values = {"test/wer_lm": 0.25, "lm/weight": 0.5, "lm/word_score": 1.0}
    with_lm = Estimate(value=values["test/wer_lm"], sd=None, low=0.2, high=0.3)
    student = STUDENT.by_seed[1].model_copy(update={"wer_lm": with_lm})
    metrics = model_metrics(student, SUMMARY)
    wanted = {
        "asr/WER_percent": 60.0,
        "asr/WER_with_lm_percent": 25.0,
        "asr/gain_points": 6.25,
        "asr/rtfx": 100.0,
        "asr/size_mb": 0.004,
    }
    assert {name: metrics[name] for name in wanted} == pytest.approx(wanted)
    assert sorted(metrics)[: len(wanted)] == sorted(wanted)  # as MLflow's charts are sorted
    assert next(iter(sorted(wanted))) == "asr/WER_percent"
    assert values.items() <= metrics.items()


def test_the_weights_of_a_search_are_those_of_the_registered_seed() -> None:
    assert search_metrics(STUDENT, SUMMARY)["lm/weight"] == 0.5
    assert search_metrics(STUDENT.by_seed[0], SUMMARY) == {}


def test_the_pipeline_bears_the_teachers_figures_and_weights(tmp_path: Path) -> None:
    params = Params.model_validate(tiny_params())
    results = results_of(tmp_path, params)
    metrics = teacher_metrics(results)
    assert (metrics["teacher/wer"], metrics["teacher/bytes"]) == (0.2, 4000)
    assert all(name.startswith("teacher/") for name in metrics)
    assert "teacher/lm/weight" not in metrics
    folder = tmp_path / "data/teacher_cache/decoder"
    folder.mkdir(parents=True)
    Tuned(SearchSettings(0.75, 2.0, 20, 10.0), 0.1, 0.2).save(folder)
    assert {
        "teacher/lm/weight": 0.75,
        "teacher/lm/word_score": 2.0,
        "teacher/lm/valid_wer": 0.1,
        "teacher/lm/valid_wer_greedy": 0.2,
    }.items() <= teacher_metrics(results).items()


def test_descriptions_and_tags_name_the_unit() -> None:
    data = SUMMARY.data.model_copy(update={"unit": Unit.CHARACTER})
    params = Params.model_validate(tiny_params(distill={"seeds": [0, 3]}))
    outputs = {f"models/students/conv/seed-{seed}": f"md5-{seed}" for seed in (0, 3)}
    results = replace(
        results_of(Path("root"), params, outputs), summary=SUMMARY.model_copy(update={"data": data})
    )
    runs = {f"students/conv/seed-{seed}": f"run-{seed}" for seed in (0, 3)}
    (candidate,) = _candidates(results, runs, "digest")
    assert candidate.tags["unit"] == "character"
    for text in (
        candidate.description,
        descriptions.of_model(STUDENT.by_seed[1], results),
        descriptions.outcome(results, "conv", 3, Verdict("1", "champion", "why")),
    ):
        assert "CER" in text and "WER" not in text


def test_the_pipeline_says_how_much_of_the_test_split_was_trained_on(tmp_path: Path) -> None:
    results = results_of(tmp_path, Params.model_validate(tiny_params()))
    assert data_leaks(results) == ({}, {})
    folder = tmp_path / "data/prepared"
    folder.mkdir(parents=True)
    leaks = Leaks({"test": Repeated(8, 3)}, {"test": 2, "valid": 0}, 1)
    write_profile(folder, ProfileBuilder().profile(leaks))
    assert data_leaks(results) == (
        {
            "data/test_sentences_in_train": 3 / 8,
            "data/copies_of_test_dropped": 2.0,
            "data/copies_of_valid_dropped": 0.0,
            "data/respelt_speakers": 1.0,
        },
        {"data.test_sentences_in_train": "3 of 8"},
    )
    write_profile(folder, ProfileBuilder().profile())
    assert data_leaks(results) == ({}, {})
