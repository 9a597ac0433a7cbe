"""Times of utterances in their recordings: written, read, and asked for by time."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillery.corpora.spans import SPANS_FILE, Span, as_csv, read_spans, utterances_between
from distillery.errors import ManifestError

SPANS = [
    Span("", "a, b.wav", 0.0, 1.5, "no_speech"),
    Span("a-00001500-00004250", "a, b.wav", 1.5, 4.25, "speech"),
    Span("a-00005000-00009001", "a, b.wav", 5.0, 9.001, "speech"),
    Span("c-00001500-00004250", "ç.wav", 1.5, 4.25, "speech"),
]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    (tmp_path / SPANS_FILE).write_bytes(as_csv(SPANS))
    assert read_spans(tmp_path) == SPANS
    assert SPANS[1].seconds == 2.75


def test_where_nothing_was_cut_there_are_none(tmp_path: Path) -> None:
    assert read_spans(tmp_path) == []


@pytest.mark.parametrize("content", ["no,such\n1,2\n", "utterance_id,source_path\na,b\n"])
def test_another_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / SPANS_FILE).write_text(content)
    with pytest.raises(ManifestError, match=r"segments\.csv: cannot be read .*make prepare"):
        read_spans(tmp_path)


@pytest.mark.parametrize(
    ("start", "end", "found"),
    [
        (2.0, 3.0, [("a-00001500-00004250", 1.0)]),
        (4.0, 6.0, [("a-00001500-00004250", 0.25), ("a-00005000-00009001", 1.0)]),
        (4.25, 5.0, []),
        (0.0, 1.5, []),
    ],
)
def test_a_stretch_finds_the_utterances_it_touches(
    start: float, end: float, found: list[tuple[str, float]]
) -> None:
    touched = utterances_between(SPANS[::-1], "a, b.wav", start, end)
    assert [(span.utterance_id, seconds) for span, seconds in touched] == found
