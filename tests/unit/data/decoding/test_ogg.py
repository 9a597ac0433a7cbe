"""Ogg: joined files are read whole, and files without their last page are cut short."""

from __future__ import annotations

import numpy as np
import pytest

from distillery.data.audio import decode
from distillery.data.decoding.ogg import find_links
from distillery.data.decoding.source import Source
from distillery.errors import AudioError
from tests.recordings import tone, written


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_joined_files_are_all_read(subtype: str) -> None:
    first, second = (
        written(tone(seconds, seed=3), "OGG", subtype=subtype) for seconds in (1.0, 2.0)
    )
    heard = decode(first + second)[0]
    expected = np.concatenate([decode(first)[0], decode(second)[0]])
    np.testing.assert_array_equal(heard, expected)
    links = find_links(Source("a", len(first + second), first + second))
    assert links == [(0, len(first)), (len(first), len(first + second))]


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_file_cut_anywhere_is_refused(subtype: str) -> None:
    content = written(tone(2.0), "OGG", subtype=subtype)
    pages = [place for place in range(len(content)) if content[place : place + 4] == b"OggS"]
    for cut in [*pages[1:], pages[-1] + 10, len(content) - 1, 100]:
        with pytest.raises(AudioError, match="the file is cut short"):
            decode(content[:cut])
        with pytest.raises(AudioError, match="cut short"):
            decode(content[:cut] + content)


def test_what_lies_behind_the_last_page_is_no_sound() -> None:
    content = written(tone(1.0), "OGG", subtype="VORBIS")
    np.testing.assert_array_equal(decode(content + bytes(3000))[0], decode(content)[0])
