"""Names that recognisers have for recordings, and the utterances that they mean."""

from __future__ import annotations

import pytest

from distillery.teachers.written_names import Names

KNOWN = Names(
    [
        ("1", "u-1", "wav/a.flac"),
        ("2", "u-2", "wav/more/b.wav"),
        ("3", "u-3", "other/b.wav"),
        ("4", "u.4", "d.1.wav"),
        ("5", "u-5", "long.wav"),
        ("6", "u-6", "long.wav"),
    ]
)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("u-1", "1"),
        ("wav/a.flac", "1"),
        ("wav/a.wav", "1"),  # converted for the recogniser
        ("a", "1"),
        ("./wav/a.flac", "1"),
        ("/data/corpus/wav/a.wav", "1"),
        ("C:\\corpus\\wav\\a.wav", "1"),
        ("more/b.wav", "2"),
        ("b.wav", "23"),
        ("u.4", "4"),
        ("d.1", "4"),
        ("long.wav", "56"),
        ("strange/a.wav", ""),
        ("c.wav", ""),
        ("av/a.flac", ""),
        ("", ""),
    ],
)
def test_a_name_means_what_is_called_so(name: str, keys: str) -> None:
    assert KNOWN.find(name) == set(keys)
