import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillery.errors import CacheError
from distillery.teacher_cache.payload import Payload, Quantised, Sparse, Targets, payload_of

BLANK = 0
SPARSE = {
    "kind": "sparse",
    "top_k": 6,
    "top_p": 0.9,
    "near_frames": 1,
    "temperatures": [2.0, 4.0],
}
DENSE = [{"kind": "u8"}, {"kind": "f16"}, {"kind": "f32"}]
ALL = [*DENSE, SPARSE]
quick = settings(max_examples=40, deadline=None)
kinds = pytest.mark.parametrize("options", ALL, ids=lambda o: o["kind"])
dense_kinds = pytest.mark.parametrize("options", DENSE, ids=lambda o: o["kind"])


def log_softmax(scores: np.ndarray) -> np.ndarray:
    scores = scores.astype(np.float64)
    highest = scores.max(axis=-1, keepdims=True)
    return scores - highest - np.log(np.exp(scores - highest).sum(axis=-1, keepdims=True))


@st.composite
def posteriors(draw, vocab: int | None = None, min_frames: int = 0) -> np.ndarray:
    """Draw log-probabilities `(frames, vocab)`, from nearly flat to nearly certain."""
    frames = draw(st.integers(min_frames, 40))
    vocab = vocab or draw(st.integers(2, 60))
    spread = draw(st.sampled_from([0.01, 1.0, 4.0, 15.0]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return log_softmax(random.normal(0, spread, (frames, vocab))).astype(np.float32)


def record(payload: Payload, log_probs: np.ndarray) -> np.ndarray:
    """Return what the shard would hold, `(bytes,)`."""
    return np.frombuffer(b"".join(block.tobytes() for block in payload.encode(log_probs)), np.uint8)


def read(payload: Payload, *items: np.ndarray) -> np.ndarray:
    """Write utterances and read them as one batch `(batch, frames, vocab)`."""
    return payload.log_probs([record(payload, item) for item in items], lengths(*items))


def targets(payload: Payload, *items: np.ndarray, temperature: float = 1.0) -> Targets:
    return payload.targets([record(payload, item) for item in items], lengths(*items), temperature)


def lengths(*items: np.ndarray) -> np.ndarray:
    return np.array([len(item) for item in items], np.int64)


# --- layouts, worked out by hand ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "num_bytes"),
    [
        ({"kind": "u8"}, 33),  # a word of four bytes, one byte a token
        ({"kind": "f16"}, 58),
        ({"kind": "f32"}, 116),
        ({**SPARSE, "top_k": 29, "top_p": 1.0}, 1 + 2 * 2 + 29 * (2 + 2)),
        ({**SPARSE, "top_k": 3, "top_p": 1e-9, "near_frames": 0}, 1 + 2 * 2 + 1 * (2 + 2)),
    ],
    ids=str,
)
def test_a_frame_of_29_tokens_takes_so_many_bytes(options, num_bytes: int) -> None:
    scores = np.zeros((7, 29))
    scores[:, BLANK] = 0.1  # no frame is near speech
    assert len(record(payload_of(options, 29, BLANK), log_softmax(scores))) == 7 * num_bytes


def test_u8_of_two_equal_tokens_is_ln_2_and_no_step() -> None:
    words, below = Quantised(2).encode(np.log([[0.5, 0.5]]))
    assert words.tolist() == [90852 << 12]  # ln 2 x 2^17 = 90852.2
    assert below.tolist() == [[0, 0]]


def test_u8_counts_steps_below_the_likeliest_token() -> None:
    words, below = Quantised(3).encode(np.array([[-12.75, 0.0, -25.5]]))
    # 25.5 / 255 = 0.1; the next half-precision number with seven bits is 0x2e68 = 0.10009766
    assert words.tolist() == [0x2E68 >> 3]
    assert below.tolist() == [[127, 0, 255]]  # 12.75 / 0.10009766 = 127.4, 25.5 / ... = 254.8


def test_sparse_keeps_what_holds_top_p_and_top_k_near_speech() -> None:
    frame = np.log([[0.15, 0.5, 0.05, 0.3]])
    options = {**SPARSE, "top_k": 3, "top_p": 0.7, "temperatures": [2.0]}
    counts, sums, values, ids = payload_of(options, 4, blank=1).encode(frame)
    assert counts.tolist() == [2]  # 0.5 alone is less than 0.7, 0.5 + 0.3 is not
    assert ids.tolist() == [1, 3]
    np.testing.assert_allclose(values, np.log([0.5, 0.3]), rtol=2**-11)
    roots = 0.15**0.5 + 0.5**0.5 + 0.05**0.5 + 0.3**0.5
    np.testing.assert_allclose(sums, [[np.log(roots)]], rtol=2**-11)
    counts, _, _, ids = payload_of(options, 4, blank=0).encode(frame)
    assert counts.tolist() == [3]  # its likeliest token is no blank
    assert ids.tolist() == [1, 3, 0]


def test_sparse_ids_above_16_bits_survive() -> None:
    scores = np.zeros((2, 70_000))
    scores[:, 69_999] = 20
    payload = payload_of({**SPARSE, "top_k": 1}, 70_000, BLANK)
    assert len(record(payload, log_softmax(scores))) == 2 * (1 + 2 * 2 + 1 * (2 + 4))
    assert targets(payload, log_softmax(scores)).ids.tolist() == [[[69_999], [69_999]]]


# --- what comes back ---------------------------------------------------------------------------


@quick
@given(log_probs=posteriors())
def test_f32_comes_back_as_it_was(log_probs: np.ndarray) -> None:
    payload = payload_of({"kind": "f32"}, log_probs.shape[1], BLANK)
    np.testing.assert_array_equal(read(payload, log_probs)[0], log_probs)


@quick
@given(log_probs=posteriors())
def test_f16_comes_back_to_eleven_bits(log_probs: np.ndarray) -> None:
    payload = payload_of({"kind": "f16"}, log_probs.shape[1], BLANK)
    np.testing.assert_allclose(read(payload, log_probs)[0], log_probs, rtol=2**-11, atol=1e-7)


@quick
@given(log_probs=posteriors())
def test_u8_comes_back_to_half_a_step(log_probs: np.ndarray) -> None:
    payload = Quantised(log_probs.shape[1])
    back = read(payload, log_probs)[0]
    step = steps(payload, log_probs)[:, None]
    found = back - back.max(axis=1, keepdims=True, initial=-np.inf)
    wanted = np.maximum(log_probs, -80) - log_probs.max(axis=1, keepdims=True, initial=-np.inf)
    assert (abs(found - wanted) <= 0.5 * step + 1e-4).all()


def steps(payload: Quantised, log_probs: np.ndarray) -> np.ndarray:
    """Return each frame's step in nats `(frames,)`, as docs/teacher-cache.md says it."""
    words, _ = payload.encode(log_probs)
    return ((words % 2**12) * 8).astype("<u2").view("<f2").astype(np.float64)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
@quick
@given(log_probs=posteriors(min_frames=1))
def test_the_divergence_of_u8_is_bounded_by_its_step(
    temperature: float, log_probs: np.ndarray
) -> None:
    # Errors within ± step/2 are a variable of range `step`: Hoeffding's lemma gives step²/8. The
    # likeliest token's own rounding adds half of 1/2^17 nat.
    payload = Quantised(log_probs.shape[1])
    cached = targets(payload, log_probs, temperature=temperature).log_probs[0].astype(np.float64)
    live = log_softmax(log_probs / temperature)
    divergence = (np.exp(live) * (live - cached)).sum(axis=1)
    bound = (steps(payload, log_probs) / temperature) ** 2 / 8 + 2**-18 + 4e-6
    assert (divergence <= bound).all()


@quick
@given(log_probs=posteriors(min_frames=1))
@dense_kinds
def test_every_frame_sums_to_one(options, log_probs: np.ndarray) -> None:
    vocab = log_probs.shape[1]
    payload = payload_of(options, vocab, BLANK)
    # Half precision: Σ p |ln p| 2^-11, and the entropy is at most ln vocab.
    tolerance = {"u8": 1e-5, "f32": 1e-5, "f16": np.log(vocab) * 2**-11 + 1e-5}[options["kind"]]
    sums = np.exp(read(payload, log_probs)[0].astype(np.float64)).sum(axis=1)
    np.testing.assert_allclose(sums, 1, atol=tolerance)
    softened = targets(payload, log_probs, temperature=3.0).log_probs[0]
    np.testing.assert_allclose(np.exp(softened).sum(axis=1), 1, atol=1e-5)


@quick
@given(log_probs=posteriors(min_frames=1))
@dense_kinds
def test_no_token_overtakes_the_likeliest(options, log_probs: np.ndarray) -> None:
    back = read(payload_of(options, log_probs.shape[1], BLANK), log_probs)[0]
    best = log_probs.argmax(axis=1)[:, None]
    np.testing.assert_array_equal(np.take_along_axis(back, best, 1)[:, 0], back.max(axis=1))


@quick
@given(log_probs=posteriors(min_frames=1), seed=st.integers(0, 99))
@kinds
def test_impossible_tokens_stay_impossible_and_harm_no_other(
    options, log_probs: np.ndarray, seed: int
) -> None:
    vocab = log_probs.shape[1]
    impossible = np.random.default_rng(seed).random(log_probs.shape) < 0.5
    impossible[np.arange(len(log_probs)), log_probs.argmax(axis=1)] = False
    wanted = np.where(impossible, -np.inf, log_probs)
    wanted = log_softmax(wanted).astype(np.float32)
    payload = payload_of(options, vocab, BLANK)
    for temperature in (1.0, 2.0):
        found = targets(payload, wanted, temperature=temperature)
        assert np.isfinite(found.log_probs).all()
        ids = np.arange(vocab)[None] if found.ids is None else found.ids[0]
        kept = np.exp(log_softmax(wanted / temperature))
        kept = np.take_along_axis(kept, np.broadcast_to(ids, found.log_probs[0].shape), 1)
        if found.num_kept is not None:
            kept[np.arange(kept.shape[1]) >= found.num_kept[0][:, None]] = 0
        tolerance = 0.08 if options["kind"] == "u8" else 1e-3  # a step may be 80 / 255 nat
        np.testing.assert_allclose(np.exp(found.log_probs[0]), kept, atol=tolerance)


def test_u8_of_a_possible_token_beside_impossible_ones_is_exact() -> None:
    frame = np.array([[0.0, -np.inf, -np.inf]], np.float32)
    np.testing.assert_allclose(read(Quantised(3), frame)[0, 0, 0], 0, atol=1e-6)
    assert (np.exp(read(Quantised(3), frame)[0, 0, 1:]) < 1e-30).all()


@quick
@given(items=st.lists(posteriors(vocab=7), min_size=1, max_size=5))
@kinds
def test_a_batch_is_its_utterances_read_one_by_one(options, items: list[np.ndarray]) -> None:
    payload = payload_of(options, 7, BLANK)
    together = targets(payload, *items, temperature=2.0)
    assert together.num_frames.tolist() == [len(item) for item in items]
    for row, item in enumerate(items):
        alone = targets(payload, item, temperature=2.0)
        frames, places = alone.log_probs.shape[1:]
        np.testing.assert_array_equal(together.log_probs[row, :frames, :places], alone.log_probs[0])
        if alone.ids is None:
            assert not together.log_probs[row, frames:].any()
        else:
            np.testing.assert_array_equal(together.ids[row, :frames, :places], alone.ids[0])
            np.testing.assert_array_equal(together.num_kept[row, :frames], alone.num_kept[0])
            assert not together.num_kept[row, frames:].any()
            assert (together.log_probs[row, frames:] == -1e4).all()


@dense_kinds
def test_padding_is_zero_whatever_the_memory_held(options, monkeypatch) -> None:
    def rubbish(shape: tuple[int, ...], dtype: object = np.float64) -> np.ndarray:
        array = np.zeros(shape, dtype)
        array.reshape(-1).view(np.uint8)[:] = 255  # NaN, in floating point
        return array

    items = [np.log(np.full((count, 2), 0.5, np.float32)) for count in (1, 3)]
    monkeypatch.setattr(np, "empty", rubbish)
    back = read(payload_of(options, 2, BLANK), *items)
    assert not back[0, 1:].any()
    assert back[0, 0].all()


@kinds
def test_a_batch_of_nothing_is_empty(options) -> None:
    assert targets(payload_of(options, 7, BLANK)).log_probs.shape[:2] == (0, 0)


@kinds
def test_utterances_without_frames_take_no_bytes(options) -> None:
    payload = payload_of(options, 7, BLANK)
    nothing = np.zeros((0, 7), np.float32)
    assert len(record(payload, nothing)) == 0
    assert targets(payload, nothing, nothing, temperature=2.0).log_probs.shape[:2] == (2, 0)


# --- sparse against dense ------------------------------------------------------------------------


@st.composite
def sparse_options(draw) -> dict:
    return {
        "kind": "sparse",
        "top_k": draw(st.integers(1, 20)),
        "top_p": draw(st.sampled_from([0.3, 0.9, 0.999, 1.0])),
        "near_frames": draw(st.integers(0, 3)),
        "temperatures": draw(st.sampled_from([[], [2.0], [2.0, 4.0], [1.5, 3.0]])),
    }


def kept_by_the_rule(log_probs: np.ndarray, options: dict, slack: float) -> list[int]:
    """Count kept tokens frame by frame, as the sentence in the documentation says it."""
    speaks = [frame.argmax() != BLANK for frame in log_probs]
    counts = []
    for position, frame in enumerate(log_probs):
        cap = min(options["top_k"], len(frame))
        near = speaks[max(0, position - options["near_frames"]) :][
            : min(position, options["near_frames"]) + options["near_frames"] + 1
        ]
        count, mass = 0, 0.0
        for probability in sorted(np.exp(frame.astype(np.float64)), reverse=True)[:cap]:
            if count and mass >= options["top_p"] + slack:
                break
            count, mass = count + 1, mass + probability
        counts.append(cap if any(near) else count)
    return counts


@quick
@given(log_probs=posteriors(min_frames=1), options=sparse_options())
def test_the_kept_tokens_are_those_of_the_rule(log_probs: np.ndarray, options: dict) -> None:
    found = targets(payload_of(options, log_probs.shape[1], BLANK), log_probs)
    fewest = kept_by_the_rule(log_probs, options, slack=-1e-5)
    most = kept_by_the_rule(log_probs, options, slack=1e-5)
    for frame, ids, count, low, high in zip(
        log_probs, found.ids[0], found.num_kept[0], fewest, most, strict=True
    ):
        assert low <= count <= high
        np.testing.assert_array_equal(ids[:count], np.argsort(-frame, kind="stable")[:count])


def test_frames_near_speech_are_counted_from_the_rule_itself() -> None:
    scores = np.zeros((6, 5))
    scores[:, BLANK] = 10
    scores[4, 2] = 20
    options = {**SPARSE, "top_k": 4, "near_frames": 2}
    found = targets(payload_of(options, 5, BLANK), log_softmax(scores))
    assert found.num_kept.tolist() == [[1, 1, 4, 4, 4, 4]]
    assert kept_by_the_rule(log_softmax(scores), options, 0.0) == [1, 1, 4, 4, 4, 4]


@quick
@given(log_probs=posteriors(min_frames=1), options=sparse_options())
def test_kept_probabilities_are_exact_at_every_stored_temperature(
    log_probs: np.ndarray, options: dict
) -> None:
    payload = payload_of(options, log_probs.shape[1], BLANK)
    for temperature in (1.0, *options["temperatures"]):
        found = targets(payload, log_probs, temperature=temperature)
        kept = np.arange(found.log_probs.shape[2]) < found.num_kept[0][:, None]
        dense = np.exp(log_softmax(log_probs / temperature))  # (frames, vocab)
        wanted = np.where(kept, np.take_along_axis(dense, found.ids[0], 1), 0)
        probabilities = np.exp(found.log_probs[0].astype(np.float64))
        np.testing.assert_allclose(probabilities, wanted, atol=4e-4)
        # One minus the sum is the mass of the others: each kept token is off by 4e-4 at most.
        missing = dense.sum(axis=1) - wanted.sum(axis=1)
        slack = 4e-4 * found.num_kept[0]
        assert (abs((1 - probabilities.sum(axis=1)) - missing) <= slack).all()


def test_empty_places_hold_token_0_and_no_mass() -> None:
    scores = np.zeros((2, 4))
    scores[0, BLANK], scores[1, 3] = 12, 12
    options = {**SPARSE, "top_k": 3, "near_frames": 0}
    found = targets(payload_of(options, 4, BLANK), log_softmax(scores))
    assert found.num_kept.tolist() == [[1, 3]]
    assert found.ids[0, 0].tolist() == [0, 0, 0]
    assert np.exp(found.log_probs[0, 0, 1:]).tolist() == [0, 0]


# --- refusals ------------------------------------------------------------------------------------


def test_a_temperature_that_was_not_stored_is_refused() -> None:
    payload = payload_of(SPARSE, 7, BLANK)
    with pytest.raises(
        CacheError,
        match=r"temperature 3 was not stored, only 1, 2, 4; add it to "
        r"cache\.payload\.sparse\.temperatures and run make cache",
    ):
        targets(payload, np.zeros((1, 7), np.float32), temperature=3.0)


def test_sparse_refuses_to_give_all_tokens() -> None:
    payload = payload_of(SPARSE, 7, BLANK)
    with pytest.raises(
        CacheError, match=r"keeps at most 6 of 7 tokens a frame, all were asked for.* to f16"
    ):
        read(payload, np.zeros((1, 7), np.float32))


def test_an_unknown_payload_is_refused() -> None:
    with pytest.raises(
        CacheError, match="payload 'u4': unknown, expected u8, f16, f32, sparse or none"
    ):
        payload_of({"kind": "u4"}, 7, BLANK)


def test_u8_refuses_a_vocabulary_that_its_words_cannot_hold() -> None:
    payload_of({"kind": "u8"}, 2900, BLANK)
    with pytest.raises(CacheError, match="2901 tokens, at most 2900 fit; set cache.payload"):
        payload_of({"kind": "u8"}, 2901, BLANK)


def test_the_largest_flat_u8_frame_fits_its_word() -> None:
    flat = log_softmax(np.zeros((1, 2900)))
    np.testing.assert_allclose(read(Quantised(2900), flat)[0], -np.log(2900), atol=1e-5)


@pytest.mark.parametrize("top_k", [0, 256])
def test_sparse_refuses_counts_that_are_no_bytes(top_k: int) -> None:
    with pytest.raises(CacheError, match=f"top_k is {top_k}, expected 1 to 255"):
        payload_of({**SPARSE, "top_k": top_k}, 300, BLANK)


def test_every_kind_knows_its_vocabulary() -> None:
    assert [payload_of(options, 7, BLANK).num_tokens for options in ALL] == [7, 7, 7, 7]
    assert isinstance(payload_of(SPARSE, 7, BLANK), Sparse)
