"""SubRip and WebVTT as recognisers and editors write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillery.errors import ModelError
from distillery.teachers.subtitles import read_subtitles


def read(folder: Path, content: str, name: str = "a.srt") -> list[object]:
    (folder / name).write_bytes(content.encode())
    return [(c["text"], c["start"], c["end"]) for c in read_subtitles(folder / name)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_cues_of_srt(tmp_path: Path, end: str) -> None:
    lines = [
        "\ufeff1",
        "00:00:01,250 --> 00:00:02,500",
        "<i>Two</i> &amp;",
        "{\\an8}three",
        "",
        "2",
        "01:00:00,000 --> 01:00:01,000",
        "four < five",
        "",
    ]
    found = read(tmp_path, end.join(lines))
    assert found == [("Two & three", 1.25, 2.5), ("four < five", 3600.0, 3601.0)]


def test_cues_of_webvtt(tmp_path: Path) -> None:
    content = (
        "WEBVTT - made by hand\nKind: captions\n\nNOTE 00:00.000 --> 00:01.000\nnot said\n\n"
        "STYLE\n::cue { color: red }\n\nintro\n00:01.000 --> 00:02.000 align:start position:0%\n"
        "<v Ann Lee>Hello<00:01.500><c.loud> you</c>\n\n00:02.000 --> 00:03.000\n\n"
    )
    assert read(tmp_path, content, "a.vtt") == [("Hello you", 1.0, 2.0), ("", 2.0, 3.0)]


def test_nothing_heard_is_no_fault(tmp_path: Path) -> None:
    assert read(tmp_path, "") == []
    assert read(tmp_path, "WEBVTT\n", "a.vtt") == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1\n00:01 --> 00:02\na", r"a\.srt, line 2: '00:01 --> 00:02' are no times of a cue"),
        ("Two coffees", "begins with 'Two coffees', expected cues with times"),
    ],
)
def test_what_is_none_is_named(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read(tmp_path, content)
