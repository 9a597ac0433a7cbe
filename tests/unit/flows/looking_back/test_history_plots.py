import math
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import pytest
from matplotlib.figure import Figure

from flows.looking_back.history import Retraining
from flows.looking_back.history_plots import MAX_RUNS, plot_history


def run(number: int, wer: float | None, alias: str | None = None) -> Retraining:
    return Retraining(
        run=f"r{number}",
        trigger="schedule",
        started=f"2026-01-{1 + number % 28:02d}T03:00:00+00:00",
        wer=wer,
        wer_low=None if wer is None else wer - 0.02,
        wer_high=None if wer is None else wer + 0.03,
        teacher_wer=0.1,
        alias=alias,
        version=str(number),
        hours=1.0 + number,
    )


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    kept: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (kept.append(self), save(self, *a, **k))[1]
    )
    return kept


def test_runs_stand_in_order_with_champions_marked(tmp_path: Path, figures: list[Figure]) -> None:
    history = [run(0, 0.3, "champion"), run(1, None), run(2, 0.35, "challenger")]
    plot_history([*history, run(3, 0.2, "champion")], tmp_path / "h.png")
    assert matplotlib.image.imread(tmp_path / "h.png").shape[:2] == (720, 1200)
    wer_axes, hours_axes = figures[0].axes
    student = wer_axes.containers[0].lines[0]
    assert student.get_xdata().tolist() == [0, 1, 2]  # the one without a student is left out
    assert student.get_ydata().tolist() == pytest.approx([30, 35, 20])
    assert [text.get_text() for text in wer_axes.texts] == ["v0", "v3"]
    assert hours_axes.lines[0].get_ydata().tolist() == [1.0, 3.0, 4.0]


def test_old_runs_are_left_out_and_an_empty_history_can_be_drawn(
    tmp_path: Path, figures: list[Figure]
) -> None:
    plot_history([run(n, 0.3) for n in range(MAX_RUNS + 5)], tmp_path / "h.png")
    assert len(figures[0].axes[0].containers[0].lines[0].get_xdata()) == MAX_RUNS
    plot_history([], tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 0


def test_an_interval_that_rounding_put_beside_its_value_is_drawn(tmp_path: Path) -> None:
    beside = run(1, 0.3)
    beside.wer_low, beside.wer_high = math.nextafter(0.3, 1), math.nextafter(0.3, 0)
    plot_history([beside], tmp_path / "history.png")
    assert (tmp_path / "history.png").stat().st_size > 0


def test_a_champion_that_stays_is_not_marked_again(tmp_path: Path, figures: list[Figure]) -> None:
    stays = run(4, 0.2, "champion")
    stays.former_champion = stays.version
    plot_history([run(3, 0.2, "champion"), stays], tmp_path / "h.png")
    assert [text.get_text() for text in figures[0].axes[0].texts] == ["v3"]


def test_the_axis_names_what_was_counted(tmp_path: Path, figures: list[Figure]) -> None:
    words, characters = run(0, 0.3), replace(run(1, 0.2), unit="character")
    for number, (rows, label) in enumerate(
        [
            ([words], "word error rate on"),
            ([characters], "character error rate on"),
            ([words, characters], "word error rate or character error rate on"),
        ]
    ):
        plot_history(rows, tmp_path / "h.png")
        assert figures[number].axes[0].get_ylabel().startswith(label)
