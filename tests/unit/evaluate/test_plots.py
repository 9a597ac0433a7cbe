from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from distillery.data.units import Unit
from distillery.distill.filtering import ConfidenceCounts, FilterReport
from distillery.evaluate import plots
from distillery.evaluate.comparison import Comparison
from distillery.evaluate.curves import CurvePoint
from distillery.evaluate.rates import Rates
from distillery.evaluate.records import Estimate
from distillery.evaluate.summary import ModelRow, SeedRow, TestData
from distillery.studies import plots as study_plots
from distillery.studies.curve_results import CurveFigures, CurveResults, SeedFigures, ShareResult
from distillery.studies.data_curve import Amount
from distillery.studies.plots import plot_data_curve, plot_teachers
from distillery.studies.teacher_choice import CandidateRow, PilotRow, PilotSettings, TeacherChoice


def model(role: str, name: str, parameters: int, wer: float, factor: float) -> ModelRow:
    keys = {"teacher": "teacher", "student": f"students/{name}", "control": f"controls/{name}"}
    rate = Estimate(value=wer, sd=None, low=wer - 0.02, high=wer + 0.05)
    return ModelRow(
        model=keys[role],
        role=role,
        name=name,
        parameters=parameters,
        wer=rate,
        cer=rate,
        substitutions=12,
        deletions=5,
        insertions=3,
        words=50,
        empty_fraction=0.0,
        bytes=4 * parameters,
        valid_wer=None,
        real_time_factor=factor,
        device="ACME 9000, 1 thread",
    )


def of_seed(row: ModelRow, seed: int, wer: float) -> SeedRow:
    rate = row.wer.model_copy(update={"value": wer})
    content = {**dict(row), "model": f"{row.model}/seed-{seed}", "seed": seed, "wer": rate}
    return SeedRow(**content)


ROWS = [
    model("teacher", "teacher", 3_500_000, 0.2, 0.03),
    model("control", "conv", 150_000, 0.5, 0.002),
    model("student", "conv", 150_000, 0.4, 0.0021),
    model("student", "crnn", 280_000, 0.3, 0.004),
]
CURVES = {
    row.model: [
        CurvePoint("train/loss", 3.0, 10),
        CurvePoint("valid/wer", 0.9, 10),
        CurvePoint("train/loss", 1.5, 20),
        CurvePoint("valid/wer", row.wer.value, 20),
    ]
    for row in ROWS
}
SPEAKERS = pd.DataFrame(
    [
        {"model": row.model, "speaker": name, "utterances": 7, "wer": row.wer.value * factor}
        for row in ROWS
        for name, factor in (("ann", 0.5), ("bob", 1.5))
    ]
)
SEEDED = [
    ROWS[0],
    *(
        row.model_copy(
            update={
                "by_seed": (
                    of_seed(row, 0, row.wer.value - 0.1),
                    of_seed(row, 1, row.wer.value + 0.1),
                )
            }
        )
        for row in ROWS[1:3]
    ),
]
SEEDED_CURVES = {
    "teacher": CURVES["teacher"],
    **{
        run.model: [CurvePoint("valid/wer", run.wer.value, 10)]
        for row in SEEDED[1:]
        for run in row.by_seed
    },
}
FILTER = FilterReport(
    num_hypotheses=40,
    num_kept=30,
    dropped={"low_confidence": 7, "repetition": 3},
    hours=0.5,
    hours_kept=0.4,
    confidence=ConfidenceCounts(
        edges=[number / 10 for number in range(11)],
        kept=[0, 0, 0, 0, 0, 0, 2, 8, 12, 8],
        dropped=[1, 1, 2, 1, 1, 1, 0, 0, 2, 1],
    ),
)


def rate(value: float, below: float, above: float) -> Estimate:
    return Estimate(value=value, sd=None, low=value - below, high=value + above)


def rates(wer: Estimate) -> Rates:
    counts = {"substitutions": 0, "deletions": 0, "insertions": 0, "words": 0}
    return Rates(wer=wer, cer=wer, empty_fraction=0.0, **counts)


