import io
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from distillery.data.copies import copy_at
from distillery.data.features import LogMel, gather, pack_features, pad
from distillery.data.manifest import audio_key
from distillery.params.models import FeatureParams
from tests.attacks import Payload

PARAMS = FeatureParams(num_mels=20)


class Prepared:
    """Just enough of PreparedData: two recordings in memory."""

    sample_rate_hz = 8000

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.audio = [random.normal(0, 0.1, n).astype(np.float32) for n in (8000, 4000)]
        self.rows = pd.DataFrame(
            {
                "row": [0, 1],
                "utterance_id": ["long", "short"],
                "audio_key": [audio_key(a) for a in self.audio],
                "num_samples": [len(a) for a in self.audio],
            }
        )

    def waveform(self, row) -> np.ndarray:
        return self.audio[row.row]


def test_shape_and_normalisation() -> None:
    extractor = LogMel(PARAMS, 8000)
    features = extractor(torch.randn(8000) * 0.1)
    assert features.shape == (extractor.num_frames(8000), 20) == (101, 20)
    torch.testing.assert_close(features.mean(dim=0), torch.zeros(20), atol=1e-4, rtol=0)
    assert features.std(dim=0).min() > 0.9


def test_normalising_the_level_keeps_the_shape_of_the_spectrum() -> None:
    time = torch.arange(8000) / 8000
    low = torch.sin(2 * torch.pi * 300 * time) + 0.01 * torch.randn(8000)
    features = LogMel(PARAMS.model_copy(update={"normalise": "level"}), 8000)(low)
    assert features.mean().abs() < 1e-4
    assert features[:, :5].mean() > features[:, -5:].mean() + 1


def test_running_features_are_those_of_the_frames_so_far() -> None:
    extractor = LogMel(PARAMS.model_copy(update={"normalise": "running"}), 8000)
    waveform = torch.randn(8000) * 0.1
    # Frame 50 is centred on sample 4000 and reads 100 more, half a window.
    torch.testing.assert_close(extractor(waveform[:4100])[:51], extractor(waveform)[:51])


@pytest.mark.parametrize("normalise", ["bands", "level", "running"])
def test_level_makes_no_difference(normalise) -> None:
    extractor = LogMel(PARAMS.model_copy(update={"normalise": normalise}), 8000)
    waveform = torch.randn(8000) * 0.1
    torch.testing.assert_close(extractor(waveform), extractor(0.5 * waveform), atol=0.02, rtol=0.02)


def test_a_recording_shorter_than_a_window_has_features() -> None:
    assert torch.isfinite(LogMel(PARAMS, 8000)(torch.randn(50))).all()


def test_packed_features_are_the_extractors_in_half_precision(tmp_path: Path) -> None:
    data = Prepared()
    packed = pack_features(data, data.rows, PARAMS, tmp_path)
    assert len(packed) == 2
    assert packed.num_frames.tolist() == [101, 51]
    expected = LogMel(PARAMS, 8000)(torch.from_numpy(data.audio[1])).numpy()
    np.testing.assert_allclose(packed[1], expected, atol=5e-3)


def test_packed_features_are_computed_once(tmp_path: Path) -> None:
    data = Prepared()
    pack_features(data, data.rows, PARAMS, tmp_path)
    data.waveform = None  # type: ignore[assignment]  # a second computation would need it
    assert len(pack_features(data, data.rows, PARAMS, tmp_path)) == 2
    assert len(list(tmp_path.glob("*.npy"))) == 1


def test_packing_holds_one_utterance_in_memory_and_leaves_nothing_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds, number = 5, 60
    waveform = np.random.default_rng(0).normal(0, 0.1, seconds * 8000).astype(np.float32)
    rows = pd.DataFrame({"row": range(number), "audio_key": [f"{n:064x}" for n in range(number)]})
    data = Prepared()
    monkeypatch.setattr(data, "waveform", lambda _: waveform)
    pack_features(data, rows[:1], PARAMS, tmp_path)  # what PyTorch needs once
    tracemalloc.start()
    packed = pack_features(data, rows, PARAMS, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = packed.values.size * 2
    assert size == number * 501 * 20 * 2  # 1.2 MB
    assert peak < size / 2
    assert np.array_equal(packed[0], packed[number - 1])

    def break_off(row) -> np.ndarray:
        if row.row == 3:
            raise OSError("No space left on device")
        return waveform

    monkeypatch.setattr(data, "waveform", break_off)
    before = sorted(tmp_path.glob("*.npy*"))
    with pytest.raises(OSError, match="No space"):
        pack_features(data, rows[::-1], PARAMS, tmp_path)
    assert sorted(tmp_path.glob("*.npy*")) == before


def test_a_packed_file_that_is_cut_short_or_holds_code_is_computed_again(tmp_path: Path) -> None:
    data, witness = Prepared(), tmp_path / "witness"
    pack_features(data, data.rows, PARAMS, tmp_path)
    (path,) = tmp_path.glob("features-*.npy")
    good, trap = path.read_bytes(), io.BytesIO()
    np.save(trap, np.array([Payload(witness)]), allow_pickle=True)
    for content in (b"", good[:-2], pickle.dumps(Payload(witness)), trap.getvalue()):
        path.write_bytes(content)
        pack_features(data, data.rows, PARAMS, tmp_path)
        assert path.read_bytes() == good
    assert not witness.exists()
    np.load(io.BytesIO(trap.getvalue()), allow_pickle=True)  # the attack is a real one
    assert witness.exists()


def test_other_settings_or_audio_are_packed_anew(tmp_path: Path) -> None:
    data = Prepared()
    pack_features(data, data.rows, PARAMS, tmp_path)
    pack_features(data, data.rows.iloc[:1], PARAMS, tmp_path)
    pack_features(data, data.rows, FeatureParams(num_mels=10), tmp_path)
    pack_features(data, copy_at(data.rows, 1.1, 8000), PARAMS, tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 4


def test_faster_speech_is_shorter(tmp_path: Path) -> None:
    data = Prepared()
    fast = pack_features(data, copy_at(data.rows, 1.25, 8000), PARAMS, tmp_path)
    assert fast.num_frames[0] == 6400 // 80 + 1


def test_gathering_and_padding_put_zeros_behind() -> None:
    items = [np.ones((2, 3), np.float16), np.ones((4, 3), np.float16)]
    batch, lengths = gather(items)
    assert batch.dtype == torch.float32
    assert lengths.tolist() == [2, 4]
    assert batch.sum().item() == 18
    padded, same = pad([torch.from_numpy(item).float() for item in items])
    assert torch.equal(padded, batch)
    assert torch.equal(same, lengths)
