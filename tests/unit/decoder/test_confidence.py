"""Evidence and confidence against numbers worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from distillery.decoder.confidence import CONFIDENCE_FILE, Confidence, evidence_of
from distillery.errors import ModelError


def test_evidence_is_the_log_odds_of_the_geometric_mean() -> None:
    # √(0.9 · 0.4) = 0.6, whose odds are 1.5
    assert evidence_of([math.log(0.9), math.log(0.4)]) == pytest.approx(math.log(1.5))
    assert evidence_of([math.log(0.5)]) == pytest.approx(0)


def test_evidence_is_finite_where_a_network_is_certain() -> None:
    assert evidence_of([0.0]) == pytest.approx(math.log(9999), rel=1e-6)
    assert evidence_of([-1e4]) == pytest.approx(math.log(1e-6), rel=1e-6)


def test_confidence_is_logistic() -> None:
    fitted = Confidence(offset=-1.0, slope=0.5, num_words=10, expected_error=0.02)
    assert fitted.of(2.0) == 0.5
    assert fitted.of(2.0 + 2 * math.log(3)) == pytest.approx(0.75)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert Confidence.find(tmp_path) is None
    fitted = Confidence(offset=-1.0, slope=0.5, num_words=10, expected_error=0.02)
    fitted.save(tmp_path)
    assert Confidence.find(tmp_path) == fitted


@pytest.mark.parametrize("content", ["{", '{"offset": 1}', "[]", '{"offset": 1, "x": 2}'])
def test_a_damaged_file_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / CONFIDENCE_FILE).write_text(content)
    with pytest.raises(ModelError, match=r"confidence\.json: cannot be used .*register the model"):
        Confidence.find(tmp_path)