def on_curve(name: str, hours: float, fraction: float, **wers: float) -> ShareResult:
    """Return one amount of data on a student's curve: two seeds, a tenth apart."""
    figures = {
        role: CurveFigures(
            rates(rate(wer, 0.02, 0.05)),
            (SeedFigures(0, 9, wer - 0.05), SeedFigures(1, 9, wer + 0.05)),
        )
        for role, wer in wers.items()
    }
    gain = Comparison(
        excess_wer=rate(0.1, 0.0, 0.0),
        gain_wer=None,
        gain_significant=False,
        gap_closed=None,
        gap_closed_sd=None,
        verdict="",
        by_seed=(),
    )
    amount = Amount(fraction, 10, hours, hours, 10)
    return ShareResult(name, amount, gain, figures["student"], figures.get("control"))


DATA_CURVE = CurveResults(
    confidence=0.95,
    seeds=(0, 1),
    data=TestData(utterances=8, words=17, hours=0.1, speakers=2),
    teacher=rates(Estimate(value=0.1, sd=None, low=0.08, high=0.13)),
    points=(
        on_curve("conv", 0.5, 0.25, control=0.8, student=0.6),
        on_curve("conv", 2.0, 1.0, control=0.4, student=0.3),
        on_curve("crnn", 0.5, 0.25, control=0.9, student=0.7),
        on_curve("crnn", 2.0, 1.0, control=0.5, student=0.2),
    ),
)


def tried(name: str, wer: float, gain: float) -> CandidateRow:
    """Return a candidate for the teacher, its figures a hundredth to each side."""
    pilot = PilotRow(
        learns="frame",
        student_wer=rate(wer, 0.01, 0.01),
        control_wer=rate(wer, 0.01, 0.01),
        gain_wer=rate(gain, 0.01, 0.01),
        verdict="",
    )
    return lost(name).model_copy(update={"wer": rate(wer, 0.01, 0.01), "pilot": pilot})


def lost(name: str) -> CandidateRow:
    """Return a candidate of which nothing is known."""
    unknown = dict.fromkeys(set(CandidateRow.model_fields) - {"wer", "pilot"})
    return CandidateRow(**{**unknown, "name": name, "kind": "trained", "fits": {}})


TEACHERS = TeacherChoice(
    confidence=0.95,
    data=TestData(utterances=8, words=17, hours=0.1, speakers=2),
    pilot=PilotSettings(student="conv", fraction=0.5, hours=1.0, num_epochs=2, seeds=(0,)),
    candidates=(tried("kind", 0.2, 0.1), tried("sharp", 0.1, 0.05), lost("lost")),
    lead=None,
    disagreement={"kind": {"kind": 0.0, "sharp": 0.3}, "sharp": {"kind": 0.3, "sharp": 0.0}},
)
DRAWINGS = {
    "teachers": lambda path: plot_teachers(TEACHERS, path),
    "learning_curves": lambda path: plots.plot_learning_curves(CURVES, ROWS, path),
    "wer_against_size": lambda path: plots.plot_wer_against_size(ROWS, 0.95, path),
    "wer_against_speed": lambda path: plots.plot_wer_against_speed(ROWS, 0.95, path),
    "error_counts": lambda path: plots.plot_error_counts(ROWS, path),
    "wer_by_speaker": lambda path: plots.plot_wer_by_speaker(ROWS, SPEAKERS, path),
    "filter": lambda path: plots.plot_filter({"conv": FILTER, "crnn": None}, path),
    "data_curve": lambda path: plot_data_curve(DATA_CURVE, path),
}


@pytest.fixture
def figures(monkeypatch) -> list[Figure]:
    """The figures that are drawn, instead of files."""
    drawn: list[Figure] = []
    for module in (plots, study_plots):
        monkeypatch.setattr(module, "save", lambda figure, path: drawn.append(figure))
    return drawn


def texts(figure: Figure) -> list[str]:
    return [
        text
        for axes in figure.axes
        for text in (axes.get_title(), axes.get_xlabel(), axes.get_ylabel())
    ]


