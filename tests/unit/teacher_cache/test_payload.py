import numpy as np
import pytest

from distillery.teacher_cache.payload import decode, encode, frame_dtype


def teacher_like(frames: int = 400, vocab: int = 29, seed: int = 0) -> np.ndarray:
    """Peaky log-probabilities such as a CTC teacher gives."""
    random = np.random.default_rng(seed)
    scores = random.normal(0, 3, (frames, vocab)).astype(np.float32)
    scores[np.arange(frames), random.integers(0, vocab, frames)] += 12
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def divergence(p: np.ndarray, q: np.ndarray, temperature: float) -> float:
    """Mean KL(p ‖ q) in nats a frame at a temperature."""
    p, q = p.astype(np.float64) / temperature, q.astype(np.float64) / temperature
    p -= np.log(np.exp(p).sum(axis=1, keepdims=True))
    q -= np.log(np.exp(q).sum(axis=1, keepdims=True))
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def test_bytes_a_frame() -> None:
    assert frame_dtype("u8", 29).itemsize == 33
    assert frame_dtype("f16", 29).itemsize == 58


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
@pytest.mark.parametrize(("kind", "bound"), [("u8", 1e-3), ("f16", 1e-5)])
def test_distortion_stays_small(kind, bound: float, temperature: float) -> None:
    log_probs = teacher_like()
    assert divergence(log_probs, decode(encode(log_probs, kind), kind), temperature) < bound


@pytest.mark.parametrize("kind", ["u8", "f16"])
def test_what_comes_back_is_normalised_and_has_the_same_best_token(kind) -> None:
    log_probs = teacher_like()
    back = decode(encode(log_probs, kind), kind)
    np.testing.assert_allclose(np.exp(back).sum(axis=1), 1, atol=1e-5)
    assert (back.argmax(axis=1) == log_probs.argmax(axis=1)).all()


@pytest.mark.parametrize("kind", ["u8", "f16"])
def test_a_flat_frame_and_a_certain_frame_survive(kind) -> None:
    flat = np.full((1, 4), -np.log(4), np.float32)
    np.testing.assert_allclose(decode(encode(flat, kind), kind), flat, atol=1e-3)
    certain = np.array([[0.0, -40.0, -50.0, -60.0]], np.float32)
    np.testing.assert_allclose(decode(encode(certain, kind), kind), certain, atol=0.2)


@pytest.mark.parametrize("kind", ["u8", "f16"])
def test_no_frames_are_fine(kind) -> None:
    assert decode(encode(np.zeros((0, 4), np.float32), kind), kind).shape == (0, 4)
