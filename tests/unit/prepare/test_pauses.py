"""Where recordings are cut, from probabilities alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillery.prepare.pauses import PAD_SECONDS, Piece, find_pieces

FRAME = 0.1
"""Seconds; ten to a second make figures that one can read."""


def made_of(*parts: tuple[float, float]) -> np.ndarray:
    """Return probabilities from (seconds, probability)."""
    return np.concatenate(
        [np.full(round(seconds / FRAME), value, np.float32) for seconds, value in parts]
    )


def pieces(probabilities: np.ndarray, longest: float = 20.0, silence: float = 0.5) -> list[Piece]:
    return find_pieces(probabilities, FRAME, longest, silence)


def times(found: list[Piece]) -> list[tuple[float, float]]:
    return [(round(piece.start * FRAME, 3), round(piece.end * FRAME, 3)) for piece in found]


def test_a_pause_parts_two_pieces_which_keep_some_of_it() -> None:
    found = pieces(made_of((1, 0), (2, 1), (1, 0), (3, 1), (1, 0)))
    assert times(found) == [(0.8, 3.2), (3.8, 7.2)]
    assert [piece.num_speech for piece in found] == [20, 30]
    assert PAD_SECONDS == 0.2


def test_short_pauses_part_nothing_that_is_short_enough() -> None:
    assert times(pieces(made_of((2, 1), (0.4, 0), (3, 1)))) == [(0, 5.4)]


def test_what_is_too_long_is_cut_at_its_shorter_pauses() -> None:
    speech = made_of((6, 1), (0.3, 0), (6, 1), (0.3, 0), (6, 1))
    assert times(pieces(speech, longest=8)) == [(0, 6.15), (6.15, 12.45), (12.45, 18.6)]


def test_a_wide_pause_near_the_middle_is_preferred() -> None:
    edge = made_of((1, 1), (0.4, 0), (9, 1), (0.3, 0), (6, 1))
    assert times(pieces(edge, longest=16))[0] == (0, 10.55)


def test_without_a_pause_speech_is_cut_where_it_is_least_probable_and_that_is_told() -> None:
    found = pieces(made_of((9, 1), (0.2, 0.6), (9, 1)), longest=12)
    assert times(found) == [(0, 9), (9, 18.2)]
    assert [piece.is_forced for piece in found] == [True, False]


def test_the_closure_of_a_consonant_is_no_pause() -> None:
    closure = np.concatenate([np.ones(180), np.zeros(2), np.ones(180)]).astype(np.float32)
    pause = np.concatenate([closure, np.zeros(5), np.ones(100)]).astype(np.float32)
    (first, second) = find_pieces(closure, 0.032, 8.0, 0.5)
    assert (first.end, first.is_forced, second.is_forced) == (181.0, True, False)
    (first, *_) = find_pieces(pause, 0.032, 12.5, 0.5)
    assert (first.end, first.is_forced) == (364.5, False)


def test_between_the_two_bounds_speech_goes_on_and_silence_does_too() -> None:
    assert times(pieces(made_of((1, 0.45), (1, 0), (1, 1), (2, 0.4), (1, 0)))) == [(1.8, 5.2)]


@pytest.mark.parametrize("value", [0.0, 0.45])
def test_where_nobody_speaks_there_is_nothing(value: float) -> None:
    assert pieces(made_of((30, value))) == []
    assert pieces(np.empty(0, np.float32)) == []


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.1, 9), st.sampled_from([0, 0.2, 0.4, 0.6, 1])), max_size=30),
    st.floats(1, 12),
    st.floats(0.1, 2),
)
def test_whatever_is_said_no_speech_is_lost_and_nothing_is_too_long(
    parts: list[tuple[float, float]], longest: float, silence: float
) -> None:
    probabilities = made_of((0.1, 0), *parts)
    found = pieces(probabilities, longest, silence)
    kept = np.zeros(len(probabilities), bool)
    place = 0.0
    for piece in found:
        assert place <= piece.start < piece.end <= len(probabilities)
        assert (piece.end - piece.start) * FRAME <= longest + 1e-9
        kept[int(piece.start) : int(np.ceil(piece.end))] = True
        place = piece.end
    assert kept[probabilities >= 0.5].all()