def legend(figure: Figure, axes: int = 0) -> list[str]:
    found = figure.axes[axes].get_legend()
    assert found is not None
    return [text.get_text() for text in found.get_texts()]


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_picture_is_a_large_png_with_ink_in_several_colours(tmp_path: Path, name: str) -> None:
    DRAWINGS[name](tmp_path / "a.png")
    pixels = matplotlib.image.imread(tmp_path / "a.png")[..., :3]  # (height, width, 3)
    assert min(pixels.shape[:2]) >= 250
    ink = (pixels < 0.95).any(axis=-1)  # (height, width)
    assert 0.01 < ink.mean() < 0.7
    coloured = pixels[np.ptp(pixels, axis=-1) > 0.3]  # (points, 3)
    assert len(coloured) > 500
    assert len(np.unique((coloured * 7).astype(int), axis=0)) >= 3


@pytest.mark.parametrize("name", DRAWINGS)
def test_equal_results_give_equal_pictures(tmp_path: Path, name: str) -> None:
    DRAWINGS[name](tmp_path / "a.png")
    DRAWINGS[name](tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_stranger_learns_what_is_shown(figures: list[Figure], name: str) -> None:
    DRAWINGS[name](Path("unused"))
    (figure,) = figures
    for axes in figure.axes:
        assert axes.get_title()
        assert axes.get_xlabel()
    assert any("%" in text or "per 100 words" in text for text in texts(figure))


def test_learning_curves_show_the_points_with_wer_in_per_cent(figures: list[Figure]) -> None:
    plots.plot_learning_curves(CURVES, ROWS, Path("unused"))
    losses, wers = figures[0].axes
    np.testing.assert_allclose(losses.lines[0].get_xydata(), [[10, 3.0], [20, 1.5]])
    np.testing.assert_allclose(wers.lines[2].get_xydata(), [[10, 90], [20, 40]])
    assert legend(figures[0], 1) == ["teacher", "control conv", "student conv", "student crnn"]


def test_a_student_and_its_control_share_the_line_style_but_not_the_colour(
    figures: list[Figure],
) -> None:
    plots.plot_learning_curves(CURVES, ROWS, Path("unused"))
    _, control, student, other = figures[0].axes[1].lines
    assert control.get_linestyle() == student.get_linestyle() != other.get_linestyle()
    assert control.get_color() != student.get_color() == other.get_color()


def test_a_model_without_curves_leaves_an_empty_line(figures: list[Figure]) -> None:
    plots.plot_learning_curves({**CURVES, "teacher": []}, ROWS, Path("unused"))
    assert len(figures[0].axes[1].lines[0].get_xydata()) == 0


@pytest.mark.parametrize(
    ("draw", "column", "label"),
    [
        (plots.plot_wer_against_size, "parameters", "parameters"),
        (plots.plot_wer_against_speed, "real_time_factor", "ACME 9000, 1 thread"),
    ],
)
def test_wer_stands_against_cost_with_its_interval(
    figures: list[Figure], draw: Any, column: str, label: str
) -> None:
    draw(ROWS, 0.9, Path("unused"))
    (axes,) = figures[0].axes
    assert axes.get_xscale() == "log"
    assert label in axes.get_xlabel()
    assert "90 % interval" in axes.get_ylabel()
    for container, row in zip(axes.containers, ROWS, strict=True):
        point, _, bars = container
        np.testing.assert_allclose(
            point.get_xydata(), [[getattr(row, column), 100 * row.wer.value]]
        )
        ends = bars[0].get_segments()[0][:, 1]
        np.testing.assert_allclose(ends, [100 * row.wer.value - 2, 100 * row.wer.value + 5])
    assert legend(figures[0]) == ["teacher", "control conv", "student conv", "student crnn"]


def test_bars_are_errors_per_hundred_words_with_the_counts_beside(figures: list[Figure]) -> None:
    plots.plot_error_counts(ROWS, Path("unused"))
    (axes,) = figures[0].axes
    widths = [bars[0].get_width() for bars in axes.containers]
    assert widths == [24.0, 10.0, 6.0]  # 12, 5 and 3 of 50 words
    assert [bars[0].get_x() for bars in axes.containers] == [0.0, 24.0, 34.0]
    assert [text.get_text().strip() for text in axes.texts] == ["12 + 5 + 3"] * 4


def test_errors_of_a_perfect_model_can_be_drawn(tmp_path: Path) -> None:
    none = {"substitutions": 0, "deletions": 0, "insertions": 0}
    perfect = ROWS[0].model_copy(update=none)
    plots.plot_error_counts([perfect], tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_the_hardest_speaker_is_on_top(figures: list[Figure]) -> None:
    plots.plot_wer_by_speaker(ROWS, SPEAKERS, Path("unused"))
    (axes,) = figures[0].axes
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names == ["bob (7 utt.)", "ann (7 utt.)"]
    assert axes.yaxis_inverted()
    teacher = axes.collections[1].get_offsets()  # after the grey lines
    np.testing.assert_allclose(teacher, [[30, 0], [10, 1]])


def test_of_many_speakers_the_hardest_are_shown_and_the_title_says_so(
    figures: list[Figure],
) -> None:
    many = pd.DataFrame(
        [
            {"model": row.model, "speaker": f"s{i:02d}", "utterances": 1, "wer": i / 100}
            for row in ROWS
            for i in range(50)
        ]
    )
    plots.plot_wer_by_speaker(ROWS, many, Path("unused"))
    (axes,) = figures[0].axes
    assert len(axes.get_yticks()) == plots.MAX_SPEAKERS
    assert axes.get_yticklabels()[0].get_text() == "s49 (1 utt.)"
    assert axes.get_title() == "WER by test speaker, the 40 hardest of 50 speakers"


def test_every_seed_has_a_curve_of_its_own_and_a_model_one_name(figures: list[Figure]) -> None:
    plots.plot_learning_curves(SEEDED_CURVES, SEEDED, Path("unused"))
    lines = figures[0].axes[1].lines
    assert [line.get_ydata()[-1] for line in lines] == pytest.approx([20, 40, 60, 30, 50])
    assert legend(figures[0], 1) == ["teacher", "control conv", "student conv"]
    assert lines[1].get_color() == lines[2].get_color() != lines[3].get_color()
    assert lines[0].get_alpha() == 1.0 > lines[1].get_alpha()


def test_every_seed_is_a_pale_point_beside_the_mean(figures: list[Figure]) -> None:
    plots.plot_wer_against_size(SEEDED, 0.95, Path("unused"))
    (axes,) = figures[0].axes
    assert "mean with 95 % interval; pale: each of 2 seeds" in axes.get_ylabel()
    points = [
        collection.get_offsets()
        for collection in axes.collections
        if isinstance(collection, PathCollection)
    ]
    np.testing.assert_allclose(points[0], [[150_000, 40], [150_000, 60]])
    np.testing.assert_allclose(points[1], [[150_000, 30], [150_000, 50]])
    assert len(points) == 2  # the teacher has no seeds
    assert legend(figures[0]) == ["teacher", "control conv", "student conv"]


def test_the_filter_is_shown_by_reason_and_by_confidence(figures: list[Figure]) -> None:
    plots.plot_filter({"conv": FILTER, "crnn": FILTER, "plain": None}, Path("unused"))
    reasons, confidences = figures[0].axes  # one row: both students share the report
    assert reasons.get_title().startswith("Filter of conv, crnn:")
    assert [bar.get_width() for bar in reasons.containers[0]] == [30, 7, 3]
    names = [tick.get_text() for tick in reasons.get_yticklabels()]
    assert names == ["kept", "low_confidence", "repetition"]
    kept, dropped = confidences.containers
    assert [bar.get_height() for bar in kept] == FILTER.confidence.kept
    assert [bar.get_height() for bar in dropped] == FILTER.confidence.dropped
    assert [bar.get_y() for bar in dropped] == FILTER.confidence.kept
    assert [bar.get_x() for bar in kept] == FILTER.confidence.edges[:-1]
    assert legend(figures[0], 1) == ["kept", "dropped"]
    assert "0.40 of 0.50 hours kept" in confidences.get_title()


def test_students_that_were_filtered_differently_have_a_row_each(figures: list[Figure]) -> None:
    other = replace(FILTER, num_kept=33, dropped={"low_confidence": 7})
    plots.plot_filter({"conv": FILTER, "crnn": other}, Path("unused"))
    assert len(figures[0].axes) == 4


def test_curves_stand_over_hours_with_the_teacher_as_a_line(figures: list[Figure]) -> None:
    plot_data_curve(DATA_CURVE, Path("unused"))
    (axes,) = figures[0].axes
    assert axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.5\n25 %", "2\n100 %"]
    assert legend(figures[0]) == [
        "teacher, all data",
        "student conv",
        "control conv",
        "student crnn",
        "control crnn",
    ]
    lines = [container[0] for container in axes.containers]
    for line, wers in zip(lines, [[60, 30], [80, 40], [70, 20], [90, 50]], strict=True):
        assert list(line.get_ydata()) == pytest.approx(wers)
        assert list(line.get_xdata()) == pytest.approx([0.5, 2.0], rel=0.05)
    bars = axes.containers[0][2][0].get_segments()
    np.testing.assert_allclose(bars[0][:, 1], [58, 65])
    (teacher,) = [line for line in axes.lines if line.get_label() == "teacher, all data"]
    assert list(teacher.get_ydata()) == [10, 10]


def test_a_control_on_a_curve_is_dashed_in_its_students_colour(figures: list[Figure]) -> None:
    plot_data_curve(DATA_CURVE, Path("unused"))
    student, control, other, _ = [container[0] for container in figures[0].axes[0].containers]
    assert (student.get_linestyle(), control.get_linestyle()) == ("-", "--")
    assert student.get_color() == control.get_color() != other.get_color()


def test_every_seed_is_a_pale_point_on_a_curve(figures: list[Figure]) -> None:
    plot_data_curve(DATA_CURVE, Path("unused"))
    (axes,) = figures[0].axes
    assert "mean with 95 % interval; pale: each of 2 seeds" in axes.get_ylabel()
    points = [c.get_offsets()[:, 1] for c in axes.collections if isinstance(c, PathCollection)]
    np.testing.assert_allclose(points[:2], [[55, 65], [25, 35]])
    assert len(points) == 8


def test_a_curve_without_controls_has_students_alone(figures: list[Figure]) -> None:
    points = (on_curve("conv", 0.5, 0.25, student=0.6), on_curve("conv", 2.0, 1.0, student=0.3))
    plot_data_curve(replace(DATA_CURVE, points=points), Path("unused"))
    assert legend(figures[0]) == ["teacher, all data", "student conv"]


def test_gains_stand_over_the_teachers_wer_beside_how_they_disagree(figures: list[Figure]) -> None:
    plot_teachers(TEACHERS, Path("unused"))
    gains, matrix = figures[0].axes
    assert legend(figures[0]) == ["kind", "sharp"]
    points = [container[0].get_xydata()[0] for container in gains.containers]
    np.testing.assert_allclose(points, [[20, 10], [10, 5]])
    bars = gains.containers[0][2]  # to the sides, then up and down
    np.testing.assert_allclose(bars[0].get_segments()[0][:, 0], [19, 21])
    np.testing.assert_allclose(bars[1].get_segments()[0][:, 1], [9, 11])
    assert [text.get_text() for text in matrix.texts] == ["0.0", "30.0", "30.0", "0.0"]
    assert [tick.get_text() for tick in matrix.get_yticklabels()] == ["kind", "sharp"]


def test_teachers_that_all_failed_leave_empty_axes(figures: list[Figure]) -> None:
    nothing = {"candidates": (), "disagreement": {}}
    plot_teachers(TEACHERS.model_copy(update=nothing), Path("unused"))
    assert not figures[0].axes[0].containers and not figures[0].axes[1].texts


def test_pictures_of_characters_say_so(figures: list[Figure]) -> None:
    unit, nowhere = Unit.CHARACTER, Path("unused")
    plots.plot_learning_curves(CURVES, ROWS, nowhere, unit)
    plots.plot_wer_against_size(ROWS, 0.95, nowhere, unit)
    plots.plot_wer_against_speed(ROWS, 0.95, nowhere, unit)
    plots.plot_error_counts(ROWS, nowhere, unit)
    plots.plot_wer_by_speaker(ROWS, SPEAKERS, nowhere, unit)
    data = DATA_CURVE.data.model_copy(update={"unit": unit})
    plot_data_curve(replace(DATA_CURVE, data=data), nowhere)
    plot_teachers(TEACHERS.model_copy(update={"data": data}), nowhere)
    assert len(figures) == 7
    for figure in figures:
        shown = " ".join(texts(figure))
        assert "CER" in shown or "characters" in shown
        assert "WER" not in shown and "word" not in shown
